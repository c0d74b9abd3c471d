//! What a queue counts, and what it shows of itself.

use std::time::Duration;

use super::Priority;

/// Upper bounds of the buckets, in seconds: controller-runtime's, from ten nanoseconds to 1,000 seconds.
pub(super) const BOUNDS: [f64; 12] =
    [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3];

/// Times by powers of ten: an observation is a logarithm and two additions.
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

    /// How many were observed.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// All of them together.
    pub fn sum(&self) -> Duration {
        let second = 1_000_000_000;
        let secs = u64::try_from(self.nanos / second).unwrap_or(u64::MAX);
        Duration::new(secs, (self.nanos % second) as u32)
    }

    /// Upper bound in seconds, and how many did not exceed it.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        BOUNDS.into_iter().zip(self.buckets).scan(0, |below, (bound, count)| {
            *below += count;
            Some((bound, *below))
        })
    }
}

/// What waits with one priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// Which one.
    pub priority: Priority,
    /// Keys that are ready, or will be when the work on them ends.
    pub waiting: usize,
    /// How long the oldest of them has waited.
    pub oldest: Duration,
}

/// A queue as it is at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// By priority, the most urgent first: [`Priority::Change`], [`Priority::Resync`], and whatever
    /// there ever was.
    pub depths: Vec<Depth>,
    /// Keys whose time has not come.
    pub delayed: usize,
    /// Keys that are worked on.
    pub working: usize,
    /// For how long they have been worked on, all together.
    pub unfinished: Duration,
    /// The longest of these times.
    pub longest: Duration,
    /// How often a key came to wait.
    pub adds: u64,
    /// How often one was added with a limit.
    pub retries: u64,
    /// From becoming ready to being taken.
    pub queued: Times,
    /// From being taken to being done.
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
