//! The view and the tick, on which all nodes must agree once the cluster is quiet.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bellwether::{
    engine::{
        Change, Engine, Held, LeaseId, Member, NodeId, NodeMetadata, PlanTable, Record, Stored,
        WorkType,
    },
    store::{KeyValue, keys::Key, protocol::Decoded},
};

use crate::{breaks::Broken, rules::Rule, world::World};

/// All content of a view.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    record: Option<Record>,
    candidates: BTreeMap<LeaseId, Stored<NodeId>>,
    nodes: BTreeMap<NodeId, Arc<Stored<NodeMetadata>>>,
    members: BTreeMap<NodeId, Arc<Stored<Member>>>,
    held: BTreeMap<LeaseId, Held>,
    plans: BTreeMap<WorkType, PlanTable>,
    tick: Option<std::time::Duration>,
    drains: BTreeSet<NodeId>,
}

impl Seen {
    fn by(engine: &Engine) -> Self {
        let view = engine.view();
        Self {
            record: view.record().cloned(),
            candidates: view.queue().map(|(lease, it)| (lease, it.clone())).collect(),
            nodes: view.nodes().clone(),
            members: view.members().clone(),
            held: view.held().map(|(lease, held)| (lease, held.clone())).collect(),
            plans: view.plans().map(|(work, table)| (work.clone(), table.clone())).collect(),
            tick: view.tick(),
            drains: view.drains().clone(),
        }
    }

    fn in_the_store(changes: Vec<Change>) -> Self {
        let mut seen = Self::default();
        for change in changes {
            match change {
                Change::Record(Some(it)) => seen.record = it.value,
                Change::Candidate(lease, Some(it)) => drop(seen.candidates.insert(lease, it)),
                Change::Node(id, Some(it)) => drop(seen.nodes.insert(id, Arc::new(it))),
                Change::Member(id, Some(it)) => drop(seen.members.insert(id, Arc::new(it))),
                Change::Held(lease, Some(it)) if it.lease == Some(lease) => {
                    seen.held.extend(it.value.map(|held| (lease, held)));
                }
                Change::Plan(work, Some(it)) => {
                    seen.plans.extend(it.value.map(|table| (work, table)));
                }
                Change::Tick(Some(it)) => seen.tick = it.value,
                Change::DrainRequest(id, Some(_)) => drop(seen.drains.insert(id)),
                _ => (),
            }
        }
        seen
    }
}

impl World {
    /// The view of each node that has received all events equals the content of the store.
    pub fn check_views(&mut self) {
        if !self.depot.is_published() || self.broken.is_some_and(Broken::alters_views) {
            return;
        }
        let kvs = self.depot.all();
        let there = Seen::in_the_store(Decoded::of_list(&self.depot.keys, &kvs).changes);
        let bad = self.scenario.bad_for_good.map(|(slot, _)| slot);
        for p in 0..self.procs.len() {
            let proc = &self.procs[p];
            if Some(proc.slot) == bad {
                continue;
            }
            let has_all = proc.watch.open
                && proc.watch.under_way.is_empty()
                && self.replica_revision(p).is_none_or(|it| it == self.depot.revision());
            if !proc.alive || !has_all || !proc.steps.is_empty() {
                continue;
            }
            self.stats.views_compared += 1;
            let seen = Seen::by(&proc.engine);
            if there.members.get(&proc.id).is_none_or(|member| member.value.is_none()) {
                let what = format!("the member record of node {} is not readable", proc.id);
                return self.violate(Rule::I7, what);
            }
            if seen != there {
                let what = format!("node {} sees {seen:#?}, and there is {there:#?}", proc.id);
                return self.violate(Rule::I7, what);
            }
        }
    }

    /// T18 (switch tick): all nodes run at the cluster's tick, and the cluster's tick is the one that all nodes
    /// offer, if they agree.
    pub fn check_ticks(&mut self) {
        let key = self.depot.keys.tick();
        let decoded = self.depot.get(&key).map(|kv| Decoded::of_list(&self.depot.keys, &[kv]));
        let tick = decoded.and_then(|decoded| match decoded.changes.first() {
            Some(Change::Tick(Some(stored))) => stored.value,
            _ => None,
        });
        let Some(tick) = tick else { return };
        // A node whose link stays bad may not have heard of the switch.
        let bad = self.scenario.bad_for_good.map(|(slot, _)| slot);
        let living = || self.procs.iter().filter(|proc| proc.alive && Some(proc.slot) != bad);
        let offered: BTreeSet<_> = living().map(|proc| proc.offers).collect();
        let run: BTreeSet<_> = living().map(|proc| proc.tick).collect();
        // Leases of dead nodes, Go nodes included, may not have expired yet.
        let is_of_the_living = |kv: &KeyValue| match self.depot.keys.parse(&kv.key) {
            Some(Key::Node(_)) => {
                kv.lease.is_none_or(|lease| living().any(|p| p.engine.joined() == Some(lease)))
            }
            _ => true,
        };
        let alone = self.depot.all().iter().all(is_of_the_living);
        // Keys left behind by a node with a bad link delay a switch until their lease expires.
        let agreed = alone && bad.is_none() && offered.len() == 1 && !offered.contains(&tick);
        if run != BTreeSet::from([tick]) || agreed {
            let what =
                format!("the tick is {tick:?}, offered are {offered:?}, nodes run at {run:?}");
            self.violate(Rule::I7, what);
        }
    }
}
