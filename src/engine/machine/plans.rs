//! The leader's side of the shards, T15 (PLAN): wanted owners, and when a shard is free.
//!
//! The one rule to keep: the leader takes a shard from its owner only with proof that the owner's living held
//! key does not contain it, or after the owner's shard authority has run out for certain, no matter how its
//! key vanished.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Asked, Authority, Engine, Try,
    unclaimed::{Trust, Unclaimed},
};
use crate::engine::{
    call::{Call, Office, Outcome, WorkEnd},
    cluster_view::is_sound,
    mutant::Mutant,
    planner::{self, Worker},
    timing::PLAN_EVERY,
    types::{BootTime, LeaseId, Revision, ShardEpoch, ShardId, WorkType},
    view::{Assignment, Change, PlanTable},
};

/// Most owners whose held keys one PLAN compares as proofs.
const PROOFS_MOST: usize = 100;

/// Time to wait before a request without a definite answer is repeated.
pub(super) const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// State of the leader's planning in this incarnation.
#[derive(Debug, Default)]
pub(super) struct Plans {
    works: BTreeMap<WorkType, Planning>,
    unclaimed: Unclaimed,
    /// Time when the leader may delete the next malformed held key.
    junk_at: BootTime,
}

/// State of the leader's planning of one work type.
#[derive(Debug, Default)]
struct Planning {
    call: Try,
    /// Revision that the view must have reached before the next plan.
    view_from: Revision,
    /// Revisions of the view and the office of the last planning, if that planning changed nothing.
    settled: Option<(Revision, Revision)>,
    /// Time when planning the same view again may change the plan.
    next_at: Option<BootTime>,
}

/// Whether the leader may give a shard to a node now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Freedom {
    /// The owner's living held key contains the shard.
    Held,
    /// The shard may be given away. `proven`: the owner's living held key does not contain it, and PLAN
    /// compares that key as proof.
    Free { proven: bool },
    /// The shard becomes free at this time.
    At(BootTime),
    /// The shard has no owner in the plan, but this lease holds it.
    HeldBy(LeaseId, ShardEpoch),
}

impl Engine {
    pub(super) fn plan_rules(&mut self) {
        let Some(Authority { office, .. }) = self.acting() else { return };
        let is_seen = self.session.is_listed() && office.revision <= self.watched.revision;
        if !is_seen || self.is_leaving() {
            return;
        }
        for (work, shards) in self.offered() {
            self.plan_rule(office, &work, shards);
        }
        self.junk_rule(office);
    }

    /// Work types of the live members, with the number of shards to plan for: the present plan's number if a
    /// member offers it, else this node's, else that of the member with the lowest id.
    fn offered(&self) -> BTreeMap<WorkType, u32> {
        let mut offered: BTreeMap<WorkType, BTreeSet<u32>> = BTreeMap::new();
        let mut first: BTreeMap<WorkType, u32> = BTreeMap::new();
        for own in &self.config.work {
            first.insert(own.work.clone(), own.shards);
        }
        for member in self.watched.members.values().filter_map(|member| member.value.as_ref()) {
            for offer in &member.work {
                offered.entry(offer.work.clone()).or_default().insert(offer.shards);
                first.entry(offer.work.clone()).or_insert(offer.shards);
            }
        }
        let planned = |work: &WorkType, counts: &BTreeSet<u32>| {
            let plan = self.watched.plans.get(work)?;
            let table = plan.value.as_ref()?;
            let count = u32::try_from(table.shards.len()).ok()?;
            counts.contains(&count).then_some(count)
        };
        offered
            .iter()
            .map(|(work, counts)| {
                let count = planned(work, counts).unwrap_or_else(|| first[work]);
                (work.clone(), count)
            })
            .collect()
    }

