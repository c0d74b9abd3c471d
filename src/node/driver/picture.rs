//! History for the status page that the engine's view does not keep: the time of the last delivery by the
//! watch, and the terms so far. No rule of the engine reads this history.

use std::collections::VecDeque;

use crate::{
    clock,
    engine::{BootTime, Change, ClusterView, Record, Term},
    node::status::{Reign, ReignEnd},
};

/// Maximum number of terms in the timeline.
const TIMELINE: usize = 200;

/// History that the engine's view does not keep. The status takes all else from the engine's view, so that
/// there is only one copy: in a cluster of a thousand nodes, each view contains all thousand.
#[derive(Debug, Default)]
pub(super) struct Picture {
    /// When the watch last delivered anything.
    pub(super) fresh_at: BootTime,
    record: Option<Record>,
    record_at_ms: u64,
    reigns: VecDeque<Reign>,
}

/// Whether a change may have changed the holders of shards, or the members that offer a work type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shards {
    AsBefore,
    Changed,
}

impl Picture {
    /// Applies a list, which replaces all but the timeline. `view` is the view before the list.
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

    /// Applies all changes of one revision. `view` is the view before them: TAKE deletes candidates in the
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
            if let Some(last) = self.reigns.back_mut().filter(|reign| reign.to_unix_ms.is_none()) {
                // The previous term ends at its last beat: no node was known to be in office after it.
                last.to_unix_ms = Some(heard_ms.max(last.from_unix_ms));
                last.end = if stood { ReignEnd::Silent } else { ReignEnd::Replaced };
            }
            if TIMELINE <= self.reigns.len() {
                self.reigns.pop_front();
            }
            let (term, id, from_unix_ms) = (record.term, node, at_ms);
            let (to_unix_ms, end) = (None, ReignEnd::Running);
            self.reigns.push_back(Reign { term, id, from_unix_ms, to_unix_ms, end });
        }
        if let Some(last) = self.reigns.back_mut().filter(|_| record.ended)
            && last.to_unix_ms.is_none()
        {
            last.to_unix_ms = Some(at_ms);
            last.end = ReignEnd::Ended;
        }
    }

    /// When the record was last received, in Unix time.
    pub(super) const fn heard_unix_ms(&self) -> u64 {
        self.record_at_ms
    }

    /// The terms that this node has seen, oldest first.
    pub(super) fn timeline(&self) -> Vec<Reign> {
        self.reigns.iter().copied().collect()
    }
}
