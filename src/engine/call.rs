//! What the engine asks of the store, and what comes back.
//!
//! Each [`Call`] is one transaction of the protocol (T1 to T19), with all that its compares need. How
//! a call is written as keys and compares is `store::protocol`'s part, in one place for the driver,
//! the supervisor and the simulation. A call is sent as it is, once: whether it is sent again is the
//! engine's decision.

use std::time::{Duration, SystemTime};

use super::{
    cluster_view::ClusterView,
    types::{BootTime, CallId, LeaseId, NodeId, NodeMetadata, Revision, Term, WorkType},
    view::{Change, Held, Member, PlanTable, Record},
};

/// One request to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// T1: grant a lease of that id.
    Grant {
        /// Drawn by the engine.
        lease: LeaseId,
        /// Asked for; the store may grant more.
        ttl: Duration,
    },
    /// Renew a lease, once. Proves nothing (T14); only keeps keys alive.
    Renew {
        /// Which.
        lease: LeaseId,
    },
    /// T11: revoke a lease.
    Revoke {
        /// Which.
        lease: LeaseId,
    },
    /// Before T2, one linearizable read-only transaction: `tick`, all of `/C/state-data/tick/`, own
    /// `node(id)` and `member(id)`. The answer's changes hold those that exist, and the absence of
    /// `tick`, `node(id)` and `member(id)`.
    ReadJoin {
        /// The id to join under.
        id: NodeId,
    },
    /// T2.
    Join(Box<Join>),
    /// T3: create the record as a seed, if there is none.
    Seed {
        /// Whether it may say "ended": only for a store that this process has just created.
        ended: bool,
    },
    /// T4: create the own candidate key.
    Enrol {
        /// Own incarnation.
        lease: LeaseId,
        /// Own id.
        id: NodeId,
        /// c(member(id)) of this incarnation.
        member_created: Revision,
    },
    /// T4: delete the own candidate key of a closed term, or T19 any broken candidate key. Leaves the
    /// record alone. Compares `m(cand)`.
    Withdraw {
        /// In the key's name.
        lease: LeaseId,
        /// m(cand) as seen.
        modified: Revision,
    },
    /// T5.
    Take(Box<Take>),
    /// T6.
    Beat {
        /// m(cand) after the TAKE.
        office: Revision,
        /// To write; its lease names the candidate.
        record: Record,
    },
    /// T8: mark the record ended and delete the candidate. Compares `m(cand)`.
    Resign {
        /// m(cand) after the TAKE.
        office: Revision,
        /// To write, ended; its lease names the candidate.
        record: Record,
    },
    /// T9: the first part of a clean stop; REVOKE follows.
    Stop {
        /// Own incarnation.
        lease: LeaseId,
        /// h: m(held) as last known.
        held: Revision,
        /// Nonce of the empty held key.
        nonce: u64,
        /// If in office until now: m(cand) after the TAKE, and the record to write, ended.
        office: Option<(Revision, Record)>,
    },
    /// T10, first part: one linearizable read of the record and held(lease). The changes show both,
    /// present or not.
    ReadEnd {
        /// Of the incarnation that is to be ended.
        lease: LeaseId,
    },
    /// T10, second part; REVOKE follows.
    End {
        /// Of the incarnation that is to be ended.
        lease: LeaseId,
        /// If it was in office and not ended: m(record) as read, and the record to write, ended.
        record: Option<(Revision, Record)>,
        /// m(held) as read, if it was there: then an empty one with this nonce is put on the lease.
        held: Option<(Revision, u64)>,
    },
    /// T12, T13 and the settling of an unresolved write: writes the own held key. Compares
    /// `m(held) = held` and each plan.
    WriteHeld {
        /// Own incarnation.
        lease: LeaseId,
        /// h as last known.
        held: Revision,
        /// plan(w) as seen, byte for byte, of each work type with a shard that is claimed.
        plans: Vec<(WorkType, Vec<u8>)>,
        /// To write.
        content: Held,
    },
    /// T14: linearizable get of held(lease). The changes show it, present or not.
    Check {
        /// Own incarnation.
        lease: LeaseId,
    },
    /// T15: create a plan that says "all shards: nobody", if there is none.
    InitPlan {
        /// m(cand) and lease of the office.
        office: (LeaseId, Revision),
        /// Which work type.
        work: WorkType,
        /// To write.
        table: PlanTable,
    },
    /// T15.
    Plan {
        /// Lease of the office, and m(cand) after its TAKE.
        office: (LeaseId, Revision),
        /// Which work type.
        work: WorkType,
        /// m(plan(w)) as seen, never zero.
        modified: Revision,
        /// For each owner from whom a shard is taken because its living held key lacks it: held
        /// as seen, byte for byte.
        proofs: Vec<(LeaseId, Vec<u8>)>,
        /// To write.
        table: PlanTable,
    },
    /// T15, T19 and R8: delete a held key that is junk or on the wrong lease. Compares `m`, and the office.
    DeleteHeld {
        /// Lease of the office, and m(cand) after its TAKE.
        office: (LeaseId, Revision),
        /// In the key's name.
        lease: LeaseId,
        /// m(held) as seen.
        modified: Revision,
        /// Its value, byte for byte.
        value: Vec<u8>,
    },
    /// T2: delete an operator's node and member keys that hang on no lease. Compares each `m` (zero =
    /// absent: then only compared).
    DeleteSquatter {
        /// Whose.
        id: NodeId,
        /// m(node(id)) as seen.
        node: Revision,
        /// m(member(id)) as seen.
        member: Revision,
    },
    /// T17 for `node(id)`: the own metadata with another role. Compares `m`; the else branch gets it.
    WriteNode {
        /// Own incarnation.
        lease: LeaseId,
        /// m(node(id)) as last known.
        modified: Revision,
        /// To write.
        metadata: NodeMetadata,
    },
    /// T17 for `member(id)`: a change of draining, offers or tick. Compares `m`; the else branch gets it.
    WriteMember {
        /// Whose.
        id: NodeId,
        /// m(member(id)) as last known.
        modified: Revision,
        /// To write; its lease is the own incarnation.
        member: Member,
    },
    /// T17 for `tickkey(id)`. Compares `m`; the else branch gets it.
    WriteTickKey {
        /// Own incarnation.
        lease: LeaseId,
        /// Whose.
        id: NodeId,
        /// m(tickkey(id)) as last known.
        modified: Revision,
        /// To write.
        tick: Duration,
    },
    /// T18.
    SwitchTick {
        /// Lease of the office, and m(cand) after its TAKE.
        office: (LeaseId, Revision),
        /// m(tick) as seen.
        modified: Revision,
        /// R of the view: nobody joined and no offer changed since.
        view: Revision,
        /// To write.
        tick: Duration,
    },
}

