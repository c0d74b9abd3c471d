//! Basic types of the engine: ids, revisions, terms, times.

use std::{
    fmt,
    ops::{Add, Sub},
    sync::Arc,
    time::{Duration, SystemTime},
};

/// Configured id of one process of a cluster: non-negative, unique among live nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(i64);

/// Error for a node id below zero. `-1` meant "no leader" in the Go package, so no node may carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node id {0} is negative: choose one from 0 to 9223372036854775807")]
pub struct NegativeNodeId(pub i64);

impl NodeId {
    /// Node id with that number.
    ///
    /// # Errors
    ///
    /// [`NegativeNodeId`] if the number is below zero.
    pub const fn new(id: i64) -> Result<Self, NegativeNodeId> {
        if id < 0 { Err(NegativeNodeId(id)) } else { Ok(Self(id)) }
    }

    /// Node id as a bare number.
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Id of a lease in the store; displayed in lower-case hex, as in the keys that are named by it.
///
/// A lease names one incarnation of a node: each incarnation draws a new id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

/// A revision of the store. Zero stands for "absent" in compares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(pub i64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The fencing token: the create revision of the leader's candidate key. Terms only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Term(pub i64);

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A reading of one node's boot clock (`CLOCK_BOOTTIME`: it counts suspend). Readings of two nodes
/// cannot be compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BootTime(pub Duration);

impl BootTime {
    /// Time from `earlier` to this reading; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for BootTime {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(rhs))
    }
}

impl Sub<Duration> for BootTime {
    type Output = Self;
    fn sub(self, rhs: Duration) -> Self {
        Self(self.0.saturating_sub(rhs))
    }
}

/// Role of a node in its cluster. The numbers are the Go package's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// The node has not joined, or its role is not yet known.
    #[default]
    Unknown = 0,
    /// The node is in office.
    Leader = 1,
    /// The node has joined, and another node is or will be in office.
    Follower = 2,
}

impl Role {
    /// Role with that number, or `None` if no role has it.
    pub const fn from_number(number: i64) -> Option<Self> {
        match number {
            0 => Some(Self::Unknown),
            1 => Some(Self::Leader),
            2 => Some(Self::Follower),
            _ => None,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unknown => "Unknown",
            Self::Leader => "Leader",
            Self::Follower => "Follower",
        })
    }
}

/// Description of a node that it publishes under `/{cluster}/nodes/{id}`: the Go package's `NodeMetadata`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeMetadata {
    /// Id of the node.
    pub id: NodeId,
    /// Address of the node, as it was configured; not interpreted.
    pub address: String,
    /// Time of the node's start, by its wall clock. A new session of the same node keeps this time.
    pub start: SystemTime,
    /// Role that the node last took.
    pub role: Role,
}

/// A kind of work that is spread over the cluster in a fixed number of shards.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkType(Arc<str>);

impl WorkType {
    /// Work type with that name. `store::keys` validates names where they enter.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// Name of the work type.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Part of a work type, counted from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u32);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number that grows with each assignment of a shard: the revision of the view that its plan was made from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardEpoch(pub i64);

impl fmt::Display for ShardEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of one call of the engine, which its answer carries. An engine never uses a number twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub u64);
