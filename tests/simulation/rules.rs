//! The invariants I1 to I8 of the protocol, checked at every step and at every commit, by true time.
//!
//! The checks compare what the engines report (authority, shards), what their work does, and what the store
//! commits. The checks never use how an engine reached its decision.

use std::collections::{BTreeMap, btree_map::Entry};

use bellwether::{
    engine::{
        Call, Change, Effect, Held, LeaseId, NodeId, PlanTable, Revision, SessionEnd, ShardEpoch,
        Term, WorkType,
    },
    store::{keys::Key, values},
};

use crate::{
    breaks::Broken,
    chance::Time,
    host::{ProcId, Shard, ShardWork, Work},
    wire::Ask,
    world::World,
};

/// The invariant that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// At any instant at most one node is inside leader authority.
    I1,
    /// The record's term never falls; a write of a term commits only while its office exists.
    I2,
    /// At any instant at most one node acts on a shard.
    I3,
    /// Epochs never fall within one history of the store.
    I4,
    /// Own state is the value of the last call that was acknowledged or may have taken effect, never goes back
    /// to an older value, and does not outlive its node.
    I5,
    /// `ended` is true only while no node acts.
    I6,
    /// After faults stop: one leader, and every shard owned, within bounds.
    I7,
    /// While one node's link stays bad, the other nodes lead and work, and the lease of that node ends.
    I8,
    /// The store on Kubernetes: each write is what its calls make of the newest state, and no lease is ended early.
    Store,
    /// The engine keeps its contract with the driver.
    Contract,
    /// The engine panicked during a step.
    Panic,
}

/// A broken rule, with time and details.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub at: Time,
    pub what: String,
}

/// An office in the history of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    pub term: Term,
    pub lease: LeaseId,
    /// m(cand) as its TAKE wrote it.
    pub revision: Revision,
}

/// State of the commits in one history of the store; a restore sets it back with the backup.
#[derive(Clone, Debug, Default)]
pub struct History {
    seat: Option<Seat>,
    last_term: Term,
    ended: bool,
    fenced: Term,
    planned: BTreeMap<Shard, (ShardEpoch, LeaseId)>,
    /// Assignments that the plan drains.
    drained: BTreeMap<Shard, (ShardEpoch, LeaseId)>,
    /// Last released epoch, by shard and lease.
    released: BTreeMap<(Shard, LeaseId), ShardEpoch>,
    /// Whether an operator has changed a key.
    meddled: bool,
    claimed: BTreeMap<Shard, (ShardEpoch, LeaseId)>,
    written: BTreeMap<Shard, ShardEpoch>,
    /// The newest change of each node's own state.
    pub state: BTreeMap<NodeId, u64>,
}

impl History {
    /// Records that an operator changed a key.
    pub fn meddled(&mut self) {
        self.ended = false;
        self.meddled = true;
        self.drained.clear();
    }
}

/// State before a commit, which the commit is checked against.
pub struct Before {
    held: Option<Held>,
    stands: bool,
}

impl World {
    pub fn violate(&mut self, rule: Rule, what: String) {
        if self.violation.is_none() {
            self.violation = Some(Violation { rule, at: self.now, what });
        }
    }

    /// Checks the rules after each step of an engine.
    pub fn look_at(&mut self, p: ProcId, effects: &[Effect]) {
        for effect in effects {
            self.check_contract(p, effect);
        }
        let clock = &self.slots[self.procs[p].slot].clock;
        let when = |until| clock.when(until).unwrap_or(Time::MAX);
        let proc = &mut self.procs[p];
        let authority = proc.engine.authority().map_or(0, |authority| when(authority.until));
        let authority = authority.max(proc.kept_until);
        let shards = proc.engine.shard_authority().map_or(0, |authority| when(authority.until));
        let gains_office = self.now < authority && proc.authority_until < authority;
        let starts = effects.iter().any(|effect| matches!(effect, Effect::StartShard { .. }));
        let gains_shards = self.now < shards && (starts || proc.shard_until < shards);
        proc.authority_until = authority;
        proc.shard_until = shards;
        if gains_office {
            self.check_neighbours(p);
            self.check_single_leader(p);
        }
        if gains_shards {
            self.check_single_owners(p);
        }
    }

