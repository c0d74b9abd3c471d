//! Work of the leader: it aggregates the results, detects changes of state, stores each check's status by
//! fenced writes, and writes the status file.
//!
//! Statuses are stored per shard, under `uptime/status-by-name/{shard}` of the leader's data (checks of the
//! Kubernetes API: `uptime/status/{shard}`): at once when a state changed, else once a minute, and at the end
//! of a term. The status page always shows the latest statuses.
//!
//! # Guarantees
//!
//! * A change is logged, counted and shown only after it is stored: a leader whose term is over, and that
//!   does not know it yet, publishes no change.
//! * A new leader continues from what the previous leader stored. No check becomes `unknown` before the new
//!   leader has listened for as long as a result counts.
//! * The status of a removed check is kept for a while, because the next leader, or the same one, may see the
//!   check again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::watch;

use super::{
    aggregate::{Aggregate, Change, Moment, Stored, aggregate},
    check::{Check, CheckKey, Checks, Summary},
    feed::{CHANGES, Feed},
    metrics::UptimeMetrics,
    node::CutBy,
    report::{ChecksReport, remember, report},
    status_file,
};
use crate::{
    clock,
    engine::{BootTime, ShardId},
    node::{FencedError, LeaderContext, work::LeaderTask, work::WorkError},
};

#[cfg(test)]
mod tests;

/// How often statuses are stored in which only times and latencies changed.
const STORED_EVERY: Duration = Duration::from_secs(60);
/// Number of shards whose statuses are read concurrently at the start of a term, or written at its end.
const CALLS_AT_ONCE: usize = 16;
/// How long the status of a removed check is kept. Nodes see a change of the checks at different times, which
/// differ by far less than this.
const GONE_KEPT_FOR: Duration = Duration::from_secs(300);

pub(super) type Statuses = BTreeMap<CheckKey, Stored>;

/// Aggregates the results of all nodes while its node leads.
#[derive(Clone, Debug)]
pub struct UptimeLeader {
    pub(super) checks: watch::Receiver<Arc<Checks>>,
    pub(super) shards: u32,
    pub(super) cut_by: CutBy,
    pub(super) report: watch::Sender<Arc<ChecksReport>>,
    pub(super) leading: watch::Sender<bool>,
    pub(super) statuses: watch::Sender<Arc<Statuses>>,
    pub(super) summary: watch::Sender<Option<String>>,
    pub(super) status_file: Option<PathBuf>,
    pub(super) metrics: UptimeMetrics,
}

#[async_trait]
impl LeaderTask for UptimeLeader {
    fn name(&self) -> &'static str {
        "uptime"
    }

    async fn run(&self, ctx: LeaderContext) -> Result<(), WorkError> {
        let _leading = Leading(self);
        let mut state = LeaderState::open(self, &ctx).await?;
        let mut feed = Feed::new(Arc::clone(ctx.node()), self.metrics.clone());
        let token = ctx.token();
        while let Some(waited) = token.run_until_cancelled(feed.wait()).await {
            if let Err(error) = waited {
                self.metrics.on_store_failure("collect");
                tracing::warn!(%error, "results of uptime checks cannot be followed");
                continue;
            }
            let checks = Arc::clone(&self.checks.borrow());
            match state.look(&checks, &feed).await {
                Ok(()) => {}
                Err(error) if error.is_stale() => return Ok(()),
                Err(error) => {
                    self.metrics.on_store_failure("status");
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "statuses of uptime checks cannot be stored"
                    );
                }
            }
        }
        // The term ends as planned, so the statuses are stored if the leader's data can still be written.
        if let Err(error) = state.leave().await {
            tracing::debug!(%error, "statuses of uptime checks were not stored at the end of the term");
        }
        Ok(())
    }
}

