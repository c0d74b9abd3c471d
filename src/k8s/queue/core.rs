//! The state machine of the queue: without a clock, a lock, or waiting tasks.
//!
//! Every function that depends on time takes it as an argument. A key is *idle* (only its failures are
//! remembered), *delayed*, *ready*, or *worked on*, and while it is worked on it may be added again.
//!
//! # Invariants
//!
//! - A key has one entry, and is handed out only when no worker holds it.
//! - An added key is handed out at or after its time, unless `retain` or `shut_down` drops it.
//! - The most urgent ready key goes first; keys of one priority go in the order in which they reached it.

mod asking;

use std::{collections::BTreeSet, time::Duration};

use hashbrown::HashTable;

use super::{
    Depth, Limits, Priority, ShutDown, Snapshot,
    lanes::Lanes,
    limits::Drawn,
    slots::{Again, At, Chain, Id, List, Slots, State, nanos},
    tally::Times,
};
use crate::engine::BootTime;

/// Tasks that must be woken after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    Nobody,
    /// Wakes a single worker of those that wait for a key.
    Worker,
    /// Wakes the keeper of the first due time, because that time has changed.
    Timer,
    /// Wakes all tasks: the queue will hand out no more keys.
    All,
}

/// A key that has been handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Handed<K> {
    pub(super) id: Id,
    pub(super) key: K,
    pub(super) priority: Priority,
    /// How long the key was ready.
    pub(super) waited: Duration,
}

/// Result of an attempt to take a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Take<K> {
    Key(Handed<K>),
    /// No key until this time, unless a key is added.
    Wait(Option<BootTime>),
    /// No key will be handed out any more.
    Over,
}

/// The state of a queue.
#[derive(Debug)]
pub(super) struct Core<K> {
    slots: Slots<K>,
    /// Hash and id of each key. With the stored hash, growing the table reads no entries.
    table: HashTable<(u32, Id)>,
    lanes: Lanes,
    /// Delayed keys: due time, order in which they were added, id.
    timers: BTreeSet<(At, u64, Id)>,
    /// The first due time in `timers`.
    first_due: Option<At>,
    timers_made: u64,
    /// Keys that workers hold, in the order in which the work began.
    working: List,
    working_count: u32,
    /// Sum of the times at which the current work began.
    started: u128,
    is_open: bool,
    end: Option<ShutDown>,
    limits: Limits,
    drawn: Drawn,
    /// The latest time that a caller has passed: callers read their clocks before they wait for the lock.
    now: At,
    adds: u64,
    retries: u64,
    queued: Times,
    worked: Times,
}

impl<K: Eq + Clone> Core<K> {
    pub(super) fn new(limits: Limits, is_open: bool) -> Self {
        Self {
            slots: Slots::new(),
            table: HashTable::new(),
            lanes: Lanes::new(),
            timers: BTreeSet::new(),
            first_due: None,
            timers_made: 0,
            working: List::EMPTY,
            working_count: 0,
            started: 0,
            is_open,
            end: None,
            limits,
            drawn: Drawn::default(),
            now: 0,
            adds: 0,
            retries: 0,
            queued: Times::default(),
            worked: Times::default(),
        }
    }

    /// Adds a key after a delay. A key that already waits keeps its one entry, with the earlier of the two
    /// times and the more urgent of the two priorities.
    pub(super) fn add(
        &mut self,
        now: BootTime,
        key: K,
        hash: u32,
        priority: Priority,
        delay: Duration,
    ) -> Wake {
        self.advance(now);
        if self.end.is_some() {
            return Wake::Nobody;
        }
        let id = self.entry(key, hash);
        self.ask(id, priority, delay)
    }

    /// As [`Self::add`], after the longer of the key's back-off and the bucket's wait. `draw` is any number
    /// from 0 to 1.
    pub(super) fn add_rate_limited(
        &mut self,
        now: BootTime,
        key: K,
        hash: u32,
        priority: Priority,
        draw: f64,
    ) -> Wake {
        self.advance(now);
        if self.end.is_some() {
            return Wake::Nobody;
        }
        let id = self.entry(key, hash);
        let delay = self.back_off(id, draw);
        let bucket = self.limits.bucket;
        let tokens = bucket.map_or(Duration::ZERO, |bucket| self.drawn.draw(bucket, self.now));
        self.ask(id, priority, delay.max(tokens))
    }

    /// Puts back a key that was handed out, after a back-off but without a token; then acts as
    /// [`Self::done`].
    pub(super) fn failed(
        &mut self,
        now: BootTime,
        handed: Id,
        priority: Priority,
        draw: f64,
    ) -> Wake {
        self.advance(now);
        if self.end.is_none() {
            let delay = self.back_off(handed, draw);
            self.ask(handed, priority, delay);
        }
        self.done(now, handed)
    }