/// What T2 compares and puts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// The new incarnation.
    pub lease: LeaseId,
    /// Puts `node(id)`.
    pub metadata: NodeMetadata,
    /// Puts `tickkey(id)`: the tick it runs at.
    pub tick: Duration,
    /// Puts `member(id)`.
    pub member: Member,
    /// Whether it puts the candidate key.
    pub candidate: bool,
    /// Nonce of the empty held key.
    pub nonce: u64,
    /// What it does about the cluster's tick.
    pub cluster_tick: JoinTick,
}

/// What T2 does about `/C/bellwether/tick`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinTick {
    /// It is the joiner's, or the joiner adopts it: compares `m(tick)`.
    Keep {
        /// m(tick) as read.
        modified: Revision,
    },
    /// There is none, or junk, and no live node's tick differs: compares `m(tick)` and range
    /// `m < read + 1` over `/C/state-data/tick/`, and puts it.
    Create {
        /// R of the read.
        read: Revision,
        /// m(tick) as read: of junk, or zero.
        modified: Revision,
    },
    /// It differs and nobody lives: compares `m(tick)` and range `c = 0` over `/C/nodes/`, and puts it.
    /// The else branch gets that range too. Node keys that hang on no lease are nobody's: with them,
    /// range `m < strays + 1` over `/C/nodes/` and `/C/state-data/tick/` instead.
    Replace {
        /// m(tick) as read.
        modified: Revision,
        /// R of an else branch that showed only node keys without a lease.
        strays: Option<Revision>,
    },
}

/// What T5 compares, deletes and puts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Take {
    /// c(cand): own term.
    pub term: Term,
    /// m(record) of `rec_at`.
    pub record_modified: Revision,
    /// Its value, byte for byte.
    pub record_value: Vec<u8>,
    /// O, oldest first: in each the lease of the key's name and c as seen. All are deleted; `c` of the
    /// first is compared.
    pub older: Vec<(LeaseId, Revision)>,
    /// The holder clause.
    pub holder: HolderClause,
    /// To write; its lease names the own candidate.
    pub record: Record,
}

