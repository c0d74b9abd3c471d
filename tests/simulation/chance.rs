//! Random draws and clocks. Every random value of a run is derived from its seed here.

use std::time::Duration;

use bellwether::engine::BootTime;

/// True time, in nanoseconds since the run began.
pub type Time = u64;

pub const MICROS: Time = 1_000;
pub const MILLIS: Time = 1_000_000;
pub const SECONDS: Time = 1_000_000_000;

/// A stream of random numbers (xoshiro256++, Blackman and Vigna, seeded by splitmix64).
#[derive(Clone, Debug)]
pub struct Chance {
    state: [u64; 4],
}

impl Chance {
    pub fn new(seed: u64) -> Self {
        let mut x = seed;
        let state = std::array::from_fn(|_| {
            x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(x)
        });
        Self { state }
    }

    pub fn bits(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number below `end`, which must not be zero.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(end)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True with this probability, in millionths.
    pub fn ppm(&mut self, millionths: u32) -> bool {
        millionths != 0 && self.below(1_000_000) < u64::from(millionths)
    }

    /// True with this probability, in percent.
    pub fn percent(&mut self, percent: u32) -> bool {
        self.ppm(percent * 10_000)
    }

    /// A number between `low` and `high`, about uniform by order of magnitude: as many draws fall below ten
    /// times `low` as between ten and a hundred times `low`, and so on.
    pub fn log_between(&mut self, low: u64, high: u64) -> u64 {
        let steps = (high / low.max(1)).max(1).ilog2();
        let low = low << self.below(u64::from(steps) + 1);
        self.between(low.min(high), (low * 2).min(high))
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        (!from.is_empty()).then(|| &from[self.below(from.len() as u64) as usize])
    }
}

/// A round of splitmix64: spreads every bit over all others.
pub fn mix(x: u64) -> u64 {
    let z = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Boot clock of a node, with its own start and its own rate, which may change.
#[derive(Clone, Debug)]
pub struct Clock {
    since: Time,
    reads: u64,
    /// Deviation of its rate from true time, in millionths.
    error_ppm: i64,
}

impl Clock {
    pub fn new(offset: u64, error_ppm: i64) -> Self {
        Self { since: 0, reads: offset, error_ppm }
    }

    pub fn at(&self, now: Time) -> BootTime {
        BootTime(Duration::from_nanos(self.nanos(now)))
    }

    fn nanos(&self, now: Time) -> u64 {
        self.reads + (now - self.since) * self.rate() / 1_000_000
    }

    fn rate(&self) -> u64 {
        (1_000_000 + self.error_ppm).unsigned_abs()
    }

    /// The first moment at which the clock reads `local` or more; `None` if that is beyond all runs.
    pub fn when(&self, local: BootTime) -> Option<Time> {
        let local = u64::try_from(local.0.as_nanos()).ok()?;
        let ahead = local.saturating_sub(self.reads);
        let ahead = ahead.checked_mul(1_000_000)?.div_ceil(self.rate());
        Some(self.since + ahead)
    }

    /// Sets another rate for the clock from `now` on.
    pub fn drift(&mut self, now: Time, error_ppm: i64) {
        self.reads = self.nanos(now);
        self.since = now;
        self.error_ppm = error_ppm;
    }
}