    /// Resets the failures of a key.
    pub(super) fn forget(&mut self, key: &K, hash: u32) {
        if let Some(id) = self.find(key, hash) {
            self.slots[id].failures = 0;
            if self.slots[id].state == State::Idle {
                self.remove(id);
                self.give_back();
            }
        }
    }

    /// How often a key has failed since it was forgotten.
    pub(super) fn failures(&self, key: &K, hash: u32) -> u32 {
        self.find(key, hash).map_or(0, |id| u32::from(self.slots[id].failures))
    }

    /// Hands out the most urgent key that is ready.
    pub(super) fn take(&mut self, now: BootTime) -> Take<K> {
        self.advance(now);
        if self.is_over() {
            return Take::Over;
        }
        if !self.is_open {
            return Take::Wait(None);
        }
        let Some(id) = self.lanes.next() else {
            let until = self.first_due.map(|due| BootTime(Duration::from_nanos(due)));
            return Take::Wait(until);
        };
        self.lanes.withdraw(&mut self.slots, id);
        self.lanes.leave(&mut self.slots, id);
        let entry = &mut self.slots[id];
        let State::Ready { since } = entry.state else {
            unreachable!("a key that is offered is in the state {:?}", entry.state)
        };
        let waited = self.now.saturating_sub(since);
        entry.state = State::Working { started: self.now, again: Again::No };
        let (key, priority) = (entry.key().clone(), entry.priority.into());
        self.slots.append(&mut self.working, Chain::Order, id);
        self.working_count += 1;
        self.started += u128::from(self.now);
        self.queued.observe(waited);
        Take::Key(Handed { id, key, priority, waited: Duration::from_nanos(waited) })
    }

    /// Ends the work on a key that was handed out.
    pub(super) fn done(&mut self, now: BootTime, handed: Id) -> Wake {
        self.advance(now);
        let State::Working { started, again } = self.slots[handed].state else {
            unreachable!("a key that is handed out is in another state")
        };
        self.slots.detach(&mut self.working, Chain::Order, handed);
        self.working_count -= 1;
        self.started -= u128::from(started);
        self.worked.observe(self.now.saturating_sub(started));
        match again {
            Again::No => {
                self.rest(handed);
                if self.end.is_some() && self.is_over() { Wake::All } else { Wake::Nobody }
            }
            Again::Ready { since } => {
                self.slots[handed].state = State::Ready { since };
                self.lanes.offer(&mut self.slots, handed);
                self.wake(Wake::Worker)
            }
            Again::Delayed { due } if due <= self.now => self.make_ready(handed, self.now),
            Again::Delayed { due } => self.delay(handed, due),
        }
    }

    /// Opens or closes the gate. Returns which tasks to wake.
    pub(super) fn set_open(&mut self, is_open: bool) -> Wake {
        self.is_open = is_open;
        match (is_open, self.end) {
            (false, Some(_)) => Wake::All,
            (false, None) => Wake::Nobody,
            (true, _) => Wake::Worker,
        }
    }

    /// Stops accepting keys, and drops the delayed keys or all waiting keys.
    pub(super) fn shut_down(&mut self, how: ShutDown) -> Wake {
        let how = match self.end {
            Some(ShutDown::Drop) => ShutDown::Drop,
            _ => how,
        };
        self.end = Some(how);
        for id in 0..self.slots.places() {
            let Some(entry) = self.slots.get(id) else { continue };
            match (entry.state, how) {
                (
                    State::Ready { .. } | State::Working { again: Again::Ready { .. }, .. },
                    ShutDown::Drain,
                ) => {}
                _ => self.drop_one(id),
            }
        }
        self.give_back();
        Wake::All
    }

    /// Checks up to `most` entries from `from` on and drops the keys that `keep` rejects; returns where to
    /// continue. A key that a worker holds is not queued again.
    pub(super) fn retain(
        &mut self,
        from: Id,
        most: u32,
        keep: &mut impl FnMut(&K) -> bool,
    ) -> Option<Id> {
        let end = self.slots.places().min(from.saturating_add(most));
        for id in from..end {
            if self.slots.get(id).is_some_and(|entry| !keep(entry.key())) {
                self.drop_one(id);
            }
        }
        if end < self.slots.places() {
            return Some(end);
        }
        self.give_back();
        None
    }

    /// Number of keys that are ready, or will be ready when the work on them ends.
    pub(super) const fn waiting(&self) -> u32 {
        self.lanes.waiting()
    }

