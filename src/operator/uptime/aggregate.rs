//! Aggregates the results of all nodes: the status of each check, and the changes of state.
//!
//! Pure: takes the checks, the results of all nodes and the previous statuses, and returns sorted statuses.
//! Any node returns the same for the same input.
//!
//! # Invariants
//!
//! * Of several results of a check, the result of the shard's newest owner counts, and of that owner's
//!   results the one with the newest slot. An older result never replaces a newer one.
//! * Without a recent result a check is `unknown`, regardless of its previous state. A result from the future
//!   is not recent: the clock that stamped it was wrong, so its age is not known.
//! * A change of leader alone never changes the state of a check: silence counts only from when this leader
//!   began to listen.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    check::{Check, CheckKey, Checks, SpecHash, Summary},
    probe::Verdict,
    resource::{State, UptimeCheckStatus},
    result::{CheckResult, parse_result_key},
    schedule::Slot,
    value::{Span, UnixMs},
};
use crate::{
    clock::{self, millis},
    engine::{BootTime, NodeId, ShardEpoch},
    operator::uptime::crd::cut,
};

#[cfg(test)]
mod tests;

/// A result supports a state for this many intervals plus one timeout.
const FRESH_INTERVALS: u32 = 2;
/// Added to that: time to replace a dead node and for its result to arrive.
const FRESH_GRACE: Duration = Duration::from_secs(5);

/// Time at which results are aggregated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock, in milliseconds of Unix time.
    pub unix_ms: u64,
    /// How long this node has followed the results. Results that were published earlier may be missing.
    pub listened_for: Duration,
}

impl Moment {
    /// The present moment, for a node that has listened since `began`.
    pub(super) fn since(began: BootTime) -> Self {
        Self { unix_ms: clock::unix_ms(), listened_for: clock::boot_now().since(began) }
    }
}

/// Status of a check with the data to continue from it; the leader stores one for each check.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stored {
    /// Status as it is published.
    pub status: UptimeCheckStatus,
    /// Hash of the spec that the status's result belongs to.
    pub spec: SpecHash,
    /// Slot of that result; `None` if there was no result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_unix_ms: Option<u64>,
    /// Time until the answer came, in microseconds. `None` if there was no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<u64>,
    /// Number of missed slots, and up to which slot they are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<Counted>,
}

/// Number of slots of one spec that no node ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counted {
    /// Hash of the spec whose slots are counted.
    pub spec: SpecHash,
    /// Last slot counted, as run or as missed, in milliseconds of Unix time.
    pub up_to_unix_ms: u64,
    /// Number of slots that were missed.
    pub missed: u64,
}

/// A result and the node that published it in its node state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Node that published the result.
    pub node: NodeId,
    /// Result of the node's run.
    pub result: CheckResult,
}

/// Order of results: the result with the greatest rank counts.
///
/// Among recent results, the newer owner's counts, regardless of what other nodes' clocks show. But epochs
/// restart after a wipe of the store, and nodes put earlier results back into their state then: so a stale
/// result ranks below any that is not.
type Rank = (bool, ShardEpoch, u64, NodeId);

fn rank(check: &Check, node: NodeId, result: &CheckResult, now_unix_ms: u64) -> Rank {
    let is_recent = age(check, UnixMs(result.ran_unix_ms), now_unix_ms) == Age::Fresh;
    (is_recent, result.epoch, result.due_unix_ms, node)
}

/// Results of all nodes, as published in their node states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Results {
    by_check: BTreeMap<CheckKey, BTreeMap<(NodeId, String), CheckResult>>,
}

/// A value in the store that is not a result.
#[derive(Debug, thiserror::Error)]
pub enum Junk {
    /// The key is not the key of a result.
    #[error("the key {key:?} is that of no result")]
    Key {
        /// Key of the value.
        key: String,
    },
    /// The value cannot be parsed as a result.
    #[error("the result under {key:?} cannot be read")]
    Value {
        /// Key of the value.
        key: String,
        /// Error of the JSON parser.
        source: serde_json::Error,
    },
}

impl Results {
    /// Applies a put of this key in the node's state.
    ///
    /// # Errors
    ///
    /// [`Junk`] if the value is not a result; the previous value of the key is dropped then.
    pub fn put(&mut self, node: NodeId, key: &str, value: &[u8]) -> Result<(), Junk> {
        let Some((_, check)) = parse_result_key(key) else {
            return Err(Junk::Key { key: key.to_owned() });
        };
        match serde_json::from_slice(value) {
            Ok(result) => {
                self.by_check.entry(check).or_default().insert((node, key.to_owned()), result);
                Ok(())
            }
            Err(source) => {
                self.delete(node, key);
                Err(Junk::Value { key: key.to_owned(), source })
            }
        }
    }

