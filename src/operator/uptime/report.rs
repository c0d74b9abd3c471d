//! What the status page and the command line show of the checks.
//!
//! All times are milliseconds of Unix time, all spans milliseconds; node ids are text, because they can
//! exceed 2^53.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{
    aggregate::{Change, Stored},
    check::{CheckKey, Checks, Summary},
    manifests::Problem,
    resource::State,
};

#[cfg(test)]
mod tests;

/// How many changes are remembered.
pub const MOST_CHANGES: usize = 100;

/// All checks with their states, what changed lately, and what could not be read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChecksReport {
    /// How many checks are in which state.
    pub summary: Summary,
    /// The checks, by namespace and name.
    pub checks: Vec<CheckReport>,
    /// What changed lately, oldest first.
    pub changes: Vec<Change>,
    /// What could not be read in the folder of manifests.
    pub problems: Vec<Problem>,
}

/// One check.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckReport {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// `http`, `tcp` or `dns`.
    pub kind: String,
    /// What is asked, for people; without secrets.
    pub target: String,
    /// Whether it is up.
    pub state: State,
    /// How long the last answer took, to the microsecond. None if there was none.
    pub latency_ms: Option<f64>,
    /// The node that ran it last.
    pub checked_by: Option<String>,
    /// When it was last run.
    pub last_run_unix_ms: Option<u64>,
    /// When its state last changed.
    pub last_change_unix_ms: Option<u64>,
    /// Why it is in this state, in words.
    pub message: String,
    /// The shard it belongs to.
    pub shard: u32,
    /// Between the beginnings of two runs.
    pub interval_ms: u64,
    /// How many intervals nobody ran it in, since it is specified so, as far as the leaders have seen.
    #[serde(default)]
    pub missed: u64,
}

/// The report of these checks with these statuses. `shards` is how many there are, at least one.
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
            interval_ms: u64::try_from(check.timing().interval().as_millis()).unwrap_or(u64::MAX),
            missed: stored.counted.map_or(0, |counted| counted.missed),
        });
    }
    let changes = changes.iter().cloned().collect();
    ChecksReport { summary, checks: rows, changes, problems: checks.problems.clone() }
}

/// Adds changes to those that are remembered, and forgets the oldest.
pub fn remember(changes: &mut VecDeque<Change>, new: impl IntoIterator<Item = Change>) {
    changes.extend(new);
    while changes.len() > MOST_CHANGES {
        changes.pop_front();
    }
}
