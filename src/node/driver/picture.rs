//! What the node shows of its cluster: the status page's picture, from the same list and watch that the
//! engine gets. Nothing is decided from it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    clock,
    engine::{
        BootTime, Change, DrainRequest, Held, LeaseId, Member, NodeId, NodeMetadata, PlanTable,
        Record, Revision, ShardId, Stored, Term, WorkType,
    },
    node::status::{LeaderStatus, NodeStatus, Reign, WorkStatus},
};

/// Terms that are remembered.
const TIMELINE: usize = 200;

/// The watched keys as they were last delivered.
#[derive(Debug, Default)]
pub(super) struct Picture {
    pub(super) revision: Revision,
    /// When the watch last delivered anything.
    pub(super) fresh_at: BootTime,
    nodes: BTreeMap<NodeId, Stored<NodeMetadata>>,
    members: BTreeMap<NodeId, Stored<Member>>,
    candidates: BTreeMap<LeaseId, Stored<NodeId>>,
    held: BTreeMap<LeaseId, Stored<Held>>,
    /// How many held keys have each shard: kept up to date, since going through a thousand held keys
    /// for each of a thousand that join is too much.
    holders: BTreeMap<WorkType, BTreeMap<ShardId, u32>>,
    plans: BTreeMap<WorkType, Stored<PlanTable>>,
    drains: BTreeMap<NodeId, Stored<DrainRequest>>,
    record: Option<Stored<Record>>,
    record_at_ms: u64,
    reigns: VecDeque<Reigned>,
}

/// Whether a change may have changed who holds which shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shards {
    AsBefore,
    Changed,
}

#[derive(Clone, Debug)]
struct Reigned {
    term: Term,
    node: NodeId,
    from_ms: u64,
    to_ms: Option<u64>,
    end: &'static str,
}

impl Picture {
    /// A list replaces all but the timeline.
    pub(super) fn on_list(
        &mut self,
        revision: Revision,
        at: BootTime,
        changes: &[Change],
    ) -> Shards {
        let reigns = std::mem::take(&mut self.reigns);
        let record = self.record.take();
        let candidates = std::mem::take(&mut self.candidates);
        *self = Self { record, reigns, ..Self::default() };
        // The end of a term that was missed is judged by what was there before.
        let listed = changes.iter().find_map(|change| match change {
            Change::Record(record) => Some(record.clone()),
            _ => None,
        });
        self.candidates = candidates;
        self.on_record(listed.flatten());
        self.candidates.clear();
        self.apply(revision, at, changes);
        Shards::Changed
    }

    /// All changes of one revision.
    pub(super) fn apply(&mut self, revision: Revision, at: BootTime, changes: &[Change]) -> Shards {
        let mut shards = Shards::AsBefore;
        self.revision = revision;
        self.fresh_at = at;
        // First, while the candidates are as they were: TAKE deletes them in the same revision.
        for change in changes {
            if let Change::Record(record) = change {
                self.on_record(record.clone());
            }
        }
        for change in changes {
            match change {
                Change::Candidate(lease, stored) => {
                    set(&mut self.candidates, lease, stored.as_ref());
                }
                Change::Node(id, stored) => set(&mut self.nodes, id, stored.as_ref()),
                Change::Member(id, stored) => set(&mut self.members, id, stored.as_ref()),
                Change::Held(lease, stored) => {
                    if self.on_held(*lease, stored.as_ref()) {
                        shards = Shards::Changed;
                    }
                }
                Change::Plan(work, stored) => {
                    set(&mut self.plans, work, stored.as_ref());
                    shards = Shards::Changed;
                }
                Change::DrainRequest(id, stored) => set(&mut self.drains, id, stored.as_ref()),
                Change::Record(_)
                | Change::Tick(_)
                | Change::TickKey(..)
                | Change::ResignRequest(_) => (),
            }
        }
        shards
    }