    /// Applies a delete of this key in the node's state.
    pub fn delete(&mut self, node: NodeId, key: &str) {
        let Some((_, check)) = parse_result_key(key) else { return };
        let Some(of_check) = self.by_check.get_mut(&check) else { return };
        of_check.remove(&(node, key.to_owned()));
        if of_check.is_empty() {
            self.by_check.remove(&check);
        }
    }

    /// Returns the newest result of the check with its present spec.
    pub fn newest(&self, check: &Check, now_unix_ms: u64) -> Option<Found> {
        let of_check = self.by_check.get(check.key())?.iter();
        of_check
            .filter(|(_, result)| result.spec == check.spec_hash())
            .max_by_key(|((node, _), result)| rank(check, *node, result, now_unix_ms))
            .map(|((node, _), result)| Found { node: *node, result: result.clone() })
    }

    /// Keys in this node's state that are no longer needed: results of checks that were deleted, and of
    /// checks that a newer owner has run since. A result is kept until then, so that a check that moves
    /// always has one.
    pub fn outlived(&self, node: NodeId, checks: &Checks, now_unix_ms: u64) -> Vec<String> {
        let mut outlived = Vec::new();
        for (key, results) in &self.by_check {
            let check = checks.checks.get(key);
            let newness = |of: NodeId, result: &CheckResult| {
                check.map(|check| {
                    let (is_recent, epoch, ..) = rank(check, of, result, now_unix_ms);
                    (is_recent, epoch)
                })
            };
            let newest =
                results.iter().map(|((of, _), result)| newness(*of, result)).max().flatten();
            for ((of, key), result) in results {
                if *of == node && (check.is_none() || newness(*of, result) < newest) {
                    outlived.push(key.clone());
                }
            }
        }
        outlived
    }
}

/// Change of a check's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Time of the change, in milliseconds of Unix time.
    pub at_unix_ms: u64,
    /// Namespace of the check.
    pub namespace: String,
    /// Name of the check.
    pub name: String,
    /// State before the change.
    pub from: State,
    /// State after the change.
    pub to: State,
    /// Reason of the change, in words.
    pub message: String,
}

/// Result of [`aggregate`]: statuses, changes and counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Aggregate {
    /// Status of every check, by key.
    pub statuses: BTreeMap<CheckKey, Stored>,
    /// Changes against the previous statuses, by time and name.
    pub changes: Vec<Change>,
    /// Number of missed slots that the previous statuses did not count yet.
    pub missed: u64,
    /// Number of checks in each state.
    pub summary: Summary,
}

/// Aggregates the results. `previous` is what the last call returned, or what an earlier leader stored.
pub fn aggregate(
    checks: &Checks,
    results: &Results,
    previous: &BTreeMap<CheckKey, Stored>,
    moment: Moment,
) -> Aggregate {
    let mut aggregate = Aggregate::default();
    for (key, check) in &checks.checks {
        let before = previous.get(key);
        let found = results.newest(check, moment.unix_ms);
        let (mut stored, changed) = status_of(check, found.as_ref(), before, moment);
        let (missed, counted) = count(check, found.as_ref(), before, moment);
        stored.counted = Some(counted);
        aggregate.missed += missed;
        aggregate.changes.extend(changed);
        aggregate.summary.count(stored.status.state);
        aggregate.statuses.insert(key.clone(), stored);
    }
    aggregate.changes.sort_by(|a, b| {
        (a.at_unix_ms, &a.namespace, &a.name).cmp(&(b.at_unix_ms, &b.namespace, &b.name))
    });
    aggregate
}

/// Returns how many slots were missed that are not counted yet, and the new count.
///
/// A slot is missed if a later slot has a result and this one does not, or if so much time has passed that
/// its result cannot arrive any more: so a check that never ran has missed slots, too.
fn count(
    check: &Check,
    found: Option<&Found>,
    before: Option<&Stored>,
    Moment { unix_ms, listened_for }: Moment,
) -> (u64, Counted) {
    let (timing, spec) = (check.timing(), check.spec_hash());
    let current = timing.slot_at(unix_ms);
    // A slot further ahead was recorded by a wrong clock, and would stop the counting.
    let is_possible = |slot: &u64| *slot <= timing.after(current).0;
    let counted = before.and_then(|before| before.counted).filter(|counted| counted.spec == spec);
    let up_to = counted.map(|counted| counted.up_to_unix_ms).filter(is_possible);
    let of_spec = before.filter(|before| before.spec == spec);
    let seen = of_spec.and_then(|before| before.due_unix_ms).filter(is_possible);
    let told = found.and_then(|found| found.result.after_unix_ms).filter(is_possible);
    let ran = found.map(|found| found.result.due_unix_ms).filter(is_possible).map(Slot);
    let known = up_to.max(seen).max(told).map(Slot);
    // A new check, or a check of a new shard, takes a moment to run first: no slot is missed by that.
    let has_begun = seen.or(told).is_some() || counted.is_some_and(|counted| counted.missed > 0);
    let mut missed = match (known, ran) {
        (Some(known), Some(ran)) if has_begun => timing.between(known, ran),
        _ => 0,
    };
    // For a check that was not known before, the slot in which it appeared counts too.
    let mut last = known.max(ran).unwrap_or(timing.before(current));
    // An earlier leader may have seen the results of slots before that.
    let since = unix_ms.saturating_sub(millis(listened_for));
    let passed = unix_ms.saturating_sub(millis(timing.interval() * 2 + FRESH_GRACE));
    let last_passed = timing.slot_at(passed);
    missed += timing.between(last.max(timing.slot_at(since)), timing.after(last_passed));
    last = last.max(last_passed);
    let total = counted.map_or(0, |counted| counted.missed).saturating_add(missed);
    (missed, Counted { spec, up_to_unix_ms: last.0, missed: total })
}

