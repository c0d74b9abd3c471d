//! State of the checks of one shard: claims, waiting runs and active runs.
//!
//! Pure: the time is an argument, and the runner saves the claims.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    check::{Check, CheckKey, Checks},
    pool::Standing,
    result::{Claim, Claims},
    schedule::Slot,
};
use crate::engine::ShardId;

#[cfg(test)]
mod tests;

/// How long the claims of a removed check are kept: another node's folder may be older or newer.
const FORGOTTEN_AFTER_MS: u64 = 24 * 60 * 60 * 1000;

/// A run that is due.
#[derive(Clone, Debug)]
pub(super) struct Due {
    pub(super) check: Arc<Check>,
    pub(super) slot: Slot,
    /// Last earlier slot that is known to have a result.
    pub(super) after: Option<Slot>,
    pub(super) failures_before: u32,
    pub(super) standing: Standing,
    /// Claim of the check before this run.
    pub(super) before: Option<Claim>,
}

/// Facts about an ended run whose result was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Number of runs that have failed in a row, that one included.
    pub(super) failures: u32,
    pub(super) standing: Standing,
}

/// State of the checks of one shard: claims, waiting runs and active runs.
#[derive(Debug)]
pub(super) struct Book {
    shard: ShardId,
    shards: u32,
    checks: BTreeMap<CheckKey, Arc<Check>>,
    running: BTreeSet<CheckKey>,
    /// Checks that are due and wait for a place.
    waiting: BTreeSet<CheckKey>,
    claims: Claims,
    has_unsaved: bool,
}

impl Book {
    /// Creates the book of a shard with these claims.
    pub(super) fn new(shard: ShardId, shards: u32, claims: Claims) -> Self {
        let (checks, running, waiting) = Default::default();
        Self { shard, shards, checks, running, waiting, claims, has_unsaved: false }
    }

    /// Replaces the checks of the shard. Returns the keys of removed checks.
    pub(super) fn adopt(&mut self, checks: &Checks) -> Vec<CheckKey> {
        let of_shard = checks.of_shard(self.shard, self.shards);
        let now = of_shard.map(|check| (check.key().clone(), Arc::clone(check))).collect();
        let before = std::mem::replace(&mut self.checks, now);
        before.into_keys().filter(|key| !self.checks.contains_key(key)).collect()
    }

    fn next(&self, check: &Check, now_unix_ms: u64) -> Slot {
        let known = Claim::known(self.claims.get(check.key()), check.spec_hash());
        check.timing().next(known, now_unix_ms)
    }

    fn idle(&self) -> impl Iterator<Item = &Arc<Check>> {
        let is_busy = |key| self.running.contains(key) || self.waiting.contains(key);
        self.checks.values().filter(move |check| !is_busy(check.key()))
    }

    /// Returns the runs that are due and do not wait yet, the longest overdue first.
    pub(super) fn due(&self, now_unix_ms: u64) -> Vec<Due> {
        let mut due: Vec<Due> =
            self.idle().filter_map(|check| self.if_due(check, now_unix_ms)).collect();
        due.sort_by_key(|due| due.slot);
        due
    }

    /// Returns the run of this check, if it is due now.
    pub(super) fn due_of(&self, key: &CheckKey, now_unix_ms: u64) -> Option<Due> {
        let check = self.checks.get(key).filter(|_| !self.running.contains(key))?;
        self.if_due(check, now_unix_ms)
    }

    fn if_due(&self, check: &Arc<Check>, now_unix_ms: u64) -> Option<Due> {
        let slot = self.next(check, now_unix_ms);
        (slot.0 <= now_unix_ms).then(|| self.run_of(check, slot))
    }

    fn run_of(&self, check: &Arc<Check>, slot: Slot) -> Due {
        // The claim of another spec does not count for this one.
        let claim = self.claims.get(check.key()).filter(|claim| claim.spec == check.spec_hash());
        Due {
            check: Arc::clone(check),
            slot,
            after: claim.and_then(|claim| claim.told_unix_ms).map(Slot),
            failures_before: claim.map_or(0, |claim| claim.failures),
            standing: match claim {
                Some(Claim { proven: true, .. }) => Standing::Proven,
                _ => Standing::Unproven,
            },
            before: self.claims.get(check.key()).copied(),
        }
    }

    /// Time until the next check is due; `None` if all checks wait or run.
    pub(super) fn next_due_in(&self, now_unix_ms: u64) -> Option<Duration> {
        self.idle().map(|check| self.next(check, now_unix_ms).due_in(now_unix_ms)).min()
    }

    /// Returns all claims, including new ones for `due`, to be saved.
    pub(super) fn claims_with(&self, due: &[Due]) -> Claims {
        let mut claims = self.claims.clone();
        for Due { check, slot, after, failures_before, standing, .. } in due {
            let claim = Claim {
                spec: check.spec_hash(),
                due_unix_ms: slot.0,
                told_unix_ms: after.map(|slot| slot.0),
                failures: *failures_before,
                proven: *standing == Standing::Proven,
            };
            claims.insert(check.key().clone(), claim);
        }
        // Compares with the slots due now, not with the latest claim, whose clock may have been ahead.
        let newest = due.iter().map(|due| due.slot.0).max();
        claims.retain(|key, claim| {
            self.checks.contains_key(key)
                || newest.is_none_or(|now| now.abs_diff(claim.due_unix_ms) < FORGOTTEN_AFTER_MS)
        });
        claims
    }

    /// Records that these claims are in the store.
    pub(super) fn claimed(&mut self, claims: Claims) {
        self.claims = claims;
        self.has_unsaved = false;
    }

    /// Records that this check waits for a place.
    pub(super) fn waits(&mut self, key: &CheckKey) {
        self.waiting.insert(key.clone());
    }

    /// Records that this check no longer waits.
    pub(super) fn waits_no_more(&mut self, key: &CheckKey) {
        self.waiting.remove(key);
    }

    /// Records that the claimed run of this check has begun.
    pub(super) fn started(&mut self, key: &CheckKey) {
        self.running.insert(key.clone());
    }

    /// Records that a run has ended; `told` is set if its result is published. Returns whether the check
    /// still exists.
    pub(super) fn ended(&mut self, check: &Check, told: Option<Told>) -> bool {
        let key = check.key();
        self.running.remove(key);
        if let (Some(claim), Some(told)) = (self.claims.get_mut(key), told) {
            claim.told_unix_ms = Some(claim.due_unix_ms);
            claim.failures = told.failures;
            claim.proven = told.standing == Standing::Proven;
            self.has_unsaved = true;
        }
        self.checks.contains_key(key)
    }

    /// Records that a run was aborted without a result: its slot counts as never claimed.
    pub(super) fn given_back(&mut self, check: &Check, before: Option<Claim>) {
        let key = check.key();
        self.running.remove(key);
        match before {
            Some(claim) => self.claims.insert(key.clone(), claim),
            None => self.claims.remove(key),
        };
        self.has_unsaved = true;
    }

    /// Returns the claims as known on this node.
    pub(super) fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Whether the claims changed since they were last saved.
    pub(super) fn has_unsaved(&self) -> bool {
        self.has_unsaved
    }
}
