//! What the leader does with the results: it puts them together, notices changes of state, stores each
//! check's status by fenced writes, and writes the status file.
//!
//! Statuses are stored per shard, under `uptime/status/{shard}` of the leader's data: at once when a state
//! changed, else once a minute. What is shown on the status page is always the latest.

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
    aggregate::{Aggregate, Change, Stored, aggregate},
    check::{CheckKey, Checks, Summary},
    feed::{CHANGES, Feed},
    metrics::UptimeMetrics,
    report::{ChecksReport, remember, report},
    status_file,
};
use crate::{
    clock,
    engine::{BootTime, ShardId},
    k8s::crd::election::ElectionChecks,
    node::{FencedError, LeaderContext, work::LeaderTask, work::WorkError},
};

/// Statuses in which nothing but times and latencies changed are stored so often.
const STORED_EVERY: Duration = Duration::from_secs(60);
/// So many shards' statuses are read at once, when a leader begins.
const LOADS_AT_ONCE: usize = 16;

pub(super) type Statuses = BTreeMap<CheckKey, Stored>;

/// Puts the results of all nodes together, while its node leads.
#[derive(Clone, Debug)]
pub struct UptimeLeader {
    pub(super) checks: watch::Receiver<Arc<Checks>>,
    pub(super) shards: u32,
    pub(super) report: watch::Sender<Arc<ChecksReport>>,
    pub(super) leading: watch::Sender<bool>,
    pub(super) statuses: watch::Sender<Arc<Statuses>>,
    pub(super) counts: watch::Sender<Option<ElectionChecks>>,
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
        let mut desk = Desk::open(self, &ctx).await?;
        let mut feed = Feed::new(Arc::clone(ctx.node()), self.metrics.clone());
        let token = ctx.token();
        while let Some(waited) = token.run_until_cancelled(feed.wait()).await {
            if let Err(error) = waited {
                self.metrics.on_store_failure("collect");
                tracing::warn!(%error, "results of uptime checks cannot be followed");
                continue;
            }
            let checks = Arc::clone(&self.checks.borrow());
            match desk.look(&checks, &feed).await {
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
        Ok(())
    }
}

/// Takes back that this node leads, at the end, and what it knew as the leader: in its next term that is old.
struct Leading<'a>(&'a UptimeLeader);

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        self.0.statuses.send_replace(Arc::default());
        self.0.counts.send_replace(None);
        self.0.leading.send_replace(false);
        self.0.metrics.show(Summary::default());
    }
}

/// What a leader knows, and what of it is stored.
struct Desk<'a> {
    leader: &'a UptimeLeader,
    ctx: &'a LeaderContext,
    statuses: Statuses,
    changes: VecDeque<Change>,
    stored: BTreeMap<ShardId, StoredShard>,
    /// Whether all changes are stored and told.
    changes_are_told: bool,
    file: Option<String>,
}

#[derive(Default)]
struct StoredShard {
    statuses: Statuses,
    at: BootTime,
}

fn status_key(shard: ShardId) -> String {
    format!("uptime/status/{shard}")
}

impl<'a> Desk<'a> {
    /// With what former leaders have stored.
    async fn open(leader: &'a UptimeLeader, ctx: &'a LeaderContext) -> Result<Self, FencedError> {
        let mut desk = Self {
            leader,
            ctx,
            statuses: Statuses::new(),
            changes: VecDeque::new(),
            stored: BTreeMap::new(),
            changes_are_told: false,
            file: None,
        };
        if let Some(found) = ctx.fenced().get(CHANGES).await? {
            desk.changes = desk.read(&found.value);
        }
        Ok(desk)
    }

    /// A stored value; nothing if it cannot be read.
    fn read<T: Default + for<'de> serde::Deserialize<'de>>(&self, value: &[u8]) -> T {
        serde_json::from_slice(value).unwrap_or_else(|error| {
            self.leader.metrics.junk.inc();
            tracing::warn!(%error, "stored statuses of uptime checks cannot be read: begun anew");
            T::default()
        })
    }

