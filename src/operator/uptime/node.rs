//! Uptime checks of one node: everything that the node runs for them.
//!
//! ```no_run
//! # use bellwether::{host::Host, operator::uptime::{self, Folder, Uptime, UptimeOptions}};
//! # use tokio_util::sync::CancellationToken;
//! # async fn example(host: Host) -> Result<(), Box<dyn std::error::Error>> {
//! let (folder, checks) = Folder::open("/etc/bellwether/checks").await?;
//! let uptime = Uptime::new(checks, UptimeOptions::default());
//! let host = uptime::add(host, &uptime).task("manifests", |_| folder.run(CancellationToken::new()));
//! # Ok(())
//! # }
//! ```

use std::{collections::VecDeque, path::PathBuf, sync::Arc, time::Duration};

use rustix::process::{Resource, getrlimit};
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    aggregate::{Change, Moment, aggregate},
    check::Checks,
    feed::{CHANGES, Feed},
    leader::{Statuses, UptimeLeader},
    metrics::UptimeMetrics,
    pool::Pool,
    probe::{Probe, Prober},
    report::{ChecksReport, report},
    worker::UptimeWorker,
};
use crate::{clock, node::Node};

#[cfg(test)]
mod tests;

/// Options of the uptime checks of one node.
#[derive(Clone, Debug)]
pub struct UptimeOptions {
    /// Number of shards for the checks. At least 1. Default: 256. [`Uptime::shards`] is the number in the
    /// node's work type, which is one more for checks that are cut by [`CutBy::Names`].
    pub shards: u32,
    /// Identity by which checks are assigned to shards. Default: namespace and name.
    pub cut_by: CutBy,
    /// Maximum number of checks that this node runs at once; fewer if the process may not open two files for
    /// each. A check whose target hangs keeps its place until its timeout, so this does not limit the
    /// requests to a target. At least 1. Default: 256.
    pub most_at_once: usize,
    /// Whether this node runs checks even while it leads other nodes. A node that is alone always runs them.
    /// Default: no.
    pub as_leader: bool,
    /// File to which the leader writes all statuses, for use without Kubernetes. Default: none.
    pub status_file: Option<PathBuf>,
    /// Probe that sends the requests to the targets. Default: [`Prober`].
    pub probe: Arc<dyn Probe>,
    /// Metrics of the uptime checks. Default: unregistered metrics.
    pub metrics: UptimeMetrics,
}

impl Default for UptimeOptions {
    fn default() -> Self {
        Self {
            shards: 256,
            cut_by: CutBy::default(),
            most_at_once: 256,
            as_leader: false,
            status_file: None,
            probe: Arc::new(Prober::new()),
            metrics: UptimeMetrics::unregistered(),
        }
    }
}

/// Identity of a check, by which checks are assigned to shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CutBy {
    /// Namespace and name: checks of a folder.
    ///
    /// Version 0.1 used another hash of names, which put many checks into one shard. Nodes with different
    /// hashes must not work at the same time, or one check would be in two shards. Nodes with different
    /// numbers of shards never do: as long as a live node has the number of shards of the plan, only nodes
    /// with that number get shards. So nodes with the new hash use one shard more. In a rolling update from
    /// 0.1 the new nodes wait, and all of them start when the last old node has left.
    #[default]
    Names,
    /// The UID: checks of the Kubernetes API. Shards are ranges of a hash by which the API server can filter.
    Uids,
}

impl CutBy {
    const fn shards(self, asked: u32) -> u32 {
        match self {
            Self::Names => asked.saturating_add(1),
            Self::Uids => asked,
        }
    }
}

/// Number of files that the process needs beside the runs: for the store, watches and the status server.
const FILES_OF_THE_REST: u64 = 64;
/// Number of files that a run needs: for two DNS queries, or connections to two addresses, at once.
const FILES_OF_A_RUN: u64 = 2;

/// How many concurrent runs a process with this limit of open files can have; `None` means no limit.
fn affordable(most_files: Option<u64>) -> usize {
    let most_files = most_files.unwrap_or(u64::MAX);
    let for_runs = most_files - FILES_OF_THE_REST.min(most_files / 2);
    usize::try_from(for_runs / FILES_OF_A_RUN).unwrap_or(usize::MAX)
}

/// Uptime checks of one node: worker, leader task and report.
#[derive(Clone, Debug)]
pub struct Uptime {
    worker: UptimeWorker,
    as_leader: bool,
    leader: UptimeLeader,
}

