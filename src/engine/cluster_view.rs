//! View of a cluster at one revision: which node leads, which nodes wait, which incarnation holds which
//! shards.
//!
//! The view is pure and typed. The engine's rules, a node's status, the probes, the `Election` and the command
//! line all read this one view, so that they cannot disagree. The view keeps no times: the engine's receipts
//! (R3, when a key was received) hold when each key was received and which keys vanished.
//!
//! Invariant: only [`ClusterView::apply`] writes the derived fields (the queue, the nodes by lease, the counts
//! of holders), together with the key that they are derived from.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use super::{
    timing::LARGEST_SPAN,
    types::{LeaseId, NodeId, NodeMetadata, Revision, ShardId, Term, WorkType},
    view::{Change, Held, Member, PlanTable, Record, Stored},
};

/// `SPAN_MAX` of the cluster's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SpanMax(Duration);

impl Default for SpanMax {
    fn default() -> Self {
        Self(LARGEST_SPAN)
    }
}

/// A cluster at one revision. A clone shares the values: it costs a reference count for each key, and
/// copies no text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterView {
    span_max: SpanMax,
    pub(super) revision: Revision,
    pub(super) record: Option<Stored<Record>>,
    pub(super) candidates: BTreeMap<LeaseId, Stored<NodeId>>,
    /// The candidates by their create revision: the order in which they take office.
    pub(super) queue: BTreeMap<Revision, LeaseId>,
    /// The members' records, in an `Arc` as the nodes are, so that a clone of the view copies no text.
    pub(super) members: BTreeMap<NodeId, Arc<Stored<Member>>>,
    /// The members by the lease that their record is attached to.
    pub(super) by_lease: BTreeMap<LeaseId, NodeId>,
    pub(super) nodes: BTreeMap<NodeId, Arc<Stored<NodeMetadata>>>,
    pub(super) held: BTreeMap<LeaseId, Arc<Stored<Held>>>,
    pub(super) plans: BTreeMap<WorkType, Arc<Stored<PlanTable>>>,
    pub(super) tick: Option<Stored<Duration>>,
    /// The nodes' own ticks. Their keys are outside the watched range, so only the answers of requests show them.
    pub(super) tick_keys: BTreeMap<NodeId, Stored<Duration>>,
    pub(super) resign: Option<Stored<Term>>,
    pub(super) drains: BTreeSet<NodeId>,
    /// How many held keys contain each shard. The counts are updated with each change: to scan a thousand held
    /// keys for each of a thousand nodes that join would be too slow.
    holders: BTreeMap<WorkType, BTreeMap<ShardId, u32>>,
}

/// The node in office, as far as the store shows it: a silent leader looks like a leader that acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Id of the node in office.
    pub id: NodeId,
    /// The lease of the leader's incarnation, which is in the name of its candidate key.
    pub lease: LeaseId,
    /// The term: the create revision of the leader's candidate key.
    pub term: Term,
    /// D of the leader's record; `None` for a node of the Go package, which writes no record.
    pub d: Option<Duration>,
    /// Whether the leader sent its last beat without authority: it is in office and does not act.
    pub suspended: bool,
}

/// The incarnation that holds a shard, by its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The node whose member record is attached to the same lease as the held key.
    Node(NodeId),
    /// No member record is attached to the lease in the held key's name.
    Unknown,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => id.fmt(f),
            Self::Unknown => f.write_str("?"),
        }
    }
}

/// A shard, as the plan assigns it and as an incarnation holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shard {
    /// The live node that the plan assigns the shard to.
    pub planned: Option<NodeId>,
    /// The holder of the shard, even if the plan names another owner.
    pub held: Option<Holder>,
    /// Whether the plan asks the owner to release the shard.
    pub draining: bool,
}

impl ClusterView {
    /// An empty view of a cluster whose store has that `SPAN_MAX`. Other views accept that of any store.
    pub fn within(span_max: Duration) -> Self {
        Self { span_max: SpanMax(span_max), ..Self::default() }
    }

    /// `SPAN_MAX` of the cluster's store.
    pub(super) fn span_max(&self) -> Duration {
        self.span_max.0
    }

    /// Builds the view at `revision` from the keys that a list returned.
    pub fn of(revision: Revision, changes: impl IntoIterator<Item = Change>) -> Self {
        let mut view = Self { revision, ..Self::default() };
        changes.into_iter().for_each(|change| view.apply(change));
        view
    }

    /// Moves the view to `revision`, up to which all changes were applied. The view's revision never decreases.
    pub fn advance(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
    }

