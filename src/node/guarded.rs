//! One key, written so that no late copy of the write can undo a newer one.
//!
//! T7, T16 and T17 share this form: compare `m(key)` as last known, and `m(guard)` if the right to
//! write hangs on another key; the else branch gets both. A write whose answer is missing is sent
//! again as it was: either copy takes effect, never both, and what is found tells which did. What a
//! delete leaves behind is the same as what was before a first put: see [`marker`].

mod marker;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::sleep;

pub(crate) use self::marker::{FirstPut, Marker};
use super::gate::LeaderGate;
use crate::{
    clock,
    engine::{BootTime, LeaseId, Revision},
    store::{
        Compare, CompareOp, Effected, Get, KeyRange, KeyValue, Op, Store, StoreError, Target, Txn,
        keys::Keys,
    },
};

/// Between attempts.
const RETRY_AFTER: Duration = Duration::from_millis(20);
/// An attempt gets at least this long, or what is left.
const ATTEMPT_LEAST: Duration = Duration::from_millis(500);

/// What is to become of the key.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    Put { value: Vec<u8>, lease: Option<LeaseId> },
    Delete,
}

impl Write {
    pub(crate) fn op(&self, key: &[u8]) -> Op {
        match self {
            Self::Put { value, lease } => {
                Op::Put { key: key.to_vec(), value: value.clone(), lease: *lease }
            }
            Self::Delete => Op::Delete(KeyRange::key(key)),
        }
    }

    /// Whether what was found is what this write leaves behind.
    fn left(&self, found: Option<&KeyValue>) -> bool {
        match (self, found) {
            (Self::Put { value, lease }, Some(kv)) => kv.value == *value && kv.lease == *lease,
            (Self::Delete, None) => true,
            (Self::Put { .. }, None) | (Self::Delete, Some(_)) => false,
        }
    }
}

/// A key, and what keeps late first puts of it from undoing a delete.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) key: &'a [u8],
    /// `None`: the key is never deleted.
    pub(crate) marker: Option<&'a Marker>,
}

/// What an attempt has to do with first puts that may come late.
#[derive(Debug)]
pub(crate) enum Late<'a> {
    Nothing,
    /// It is one.
    First(FirstPut<'a>),
    /// It comes after some.
    Settles(&'a Marker),
}

impl<'a> Late<'a> {
    pub(crate) fn first(&self) -> Option<&FirstPut<'a>> {
        if let Self::First(put) = self { Some(put) } else { None }
    }

    pub(crate) fn settles(&self) -> Option<&'a Marker> {
        if let Self::Settles(marker) = self { Some(marker) } else { None }
    }
}

impl<'a> Place<'a> {
    /// For an attempt that is about to be sent.
    pub(crate) fn late(self, known: Revision, write: &Write) -> Late<'a> {
        let Some(marker) = self.marker else { return Late::Nothing };
        match write {
            Write::Put { .. } if known == Revision(0) => Late::First(marker.first_put(self.key)),
            Write::Delete if marker.is_open(self.key) => Late::Settles(marker),
            Write::Put { .. } | Write::Delete => Late::Nothing,
        }
    }
}

/// What one attempt did.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// It took effect.
    Done {
        /// The revision of the write.
        revision: Revision,
        /// For a delete: whether there was something.
        deleted: bool,
    },
    /// It took none: the guard is another now.
    GuardLost,
    /// It took none: the key is another now.
    Changed(Option<KeyValue>),
    /// It took none: a delete has settled all first puts that were under way, this one too.
    Settled,
}

/// How a write ended that was not refused by the key itself.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The guard does not hold (any more). Nothing changed, unless `uncertain`.
    GuardLost,
    /// Only for [`Policy::Expect`]. Nothing changed.
    Changed(Option<KeyValue>),
    /// Nothing changed.
    Store(StoreError),
    /// It may or may not have taken effect.
    Unknown(StoreError),
}

/// What to do about a key that is not as it was last known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Write it all the same, from what was found.
    Overwrite,
    /// Leave it and say so.
    Expect,
}