    fn plan_rule(&mut self, office: Office, work: &WorkType, shards: u32) {
        let revision = self.watched.revision;
        let &mut Planning { call, view_from, settled, next_at } =
            self.plans.works.entry(work.clone()).or_default();
        if call.in_flight || revision < view_from {
            return;
        }
        if settled == Some((revision, office.revision)) {
            let Some(at) = next_at else { return };
            if !self.is_due(at) {
                return;
            }
        }
        if !self.may_send(call) {
            return;
        }
        let by = (office.lease, office.revision);
        let nobody = || PlanTable { shards: vec![Assignment::default(); shards as usize] };
        let Some(plan) = self.watched.plans.get(work).cloned() else {
            let call = Call::InitPlan { office: by, work: work.clone(), table: nobody() };
            self.send_plan(work, call);
            return;
        };
        let modified = plan.modified;
        let sized = plan.value.as_ref().filter(|table| table.shards.len() == shards as usize);
        let Some(table) = sized.cloned() else {
            // Malformed, or with another number of shards: all shards lose their owner, and their waits
            // apply.
            let (work_type, table) = (work.clone(), nobody());
            let proofs = Vec::new();
            let call = Call::Plan { office: by, work: work_type, modified, proofs, table };
            self.send_plan(work, call);
            return;
        };
        let freedoms = self.freedoms(work, &table);
        self.note_claims(work, &table, &freedoms);
        let (new, proofs, next_at) = self.plan(work, &table, &freedoms);
        if let Some(planning) = self.plans.works.get_mut(work) {
            planning.next_at = next_at;
            planning.settled = Some((revision, office.revision));
        }
        if let Some(at) = next_at {
            self.wake(at);
        }
        if new != table {
            let held = &self.watched.held;
            let proofs = proofs.into_iter().map(|owner| (owner, held[&owner].bytes.clone()));
            let proofs = proofs.collect();
            let call = Call::Plan { office: by, work: work.clone(), modified, proofs, table: new };
            self.send_plan(work, call);
        }
    }

    fn send_plan(&mut self, work: &WorkType, call: Call) {
        if let Some(planning) = self.plans.works.get_mut(work) {
            planning.call = Try::sent_until(self.now + PLAN_EVERY);
            planning.settled = None;
        }
        self.send(Asked::Plan(work.clone()), call);
    }

    /// For each shard, whether it may be given away.
    fn freedoms(&self, work: &WorkType, table: &PlanTable) -> Vec<Freedom> {
        let holders = self.holders(work);
        (0u32..)
            .zip(table.shards.iter().zip(self.watched.since(work)))
            .map(|(shard, (assignment, since))| {
                self.freedom(work, ShardId(shard), assignment, *since, &holders)
            })
            .collect()
    }

    /// R15 (unclaimed shards): notes the living owners that claimed in time, and those that did not.
    fn note_claims(&mut self, work: &WorkType, table: &PlanTable, freedoms: &[Freedom]) {
        if self.config.breaks(Mutant::UnclaimedGivenAgain) {
            return;
        }
        let since = self.watched.since(work);
        for ((assignment, since), freedom) in table.shards.iter().zip(since).zip(freedoms) {
            let Some(owner) = assignment.owner.filter(|_| !assignment.draining) else { continue };
            match freedom {
                Freedom::Held => self.plans.unclaimed.claimed(owner, *since),
                Freedom::Free { proven: true }
                    if *since + self.config.timing.claim_within <= self.now
                        && self.is_worker(owner, work) =>
                {
                    self.plans.unclaimed.miss(owner, self.now);
                }
                Freedom::Free { .. } | Freedom::At(_) | Freedom::HeldBy(..) => (),
            }
        }
        let held = &self.watched.held;
        self.plans.unclaimed.retain(|lease| held.contains_key(&lease));
    }

    /// Whether that incarnation takes shards of that work type at all.
    fn is_worker(&self, lease: LeaseId, work: &WorkType) -> bool {
        let Some(id) = self.watched.by_lease.get(&lease) else { return false };
        let member = self.watched.members.get(id).and_then(|stored| stored.value.as_ref());
        member.is_some_and(|member| {
            !member.draining
                && !self.watched.drains.contains(id)
                && member.work.iter().any(|offer| offer.work == *work)
        })
    }

