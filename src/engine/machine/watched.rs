//! What this node has seen of the cluster, and when: the view, with receipts and vanish times.
//!
//! The one rule (R1, R3): every wait for somebody else counts from a reading taken after the message
//! that it hangs on was received, and from the first such message.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::engine::{
    timing::SPAN_MAX,
    types::{BootTime, LeaseId, NodeId, NodeMetadata, Revision, ShardId, Term, WorkType},
    view::{Change, Held, Member, PlanTable, Record, Stored},
};

/// Fewer held keys that vanished are not worth going through.
const FORGET_FROM: usize = 64;

/// The view of one node.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// Whether a list was received in this incarnation.
    pub(super) listed: bool,
    /// R2: the list's, then that of the last event applied or of a progress notice.
    pub(super) revision: Revision,
    pub(super) record: Option<Stored<Record>>,
    /// R3: when the record as it is now (or its absence) was first received.
    pub(super) record_at: BootTime,
    pub(super) candidates: BTreeMap<LeaseId, Stored<NodeId>>,
    /// The candidates by their create revision: whose turn it is.
    pub(super) queue: BTreeMap<Revision, LeaseId>,
    /// Since when the oldest candidate is the oldest one, as far as this node has seen.
    pub(super) oldest: Option<(Revision, LeaseId, BootTime)>,
    /// When the key of the last oldest candidate that was a Go node's went.
    pub(super) go_gone_at: Option<BootTime>,
    /// Candidate keys on a lease that is not their name, since when they were seen so.
    pub(super) broken: BTreeMap<LeaseId, (Revision, BootTime)>,
    /// Boxed, as the nodes: ids that are counted up leave the nodes of a tree half empty.
    pub(super) members: BTreeMap<NodeId, Box<Stored<Member>>>,
    /// The members by the lease that their record hangs on.
    pub(super) by_lease: BTreeMap<LeaseId, NodeId>,
    pub(super) nodes: BTreeMap<NodeId, Box<Stored<NodeMetadata>>>,
    pub(super) held: BTreeMap<LeaseId, Stored<Held>>,
    /// Held keys that are gone (or as good as gone), or were not there when a plan named them.
    pub(super) vanished: BTreeMap<LeaseId, Vanished>,
    /// Of those so many were left when they were last gone through.
    remembered: usize,
    pub(super) plans: BTreeMap<WorkType, SeenPlan>,
    pub(super) tick: Option<Stored<Duration>>,
    pub(super) resign: Option<Stored<Term>>,
    pub(super) drains: BTreeSet<NodeId>,
}

/// A held key that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vanished {
    /// When that was first received.
    pub(super) at: BootTime,
    /// What was in it, if an unbroken watch saw that.
    pub(super) last: Option<Held>,
    /// F of its member, or `SPAN_MAX` if unknown.
    pub(super) f: Duration,
}

/// A plan, and when what it says was first received.
#[derive(Clone, Debug)]
pub(super) struct SeenPlan {
    pub(super) stored: Stored<PlanTable>,
    /// By shard: when this owner and epoch were first received. For "nobody" it is set anew by a held
    /// key that vanished and is not known to have lacked the shard (T15).
    pub(super) since: Vec<BootTime>,
}

impl Watched {
    /// Replaces the view by a list.
    pub(super) fn replace(&mut self, at: BootTime, revision: Revision, changes: Vec<Change>) {
        let mut before = std::mem::take(self);
        self.listed = true;
        self.revision = revision;
        self.record_at = at;
        self.vanished = std::mem::take(&mut before.vanished);
        self.remembered = before.remembered;
        self.go_gone_at = before.go_gone_at;
        for change in changes {
            self.set(at, change, &before.plans);
        }
        if before.listed && before.record == self.record {
            self.record_at = before.record_at;
        }
        // What changed in between is unknown: a key that is gone may have held anything.
        for lease in before.held.keys() {
            if !self.held.contains_key(lease) {
                let f = before.f_of(*lease);
                self.vanish(*lease, Vanished { at, last: None, f });
            }
        }
        if before.listed {
            self.follow_oldest(at, before.oldest, |lease| before.by_lease.contains_key(&lease));
        } else {
            self.follow_oldest(at, None, |_| true);
        }
        for (lease, seen) in before.broken {
            if let Some(now) = self.broken.get_mut(&lease)
                && now.0 == seen.0
            {
                now.1 = seen.1;
            }
        }
        self.note_absent_owners(at);
    }

