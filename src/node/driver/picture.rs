//! What the node shows of its cluster: the status page's picture, from the engine's view and the changes
//! on their way into it. Nothing is decided from it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    clock,
    engine::{
        BootTime, Change, ClusterView, Holder, Leader, NodeId, PlanTable, Record, Term, WorkType,
        timing,
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

impl Picture {
    /// A list replaces all but the timeline. `view` is as it was before.
    pub(super) fn on_list(
        &mut self,
        view: &ClusterView,
        at: BootTime,
        changes: &[Change],
    ) -> Shards {
        if !changes.iter().any(|change| matches!(change, Change::Record(_))) {
            self.on_record(view, None);
        }
        self.apply(view, at, changes);
        Shards::Changed
    }

    /// All changes of one revision. `view` is as it was before them: TAKE deletes candidates in the
    /// revision that names the next leader.
    pub(super) fn apply(&mut self, view: &ClusterView, at: BootTime, changes: &[Change]) -> Shards {
        let mut shards = Shards::AsBefore;
        self.fresh_at = at;
        for change in changes {
            match change {
                Change::Record(record) => {
                    let record = record.as_ref().and_then(|stored| stored.value.clone());
                    self.on_record(view, record);
                }
                // A member may be the first or the last that offers a work type.
                Change::Held(..) | Change::Plan(..) | Change::Member(..) => {
                    shards = Shards::Changed;
                }
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

    fn on_record(&mut self, view: &ClusterView, now: Option<Record>) {
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

    /// The node in office, and whether it acts, as far as the view shows it. `record_at` is when the record in
    /// the view was received.
    pub(super) fn leader(&self, view: &ClusterView, record_at: BootTime) -> Option<LeaderStatus> {
        let leader = view.leader()?;
        Some(LeaderStatus {
            id: leader.id.to_string(),
            address: view.address_of(leader.id).map(ToOwned::to_owned),
            term: leader.term.to_string(),
            last_beat_unix_ms: leader.d.map(|_| self.record_at_ms),
            suspended: self.is_suspended(&leader, record_at),
        })
    }

    /// Whether a leader does not act. Silence counts only while the watch delivers other things: a node that
    /// is cut off itself cannot tell.
    pub(super) fn is_suspended(&self, leader: &Leader, record_at: BootTime) -> bool {
        let silent = |d| record_at + timing::wait(d) < self.fresh_at;
        leader.suspended || leader.d.is_some_and(silent)
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
}

/// The work types and the holders of their shards.
pub(super) fn work(view: &ClusterView) -> Vec<WorkStatus> {
    let of = |(work, _): (&WorkType, &PlanTable)| {
        let shards = view.shards(work);
        let holder = |holder: Holder| match holder {
            Holder::Node(id) => id.to_string(),
            Holder::Unknown => "?".to_owned(),
        };
        let draining = shards.iter().zip(0..).filter(|(shard, _)| shard.draining);
        WorkStatus {
            work: work.to_string(),
            unowned: view.unowned(work) as u32,
            planned_for: shards.iter().map(|it| it.planned.map(|id| id.to_string())).collect(),
            draining: draining.map(|(_, number)| number).collect(),
            held_by: shards.iter().map(|it| it.held.map(holder)).collect(),
        }
    };
    view.plans().map(of).collect()
}

/// All live nodes, by id.
pub(super) fn nodes(view: &ClusterView) -> Vec<NodeStatus> {
    let places: BTreeMap<_, _> = view.queue().map(|(lease, _)| lease).zip(1..).collect();
    let nodes = view.nodes().iter().map(|(id, stored)| {
        let metadata = stored.value.as_ref();
        let member = view.members().get(id);
        NodeStatus {
            id: id.to_string(),
            address: metadata.map_or(String::new(), |data| data.address.clone()),
            role: metadata.map_or(String::new(), |data| data.role.to_string()),
            start_unix_ms: metadata.map_or(0, |data| unix_ms(data.start)),
            incarnation: stored.lease.map(|lease| lease.to_string()),
            kind: if member.is_some() { "bellwether" } else { "go" }.to_owned(),
            shards: stored.lease.map_or(0, |lease| view.shards_held(lease)) as u32,
            draining: view.is_drained(*id),
            queue: stored.lease.and_then(|lease| places.get(&lease).copied()),
        }
    });
    nodes.collect()
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
