//! Status of a node and its cluster: the JSON of `/status`, which the status page and the command line
//! read.
//!
//! All times are milliseconds of Unix time, all spans milliseconds. Leases are lower-case hex. Numbers
//! that can exceed 2^53 (node ids, revisions, terms) are strings in JSON, so that a browser does not round them.

mod text;

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::Membership;
use crate::{
    clock::millis,
    engine::{
        ClusterView, Holder, Leader, LeaseId, NodeId, NodeMetadata, Revision, Role, Term, WorkType,
    },
};

/// Status of one node and of its cluster, as the node sees them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Name of the cluster.
    pub cluster: String,
    /// Status of this node.
    pub node: SelfStatus,
    /// The node in office, if there is one.
    pub leader: Option<LeaderStatus>,
    /// All live nodes, by id.
    pub nodes: Vec<NodeStatus>,
    /// The terms that this node has seen, oldest first; the last term has no end while it runs.
    pub timeline: Vec<Reign>,
    /// The work types and the holders of their shards.
    pub work: Vec<WorkStatus>,
    /// The store as this node sees it.
    pub store: StoreStatus,
    /// When this status was taken.
    pub at_unix_ms: u64,
}

/// Status of a node itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SelfStatus {
    /// Id of this node.
    pub id: NodeId,
    /// Address of this node, as configured.
    pub address: String,
    /// The role of this node.
    pub role: Role,
    /// Whether this node is registered.
    pub joined: bool,
    /// The term that this node is in office for.
    pub term: Option<Term>,
    /// Lease of this node, if it is registered.
    pub incarnation: Option<LeaseId>,
    /// Time left of its authority as leader.
    pub authority_left_ms: Option<u64>,
    /// Time left of its authority over its shards.
    pub shard_authority_left_ms: Option<u64>,
    /// Time left of its lease, counted from when the last renewal was sent.
    pub lease_left_ms: Option<u64>,
    /// TTL of the lease, as the store granted it.
    pub lease_ttl_ms: u64,
    /// The tick that this node runs at.
    pub tick_ms: f64,
    /// D of this node's failover profile.
    pub failover_d_ms: u64,
    /// H of this node's failover profile.
    pub failover_h_ms: u64,
    /// When the last successful tick of its routine ended.
    pub last_tick_unix_ms: Option<u64>,
    /// How many sessions this node has lost.
    pub sessions_lost: u64,
    /// Reason why the node is not joined, or another problem, as text.
    pub problem: Option<String>,
}

/// Vital signs of a node, which probes request.
#[derive(Clone, Debug, Default, PartialEq)]
#[doc(hidden)]
pub struct Vitals {
    /// Longest D that a node of the cluster may use: an election takes a little longer at most.
    pub span_max: Duration,
    /// Whether the node is registered, with its role and term.
    pub membership: Membership,
    /// Reason why the node is not joined, or another problem, as text.
    pub problem: Option<String>,
    /// Time left of its authority as leader.
    pub authority_left: Option<Duration>,
    /// How long ago the view was last proven fresh.
    pub view_age: Duration,
    /// The node in office, if there is one, without the time of its last beat.
    pub leader: Option<LeaderStatus>,
}

/// Status of the node in office.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LeaderStatus {
    /// Id of the node in office.
    pub id: NodeId,
    /// Address of the leader, if its metadata is known. Of a candidate of client-go: the name by which it holds the
    /// Lease.
    pub address: Option<String>,
    /// Term of the leader, which its record names.
    pub term: Term,
    /// When the record was last received.
    pub last_beat_unix_ms: Option<u64>,
    /// Whether the leader is in office and does not act, as far as this node knows: the record shows that its
    /// writer had no authority, or the record has not changed for longer than a leader may be silent.
    #[serde(default)]
    pub suspended: bool,
}

/// Status of a live node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Id of the node.
    pub id: NodeId,
    /// Address as configured; empty if the node's metadata is malformed.
    pub address: String,
    /// Role of the node: leader for the node in office, otherwise the role in the node's metadata. If that role
    /// is "leader", the role is unknown: such a node has died, or has not written its new role yet.
    pub role: Role,
    /// When the node joined.
    pub start_unix_ms: u64,
    /// Lease of the node's incarnation.
    pub incarnation: Option<LeaseId>,
    /// Program that the node runs.
    pub kind: Kind,
    /// How many shards the node holds, over all work types.
    pub shards: u32,
    /// Whether the node is drained.
    pub draining: bool,
    /// Place of the node in the queue of candidates, from 1 (the oldest); `None` if it is not a candidate.
    pub queue: Option<u32>,
}

