//! What the node shows of its cluster: the status page's picture, from the engine's view and the changes
//! on their way into it. Nothing is decided from it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    clock,
    engine::{
        Assignment, BootTime, Change, Held, LeaseId, NodeId, Record, ShardId, Term, WorkType,
        machine::Picture as View, timing,
    },
    node::status::{LeaderStatus, NodeStatus, Reign, WorkStatus},
};

/// Terms that are remembered.
const TIMELINE: usize = 200;

/// What the view does not keep: when it was last heard of, who reigned before, who holds which shard.
/// The rest is read from the engine's view, of which there is one: of a thousand nodes each knows all.
#[derive(Debug, Default)]
pub(super) struct Picture {
    /// When the watch last delivered anything.
    pub(super) fresh_at: BootTime,
    holders: Holders,
    record: Option<Record>,
    record_at_ms: u64,
    reigns: VecDeque<Reigned>,
}

/// Whether a change may have changed who holds which shards, or who offers to.
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

/// Who holds which shards, kept up to date: going through a thousand held keys for each of a thousand
/// that join is too much.
#[derive(Debug, Default)]
struct Holders {
    /// Those that hold any.
    held: BTreeMap<LeaseId, Vec<(WorkType, ShardId)>>,
    /// How many have each shard.
    counts: BTreeMap<WorkType, BTreeMap<ShardId, u32>>,
}

impl Holders {
    /// Whether the shards in a held key are others than before.
    fn set(&mut self, lease: LeaseId, now: Option<&Held>) -> bool {
        let now: Vec<_> = now.map_or_else(Vec::new, |held| held.shards.keys().cloned().collect());
        let before = self.held.remove(&lease).unwrap_or_default();
        let changed = before != now;
        for (work, shard) in &now {
            *self.counts.entry(work.clone()).or_default().entry(*shard).or_default() += 1;
        }
        for (work, shard) in before {
            if let Some(holders) = self.counts.get_mut(&work)
                && let Some(count) = holders.get_mut(&shard)
            {
                *count -= 1;
                if *count == 0 {
                    holders.remove(&shard);
                }
            }
        }
        if !now.is_empty() {
            self.held.insert(lease, now);
        }
        changed
    }

    /// How many of a work type's planned shards nobody holds.
    fn unowned(&self, work: &WorkType, planned: usize) -> u32 {
        let all = ..ShardId(u32::try_from(planned).unwrap_or(u32::MAX));
        let held = self.counts.get(work).map_or(0, |holders| holders.range(all).count());
        (planned - held) as u32
    }
}

impl Picture {
    /// A list replaces all but the timeline. `view` is as it was before.
    pub(super) fn on_list(&mut self, view: View<'_>, at: BootTime, changes: &[Change]) -> Shards {
        self.holders = Holders::default();
        if !changes.iter().any(|change| matches!(change, Change::Record(_))) {
            self.on_record(view, None);
        }
        self.apply(view, at, changes);
        Shards::Changed
    }

    /// All changes of one revision. `view` is as it was before them: TAKE deletes candidates in the
    /// revision that names the next leader.
    pub(super) fn apply(&mut self, view: View<'_>, at: BootTime, changes: &[Change]) -> Shards {
        let mut shards = Shards::AsBefore;
        self.fresh_at = at;
        for change in changes {
            match change {
                Change::Record(record) => {
                    let record = record.as_ref().and_then(|stored| stored.value.clone());
                    self.on_record(view, record);
                }
                Change::Held(lease, stored) => {
                    let now = stored.as_ref().and_then(|stored| stored.value.as_ref());
                    if self.holders.set(*lease, now) {
                        shards = Shards::Changed;
                    }
                }
                // A member may be the first or the last that offers a work type.
                Change::Plan(..) | Change::Member(..) => shards = Shards::Changed,
                Change::Candidate(..)
                | Change::Node(..)
                | Change::DrainRequest(..)
                | Change::Tick(_)
                | Change::TickKey(..)
                | Change::ResignRequest(_) => (),
            }
        }
        shards
    }