    /// Applies all changes of one revision.
    pub(super) fn apply(&mut self, at: BootTime, revision: Revision, changes: Vec<Change>) {
        self.revision = self.revision.max(revision);
        let oldest = self.oldest;
        let was_ours = oldest.is_none_or(|(_, lease, _)| self.by_lease.contains_key(&lease));
        // Of a thousand nodes each sees a thousand join and leave: only what that can change is looked at.
        let mut unsound = Vec::new();
        let mut planned = false;
        for change in &changes {
            planned |= matches!(change, Change::Plan(..));
            if let Change::Held(lease, now) = change {
                self.note_held(at, *lease, now.as_ref());
                if !now.as_ref().is_some_and(|now| is_sound(*lease, now)) {
                    unsound.push(*lease);
                }
            }
        }
        let none = BTreeMap::new();
        for change in changes {
            self.set(at, change, &none);
        }
        self.follow_oldest(at, oldest, |_| was_ours);
        if planned {
            self.note_absent_owners(at);
        } else if !unsound.is_empty() {
            self.note_unsound(at, &unsound);
        }
    }

    /// A held key as an event shows it, before it is applied: an unbroken watch knows what it was.
    fn note_held(&mut self, at: BootTime, lease: LeaseId, now: Option<&Stored<Held>>) {
        if now.is_some_and(|stored| is_sound(lease, stored)) {
            return;
        }
        if self.vanished.contains_key(&lease) {
            return;
        }
        let Some(before) = self.held.get(&lease) else {
            return;
        };
        // A key that was overwritten may have been claimed from in between only by its owner, whose
        // write this is not: what it held is known. Junk over junk is unknown.
        let last = if now.is_none() { before.value.clone() } else { None };
        let last = last.filter(|_| is_sound(lease, before));
        let f = self.f_of(lease);
        self.vanish(lease, Vanished { at, last, f });
    }

    fn vanish(&mut self, lease: LeaseId, vanished: Vanished) {
        // T15: the wait for "nobody" begins again, unless the key is known to have lacked the shard.
        for (work, plan) in &mut self.plans {
            let Some(table) = &plan.stored.value else {
                continue;
            };
            for (shard, since) in (0u32..).zip(plan.since.iter_mut()) {
                let nobody = table.shards.get(shard as usize).is_some_and(|a| a.owner.is_none());
                let lacked = vanished
                    .last
                    .as_ref()
                    .is_some_and(|held| !held.shards.contains_key(&(work.clone(), ShardId(shard))));
                if nobody && !lacked {
                    *since = (*since).max(vanished.at);
                }
            }
        }
        self.vanished.entry(lease).or_insert(vanished);
    }

