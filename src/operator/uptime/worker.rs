//! Worker that runs the checks of a shard on a node: the runner, with its ledger in the cluster's store.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use super::{
    check::Checks,
    metrics::UptimeMetrics,
    pool::Pool,
    probe::Probe,
    result::{CheckResult, Claims},
    runner::{Ledger, LedgerError, ShardRunner, run_shard},
};
use crate::{
    clock,
    engine::ShardId,
    node::{FencedError, ShardContext, work::ShardWorker, work::WorkError},
};

/// Key of a shard's claims, in its fenced data.
const CLAIMS: &str = "claims";

/// Runs the checks of the shards that its node holds.
#[derive(Clone, Debug)]
pub struct UptimeWorker {
    pub(super) checks: watch::Receiver<Arc<Checks>>,
    pub(super) shards: u32,
    pub(super) probe: Arc<dyn Probe>,
    pub(super) pool: Pool,
    pub(super) metrics: UptimeMetrics,
}

#[async_trait]
impl ShardWorker for UptimeWorker {
    async fn run(&self, shard: ShardId, ctx: ShardContext) -> Result<(), WorkError> {
        let gate = ctx.clone();
        let ledger = StoreLedger { ctx: ctx.clone(), metrics: self.metrics.clone() };
        let runner = ShardRunner {
            shard,
            shards: self.shards,
            epoch: ctx.epoch(),
            probe: Arc::clone(&self.probe),
            ledger: Arc::new(ledger),
            gate: Arc::new(move || gate.check().is_ok()),
            pool: self.pool.clone(),
            now_unix_ms: Arc::new(clock::unix_ms),
            metrics: self.metrics.clone(),
        };
        match run_shard(runner, self.checks.clone(), ctx.token()).await {
            Ok(()) => Ok(()),
            // Another node took the shard over, which is not a failure of the work.
            Err(LedgerError::NotOurs) if ctx.is_cancelled() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Ledger in the cluster's store: claims are fenced, results are in the node's own state.
struct StoreLedger {
    ctx: ShardContext,
    metrics: UptimeMetrics,
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> LedgerError {
    LedgerError::Failed(Box::new(error))
}

fn fenced(error: FencedError) -> LedgerError {
    if error.is_stale() { LedgerError::NotOurs } else { failed(error) }
}

#[async_trait]
impl Ledger for StoreLedger {
    async fn load(&self) -> Result<Claims, LedgerError> {
        let Some(stored) = self.ctx.fenced().get(CLAIMS).await.map_err(fenced)? else {
            return Ok(Claims::new());
        };
        Ok(serde_json::from_slice(&stored.value).unwrap_or_else(|error| {
            self.metrics.junk.inc();
            let shard = self.ctx.shard().0;
            tracing::warn!(shard, %error, "claims of uptime checks are malformed, starting without them");
            Claims::new()
        }))
    }

    async fn save(&self, claims: &Claims) -> Result<(), LedgerError> {
        let json = serde_json::to_vec(claims).map_err(failed)?;
        self.ctx.fenced().put(CLAIMS, json).await.map(|_| ()).map_err(fenced)
    }

    async fn publish(&self, key: &str, result: &CheckResult) -> Result<(), LedgerError> {
        let json = serde_json::to_vec(result).map_err(failed)?;
        self.ctx.node().put(key, &json).await.map(|_| ()).map_err(failed)
    }

    async fn retract(&self, key: &str) -> Result<(), LedgerError> {
        self.ctx.node().delete(key).await.map(|_| ()).map_err(failed)
    }
}
