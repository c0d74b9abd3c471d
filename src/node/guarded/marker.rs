//! What keeps a late first put of a key from undoing a delete that came after it.
//!
//! A put of a key that is not there compares `m(key) = 0`, and that holds again after a delete: a copy
//! whose answer is missing could take effect then. So a first put compares a marker, too, and a delete
//! that follows first puts of its key whose fate is open moves the marker: after it, none of them takes
//! effect. It is one key per incarnation, absent (zero) at first; it hangs on the incarnation's lease,
//! as what it guards does or is guarded by.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::modified_is;
use crate::{
    engine::{LeaseId, Revision},
    store::{Compare, Get, Op, keys::Keys},
};

/// With so many keys whose first puts are open, every delete moves the marker.
const OPEN_MOST: usize = 4096;

/// The marker of one incarnation, and what of it is to be settled. See the module's docs.
#[derive(Debug)]
pub(crate) struct Marker {
    key: Vec<u8>,
    lease: LeaseId,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// m(marker) as last known. A wrong one costs one more request.
    at: Revision,
    /// First puts whose fate is open: which key and which revision of the marker they compare, how many.
    open: BTreeMap<(Vec<u8>, Revision), usize>,
}

impl Marker {
    pub(crate) fn new(keys: &Keys, lease: LeaseId) -> Self {
        Self { key: keys.settled(lease), lease, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A first put of a key is about to be sent: its fate is open from here on.
    pub(super) fn first_put<'a>(&'a self, key: &'a [u8]) -> FirstPut<'a> {
        let mut state = self.lock();
        let at = state.at;
        if state.open.len() < OPEN_MOST {
            *state.open.entry((key.to_vec(), at)).or_default() += 1;
        }
        FirstPut { marker: self, key, at }
    }

    /// Whether a first put of that key may take effect yet.
    pub(super) fn is_open(&self, key: &[u8]) -> bool {
        let state = self.lock();
        let first = (key.to_vec(), Revision(i64::MIN));
        let next = state.open.range(first..).next();
        OPEN_MOST <= state.open.len() || next.is_some_and(|((of, _), _)| of == key)
    }

    /// What moves it.
    pub(crate) fn put(&self) -> Op {
        Op::Put { key: self.key.clone(), value: Vec::new(), lease: Some(self.lease) }
    }

    /// It was moved: what compares an earlier one never takes effect.
    pub(crate) fn moved(&self, at: Revision) {
        let mut state = self.lock();
        state.at = at;
        state.open.retain(|(_, compared), _| at <= *compared);
    }
}

/// A first put of a key. Dropped without an answer, its fate stays open.
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

    /// It was not sent, or took effect, or never will.
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

    /// It was refused, and the marker was found at this revision: whether that is another.
    pub(crate) fn refused(&self, found: Revision) -> bool {
        self.settled();
        self.marker.lock().at = found;
        found != self.at
    }
}
