//! How long a key waits that has failed, and how many may be tried again at all.

use std::time::Duration;

/// How keys are held back that are added with a limit. A key waits for the longer of the two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Of each key.
    pub backoff: Backoff,
    /// Of all keys together; none: no such limit.
    pub bucket: Option<Bucket>,
}

impl Default for Limits {
    /// As controller-runtime: 5 ms, doubled up to 1,000 s; 100 at once, then 10 per second.
    fn default() -> Self {
        Self { backoff: Backoff::default(), bucket: Some(Bucket::default()) }
    }
}

/// The wait of one key: `first`, and twice as long after each failure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// After the first failure. 5 ms.
    pub first: Duration,
    /// It grows no further. 1,000 s.
    pub most: Duration,
    /// Up to this part of a wait, 0 to 1, is taken off by a draw, so that what failed together is not
    /// tried again together. 0: waits are exact.
    pub jitter: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(5), most: Duration::from_secs(1000), jitter: 0.0 }
    }
}

impl Backoff {
    /// The wait after so many failures before this one. `draw` is any number from 0 to 1.
    pub fn wait(&self, failures: u32, draw: f64) -> Duration {
        let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
        let whole = self.first.saturating_mul(factor).min(self.most);
        let off = (self.jitter * draw).clamp(0.0, 1.0);
        whole.saturating_sub(whole.mul_f64(if off.is_nan() { 0.0 } else { off }))
    }
}

/// A token bucket: `burst` at once, then one every `every`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Between two tokens. 100 ms. Zero: there is no limit.
    pub every: Duration,
    /// Tokens of a full bucket; 0 is taken as 1. 100.
    pub burst: u32,
}

impl Default for Bucket {
    fn default() -> Self {
        Self { every: Duration::from_millis(100), burst: 100 }
    }
}

/// What has been drawn from a [`Bucket`]: the moment at which it will be full again, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Drawn(u64);

impl Drawn {
    /// Draws a token, and says how long it takes to be there. Nobody waits in vain: a token once drawn is
    /// the drawer's.
    pub(super) fn draw(&mut self, bucket: Bucket, now: u64) -> Duration {
        let every = super::core::nanos(bucket.every);
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
