//! What the etcd store counts, for whoever wants to show it. It depends on no metrics library.

use std::{
    fmt::Debug,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::store::StoreError;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The store answered; "lease not found", "lease exists" and "compacted" are answers.
    Answered,
    /// Refused for good.
    Denied,
    /// Refused for now.
    Overloaded,
    /// Never sent.
    Unreachable,
    /// No answer in time.
    Unanswered,
    /// Broken off after it was sent.
    Interrupted,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Answered,
        Self::Denied,
        Self::Overloaded,
        Self::Unreachable,
        Self::Unanswered,
        Self::Interrupted,
    ];

    /// As a metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Denied => "denied",
            Self::Overloaded => "overloaded",
            Self::Unreachable => "unreachable",
            Self::Unanswered => "unanswered",
            Self::Interrupted => "interrupted",
        }
    }

    pub(super) fn of<T>(result: &Result<T, StoreError>) -> Self {
        match result {
            Ok(_)
            | Err(
                StoreError::LeaseNotFound | StoreError::LeaseExists | StoreError::Compacted { .. },
            ) => Self::Answered,
            Err(StoreError::Denied { .. }) => Self::Denied,
            Err(StoreError::Overloaded { .. }) => Self::Overloaded,
            Err(StoreError::Unreachable { .. }) => Self::Unreachable,
            Err(StoreError::Unanswered { .. }) => Self::Unanswered,
            Err(StoreError::Interrupted { .. } | StoreError::Broken { .. }) => Self::Interrupted,
        }
    }
}

/// Why calls go to another member from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Switch {
    /// The old one did not answer while another did.
    Silent,
    /// The old one could not be reached, or cannot serve.
    Failed,
    /// Another one answers much faster.
    Slow,
    /// The user of the store asked for it.
    Asked,
}

impl Switch {
    /// As a metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Failed => "failed",
            Self::Slow => "slow",
            Self::Asked => "asked",
        }
    }
}

/// Told about every call. Must be quick: it is called on the way of every answer.
pub trait CallMetrics: Send + Sync + Debug + 'static {
    /// A call of the [`Store`](crate::store::Store) ended; `call` is `txn`, `get`, `grant`, `revoke`,
    /// `keep_alive` or `watch`.
    fn called(&self, call: &'static str, outcome: Outcome, took: Duration);

    /// Calls go to another member from now on.
    fn switched(&self, _why: Switch) {}

    /// A connection to a member was set up anew.
    fn reconnected(&self) {}

    /// A login was answered.
    fn logged_in(&self, _accepted: bool) {}

    /// The TLS files have changed; whether they can be used.
    fn certificates_changed(&self, _usable: bool) {}
}

/// Counts in atomics; what is used if nothing else is registered.
#[derive(Debug, Default)]
pub struct Counters {
    /// Calls that the store answered.
    pub answered: AtomicU64,
    /// Calls that failed in any way.
    pub failed: AtomicU64,
    /// Changes of the member.
    pub switches: AtomicU64,
    /// Connections set up anew.
    pub reconnects: AtomicU64,
    /// Logins that were accepted.
    pub logins: AtomicU64,
}

impl CallMetrics for Counters {
    fn called(&self, _: &'static str, outcome: Outcome, _: Duration) {
        let count = if outcome == Outcome::Answered { &self.answered } else { &self.failed };
        count.fetch_add(1, Relaxed);
    }

    fn switched(&self, _: Switch) {
        self.switches.fetch_add(1, Relaxed);
    }

    fn reconnected(&self) {
        self.reconnects.fetch_add(1, Relaxed);
    }

    fn logged_in(&self, accepted: bool) {
        self.logins.fetch_add(u64::from(accepted), Relaxed);
    }
}