    fn check_contract(&mut self, p: ProcId, effect: &Effect) {
        let id = self.procs[p].id;
        let proc = &mut self.procs[p];
        match effect {
            Effect::StartWork { work, office } => {
                if let Some(old) = &proc.work {
                    let what =
                        format!("node {id} starts work {work}, and {} has not ended", old.number);
                    return self.violate(Rule::Contract, what);
                }
                proc.work = Some(Work { number: *work, office: *office, stopping: false });
            }
            Effect::StopWork { work, .. } => match &mut proc.work {
                Some(old) if old.number == *work && !old.stopping => old.stopping = true,
                _ => {
                    self.violate(Rule::Contract, format!("node {id} stops work {work}, unstarted"));
                }
            },
            Effect::StartShard { work, shard, epoch } => {
                let shard = (work.clone(), *shard);
                match proc.shards.entry(shard.clone()) {
                    Entry::Occupied(_) if self.broken == Some(Broken::ActWithoutClaim) => (),
                    Entry::Occupied(_) => {
                        let what = format!("node {id} starts {shard:?}, which has not ended");
                        self.violate(Rule::Contract, what);
                    }
                    Entry::Vacant(vacant) => {
                        vacant.insert(ShardWork { epoch: *epoch, stopping: false });
                        self.runners.entry(shard).or_default().push(p);
                    }
                }
            }
            Effect::StopShard { work, shard, .. } => {
                match proc.shards.get_mut(&(work.clone(), *shard)) {
                    Some(task) if !task.stopping => task.stopping = true,
                    _ => {
                        let what = format!("node {id} stops shard {work}/{shard}, unstarted");
                        self.violate(Rule::Contract, what);
                    }
                }
            }
            _ => (),
        }
    }

    /// Checks I1 (one leader), when `p` has got or prolonged authority.
    fn check_single_leader(&mut self, p: ProcId) {
        for q in 0..self.procs.len() {
            if q != p && self.procs[q].alive && self.now < self.procs[q].authority_until {
                let what = format!(
                    "nodes {} and {} are both inside leader authority, for {} and {} ns more",
                    self.procs[p].id,
                    self.procs[q].id,
                    self.procs[p].authority_until - self.now,
                    self.procs[q].authority_until - self.now,
                );
                self.violate(Rule::I1, what);
            }
        }
        if self.depot.history.ended {
            let what = format!("node {} gets authority, and the record is ended", self.procs[p].id);
            self.violate(Rule::I6, what);
        }
    }

    /// Checks I3 (one node per shard), when `p` has got or prolonged shard authority, or starts on a shard.
    pub fn check_single_owners(&mut self, p: ProcId) {
        let running: Vec<Shard> = self.procs[p].shards.keys().cloned().collect();
        for shard in running {
            let Some(runners) = self.runners.get(&shard) else { continue };
            if runners.len() < 2 || !self.may_act_on(p, &shard) {
                continue;
            }
            for q in runners.clone() {
                if q != p && self.may_act_on(q, &shard) {
                    let (p, q) = (self.procs[p].id, self.procs[q].id);
                    self.violate(Rule::I3, format!("nodes {p} and {q} both act on {shard:?}"));
                }
            }
        }
    }

    /// Whether the gate of a running task of that shard is open now.
    pub fn may_act_on(&self, p: ProcId, shard: &Shard) -> bool {
        let proc = &self.procs[p];
        proc.alive
            && self.now < proc.shard_until
            && proc.shards.contains_key(shard)
            && (proc.engine.shards().contains_key(shard)
                || self.broken == Some(Broken::ActWithoutClaim))
    }

