//! T17 (own keys): the order of the calls about one node's own state, and the keys that a new session must
//! put back.
//!
//! Pure: this module sends nothing. The caller asks whether a call has its turn, writes, and notes the
//! outcome.
//!
//! # Invariants
//!
//! - Calls for one key take turns in the order in which they were made, so the store's order is the calls'
//!   order. A put by a new session takes its turn too.
//! - The last call that took effect, or may have taken effect, decides the wanted value of a key. The
//!   revision of an answer and the moment of its arrival do not count: a store that was restored from a
//!   backup answers with smaller revisions.
//! - A value that was written under an earlier lease is put again under the present lease, also if the answer
//!   of the earlier write comes only now.
//! - Calls that were made before the node left, and their answers, no longer count.

use std::collections::{BTreeMap, VecDeque};

use super::{LeaseId, Revision, mutant::Mutant};

/// Own state of one node, by the user's keys.
#[derive(Debug, Default)]
pub struct OwnCalls {
    /// Number of times that the node has left.
    life: u64,
    /// Number of the last call.
    number: u64,
    /// Lease of the present session, under which the keys must be written.
    session: Option<LeaseId>,
    keys: BTreeMap<String, KeyState>,
    mutant: Option<Mutant>,
}

#[derive(Debug, Default)]
struct KeyState {
    /// Calls that have not ended, in the order in which they were made. The first call has the turn.
    calls: VecDeque<u64>,
    /// Value after the last call that took effect or may have; `None` = deleted, or never put.
    wanted: Option<Vec<u8>>,
    /// Lease under which the store has the wanted value. After a put with an unknown outcome: lease of the
    /// value before, if there was one.
    kept: Option<LeaseId>,
    /// `m(key)` under that lease, as last known; zero = absent, or not known.
    modified: Revision,
}

/// Write that a call makes to its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnWrite {
    /// The user puts a value.
    Put(Vec<u8>),
    /// The user deletes the key.
    Delete,
    /// A new session puts the value of an earlier session again.
    PutBack(Vec<u8>),
}

/// Call about one key, from when it is made until it [ends](OwnCalls::end).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnCall {
    life: u64,
    /// Number of the call, which grows from call to call.
    pub number: u64,
    /// Name of the key, as the user gave it.
    pub key: String,
    /// Write that the call makes.
    pub write: OwnWrite,
}

/// Whether a call may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The call is the first one that has not ended.
    Has,
    /// Another call for the same key is under way.
    Waits,
    /// The node has left since the call was made: the call must not write any more.
    Over,
}

/// Known effect of a write. A write that certainly took no effect is not passed to [`OwnCalls::note`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnEffect {
    /// The write took effect under that lease, at that revision.
    Took {
        /// Lease of the session that sent the write.
        lease: LeaseId,
        /// Revision that the store answered, or that the key was found at.
        revision: Revision,
    },
    /// The write may have taken effect under that lease, or may still do so.
    Unknown {
        /// Lease of the session that sent the write.
        lease: LeaseId,
    },
}

/// Next step of a call after its effect was noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The call is done.
    Done,
    /// The session has changed since the write was sent: the call must write again, under this lease.
    Again(LeaseId),
}

/// Work that remains after the end of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Number of the call that has the turn now.
    pub next: Option<u64>,
    /// Whether the key must be put again in the present session.
    pub missing: bool,
}

impl OwnCalls {
    /// Own state of a node that leaves out that rule.
    #[cfg(feature = "mutants")]
    pub fn with_mutant(mutant: Option<Mutant>) -> Self {
        Self { mutant, ..Self::default() }
    }

    fn breaks(&self, mutant: Mutant) -> bool {
        cfg!(feature = "mutants") && self.mutant == Some(mutant)
    }

    /// Notes that the node has joined under that lease. Must be called before any write under it.
    pub fn joined(&mut self, lease: LeaseId) {
        self.session = Some(lease);
    }

    /// Notes that the node has left: its state is gone.
    pub fn left(&mut self) {
        self.life += 1;
        self.session = None;
        self.keys.clear();
    }

    /// Adds a call, after all calls that were made before.
    pub fn call(&mut self, key: &str, write: OwnWrite) -> OwnCall {
        self.number += 1;
        let call = OwnCall { life: self.life, number: self.number, key: key.to_owned(), write };
        self.keys.entry(key.to_owned()).or_default().calls.push_back(call.number);
        call
    }

    /// Whether a call may write now. The caller asks before each write, after it has read the session.
    pub fn turn(&self, call: &OwnCall) -> Turn {
        if call.life != self.life {
            return Turn::Over;
        }
        let first = self.keys.get(&call.key).and_then(|key| key.calls.front());
        if first == Some(&call.number) || self.breaks(Mutant::OwnCallsWithoutTurns) {
            Turn::Has
        } else {
            Turn::Waits
        }
    }

