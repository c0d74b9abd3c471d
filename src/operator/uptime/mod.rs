//! Uptime checks: the reference work. Followers run the checks of their shards, the leader aggregates
//! what they found.
//!
//! ```text
//! manifests ──▶ Checks (a snapshot) ──▶ runner, per shard ──▶ results (node state of the runner)
//!                     │                    schedule, probe              │
//!                     └──────────────▶ aggregate, on the leader ◀───────┘ ──▶ statuses, changes, report
//! ```
//!
//! Everything that decides is pure and is handed the time: [`shard`], [`schedule`], [`aggregate`]. The
//! resource is that of the Kubernetes API, [`crd`].
//!
//! # Invariants
//!
//! * A slot (one interval of one check) is run by one node at most: a run is claimed in the store, by a
//!   write that only the shard's owner can make, before it begins.
//! * No slot is passed over in silence: a slot that nobody ran is counted in the next result's `missed`.
//! * A manifest that cannot be read stops no check.

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

/// Values as manifests hold them.
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

use crate::{engine::WorkType, node::WorkerOptions};

/// The name of the work type whose shards these are.
pub const WORK: &str = "uptime";

/// The work type whose shards these are.
pub fn work_type() -> WorkType {
    WorkType::new(WORK)
}

/// The work of that node's shards, as an option of the node.
pub fn worker_options(uptime: &Uptime) -> WorkerOptions {
    WorkerOptions::new(WORK, uptime.worker()).shards(uptime.shards()).as_leader(uptime.as_leader())
}