    /// Looks at the results and passes on what they say.
    async fn look(&mut self, checks: &Checks, feed: &Feed) -> Result<(), FencedError> {
        self.load_shards_of(checks).await?;
        let Aggregate { statuses, changes, missed, summary } =
            aggregate(checks, feed.results(), &self.statuses, clock::unix_ms());
        let metrics = &self.leader.metrics;
        metrics.show(summary);
        metrics.missed.inc_by(missed);
        for change in &changes {
            metrics.changes.with_label_values(&[change.to.as_str()]).inc();
            let Change { namespace, name, from, to, message, .. } = change;
            tracing::info!(object = format!("{namespace}/{name}"), %from, %to, message, "uptime check changed");
        }
        self.changes_are_told &= changes.is_empty();
        remember(&mut self.changes, changes);
        self.statuses = statuses;
        self.leader.counts.send_replace(Some(summary.into()));
        self.leader.statuses.send_replace(Arc::new(self.statuses.clone()));
        let report = Arc::new(report(checks, &self.statuses, &self.changes, self.leader.shards));
        // From now on this is what is shown, and no longer what the node sees as a follower.
        self.leader.leading.send_replace(true);
        self.leader.report.send_if_modified(|shown| {
            let is_new = *shown != report;
            *shown = report;
            is_new
        });
        self.write_file(checks).await;
        self.store(checks).await
    }

    /// Loads what is stored of shards that have checks and were not looked at yet.
    async fn load_shards_of(&mut self, checks: &Checks) -> Result<(), FencedError> {
        let shards = checks.checks.values().map(|check| check.shard(self.leader.shards));
        let missing: BTreeSet<ShardId> =
            shards.filter(|shard| !self.stored.contains_key(shard)).collect();
        let fenced = self.ctx.fenced();
        let loads = missing.into_iter().map(async |shard| {
            let found = fenced.get(&status_key(shard)).await?;
            Ok::<_, FencedError>((shard, found))
        });
        let mut found = stream::iter(loads).buffered(LOADS_AT_ONCE);
        while let Some((shard, found)) = found.try_next().await? {
            let statuses: Statuses = found.map(|found| self.read(&found.value)).unwrap_or_default();
            self.statuses
                .extend(statuses.iter().map(|(key, stored)| (key.clone(), stored.clone())));
            self.stored.insert(shard, StoredShard { statuses, at: clock::boot_now() });
        }
        Ok(())
    }

    /// Stores the statuses of the shards in which something changed, and the changes.
    async fn store(&mut self, checks: &Checks) -> Result<(), FencedError> {
        let mut by_shard: BTreeMap<ShardId, Statuses> =
            self.stored.keys().map(|shard| (*shard, Statuses::new())).collect();
        for (key, check) in &checks.checks {
            if let Some(stored) = self.statuses.get(key) {
                by_shard
                    .entry(check.shard(self.leader.shards))
                    .or_default()
                    .insert(key.clone(), stored.clone());
            }
        }
        for (shard, statuses) in by_shard {
            let now = clock::boot_now();
            let before = self.stored.entry(shard).or_default();
            if !is_worth_storing(&before.statuses, &statuses, now.since(before.at)) {
                continue;
            }
            let json = serde_json::to_vec(&statuses).unwrap_or_default();
            self.ctx.fenced().put(&status_key(shard), json).await?;
            self.stored.insert(shard, StoredShard { statuses, at: now });
        }
        if !self.changes_are_told {
            let json = serde_json::to_vec(&self.changes).unwrap_or_default();
            self.ctx.fenced().put(CHANGES, json.as_slice()).await?;
            // For the pages of the others, which cannot read the leader's data.
            if let Err(error) = self.ctx.node().put(CHANGES, &json).await {
                tracing::debug!(%error, "changes of uptime checks cannot be told to the other nodes");
            }
            self.changes_are_told = true;
        }
        Ok(())
    }

    async fn write_file(&mut self, checks: &Checks) {
        let Some(path) = self.leader.status_file.clone() else { return };
        let text = status_file::text(checks, &self.statuses);
        // Not fenced: a file is one machine's own. Two leaders in a row may write it in either order.
        if self.file.as_ref() == Some(&text) || self.ctx.check().is_err() {
            return;
        }
        let written = {
            let text = text.clone();
            tokio::task::spawn_blocking(move || status_file::write(&path, &text)).await
        };
        match written {
            Ok(Ok(())) => self.file = Some(text),
            Ok(Err(error)) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, cause, "status file cannot be written");
            }
            Err(error) => tracing::warn!(%error, "status file was not written"),
        }
    }
}

/// Whether a state, a spec or a generation differs, or anything else for long enough.
fn is_worth_storing(before: &Statuses, now: &Statuses, stored_for: Duration) -> bool {
    fn essence(statuses: &Statuses) -> impl Iterator<Item = impl PartialEq + '_> {
        statuses.iter().map(|(key, Stored { status, spec, .. })| {
            (key, status.state, status.last_change, status.observed_generation, *spec)
        })
    }
    !essence(before).eq(essence(now)) || (stored_for >= STORED_EVERY && before != now)
}
