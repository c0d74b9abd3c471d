//! Calls that the engine sends to the store, their outcomes, the engine's inputs and its effects.
//!
//! Each [`Call`] is one transaction of the protocol (T1 to T19), with all that its compares need.
//! `store::protocol` translates a call into keys and compares, in one place for the driver, the supervisor
//! and the simulation. The driver sends a call unchanged and once; only the engine decides to send it again.
//!
//! In these comments `c(k)` and `m(k)` are the create and mod revision of key k, 0 if it is absent. `/C` is
//! the cluster's prefix, and `h` is `m(held)` as the node last knew it.

use std::time::{Duration, SystemTime};

use super::{
    cluster_view::ClusterView,
    types::{BootTime, CallId, LeaseId, NodeId, NodeMetadata, Revision, Term, WorkType},
    view::{Change, Held, Member, PlanTable, Record},
};

/// Request to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// T1: grants a lease with that id.
    Grant {
        /// Lease id that the engine drew.
        lease: LeaseId,
        /// TTL to ask for; the store may grant more.
        ttl: Duration,
    },
    /// Renews a lease once. A renewal keeps keys alive and proves nothing, see T14 (CHECK).
    Renew {
        /// Lease that is renewed.
        lease: LeaseId,
    },
    /// T11: revokes a lease.
    Revoke {
        /// Lease that is revoked.
        lease: LeaseId,
    },
    /// Read before T2 (JOIN): one linearizable read-only transaction over `tick`, all of
    /// `/C/state-data/tick/`, and the own `node(id)` and `member(id)`. The answer's changes hold the keys
    /// that exist, and the absence of `tick`, `node(id)` and `member(id)`.
    ReadJoin {
        /// Id that the node joins under.
        id: NodeId,
    },
    /// T2 (JOIN): registers the node.
    Join(Box<Join>),
    /// T3 (SEED): creates the record of a cluster that has none.
    Seed {
        /// `SPAN_MAX` of the store: a node that still acts by an earlier record acts no longer than that.
        d: Duration,
        /// Whether the seed is marked ended: only for a store that this process has just created.
        ended: bool,
    },
    /// T4 (ENROL): creates the own candidate key.
    Enrol {
        /// Lease of the own incarnation.
        lease: LeaseId,
        /// Id of this node.
        id: NodeId,
        /// `c(member(id))` of this incarnation.
        member_created: Revision,
    },
    /// T4 (WITHDRAW) deletes the own candidate key of a closed term; T19 (REPAIR) deletes any broken
    /// candidate key. Leaves the record unchanged. Compares `m(cand)`.
    Withdraw {
        /// Lease that the candidate key is named after.
        lease: LeaseId,
        /// `m(cand)` as the view shows it.
        modified: Revision,
    },
    /// T5 (TAKE): takes office.
    Take(Box<Take>),
    /// T6 (BEAT): writes the record again, which prolongs authority.
    Beat {
        /// `m(cand)` after the TAKE.
        office: Revision,
        /// Record to write; its lease names the candidate.
        record: Record,
    },
    /// T8 (RESIGN): marks the record ended and deletes the candidate key. Compares `m(cand)`.
    Resign {
        /// `m(cand)` after the TAKE.
        office: Revision,
        /// Record to write, marked ended; its lease names the candidate.
        record: Record,
    },
    /// T9 (STOP): first part of a clean stop; REVOKE follows.
    Stop {
        /// Lease of the own incarnation.
        lease: LeaseId,
        /// `m(held)` as last known.
        held: Revision,
        /// Nonce of the empty held key.
        nonce: u64,
        /// Only if the node was in office until now: `m(cand)` after the TAKE, and the record to write,
        /// marked ended.
        office: Option<(Revision, Record)>,
    },
    /// T10 (END), first part: one linearizable read of the record and `held(lease)`. The changes show both,
    /// present or absent.
    ReadEnd {
        /// Lease of the incarnation to end.
        lease: LeaseId,
    },
    /// T10, second part; REVOKE follows.
    End {
        /// Lease of the incarnation to end.
        lease: LeaseId,
        /// Only if the incarnation was in office and not ended: `m(record)` as read, and the record to write,
        /// marked ended.
        record: Option<(Revision, Record)>,
        /// Only if the held key existed: `m(held)` as read, and the nonce of the empty held key to put on the
        /// lease.
        held: Option<(Revision, u64)>,
    },
    /// T12 (CLAIM), T13 (RELEASE) and the settling of an unresolved write: writes the own held key. Compares
    /// `m(held) = held` and each plan.
    WriteHeld {
        /// Lease of the own incarnation.
        lease: LeaseId,
        /// `m(held)` as last known.
        held: Revision,
        /// `plan(w)` as seen, byte for byte, of each work type with a shard that is claimed.
        plans: Vec<(WorkType, Vec<u8>)>,
        /// Held key's value to write.
        content: Held,
    },
    /// T14 (CHECK): linearizable get of `held(lease)`. The changes show the key, present or absent.
    Check {
        /// Lease of the own incarnation.
        lease: LeaseId,
    },
    /// T15 (PLAN): creates the plan of a work type that has none, with all shards unowned.
    InitPlan {
        /// Lease of the office, and `m(cand)` after its TAKE.
        office: (LeaseId, Revision),
        /// Work type of the plan.
        work: WorkType,
        /// Table of the plan to write, without owners.
        table: PlanTable,
    },
    /// T15: writes the plan of a work type.
    Plan {
        /// Lease of the office, and `m(cand)` after its TAKE.
        office: (LeaseId, Revision),
        /// Work type of the plan.
        work: WorkType,
        /// `m(plan(w))` as seen, never zero.
        modified: Revision,
        /// Held keys that prove a shard free: for each owner that loses a shard because its living held key
        /// does not contain it, that key's value as seen, byte for byte.
        proofs: Vec<(LeaseId, Vec<u8>)>,
        /// Table of the plan to write.
        table: PlanTable,
    },
    /// T15, T19 and R8 (replaced store): deletes a held key that is malformed or hangs on the wrong lease.
    /// Compares `m(held)`, its value and the office.
    DeleteHeld {
        /// Lease of the office, and `m(cand)` after its TAKE.
        office: (LeaseId, Revision),
        /// Lease that the held key is named after.
        lease: LeaseId,
        /// `m(held)` as the view shows it.
        modified: Revision,
        /// Held key's value as seen, byte for byte.
        value: Vec<u8>,
    },
    /// T2: deletes an operator's node and member keys that hang on no lease. Compares each `m`. An absent key
    /// (zero) is only compared.
    DeleteSquatter {
        /// Id of the node whose keys are deleted.
        id: NodeId,
        /// `m(node(id))` as last read.
        node: Revision,
        /// `m(member(id))` as last read.
        member: Revision,
    },
    /// T17 (OWN KEYS) for `node(id)`: writes the own metadata with another role. Compares `m`; the else
    /// branch reads the key.
    WriteNode {
        /// Lease of the own incarnation.
        lease: LeaseId,
        /// `m(node(id))` as last known.
        modified: Revision,
        /// Node metadata to write.
        metadata: NodeMetadata,
    },
    /// T17 for `member(id)`: writes a change of draining, offers or tick. Compares `m`; the else branch reads
    /// the key.
    WriteMember {
        /// Id of this node.
        id: NodeId,
        /// `m(member(id))` as last known.
        modified: Revision,
        /// Member record to write; its lease is the own incarnation.
        member: Member,
    },
    /// T17 for `tickkey(id)`. Compares `m`; the else branch reads the key.
    WriteTickKey {
        /// Lease of the own incarnation.
        lease: LeaseId,
        /// Id of this node.
        id: NodeId,
        /// `m(tickkey(id))` as last known.
        modified: Revision,
        /// Value of the tick key to write.
        tick: Duration,
    },
    /// T18 (SWITCH TICK): writes the cluster's tick.
    SwitchTick {
        /// Lease of the office, and `m(cand)` after its TAKE.
        office: (LeaseId, Revision),
        /// `m(tick)` as the view shows it.
        modified: Revision,
        /// R of the view. T18 compares that no node joined and no offer changed since.
        view: Revision,
        /// Cluster's tick to write.
        tick: Duration,
    },
}

