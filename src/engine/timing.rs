//! How long things take and last: the constants of the protocol, under its names.
//!
//! The one rule: a node's own authority is always computed by [`span`], and the wait for somebody
//! else's always by [`wait`]. Own clocks may run up to [`RHO`] off true time.

use std::time::Duration;

/// ρ: how far a boot clock's rate may be off. Linux lets a time daemon slew by 10 % (`adjtimex`).
pub const RHO: f64 = 0.10;

/// No D or F above this is accepted, from options or from the store.
pub const SPAN_MAX: Duration = Duration::from_secs(3);

/// F: how long a linearizable read of the own held key carries shard authority.
pub const F: Duration = Duration::from_secs(3);

/// Between CHECKs of the own held key.
pub const CHECK_EVERY: Duration = Duration::from_millis(750);

/// Between two candidates of neighbouring rank who would depose the same leader.
pub const RANK_STEP: Duration = Duration::from_millis(20);

/// The least time between two plans of one work type, so that claims have room.
pub const PLAN_EVERY: Duration = Duration::from_millis(50);

/// A shard that its living owner has not claimed this long after the plan was seen is assigned anew.
pub const CLAIM_WITHIN: Duration = Duration::from_millis(500);

/// μ: what is taken off a span for the length of an uninterruptible step.
pub fn margin(x: Duration) -> Duration {
    Duration::from_millis(10).max(x / 100)
}

/// How long an own write of that D (or read of that F) lets a node act, from before it was sent.
pub fn span(x: Duration) -> Duration {
    x.saturating_sub(x / 10 + margin(x))
}

/// How long somebody else's D (or F) must be waited for, from when it was received.
pub fn wait(x: Duration) -> Duration {
    x + x / 10
}

/// How fast a silent leader is deposed, and what an idle leader writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failover {
    d: Duration,
    h: Duration,
}

/// A failover profile that breaks one of the protocol's bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFailover {
    /// D is above [`SPAN_MAX`] or leaves no span.
    #[error("failover D {0:?} is out of bounds: choose 100 ms to 3 s")]
    D(Duration),
    /// H is zero or above a quarter of span(D).
    #[error(
        "failover H {h:?} is out of bounds for D {d:?}: choose more than 0 and at most {most:?}"
    )]
    H {
        /// The offending H.
        h: Duration,
        /// Its D.
        d: Duration,
        /// span(D)/4.
        most: Duration,
    },
}

impl Failover {
    /// D 400 ms, H 50 ms: acts 350 ms, deposed after 440 ms. For etcd on a local SSD.
    pub const FAST: Self = Self { d: Duration::from_millis(400), h: Duration::from_millis(50) };
    /// D 1 s, H 200 ms: acts 890 ms, deposed after 1.1 s.
    pub const DEFAULT: Self = Self { d: Duration::from_secs(1), h: Duration::from_millis(200) };
    /// D 3 s, H 500 ms: acts 2.67 s, deposed after 3.3 s. Rides out an etcd election.
    pub const STABLE: Self = Self { d: Duration::from_secs(3), h: Duration::from_millis(500) };

    /// A profile of your own.
    ///
    /// # Errors
    ///
    /// [`InvalidFailover`] unless 100 ms ≤ D ≤ [`SPAN_MAX`] and 0 < H ≤ span(D)/4.
    pub fn new(d: Duration, h: Duration) -> Result<Self, InvalidFailover> {
        if d < Duration::from_millis(100) || SPAN_MAX < d {
            return Err(InvalidFailover::D(d));
        }
        let most = span(d) / 4;
        if h.is_zero() || most < h {
            return Err(InvalidFailover::H { h, d, most });
        }
        Ok(Self { d, h })
    }

    /// D: how long a committed beat counts.
    pub const fn d(self) -> Duration {
        self.d
    }

    /// H: between beats.
    pub const fn h(self) -> Duration {
        self.h
    }
}

impl Default for Failover {
    fn default() -> Self {
        Self::DEFAULT
    }
}
