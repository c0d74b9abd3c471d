//! Schedule of a check: when its runs are due.
//!
//! Time is divided into slots of one interval, shifted by a phase that depends only on the check, so that all
//! nodes have the same slots and the checks of a cluster do not all run at once. A slot is named by the time
//! at which it begins, in milliseconds of Unix time. A check runs once in each slot; the last claim passes
//! from owner to owner, so that a move of the shard neither repeats nor skips a slot.
//!
//! Pure: the time is an argument.
//!
//! # Assumptions
//!
//! The wall clocks of two nodes agree within one interval. If they do not, a slot may begin late on the node
//! with the slower clock; the slot is still run once, because the claim names it. A claim further ahead was
//! made by a wrong clock and delays nothing: the current slot is run at once.

use std::time::Duration;

use crate::clock::millis;

#[cfg(test)]
mod tests;

/// Start times of the slots of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    interval_ms: u64,
    phase_ms: u64,
}

impl Timing {
    /// Slots of this length (at least a millisecond), with a phase derived from the hash of the check.
    pub fn new(interval: Duration, hash: u64) -> Self {
        let interval_ms = millis(interval).max(1);
        Self { interval_ms, phase_ms: hash % interval_ms }
    }

    /// Length of a slot, one interval.
    pub const fn interval(self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }

    /// Slot that `now_unix_ms` is in.
    pub const fn slot_at(self, now_unix_ms: u64) -> Slot {
        // The start saturates at zero, before the first slot; no real clock shows 1970.
        let into = now_unix_ms.saturating_sub(self.phase_ms) % self.interval_ms;
        Slot(now_unix_ms.saturating_sub(into))
    }

    /// The slot after `slot`.
    pub const fn after(self, slot: Slot) -> Slot {
        Slot(slot.0.saturating_add(self.interval_ms))
    }

    /// The slot before `slot`.
    pub const fn before(self, slot: Slot) -> Slot {
        Slot(slot.0.saturating_sub(self.interval_ms))
    }

    /// Returns the slot to run next, given what is known of earlier ones. If that slot has begun already, it
    /// is run at once.
    pub fn next(self, known: Known, now_unix_ms: u64) -> Slot {
        let current = self.slot_at(now_unix_ms);
        let following = self.after(current);
        match known {
            // The current slot is claimed, perhaps by a node whose clock is a little ahead.
            Known::Claimed(last) if current <= last && last <= following => {
                self.after(self.slot_at(last.0))
            }
            // The claim was made by a clock that was far ahead, here or on another node. The result must not
            // move with `now_unix_ms`: a slot that is always the next one is never due.
            Known::Claimed(_) | Known::Nothing => current,
        }
    }

    /// Number of slots strictly between two slots.
    pub const fn between(self, earlier: Slot, later: Slot) -> u64 {
        (later.0.saturating_sub(earlier.0) / self.interval_ms).saturating_sub(1)
    }
}

/// Interval of one check, named by its start in milliseconds of Unix time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u64);

impl Slot {
    /// Time until the slot begins; zero if it has begun.
    pub const fn due_in(self, now_unix_ms: u64) -> Duration {
        Duration::from_millis(self.0.saturating_sub(now_unix_ms))
    }
}

/// Knowledge about the earlier slots of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// No slot can have been run: the check is new, or its spec changed.
    Nothing,
    /// Last slot that was claimed. The slot is never run again, regardless of its result.
    Claimed(Slot),
}
