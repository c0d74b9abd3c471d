//! Counters of a queue, and the snapshot that it publishes.

use std::time::Duration;

use super::Priority;

/// Upper bounds of the buckets, in seconds: controller-runtime's, from ten nanoseconds to 1,000 seconds.
pub(super) const BOUNDS: [f64; 12] =
    [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3];

/// Histogram of durations by powers of ten: an observation costs a logarithm and two additions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Times {
    buckets: [u64; BOUNDS.len() + 1],
    nanos: u128,
}

impl Times {
    pub(super) fn observe(&mut self, nanos: u64) {
        let bucket = nanos.saturating_sub(1).max(1).ilog10() as usize;
        self.buckets[bucket.min(BOUNDS.len())] += 1;
        self.nanos += u128::from(nanos);
    }

    /// Number of observed durations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Sum of all observed durations.
    pub fn sum(&self) -> Duration {
        let second = 1_000_000_000;
        let secs = u64::try_from(self.nanos / second).unwrap_or(u64::MAX);
        Duration::new(secs, (self.nanos % second) as u32)
    }

    /// Each upper bound in seconds, with the number of durations that did not exceed it.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        BOUNDS.into_iter().zip(self.buckets).scan(0, |below, (bound, count)| {
            *below += count;
            Some((bound, *below))
        })
    }
}

/// The keys that wait with one priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// Priority of these keys.
    pub priority: Priority,
    /// Number of keys that are ready, or will be ready when the work on them ends.
    pub waiting: usize,
    /// How long the oldest of these keys has waited.
    pub oldest: Duration,
}

/// The state of a queue at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Depths by priority, the most urgent first: [`Priority::Change`], [`Priority::Resync`], and every other
    /// priority that was ever used.
    pub depths: Vec<Depth>,
    /// Number of keys whose time has not come.
    pub delayed: usize,
    /// Number of keys that workers hold.
    pub working: usize,
    /// Sum of the times for which workers have held their keys so far.
    pub unfinished: Duration,
    /// The longest of these times.
    pub longest: Duration,
    /// How often a key began to wait: it became ready, or will be ready when the work on it ends.
    pub adds: u64,
    /// How often a key got a back-off: it was added with a rate limit, or put back after a failure.
    pub retries: u64,
    /// Times from becoming ready to being taken.
    pub queued: Times,
    /// Times from being taken to being done.
    pub worked: Times,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_belongs_to_the_first_bucket_whose_bound_it_does_not_exceed() {
        for (nanos, bucket) in [
            (0, 0),
            (10, 0),
            (11, 1),
            (100, 1),
            (101, 2),
            (1_000_000_000, 8),
            (1_000_000_001, 9),
            (1_000_000_000_000, 11),
            (1_000_000_000_001, 12),
            (u64::MAX, 12),
        ] {
            let mut times = Times::default();
            times.observe(nanos);
            assert_eq!(times.buckets.iter().position(|count| *count == 1), Some(bucket), "{nanos}");
            let below = times.cumulative().find(|(_, count)| *count == 1).map(|(bound, _)| bound);
            assert_eq!(below, BOUNDS.get(bucket).copied(), "{nanos}");
            assert_eq!(times.sum(), Duration::from_nanos(nanos));
        }
    }
}
