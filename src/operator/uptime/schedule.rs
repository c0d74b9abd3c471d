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
//! the one with the slower clock; it is still run once, because the claim names it. A claim that lies
//! further ahead was made by a wrong clock and holds up nothing: the current slot is run at once.

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

    /// The slot before `slot`.
    pub const fn before(self, slot: Slot) -> Slot {
        Slot(slot.0.saturating_sub(self.interval_ms))
    }

    /// Which slot is to be run next, by what is known of those before it. It may have begun already: then
    /// it is run at once.
    pub fn next(self, known: Known, now_unix_ms: u64) -> Slot {
        let current = self.slot_at(now_unix_ms);
        let following = self.after(current);
        match known {
            // This slot is taken, perhaps by a node whose clock is a little ahead.
            Known::Claimed(last) if current <= last && last <= following => {
                self.after(self.slot_at(last.0))
            }
            // Or claimed by a clock that was far ahead, here or on another node. The answer must not depend
            // on `now_unix_ms` staying the same: a slot that is always the next one is never due.
            Known::Claimed(_) | Known::Nothing => current,
        }
    }

    /// How many slots lie between two, without them.
    pub const fn between(self, earlier: Slot, later: Slot) -> u64 {
        (later.0.saturating_sub(earlier.0) / self.interval_ms).saturating_sub(1)
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

/// What is known of the slots of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// None can have been run: the check is new, or was changed.
    Nothing,
    /// The last slot that was claimed. It is never run again, whatever became of it.
    Claimed(Slot),
}
