//! The work that an operator runs on its node: reconcile loops on the leader, and those of a shard on its owner.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::{
    engine::ShardId,
    k8s::{
        authority::{Authority, GatedClient},
        cache::Readable,
        controller::{ControllerMetrics, Runnable, Selection},
        fence::{self, Drawn, ElectionRef},
    },
    node::{
        LeaderContext, ShardContext,
        work::{LeaderTask, ShardWorker, WorkError},
    },
};

/// The leader task that runs the reconcile loops.
pub(super) struct Reconciling {
    pub(super) controllers: Vec<Arc<dyn Runnable>>,
    pub(super) client: Client,
    pub(super) readable: Readable,
    pub(super) election: ElectionRef,
    pub(super) metrics: ControllerMetrics,
    pub(super) drawn: Drawn,
}

#[async_trait]
impl LeaderTask for Reconciling {
    fn name(&self) -> &'static str {
        "controllers"
    }

    async fn run(&self, ctx: LeaderContext) -> Result<(), WorkError> {
        let token: CancellationToken = ctx.token();
        let authority = Authority::Leader(ctx.clone());
        let gated = GatedClient::new(&self.client, &authority, &self.metrics.refused("election"));
        let draw = fence::draw(gated.client(), &self.election, ctx.term());
        let drawn = token.run_until_cancelled(draw).await;
        gated.end().await;
        let Some(drawn) = drawn else { return Ok(()) };
        let fence = drawn?;
        self.drawn.tell(ctx.term(), fence);
        let _fence = Withdrawn(self);
        tracing::info!(term = ctx.term().0, fence = fence.number(), "controllers begin");
        join_all(self.controllers.iter().map(|it| {
            let context = it.context(authority.clone(), Some(fence), &self.client, &self.readable);
            Arc::clone(it).work(Selection::All, context)
        }))
        .await;
        if self.controllers.is_empty() {
            // The fence is the term's, also of an operator whose work is all on shards.
            token.cancelled().await;
        }
        tracing::info!(term = ctx.term().0, "controllers ended, all runs are joined");
        Ok(())
    }
}

/// Withdraws the fence when the work ends. A leader that is suspended and resumes in the same term draws
/// another fence, and must not use the former one.
struct Withdrawn<'a>(&'a Reconciling);

impl Drop for Withdrawn<'_> {
    fn drop(&mut self) {
        self.0.drawn.withdraw();
    }
}

/// The shard worker that runs the reconcile loop of a sharded controller.
pub(super) struct OfShard {
    pub(super) controller: Arc<dyn Runnable>,
    pub(super) client: Client,
    pub(super) readable: Readable,
}

#[async_trait]
impl ShardWorker for OfShard {
    async fn run(&self, shard: ShardId, ctx: ShardContext) -> Result<(), WorkError> {
        let authority = Authority::Shard(ctx);
        let context = self.controller.context(authority, None, &self.client, &self.readable);
        Arc::clone(&self.controller).work(Selection::Shard(shard), context).await;
        Ok(())
    }
}
