//! What this node has seen of the cluster, and when: the view, with receipts and vanish times.
//!
//! The one rule (R1, R3): every wait for somebody else counts from a reading taken after the message
//! that it hangs on was received, and from the first such message.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
    time::Duration,
};

use crate::engine::{
    cluster_view::{ClusterView, is_sound},
    timing::SPAN_MAX,
    types::{BootTime, LeaseId, Revision, ShardId, WorkType},
    view::{Change, Held, Member, PlanTable, Stored},
};

/// Fewer held keys that vanished are not worth going through.
const FORGET_FROM: usize = 64;

/// The view of one node, and when it received what is in it. The view is read as this one; it changes only
/// with its receipts.
#[derive(Debug, Default)]
pub(super) struct Watched {
    view: ClusterView,
    /// Whether a list was received in this incarnation.
    pub(super) listed: bool,
    /// R3: when the record as it is now (or its absence) was first received.
    pub(super) record_at: BootTime,
    /// Since when the oldest candidate is the oldest one, as far as this node has seen.
    pub(super) oldest: Option<(Revision, LeaseId, BootTime)>,
    /// When the key of the last oldest candidate that was a Go node's went.
    pub(super) go_gone_at: Option<BootTime>,
    /// Candidate keys on a lease that is not their name, since when they were seen so.
    pub(super) broken: BTreeMap<LeaseId, (Revision, BootTime)>,
    /// Held keys that are gone (or as good as gone), or were not there when a plan named them.
    pub(super) vanished: BTreeMap<LeaseId, Vanished>,
    /// Of those so many were left when they were last gone through.
    remembered: usize,
    /// By work type and shard number: when this owner and epoch were first received. For "nobody" the time
    /// is renewed by a held key that vanished and is not known to have lacked the shard (T15).
    since: BTreeMap<WorkType, Vec<BootTime>>,
}

impl Deref for Watched {
    type Target = ClusterView;

    fn deref(&self) -> &ClusterView {
        &self.view
    }
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

impl Watched {
    /// Replaces the view by a list.
    pub(super) fn replace(&mut self, at: BootTime, revision: Revision, changes: Vec<Change>) {
        let mut before = std::mem::take(self);
        self.listed = true;
        self.view.advance(revision);
        self.record_at = at;
        self.vanished = std::mem::take(&mut before.vanished);
        self.remembered = before.remembered;
        self.go_gone_at = before.go_gone_at;
        for change in changes {
            self.set(at, change, Some(&before));
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
        self.view.advance(revision);
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
        for change in changes {
            self.set(at, change, None);
        }
        self.follow_oldest(at, oldest, |_| was_ours);
        if planned {
            self.note_absent_owners(at);
        } else if !unsound.is_empty() {
            self.note_unsound(at, &unsound);
        }
    }

    /// Nothing up to `revision` is new but what was applied.
    pub(super) fn advance(&mut self, revision: Revision) {
        self.view.advance(revision);
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
        for (work, table) in self.view.plans() {
            let Some(times) = self.since.get_mut(work) else { continue };
            for (shard, since) in (0u32..).zip(times) {
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

    /// Applies one change, of which `before` is the view that a list replaces.
    fn set(&mut self, at: BootTime, change: Change, before: Option<&Self>) {
        match &change {
            Change::Candidate(lease, now) => self.note_candidate(at, *lease, now.as_ref()),
            Change::Held(lease, Some(now)) if is_sound(*lease, now) => {
                self.vanished.remove(lease);
            }
            Change::Record(now) if self.record != *now => self.record_at = at,
            Change::Plan(work, now) => self.note_plan(at, work, now.as_ref(), before),
            _ => (),
        }
        self.view.apply(change);
    }

    fn note_candidate<T>(&mut self, at: BootTime, lease: LeaseId, now: Option<&Stored<T>>) {
        match now {
            Some(now) if now.lease != Some(lease) => {
                let seen = self.broken.get(&lease).filter(|seen| seen.0 == now.modified);
                let since = seen.map_or(at, |seen| seen.1);
                self.broken.insert(lease, (now.modified, since));
            }
            _ => {
                self.broken.remove(&lease);
            }
        }
    }

    /// A plan before it is applied, of which `before` is the view that a list replaces.
    fn note_plan(
        &mut self,
        at: BootTime,
        work: &WorkType,
        now: Option<&Stored<PlanTable>>,
        before: Option<&Self>,
    ) {
        let Some(now) = now else {
            self.since.remove(work);
            return;
        };
        // After a list only an untouched plan proves that nobody was named in between.
        let is_untouched = |before: &&Self| {
            before.plans.get(work).is_some_and(|plan| plan.modified == now.modified)
        };
        let seen_by =
            if self.plans.contains_key(work) { Some(&*self) } else { before.filter(is_untouched) };
        let since = since_when(at, work, now, seen_by);
        self.since.insert(work.clone(), since);
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
        for (_, table) in self.view.plans() {
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
        self.view
            .plans()
            .flat_map(|(_, table)| &table.shards)
            .any(|shard| shard.owner == Some(lease))
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
        let assignments = self.view.plans().flat_map(|(_, table)| &table.shards);
        let named: BTreeSet<_> = assignments.filter_map(|a| a.owner).collect();
        let held = &self.view.held;
        self.vanished.retain(|lease, vanished| {
            named.contains(lease)
                || held.contains_key(lease)
                || now.since(vanished.at) < SPAN_MAX * 2
        });
    }

    /// By shard number: when the owner and the epoch in the plan were first received.
    pub(super) fn since(&self, work: &WorkType) -> &[BootTime] {
        self.since.get(work).map_or(&[], Vec::as_slice)
    }

    /// F of the member with that lease.
    fn f_of(&self, lease: LeaseId) -> Duration {
        self.span_of(lease, |member| member.f)
    }

    /// D of the member with that lease, `SPAN_MAX` if it is unknown.
    pub(super) fn d_of(&self, lease: LeaseId) -> Duration {
        self.span_of(lease, |member| member.d)
    }

    fn span_of(&self, lease: LeaseId, span: impl Fn(&Member) -> Duration) -> Duration {
        let member = self.node_of(lease).and_then(|id| self.members.get(&id));
        let span = member.and_then(|stored| stored.value.as_ref()).map(span);
        span.filter(|span| *span <= SPAN_MAX).unwrap_or(SPAN_MAX)
    }
}

/// When each shard's owner and epoch were first received.
fn since_when(
    at: BootTime,
    work: &WorkType,
    now: &Stored<PlanTable>,
    before: Option<&Watched>,
) -> Vec<BootTime> {
    let Some(table) = &now.value else {
        return Vec::new();
    };
    let before_table = before.and_then(|before| before.plans.get(work)?.value.as_ref());
    let same = |shard: usize| {
        let was = before_table?.shards.get(shard)?;
        let is = &table.shards[shard];
        let same = was.owner == is.owner && was.epoch == is.epoch;
        if same { before?.since(work).get(shard).copied() } else { None }
    };
    (0..table.shards.len()).map(|shard| same(shard).unwrap_or(at)).collect()
}