/// The condition beside the key's own.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    pub(crate) key: Vec<u8>,
    pub(crate) modified: Revision,
    /// Whose office it stands for.
    office: Option<Arc<LeaderGate>>,
}

impl Guard {
    pub(crate) const fn new(key: Vec<u8>, modified: Revision) -> Self {
        Self { key, modified, office: None }
    }

    /// T7: the candidate key as TAKE left it.
    pub(crate) fn of_office(keys: &Keys, gate: &Arc<LeaderGate>) -> Self {
        let office = gate.office();
        let key = keys.candidate(office.lease);
        Self { key, modified: office.revision, office: Some(Arc::clone(gate)) }
    }

    /// The store says that it is another now. T7: that ends an office for good, and the driver hears it.
    pub(crate) fn note_refused(&self) {
        if let Some(gate) = &self.office {
            gate.refuse();
        }
    }
}

/// `m(key) = revision`.
pub(crate) fn modified_is(key: &[u8], revision: Revision) -> Compare {
    Compare { range: KeyRange::key(key), target: Target::Modified(revision), op: CompareOp::Equal }
}

/// Sends one attempt.
pub(crate) async fn attempt(
    store: &dyn Store,
    guard: Option<&Guard>,
    key: &[u8],
    known: Revision,
    write: &Write,
    late: Late<'_>,
    timeout: Duration,
) -> Result<Attempt, StoreError> {
    let mut compares = vec![modified_is(key, known)];
    let mut otherwise = vec![Op::Get(Get::key(key))];
    if let Some(guard) = guard {
        compares.push(modified_is(&guard.key, guard.modified));
        otherwise.push(Op::Get(Get::key(guard.key.as_slice())));
    }
    let mut then = vec![write.op(key)];
    match &late {
        Late::Nothing => (),
        Late::First(put) => {
            compares.push(put.compare());
            otherwise.push(put.get());
        }
        Late::Settles(marker) => then.push(marker.put()),
    }
    let answer = store.txn(Txn { compares, then, otherwise }, timeout).await;
    let answer = answer.inspect_err(|error| {
        if let (Late::First(put), Effected::No) = (&late, error.effected()) {
            put.settled();
        }
    })?;
    if answer.succeeded {
        match late {
            Late::Nothing => (),
            Late::First(put) => put.settled(),
            Late::Settles(marker) => marker.moved(answer.revision),
        }
        let deleted = answer.deleted.first().is_some_and(|count| 0 < *count);
        return Ok(Attempt::Done { revision: answer.revision, deleted });
    }
    let mut reads = answer.reads.into_iter();
    let found = reads.next().unwrap_or_default().into_iter().next();
    let mut modified = || {
        let read = reads.next().unwrap_or_default();
        read.first().map_or(Revision(0), |kv| kv.modified)
    };
    let guard_lost = guard.is_some_and(|guard| modified() != guard.modified);
    let settled = matches!(&late, Late::First(put) if put.refused(modified()));
    if let Some(guard) = guard.filter(|_| guard_lost) {
        guard.note_refused();
    }
    Ok(match found {
        _ if guard_lost => Attempt::GuardLost,
        None if settled => Attempt::Settled,
        found => Attempt::Changed(found),
    })
}

