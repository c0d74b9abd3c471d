//! What a node tells about itself and its cluster: the JSON of `/status`, read by the status page and
//! the command line.
//!
//! All times are milliseconds of Unix time, all spans milliseconds. Leases are lower-case hex. Numbers
//! that can exceed 2^53 (node ids, revisions, terms) are strings in JSON, so that a browser keeps them.

mod text;

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::Membership;
use crate::engine::{
    ClusterView, Holder, Leader, LeaseId, NodeId, NodeMetadata, Revision, Role, Term, WorkType,
};

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
    pub id: NodeId,
    /// As configured.
    pub address: String,
    /// The role of this node.
    pub role: Role,
    /// Whether it is registered.
    pub joined: bool,
    /// The term it is in office for.
    pub term: Option<Term>,
    /// Its lease, if it is registered.
    pub incarnation: Option<LeaseId>,
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

/// Vital signs of a node, which probes ask for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vitals {
    /// Whether the node is registered, with its role and term.
    pub membership: Membership,
    /// Why it is not joined, or what is wrong otherwise, in words.
    pub problem: Option<String>,
    /// What is left of its authority as leader.
    pub authority_left: Option<Duration>,
    /// How long ago the view was last proven fresh.
    pub view_age: Duration,
    /// The node in office, if there is one, without the time of its last beat.
    pub leader: Option<LeaderStatus>,
}

/// Who is in office.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LeaderStatus {
    /// The node.
    pub id: NodeId,
    /// Its address, if its metadata is known.
    pub address: Option<String>,
    /// The term.
    pub term: Term,
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
    pub id: NodeId,
    /// As configured; empty if its metadata cannot be read.
    pub address: String,
    /// The leader is the node in office. Of any other node this is what its metadata says, unless that says
    /// "leader": such a node has died, or has not written its new role yet.
    pub role: Role,
    /// When it joined.
    pub start_unix_ms: u64,
    /// Its lease.
    pub incarnation: Option<LeaseId>,
    /// Program that the node runs.
    pub kind: Kind,
    /// How many shards it holds, over all work types.
    pub shards: u32,
    /// Whether it is drained.
    pub draining: bool,
    /// Its place in the queue of candidates, from 1 (the oldest); none if it is not a candidate.
    pub queue: Option<u32>,
}

/// Program that a node runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A node of this library: it has a member record.
    Bellwether,
    /// A node of the Go package: it has no member record.
    Go,
    /// The source does not say.
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

/// One term of office.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reign {
    /// The term.
    pub term: Term,
    /// The node in office.
    pub id: NodeId,
    /// When it was first seen.
    pub from_unix_ms: u64,
    /// When it was last seen, or seen to end; none while it runs.
    pub to_unix_ms: Option<u64>,
    /// How it ended.
    pub end: ReignEnd,
}

/// How a term of office ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReignEnd {
    /// The term has not ended.
    #[default]
    Running,
    /// The node ended it cleanly.
    Ended,
    /// The node's candidate key was there, but no beat came for too long.
    Silent,
    /// The node's candidate key was gone.
    Replaced,
}

/// One work type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkStatus {
    /// Its name.
    pub work: String,
    /// By shard number: the id of the node that holds it, if one does.
    pub held_by: Vec<Option<Holder>>,
    /// By shard number: the id of the node the plan gives it to.
    pub planned_for: Vec<Option<NodeId>>,
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
    pub revision: Revision,
    /// How long ago the view was last proven fresh.
    pub view_age_ms: u64,
}

impl LeaderStatus {
    /// The leader of a view. The time of its last beat is left to those who watch.
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
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