    pub fn forget_runner(&mut self, p: ProcId, shard: &Shard) {
        if let Some(runners) = self.runners.get_mut(shard) {
            runners.retain(|q| *q != p);
        }
    }

    /// Checks a node that reports a clean leave.
    pub fn check_left(&mut self, p: ProcId) {
        if 0 < self.depot.replaced {
            return;
        }
        let proc = &self.procs[p];
        if proc.work.is_some() || !proc.shards.is_empty() {
            let what = format!("node {} left cleanly with work running", proc.id);
            return self.violate(Rule::Contract, what);
        }
        // A key that an operator attached to the node's lease does not count.
        let own = |key: &[u8]| {
            let key = self.depot.keys.parse(key);
            matches!(key, Some(Key::Candidate(_) | Key::Held(_) | Key::Node(_) | Key::Member(_)))
        };
        let left = self.depot.all().into_iter().find(|kv| {
            own(&kv.key) && kv.lease.is_some_and(|lease| self.procs[p].leases.contains(&lease))
        });
        if let Some(kv) = left {
            let id = self.procs[p].id;
            self.violate(Rule::Contract, format!("node {id} left cleanly, and {kv:?} is there"));
        }
    }

    pub fn before_commit(&mut self, call: &Call) -> Before {
        let lease = match call {
            Call::Stop { lease, .. } | Call::End { lease, .. } | Call::WriteHeld { lease, .. } => {
                Some(*lease)
            }
            _ => None,
        };
        let office = match call {
            Call::Beat { office, record } | Call::Resign { office, record } => {
                record.lease.map(|lease| (lease, *office))
            }
            Call::Stop { lease, office: Some((office, _)), .. } => Some((*lease, *office)),
            Call::InitPlan { office, .. }
            | Call::Plan { office, .. }
            | Call::DeleteHeld { office, .. }
            | Call::SwitchTick { office, .. } => Some(*office),
            _ => None,
        };
        Before {
            held: lease.and_then(|lease| {
                let kv = self.depot.get(&self.depot.keys.held(lease))?;
                values::decode_held(&kv.value)
            }),
            stands: office.is_none_or(|(lease, revision)| self.stands(lease, revision)),
        }
    }

    /// Whether that office is the last one taken in this history, with an untouched candidate key.
    fn stands(&self, lease: LeaseId, revision: Revision) -> bool {
        self.depot.history.seat.is_some_and(|seat| seat.lease == lease && seat.revision == revision)
            && self
                .depot
                .get(&self.depot.keys.candidate(lease))
                .is_some_and(|kv| kv.modified == revision)
    }

    pub fn on_commit(&mut self, call: &Call, revision: Revision, before: Before) {
        if !before.stands {
            let what = format!("{call:?} commits at {revision}, and its office does not stand");
            self.violate(Rule::I2, what);
        }
        let held = match call {
            Call::Join(join) => Some(join.lease),
            Call::WriteHeld { lease, .. } | Call::Stop { lease, .. } => Some(*lease),
            _ => None,
        };
        self.held_written.extend(held.map(|lease| (lease, revision)));
        let history = &mut self.depot.history;
        match call {
            Call::Take(take) => {
                let lease = take.record.lease.expect("a TAKE names its lease");
                if take.term < history.last_term {
                    let what = format!("term {} comes after {}", take.term, history.last_term);
                    self.violate(Rule::I2, what);
                    return;
                }
                if history.last_term < take.term {
                    self.stats.terms += 1;
                }
                history.last_term = take.term;
                history.ended = false;
                history.seat = Some(Seat { term: take.term, lease, revision });
                self.taken.insert((lease, revision.0));
            }
            Call::Beat { .. } => history.ended = false,
            Call::Seed { ended, .. } => history.ended = *ended,
            Call::Resign { record, .. } => self.on_ended(record.term),
            Call::Stop { lease, office, .. } => {
                if let Some((_, record)) = office {
                    self.on_ended(record.term);
                }
                self.check_released(*lease, before.held, &Held::default());
            }
            Call::End { lease, record, .. } => {
                if let Some((_, record)) = record {
                    self.on_ended(record.term);
                }
                self.check_released(*lease, before.held, &Held::default());
            }
            Call::WriteHeld { lease, content, .. } => {
                self.check_claims(*lease, before.held.as_ref(), content);
                self.check_released(*lease, before.held, content);
            }
            Call::Plan { work, table, .. } => self.check_plan(work, table),
            _ => (),
        }
    }