/// Values that T2 (JOIN) compares and puts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// Lease of the new incarnation.
    pub lease: LeaseId,
    /// Value of `node(id)` to put.
    pub metadata: NodeMetadata,
    /// Value of `tickkey(id)` to put: the tick that the node runs at.
    pub tick: Duration,
    /// Value of `member(id)` to put.
    pub member: Member,
    /// Whether JOIN puts the candidate key.
    pub candidate: bool,
    /// Nonce of the empty held key.
    pub nonce: u64,
    /// How JOIN treats the cluster's tick.
    pub cluster_tick: JoinTick,
}

/// How T2 (JOIN) treats `/C/bellwether/tick`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinTick {
    /// The cluster's tick is the joiner's, or the joiner adopts it: compares `m(tick)`.
    Keep {
        /// `m(tick)` as the read before JOIN showed it.
        modified: Revision,
    },
    /// The cluster's tick is absent or malformed, and no live node's tick differs: compares `m(tick)` and
    /// range `m < read + 1` over `/C/state-data/tick/`, and puts the joiner's tick.
    Create {
        /// Revision of the read.
        read: Revision,
        /// `m(tick)` as read, if it is malformed; zero if it is absent.
        modified: Revision,
    },
    /// The cluster's tick differs and no node lives: compares `m(tick)` and range `c = 0` over `/C/nodes/`,
    /// and puts the joiner's tick. The else branch reads that range too. Node keys that hang on no lease
    /// belong to no node: if there are any, JOIN compares range `m < strays + 1` over `/C/nodes/` and
    /// `/C/state-data/tick/` instead.
    Replace {
        /// `m(tick)` as the read before JOIN showed it.
        modified: Revision,
        /// Revision of an else branch that showed only node keys without a lease.
        strays: Option<Revision>,
    },
}