impl Uptime {
    /// Creates the work for these checks.
    pub fn new(checks: watch::Receiver<Arc<Checks>>, options: UptimeOptions) -> Self {
        let UptimeOptions { shards, cut_by, most_at_once, as_leader, status_file, probe, metrics } =
            options;
        let shards = cut_by.shards(shards.max(1));
        let leader = UptimeLeader {
            checks: checks.clone(),
            shards,
            cut_by,
            report: watch::Sender::default(),
            leading: watch::Sender::new(false),
            statuses: watch::Sender::default(),
            summary: watch::Sender::default(),
            status_file,
            metrics: metrics.clone(),
        };
        let pool = Pool::new(most_at_once.min(affordable(getrlimit(Resource::Nofile).current)));
        let worker = UptimeWorker { checks, shards, probe, pool, metrics };
        Self { worker, as_leader, leader }
    }

    /// Number of shards into which the checks are cut.
    pub fn shards(&self) -> u32 {
        self.leader.shards
    }

    /// Whether the node runs checks even while it leads other nodes.
    pub fn as_leader(&self) -> bool {
        self.as_leader
    }

    /// Worker that runs the checks of the shards that the node holds.
    pub fn worker(&self) -> UptimeWorker {
        self.worker.clone()
    }

    /// Task that aggregates the results while the node leads.
    pub fn leader_task(&self) -> UptimeLeader {
        self.leader.clone()
    }

    /// Receiver of the statuses of all checks while this node leads.
    pub(super) fn statuses(&self) -> watch::Receiver<Arc<Statuses>> {
        self.leader.statuses.subscribe()
    }

    /// Receiver of the summary, the number of checks in each state, while this node leads.
    pub(super) fn summary(&self) -> watch::Receiver<Option<String>> {
        self.leader.summary.subscribe()
    }

    /// Receiver of this node's report on all checks: what it stores as leader, or what it sees as follower.
    pub fn report(&self) -> watch::Receiver<Arc<ChecksReport>> {
        self.leader.report.subscribe()
    }

    /// Adds the report on the checks to the JSON of `/status`.
    ///
    /// # Panics
    ///
    /// Never: a report has string keys.
    pub fn show_in(&self, status: &mut Map<String, Value>) {
        let report = Arc::clone(&self.leader.report.borrow());
        let report = serde_json::to_value(&*report).expect("a report has string keys");
        status.insert("checks".into(), report);
    }

    /// Follows the results for [`report`](Self::report), and deletes results that are no longer needed from
    /// this node's state, until it is cancelled. Must run beside the node.
    ///
    /// # Cancel safety
    ///
    /// If dropped, the report no longer changes unless the node leads.
    pub async fn follow(&self, node: Arc<dyn Node>, cancel: CancellationToken) {
        let metrics = &self.leader.metrics;
        let mut feed = Feed::new(Arc::clone(&node), metrics.clone());
        let began = clock::boot_now();
        let mut statuses = std::collections::BTreeMap::new();
        while let Some(waited) = cancel.run_until_cancelled(feed.wait()).await {
            let checks = Arc::clone(&self.leader.checks.borrow());
            metrics.manifest_problems.set(i64::try_from(checks.problems.len()).unwrap_or(i64::MAX));
            if let Err(error) = waited {
                metrics.on_store_failure("collect");
                tracing::debug!(%error, "results of uptime checks cannot be followed");
                continue;
            }
            statuses = aggregate(&checks, feed.results(), &statuses, Moment::since(began)).statuses;
            let is_leading = *self.leader.leading.borrow();
            if !is_leading {
                let told: VecDeque<Change> = feed.told().iter().cloned().collect();
                let mut report = report(&checks, &statuses, &told, self.shards());
                since_the_last_change_told(&mut report);
                self.show(report);
            }
            if cancel.run_until_cancelled(self.tidy(&*node, &feed, &checks)).await.is_none() {
                return;
            }
        }
    }

    fn show(&self, report: ChecksReport) {
        self.leader.report.send_if_modified(|shown| {
            let is_new = **shown != report;
            if is_new {
                *shown = Arc::new(report);
            }
            is_new
        });
    }

    /// Deletes results that are no longer needed from the node's state. A failed delete is tried again at the
    /// next call.
    async fn tidy(&self, node: &dyn Node, feed: &Feed, checks: &Checks) {
        let mut outlived = feed.results().outlived(node.id(), checks, clock::unix_ms());
        if feed.has_told(node.id()) && !*self.leader.leading.borrow() {
            outlived.push(CHANGES.to_owned());
        }
        for key in outlived {
            if let Err(error) = node.delete(&key).await {
                self.leader.metrics.on_store_failure("retract");
                tracing::debug!(key, %error, "outlived result cannot be taken out");
                tokio::time::sleep(Duration::from_secs(1)).await;
                return;
            }
        }
    }
}

/// A follower does not know when a state began, so the time is taken from the leader's list of changes.
fn since_the_last_change_told(report: &mut ChecksReport) {
    for check in &mut report.checks {
        let of_check =
            |change: &&Change| (&change.namespace, &change.name) == (&check.namespace, &check.name);
        let last = report.changes.iter().rev().find(of_check);
        check.last_change_unix_ms =
            last.filter(|change| change.to == check.state).map(|change| change.at_unix_ms);
    }
}