    /// Number of keys that workers hold.
    pub(super) const fn working(&self) -> u32 {
        self.working_count
    }

    /// Whether a call of [`Self::take`] would hand out a key.
    pub(super) fn has_ready(&self) -> bool {
        self.is_open && self.lanes.is_ready()
    }

    /// Whether the passage of time alone will make a key ready.
    pub(super) const fn has_timers(&self) -> bool {
        self.is_open && self.first_due.is_some()
    }

    /// Whether no key will be handed out any more.
    pub(super) const fn is_over(&self) -> bool {
        match self.end {
            None => false,
            Some(ShutDown::Drop) => true,
            Some(ShutDown::Drain) => !self.is_open || self.lanes.waiting() == 0,
        }
    }

    /// The state of the queue for its metrics.
    pub(super) fn snapshot(&mut self, now: BootTime) -> Snapshot {
        self.advance(now);
        let depths = self.lanes.depths(&self.slots).map(|(priority, waiting, since)| Depth {
            priority: priority.into(),
            waiting: waiting as usize,
            oldest: Duration::from_nanos(since.map_or(0, |since| self.now.saturating_sub(since))),
        });
        let longest = self.working.first().map(|id| match self.slots[id].state {
            State::Working { started, .. } => self.now.saturating_sub(started),
            state => unreachable!("a key that is worked on is in the state {state:?}"),
        });
        let all = u128::from(self.now) * u128::from(self.working_count);
        Snapshot {
            depths: depths.collect(),
            delayed: self.timers.len(),
            working: self.working_count as usize,
            unfinished: from_nanos(all.saturating_sub(self.started)),
            longest: Duration::from_nanos(longest.unwrap_or(0)),
            adds: self.adds,
            retries: self.retries,
            queued: self.queued.clone(),
            worked: self.worked.clone(),
        }
    }

    /// Makes the due keys ready, in the order of their due times.
    fn advance(&mut self, now: BootTime) {
        self.now = self.now.max(nanos(now.0));
        while let Some(due) = self.first_due.filter(|due| *due <= self.now) {
            let Some((_, _, id)) = self.timers.pop_first() else { break };
            self.first_due = self.timers.first().map(|(due, ..)| *due);
            self.make_ready(id, due);
        }
    }

    /// The entry of a key; creates a missing entry.
    fn entry(&mut self, key: K, hash: u32) -> Id {
        if let Some(id) = self.find(&key, hash) {
            return id;
        }
        let id = self.slots.insert(key, hash);
        self.table.insert_unique(spread(hash), (hash, id), |(hash, _)| spread(*hash));
        id
    }

    fn find(&self, key: &K, hash: u32) -> Option<Id> {
        let same = |(its, id): &(u32, Id)| *its == hash && self.slots[*id].key() == key;
        self.table.find(spread(hash), same).map(|(_, id)| *id)
    }

    /// Drops a key's entry with its failures. For a key that a worker holds, drops only the failures and the re-add.
    fn drop_one(&mut self, id: Id) {
        self.slots[id].failures = 0;
        match self.slots[id].state {
            State::Idle => {}
            State::Delayed { due, order } => {
                self.timers.remove(&(due, order, id));
                self.first_due = self.timers.first().map(|(due, ..)| *due);
            }
            State::Ready { .. } => {
                self.lanes.withdraw(&mut self.slots, id);
                self.lanes.leave(&mut self.slots, id);
            }
            State::Working { started, again } => {
                if let Again::Ready { .. } = again {
                    self.lanes.leave(&mut self.slots, id);
                }
                self.slots[id].state = State::Working { started, again: Again::No };
                return;
            }
        }
        self.remove(id);
    }

    /// Keeps the entry of a key that no caller has added again only if it has failures.
    fn rest(&mut self, id: Id) {
        if self.slots[id].failures == 0 || self.end.is_some() {
            self.remove(id);
            self.give_back();
        } else {
            self.slots[id].state = State::Idle;
        }
    }

    fn remove(&mut self, id: Id) {
        let hash = self.slots[id].hash;
        if let Ok(found) = self.table.find_entry(spread(hash), |(_, its)| *its == id) {
            found.remove();
        }
        self.slots.remove(id);
    }

    /// Returns the memory of an empty queue, except for a small rest.
    fn give_back(&mut self) {
        if self.slots.shrink_if_empty() {
            self.table = HashTable::new();
        }
    }
}

/// Spreads the hash over the 64 bits that the hash table uses.
const fn spread(hash: u32) -> u64 {
    (hash as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn from_nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
