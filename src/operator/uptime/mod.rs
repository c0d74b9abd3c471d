//! Uptime checks: the reference work. Followers run the checks of their shards, the leader aggregates the
//! results.
//!
//! ```text
//! manifests ──▶ Checks (a snapshot) ──▶ runner, per shard ──▶ results (node state of the runner)
//!                     │                    schedule, probe              │
//!                     └──────────────▶ aggregate, on the leader ◀───────┘ ──▶ statuses, changes, report
//! ```
//!
//! All decisions are pure functions that take the time as an argument: [`shard`], [`schedule`],
//! [`aggregate`]. The resource is that of the Kubernetes API, [`crd`].
//!
//! # Invariants
//!
//! * At most one node runs a slot (one interval of one check): before a run begins, it is claimed in the
//!   store by a write that only the shard's owner can make.
//! * No slot is skipped silently: a slot that no node ran is counted in `missed` of the next result.
//! * A malformed manifest stops no check.

pub mod aggregate;
pub mod api;
mod book;
pub mod check;
pub mod crd;
mod feed;
pub mod leader;
pub mod manifests;
pub mod metrics;
pub mod node;
pub mod pool;
pub mod probe;
pub mod report;
pub mod resource;
pub mod result;
pub mod runner;
pub mod samples;
pub mod schedule;
pub mod status_file;
#[cfg(test)]
mod testing;
pub mod worker;

pub use crate::k8s::shard;

/// Value types of the fields of a manifest.
pub mod value {
    pub use super::crd::{NotAStatusRange, StatusRange};
    pub use crate::k8s::crd::value::{NotASpan, Span, UnixMs};
}

pub use check::{Check, CheckKey, Checks};
pub use manifests::{Folder, FolderError, Problem};
pub use metrics::UptimeMetrics;
pub use node::{CutBy, Uptime, UptimeOptions};
pub use report::{CheckReport, ChecksReport};
pub use resource::UptimeCheck;

use tokio_util::sync::CancellationToken;

use crate::{engine::WorkType, host::Host, node::WorkerOptions};

/// Name of the work type whose shards hold the uptime checks.
pub const WORK: &str = "uptime";

/// Work type whose shards hold the uptime checks.
pub fn work_type() -> WorkType {
    WorkType::new(WORK)
}

/// Options that make a node run the checks of its shards.
pub fn worker_options(uptime: &Uptime) -> WorkerOptions {
    let worker = WorkerOptions::new(WORK, uptime.worker()).shards(uptime.shards());
    if uptime.as_leader() { worker.as_leader() } else { worker }
}

/// Adds to a host what the checks need: the work on shards, the aggregation on the leader, and the report, which
/// `/status` shows.
#[must_use]
pub fn add(host: Host, uptime: &Uptime) -> Host {
    let (follows, shown) = (uptime.clone(), uptime.clone());
    host.worker(worker_options(uptime))
        .leader_task(uptime.leader_task())
        .task("uptime results", |node| async move {
            follows.follow(node, CancellationToken::new()).await;
        })
        .status(|source| source.with(move |status| shown.show_in(status)))
}