/// On drop, resets the leader's flag, statuses, summary and metrics: they would be outdated in its next term.
struct Leading<'a>(&'a UptimeLeader);

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        self.0.statuses.send_replace(Arc::default());
        self.0.summary.send_replace(None);
        self.0.leading.send_replace(false);
        self.0.metrics.show(Summary::default());
    }
}

/// State of one leader, and the part of it that is stored.
struct LeaderState<'a> {
    leader: &'a UptimeLeader,
    ctx: &'a LeaderContext,
    statuses: Statuses,
    changes: VecDeque<Change>,
    stored: BTreeMap<ShardId, StoredShard>,
    /// Statuses of checks that were removed, and when that was seen.
    gone: BTreeMap<CheckKey, Gone>,
    /// When this leader began to follow the results.
    began: BootTime,
    /// Whether all changes are stored and published.
    changes_are_told: bool,
    file: status_file::StatusFile,
}

struct Gone {
    stored: Stored,
    shard: ShardId,
    since: BootTime,
}

#[derive(Default)]
struct StoredShard {
    statuses: Statuses,
    at: BootTime,
}

/// Key of a shard's statuses. Names and UIDs have different shards, see [`CutBy`].
fn status_key(cut_by: CutBy, shard: ShardId) -> String {
    match cut_by {
        CutBy::Uids => format!("uptime/status/{shard}"),
        CutBy::Names => format!("uptime/status-by-name/{shard}"),
    }
}

impl<'a> LeaderState<'a> {
    /// Loads the changes that earlier leaders have stored.
    async fn open(leader: &'a UptimeLeader, ctx: &'a LeaderContext) -> Result<Self, FencedError> {
        let mut state = Self {
            leader,
            ctx,
            statuses: Statuses::new(),
            changes: VecDeque::new(),
            stored: BTreeMap::new(),
            gone: BTreeMap::new(),
            began: clock::boot_now(),
            changes_are_told: false,
            file: status_file::StatusFile::default(),
        };
        if let Some(found) = ctx.fenced().get(CHANGES).await? {
            state.changes = state.read(&found.value);
        }
        Ok(state)
    }

    /// Parses a stored value; returns the default if it is malformed.
    fn read<T: Default + for<'de> serde::Deserialize<'de>>(&self, value: &[u8]) -> T {
        serde_json::from_slice(value).unwrap_or_else(|error| {
            self.leader.metrics.junk.inc();
            tracing::warn!(%error, "stored statuses of uptime checks are malformed, starting without them");
            T::default()
        })
    }

    /// Aggregates the results, stores the statuses and publishes them.
    ///
    /// # Errors
    ///
    /// [`FencedError`] if the statuses could not be stored. Nothing is published then, and the next call
    /// finds the same changes.
    async fn look(&mut self, checks: &Checks, feed: &Feed) -> Result<(), FencedError> {
        // A process that was suspended finds all results stale before it learns that its term is over.
        self.ctx.check()?;
        self.load_shards_of(checks).await?;
        self.find_again(checks);
        let Aggregate { statuses, changes, missed, summary } =
            aggregate(checks, feed.results(), &self.statuses, Moment::since(self.began));
        self.note_gone(&statuses);
        let mut remembered = self.changes.clone();
        remember(&mut remembered, changes.iter().cloned());
        self.changes_are_told &= changes.is_empty();
        self.store(checks, &statuses, &remembered).await?;
        self.ctx.check()?;
        self.statuses = statuses;
        self.changes = remembered;
        let metrics = &self.leader.metrics;
        metrics.show(summary);
        metrics.missed.inc_by(missed);
        for change in &changes {
            metrics.changes.with_label_values(&[change.to.as_str()]).inc();
            let Change { namespace, name, from, to, message, .. } = change;
            tracing::info!(object = format!("{namespace}/{name}"), %from, %to, message, "uptime check changed");
        }
        self.leader.summary.send_replace(Some(summary.to_string()));
        self.leader.statuses.send_replace(Arc::new(self.statuses.clone()));
        let report = Arc::new(report(checks, &self.statuses, &self.changes, self.leader.shards));
        // From now on the page shows this report, and no longer what the node sees as a follower.
        self.leader.leading.send_replace(true);
        self.leader.report.send_if_modified(|shown| {
            let is_new = *shown != report;
            *shown = report;
            is_new
        });
        self.write_file(checks).await;
        Ok(())
    }

