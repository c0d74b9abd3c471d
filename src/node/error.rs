//! Errors of a node, one type per kind of call.

use std::time::Duration;

use crate::{
    engine::{LeaseId, NodeId},
    store::{Effected, StoreError, keys::InvalidName},
};

/// Reason why a node did not join.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Another live node has the id. Nothing changed.
    #[error("node id {id} is taken by a live node at {address:?}{}: give this one another id, or stop that one", after(*waited))]
    DuplicateId {
        /// Id that both nodes use.
        id: NodeId,
        /// Address in the holder's metadata.
        address: String,
        /// Incarnation of the holder, if the holder's key has a lease.
        holder: Option<LeaseId>,
        /// How long this node has waited for the holder to end
        /// ([`id_wait`](crate::node::ClusterNodeBuilder::id_wait)).
        waited: Duration,
    },
    /// The cluster uses another tick. Nothing changed.
    #[error(
        "the cluster ticks every {cluster:?}, this node is set to {own:?}: configure the same tick, or the policy `adopt`"
    )]
    TickDisagreement {
        /// Tick of the cluster.
        cluster: Duration,
        /// Tick that this node is set to.
        own: Duration,
    },
    /// The node was stopped before it had joined.
    #[error("the node was stopped before it had joined")]
    Stopped,
    /// The node is closed already.
    #[error("the node is closed")]
    Closed,
    /// The node's driver has failed because of a bug, as in [`NodeError::Broken`].
    #[error("the node's driver has failed: the process must be restarted")]
    Broken,
    /// The driver did not accept the request in time, as in [`NodeError::Unresponsive`].
    #[error("the node's driver did not answer within {0:?}")]
    Unresponsive(Duration),
}

/// Clause about the wait, for the middle of a message.
fn after(waited: Duration) -> String {
    if waited.is_zero() {
        return String::new();
    }
    format!(", which has not ended within {waited:.1?}")
}

/// Reason why a call about the node itself failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The node is closed already.
    #[error("the node is closed")]
    Closed,
    /// The driver did not answer; its thread is probably blocked or gets no processor time.
    #[error("the node's driver did not answer within {0:?}")]
    Unresponsive(Duration),
    /// The driver has failed because of a bug: the driver, or a task that it needs, panicked; the log has
    /// the message. The node has no authority any more, its work is cancelled, and its keys stay until its
    /// lease expires. The node does not recover: end the process, so that a supervisor can prove its death.
    #[error("the node's driver has failed: the process must be restarted")]
    Broken,
}

/// Reason why a node did not close cleanly. The node is closed nevertheless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// The node left uncleanly, or its driver had failed: its lease expires by itself.
    #[error("the node did not leave cleanly: its keys stay until its lease runs out")]
    Unclean,
    /// The driver did not end in time.
    #[error("the node's thread did not end within {0:?}")]
    Stuck(Duration),
}

/// Reason why a call about state failed, or, as [`FencedError::Call`](super::FencedError::Call), a fenced one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The node is not joined, or its session was just lost. Nothing changed.
    #[error("no lease: the node is not joined")]
    NoLease,
    /// The key is empty, invalid or reserved. Nothing changed.
    #[error("key {key:?} cannot be used")]
    Key {
        /// Key as the caller gave it.
        key: String,
        /// Reason why the key is invalid.
        source: InvalidName,
    },
    /// The store rejected the call or was unreachable. Nothing changed.
    #[error("cannot {doing}")]
    Store {
        /// Attempted operation and its key.
        doing: String,
        /// Error of the store.
        source: StoreError,
    },
    /// Earlier calls for the same key had not ended in time. Nothing was sent, nothing changed.
    #[error("cannot {doing}: earlier calls for the key did not end within {timeout:?}")]
    Busy {
        /// Requested operation and its key.
        doing: String,
        /// How long the call waited for its turn.
        timeout: Duration,
    },
    /// The store did not answer. The write may or may not have taken effect, now or later; it never undoes
    /// a later write of the same key.
    #[error("it is unknown whether the store did {doing}")]
    Unknown {
        /// Attempted operation and its key.
        doing: String,
        /// Error in place of the answer.
        source: StoreError,
    },
    /// The node is closed already.
    #[error("the node is closed")]
    Closed,
    /// The node's driver has failed because of a bug, as in [`NodeError::Broken`]. Nothing changed.
    #[error("the node's driver has failed: the process must be restarted")]
    Broken,
}

impl StateError {
    /// Error of a call for a key that cannot be used.
    pub(super) fn of_key(key: &str, source: InvalidName) -> Self {
        Self::Key { key: key.to_owned(), source }
    }

    /// Error of a write that the store did not confirm.
    pub(super) fn of_write(doing: String, source: StoreError) -> Self {
        match source.effected() {
            Effected::No => Self::Store { doing, source },
            Effected::Unknown => Self::Unknown { doing, source },
        }
    }

    /// Whether the same call may succeed later without an intervention.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoLease | Self::Busy { .. } => true,
            Self::Store { source, .. } | Self::Unknown { source, .. } => source.is_transient(),
            Self::Key { .. } | Self::Closed | Self::Broken => false,
        }
    }
}
