//! Durations of the protocol, under the names that `docs/protocol.md` gives them.
//!
//! The one rule: [`span`] computes a node's own authority, and [`wait`] computes the wait for another node's
//! authority. A clock may run up to [`RHO`] off true time.

use std::time::Duration;

/// ρ: largest rate error of a boot clock. Linux lets a time daemon slew by 10 % (`adjtimex`).
pub const RHO: f64 = 0.10;

/// Largest D or F that is accepted on etcd and in memory. See [`StoreTiming`].
pub const SPAN_MAX: Duration = Duration::from_secs(3);

/// Largest `SPAN_MAX` of any store: the bound for a reader that does not know which store it reads.
pub const LARGEST_SPAN: Duration = Duration::from_secs(15);

/// F on etcd and in memory: duration of the shard authority that a linearizable read of the own held key gives.
pub const F: Duration = Duration::from_secs(3);

/// Interval between CHECKs of the own held key, on etcd and in memory.
pub const CHECK_EVERY: Duration = Duration::from_millis(750);

/// Delay between two candidates of neighbouring rank that would depose the same leader.
pub const RANK_STEP: Duration = Duration::from_millis(20);

/// Least time between two plans of one work type, to leave time for claims.
pub const PLAN_EVERY: Duration = Duration::from_millis(50);

/// μ: safety margin that [`span`] subtracts, for the length of a step that cannot be interrupted.
pub fn margin(x: Duration) -> Duration {
    Duration::from_millis(10).max(x / 100)
}

/// Time that an own write with that D (or an own read with that F) lets a node act, from before the request
/// was sent.
pub fn span(x: Duration) -> Duration {
    x.saturating_sub(x / 10 + margin(x))
}

/// Time to wait for another node's D (or F) to run out, from when it was received.
pub fn wait(x: Duration) -> Duration {
    x + x / 10
}

/// Durations that depend on the store: what a request costs there decides how often nodes may send one. All
/// nodes of a cluster use the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreTiming {
    /// `SPAN_MAX`: largest D or F that is accepted, from options or from the store.
    pub span_max: Duration,
    /// F: duration of the shard authority that a linearizable read of the own held key gives.
    pub f: Duration,
    /// Interval between CHECKs of the own held key.
    pub check_every: Duration,
    /// Time that a living owner has to claim a shard, from when the leader saw the plan. After it the leader
    /// assigns the shard again. The time is far above that of a write under load: on the Kubernetes API, a
    /// write that conflicts with others is repeated.
    pub claim_within: Duration,
    /// Failover profile of a node that chooses none.
    pub failover: Failover,
    /// TTL of a node that chooses none.
    pub ttl: Duration,
}

impl StoreTiming {
    /// Timing on etcd and in memory.
    pub const ETCD: Self = Self {
        span_max: SPAN_MAX,
        f: F,
        check_every: CHECK_EVERY,
        claim_within: Duration::from_millis(500),
        failover: Failover::DEFAULT,
        ttl: Duration::from_secs(5),
    };
    /// Timing on the Kubernetes API: D 5 s, H 1 s. A leader acts for 4.45 s, and is deposed after 5.5 s.
    pub const KUBERNETES: Self = Self {
        span_max: Duration::from_secs(5),
        f: Duration::from_secs(5),
        check_every: Duration::from_millis(1250),
        claim_within: Duration::from_millis(2500),
        failover: Failover { d: Duration::from_secs(5), h: Duration::from_secs(1) },
        ttl: Duration::from_secs(10),
    };
    /// As [`KUBERNETES`](Self::KUBERNETES) with D 2 s, H 400 ms: a leader acts for 1.78 s, and is deposed after 2.2 s.
    pub const KUBERNETES_FAST: Self = Self {
        failover: Failover { d: Duration::from_secs(2), h: Duration::from_millis(400) },
        ..Self::KUBERNETES
    };
    /// Timing on the Kubernetes API with few requests: D 15 s, H 3 s. A leader acts for 13.35 s, and is deposed
    /// after 16.5 s.
    pub const KUBERNETES_CALM: Self = Self {
        span_max: LARGEST_SPAN,
        f: LARGEST_SPAN,
        check_every: Duration::from_millis(3750),
        claim_within: Duration::from_millis(7500),
        failover: Failover { d: LARGEST_SPAN, h: Duration::from_secs(3) },
        ttl: Duration::from_secs(30),
    };
}

impl Default for StoreTiming {
    fn default() -> Self {
        Self::ETCD
    }
}

/// Failover profile: D sets how soon a silent leader is deposed, H how often a leader writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failover {
    d: Duration,
    h: Duration,
}

/// A failover profile that breaks one of the protocol's bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFailover {
    /// D is above [`LARGEST_SPAN`] or leaves no span.
    #[error("failover D {0:?} is out of bounds: choose 100 ms to 15 s, and at most 3 s on etcd")]
    D(Duration),
    /// H is zero or above a quarter of `span(D)`.
    #[error(
        "failover H {h:?} is out of bounds for D {d:?}: choose more than 0 and at most {most:?}"
    )]
    H {
        /// H that is out of bounds.
        h: Duration,
        /// D of the same profile.
        d: Duration,
        /// Largest allowed H: a quarter of `span(D)`.
        most: Duration,
    },
}

impl Failover {
    /// D 400 ms, H 50 ms: a leader acts for 350 ms, and is deposed after 440 ms. For etcd on a local SSD.
    pub const FAST: Self = Self { d: Duration::from_millis(400), h: Duration::from_millis(50) };
    /// D 1 s, H 200 ms: a leader acts for 890 ms, and is deposed after 1.1 s.
    pub const DEFAULT: Self = Self { d: Duration::from_secs(1), h: Duration::from_millis(200) };
    /// D 3 s, H 500 ms: a leader acts for 2.67 s, and is deposed after 3.3 s. Survives an etcd election.
    pub const STABLE: Self = Self { d: Duration::from_secs(3), h: Duration::from_millis(500) };

    /// Profile with custom D and H.
    ///
    /// # Errors
    ///
    /// [`InvalidFailover`] unless 100 ms ≤ D ≤ [`LARGEST_SPAN`] and 0 < H ≤ span(D)/4. A node is refused if D is above
    /// the [`span_max`](StoreTiming::span_max) of its store.
    pub fn new(d: Duration, h: Duration) -> Result<Self, InvalidFailover> {
        if d < Duration::from_millis(100) || LARGEST_SPAN < d {
            return Err(InvalidFailover::D(d));
        }
        let most = span(d) / 4;
        if h.is_zero() || most < h {
            return Err(InvalidFailover::H { h, d, most });
        }
        Ok(Self { d, h })
    }

    /// D: time for which a committed beat counts.
    pub const fn d(self) -> Duration {
        self.d
    }

    /// H: interval between two beats.
    pub const fn h(self) -> Duration {
        self.h
    }
}

impl Default for Failover {
    fn default() -> Self {
        Self::DEFAULT
    }
}