/// Values that T5 (TAKE) compares, deletes and puts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Take {
    /// `c(cand)`: the own term.
    pub term: Term,
    /// `m(record)` as received at `rec_at`.
    pub record_modified: Revision,
    /// Value of the record, byte for byte.
    pub record_value: Vec<u8>,
    /// O, the older candidates, oldest first: the lease that each key is named after, and `c` of the key as
    /// seen. TAKE deletes all of them and compares `c` of the first.
    pub older: Vec<(LeaseId, Revision)>,
    /// How TAKE treats the holder's candidate key.
    pub holder: HolderClause,
    /// Record to write; its lease names the own candidate.
    pub record: Record,
}

/// How T5 (TAKE) treats the candidate key of the record's holder, if the record is not ended and has another
/// lease than the own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HolderClause {
    /// No action: the record is ended, a seed or the own one, or TAKE deletes the holder's key as an older
    /// candidate.
    None,
    /// The view still shows the key with `c = record.term`: TAKE deletes it.
    Delete {
        /// Lease that the candidate key is named after.
        lease: LeaseId,
    },
    /// The view does not show the key with that `c`: TAKE compares `c(cand(lease)) ≠ term`.
    Gone {
        /// Lease that the candidate key is named after.
        lease: LeaseId,
        /// Term of the record.
        term: Term,
    },
}

/// Outcome of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The call took effect: its compares held.
    Done(Answer),
    /// The call took no effect: a compare failed. The changes hold the keys that the else branch read.
    Refused(Answer),
    /// The call took no effect: the lease is not in the store. A transaction returns this only if its
    /// compares held.
    LeaseNotFound,
    /// GRANT took no effect: the lease id exists.
    LeaseExists,
    /// The call certainly took no effect: it failed before it was sent, or the store denied it.
    Failed,
    /// The call may or may not have taken effect, now or later: no answer, or an error after it was sent.
    Unknown,
}

/// Content of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Revision in the answer's header. Zero if there is no reliable one (keepalives, grants of the memory
    /// store).
    pub revision: Revision,
    /// Id of the store's cluster. Another id shows a replaced store (R8). Zero if the id is not known (the
    /// renewal of a lease that is gone).
    pub cluster: u64,
    /// Keys that reads and else branches returned.
    pub changes: Vec<Change>,
    /// TTL that was granted or renewed; zero = the lease is gone. Only for GRANT and keepalive.
    pub ttl: Duration,
}

impl Answer {
    /// The cluster as far as the answer shows it: the keys that were read, no others.
    pub(super) fn view(&self) -> ClusterView {
        ClusterView::of(self.revision, self.changes.iter().cloned())
    }
}

