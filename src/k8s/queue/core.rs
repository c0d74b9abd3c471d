//! The queue without its surroundings: no clock, no lock, nobody who waits.
//!
//! Time is an argument of everything that depends on it. A key is *idle* (only its failures are
//! remembered), *delayed*, *ready*, or *worked on*, and while it is worked on it may be asked for again.
//!
//! # Invariants
//!
//! - A key has one entry, and is handed out only when nobody works on it.
//! - Whatever is asked for is handed out at or after its time, or dropped because somebody said so.
//! - The most urgent ready key goes first; of one priority the one that came to it first.

use std::{collections::BTreeSet, time::Duration};

use hashbrown::HashTable;

use super::{
    Depth, Limits, Priority, ShutDown, Snapshot,
    lanes::Lanes,
    limits::Drawn,
    slots::{Again, At, Chain, Id, List, Slots, State},
    tally::Times,
};
use crate::engine::BootTime;

/// Who has something to do now that had not before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    Nobody,
    /// One of those that want a key.
    Worker,
    /// Whoever waits for the first time of a key: it is another one.
    Timer,
    /// Everybody: there will be nothing more.
    All,
}

/// A key that has been handed out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Handed<K> {
    pub(super) id: Id,
    pub(super) key: K,
    pub(super) priority: Priority,
    /// From becoming ready.
    pub(super) waited: Duration,
}

/// What there is to take.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Take<K> {
    Key(Handed<K>),
    /// Nothing until then, if nobody adds anything.
    Wait(Option<BootTime>),
    /// Nothing ever again.
    Over,
}

/// The state of a queue.
#[derive(Debug)]
pub(super) struct Core<K> {
    slots: Slots<K>,
    /// Hash and place of each key; the hash, so that growing looks at no entry.
    table: HashTable<(u32, Id)>,
    lanes: Lanes,
    /// Delayed keys: time, order of being added, place.
    timers: BTreeSet<(At, u64, Id)>,
    /// The first time in `timers`.
    first_due: Option<At>,
    timers_made: u64,
    /// Those that are worked on; the one that began first stands first.
    working: List,
    working_count: u32,
    /// When those that are worked on began, added up.
    started: u128,
    is_open: bool,
    end: Option<ShutDown>,
    limits: Limits,
    drawn: Drawn,
    /// The latest time it was told: callers read their clocks before they wait for their turn.
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

    /// Asks for a key after a delay. A key that is asked for already keeps its one entry: the earlier of
    /// the two times and the more urgent of the two priorities count.
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

    /// As [`Self::add`], after the wait that its failures and the bucket ask for. `draw` is any number
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

    /// Puts back what has been handed out, after a back-off but without a token; then as
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

    /// Forgets a key's failures.
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

    /// The work on what has been handed out has ended.
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

    /// Lets keys be handed out, or not. Says who is to be woken.
    pub(super) fn set_open(&mut self, is_open: bool) -> Wake {
        self.is_open = is_open;
        match (is_open, self.end) {
            (false, Some(_)) => Wake::All,
            (false, None) => Wake::Nobody,
            (true, _) => Wake::Worker,
        }
    }

    /// Accepts nothing more, and drops what is delayed, or everything that waits.
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

    /// Drops those of up to `most` places from `from` on whose key `keep` refuses; where to go on.
    /// One that is worked on is not asked for again.
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

    /// How many keys are ready, or will be when the work on them ends.
    pub(super) const fn waiting(&self) -> u32 {
        self.lanes.waiting()
    }

    /// How many are worked on.
    pub(super) const fn working(&self) -> u32 {
        self.working_count
    }

    /// Whether a call of [`Self::take`] would hand out a key.
    pub(super) fn has_ready(&self) -> bool {
        self.is_open && self.lanes.is_ready()
    }

    /// Whether time alone will make it hand out one.
    pub(super) const fn has_timers(&self) -> bool {
        self.is_open && self.first_due.is_some()
    }

    /// Whether nothing will be handed out any more, whatever happens.
    pub(super) const fn is_over(&self) -> bool {
        match self.end {
            None => false,
            Some(ShutDown::Drop) => true,
            Some(ShutDown::Drain) => !self.is_open || self.lanes.waiting() == 0,
        }
    }

    /// What it shows of itself.
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

