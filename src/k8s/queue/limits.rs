//! How long a failed key waits, and how many keys may be retried in a period.

use std::time::Duration;

/// Limits for keys that are added with a rate limit. A key waits for the longer of the two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Back-off of each key.
    pub backoff: Backoff,
    /// Token bucket of all keys together; no such limit if `None`.
    pub bucket: Option<Bucket>,
}

impl Default for Limits {
    /// The limits of controller-runtime: 5 ms, doubled up to 1,000 s; 100 tokens at once, then 10 per second.
    fn default() -> Self {
        Self { backoff: Backoff::default(), bucket: Some(Bucket::default()) }
    }
}

/// The back-off of one key: `first`, and twice as long after each failure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// Wait after the first failure. Default: 5 ms.
    pub first: Duration,
    /// Longest wait. Default: 1,000 s.
    pub most: Duration,
    /// Largest part of a wait, 0 to 1, that a random draw subtracts, so that keys that failed together are
    /// not retried together. Default: 0, for exact waits.
    pub jitter: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(5), most: Duration::from_secs(1000), jitter: 0.0 }
    }
}

impl Backoff {
    /// The wait after `failures` failures before this one. `draw` is any number from 0 to 1.
    pub fn wait(&self, failures: u32, draw: f64) -> Duration {
        let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
        let whole = self.first.saturating_mul(factor).min(self.most);
        let off = (self.jitter * draw).clamp(0.0, 1.0);
        whole.saturating_sub(whole.mul_f64(if off.is_nan() { 0.0 } else { off }))
    }
}

/// A token bucket: `burst` tokens at once, then one every `every`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Time between two tokens. Default: 100 ms. Zero means no limit.
    pub every: Duration,
    /// Tokens of a full bucket; 0 counts as 1. Default: 100.
    pub burst: u32,
}

impl Default for Bucket {
    fn default() -> Self {
        Self { every: Duration::from_millis(100), burst: 100 }
    }
}

/// Tokens drawn from a [`Bucket`], as the time in nanoseconds at which the bucket will be full again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Drawn(u64);

impl Drawn {
    /// Draws a token, and returns how long to wait until it is available. A drawn token belongs to its
    /// caller, so a wait always ends with a token.
    pub(super) fn draw(&mut self, bucket: Bucket, now: u64) -> Duration {
        let every = super::slots::nanos(bucket.every);
        let full = self.0.max(now);
        let ahead = every.saturating_mul(u64::from(bucket.burst.max(1) - 1));
        self.0 = full.saturating_add(every);
        Duration::from_nanos((full - now).saturating_sub(ahead))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_of_a_key_double_from_5_ms_to_1000_s() {
        let backoff = Backoff::default();
        let waits: Vec<_> =
            (0..6).map(|failures| backoff.wait(failures, 0.5).as_millis()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160]);
        assert_eq!(backoff.wait(17, 0.0), Duration::from_millis(655_360));
        for failures in [18, 31, 32, 1000, u32::MAX] {
            assert_eq!(backoff.wait(failures, 0.0), Duration::from_secs(1000));
        }
    }

    #[test]
    fn jitter_takes_off_its_part_and_never_more_than_all() {
        let ms = Duration::from_millis;
        let backoff = Backoff { first: ms(100), jitter: 0.2, ..Backoff::default() };
        assert_eq!(backoff.wait(0, 0.0), ms(100));
        assert_eq!(backoff.wait(1, 1.0), ms(160));
        for jitter in [7.0, f64::INFINITY, f64::NAN, -1.0] {
            let wait = Backoff { jitter, ..backoff }.wait(0, 1.0);
            assert!(wait <= ms(100), "{jitter}: {wait:?}");
        }
    }

    #[test]
    fn a_bucket_gives_its_burst_at_once_then_one_each_tenth_of_a_second_and_fills_again() {
        let second = 1_000_000_000;
        let mut drawn = Drawn::default();
        let mut draw = |now| drawn.draw(Bucket::default(), now);
        for _ in 0..100 {
            assert_eq!(draw(second), Duration::ZERO);
        }
        assert_eq!(draw(second), Duration::from_millis(100));
        assert_eq!(draw(second), Duration::from_millis(200));
        assert_eq!(draw(2 * second), Duration::ZERO, "eight of ten new ones are left");
        for _ in 0..7 {
            assert_eq!(draw(2 * second), Duration::ZERO);
        }
        assert_eq!(draw(2 * second), Duration::from_millis(100));
        for _ in 0..100 {
            assert_eq!(draw(60 * second), Duration::ZERO, "never more than full");
        }
        assert_eq!(draw(60 * second), Duration::from_millis(100));
    }
}