/// What T5 does about the candidate key of the record's holder, if the record is not ended and has
/// another lease than the own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HolderClause {
    /// Nothing to do: ended, a seed, own, or among the older candidates that TAKE deletes anyway.
    None,
    /// The view still shows it with `c = record.term`: it is deleted.
    Delete {
        /// In its name.
        lease: LeaseId,
    },
    /// The view does not show it so: compares `c(cand(lease)) ≠ term`.
    Gone {
        /// In its name.
        lease: LeaseId,
        /// The record's term.
        term: Term,
    },
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect: the compares held.
    Done(Answer),
    /// It took none: a compare failed. The changes hold what the else branch read.
    Refused(Answer),
    /// It took none: the lease is not in the store. For a transaction only if the compares held.
    LeaseNotFound,
    /// GRANT took none: the lease id exists.
    LeaseExists,
    /// It took none, and it is known: refused before it was sent, or denied.
    Failed,
    /// It may or may not have taken effect, now or later: no answer, or an error after it was sent.
    Unknown,
}

/// What an answer carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Header revision. Zero where there is none to rely on (keepalives, grants of the memory store).
    pub revision: Revision,
    /// Id of the store's cluster: a change of it is a replaced store (R8). Zero where it is not known
    /// (the renewal of a lease that is gone).
    pub cluster: u64,
    /// What was read, by reads and by else branches.
    pub changes: Vec<Change>,
    /// TTL granted or renewed; zero = the lease is gone. Only for GRANT and keepalive.
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
    /// Time passed, nothing else.
    Tick,
    /// The node should join. `start` is the wall clock's reading, for the metadata.
    Start {
        /// Goes into `NodeMetadata::start`.
        start: SystemTime,
        /// Leases of earlier lives of this node that are proven dead (protocol, proof of death): from
        /// the supervisor, or known by the pod's lock.
        dead: Dead,
    },
    /// The node should leave: stop all work, resign, revoke. Ends in [`Effect::Left`].
    Stop,
    /// The deadline of the leaving has passed: revoke only, at once (an unclean end if work still runs).
    StopNow,
    /// A linearizable list of the watched range: replaces the view.
    Listed {
        /// Taken before the list was sent.
        sent_at: BootTime,
        /// Taken after the answer was received.
        received_at: BootTime,
        /// R of the list.
        revision: Revision,
        /// Id of the store's cluster.
        cluster: u64,
        /// All keys of the range.
        changes: Vec<Change>,
    },
    /// All changes of one revision, from the one watch.
    Changed {
        /// Taken after they were received.
        received_at: BootTime,
        /// Theirs.
        revision: Revision,
        /// All of them.
        changes: Vec<Change>,
    },
    /// A progress notice of the watch: everything up to here was delivered.
    Progress {
        /// Up to where.
        revision: Revision,
    },
    /// The watch broke; a list or the resumed watch will follow. What vanishes meanwhile may go unseen
    /// only if a list follows.
    WatchLost,
    /// A call was answered, or given up.
    Answered {
        /// Which.
        id: CallId,
        /// Taken before it was handed to the transport.
        sent_at: BootTime,
        /// Taken after the answer was received.
        received_at: BootTime,
        /// What became of it.
        outcome: Outcome,
    },
    /// All tasks and effects of the last [`Effect::StartWork`] have ended and been joined.
    WorkEnded {
        /// Its number.
        work: u64,
    },
    /// T7: a fenced write of this term failed its compare.
    OfficeOver {
        /// Which.
        term: Term,
    },
    /// The leader's work cannot go on in this node (panics, a wedged routine): give up office, and do
    /// not campaign before [`Input::Fit`].
    Unfit,
    /// The node may campaign again.
    Fit,
    /// Give up office once, cleanly (`resign`); another node should get it.
    Resign,
    /// The node wants no shards and no office, or wants them again.
    Drain(bool),
    /// All tasks of a shard have ended and been joined after [`Effect::StopShard`].
    ShardEnded {
        /// Of which work type.
        work: WorkType,
        /// Which.
        shard: super::types::ShardId,
    },
}

/// Which earlier incarnations this node may end at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dead {
    /// By lease.
    pub leases: Vec<LeaseId>,
    /// A holder of the own id with this pod UID is a dead life of the same pod: this process holds the
    /// pod's exclusive lock.
    pub pod_uid: Option<String>,
}