    /// Checks I6 (`ended` only while no node acts), when the record is marked ended.
    fn on_ended(&mut self, term: Term) {
        self.depot.history.ended = true;
        let seat = self.depot.history.seat.take();
        self.stats.ended += 1;
        for q in 0..self.procs.len() {
            let proc = &self.procs[q];
            if !proc.alive {
                continue;
            }
            if self.now < proc.authority_until {
                let what = format!("term {term} is ended, and node {} is in authority", proc.id);
                return self.violate(Rule::I6, what);
            }
            // A wiped store may reach the same term again.
            let of_it = |work: &Work| {
                work.office.term == term && seat.is_none_or(|seat| seat.lease == work.office.lease)
            };
            if proc.work.as_ref().is_some_and(of_it) {
                let what = format!("term {term} is ended, and work of node {} runs", proc.id);
                return self.violate(Rule::I6, what);
            }
        }
    }

    /// I3: a shard leaves a held key only after the last task of the shard has ended.
    fn check_released(&mut self, lease: LeaseId, before: Option<Held>, content: &Held) {
        let Some(before) = before else { return };
        let Some(&p) = self.owners.get(&lease) else { return };
        if !self.procs[p].alive {
            return;
        }
        for shard in before.shards.keys().filter(|shard| !content.shards.contains_key(shard)) {
            self.stats.releases += 1;
            let epoch = before.shards[shard];
            self.depot.history.released.insert((shard.clone(), lease), epoch);
            if self.procs[p].shards.contains_key(shard) {
                let id = self.procs[p].id;
                let what = format!("node {id} lets go of {shard:?}, and tasks of it run");
                return self.violate(Rule::I3, what);
            }
        }
    }

    /// Checks I4 (epochs never fall) at a claim.
    fn check_claims(&mut self, lease: LeaseId, before: Option<&Held>, content: &Held) {
        for (shard, epoch) in &content.shards {
            if before.is_some_and(|before| before.shards.get(shard) == Some(epoch)) {
                continue;
            }
            self.stats.claims += 1;
            let released = self.depot.history.released.get(&(shard.clone(), lease));
            if released.is_some_and(|last| epoch <= last) {
                let what = format!("{lease} claims {shard:?} at {epoch}, which it has released");
                return self.violate(Rule::I4, what);
            }
            let last = self.depot.history.claimed.insert(shard.clone(), (*epoch, lease));
            if falls(last, (*epoch, lease)) {
                let what = format!("{lease} claims {shard:?} at {epoch}, after {last:?}");
                return self.violate(Rule::I4, what);
            }
        }
    }

    /// Checks I4 at a plan.
    fn check_plan(&mut self, work: &WorkType, table: &PlanTable) {
        for (number, assignment) in table.shards.iter().enumerate() {
            let shard = (work.clone(), bellwether::engine::ShardId(number as u32));
            let drained = self.depot.history.drained.remove(&shard);
            let Some(owner) = assignment.owner else { continue };
            let next = (assignment.epoch, owner);
            let last = self.depot.history.planned.insert(shard.clone(), next);
            if assignment.draining {
                self.depot.history.drained.insert(shard.clone(), next);
            } else if drained == Some(next) {
                let what = format!("the plan takes back that {shard:?} is drained");
                return self.violate(Rule::I4, what);
            }
            if let Some((_, before)) = last.filter(|last| last.1 != owner) {
                self.stats.moves += 1;
                if !self.is_free(&shard, before) {
                    let what = format!("the plan gives {shard:?} away, and {before} may act on it");
                    return self.violate(Rule::I3, what);
                }
            }
            if falls(last, next) {
                let what = format!("the plan gives {shard:?} to {next:?}, after {last:?}");
                return self.violate(Rule::I4, what);
            }
        }
    }