    /// Applies the new state of one key.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Candidate(lease, now) => {
                if let Some(before) = self.candidates.get(&lease) {
                    self.queue.remove(&before.created);
                }
                if let Some(now) = &now {
                    self.queue.insert(now.created, lease);
                }
                put(&mut self.candidates, lease, now);
            }
            Change::Node(id, now) => put(&mut self.nodes, id, now.map(Arc::new)),
            Change::Member(id, now) => {
                if let Some(lease) = self.members.get(&id).and_then(|before| before.lease)
                    && self.by_lease.get(&lease) == Some(&id)
                {
                    self.by_lease.remove(&lease);
                }
                if let Some(lease) = now.as_ref().and_then(|now| now.lease) {
                    self.by_lease.insert(lease, id);
                }
                put(&mut self.members, id, now.map(Arc::new));
            }
            Change::Held(lease, now) => self.set_held(lease, now),
            Change::Record(now) => self.record = now,
            Change::Plan(work, now) => put(&mut self.plans, work, now.map(Arc::new)),
            Change::Tick(now) => self.tick = now,
            Change::TickKey(id, now) => put(&mut self.tick_keys, id, now),
            Change::ResignRequest(now) => self.resign = now,
            Change::DrainRequest(id, Some(_)) => drop(self.drains.insert(id)),
            Change::DrainRequest(id, None) => drop(self.drains.remove(&id)),
        }
    }

    fn set_held(&mut self, lease: LeaseId, now: Option<Stored<Held>>) {
        let held = now.as_ref().and_then(|stored| stored.value.as_ref());
        for (work, shard) in held.iter().flat_map(|held| held.shards.keys()) {
            *self.holders.entry(work.clone()).or_default().entry(*shard).or_default() += 1;
        }
        let before = self.held.remove(&lease);
        let before = before.as_ref().and_then(|stored| stored.value.as_ref());
        for (work, shard) in before.iter().flat_map(|held| held.shards.keys()) {
            let holders = self.holders.get_mut(work).expect("it was counted");
            let count = holders.get_mut(shard).expect("it was counted");
            *count -= 1;
            if *count == 0 {
                holders.remove(shard);
            }
            if holders.is_empty() {
                self.holders.remove(work);
            }
        }
        put(&mut self.held, lease, now.map(Arc::new));
    }

    /// Revision of the view; zero before the first list.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Revision of the last write of the record; `None` if there is no record.
    pub fn record_revision(&self) -> Option<Revision> {
        self.record.as_ref().map(|stored| stored.modified)
    }

    /// The record, if it is readable.
    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()?.value.as_ref()
    }

    /// The record if it is sound: readable, with a D of at most `SPAN_MAX` (R3).
    pub fn sound_record(&self) -> Option<&Record> {
        self.record().filter(|record| record.d <= self.span_max.0)
    }

    /// The term and the lease in office by the record, while the candidate key of that term exists.
    pub fn seated(&self) -> Option<(Term, LeaseId)> {
        let record = self.sound_record().filter(|record| !record.ended)?;
        let lease = record.lease?;
        let candidate = self.candidates.get(&lease)?;
        (candidate.created.0 == record.term.0).then_some((record.term, lease))
    }

    /// The node in office: the node that the record names, while its candidate key still has the create
    /// revision that is the term; otherwise the oldest candidate, if it is a node of the Go package, which
    /// writes no record.
    pub fn leader(&self) -> Option<Leader> {
        if let Some((term, lease)) = self.seated() {
            let record = self.sound_record()?;
            let (id, d, suspended) = (record.node?, Some(record.d), record.suspended);
            return Some(Leader { id, lease, term, d, suspended });
        }
        let (lease, oldest) = self.queue().next()?;
        let id = oldest.value.filter(|_| !self.is_ours(lease))?;
        let term = Term(oldest.created.0);
        Some(Leader { id, lease, term, d: None, suspended: false })
    }

    /// The candidates, oldest first: the order in which they take office.
    pub fn queue(&self) -> impl Iterator<Item = (LeaseId, &Stored<NodeId>)> {
        self.queue.values().map(|lease| (*lease, &self.candidates[lease]))
    }

    /// The candidate key of an incarnation.
    pub fn candidate(&self, lease: LeaseId) -> Option<&Stored<NodeId>> {
        self.candidates.get(&lease)
    }

    /// Whether the incarnation with that lease is a node of this library, and not of the Go package: whether
    /// a member record is attached to the lease.
    pub fn is_ours(&self, lease: LeaseId) -> bool {
        self.by_lease.contains_key(&lease)
    }

    /// The node of an incarnation, by its member record.
    pub fn node_of(&self, lease: LeaseId) -> Option<NodeId> {
        self.by_lease.get(&lease).copied()
    }

    /// The metadata of the live nodes.
    pub fn nodes(&self) -> &BTreeMap<NodeId, Arc<Stored<NodeMetadata>>> {
        &self.nodes
    }

    /// The address of a live node, if its metadata is readable.
    pub fn address_of(&self, id: NodeId) -> Option<&str> {
        Some(&self.nodes.get(&id)?.value.as_ref()?.address)
    }

    /// The members' records, by node id.
    pub fn members(&self) -> &BTreeMap<NodeId, Arc<Stored<Member>>> {
        &self.members
    }

    /// Whether a node is drained, by its own member record or by an operator's request.
    pub fn is_drained(&self, id: NodeId) -> bool {
        let member = self.members.get(&id).and_then(|stored| stored.value.as_ref());
        self.drains.contains(&id) || member.is_some_and(|member| member.draining)
    }

    /// The ids that an operator has drained.
    pub fn drains(&self) -> &BTreeSet<NodeId> {
        &self.drains
    }

    /// How many shards an incarnation holds, over all work types.
    pub fn shards_held(&self, lease: LeaseId) -> usize {
        let held = self.held.get(&lease).and_then(|stored| stored.value.as_ref());
        held.map_or(0, |held| held.shards.len())
    }

    /// The held key of an incarnation, if it is sound: readable, and attached to the lease in its name.
    pub fn sound_held(&self, lease: LeaseId) -> Option<(Revision, &Held)> {
        let stored = self.held.get(&lease).filter(|stored| is_sound(lease, stored))?;
        stored.value.as_ref().map(|held| (stored.modified, held))
    }

    /// The sound held keys, by incarnation.
    pub fn held(&self) -> impl Iterator<Item = (LeaseId, &Held)> {
        let leases = self.held.keys();
        leases.filter_map(|lease| self.sound_held(*lease).map(|(_, held)| (*lease, held)))
    }

    /// The readable plans, by work type.
    pub fn plans(&self) -> impl Iterator<Item = (&WorkType, &PlanTable)> {
        self.plans.iter().filter_map(|(work, plan)| Some((work, plan.value.as_ref()?)))
    }

    /// Whether a live member offers work of that type: otherwise there is no node to plan it for.
    pub fn is_offered(&self, work: &WorkType) -> bool {
        let mut members = self.members.values().filter_map(|stored| stored.value.as_ref());
        members.any(|member| member.work.iter().any(|offer| offer.work == *work))
    }

    /// How many shards of a plan have no holder. The count is zero for work that no live member offers: such
    /// work has ended, although its plan stays in the store.
    pub fn unowned(&self, work: &WorkType) -> usize {
        let plan = self.plans.get(work).and_then(|plan| plan.value.as_ref());
        let Some(plan) = plan.filter(|_| self.is_offered(work)) else { return 0 };
        let all = ..ShardId(u32::try_from(plan.shards.len()).unwrap_or(u32::MAX));
        let held = self.holders.get(work).map_or(0, |holders| holders.range(all).count());
        plan.shards.len() - held
    }

    /// The shards of a work type by number; their count is that of the plan.
    pub fn shards(&self, work: &WorkType) -> Vec<Shard> {
        let plan = self.plans.get(work).and_then(|plan| plan.value.as_ref());
        let planned = plan.map_or(&[][..], |plan| &plan.shards);
        let mut shards: Vec<Shard> = planned
            .iter()
            .map(|it| Shard {
                planned: it.owner.and_then(|lease| self.node_of(lease)),
                held: None,
                draining: it.draining,
            })
            .collect();
        for (lease, stored) in &self.held {
            let holder = self.node_of(*lease).map_or(Holder::Unknown, Holder::Node);
            let held = stored.value.iter().flat_map(|held| held.shards.keys());
            for (_, ShardId(number)) in held.filter(|(of, _)| of == work) {
                if let Some(shard) = shards.get_mut(*number as usize) {
                    shard.held = Some(holder);
                }
            }
        }
        shards
    }

    /// Tick that the cluster runs at, if its key is readable.
    pub fn tick(&self) -> Option<Duration> {
        self.tick.as_ref()?.value
    }

    /// The term that a resign request asks to end.
    pub fn resign_request(&self) -> Option<Term> {
        self.resign.as_ref()?.value
    }
}

/// Whether a held key is sound: readable, and attached to the lease in its name.
pub(super) fn is_sound(lease: LeaseId, stored: &Stored<Held>) -> bool {
    stored.lease == Some(lease) && stored.value.is_some()
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

#[cfg(test)]
mod tests;
