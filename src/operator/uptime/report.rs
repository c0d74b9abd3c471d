//! Report on the checks for the status page and the command line.
//!
//! All times are milliseconds of Unix time, all durations milliseconds; node ids are text, because they can
//! exceed 2^53.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{
    aggregate::{Change, Stored},
    check::{CheckKey, Checks, Summary},
    manifests::Problem,
    resource::State,
};
use crate::clock::millis;

#[cfg(test)]
mod tests;

/// Maximum number of changes in a report.
pub const MOST_CHANGES: usize = 100;

/// Report of all checks with their states, recent changes, and problems in manifests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChecksReport {
    /// Number of checks in each state.
    pub summary: Summary,
    /// Reports of the checks, by namespace and name.
    pub checks: Vec<CheckReport>,
    /// Recent changes of state, oldest first.
    pub changes: Vec<Change>,
    /// Problems in the folder of manifests.
    pub problems: Vec<Problem>,
}

/// Report of one check.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckReport {
    /// Name of the check.
    pub name: String,
    /// Namespace of the check.
    pub namespace: String,
    /// Kind of the target: `http`, `tcp` or `dns`.
    pub kind: String,
    /// Readable text of the target, without secrets.
    pub target: String,
    /// State of the check: up, down or unknown.
    pub state: State,
    /// Time until the last answer, to the microsecond. `None` if there was no answer.
    pub latency_ms: Option<f64>,
    /// Node that ran the check last.
    pub checked_by: Option<String>,
    /// Time of the last run.
    pub last_run_unix_ms: Option<u64>,
    /// Time of the last change of state.
    pub last_change_unix_ms: Option<u64>,
    /// Reason of the state, in words.
    pub message: String,
    /// Shard that the check belongs to.
    pub shard: u32,
    /// Time between the starts of two runs.
    pub interval_ms: u64,
    /// Number of slots that no node ran since the check has this spec, as far as the leaders have seen.
    #[serde(default)]
    pub missed: u64,
}

/// Builds the report of these checks from these statuses. `shards` is the number of shards, at least one.
pub fn report(
    checks: &Checks,
    statuses: &BTreeMap<CheckKey, Stored>,
    changes: &VecDeque<Change>,
    shards: u32,
) -> ChecksReport {
    let mut summary = Summary::default();
    let mut rows = Vec::with_capacity(checks.checks.len());
    for (key, check) in &checks.checks {
        let stored = statuses.get(key).cloned().unwrap_or_default();
        let status = stored.status;
        summary.count(status.state);
        rows.push(CheckReport {
            name: key.name.to_string(),
            namespace: key.namespace.to_string(),
            kind: check.spec().target.kind().to_owned(),
            target: check.spec().target.to_string(),
            state: status.state,
            latency_ms: stored.latency_us.map(|latency_us| latency_us as f64 / 1000.0),
            checked_by: status.checked_by,
            last_run_unix_ms: status.last_run.map(|time| time.0),
            last_change_unix_ms: status.last_change.map(|time| time.0),
            message: status.message,
            shard: check.shard(shards).0,
            interval_ms: millis(check.timing().interval()),
            missed: stored.counted.map_or(0, |counted| counted.missed),
        });
    }
    let changes = changes.iter().cloned().collect();
    ChecksReport { summary, checks: rows, changes, problems: checks.problems.clone() }
}

/// Adds new changes to the remembered ones, and drops the oldest.
pub fn remember(changes: &mut VecDeque<Change>, new: impl IntoIterator<Item = Change>) {
    changes.extend(new);
    while changes.len() > MOST_CHANGES {
        changes.pop_front();
    }
}