    fn set(&mut self, at: BootTime, change: Change, plans: &BTreeMap<WorkType, SeenPlan>) {
        match change {
            Change::Candidate(lease, stored) => self.set_candidate(at, lease, stored),
            Change::Node(id, stored) => put(&mut self.nodes, id, stored.map(Box::new)),
            Change::Member(id, stored) => {
                if let Some(lease) = self.members.get(&id).and_then(|before| before.lease)
                    && self.by_lease.get(&lease) == Some(&id)
                {
                    self.by_lease.remove(&lease);
                }
                if let Some(lease) = stored.as_ref().and_then(|now| now.lease) {
                    self.by_lease.insert(lease, id);
                }
                put(&mut self.members, id, stored.map(Box::new));
            }
            Change::Held(lease, stored) => {
                if stored.as_ref().is_some_and(|stored| is_sound(lease, stored)) {
                    self.vanished.remove(&lease);
                }
                put(&mut self.held, lease, stored);
            }
            Change::Record(stored) => {
                if self.record != stored {
                    self.record_at = at;
                }
                self.record = stored;
            }
            Change::Plan(work, stored) => {
                let unbroken = self.plans.remove(&work);
                // After a list only an untouched plan proves that nobody was named in between.
                let listed = plans.get(&work);
                let listed = listed.filter(|before| {
                    stored.as_ref().is_some_and(|now| now.modified == before.stored.modified)
                });
                if let Some(stored) = stored {
                    let since = since_when(at, &stored, unbroken.as_ref().or(listed));
                    self.plans.insert(work, SeenPlan { stored, since });
                }
            }
            Change::Tick(stored) => self.tick = stored,
            Change::ResignRequest(stored) => self.resign = stored,
            Change::DrainRequest(id, stored) => {
                if stored.is_some() {
                    self.drains.insert(id);
                } else {
                    self.drains.remove(&id);
                }
            }
            // Outside the watched range: only in answers.
            Change::TickKey(..) => (),
        }
    }

    fn set_candidate(&mut self, at: BootTime, lease: LeaseId, stored: Option<Stored<NodeId>>) {
        if let Some(before) = self.candidates.get(&lease) {
            self.queue.remove(&before.created);
        }
        match &stored {
            Some(now) if now.lease != Some(lease) => {
                let seen = self.broken.get(&lease).filter(|seen| seen.0 == now.modified);
                let since = seen.map_or(at, |seen| seen.1);
                self.broken.insert(lease, (now.modified, since));
            }
            _ => {
                self.broken.remove(&lease);
            }
        }
        if let Some(now) = &stored {
            self.queue.insert(now.created, lease);
        }
        put(&mut self.candidates, lease, stored);
    }

    fn follow_oldest(
        &mut self,
        at: BootTime,
        before: Option<(Revision, LeaseId, BootTime)>,
        was_ours: impl Fn(LeaseId) -> bool,
    ) {
        let now = self.queue.first_key_value().map(|(created, lease)| (*created, *lease));
        let same = before.filter(|(created, lease, _)| now == Some((*created, *lease)));
        self.oldest = same.or(now.map(|(created, lease)| (created, lease, at)));
        if let Some((_, lease, _)) = before
            && same.is_none()
            && !was_ours(lease)
        {
            self.go_gone_at = Some(at);
        }
    }

    /// Owners whom a plan names and whose held key is not there (or not sound) were never seen to
    /// vanish by this process: their wait counts from here.
    fn note_absent_owners(&mut self, at: BootTime) {
        let mut absent = BTreeSet::new();
        for plan in self.plans.values() {
            let Some(table) = &plan.stored.value else {
                continue;
            };
            let owners: BTreeSet<_> = table.shards.iter().filter_map(|a| a.owner).collect();
            absent.extend(owners.into_iter().filter(|owner| {
                self.sound_held(*owner).is_none() && !self.vanished.contains_key(owner)
            }));
        }
        for (lease, stored) in &self.held {
            if !is_sound(*lease, stored) && !self.vanished.contains_key(lease) {
                absent.insert(*lease);
            }
        }
        self.vanish_unseen(at, absent);
    }

    /// [`note_absent_owners`](Self::note_absent_owners), for held keys that went or lost their sense while
    /// the plans stayed as they were.
    fn note_unsound(&mut self, at: BootTime, leases: &[LeaseId]) {
        let unseen = leases.iter().copied().filter(|lease| !self.vanished.contains_key(lease));
        let absent = unseen.filter(|lease| self.held.contains_key(lease) || self.is_named(*lease));
        let absent = absent.collect();
        self.vanish_unseen(at, absent);
    }

    /// Whether a plan names that incarnation as an owner.
    fn is_named(&self, lease: LeaseId) -> bool {
        let tables = self.plans.values().filter_map(|plan| plan.stored.value.as_ref());
        tables.flat_map(|table| &table.shards).any(|shard| shard.owner == Some(lease))
    }