    /// Restores the statuses of removed checks that have come back with the same spec.
    fn find_again(&mut self, checks: &Checks) {
        for (key, check) in &checks.checks {
            if let Some(Gone { stored, .. }) = self.gone.remove(key)
                && stored.spec == check.spec_hash()
            {
                self.statuses.entry(key.clone()).or_insert(stored);
            }
        }
    }

    /// Records which checks were removed, and drops those that were removed long ago.
    fn note_gone(&mut self, statuses: &Statuses) {
        let now = clock::boot_now();
        self.gone.retain(|_, gone| now.since(gone.since) < GONE_KEPT_FOR);
        let shard_of = |key: &CheckKey| {
            self.stored
                .iter()
                .find(|(_, stored)| stored.statuses.contains_key(key))
                .map(|(at, _)| *at)
        };
        let gone: Vec<_> =
            self.statuses.iter().filter(|(key, _)| !statuses.contains_key(key)).collect();
        let gone = gone.into_iter().filter_map(|(key, stored)| {
            let shard = shard_of(key)?;
            Some((key.clone(), Gone { stored: stored.clone(), shard, since: now }))
        });
        let gone: Vec<_> = gone.collect();
        self.gone.extend(gone);
    }

    /// Loads the stored statuses of shards that have checks and were not loaded yet.
    async fn load_shards_of(&mut self, checks: &Checks) -> Result<(), FencedError> {
        let UptimeLeader { shards, cut_by, .. } = *self.leader;
        let all = checks.checks.values();
        let missing: BTreeSet<ShardId> = all
            .clone()
            .map(|check| check.shard(shards))
            .filter(|shard| !self.stored.contains_key(shard))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let found = self.load(missing, |shard| status_key(cut_by, shard)).await?;
        let is_stored = |key: &CheckKey| found.values().any(|statuses| statuses.contains_key(key));
        if cut_by == CutBy::Names {
            // Stored by version 0.1, which had one shard less.
            let new = all.filter(|check| found.contains_key(&check.shard(shards)));
            let former: BTreeSet<ShardId> = new
                .filter(|check| !is_stored(check.key()))
                .map(|check| check.former_shard(shards - 1))
                .collect();
            let former = self.load(former, |shard| status_key(CutBy::Uids, shard)).await?;
            for (key, stored) in former.into_values().flatten() {
                let is_new = |check: &Arc<Check>| found.contains_key(&check.shard(shards));
                if checks.checks.get(&key).is_some_and(is_new) {
                    self.statuses.entry(key).or_insert(stored);
                }
            }
        }
        for (shard, statuses) in found {
            self.statuses.extend(statuses.clone());
            self.stored.insert(shard, StoredShard { statuses, at: clock::boot_now() });
        }
        Ok(())
    }

    /// Loads the statuses of these shards, stored under these keys.
    async fn load(
        &self,
        shards: BTreeSet<ShardId>,
        key: impl Fn(ShardId) -> String,
    ) -> Result<BTreeMap<ShardId, Statuses>, FencedError> {
        let fenced = self.ctx.fenced();
        let loads = shards.into_iter().map(|shard| {
            let (fenced, key) = (fenced.clone(), key(shard));
            async move { Ok::<_, FencedError>((shard, fenced.get(&key).await?)) }
        });
        let mut loading = stream::iter(loads).buffered(CALLS_AT_ONCE);
        let mut loaded = BTreeMap::new();
        while let Some((shard, found)) = loading.try_next().await? {
            loaded.insert(shard, found.map(|found| self.read(&found.value)).unwrap_or_default());
        }
        Ok(loaded)
    }

