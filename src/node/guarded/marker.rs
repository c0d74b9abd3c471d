//! Marker key that keeps a late first put of a key from undoing a later delete.
//!
//! A put of a key that does not exist compares `m(key) = 0`, and this holds again after a delete: a copy of
//! the put whose answer is missing could take effect then. So a first put also compares a marker, and a
//! delete that follows first puts of its key with an open outcome moves the marker: afterwards none of
//! these puts takes effect. Each incarnation has one marker key, absent (zero) at first, on the
//! incarnation's lease, like the keys that it protects or the key that guards them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::modified_is;
use crate::{
    engine::{LeaseId, Revision},
    store::{Compare, Get, Op, keys::Keys},
};

/// With this many keys with open first puts, every delete moves the marker.
const OPEN_MOST: usize = 4096;

/// Marker of one incarnation, and the first puts that are not settled. See the module's docs.
#[derive(Debug)]
pub(crate) struct Marker {
    key: Vec<u8>,
    lease: LeaseId,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Last known m(marker). A wrong revision costs one more request.
    at: Revision,
    /// Number of first puts whose outcome is open, by their key and by the marker's revision that they
    /// compare.
    open: BTreeMap<(Vec<u8>, Revision), usize>,
}

impl Marker {
    pub(crate) fn new(keys: &Keys, lease: LeaseId) -> Self {
        Self { key: keys.settled(lease), lease, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a first put of a key that is about to be sent: its outcome is open from here on.
    pub(super) fn first_put<'a>(&'a self, key: &'a [u8]) -> FirstPut<'a> {
        let mut state = self.lock();
        let at = state.at;
        if state.open.len() < OPEN_MOST {
            *state.open.entry((key.to_vec(), at)).or_default() += 1;
        }
        FirstPut { marker: self, key, at }
    }

    /// Whether a first put of that key may still take effect.
    pub(super) fn is_open(&self, key: &[u8]) -> bool {
        let state = self.lock();
        let first = (key.to_vec(), Revision(i64::MIN));
        let next = state.open.range(first..).next();
        OPEN_MOST <= state.open.len() || next.is_some_and(|((of, _), _)| of == key)
    }

    /// Put that moves the marker.
    pub(crate) fn put(&self) -> Op {
        Op::Put { key: self.key.clone(), value: Vec::new(), lease: Some(self.lease) }
    }

    /// Notes that the marker was moved: a put that compares an earlier revision never takes effect.
    pub(crate) fn moved(&self, at: Revision) {
        let mut state = self.lock();
        state.at = at;
        state.open.retain(|(_, compared), _| at <= *compared);
    }
}

/// First put of a key. If dropped without an answer, its outcome stays open.
#[derive(Debug)]
pub(crate) struct FirstPut<'a> {
    marker: &'a Marker,
    key: &'a [u8],
    at: Revision,
}

impl FirstPut<'_> {
    pub(crate) fn compare(&self) -> Compare {
        modified_is(&self.marker.key, self.at)
    }

    pub(crate) fn get(&self) -> Op {
        Op::Get(Get::key(self.marker.key.as_slice()))
    }

    /// Notes that the put was not sent, or took effect, or never will.
    pub(crate) fn settled(&self) {
        let mut state = self.marker.lock();
        let open = (self.key.to_vec(), self.at);
        if let Some(count) = state.open.get_mut(&open) {
            *count -= 1;
            if *count == 0 {
                state.open.remove(&open);
            }
        }
    }

    /// Notes that the put was rejected and the marker found at this revision. Returns whether the put
    /// compared another one.
    pub(crate) fn refused(&self, found: Revision) -> bool {
        self.settled();
        self.marker.lock().at = found;
        found != self.at
    }
}