    /// Whether the shards in a held key are others than before.
    fn on_held(&mut self, lease: LeaseId, now: Option<&Stored<Held>>) -> bool {
        let before = match now {
            Some(now) => self.held.insert(lease, now.clone()),
            None => self.held.remove(&lease),
        };
        let shards = |stored: Option<&Stored<Held>>| {
            let held = stored.and_then(|stored| stored.value.as_ref());
            held.map_or_else(Vec::new, |held| held.shards.keys().cloned().collect())
        };
        let (before, now): (Vec<_>, Vec<_>) = (shards(before.as_ref()), shards(now));
        if before == now {
            return false;
        }
        for (work, shard) in now {
            *self.holders.entry(work).or_default().entry(shard).or_default() += 1;
        }
        for (work, shard) in before {
            if let Some(holders) = self.holders.get_mut(&work)
                && let Some(count) = holders.get_mut(&shard)
            {
                *count -= 1;
                if *count == 0 {
                    holders.remove(&shard);
                }
            }
        }
        true
    }

    fn on_record(&mut self, now: Option<Stored<Record>>) {
        let at_ms = clock::unix_ms();
        let heard_ms = std::mem::replace(&mut self.record_at_ms, at_ms);
        let before = std::mem::replace(&mut self.record, now);
        let record = self.record.as_ref().and_then(|stored| stored.value.as_ref());
        let Some(record) = record else { return };
        let (Some(node), true) = (record.node, Term(0) < record.term) else { return };
        if self.reigns.back().is_none_or(|reign| reign.term != record.term) {
            let stood = before
                .and_then(|stored| stored.value?.lease)
                .is_some_and(|lease| self.candidates.contains_key(&lease));
            if let Some(last) = self.reigns.back_mut().filter(|reign| reign.to_ms.is_none()) {
                // From its last beat on nobody was known to be in office.
                last.to_ms = Some(heard_ms.max(last.from_ms));
                last.end = if stood { "silent" } else { "replaced" };
            }
            if TIMELINE <= self.reigns.len() {
                self.reigns.pop_front();
            }
            let (term, from_ms) = (record.term, at_ms);
            self.reigns.push_back(Reigned { term, node, from_ms, to_ms: None, end: "running" });
        }
        if let Some(last) = self.reigns.back_mut().filter(|_| record.ended)
            && last.to_ms.is_none()
        {
            last.to_ms = Some(at_ms);
            last.end = "ended";
        }
    }

    /// Live nodes.
    pub(super) fn members(&self) -> usize {
        self.nodes.len()
    }

    /// How many shards of each work type nobody holds.
    pub(super) fn unowned(&self) -> Vec<(WorkType, u32)> {
        let unowned = self.plans.iter().map(|(work, stored)| {
            let planned = stored.value.as_ref().map_or(0, |table| table.shards.len());
            let all = ..ShardId(u32::try_from(planned).unwrap_or(u32::MAX));
            let held = self.holders.get(work).map_or(0, |holders| holders.range(all).count());
            (work.clone(), (planned - held) as u32)
        });
        unowned.collect()
    }

    /// The term of the record.
    pub(super) fn term(&self) -> Option<Term> {
        self.record.as_ref()?.value.as_ref().map(|record| record.term)
    }

    /// The holder of the record, while its candidate key stands as its TAKE found it; else a Go node
    /// with the oldest candidate key.
    pub(super) fn leader(&self) -> Option<LeaderStatus> {
        let record = self.record.as_ref().and_then(|stored| stored.value.as_ref());
        if let Some(record) = record.filter(|record| !record.ended)
            && let (Some(lease), Some(node)) = (record.lease, record.node)
            && self.candidates.get(&lease).is_some_and(|key| key.created.0 == record.term.0)
        {
            return Some(LeaderStatus {
                id: node.to_string(),
                address: self.address(node),
                term: record.term.to_string(),
                last_beat_unix_ms: Some(self.record_at_ms),
            });
        }
        let (lease, oldest) = self.candidates.iter().min_by_key(|(_, key)| key.created)?;
        let id = oldest.value.filter(|id| !self.is_ours(*id, *lease))?;
        Some(LeaderStatus {
            id: id.to_string(),
            address: self.address(id),
            term: oldest.created.to_string(),
            last_beat_unix_ms: None,
        })
    }

