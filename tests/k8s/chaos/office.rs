//! Follows in etcd, as it happens, which node holds office, and whether the cluster is whole.
//!
//! Frozen or cut off nodes report stale states of themselves; the store does not.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bellwether::{
    clock,
    engine::{BootTime, Held, LeaseId, NodeId, PlanTable, Record, WorkType},
    store::{
        keys::{Key, Keys},
        values::{decode_held, decode_member, decode_plan, decode_record},
    },
    tasks,
};
use etcd_client::{EventType, WatchOptions};
use tokio::sync::watch;

use crate::support::etcd::Etcd;

/// State of the cluster, as the store holds it from `at` on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sight {
    pub(super) at: BootTime,
    pub(super) term: i64,
    /// Node in office; `None` before the first leader, and after an end.
    pub(super) leader: Option<i64>,
    /// Number of nodes whose leases are live.
    pub(super) nodes: usize,
    /// All nodes have joined, one leads, and each of the others holds the shards that are planned for it: no
    /// shard is without an owner, held by the leader, or moving.
    pub(super) is_whole: bool,
}

/// Keys of the store that matter here.
#[derive(Debug, Default)]
struct Store {
    record: Option<Record>,
    members: BTreeMap<NodeId, LeaseId>,
    held: BTreeMap<LeaseId, Held>,
    plans: BTreeMap<WorkType, PlanTable>,
}

impl Store {
    fn put(&mut self, key: Key, value: &[u8]) {
        match key {
            Key::Record => self.record = decode_record(value),
            Key::Member(node) => {
                self.members.insert(node, decode_member(value).unwrap().lease);
            }
            Key::Held(lease) => {
                self.held.insert(lease, decode_held(value).unwrap());
            }
            Key::Plan(work) => {
                self.plans.insert(work, decode_plan(value).unwrap());
            }
            _ => {}
        }
    }

    fn delete(&mut self, key: &Key) {
        match key {
            Key::Record => self.record = None,
            Key::Member(node) => drop(self.members.remove(node)),
            Key::Held(lease) => drop(self.held.remove(lease)),
            Key::Plan(work) => drop(self.plans.remove(work)),
            _ => {}
        }
    }

    fn sight(&self, nodes: usize) -> Sight {
        let record = self.record.as_ref();
        let leader = record.filter(|it| !it.ended).and_then(|it| it.node);
        Sight {
            at: clock::boot_now(),
            term: record.map_or(0, |it| it.term.0),
            leader: leader.map(NodeId::get),
            nodes: self.members.len(),
            is_whole: self.members.len() == nodes && leader.is_some() && self.are_shards_held(),
        }
    }

    fn are_shards_held(&self) -> bool {
        let leader = self.record.as_ref().and_then(|it| it.lease);
        let mut workers: BTreeSet<LeaseId> = self.members.values().copied().collect();
        workers.retain(|lease| Some(*lease) != leader);
        let mut owners = BTreeSet::new();
        for (work, plan) in &self.plans {
            for (shard, assigned) in (0..).zip(&plan.shards) {
                let shard = (work.clone(), bellwether::engine::ShardId(shard));
                let Some(owner) = assigned.owner.filter(|_| !assigned.draining) else {
                    return false;
                };
                let held = self.held.get(&owner).and_then(|held| held.shards.get(&shard));
                if held != Some(&assigned.epoch) {
                    return false;
                }
                owners.insert(owner);
            }
        }
        owners == workers
    }
}

/// All observed states, oldest first; only the changes.
pub(super) struct Office(watch::Receiver<Vec<Sight>>);

impl Office {
    /// Follows this cluster, of `nodes` nodes, from the first revision of its store on.
    pub(super) async fn of(etcd: &Etcd, cluster: &str, nodes: usize) -> Self {
        let keys = Keys::new(cluster).unwrap();
        let options = WatchOptions::new().with_prefix().with_start_revision(1);
        let mut client = etcd.client().await;
        let mut events = client.watch(format!("/{cluster}/"), Some(options)).await.unwrap();
        let mut store = Store::default();
        let (tell, told) = watch::channel(vec![store.sight(nodes)]);
        drop(tasks::spawn("office", async move {
            while let Ok(Some(answer)) = events.message().await {
                for event in answer.events() {
                    let kv = event.kv().expect("an event is about a key");
                    let Some(key) = keys.parse(kv.key()) else { continue };
                    match event.event_type() {
                        EventType::Put => store.put(key, kv.value()),
                        EventType::Delete => store.delete(&key),
                    }
                }
                let now = store.sight(nodes);
                tell.send_if_modified(|sights| {
                    let last = sights.last().map(|it| Sight { at: now.at, ..*it });
                    let is_new = last != Some(now);
                    if is_new {
                        sights.push(now);
                    }
                    is_new
                });
            }
        }));
        Self(told)
    }

    /// First state, from now on, that satisfies `holds`; `None` if the time runs out.
    pub(super) async fn until(
        &self,
        within: Duration,
        holds: impl Fn(&Sight) -> bool,
    ) -> Option<Sight> {
        let mut told = self.0.clone();
        let last = |sights: &Vec<Sight>| *sights.last().expect("never empty");
        let found = tokio::time::timeout(within, told.wait_for(|it| holds(&last(it)))).await;
        found.ok().map(|found| last(&found.expect("the store is followed to the end")))
    }

    /// Latest state in the store.
    pub(super) fn now(&self) -> Sight {
        *self.0.borrow().last().expect("never empty")
    }

    /// Node that held office at that moment, and its term.
    pub(super) fn holder_at(&self, at: BootTime) -> Option<(i64, i64)> {
        let sights = self.0.borrow();
        let sight = sights.iter().rev().find(|it| it.at <= at)?;
        Some((sight.leader?, sight.term))
    }

    /// Spans in which the cluster was not whole: from a blow, or from the store's first sight of it, until the
    /// cluster is whole again under its leader of that time. Oldest first, without overlaps.
    pub(super) fn failovers(&self, blows: &[Blown]) -> Vec<(BootTime, BootTime)> {
        let sights = self.0.borrow();
        let mut spans: Vec<(BootTime, BootTime)> =
            blows.iter().map(|it| (it.at, it.whole_again)).collect();
        let mut broken = None;
        for sight in &*sights {
            match (broken, sight.is_whole) {
                (None, false) => broken = Some(sight.at),
                (Some(begun), true) => {
                    spans.push((begun, sight.at));
                    broken = None;
                }
                _ => {}
            }
        }
        spans.extend(broken.map(|begun| (begun, clock::boot_now())));
        spans.sort();
        let mut apart: Vec<(BootTime, BootTime)> = Vec::new();
        for (begun, ended) in spans {
            match apart.last_mut().filter(|last| begun <= last.1) {
                Some(last) => last.1 = last.1.max(ended),
                None => apart.push((begun, ended)),
            }
        }
        apart
    }
}

/// Blow to the leader, with its outcome.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blown {
    /// Target of the blow: its node and term.
    pub(super) meant: (i64, i64),
    /// When the blow was struck.
    pub(super) at: BootTime,
    /// When the cluster was whole again: at once if the leader stayed in office.
    pub(super) whole_again: BootTime,
    /// Term at that moment.
    pub(super) term: i64,
}
