//! The uptime checks of one node: everything that it runs for them, put together.
//!
//! ```no_run
//! # use bellwether::{node::{ClusterNode, WorkerOptions}, operator::uptime::{self, Folder, Uptime, UptimeOptions}};
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let (folder, checks) = Folder::open("/etc/bellwether/checks").await?;
//! let uptime = Uptime::new(checks, UptimeOptions::default());
//! let builder = ClusterNode::builder()
//!     .worker(WorkerOptions::new(uptime::WORK, uptime.worker()).shards(uptime.shards()))
//!     .leader_task(uptime.leader_task());
//! # Ok(())
//! # }
//! ```
//!
//! Beside these, [`Folder::run`](super::Folder::run) and [`Uptime::follow`] must run for as long as the node.

use std::{collections::VecDeque, path::PathBuf, sync::Arc, time::Duration};

use rustix::process::{Resource, getrlimit};
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

/// How uptime checks are run.
#[derive(Clone)]
pub struct UptimeOptions {
    /// Into how many shards the checks are cut. At least 1. Default: 256. [`Uptime::shards`] is what the node's
    /// work type has, which is one more for checks that are cut by [`CutBy::Names`].
    pub shards: u32,
    /// What tells checks apart. Default: their names.
    pub cut_by: CutBy,
    /// How many checks this node runs at once; fewer if the process may not open two files for each of them.
    /// One that hangs takes its place until its timeout, so this is no bound on what a target has to bear.
    /// At least 1. Default: 256.
    pub most_at_once: usize,
    /// Whether this node runs checks even while it leads others. When it is alone it always does. Default: no.
    pub as_leader: bool,
    /// Where the leader writes all statuses, where there is no Kubernetes. Default: nowhere.
    pub status_file: Option<PathBuf>,
    /// What asks the targets. Default: [`Prober`].
    pub probe: Arc<dyn Probe>,
    /// What is counted. Default: metrics that nobody reads.
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

impl std::fmt::Debug for UptimeOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UptimeOptions")
            .field("shards", &self.shards)
            .field("cut_by", &self.cut_by)
            .field("most_at_once", &self.most_at_once)
            .field("as_leader", &self.as_leader)
            .field("status_file", &self.status_file)
            .finish_non_exhaustive()
    }
}

/// What tells checks apart, and so what their shards are cut by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CutBy {
    /// Namespace and name: checks of a folder.
    ///
    /// Version 0.1 cut names by another hash, which put many into one shard. Nodes that cut differently
    /// must not work side by side, or one check would be in two shards. Nodes with another number of shards
    /// never do: as long as a live node has the number that the plan goes by, it alone is given shards. So
    /// one shard more stands for the other hash. In a rolling update of 0.1 the new nodes wait, and all of
    /// them begin when the last old one has left.
    #[default]
    Names,
    /// The UID: checks of the Kubernetes API. Cut by ranges that the API server can filter by.
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

/// What the process needs beside the runs: connections to the store, watches, the status server.
const FILES_OF_THE_REST: u64 = 64;
/// A run may look up a name by two queries at once, or connect to two addresses.
const FILES_OF_A_RUN: u64 = 2;

/// How many runs at once a process may have that may open so many files; `None` means any number.
fn affordable(most_files: Option<u64>) -> usize {
    let most_files = most_files.unwrap_or(u64::MAX);
    let for_runs = most_files - FILES_OF_THE_REST.min(most_files / 2);
    usize::try_from(for_runs / FILES_OF_A_RUN).unwrap_or(usize::MAX)
}

/// The uptime checks of one node.
#[derive(Clone, Debug)]
pub struct Uptime {
    worker: UptimeWorker,
    as_leader: bool,
    leader: UptimeLeader,
}

impl Uptime {
    /// For these checks.
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

    /// Into how many shards the checks are cut.
    pub fn shards(&self) -> u32 {
        self.leader.shards
    }

    /// Whether the node runs checks even while it leads others.
    pub fn as_leader(&self) -> bool {
        self.as_leader
    }

    /// What runs the checks of the shards that the node holds.
    pub fn worker(&self) -> UptimeWorker {
        self.worker.clone()
    }

    /// What puts the results together while the node leads.
    pub fn leader_task(&self) -> UptimeLeader {
        self.leader.clone()
    }

    /// The statuses of all checks, as they change while this node leads.
    pub(super) fn statuses(&self) -> watch::Receiver<Arc<Statuses>> {
        self.leader.statuses.subscribe()
    }

    /// How many checks are in which state, as it changes while this node leads.
    pub(super) fn summary(&self) -> watch::Receiver<Option<String>> {
        self.leader.summary.subscribe()
    }

    /// What this node knows of all checks, as it changes: as leader what it stores, else what it sees.
    pub fn report(&self) -> watch::Receiver<Arc<ChecksReport>> {
        self.leader.report.subscribe()
    }

    /// Follows the results for [`report`](Self::report), and takes results that nobody needs any more out
    /// of this node's state, until it is cancelled. To be run beside the node.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the report does not change any more unless the node leads.
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

    /// Takes what nobody needs any more out of the node's state. What cannot be taken out now is tried
    /// again next time.
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

/// A node that follows has seen a check only for a while: since when it is in its state, the leader says.
fn since_the_last_change_told(report: &mut ChecksReport) {
    for check in &mut report.checks {
        let of_check =
            |change: &&Change| (&change.namespace, &change.name) == (&check.namespace, &check.name);
        let last = report.changes.iter().rev().find(of_check);
        check.last_change_unix_ms =
            last.filter(|change| change.to == check.state).map(|change| change.at_unix_ms);
    }
}
