//! When a check is due.
//!
//! Time is cut into slots of one interval, shifted by a phase that comes from the check alone, so that
//! every node cuts alike and the checks of a cluster do not all run at once. A slot is named by the time
//! at which it begins, in milliseconds of Unix time. A check is run once in each slot; what was claimed
//! last is handed on from node to node, so that a move neither repeats a slot nor passes one over.
//!
//! Pure: the time is an argument.
//!
//! # Assumptions
//!
//! The wall clocks of two nodes agree within one interval. Where they do not, a slot may begin late on
//! the one with the slower clock; it is still run once, because the claim names it.

use std::time::Duration;

#[cfg(test)]
mod tests;

/// Where the slots of a check begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    interval_ms: u64,
    phase_ms: u64,
}

impl Timing {
    /// Slots of that length (at least a millisecond), with a phase drawn by the hash of the check.
    pub fn new(interval: Duration, hash: u64) -> Self {
        let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
        Self { interval_ms, phase_ms: hash % interval_ms }
    }

    /// From one slot to the next.
    pub const fn interval(self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }

    /// The slot that `now_unix_ms` is in.
    pub const fn slot_at(self, now_unix_ms: u64) -> Slot {
        // Before the first slot there is nothing; nobody's clock stands in 1970.
        let into = now_unix_ms.saturating_sub(self.phase_ms) % self.interval_ms;
        Slot(now_unix_ms.saturating_sub(into))
    }

    /// The slot after `slot`.
    pub const fn after(self, slot: Slot) -> Slot {
        Slot(slot.0.saturating_add(self.interval_ms))
    }

    /// Which slot is to be run next, by what is known of those before it.
    pub fn next(self, known: Known, now_unix_ms: u64) -> Next {
        let current = self.slot_at(now_unix_ms);
        let following = self.after(current);
        match known {
            Known::Nothing => Next { slot: current, missed: 0 },
            Known::Doubtful => Next { slot: following, missed: 0 },
            Known::Claimed { slot, run } => {
                let unfinished = u64::from(run == Run::Unfinished);
                if slot < current {
                    let passed = (current.0 - slot.0) / self.interval_ms;
                    Next { slot: current, missed: unfinished + passed.saturating_sub(1) }
                } else if slot <= following {
                    // This slot is taken already, perhaps by a node whose clock is a little ahead.
                    Next { slot: self.after(self.slot_at(slot.0)), missed: unfinished }
                } else {
                    // Claimed by a clock that stood far ahead and was set back since. To wait for it
                    // could take years.
                    Next { slot: following, missed: unfinished }
                }
            }
        }
    }
}

/// One interval of one check, named by its beginning in milliseconds of Unix time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u64);

impl Slot {
    /// How long it is until it begins; nothing if it has begun.
    pub const fn due_in(self, now_unix_ms: u64) -> Duration {
        Duration::from_millis(self.0.saturating_sub(now_unix_ms))
    }
}

/// What came of a run that was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Run {
    /// It has a result.
    Finished,
    /// It has none: whoever claimed it died, was cut off or was told to stop in the middle.
    Unfinished,
}

/// What is known of the slots of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// None can have been run: the check is new, or was changed.
    Nothing,
    /// The slot that runs now may have been run by a node that left no word of it.
    Doubtful,
    /// The last slot that was claimed, and what came of it.
    Claimed {
        /// The slot.
        slot: Slot,
        /// What came of it.
        run: Run,
    },
}

/// What is to be run next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// The slot, which may have begun already: then it is run at once.
    pub slot: Slot,
    /// How many slots before it have no result and never will.
    pub missed: u64,
}