    /// `m(key)` under that lease, or zero if it is not known.
    pub fn known(&self, key: &str, lease: LeaseId) -> Revision {
        match self.keys.get(key) {
            Some(key) if key.kept == Some(lease) => key.modified,
            _ => Revision(0),
        }
    }

    /// Whether the key is wanted and not yet put under that lease.
    pub fn is_missing(&self, key: &str, lease: LeaseId) -> bool {
        self.keys.get(key).is_some_and(|key| key.is_missing(lease))
    }

    /// Notes the effect of a call's write, and returns the next step of the call.
    pub fn note(&mut self, call: &OwnCall, effect: OwnEffect) -> Next {
        if call.life != self.life && !self.breaks(Mutant::OwnAnswerAfterLeaving) {
            return Next::Done;
        }
        let by_revision = self.breaks(Mutant::OwnAnswersByRevision);
        let forgets_unknown = self.breaks(Mutant::OwnUnknownForgotten);
        let trusts_late_answer = self.breaks(Mutant::OwnAnswerOfLostSession);
        let session = self.session;
        let key = self.keys.entry(call.key.clone()).or_default();
        match (effect, &call.write) {
            (OwnEffect::Took { revision, .. }, OwnWrite::Put(_))
                if by_revision && revision < key.modified =>
            {
                Next::Done
            }
            (
                OwnEffect::Took { lease, revision },
                OwnWrite::Put(value) | OwnWrite::PutBack(value),
            ) => {
                if matches!(call.write, OwnWrite::Put(_)) {
                    key.wanted = Some(value.clone());
                }
                key.kept = Some(lease);
                key.modified = revision;
                match session {
                    Some(_) if trusts_late_answer => {
                        key.kept = session;
                        Next::Done
                    }
                    Some(session) if session != lease => Next::Again(session),
                    _ => Next::Done,
                }
            }
            (OwnEffect::Unknown { .. }, _) if forgets_unknown => Next::Done,
            (_, OwnWrite::Delete) => {
                key.is_gone();
                Next::Done
            }
            // Other nodes may have read the new value, so the value before it must never come back.
            (OwnEffect::Unknown { lease }, OwnWrite::Put(value)) => {
                if key.wanted.is_none() {
                    // The key was absent before, so this session accepts both states and does not put the key
                    // again.
                    key.kept = Some(lease);
                    key.modified = Revision(0);
                }
                key.wanted = Some(value.clone());
                Next::Done
            }
            (OwnEffect::Unknown { .. }, OwnWrite::PutBack(_)) => Next::Done,
        }
    }

    /// Ends a call, or removes a call that its caller no longer waits for.
    pub fn end(&mut self, call: &OwnCall) -> Ended {
        if call.life != self.life {
            return Ended::default();
        }
        let session = self.session;
        let Some(key) = self.keys.get_mut(&call.key) else { return Ended::default() };
        key.calls.retain(|number| *number != call.number);
        let next = key.calls.front().copied();
        let missing = session.is_some_and(|lease| next.is_none() && key.is_missing(lease));
        if next.is_none() && key.wanted.is_none() {
            self.keys.remove(&call.key);
        }
        Ended { next, missing }
    }

    /// Keys to put again under that lease that have no call under way.
    pub fn missing(&self, lease: LeaseId) -> Vec<String> {
        let missing = self.keys.iter().filter(|(_, key)| self.may_put_back(key, lease));
        missing.map(|(name, _)| name.clone()).collect()
    }

    fn may_put_back(&self, key: &KeyState, lease: LeaseId) -> bool {
        let has_turn = key.calls.is_empty() || self.breaks(Mutant::PutBackWithoutTurn);
        has_turn && key.is_missing(lease)
    }

    /// Whether no call is under way and no key must be put again in the present session.
    pub fn is_settled(&self) -> bool {
        let missing = |key: &KeyState| self.session.is_some_and(|lease| key.is_missing(lease));
        self.keys.values().all(|key| key.calls.is_empty() && !missing(key))
    }

    /// Call that puts a key again, if the key is still [missing](Self::missing). The call has the turn at
    /// once.
    pub fn put_back(&mut self, key: &str, lease: LeaseId) -> Option<OwnCall> {
        let missing = self.keys.get(key).filter(|key| self.may_put_back(key, lease))?;
        let value = missing.wanted.clone()?;
        Some(self.call(key, OwnWrite::PutBack(value)))
    }
}

impl KeyState {
    fn is_missing(&self, lease: LeaseId) -> bool {
        self.wanted.is_some() && self.kept != Some(lease)
    }

    fn is_gone(&mut self) {
        self.wanted = None;
        self.kept = None;
        self.modified = Revision(0);
    }
}

#[cfg(test)]
mod tests;