    fn address(&self, id: NodeId) -> Option<String> {
        Some(self.nodes.get(&id)?.value.as_ref()?.address.clone())
    }

    fn is_ours(&self, id: NodeId, lease: LeaseId) -> bool {
        self.members.get(&id).is_some_and(|member| member.lease == Some(lease))
    }

    /// All live nodes, by id.
    pub(super) fn nodes(&self) -> Vec<NodeStatus> {
        let mut queue: Vec<_> =
            self.candidates.iter().map(|(lease, key)| (key.created, *lease)).collect();
        queue.sort_unstable();
        let places: BTreeMap<_, _> = queue.into_iter().map(|(_, lease)| lease).zip(1..).collect();
        self.nodes
            .iter()
            .map(|(id, stored)| {
                let metadata = stored.value.as_ref();
                let member = self.members.get(id);
                let held = stored.lease.and_then(|lease| self.held.get(&lease)?.value.as_ref());
                let wish = member.and_then(|member| member.value.as_ref());
                NodeStatus {
                    id: id.to_string(),
                    address: metadata.map_or(String::new(), |data| data.address.clone()),
                    role: metadata.map_or(String::new(), |data| data.role.to_string()),
                    start_unix_ms: metadata.map_or(0, |data| unix_ms(data.start)),
                    incarnation: stored.lease.map(|lease| lease.to_string()),
                    kind: if member.is_some() { "bellwether" } else { "go" }.to_owned(),
                    shards: held.map_or(0, |held| held.shards.len() as u32),
                    draining: wish.is_some_and(|member| member.draining)
                        || self.drains.contains_key(id),
                    queue: stored.lease.and_then(|lease| places.get(&lease).copied()),
                }
            })
            .collect()
    }

    /// The terms this node has seen, oldest first.
    pub(super) fn timeline(&self) -> Vec<Reign> {
        let reigns = self.reigns.iter().map(|reign| Reign {
            term: reign.term.to_string(),
            id: reign.node.to_string(),
            from_unix_ms: reign.from_ms,
            to_unix_ms: reign.to_ms,
            end: reign.end.to_owned(),
        });
        reigns.collect()
    }

    /// The work types and who works on their shards.
    pub(super) fn work(&self) -> Vec<WorkStatus> {
        let ids = self.ids();
        self.plans.iter().map(|(work, stored)| self.work_of(work, stored, &ids)).collect()
    }

    /// Which node each incarnation is.
    fn ids(&self) -> BTreeMap<LeaseId, NodeId> {
        let members = self.members.iter();
        members.filter_map(|(id, stored)| Some((stored.lease?, *id))).collect()
    }

    fn work_of(
        &self,
        work: &WorkType,
        stored: &Stored<PlanTable>,
        ids: &BTreeMap<LeaseId, NodeId>,
    ) -> WorkStatus {
        let table = stored.value.as_ref().map_or(&[][..], |table| &table.shards);
        let mut held_by = vec![None; table.len()];
        for (lease, held) in &self.held {
            let shards = held.value.iter().flat_map(|held| held.shards.keys());
            for (_, shard) in shards.filter(|(of, _)| of == work) {
                if let Some(slot) = held_by.get_mut(shard.0 as usize) {
                    *slot = Some(ids.get(lease).map_or_else(|| "?".to_owned(), NodeId::to_string));
                }
            }
        }
        let name = |lease: LeaseId| ids.get(&lease).map(NodeId::to_string);
        let draining = table.iter().enumerate().filter(|(_, shard)| shard.draining);
        WorkStatus {
            work: work.to_string(),
            unowned: held_by.iter().filter(|owner| owner.is_none()).count() as u32,
            planned_for: table.iter().map(|shard| shard.owner.and_then(name)).collect(),
            draining: draining.map(|(index, _)| index as u32).collect(),
            held_by,
        }
    }
}

fn set<K: Clone + Ord, V: Clone>(
    map: &mut BTreeMap<K, Stored<V>>,
    key: &K,
    stored: Option<&Stored<V>>,
) {
    match stored {
        Some(stored) => drop(map.insert(key.clone(), stored.clone())),
        None => drop(map.remove(key)),
    }
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
