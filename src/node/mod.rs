//! A node of a cluster: the trait, its two implementations, and the work they run.
//!
//! The node drives `engine` against a `store`; it decides nothing about leadership itself.

pub mod status;
pub mod work;

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::engine::{NodeId, NodeMetadata, Revision, Role, Term};

/// A key-value pair of a node's state. `key` is the user's key, as it was put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KV {
    /// The user's key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
}

/// What happened to a key of a node's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// It did not exist before.
    Added = 0,
    /// It existed before.
    Modified = 1,
    /// It does not exist any more.
    Deleted = 2,
}

/// One change of one key of one node's state. The fields that do not apply are empty, as in the Go
/// package: `old_*` for an added key, `key` and `value` for a deleted one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// What happened.
    pub kind: EventType,
    /// Whose state it is.
    pub node: NodeId,
    /// The user's key.
    pub key: String,
    /// Its value now.
    pub value: Vec<u8>,
    /// The user's key before.
    pub old_key: String,
    /// Its value before.
    pub old_value: Vec<u8>,
    /// The store's revision of the change.
    pub revision: Revision,
}

/// Where a node stands in its cluster now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Whether it is registered.
    pub joined: bool,
    /// Its role.
    pub role: Role,
    /// Its term, if it is leader.
    pub term: Option<Term>,
    /// How many sessions it has lost since it started.
    pub sessions_lost: u64,
}