    /// Returns the next table, the owners whose held keys prove it, and when to plan again if a shard is not
    /// free yet.
    fn plan(
        &self,
        work: &WorkType,
        table: &PlanTable,
        freedoms: &[Freedom],
    ) -> (PlanTable, BTreeSet<LeaseId>, Option<BootTime>) {
        let workers = self.workers(work, table, freedoms);
        let current: Vec<Option<LeaseId>> = table
            .shards
            .iter()
            .zip(freedoms)
            .map(|(assignment, freedom)| match freedom {
                Freedom::HeldBy(lease, _) => Some(*lease),
                _ if assignment.draining => None,
                _ => assignment.owner,
            })
            .collect();
        let wanted = planner::assign(&current, &workers);
        let mut new = table.clone();
        let since = self.watched.since(work);
        let mut proofs = BTreeSet::new();
        let mut next_at = self.plans.unclaimed.next_at(self.now);
        let viewed = self.watched.revision.0;
        let mut again = |at: BootTime| next_at = Some(next_at.map_or(at, |next| next.min(at)));
        for (shard, (assignment, freedom)) in new.shards.iter_mut().zip(freedoms).enumerate() {
            let want = wanted[shard];
            match *freedom {
                Freedom::HeldBy(lease, epoch) => {
                    *assignment = Assignment { owner: Some(lease), epoch, draining: false };
                }
                Freedom::Held => {
                    if want.is_some() && want != assignment.owner {
                        assignment.draining = true;
                    }
                }
                Freedom::At(at) => again(at),
                Freedom::Free { proven } => {
                    let Some(want) = want else { continue };
                    let claim_by = since[shard] + self.config.timing.claim_within;
                    let claims = assignment.owner == Some(want)
                        && !assignment.draining
                        && proven
                        && self.now < claim_by;
                    if claims {
                        again(claim_by);
                        continue;
                    }
                    if let Some(owner) = assignment.owner.filter(|_| proven) {
                        if PROOFS_MOST <= proofs.len() && !proofs.contains(&owner) {
                            again(self.now + PLAN_EVERY);
                            continue;
                        }
                        proofs.insert(owner);
                    }
                    // A restored store reuses revisions, and a plan of the lost history may have used this
                    // one as an epoch: so the epoch is also above the shard's last one.
                    let epoch = ShardEpoch(viewed.max(assignment.epoch.0.saturating_add(1)));
                    *assignment = Assignment { owner: Some(want), epoch, draining: false };
                }
            }
        }
        (new, proofs, next_at)
    }

    /// Living held keys that contain shards of that work type, by shard.
    fn holders(&self, work: &WorkType) -> BTreeMap<ShardId, (LeaseId, ShardEpoch)> {
        let mut holders = BTreeMap::new();
        for (lease, stored) in &self.watched.held {
            if !is_sound(*lease, stored) {
                continue;
            }
            let Some(held) = &stored.value else { continue };
            let from = (work.clone(), ShardId(0));
            for ((of, shard), epoch) in held.shards.range(from..) {
                if of != work {
                    break;
                }
                holders.insert(*shard, (*lease, *epoch));
            }
        }
        holders
    }

    /// T15: whether a shard is free.
    fn freedom(
        &self,
        work: &WorkType,
        shard: ShardId,
        assignment: &Assignment,
        since: BootTime,
        holders: &BTreeMap<ShardId, (LeaseId, ShardEpoch)>,
    ) -> Freedom {
        let watched = &self.watched;
        let Some(owner) = assignment.owner else {
            if let Some((lease, epoch)) = holders.get(&shard) {
                return Freedom::HeldBy(*lease, *epoch);
            }
            if self.config.breaks(Mutant::NobodyFreedAtOnce) {
                return Freedom::Free { proven: false };
            }
            return self.free_at(since + self.config.wait(self.config.timing.span_max));
        };
        if let Some((_, held)) = watched.sound_held(owner) {
            let given = assignment.draining && self.config.breaks(Mutant::DrainingFreedAtOnce);
            return if held.shards.contains_key(&(work.clone(), shard)) && !given {
                Freedom::Held
            } else {
                Freedom::Free { proven: true }
            };
        }
        let Some(vanished) = watched.vanished.get(&owner) else {
            // Every view notes owners without a living held key, so an entry normally exists.
            return self
                .free_at(since.max(self.now) + self.config.wait(self.config.timing.span_max));
        };
        let lacked = vanished
            .last
            .as_ref()
            .is_some_and(|held| !held.shards.contains_key(&(work.clone(), shard)));
        if lacked {
            return Freedom::Free { proven: false };
        }
        self.free_at(vanished.at + self.config.wait(vanished.f))
    }

    fn free_at(&self, at: BootTime) -> Freedom {
        if at <= self.now { Freedom::Free { proven: false } } else { Freedom::At(at) }
    }