    /// Stores the statuses of the shards in which something changed, and the list of changes.
    async fn store(
        &mut self,
        checks: &Checks,
        statuses: &Statuses,
        changes: &VecDeque<Change>,
    ) -> Result<(), FencedError> {
        for (shard, statuses) in self.by_shard(checks, statuses) {
            let now = clock::boot_now();
            let before = self.stored.entry(shard).or_default();
            if !is_worth_storing(&before.statuses, &statuses, now.since(before.at)) {
                continue;
            }
            put(self.ctx, status_key(self.leader.cut_by, shard), &statuses).await?;
            self.stored.insert(shard, StoredShard { statuses, at: now });
        }
        if !self.changes_are_told {
            let json = serde_json::to_vec(changes).unwrap_or_default();
            self.ctx.fenced().put(CHANGES, json.as_slice()).await?;
            // For the status pages of other nodes, which cannot read the leader's data.
            if let Err(error) = self.ctx.node().put(CHANGES, &json).await {
                tracing::debug!(%error, "changes of uptime checks cannot be told to the other nodes");
            }
            self.changes_are_told = true;
        }
        Ok(())
    }

    /// Returns the statuses to store for each shard.
    fn by_shard(&self, checks: &Checks, statuses: &Statuses) -> BTreeMap<ShardId, Statuses> {
        let mut by_shard: BTreeMap<ShardId, Statuses> =
            self.stored.keys().map(|shard| (*shard, Statuses::new())).collect();
        for (key, Gone { stored, shard, .. }) in &self.gone {
            by_shard.entry(*shard).or_default().insert(key.clone(), stored.clone());
        }
        for (key, check) in &checks.checks {
            if let Some(stored) = statuses.get(key) {
                let shard = check.shard(self.leader.shards);
                by_shard.entry(shard).or_default().insert(key.clone(), stored.clone());
            }
        }
        by_shard
    }

    /// Stores every difference to the stored statuses, for the next leader.
    async fn leave(&mut self) -> Result<(), FencedError> {
        let checks = Arc::clone(&self.leader.checks.borrow());
        let mut differing = self.by_shard(&checks, &self.statuses);
        differing.retain(|shard, statuses| {
            self.stored.get(shard).is_none_or(|stored| stored.statuses != *statuses)
        });
        let cut_by = self.leader.cut_by;
        let puts = differing.into_iter().map(|(shard, statuses)| {
            let (ctx, key) = (self.ctx.clone(), status_key(cut_by, shard));
            async move { put(&ctx, key, &statuses).await }
        });
        stream::iter(puts).buffer_unordered(CALLS_AT_ONCE).try_collect().await
    }

    async fn write_file(&mut self, checks: &Checks) {
        let Some(path) = self.leader.status_file.clone() else { return };
        let text = status_file::text(checks, &self.statuses);
        // Not fenced: the file belongs to one machine. Two consecutive leaders may write it in either order.
        if self.file.holds(&text) || self.ctx.check().is_err() {
            return;
        }
        self.file.write(path, text).await;
    }
}

async fn put(ctx: &LeaderContext, key: String, statuses: &Statuses) -> Result<(), FencedError> {
    let json = serde_json::to_vec(statuses).unwrap_or_default();
    ctx.fenced().put(&key, json).await.map(|_| ())
}

/// Whether a state, a spec or a generation differs, or anything else and the last write was long ago.
fn is_worth_storing(before: &Statuses, now: &Statuses, stored_for: Duration) -> bool {
    fn essence(statuses: &Statuses) -> impl Iterator<Item = impl PartialEq + '_> {
        statuses.iter().map(|(key, Stored { status, spec, .. })| {
            (key, status.state, status.last_change, status.observed_generation, *spec)
        })
    }
    !essence(before).eq(essence(now)) || (stored_for >= STORED_EVERY && before != now)
}
