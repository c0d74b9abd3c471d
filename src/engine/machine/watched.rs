//! The node's view of the cluster, with the times at which its keys were received and vanished.
//!
//! R1 (clock readings for spans and waits), R3 (receipt of the record): every wait for another node counts
//! from a clock reading taken after the first message that causes the wait was received.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
    time::Duration,
};

use crate::engine::{
    cluster_view::{ClusterView, is_sound},
    types::{BootTime, LeaseId, Revision, ShardId, WorkType},
    view::{Change, Held, Member, PlanTable, Stored},
};

/// Number of vanished held keys up to which the node does not scan them for keys to forget.
const FORGET_FROM: usize = 64;

/// The view of one node, and when the node received the keys in it. `Watched` derefs to the view for reading;
/// the view changes only together with its receipts.
#[derive(Debug, Default)]
pub(super) struct Watched {
    view: ClusterView,
    /// Whether a list was received in this incarnation.
    pub(super) listed: bool,
    /// R3: when the present record (or its absence) was first received.
    pub(super) record_at: BootTime,
    /// The oldest candidate, and the time since when this node has seen it as the oldest.
    pub(super) oldest: Option<(Revision, LeaseId, BootTime)>,
    /// When the candidate key of a Go node that was the oldest candidate was last seen to go (R6, when to TAKE).
    pub(super) go_gone_at: Option<BootTime>,
    /// Candidate keys that are not attached to the lease in their name: modify revision, and when it was first
    /// received.
    pub(super) broken: BTreeMap<LeaseId, (Revision, BootTime)>,
    /// Held keys that are gone or not sound, or that did not exist when a plan named them.
    pub(super) vanished: BTreeMap<LeaseId, Vanished>,
    /// Number of keys in `vanished` that `forget_vanished` kept the last time.
    remembered: usize,
    /// By work type and shard number: when this owner and epoch were first received. For "no owner" the time
    /// is reset when a held key vanishes, unless that key is known not to have had the shard (T15, when a
    /// shard is free).
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
    /// When the deletion was first received.
    pub(super) at: BootTime,
    /// Last value of the key, if an unbroken watch saw it.
    pub(super) last: Option<Held>,
    /// F of the key's member, or `SPAN_MAX` if unknown.
    pub(super) f: Duration,
}

impl Watched {
    /// State before the first list, in a cluster with that `SPAN_MAX`.
    pub(super) fn new(span_max: Duration) -> Self {
        Self { view: ClusterView::within(span_max), ..Self::default() }
    }

    /// Replaces the view with the keys of a list.
    pub(super) fn replace(&mut self, at: BootTime, revision: Revision, changes: Vec<Change>) {
        let empty = Self::new(self.view.span_max());
        let mut before = std::mem::replace(self, empty);
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
        // The changes before the list are unknown: a key that is gone may have held any shard.
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
        // With a thousand nodes, each node receives a thousand joins and leaves: only the held keys that these
        // changes affect are checked.
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

    /// Moves the view to `revision`, up to which all changes were applied.
    pub(super) fn advance(&mut self, revision: Revision) {
        self.view.advance(revision);
    }

    /// Notes a held key's event before it is applied: an unbroken watch still has the key's last value.
    fn note_held(&mut self, at: BootTime, lease: LeaseId, now: Option<&Stored<Held>>) {
        if now.is_some_and(|stored| is_sound(lease, stored)) {
            return;
        }
        if self.vanished.contains_key(&lease) {
            return;
        }
        let Some(before) = self.held.get(&lease) else { return };
        // The last value of a sound key that was deleted is known. A key that is overwritten with a malformed
        // value, or attached to another lease, counts as gone with an unknown value.
        let last = if now.is_none() { before.value.clone() } else { None };
        let last = last.filter(|_| is_sound(lease, before));
        let f = self.f_of(lease);
        self.vanish(lease, Vanished { at, last, f });
    }

    fn vanish(&mut self, lease: LeaseId, vanished: Vanished) {
        // T15: the wait for "no owner" starts again, unless the key is known not to have had the shard.
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

    /// Applies one change. `before` is the view that a list replaces, if the change comes from a list.
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

    /// Notes a plan before it is applied. `before` is the view that a list replaces, if the plan comes from
    /// a list.
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
        // After a list, only an unmodified plan proves that its owners stayed the same in between.
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

    /// Starts the wait, at `at`, for owners that a plan names and whose held key does not exist or is not
    /// sound: this process never saw these keys vanish.
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

    /// [`note_absent_owners`](Self::note_absent_owners), for held keys that were deleted or became
    /// unsound while the plans did not change.
    fn note_unsound(&mut self, at: BootTime, leases: &[LeaseId]) {
        let unseen = leases.iter().copied().filter(|lease| !self.vanished.contains_key(lease));
        let absent = unseen.filter(|lease| self.held.contains_key(lease) || self.is_named(*lease));
        let absent = absent.collect();
        self.vanish_unseen(at, absent);
    }

    /// Whether a plan names the incarnation with that lease as an owner.
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
        // The threshold is twice the number kept last time, so that the scan costs little for each key.
        if FORGET_FROM.max(self.remembered * 2) < self.vanished.len() {
            self.forget_vanished(at);
            self.remembered = self.vanished.len();
        }
    }

    /// Forgets keys that vanished so long ago that no rule waits for them, and that no plan names.
    fn forget_vanished(&mut self, now: BootTime) {
        let assignments = self.view.plans().flat_map(|(_, table)| &table.shards);
        let named: BTreeSet<_> = assignments.filter_map(|a| a.owner).collect();
        let (held, span_max) = (&self.view.held, self.view.span_max());
        self.vanished.retain(|lease, vanished| {
            named.contains(lease)
                || held.contains_key(lease)
                || now.since(vanished.at) < span_max * 2
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
        span.filter(|span| *span <= self.view.span_max()).unwrap_or(self.view.span_max())
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
