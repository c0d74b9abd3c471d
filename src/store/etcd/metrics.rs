//! Counts of the etcd store, for any metrics exporter. This module depends on no metrics library.

use std::{
    fmt::Debug,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::store::StoreError;

/// Outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The store answered; "lease not found", "lease exists" and "compacted" are answers.
    Answered,
    /// The store refused permanently.
    Denied,
    /// The store refused temporarily.
    Overloaded,
    /// The call was never sent.
    Unreachable,
    /// No answer came in time.
    Unanswered,
    /// The call was broken off after it was sent.
    Interrupted,
}

impl Outcome {
    /// All outcomes of a call.
    pub const ALL: [Self; 6] = [
        Self::Answered,
        Self::Denied,
        Self::Overloaded,
        Self::Unreachable,
        Self::Unanswered,
        Self::Interrupted,
    ];

    /// Value of the metric label for this outcome.
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

/// Reason for the switch to another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Switch {
    /// The old member did not answer while another did.
    Silent,
    /// The old member could not be reached, or cannot serve.
    Failed,
    /// Another member answers much faster.
    Slow,
    /// The user of the store asked for the switch.
    Asked,
}

impl Switch {
    /// Value of the metric label for this reason.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Failed => "failed",
            Self::Slow => "slow",
            Self::Asked => "asked",
        }
    }
}

/// Receiver of the store's events. Implementations must be quick: they run before each answer is returned.
pub trait CallMetrics: Send + Sync + Debug + 'static {
    /// A call of the [`Store`](crate::store::Store) ended; `call` is `txn`, `get`, `grant`, `revoke`,
    /// `keep_alive` or `watch`.
    fn called(&self, call: &'static str, outcome: Outcome, took: Duration);

    /// Calls switch to another member.
    fn switched(&self, _why: Switch) {}

    /// A new connection to a member replaced the old one.
    fn reconnected(&self) {}

    /// etcd answered a login.
    fn logged_in(&self, _accepted: bool) {}

    /// The TLS files have changed; reports whether the new files are usable.
    fn certificates_changed(&self, _usable: bool) {}
}

/// Counts in atomics; the default if no other receiver is registered.
#[derive(Debug, Default)]
pub struct Counters {
    /// Calls that the store answered.
    pub answered: AtomicU64,
    /// Calls that failed in any way.
    pub failed: AtomicU64,
    /// Switches to another member.
    pub switches: AtomicU64,
    /// New connections that replaced old ones.
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
