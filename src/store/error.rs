//! Error of a store's call: what went wrong, and whether the call may have taken effect.

use std::time::Duration;

use crate::engine::types::Revision;

/// Error of a call to the store, with the information whether anything may have changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The lease is not in the store. Nothing changed.
    #[error("the lease is not in the store")]
    LeaseNotFound,
    /// A lease of that id exists. Nothing changed.
    #[error("a lease of that id exists")]
    LeaseExists,
    /// The requested revision is compacted. Nothing changed.
    #[error("revision {asked} is compacted; the oldest one left is {oldest}")]
    Compacted {
        /// Revision that the call asked for.
        asked: Revision,
        /// Oldest revision left; zero if the store did not report it.
        oldest: Revision,
    },
    /// The store did not answer in time. The call may or may not have taken effect, now or later.
    #[error("{endpoint} did not answer {call} within {timeout:?}")]
    Unanswered {
        /// Name of the call, as in the metrics.
        call: &'static str,
        /// Member that the call was sent to.
        endpoint: String,
        /// Time that the caller waited.
        timeout: Duration,
    },
    /// The call failed after it was sent. The call may or may not have taken effect.
    #[error("{endpoint} broke off {call}: {message}")]
    Interrupted {
        /// Name of the call.
        call: &'static str,
        /// Member that the call was sent to.
        endpoint: String,
        /// Error message of the member or of the connection.
        message: String,
    },
    /// Nothing was sent, because no member was reachable. Nothing changed.
    #[error("{endpoint} cannot be reached for {call}: {message}")]
    Unreachable {
        /// Name of the call.
        call: &'static str,
        /// Member that was tried last.
        endpoint: String,
        /// Reason of the failure.
        message: String,
    },
    /// The store refused permanently: wrong credentials, no permission, an invalid request. Nothing
    /// changed.
    #[error("{endpoint} refused {call}: {message}")]
    Denied {
        /// Name of the call.
        call: &'static str,
        /// Member that refused the call.
        endpoint: String,
        /// Error message, with a remedy if one is known.
        message: String,
    },
    /// The nodes of the cluster agreed on other durations than this node is configured with. Nothing changed.
    #[error(
        "the nodes of this cluster agreed on a longest failover D of {agreed:?}, and this node is configured with \
         {own:?}: give all nodes the same profile; to change the profile, stop all nodes first"
    )]
    SpanDisagreement {
        /// Longest D that the cluster's state allows.
        agreed: Duration,
        /// Longest D that this node is configured with.
        own: Duration,
    },
    /// The store refused temporarily: no space, too many requests. Nothing changed.
    #[error("{endpoint} is overloaded and refused {call}: {message}")]
    Overloaded {
        /// Name of the call.
        call: &'static str,
        /// Member that refused the call.
        endpoint: String,
        /// Error message, with a remedy if one is known.
        message: String,
    },
    /// The stream of a watch ended.
    #[error("the watch on {endpoint} ended: {message}")]
    Broken {
        /// Member that served the watch.
        endpoint: String,
        /// Reason of the end.
        message: String,
    },
}

/// Whether a failed call may have taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub enum Effected {
    /// The call did not take effect and will not.
    No,
    /// The call may have taken effect, or may still do so.
    Unknown,
}

impl StoreError {
    /// Whether the call may have taken effect.
    #[doc(hidden)]
    pub fn effected(&self) -> Effected {
        match self {
            Self::Unanswered { .. } | Self::Interrupted { .. } => Effected::Unknown,
            Self::LeaseNotFound
            | Self::LeaseExists
            | Self::Compacted { .. }
            | Self::Unreachable { .. }
            | Self::Denied { .. }
            | Self::SpanDisagreement { .. }
            | Self::Overloaded { .. }
            | Self::Broken { .. } => Effected::No,
        }
    }

    /// Whether the same call may succeed later without any intervention.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unanswered { .. }
            | Self::Interrupted { .. }
            | Self::Unreachable { .. }
            | Self::Overloaded { .. }
            | Self::Broken { .. } => true,
            Self::LeaseNotFound
            | Self::LeaseExists
            | Self::Compacted { .. }
            | Self::Denied { .. }
            | Self::SpanDisagreement { .. } => false,
        }
    }
}