fn status_of(
    check: &Check,
    found: Option<&Found>,
    before: Option<&Stored>,
    Moment { unix_ms: now_unix_ms, listened_for }: Moment,
) -> (Stored, Option<Change>) {
    let state_before = before.map_or(State::Unknown, |before| before.status.state);
    let mut stored = match (found, before) {
        (Some(found), _) => of_result(check, found, state_before),
        (None, Some(before)) => before.clone(),
        (None, None) => Stored { spec: check.spec_hash(), ..Stored::default() },
    };
    stored.status.last_change = before.and_then(|before| before.status.last_change);
    let status = &mut stored.status;
    match status.last_run {
        None => {
            status.state = State::Unknown;
            "not run yet".clone_into(&mut status.message);
        }
        Some(run) => match age(check, run, now_unix_ms) {
            Age::Fresh => {}
            Age::Ahead => {
                let by = status.checked_by.as_deref().unwrap_or("?");
                status.message = format!(
                    "the last result, of node {by}, is dated {run}, which is in the future: \
                     set the clocks of the nodes"
                );
                status.state = State::Unknown;
            }
            Age::Stale if listened_for > fresh_for(check) => {
                let by = status.checked_by.as_deref().unwrap_or("?");
                status.message = format!("no result since {run}, when node {by} ran it");
                status.state = State::Unknown;
            }
            // An earlier leader may have received more results and stored this state before its term ended.
            Age::Stale => {
                status.state = state_before;
                if let Some(before) = before {
                    status.message.clone_from(&before.status.message);
                }
            }
        },
    }
    status.up = status.state.is_up();
    status.target = cut(check.spec().target.to_string());
    if status.state == state_before {
        return (stored, None);
    }
    let at_unix_ms = match (status.state, status.last_run) {
        (State::Up | State::Down, Some(run)) => run.0,
        _ => now_unix_ms,
    };
    status.last_change = Some(UnixMs(at_unix_ms));
    let change = Change {
        at_unix_ms,
        namespace: check.key().namespace.to_string(),
        name: check.key().name.to_string(),
        from: state_before,
        to: status.state,
        message: status.message.clone(),
    };
    (stored, Some(change))
}

fn of_result(check: &Check, Found { node, result }: &Found, state_before: State) -> Stored {
    let threshold = check.spec().failure_threshold;
    let (state, message) = match result.verdict {
        Verdict::Up => (State::Up, result.message.clone()),
        Verdict::Unknown => (State::Unknown, result.message.clone()),
        Verdict::Down if result.failures >= threshold => (State::Down, result.message.clone()),
        Verdict::Down => {
            let failures = result.failures;
            (
                state_before,
                format!("{failures} of {threshold} failures before it is down: {}", result.message),
            )
        }
    };
    let status = UptimeCheckStatus {
        state,
        latency: result.latency_us.map(|latency_us| Span::millis(latency_us.div_ceil(1000))),
        last_change: None,
        last_run: Some(UnixMs(result.ran_unix_ms)),
        checked_by: Some(node.to_string()),
        message: cut(message),
        observed_generation: result.generation,
        consecutive_failures: result.failures,
        certificate_expires: result.certificate_expires,
        ..UptimeCheckStatus::default()
    };
    Stored {
        status,
        spec: result.spec,
        due_unix_ms: Some(result.due_unix_ms),
        latency_us: result.latency_us,
        ..Stored::default()
    }
}

/// Classification of a result by the time of its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    Fresh,
    Stale,
    /// The run is dated further in the future than clocks may differ.
    Ahead,
}

fn age(check: &Check, run: UnixMs, now_unix_ms: u64) -> Age {
    let apart = check.timing().interval().max(FRESH_GRACE);
    if run.0 > now_unix_ms.saturating_add(millis(apart)) {
        Age::Ahead
    } else if now_unix_ms > run.0.saturating_add(millis(fresh_for(check))) {
        Age::Stale
    } else {
        Age::Fresh
    }
}

/// How long a result of this check supports a state.
fn fresh_for(check: &Check) -> Duration {
    check.timing().interval() * FRESH_INTERVALS + check.spec().timeout().0 + FRESH_GRACE
}
