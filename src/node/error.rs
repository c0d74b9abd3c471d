//! What can go wrong with a node, by what was asked of it.

use std::time::Duration;

use crate::{
    engine::{LeaseId, NodeId},
    store::{StoreError, keys::InvalidName},
};

/// Why a node did not join.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A live node has the id. Nothing changed.
    #[error("node id {id} is taken by a live node at {address:?}{}: give this one another id, or stop that one", after(*waited))]
    DuplicateId {
        /// The id.
        id: NodeId,
        /// Where its holder says it is.
        address: String,
        /// The holder's incarnation, if its key hangs on one.
        holder: Option<LeaseId>,
        /// How long this node has waited for the holder to end
        /// ([`id_wait`](crate::node::ClusterNodeBuilder::id_wait)).
        waited: Duration,
    },
    /// The cluster runs at another tick. Nothing changed.
    #[error(
        "the cluster ticks every {cluster:?}, this node is set to {own:?}: configure the same tick, or the policy `adopt`"
    )]
    TickDisagreement {
        /// The cluster's.
        cluster: Duration,
        /// This node's.
        own: Duration,
    },
    /// The node was stopped before it had joined.
    #[error("the node was stopped before it had joined")]
    Stopped,
    /// The node is closed.
    #[error("the node is closed")]
    Closed,
    /// The node's driver has ended by a bug, as in [`NodeError::Broken`].
    #[error("the node's driver has failed: the process must be restarted")]
    Broken,
    /// The driver did not take the request, as in [`NodeError::Unresponsive`].
    #[error("the node's driver did not answer within {0:?}")]
    Unresponsive(Duration),
}

/// The words for a wait, in the middle of a sentence.
fn after(waited: Duration) -> String {
    if waited.is_zero() {
        return String::new();
    }
    format!(", which has not ended within {waited:.1?}")
}

/// Why a call about the node itself failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The node is closed.
    #[error("the node is closed")]
    Closed,
    /// The driver did not answer; its thread must be stuck or starved.
    #[error("the node's driver did not answer within {0:?}")]
    Unresponsive(Duration),
    /// The driver has ended by a bug: it panicked, or a task that it needs did; the log has the message.
    /// The node has no authority any more, its work is cancelled, and its keys stay until its lease
    /// expires. The node does not recover: end the process, so that a supervisor can prove its death.
    #[error("the node's driver has failed: the process must be restarted")]
    Broken,
}

/// What a node left behind when it was closed. It is closed all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// The node left uncleanly, or its driver had failed: its lease runs out by itself.
    #[error("the node did not leave cleanly: its keys stay until its lease runs out")]
    Unclean,
    /// Its thread did not end.
    #[error("the node's thread did not end within {0:?}")]
    Stuck(Duration),
}

/// Why a call about state failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The node is not joined, or its session was just lost. Nothing changed.
    #[error("no lease: the node is not joined")]
    NoLease,
    /// The key is none, or reserved. Nothing changed.
    #[error("key {key:?} cannot be used")]
    Key {
        /// As it was given.
        key: String,
        /// What is wrong with it.
        source: InvalidName,
    },
    /// The store refused or could not be reached. Nothing changed.
    #[error("cannot {doing}")]
    Store {
        /// What was attempted, to which key.
        doing: String,
        /// Why it failed.
        source: StoreError,
    },
    /// Earlier calls for the same key had not ended in time. Nothing was sent, nothing changed.
    #[error("cannot {doing}: earlier calls for the key did not end within {timeout:?}")]
    Busy {
        /// What was asked, about which key.
        doing: String,
        /// How long it was waited for them.
        timeout: Duration,
    },
    /// The store did not answer. The write may or may not have taken effect, now or later; a later
    /// write of the same key is never undone by it.
    #[error("it is unknown whether the store did {doing}")]
    Unknown {
        /// What was attempted, to which key.
        doing: String,
        /// How the answer was missed.
        source: StoreError,
    },
    /// The node is closed.
    #[error("the node is closed")]
    Closed,
    /// The node's driver has ended by a bug, as in [`NodeError::Broken`]. Nothing changed.
    #[error("the node's driver has failed: the process must be restarted")]
    Broken,
}

impl StateError {
    /// Whether the same call may succeed later without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoLease | Self::Busy { .. } => true,
            Self::Store { source, .. } | Self::Unknown { source, .. } => source.is_transient(),
            Self::Key { .. } | Self::Closed | Self::Broken => false,
        }
    }
}
