//! Writes of one key such that no late copy of a write can undo a newer one.
//!
//! T7, T16 and T17 (fenced writes, shard writes, own keys) share this form: compare `m(key)` with the last
//! known revision, and `m(guard)` if another key gives the right to write; the else branch reads both. A
//! write whose answer is missing is sent again unchanged: one of the copies takes effect, never both, and
//! the key's content shows which one. After a delete a key looks the same as before a first put: see
//! [`marker`].

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

/// Delay between two attempts.
const RETRY_AFTER: Duration = Duration::from_millis(20);
/// Shortest timeout of an attempt, unless less time is left.
const ATTEMPT_LEAST: Duration = Duration::from_millis(500);

/// Write of one key.
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

    /// Whether the key that was found is as this write leaves it.
    fn left(&self, found: Option<&KeyValue>) -> bool {
        match (self, found) {
            (Self::Put { value, lease }, Some(kv)) => kv.value == *value && kv.lease == *lease,
            (Self::Delete, None) => true,
            (Self::Put { .. }, None) | (Self::Delete, Some(_)) => false,
        }
    }
}

/// Key, and the marker that keeps late first puts of the key from undoing a delete.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) key: &'a [u8],
    /// Marker of the incarnation; `None` if the key is never deleted.
    pub(crate) marker: Option<&'a Marker>,
}

/// Relation of an attempt to first puts that may arrive late.
#[derive(Debug)]
pub(crate) enum Late<'a> {
    Nothing,
    /// The attempt is a first put.
    First(FirstPut<'a>),
    /// The attempt is a delete after first puts whose outcome is open.
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
    /// Relation of an attempt that is about to be sent.
    pub(crate) fn late(self, known: Revision, write: &Write) -> Late<'a> {
        let Some(marker) = self.marker else { return Late::Nothing };
        match write {
            Write::Put { .. } if known == Revision(0) => Late::First(marker.first_put(self.key)),
            Write::Delete if marker.is_open(self.key) => Late::Settles(marker),
            Write::Put { .. } | Write::Delete => Late::Nothing,
        }
    }
}

/// Outcome of one attempt.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// The attempt took effect.
    Done {
        /// Revision of the write.
        revision: Revision,
        /// For a delete: whether the key existed.
        deleted: bool,
    },
    /// The attempt had no effect: the guard has another revision now.
    GuardLost,
    /// The attempt had no effect: the key has another revision now.
    Changed(Option<KeyValue>),
    /// The attempt had no effect: a delete has settled all first puts that were under way, including this
    /// one.
    Settled,
}

/// Reason why a write failed.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The guard has another revision (now). Nothing changed; a write that may have taken effect ends in
    /// [`Failed::Unknown`].
    GuardLost,
    /// The key has another revision, with [`Policy::Expect`] only. Nothing changed.
    Changed(Option<KeyValue>),
    /// The store rejected the write or was unreachable. Nothing changed.
    Store(StoreError),
    /// The write may or may not have taken effect.
    Unknown(StoreError),
}

/// Policy for a key whose revision is not the last known one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Write the key nevertheless, with a compare of the revision that was found.
    Overwrite,
    /// Leave the key and fail.
    Expect,
}

/// Compare of another key, beside the compare of the written key.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    pub(crate) key: Vec<u8>,
    pub(crate) modified: Revision,
    /// Gate of the office that the guard belongs to.
    office: Option<Arc<LeaderGate>>,
}

impl Guard {
    pub(crate) const fn new(key: Vec<u8>, modified: Revision) -> Self {
        Self { key, modified, office: None }
    }

    /// Guard of T7: the candidate key at the revision that TAKE wrote.
    pub(crate) fn of_office(keys: &Keys, gate: &Arc<LeaderGate>) -> Self {
        let office = gate.office();
        let key = keys.candidate(office.lease);
        Self { key, modified: office.revision, office: Some(Arc::clone(gate)) }
    }

    /// Notes that the store found another revision. T7: this ends an office permanently, and the driver is
    /// notified.
    pub(crate) fn note_refused(&self) {
        if let Some(gate) = &self.office {
            gate.refuse();
        }
    }
}

/// Compare `m(key) = revision` for a transaction.
pub(crate) fn modified_is(key: &[u8], revision: Revision) -> Compare {
    Compare { range: KeyRange::key(key), target: Target::Modified(revision), op: CompareOp::Equal }
}

/// Sends one attempt of a write.
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

/// Writes a key: repeats attempts until the outcome is known or `timeout` is over.
///
/// Calls `guard` before each attempt; `None` means that the right to write is over.
///
/// # Cancel safety
///
/// If the future is dropped, the outcome is unknown.
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
            // Repeat the same write: the revision of the marker is known now.
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

/// Timeout of one attempt: a third of `whole`, so that time is left to send the request to another member.
pub(crate) fn attempt_timeout(deadline: BootTime, whole: Duration) -> Duration {
    let left = deadline.since(clock::boot_now());
    left.min((whole / 3).max(ATTEMPT_LEAST)).max(Duration::from_millis(1))
}

/// Retries a read until an answer comes or `timeout` is over.
///
/// # Errors
///
/// The store's error for the last attempt.
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

/// Revisions of the keys of a single writer, as its own writes left them. A wrong revision costs one more
/// request.
#[derive(Debug)]
pub(crate) struct Known {
    revisions: Mutex<HashMap<Vec<u8>, Revision>>,
    pub(crate) marker: Marker,
}

/// With more keys than this the map is cleared: each key costs a second request at its next write.
const KNOWN_MOST: usize = 16_384;

impl Known {
    /// Empty map for a writer whose right to write belongs to that lease.
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

    /// Forgets a key that was deleted.
    pub(crate) fn forget(&self, key: &[u8]) {
        self.revisions.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests;
