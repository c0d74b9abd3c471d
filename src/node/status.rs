//! What a node tells about itself and its cluster: the JSON of `/status`, read by the status page and
//! the command line.
//!
//! All times are milliseconds of Unix time, all spans milliseconds. Leases are lower-case hex. Numbers
//! that can exceed 2^53 (node ids, revisions, terms) are strings in JSON, so that a browser keeps them.

use serde::{Deserialize, Serialize};

/// One node's picture of itself and of its cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The cluster's name.
    pub cluster: String,
    /// This node.
    pub node: SelfStatus,
    /// Who is in office, if anybody is.
    pub leader: Option<LeaderStatus>,
    /// All live nodes, by id.
    pub nodes: Vec<NodeStatus>,
    /// The terms this node has seen, oldest first; the last one has no end if it runs.
    pub timeline: Vec<Reign>,
    /// The work types and who works on their shards.
    pub work: Vec<WorkStatus>,
    /// The store as this node sees it.
    pub store: StoreStatus,
    /// When this picture was taken.
    pub at_unix_ms: u64,
}

/// This node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SelfStatus {
    /// Its id.
    pub id: String,
    /// As configured.
    pub address: String,
    /// `Unknown`, `Leader` or `Follower`.
    pub role: String,
    /// Whether it is registered.
    pub joined: bool,
    /// The term it is in office for.
    pub term: Option<String>,
    /// Its lease, if it is registered.
    pub incarnation: Option<String>,
    /// What is left of its authority as leader.
    pub authority_left_ms: Option<u64>,
    /// What is left of its authority over its shards.
    pub shard_authority_left_ms: Option<u64>,
    /// What is left of its lease, counted from when the last renewal was sent.
    pub lease_left_ms: Option<u64>,
    /// What the store granted.
    pub lease_ttl_ms: u64,
    /// The tick it runs at.
    pub tick_ms: f64,
    /// D of its failover profile.
    pub failover_d_ms: u64,
    /// H of its failover profile.
    pub failover_h_ms: u64,
    /// When the last tick of its routine ended well.
    pub last_tick_unix_ms: Option<u64>,
    /// How many sessions it has lost.
    pub sessions_lost: u64,
    /// Why it is not joined, or what is wrong otherwise, in words.
    pub problem: Option<String>,
}

/// Who is in office.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LeaderStatus {
    /// The node.
    pub id: String,
    /// Its address, if its metadata is known.
    pub address: Option<String>,
    /// The term.
    pub term: String,
    /// When the record was last received.
    pub last_beat_unix_ms: Option<u64>,
    /// Whether the leader is in office and does not act, as far as this node knows: the record says that its
    /// writer had no authority, or the record has not changed for longer than a leader may be silent.
    #[serde(default)]
    pub suspended: bool,
}

/// A live node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its id.
    pub id: String,
    /// As configured.
    pub address: String,
    /// As its metadata says.
    pub role: String,
    /// When it joined.
    pub start_unix_ms: u64,
    /// Its lease.
    pub incarnation: Option<String>,
    /// `bellwether`, or `go` if it has no member record.
    pub kind: String,
    /// How many shards it holds, over all work types.
    pub shards: u32,
    /// Whether it is drained.
    pub draining: bool,
    /// Its place in the queue of candidates, from 1 (the oldest); none if it is not a candidate.
    pub queue: Option<u32>,
}

/// One term of office.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reign {
    /// The term.
    pub term: String,
    /// Whose.
    pub id: String,
    /// When it was first seen.
    pub from_unix_ms: u64,
    /// When it was last seen, or seen to end; none while it runs.
    pub to_unix_ms: Option<u64>,
    /// `ended` (clean), `silent`, `replaced` or `running`.
    pub end: String,
}

/// One work type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkStatus {
    /// Its name.
    pub work: String,
    /// By shard number: the id of the node that holds it, if one does.
    pub held_by: Vec<Option<String>>,
    /// By shard number: the id of the node the plan gives it to.
    pub planned_for: Vec<Option<String>>,
    /// The numbers of those that are draining.
    pub draining: Vec<u32>,
    /// How many nobody holds; none of a work type that no live node offers any more.
    pub unowned: u32,
}

/// The store as a node sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// `etcd` or `memory`.
    pub kind: String,
    /// The member that is asked.
    pub endpoint: String,
    /// Whether it answers.
    pub healthy: bool,
    /// What it last said when it failed.
    pub problem: Option<String>,
    /// The view's revision.
    pub revision: String,
    /// How long ago the view was last proven fresh.
    pub view_age_ms: u64,
}