    fn vanish_unseen(&mut self, at: BootTime, leases: BTreeSet<LeaseId>) {
        for lease in leases {
            let f = self.f_of(lease);
            self.vanish(lease, Vanished { at, last: None, f });
        }
        // Twice as many as must be kept, so that going through them costs next to nothing for each.
        if FORGET_FROM.max(self.remembered * 2) < self.vanished.len() {
            self.forget_vanished(at);
            self.remembered = self.vanished.len();
        }
    }

    /// Forgets keys that vanished so long ago that nothing waits for them, and that no plan names.
    fn forget_vanished(&mut self, now: BootTime) {
        let tables = self.plans.values().filter_map(|plan| plan.stored.value.as_ref());
        let named: BTreeSet<_> =
            tables.flat_map(|table| table.shards.iter().filter_map(|a| a.owner)).collect();
        let held = &self.held;
        self.vanished.retain(|lease, vanished| {
            named.contains(lease)
                || held.contains_key(lease)
                || now.since(vanished.at) < SPAN_MAX * 2
        });
    }

    /// F of the member with that lease.
    fn f_of(&self, lease: LeaseId) -> Duration {
        let member = self.by_lease.get(&lease).and_then(|id| self.members.get(id));
        let f = member.and_then(|stored| stored.value.as_ref()).map(|member| member.f);
        f.filter(|f| *f <= SPAN_MAX).unwrap_or(SPAN_MAX)
    }

    /// D of the member with that lease, `SPAN_MAX` if it is unknown.
    pub(super) fn d_of(&self, lease: LeaseId) -> Duration {
        let member = self.by_lease.get(&lease).and_then(|id| self.members.get(id));
        let d = member.and_then(|stored| stored.value.as_ref()).map(|member| member.d);
        d.filter(|d| *d <= SPAN_MAX).unwrap_or(SPAN_MAX)
    }

    /// Whether the candidate under that lease is ours, and not a Go node's.
    pub(super) fn is_ours(&self, candidate: LeaseId) -> bool {
        self.by_lease.contains_key(&candidate)
    }

    /// The record if it can be relied on: readable, with a D within bounds (R3).
    pub(super) fn sound_record(&self) -> Option<&Record> {
        let record = self.record.as_ref().and_then(|stored| stored.value.as_ref());
        record.filter(|record| record.d <= SPAN_MAX)
    }

    /// A held key that lives, is readable and hangs on the lease in its name.
    pub(super) fn sound_held(&self, lease: LeaseId) -> Option<(Revision, &Held)> {
        let stored = self.held.get(&lease).filter(|stored| is_sound(lease, stored))?;
        stored.value.as_ref().map(|held| (stored.modified, held))
    }

    /// Who is in office by the record and still has the candidate key of that term.
    pub(super) fn seated(&self) -> Option<(Term, LeaseId)> {
        let record = self.sound_record().filter(|record| !record.ended)?;
        let lease = record.lease?;
        let candidate = self.candidates.get(&lease)?;
        (candidate.created.0 == record.term.0).then_some((record.term, lease))
    }
}

/// Whether a held key counts as living: readable, on the lease that it is named by.
pub(super) fn is_sound(lease: LeaseId, stored: &Stored<Held>) -> bool {
    stored.lease == Some(lease) && stored.value.is_some()
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

/// When each shard's owner and epoch were first received.
fn since_when(at: BootTime, now: &Stored<PlanTable>, before: Option<&SeenPlan>) -> Vec<BootTime> {
    let Some(table) = &now.value else {
        return Vec::new();
    };
    let before_table = before.and_then(|plan| plan.stored.value.as_ref());
    let same = |shard: usize| {
        let was = before_table?.shards.get(shard)?;
        let is = &table.shards[shard];
        let same = was.owner == is.owner && was.epoch == is.epoch;
        if same { before?.since.get(shard).copied() } else { None }
    };
    (0..table.shards.len()).map(|shard| same(shard).unwrap_or(at)).collect()
}