/// Everything that can happen to an engine.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time has passed, with no other event.
    Tick,
    /// The node should join.
    Start {
        /// Wall clock's reading for `NodeMetadata::start`.
        start: SystemTime,
        /// Leases of earlier lives of this node that are proven dead ("proof of death" in the protocol). The
        /// supervisor passes them, or the pod's lock proves them.
        dead: Dead,
    },
    /// The node should leave: stop all work, resign, revoke. The last effect is [`Effect::Left`].
    Stop,
    /// The deadline of the leaving has passed: the engine only revokes, at once (an unclean end if work still
    /// runs).
    StopNow,
    /// A linearizable list of the watched range arrived; it replaces the view.
    Listed {
        /// Clock reading before the list was sent.
        sent_at: BootTime,
        /// Clock reading after the answer was received.
        received_at: BootTime,
        /// Revision of the list.
        revision: Revision,
        /// Id of the store's cluster.
        cluster: u64,
        /// All keys of the range.
        changes: Vec<Change>,
    },
    /// All changes of one revision arrived from the one watch.
    Changed {
        /// Clock reading after the changes were received.
        received_at: BootTime,
        /// Revision of these changes.
        revision: Revision,
        /// All changes of that revision.
        changes: Vec<Change>,
    },
    /// A progress notice of the watch arrived: the watch has delivered everything up to its revision.
    Progress {
        /// Revision of the notice.
        revision: Revision,
    },
    /// The watch broke; a list or the resumed watch will follow. The view can miss a vanished key only if a
    /// list follows.
    WatchLost,
    /// A call was answered, or its sender gave it up.
    Answered {
        /// Id of the call.
        id: CallId,
        /// Clock reading before the call was handed to the transport.
        sent_at: BootTime,
        /// Clock reading after the answer was received.
        received_at: BootTime,
        /// Outcome of the call.
        outcome: Outcome,
    },
    /// All tasks and effects of the last [`Effect::StartWork`] have ended and been joined.
    WorkEnded {
        /// Number of the work that ended.
        work: u64,
    },
    /// T7 (FENCED, a write as leader): a fenced write of this term failed its compare.
    OfficeOver {
        /// Term of the write.
        term: Term,
    },
    /// The leader's work cannot continue on this node (panics, a wedged routine): the engine gives up office,
    /// and does not campaign before [`Input::Fit`].
    Unfit,
    /// The node may campaign again.
    Fit,
    /// The node should give up office once, cleanly (`resign`); another node should get it.
    Resign,
    /// The node wants no shards and no office (`true`), or accepts them again (`false`).
    Drain(bool),
    /// All tasks of a shard have ended and been joined after [`Effect::StopShard`].
    ShardEnded {
        /// Work type of the shard.
        work: WorkType,
        /// Shard whose tasks ended.
        shard: super::types::ShardId,
    },
}

/// Earlier incarnations that this node may end at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dead {
    /// Leases of dead incarnations.
    pub leases: Vec<LeaseId>,
    /// Pod UID that proves a holder of the own id dead: a holder with this UID is a dead life of the same
    /// pod, since this process holds the pod's exclusive lock.
    pub pod_uid: Option<String>,
}