    fn on_record(&mut self, view: View<'_>, now: Option<Record>) {
        let at_ms = clock::unix_ms();
        let heard_ms = std::mem::replace(&mut self.record_at_ms, at_ms);
        let before = std::mem::replace(&mut self.record, now);
        let Some(record) = &self.record else { return };
        let (Some(node), true) = (record.node, Term(0) < record.term) else { return };
        if self.reigns.back().is_none_or(|reign| reign.term != record.term) {
            let stood = before
                .and_then(|record| record.lease)
                .is_some_and(|lease| view.candidate(lease).is_some());
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

    /// How many shards of each work type nobody holds.
    pub(super) fn unowned<'a>(&self, view: View<'a>) -> impl Iterator<Item = (&'a WorkType, u32)> {
        view.plans().map(move |(work, table)| (work, self.unowned_of(view, work, &table.shards)))
    }

    /// None of work that no live member offers: there is no such work any more, though its plan stays in
    /// the store.
    fn unowned_of(&self, view: View<'_>, work: &WorkType, table: &[Assignment]) -> u32 {
        if view.is_offered(work) { self.holders.unowned(work, table.len()) } else { 0 }
    }

    /// The holder of the record, while its candidate key stands as its TAKE found it; else a Go node
    /// with the oldest candidate key.
    pub(super) fn leader(&self, view: View<'_>) -> Option<LeaderStatus> {
        if let Some((record, node)) = in_office(view) {
            return Some(LeaderStatus {
                id: node.to_string(),
                address: address(view, node),
                term: record.term.to_string(),
                last_beat_unix_ms: Some(self.record_at_ms),
                suspended: self.is_suspended(view, record),
            });
        }
        let (lease, oldest) = view.queue().next()?;
        let id = oldest.value.filter(|id| view.node_of(lease) != Some(*id))?;
        Some(LeaderStatus {
            id: id.to_string(),
            address: address(view, id),
            term: oldest.created.to_string(),
            last_beat_unix_ms: None,
            suspended: false,
        })
    }

    /// Whether a leader is in office and does not act, as the view shows it.
    pub(super) fn has_suspended_leader(&self, view: View<'_>) -> bool {
        in_office(view).is_some_and(|(record, _)| self.is_suspended(view, record))
    }

    /// Silence counts only while the watch delivers other things: a node that is cut off itself cannot tell.
    fn is_suspended(&self, view: View<'_>, record: &Record) -> bool {
        record.suspended || view.record_at() + timing::wait(record.d) < self.fresh_at
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
    pub(super) fn work(&self, view: View<'_>) -> Vec<WorkStatus> {
        view.plans().map(|(work, table)| self.work_of(view, work, &table.shards)).collect()
    }

    fn work_of(&self, view: View<'_>, work: &WorkType, table: &[Assignment]) -> WorkStatus {
        let name = |lease: LeaseId| view.node_of(lease).map(|id| id.to_string());
        let mut held_by = vec![None; table.len()];
        for (lease, shards) in &self.holders.held {
            for (_, shard) in shards.iter().filter(|(of, _)| of == work) {
                if let Some(slot) = held_by.get_mut(shard.0 as usize) {
                    *slot = Some(name(*lease).unwrap_or_else(|| "?".to_owned()));
                }
            }
        }
        let draining = table.iter().enumerate().filter(|(_, shard)| shard.draining);
        WorkStatus {
            work: work.to_string(),
            unowned: self.unowned_of(view, work, table),
            planned_for: table.iter().map(|shard| shard.owner.and_then(name)).collect(),
            draining: draining.map(|(index, _)| index as u32).collect(),
            held_by,
        }
    }
}

/// The record and its node, while its candidate key stands as its TAKE found it.
fn in_office(view: View<'_>) -> Option<(&Record, NodeId)> {
    let record = view.record().filter(|record| !record.ended)?;
    let (lease, node) = (record.lease?, record.node?);
    let stands = view.candidate(lease).is_some_and(|key| key.created.0 == record.term.0);
    stands.then_some((record, node))
}

/// All live nodes, by id.
pub(super) fn nodes(view: View<'_>) -> Vec<NodeStatus> {
    let places: BTreeMap<_, _> = view.queue().map(|(lease, _)| lease).zip(1..).collect();
    let nodes = view.nodes().iter().map(|(id, stored)| {
        let metadata = stored.value.as_ref();
        let member = view.members().get(id);
        let held = stored.lease.and_then(|lease| view.held_by(lease));
        let wish = member.and_then(|member| member.value.as_ref());
        NodeStatus {
            id: id.to_string(),
            address: metadata.map_or(String::new(), |data| data.address.clone()),
            role: metadata.map_or(String::new(), |data| data.role.to_string()),
            start_unix_ms: metadata.map_or(0, |data| unix_ms(data.start)),
            incarnation: stored.lease.map(|lease| lease.to_string()),
            kind: if member.is_some() { "bellwether" } else { "go" }.to_owned(),
            shards: held.map_or(0, |held| held.shards.len() as u32),
            draining: wish.is_some_and(|member| member.draining) || view.drains().contains(id),
            queue: stored.lease.and_then(|lease| places.get(&lease).copied()),
        }
    });
    nodes.collect()
}

fn address(view: View<'_>, id: NodeId) -> Option<String> {
    Some(view.nodes().get(&id)?.value.as_ref()?.address.clone())
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