    /// Nodes that can take shards of that work type: followers first, the leader only if it is alone or
    /// configured to take part.
    ///
    /// R15: a node that missed a claim, or whose candidate key is not in the view, keeps its shards and gets
    /// no new ones, or one on probation, while there is any other worker. The leader then takes what such nodes
    /// cannot: were it a worker like any other, even shares would leave nothing to put on probation, and the
    /// leader would work for as long as it leads.
    fn workers(&self, work: &WorkType, table: &PlanTable, freedoms: &[Freedom]) -> Vec<Worker> {
        let own = self.session.lease();
        let shards = table.shards.len();
        let mut workers = Vec::new();
        let mut leader = None;
        let mut doubted = Vec::new();
        for (id, stored) in &self.watched.members {
            let (Some(member), Some(lease)) = (&stored.value, stored.lease) else { continue };
            let drained = member.draining || self.watched.drains.contains(id);
            if drained || lease != member.lease || self.watched.sound_held(lease).is_none() {
                continue;
            }
            let Some(offer) = member.work.iter().find(|offer| offer.work == *work) else {
                continue;
            };
            if offer.shards as usize != shards {
                continue;
            }
            let (weight, capacity) = (offer.weight.max(1), offer.capacity);
            let worker = Worker { lease, weight, capacity };
            let trust = self.trust(lease, member.campaigns);
            if own == Some(lease) && !offer.as_leader {
                leader = Some(worker);
            } else if trust == Trust::Full {
                workers.push(worker);
            } else {
                doubted.push((worker, trust));
            }
        }
        if workers.is_empty() && leader.is_none() {
            return doubted.into_iter().map(|(worker, _)| worker).collect();
        }
        let doubted: Vec<Worker> = doubted
            .into_iter()
            .map(|(worker, trust)| {
                let most =
                    holds(worker.lease, table, freedoms) + u32::from(trust == Trust::Probation);
                at_most(worker, most)
            })
            .collect();
        if workers.is_empty()
            && let Some(leader) = leader
        {
            let taken: u32 = doubted.iter().filter_map(|worker| worker.capacity).sum();
            let rest = (shards as u32).saturating_sub(taken);
            workers.push(at_most(leader, rest));
        }
        workers.extend(doubted);
        workers
    }

    /// R15: how many new shards a living node may get.
    fn trust(&self, lease: LeaseId, campaigns: bool) -> Trust {
        let heard = !campaigns || self.watched.candidates.contains_key(&lease);
        if heard { self.plans.unclaimed.trust(lease, self.now) } else { Trust::Paused }
    }

    pub(super) fn on_planned(&mut self, work: &WorkType, outcome: &Outcome) {
        let again_at = self.now + AGAIN_AFTER;
        let Some(planning) = self.plans.works.get_mut(work) else { return };
        planning.call.answered();
        match outcome {
            Outcome::Done(answer) | Outcome::Refused(answer) => {
                planning.view_from = planning.view_from.max(answer.revision);
                self.check_office_by(outcome);
            }
            _ => planning.call.again_at = planning.call.again_at.max(again_at),
        }
    }

    /// Closes the term if a fenced write (T7) failed because of the office; its else branch shows the
    /// candidate key.
    pub(super) fn check_office_by(&mut self, outcome: &Outcome) {
        let Outcome::Refused(answer) = outcome else { return };
        let Some(Office { lease, revision, .. }) = self.office() else { return };
        let is_own = |change: &Change| matches!(change, Change::Candidate(of, _) if *of == lease);
        let found = answer.view();
        let own = found.candidate(lease);
        if answer.changes.iter().any(is_own) && own.is_none_or(|own| own.modified != revision) {
            self.close_term(WorkEnd::Deposed);
        }
    }

    /// T15: deletes a held key that is malformed or on a wrong lease, after its wait.
    fn junk_rule(&mut self, office: Office) {
        let mut due = None;
        for (lease, stored) in &self.watched.held {
            if is_sound(*lease, stored) {
                continue;
            }
            let Some(vanished) = self.watched.vanished.get(lease) else { continue };
            let at = vanished.at + self.config.wait(vanished.f);
            if due.is_none_or(|(_, _, first)| at < first) {
                due = Some((*lease, stored, at));
            }
        }
        let Some((lease, stored, at)) = due else { return };
        let (modified, value) = (stored.modified, stored.bytes.clone());
        let pending = self
            .pending
            .values()
            .any(|pending| matches!(pending.asked, Asked::DeleteHeld(of) if of == lease));
        if !pending && self.is_due(at.max(self.plans.junk_at)) {
            self.plans.junk_at = self.now + AGAIN_AFTER;
            let office = (office.lease, office.revision);
            let call = Call::DeleteHeld { office, lease, modified, value };
            self.send(Asked::DeleteHeld(lease), call);
        }
    }
}

/// The worker with this many shards at most.
fn at_most(worker: Worker, most: u32) -> Worker {
    Worker { capacity: Some(worker.capacity.map_or(most, |own| own.min(most))), ..worker }
}

/// Number of shards of the table that this incarnation holds.
fn holds(lease: LeaseId, table: &PlanTable, freedoms: &[Freedom]) -> u32 {
    let shards = table.shards.iter().zip(freedoms);
    let held = shards.filter(|(assignment, freedom)| match freedom {
        Freedom::HeldBy(holder, _) => *holder == lease,
        Freedom::Held => assignment.owner == Some(lease) && !assignment.draining,
        Freedom::Free { .. } | Freedom::At(_) => false,
    });
    held.count() as u32
}