    /// T15 (PLAN): whether an owner's held key does not have the shard, or has been gone for long enough. The
    /// check covers only keys that no operator touched, in a store that was never replaced.
    fn is_free(&self, shard: &Shard, owner: LeaseId) -> bool {
        if self.depot.history.meddled || 0 < self.depot.replaced {
            return true;
        }
        let kv = self.depot.get(&self.depot.keys.held(owner));
        match kv.and_then(|kv| values::decode_held(&kv.value)) {
            Some(held) => !held.shards.contains_key(shard),
            None => self.gone.get(&owner).is_none_or(|(since, held)| {
                !held.shards.contains_key(shard) || since + self.freed_after() < self.now
            }),
        }
    }

    /// True time after which the shards of a held key that is gone are free, at least.
    fn freed_after(&self) -> Time {
        let f = self.timing().f;
        (f.as_nanos() * 29 / 30) as Time
    }

    /// Records the last content of held keys that are gone.
    pub fn note_gone(&mut self, changes: &[Change]) {
        for change in changes {
            if let Change::Held(lease, stored) = change {
                match stored.as_ref().and_then(|stored| stored.value.clone()) {
                    Some(held) => self.gone.insert(*lease, (Time::MAX, held)),
                    None => self.gone.remove(lease).map(|(_, held)| {
                        self.gone.insert(*lease, (self.now, held.clone()));
                        (self.now, held)
                    }),
                };
            }
        }
    }

    /// T14 (CHECK): a node gives up its session because of its held key only if another client has changed that
    /// key.
    pub fn check_lost(&mut self, p: ProcId, lease: LeaseId, reason: SessionEnd) {
        if reason != SessionEnd::HeldLost || 0 < self.depot.replaced {
            return;
        }
        let Some(kv) = self.depot.get(&self.depot.keys.held(lease)) else { return };
        if self.held_written.get(&lease) == Some(&kv.modified) {
            let id = self.procs[p].id;
            let what =
                format!("node {id} gives its session up, and its held key is as it wrote it");
            self.violate(Rule::Contract, what);
        }
    }

    pub fn on_raw_commit(&mut self, ask: &Ask, revision: Revision, existed: bool) {
        match ask {
            Ask::Fenced(office) => {
                self.stats.fenced += 1;
                let stands = self.stands(office.lease, office.revision);
                let history = &mut self.depot.history;
                let falls = office.term < history.fenced;
                history.fenced = history.fenced.max(office.term);
                if !stands || falls {
                    let what = format!("a write of {office:?} commits at {revision}");
                    self.violate(Rule::I2, what);
                }
            }
            Ask::ShardWrite(_, _, shard, epoch) => {
                self.stats.shard_writes += 1;
                let last = self.depot.history.written.insert(shard.clone(), *epoch);
                if last.is_some_and(|last| *epoch < last) {
                    let what = format!("{shard:?} is written at {epoch:?}, after {last:?}");
                    self.violate(Rule::I4, what);
                }
            }
            Ask::Own(ask) => self.check_own(ask, revision, existed),
            Ask::Call(_) => unreachable!("judged elsewhere"),
        }
    }
}

fn falls(last: Option<(ShardEpoch, LeaseId)>, next: (ShardEpoch, LeaseId)) -> bool {
    last.is_some_and(|last| next.0 < last.0 || next.0 == last.0 && next.1 != last.1)
}
