//! Decoded values under the cluster's keys, and the changes that a node's view of them is built from.
//!
//! R2 (how a view is built): a node applies events a whole revision at a time, in order, from one list and
//! one watch. The view's revision is the list's, then that of the last event applied or of a progress notice;
//! never the revision in the header of an answer with events.

use std::{collections::BTreeMap, time::Duration};

use super::types::{LeaseId, NodeId, NodeMetadata, Revision, ShardEpoch, ShardId, Term, WorkType};

/// A key that exists, as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<T> {
    /// c(k): the revision that the key was created at.
    pub created: Revision,
    /// m(k): the revision that the key was last written at.
    pub modified: Revision,
    /// The lease that the key is attached to.
    pub lease: Option<LeaseId>,
    /// Decoded value of the key; `None` if it is malformed (an operator's put).
    pub value: Option<T>,
    /// The value as it is stored, for the keys whose value a transaction compares: the record, the plans, the
    /// held keys. Empty for all other keys.
    pub bytes: Vec<u8>,
}

/// Value of the key that shows which node is in office, and how long all other nodes must wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The term; zero in a seed.
    pub term: Term,
    /// The lease of the incarnation in office; none in a seed.
    pub lease: Option<LeaseId>,
    /// Id of the node in office.
    pub node: Option<NodeId>,
    /// Number of this write in its process. An echo counts for the attempt with this number (R4, in office).
    pub n: u64,
    /// D of the writer.
    pub d: Duration,
    /// Whether there is proof that all work of the term has ended.
    pub ended: bool,
    /// Whether the writer had no authority when it sent this: it is in office and does not act. For display
    /// only: no rule of the protocol reads the field.
    pub suspended: bool,
}

/// The record of a live incarnation of this library, under `/{cluster}/bellwether/members/{id}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Lease of the incarnation.
    pub lease: LeaseId,
    /// D of the member's failover profile.
    pub d: Duration,
    /// F of the member's shard authority.
    pub f: Duration,
    /// The tick that the member was configured with.
    pub tick: Duration,
    /// Policy for a tick that differs from the cluster's.
    pub policy: TickPolicy,
    /// The UID of the member's pod, if it runs in a pod. Together with the pod's lock it is a proof of death.
    pub pod_uid: Option<String>,
    /// The work types that the member can run.
    pub work: Vec<WorkOffer>,
    /// Whether the member wants no shards and no office.
    pub draining: bool,
    /// Whether the member takes part in elections: then its candidate key shows that it is heard (R15, which
    /// nodes get no new shards).
    pub campaigns: bool,
}

/// Policy of a node whose configured tick is not the cluster's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TickPolicy {
    /// The node refuses to join, which is also the intent of the Go package.
    #[default]
    Strict,
    /// The node joins and runs at the cluster's tick; it offers its own tick.
    Adopt,
}

/// Offer of a node to run a work type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkOffer {
    /// Work type that the node offers.
    pub work: WorkType,
    /// Number of shards of the work type; all nodes of a cluster must agree on it.
    pub shards: u32,
    /// Share of the shards that this node wants, relative to the other nodes; at least 1.
    pub weight: u32,
    /// Maximum number of shards for this node, if there is a limit.
    pub capacity: Option<u32>,
    /// Whether the node takes shards of this work type even while it leads other nodes.
    pub as_leader: bool,
}

/// Shards that an incarnation holds, under `/{cluster}/bellwether/held/{lease}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Random number drawn for each write: it distinguishes a node's own write from another client's write.
    pub nonce: u64,
    /// The shards that the incarnation has claimed, with the epoch of the claim.
    pub shards: BTreeMap<(WorkType, ShardId), ShardEpoch>,
}

/// Plan of a work type: the owner of each of its shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanTable {
    /// Assignments, by shard number.
    pub shards: Vec<Assignment>,
}

/// Assignment of a shard to an incarnation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Incarnation that should work on the shard; `None` if the shard has no owner.
    pub owner: Option<LeaseId>,
    /// Epoch of this assignment.
    pub epoch: ShardEpoch,
    /// Whether the plan asks the owner to release the shard. The request is never withdrawn.
    pub draining: bool,
}

/// An operator's request that a node id gets no shards and no office, under `/{cluster}/bellwether/drain/{id}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainRequest {
    /// Time of the request, in milliseconds of Unix time.
    pub since_unix_ms: u64,
    /// Reason in the operator's words.
    pub why: String,
}

/// A key as a read or an event shows it. `None`: the key does not exist, or was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Candidate key of an incarnation, `/{cluster}/election/{lease}`
    Candidate(LeaseId, Option<Stored<NodeId>>),
    /// Metadata of a node, `/{cluster}/nodes/{id}`
    Node(NodeId, Option<Stored<NodeMetadata>>),
    /// A node's own tick, `/{cluster}/state-data/tick/{id}`: outside the watched range, so only answers show it
    TickKey(NodeId, Option<Stored<Duration>>),
    /// Record of a member, `/{cluster}/bellwether/members/{id}`
    Member(NodeId, Option<Stored<Member>>),
    /// Held key of an incarnation, `/{cluster}/bellwether/held/{lease}`
    Held(LeaseId, Option<Stored<Held>>),
    /// Record of the office, `/{cluster}/bellwether/beat`
    Record(Option<Stored<Record>>),
    /// Plan of a work type, `/{cluster}/bellwether/plan/{work type}`
    Plan(WorkType, Option<Stored<PlanTable>>),
    /// Tick of the cluster, `/{cluster}/bellwether/tick`
    Tick(Option<Stored<Duration>>),
    /// Request to resign, `/{cluster}/bellwether/resign`
    ResignRequest(Option<Stored<Term>>),
    /// Request to drain a node, `/{cluster}/bellwether/drain/{id}`
    DrainRequest(NodeId, Option<Stored<DrainRequest>>),
}