/// What the engine wants done, in order. It never waits for an effect: what becomes of it comes back
/// as an [`Input`], or does not, and time passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send a call. Stamp the clock before it is handed to the transport.
    Send {
        /// Comes back with the answer.
        id: CallId,
        /// What to send.
        call: Call,
    },
    /// Under `supervise`: tell the parent this lease before the grant that follows leaves.
    Announce {
        /// Drawn for the next GRANT.
        lease: LeaseId,
    },
    /// List the range anew and watch from R + 1; the old watch is to be dropped.
    Relist,
    /// Registered under this lease; own state is to be put (back).
    Joined {
        /// The incarnation.
        lease: LeaseId,
        /// R of JOIN: what JOIN put has this mod revision.
        revision: Revision,
        /// The tick the node runs at.
        tick: Duration,
    },
    /// Not registered any more; a join under a new lease follows by itself.
    SessionLost {
        /// The incarnation that ended.
        lease: LeaseId,
        /// Why.
        reason: SessionEnd,
    },
    /// The join was refused. The engine is at rest until the next [`Input::Start`].
    Refused(Refusal),
    /// Left the cluster; at rest until the next [`Input::Start`].
    Left {
        /// Whether the leases and keys are known to be gone and the end was clean.
        clean: bool,
    },
    /// The role changed.
    Role(Standing),
    /// Start the leader's work. Alternates with [`Effect::StopWork`].
    StartWork {
        /// Numbered anew each time: a suspended term that resumes is a new number.
        work: u64,
        /// Its office.
        office: Office,
    },
    /// Cancel the leader's work, end and join all its tasks, then say [`Input::WorkEnded`].
    StopWork {
        /// Which.
        work: u64,
        /// Why.
        reason: WorkEnd,
    },
    /// A term has closed for good.
    TermClosed {
        /// Which.
        term: Term,
        /// Why.
        reason: WorkEnd,
    },
    /// Start working on a shard: claimed and inside shard authority. Re-list its objects.
    StartShard {
        /// Of which work type.
        work: WorkType,
        /// Which.
        shard: super::types::ShardId,
        /// Of the claim.
        epoch: super::types::ShardEpoch,
    },
    /// Take no new work of the shard, end and join its tasks, then say [`Input::ShardEnded`].
    StopShard {
        /// Of which work type.
        work: WorkType,
        /// Which.
        shard: super::types::ShardId,
        /// Why.
        reason: ShardEnd,
    },
    /// The cluster's tick is now this.
    TickChanged(Duration),
    /// The store was replaced by another, or by an earlier state of itself (R8): whatever else follows it
    /// must list again.
    StoreReplaced,
}

/// A role, and whose office the node acts in or under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its own.
    pub role: super::types::Role,
    /// Own term, if it is leader.
    pub term: Option<Term>,
}

/// One stay in office.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Office {
    /// The term: create revision of the candidate key.
    pub term: Term,
    /// Mod revision of the candidate key after TAKE: what fenced writes compare.
    pub revision: Revision,
    /// The incarnation; names the candidate key.
    pub lease: LeaseId,
}

/// Why leader's work stops. A closed set: also a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkEnd {
    /// Authority lapsed; the office stands, and work resumes with the next committed beat.
    Suspended,
    /// A beat or a fenced write found the office over.
    Deposed,
    /// The own candidate key is gone, was created anew or was broken by somebody.
    KeyLost,
    /// Asked for.
    Resigned,
    /// The node is leaving.
    Stopping,
    /// The node said that it is unfit.
    Unfit,
    /// R13: answers to beats came too late, or not at all, for so long that the office was of no use.
    Useless,
    /// The session was lost, or the store was replaced.
    SessionLost,
}

/// Why work on a shard stops. A closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShardEnd {
    /// The plan drains it or names another.
    Moved,
    /// Shard authority lapsed.
    Lapsed,
    /// The node is leaving or drains.
    Stopping,
    /// The held key, the session or the store was lost.
    SessionLost,
}

/// Why an incarnation ended. A closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionEnd {
    /// The store does not know the lease.
    LeaseLost,
    /// The own member key is gone or on another lease.
    MemberLost,
    /// The own held key was changed or removed by somebody.
    HeldLost,
    /// The store was wiped, restored or exchanged (R8).
    StoreReplaced,
    /// R16: no renewal of the lease was answered for its TTL.
    Unanswered,
    /// R14: the shards were held, and answers came too late to work on them.
    UselessOwner,
}

/// Why a node was not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A live node has the id.
    DuplicateId {
        /// Where it says it is.
        address: String,
        /// Its incarnation, if its key hangs on one.
        holder: Option<LeaseId>,
    },
    /// The cluster runs at another tick, or a live node does.
    TickDisagreement {
        /// The cluster's.
        cluster: Duration,
        /// This node's.
        own: Duration,
    },
}