    /// Makes ready whose time has come, so that the order of being ready is that of the times.
    fn advance(&mut self, now: BootTime) {
        self.now = self.now.max(nanos(now.0));
        while let Some(due) = self.first_due.filter(|due| *due <= self.now) {
            let Some((_, _, id)) = self.timers.pop_first() else { break };
            self.first_due = self.timers.first().map(|(due, ..)| *due);
            self.make_ready(id, due);
        }
    }

    /// The entry of a key, which is made if there is none.
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

    /// The wait of a key that has failed once more.
    fn back_off(&mut self, id: Id, draw: f64) -> Duration {
        self.retries += 1;
        let failures = &mut self.slots[id].failures;
        let wait = self.limits.backoff.wait(u32::from(*failures), draw);
        *failures = failures.saturating_add(1);
        wait
    }

    fn ask(&mut self, id: Id, priority: Priority, delay: Duration) -> Wake {
        let due = self.now.saturating_add(nanos(delay));
        let at_once = due <= self.now;
        let number = priority.number();
        let entry = &mut self.slots[id];
        let raised = entry.priority < number;
        match entry.state {
            State::Idle => {
                entry.priority = number;
                if at_once { self.make_ready(id, self.now) } else { self.delay(id, due) }
            }
            State::Delayed { due: before, order } => {
                entry.priority = entry.priority.max(number);
                if before <= due {
                    return Wake::Nobody;
                }
                self.timers.remove(&(before, order, id));
                self.first_due = self.timers.first().map(|(due, ..)| *due);
                if at_once { self.make_ready(id, self.now) } else { self.delay(id, due) }
            }
            State::Ready { .. } => {
                if raised {
                    self.lanes.withdraw(&mut self.slots, id);
                    self.lanes.leave(&mut self.slots, id);
                    self.slots[id].priority = number;
                    self.slots[id].state = State::Ready { since: self.now };
                    self.lanes.enter(&mut self.slots, id);
                    self.lanes.offer(&mut self.slots, id);
                }
                Wake::Nobody
            }
            State::Working { started, again } => {
                self.ask_again(id, started, again, number, due);
                Wake::Nobody
            }
        }
    }

    /// Notes that a key is asked for while it is worked on.
    fn ask_again(&mut self, id: Id, started: At, again: Again, number: i8, due: At) {
        let at_once = due <= self.now;
        let entry = &mut self.slots[id];
        let before = entry.priority;
        let priority = if again == Again::No { number } else { before.max(number) };
        let next = match again {
            Again::Ready { .. } if priority == before => return,
            Again::Ready { .. } => {
                self.lanes.leave(&mut self.slots, id);
                Again::Ready { since: self.now }
            }
            Again::No | Again::Delayed { .. } if at_once => {
                self.adds += 1;
                Again::Ready { since: self.now }
            }
            Again::Delayed { due: before } => Again::Delayed { due: due.min(before) },
            Again::No => Again::Delayed { due },
        };
        let entry = &mut self.slots[id];
        entry.priority = priority;
        entry.state = State::Working { started, again: next };
        if let Again::Ready { .. } = next {
            self.lanes.enter(&mut self.slots, id);
        }
    }

    fn make_ready(&mut self, id: Id, since: At) -> Wake {
        self.slots[id].state = State::Ready { since };
        self.lanes.enter(&mut self.slots, id);
        self.lanes.offer(&mut self.slots, id);
        self.adds += 1;
        self.wake(Wake::Worker)
    }

    fn delay(&mut self, id: Id, due: At) -> Wake {
        let order = self.timers_made;
        self.timers_made += 1;
        self.slots[id].state = State::Delayed { due, order };
        self.timers.insert((due, order, id));
        if self.first_due.is_some_and(|first| first <= due) {
            return Wake::Nobody;
        }
        self.first_due = Some(due);
        self.wake(Wake::Timer)
    }

    /// Nobody has anything to do behind a closed gate.
    const fn wake(&self, wake: Wake) -> Wake {
        if self.is_open { wake } else { Wake::Nobody }
    }

    /// Drops what a key is asked for, and its failures.
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

    /// Nobody asks for it any more. It is remembered only for its failures.
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

    /// An empty queue keeps no more than a little memory.
    fn give_back(&mut self) {
        if self.slots.shrink_if_empty() {
            self.table = HashTable::new();
        }
    }
}

/// A table wants all 64 bits to be of use.
const fn spread(hash: u32) -> u64 {
    (hash as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn from_nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