/// Effects that the engine asks for, in order. The engine never waits for an effect: the result comes back as
/// an [`Input`], or never does, and time passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send a call. The driver reads the clock before it hands the call to the transport.
    Send {
        /// Id that comes back with the answer.
        id: CallId,
        /// Call that is to be sent.
        call: Call,
    },
    /// Under `supervise`: report this lease to the parent before the following grant is sent.
    Announce {
        /// Lease id drawn for the next GRANT.
        lease: LeaseId,
    },
    /// List the range again and watch from R + 1; drop the old watch.
    Relist,
    /// The node is registered under this lease; put its own state (again).
    Joined {
        /// Lease of the incarnation.
        lease: LeaseId,
        /// Revision of JOIN: all keys that JOIN put have this mod revision.
        revision: Revision,
        /// Tick that the node runs at.
        tick: Duration,
    },
    /// The node is no longer registered; the engine joins again under a new lease by itself.
    SessionLost {
        /// Lease of the incarnation that ended.
        lease: LeaseId,
        /// Reason of the loss.
        reason: SessionEnd,
    },
    /// The join was refused. The engine is at rest until the next [`Input::Start`].
    Refused(Refusal),
    /// The node has left the cluster; the engine is at rest until the next [`Input::Start`].
    Left {
        /// Whether the leases and keys are known to be gone and the end was clean.
        clean: bool,
    },
    /// The role of this node changed.
    Role(Standing),
    /// Start the leader's work. Alternates with [`Effect::StopWork`].
    StartWork {
        /// Number of this work. Each start has a new number, also when a suspended term resumes.
        work: u64,
        /// Office that the work belongs to.
        office: Office,
    },
    /// Cancel the leader's work, end and join all its tasks, then send [`Input::WorkEnded`].
    StopWork {
        /// Number of the work.
        work: u64,
        /// Reason of the stop.
        reason: WorkEnd,
    },
    /// A term has closed permanently.
    TermClosed {
        /// Term that has closed.
        term: Term,
        /// Reason of the closing.
        reason: WorkEnd,
    },
    /// Start to work on a shard, which is claimed and inside shard authority. List its objects again.
    StartShard {
        /// Work type of the shard.
        work: WorkType,
        /// Shard to work on.
        shard: super::types::ShardId,
        /// Epoch of the claim.
        epoch: super::types::ShardEpoch,
    },
    /// Take no new work of the shard, end and join its tasks, then send [`Input::ShardEnded`].
    StopShard {
        /// Work type of the shard.
        work: WorkType,
        /// Shard that is to stop.
        shard: super::types::ShardId,
        /// Reason of the stop.
        reason: ShardEnd,
    },
    /// The cluster's tick has changed to this.
    TickChanged(Duration),
    /// The store was replaced by another, or by an earlier state of itself (R8). Other users of the store
    /// must list again.
    StoreReplaced,
}

/// Role of a node, and the term that it acts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Role of this node.
    pub role: super::types::Role,
    /// Own term, if the node is leader.
    pub term: Option<Term>,
}

/// Stay of a node in office.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Office {
    /// Term of the office: create revision of the candidate key.
    pub term: Term,
    /// Mod revision of the candidate key after TAKE, which fenced writes compare.
    pub revision: Revision,
    /// Lease of the incarnation; it names the candidate key.
    pub lease: LeaseId,
}

/// Reasons why leader's work stops. A closed set: also a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkEnd {
    /// Authority lapsed. The node is still in office, and work resumes with the next committed beat.
    Suspended,
    /// A beat or a fenced write found that the office is over.
    Deposed,
    /// The own candidate key is gone, was created again, or was changed by another client.
    KeyLost,
    /// A resignation was asked for, or the node is drained.
    Resigned,
    /// The node is leaving.
    Stopping,
    /// The node reported that it is unfit.
    Unfit,
    /// R13 (useless office): answers to beats came too late, or not at all, for too long.
    Useless,
    /// The session was lost, or the store was replaced.
    SessionLost,
}

/// Reasons why work on a shard stops. A closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShardEnd {
    /// The plan drains the shard or names another owner.
    Moved,
    /// The node's shard authority lapsed.
    Lapsed,
    /// The node is leaving or drains.
    Stopping,
    /// The held key, the session or the store was lost.
    SessionLost,
}

/// Reasons why an incarnation ended. A closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionEnd {
    /// The store does not know the lease.
    LeaseLost,
    /// The own member key is gone or on another lease.
    MemberLost,
    /// Another client changed or removed the own held key.
    HeldLost,
    /// The store was wiped, restored or exchanged (R8).
    StoreReplaced,
    /// R16 (renewals without answer): no renewal of the lease was answered for its TTL.
    Unanswered,
    /// R14 (useless ownership): the node held shards, and answers came too late to work on them.
    UselessOwner,
}

/// Reasons why a node may not join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A live node has the id.
    DuplicateId {
        /// Address that the live node published.
        address: String,
        /// Lease of the live node's incarnation, if its key hangs on one.
        holder: Option<LeaseId>,
    },
    /// The cluster runs at another tick, or a live node does.
    TickDisagreement {
        /// Tick of the cluster, or of the live node.
        cluster: Duration,
        /// Tick of this node.
        own: Duration,
    },
}
