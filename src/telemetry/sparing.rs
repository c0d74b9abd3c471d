//! Limits log lines that many objects cause at once: an outage of a minute is logged, but not once for each
//! object and each attempt.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::engine::BootTime;

/// Number of lines of one kind that are logged in one [`PERIOD`].
const LINES: u32 = 5;
/// Span over which lines are counted.
const PERIOD: Duration = Duration::from_secs(60);

/// Limit for lines of a closed set of kinds.
#[derive(Debug)]
pub(crate) struct Sparing<K>(Mutex<HashMap<K, Kind>>);

#[derive(Debug)]
struct Kind {
    since: BootTime,
    logged: u32,
    left_out: u64,
}

impl<K> Default for Sparing<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Sparing<K> {
    /// Whether a line of that kind is logged now. `Some` contains the number of lines of the kind that were
    /// left out since the last logged one; `None` if this line is left out too.
    pub(crate) fn admit(&self, kind: K, now: BootTime) -> Option<u64> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = kinds.entry(kind).or_insert(Kind { since: now, logged: 0, left_out: 0 });
        if PERIOD <= now.since(kind.since) {
            (kind.since, kind.logged) = (now, 0);
        }
        if kind.logged == LINES {
            kind.left_out += 1;
            return None;
        }
        kind.logged += 1;
        Some(std::mem::take(&mut kind.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_of_failures_of_many_objects_is_a_few_lines_of_each_kind() {
        let sparing = Sparing::default();
        let at = |ms: u64| BootTime(Duration::from_millis(ms));
        let logged = (0..60_000).step_by(50).filter(|ms| sparing.admit("away", at(*ms)).is_some());
        assert_eq!(logged.count(), LINES as usize);
        assert_eq!(sparing.admit("denied", at(100)), Some(0), "another kind has lines of its own");
        let left_out = u64::from(60_000 / 50 - LINES);
        assert_eq!(sparing.admit("away", at(60_000)), Some(left_out), "and says what is missing");
        assert_eq!(sparing.admit("away", at(60_001)), Some(0));
    }
}