/// Program that a node runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A node of this library, which has a member record.
    Bellwether,
    /// A node of the Go package, which has no member record.
    Go,
    /// The source of the status does not name the program.
    #[default]
    #[serde(rename = "-")]
    Unknown,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Bellwether => "bellwether",
            Self::Go => "go",
            Self::Unknown => "-",
        })
    }
}

/// Term of office of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reign {
    /// Number of the term.
    pub term: Term,
    /// The node in office.
    pub id: NodeId,
    /// When the term was first seen.
    pub from_unix_ms: u64,
    /// When the term was last seen, or was seen to end; `None` while it runs.
    pub to_unix_ms: Option<u64>,
    /// How the term ended.
    pub end: ReignEnd,
}

/// How a term of office ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReignEnd {
    /// The term has not ended.
    #[default]
    Running,
    /// The node ended the term cleanly.
    Ended,
    /// The node's candidate key existed, but no beat arrived for too long.
    Silent,
    /// The node's candidate key did not exist any more.
    Replaced,
}

/// Status of a work type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkStatus {
    /// Name of the work type.
    pub work: String,
    /// By shard number: the id of the node that holds the shard, if there is one.
    pub held_by: Vec<Option<Holder>>,
    /// By shard number: the id of the node that the plan assigns the shard to.
    pub planned_for: Vec<Option<NodeId>>,
    /// Numbers of the shards that are draining.
    pub draining: Vec<u32>,
    /// How many shards have no holder; zero for a work type that no live node offers any more.
    pub unowned: u32,
}

/// The store as a node sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Kind of the store: `etcd`, `kubernetes` or `memory`.
    pub kind: String,
    /// Address that receives the requests: of the etcd member, or of the API server.
    pub endpoint: String,
    /// Whether the store answers requests.
    pub healthy: bool,
    /// Error of the store's last failure.
    pub problem: Option<String>,
    /// Revision of the node's view.
    pub revision: Revision,
    /// How long ago the view was last proven fresh.
    pub view_age_ms: u64,
}

impl LeaderStatus {
    /// Status of a view's leader. The view has no time of the last beat: a caller that watches adds it.
    pub fn of(view: &ClusterView, leader: &Leader) -> Self {
        Self {
            id: leader.id,
            address: view.address_of(leader.id).map(ToOwned::to_owned),
            term: leader.term,
            last_beat_unix_ms: None,
            suspended: leader.suspended,
        }
    }
}

impl NodeStatus {
    /// All live nodes of a view, by id.
    pub fn all(view: &ClusterView) -> Vec<Self> {
        let leader = view.leader().map(|leader| leader.id);
        let places: BTreeMap<_, _> = view.queue().map(|(lease, _)| lease).zip(1..).collect();
        let nodes = view.nodes().iter().map(|(id, stored)| {
            let metadata = stored.value.as_ref();
            let is_ours = view.members().contains_key(id);
            Self {
                id: *id,
                address: metadata.map_or_else(String::new, |it| it.address.clone()),
                role: role_of(metadata, leader == Some(*id)),
                start_unix_ms: metadata.map_or(0, |it| unix_ms(it.start)),
                incarnation: stored.lease,
                kind: if is_ours { Kind::Bellwether } else { Kind::Go },
                shards: stored.lease.map_or(0, |lease| view.shards_held(lease)) as u32,
                draining: view.is_drained(*id),
                queue: stored.lease.and_then(|lease| places.get(&lease).copied()),
            }
        });
        nodes.collect()
    }
}

fn role_of(metadata: Option<&NodeMetadata>, leads: bool) -> Role {
    match metadata {
        _ if leads => Role::Leader,
        Some(it) if it.role != Role::Leader => it.role,
        _ => Role::Unknown,
    }
}

impl WorkStatus {
    /// All work types of a view that have a readable plan.
    pub fn all(view: &ClusterView) -> Vec<Self> {
        view.plans().map(|(work, _)| Self::of(view, work)).collect()
    }

    fn of(view: &ClusterView, work: &WorkType) -> Self {
        let shards = view.shards(work);
        let draining = shards.iter().zip(0..).filter(|(shard, _)| shard.draining);
        Self {
            work: work.to_string(),
            unowned: view.unowned(work) as u32,
            draining: draining.map(|(_, number)| number).collect(),
            planned_for: shards.iter().map(|shard| shard.planned).collect(),
            held_by: shards.iter().map(|shard| shard.held).collect(),
        }
    }
}

fn unix_ms(time: SystemTime) -> u64 {
    millis(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests;
