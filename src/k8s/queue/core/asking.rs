//! Effects of adding a key, in each state that the key may have.

use std::time::Duration;

use super::{
    super::{
        Priority,
        slots::{Again, At, Id, State},
    },
    Core, Wake, nanos,
};

impl<K: Eq + Clone> Core<K> {
    /// Counts a failure of the key, and returns its back-off.
    pub(super) fn back_off(&mut self, id: Id, draw: f64) -> Duration {
        self.retries += 1;
        let failures = &mut self.slots[id].failures;
        let wait = self.limits.backoff.wait(u32::from(*failures), draw);
        *failures = failures.saturating_add(1);
        wait
    }

    pub(super) fn ask(&mut self, id: Id, priority: Priority, delay: Duration) -> Wake {
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

    /// Notes that a key was added again while a worker holds it.
    fn ask_again(&mut self, id: Id, started: At, again: Again, number: i8, due: At) {
        let due = match again {
            Again::Delayed { due: before } => due.min(before),
            Again::No | Again::Ready { .. } => due,
        };
        let at_once = due <= self.now;
        let before = self.slots[id].priority;
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
            Again::No | Again::Delayed { .. } => Again::Delayed { due },
        };
        let entry = &mut self.slots[id];
        entry.priority = priority;
        entry.state = State::Working { started, again: next };
        if let Again::Ready { .. } = next {
            self.lanes.enter(&mut self.slots, id);
        }
    }

    pub(super) fn make_ready(&mut self, id: Id, since: At) -> Wake {
        self.slots[id].state = State::Ready { since };
        self.lanes.enter(&mut self.slots, id);
        self.lanes.offer(&mut self.slots, id);
        self.adds += 1;
        self.wake(Wake::Worker)
    }

    pub(super) fn delay(&mut self, id: Id, due: At) -> Wake {
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

    /// Replaces a wake-up with `Wake::Nobody` while the gate is closed.
    pub(super) const fn wake(&self, wake: Wake) -> Wake {
        if self.is_open { wake } else { Wake::Nobody }
    }
}
