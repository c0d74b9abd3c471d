//! Feed of the results of all nodes, as they arrive.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    WORK,
    aggregate::{Change, Results},
    metrics::UptimeMetrics,
    result::parse_result_key,
};
use crate::{
    clock,
    engine::NodeId,
    node::{ChangeKind, KV, Node, StateChange, StateError, StateItem, StateWatch, WatchFrom},
};

#[cfg(test)]
mod tests;

/// Key of the leader's list of recent changes, in its node's state.
pub(super) const CHANGES: &str = "uptime/changes";

/// How long changes are collected before the results are evaluated.
const GATHERED_FOR: Duration = Duration::from_millis(100);
/// Maximum time between two evaluations: without new results, old ones become stale.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(1);
/// Changes further in the future than this were recorded by a wrong clock.
const CLOCKS_DIFFER_BY_MS: u64 = 5_000;
/// Delay before a failed watch is opened again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Whether a list of changes ends at or after another one. A list that ends in the future was recorded by a
/// leader with a wrong clock, and counts as older than any other.
fn is_newer(told: &[Change], than: &[Change], now_unix_ms: u64) -> bool {
    let latest = now_unix_ms.saturating_add(CLOCKS_DIFFER_BY_MS);
    let end = |told: &[Change]| {
        let last = told.last().map(|change| change.at_unix_ms);
        last.filter(|at| *at <= latest)
    };
    end(told) >= end(than)
}

/// Follows the results of all nodes.
pub(super) struct Feed {
    node: Arc<dyn Node>,
    metrics: UptimeMetrics,
    watch: Option<StateWatch>,
    results: Results,
    /// Nodes with a list of changes in their state: the leader and earlier leaders.
    tellers: BTreeSet<NodeId>,
    /// Latest list of changes. The list stays when its node leaves, until the next leader publishes one.
    told: Vec<Change>,
}

impl Feed {
    pub(super) fn new(node: Arc<dyn Node>, metrics: UptimeMetrics) -> Self {
        let (watch, results, tellers, told) = Default::default();
        Self { node, metrics, watch, results, tellers, told }
    }

    pub(super) fn results(&self) -> &Results {
        &self.results
    }

    /// Changes that the leader publishes. During a change of leader, the list that ends latest.
    pub(super) fn told(&self) -> &[Change] {
        &self.told
    }

    /// Whether this node published changes as leader and they are still in its state.
    pub(super) fn has_told(&self, node: NodeId) -> bool {
        self.tellers.contains(&node)
    }

    /// Waits until it is time to evaluate the results again.
    ///
    /// # Errors
    ///
    /// Error of the watch on the results; the next call tries again.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: items that were received are kept.
    pub(super) async fn wait(&mut self) -> Result<(), StateError> {
        if self.watch.is_none() {
            match self.node.watch_key_cluster(WORK, WatchFrom::Snapshot).await {
                Ok(watch) => self.watch = Some(watch),
                Err(error) => {
                    tokio::time::sleep(RETRY_AFTER).await;
                    return Err(error);
                }
            }
        }
        if tokio::time::timeout(LOOKED_AT_EVERY, self.take()).await.is_ok() {
            let gather = async {
                loop {
                    self.take().await;
                }
            };
            let _: Result<(), _> = tokio::time::timeout(GATHERED_FOR, gather).await;
        }
        Ok(())
    }

    /// Receives and applies one item of the watch.
    async fn take(&mut self) {
        let Some(watch) = &mut self.watch else { return std::future::pending().await };
        match watch.recv().await {
            Some(StateItem::Snapshot { state, .. } | StateItem::Lagged { state, .. }) => {
                self.results = Results::default();
                self.tellers.clear();
                for (node, KV { key, value }) in state {
                    self.put(node, &key, &value);
                }
            }
            Some(StateItem::Change(StateChange {
                kind: ChangeKind::Deleted,
                node,
                old_key,
                ..
            })) => {
                self.results.delete(node, &old_key);
                if old_key == CHANGES {
                    self.tellers.remove(&node);
                }
            }
            Some(StateItem::Change(StateChange { node, key, value, .. })) => {
                self.put(node, &key, &value);
            }
            None => self.watch = None,
        }
    }

    fn put(&mut self, node: NodeId, key: &str, value: &[u8]) {
        let read = if key == CHANGES {
            self.tellers.insert(node);
            serde_json::from_slice(value)
                .map(|told| self.hear(told))
                .map_err(|error| error.to_string())
        } else {
            self.results.put(node, key, value).map_err(|junk| junk.to_string())
        };
        if let Err(error) = read {
            self.metrics.junk.inc();
            let is_result = parse_result_key(key).is_some();
            tracing::warn!(
                node = node.get(),
                is_result,
                error,
                "state of uptime checks is malformed, ignored"
            );
        }
    }

    fn hear(&mut self, told: Vec<Change>) {
        let now_unix_ms = clock::unix_ms();
        if is_newer(&told, &self.told, now_unix_ms) {
            self.told = told;
        }
    }
}
