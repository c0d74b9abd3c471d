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
    #[error(
        "node id {id} is taken by a live node at {address:?}: give this one another id, or stop that one"
    )]
    DuplicateId {
        /// The id.
        id: NodeId,
        /// Where its holder says it is.
        address: String,
        /// The holder's incarnation, if its key hangs on one.
        holder: Option<LeaseId>,
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
    /// The node is closed, or its thread is gone.
    #[error("the node is closed")]
    Closed,
}

/// Why a call about the node itself failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The node is closed, or its thread is gone.
    #[error("the node is closed")]
    Closed,
    /// The driver did not answer; its thread must be stuck or starved.
    #[error("the node's driver did not answer within {0:?}")]
    Unresponsive(Duration),
}

/// What a node left behind when it was closed. It is closed all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// It left uncleanly: its lease runs out by itself.
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
}

impl StateError {
    /// Whether the same call may succeed later without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoLease | Self::Busy { .. } => true,
            Self::Store { source, .. } | Self::Unknown { source, .. } => source.is_transient(),
            Self::Key { .. } | Self::Closed => false,
        }
    }
}