/// One write until it is known what became of it, or `timeout` is over.
///
/// `guard` is asked before each attempt: `None` = the right to write is over.
///
/// # Cancel safety
///
/// Dropped, the outcome is unknown.
pub(crate) async fn write(
    store: &dyn Store,
    mut guard: impl FnMut() -> Option<Option<Guard>>,
    place: Place<'_>,
    known: Revision,
    write: &Write,
    policy: Policy,
    timeout: Duration,
) -> Result<(Revision, bool), Failed> {
    let deadline = clock::boot_now() + timeout;
    let mut known = known;
    let mut uncertain: Option<StoreError> = None;
    loop {
        let Some(guard) = guard() else {
            return Err(uncertain.map_or(Failed::GuardLost, Failed::Unknown));
        };
        let wait = attempt_timeout(deadline, timeout);
        let late = place.late(known, write);
        match attempt(store, guard.as_ref(), place.key, known, write, late, wait).await {
            // As it was, but for the marker, which is known now.
            Ok(Attempt::Settled) => (),
            Ok(Attempt::Done { revision, deleted }) => return Ok((revision, deleted)),
            Ok(Attempt::GuardLost) => {
                return Err(uncertain.map_or(Failed::GuardLost, Failed::Unknown));
            }
            Ok(Attempt::Changed(found)) => {
                if uncertain.is_some() && write.left(found.as_ref()) {
                    return Ok((found.map_or(known, |kv| kv.modified), true));
                }
                match policy {
                    Policy::Overwrite => known = found.map_or(Revision(0), |kv| kv.modified),
                    Policy::Expect => {
                        return Err(match uncertain {
                            // An earlier copy may have taken effect and been overwritten since.
                            Some(error) => Failed::Unknown(error),
                            None => Failed::Changed(found),
                        });
                    }
                }
            }
            Err(error) => {
                let again = error.is_transient() && clock::boot_now() + RETRY_AFTER < deadline;
                if error.effected() == Effected::Unknown {
                    uncertain = Some(error);
                    if !again {
                        return Err(Failed::Unknown(uncertain.take().expect("just set")));
                    }
                } else if !again {
                    return Err(match uncertain {
                        Some(earlier) => Failed::Unknown(earlier),
                        None => Failed::Store(error),
                    });
                }
                sleep(RETRY_AFTER).await;
            }
        }
    }
}

/// How long one attempt may take: a third of the whole, so that another member can still be asked.
pub(crate) fn attempt_timeout(deadline: BootTime, whole: Duration) -> Duration {
    let left = deadline.since(clock::boot_now());
    left.min((whole / 3).max(ATTEMPT_LEAST)).max(Duration::from_millis(1))
}

/// Reads until an answer comes or `timeout` is over.
///
/// # Errors
///
/// What the store last said.
pub(crate) async fn read<T, F, Fut>(timeout: Duration, mut ask: F) -> Result<T, StoreError>
where
    F: FnMut(Duration) -> Fut,
    Fut: Future<Output = Result<T, StoreError>>,
{
    let deadline = clock::boot_now() + timeout;
    loop {
        match ask(attempt_timeout(deadline, timeout)).await {
            Err(error) if error.is_transient() && clock::boot_now() + RETRY_AFTER < deadline => {
                sleep(RETRY_AFTER).await;
            }
            answer => return answer,
        }
    }
}

/// What a single writer knows of its keys: the revisions at which it last left them. A wrong one costs
/// one more request.
#[derive(Debug)]
pub(crate) struct Known {
    revisions: Mutex<HashMap<Vec<u8>, Revision>>,
    pub(crate) marker: Marker,
}

/// More keys than this are forgotten: each costs a second request at its next write.
const KNOWN_MOST: usize = 16_384;

impl Known {
    /// Nothing yet, of a writer whose right to write hangs on that lease.
    pub(crate) fn new(keys: &Keys, lease: LeaseId) -> Self {
        Self { revisions: Mutex::default(), marker: Marker::new(keys, lease) }
    }

    pub(crate) fn of(&self, key: &[u8]) -> Revision {
        let map = self.revisions.lock().unwrap_or_else(PoisonError::into_inner);
        map.get(key).copied().unwrap_or_default()
    }

    pub(crate) fn learn(&self, key: &[u8], revision: Revision) {
        let mut map = self.revisions.lock().unwrap_or_else(PoisonError::into_inner);
        if KNOWN_MOST <= map.len() && !map.contains_key(key) {
            map.clear();
        }
        let known = map.entry(key.to_vec()).or_default();
        *known = revision.max(*known);
    }

    /// The key is gone.
    pub(crate) fn forget(&self, key: &[u8]) {
        self.revisions.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests;
