//! What the store holds, decoded: the values under the cluster's keys, and the view a node has of
//! them.
//!
//! The one rule (R2): events are applied a whole revision at a time, in order, from one list and one
//! watch. The view's revision is the list's, then that of the last event applied or of a progress
//! notice; never the header of an answer with events.

use std::{collections::BTreeMap, time::Duration};

use super::types::{LeaseId, NodeId, NodeMetadata, Revision, ShardEpoch, ShardId, Term, WorkType};

/// A key that exists, as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<T> {
    /// c(k): the revision the key was created at.
    pub created: Revision,
    /// m(k): the revision it was last written at.
    pub modified: Revision,
    /// The lease it hangs on.
    pub lease: Option<LeaseId>,
    /// Its value; `None` if it could not be read as one (junk, an operator's put).
    pub value: Option<T>,
    /// The value as it is stored, where a transaction compares it: of the record, a plan, a held key. Empty
    /// for all others.
    pub bytes: Vec<u8>,
}

/// The one key that says who is in office, and by how much everybody else must wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The term; zero in a seed.
    pub term: Term,
    /// The lease of the incarnation in office; none in a seed.
    pub lease: Option<LeaseId>,
    /// Its node.
    pub node: Option<NodeId>,
    /// Which write of its process this is: identifies the attempt (R4).
    pub n: u64,
    /// D of the writer.
    pub d: Duration,
    /// Whether all work of the term is proven to have ended.
    pub ended: bool,
    /// Whether the writer had no authority when it sent this: it is in office and does not act. For people
    /// only; no rule of the protocol reads it.
    pub suspended: bool,
}

/// The record of a live incarnation of ours, under `/{cluster}/bellwether/members/{id}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The incarnation.
    pub lease: LeaseId,
    /// D of its failover profile.
    pub d: Duration,
    /// F of its shard authority.
    pub f: Duration,
    /// The tick it was configured with.
    pub tick: Duration,
    /// What it does about a tick that differs from the cluster's.
    pub policy: TickPolicy,
    /// The UID of its pod, if it runs in one. Used as proof of death together with the pod's lock.
    pub pod_uid: Option<String>,
    /// The work types it can run.
    pub work: Vec<WorkOffer>,
    /// Wants no shards and no office.
    pub draining: bool,
    /// Whether it takes part in elections: then its candidate key shows that it is heard (R15).
    pub campaigns: bool,
}

/// What a node does when its configured tick is not the cluster's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TickPolicy {
    /// Refuses to join, as the Go package means to.
    #[default]
    Strict,
    /// Joins and runs at the cluster's tick; offers its own.
    Adopt,
}

/// One work type that a node can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkOffer {
    /// Which.
    pub work: WorkType,
    /// Into how many shards it is cut; all nodes of a cluster must agree.
    pub shards: u32,
    /// The share this node wants, relative to the others; at least 1.
    pub weight: u32,
    /// At most this many shards, if there is a limit.
    pub capacity: Option<u32>,
    /// Whether the node takes shards of it even while it leads others.
    pub as_leader: bool,
}

/// What one incarnation holds, under `/{cluster}/bellwether/held/{lease}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Drawn for each write, so that an own write can be told from another's.
    pub nonce: u64,
    /// The shards it has claimed, with the epoch of the claim.
    pub shards: BTreeMap<(WorkType, ShardId), ShardEpoch>,
}

/// Who should work on the shards of one work type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanTable {
    /// By shard number.
    pub shards: Vec<Assignment>,
}

/// Who should work on one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// An incarnation, or nobody.
    pub owner: Option<LeaseId>,
    /// Of the assignment.
    pub epoch: ShardEpoch,
    /// Whether the owner is asked to let go of it. Never taken back.
    pub draining: bool,
}

/// A request that an id gets no shards and no office, under `/{cluster}/bellwether/drain/{id}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainRequest {
    /// Since when, in milliseconds of Unix time.
    pub since_unix_ms: u64,
    /// Why, in the operator's words.
    pub why: String,
}

/// One key as a read or an event shows it. `None` = it does not exist (any more).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// `/{cluster}/election/{lease}`
    Candidate(LeaseId, Option<Stored<NodeId>>),
    /// `/{cluster}/nodes/{id}`
    Node(NodeId, Option<Stored<NodeMetadata>>),
    /// `/{cluster}/state-data/tick/{id}`: only in answers, it is outside the watched range
    TickKey(NodeId, Option<Stored<Duration>>),
    /// `/{cluster}/bellwether/members/{id}`
    Member(NodeId, Option<Stored<Member>>),
    /// `/{cluster}/bellwether/held/{lease}`
    Held(LeaseId, Option<Stored<Held>>),
    /// `/{cluster}/bellwether/beat`
    Record(Option<Stored<Record>>),
    /// `/{cluster}/bellwether/plan/{work type}`
    Plan(WorkType, Option<Stored<PlanTable>>),
    /// `/{cluster}/bellwether/tick`
    Tick(Option<Stored<Duration>>),
    /// `/{cluster}/bellwether/resign`
    ResignRequest(Option<Stored<Term>>),
    /// `/{cluster}/bellwether/drain/{id}`
    DrainRequest(NodeId, Option<Stored<DrainRequest>>),
}
