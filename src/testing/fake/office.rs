//! The office under which a reconciler acts in a test: held by default, lost when the test asks for that.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    engine::{Revision, ShardId, WorkType},
    node::{
        ClusterNode, LeaderContext, Node as _, ShardContext,
        work::{LeaderTask, WorkError},
    },
};

/// Longer than any test runs.
const AGES: Duration = Duration::from_secs(365 * 24 * 3600);

/// A leader task that lends its context, and works until its term ends.
struct Lends(mpsc::Sender<LeaderContext>);

#[async_trait]
impl LeaderTask for Lends {
    fn name(&self) -> &'static str {
        "lends its context"
    }

    async fn run(&self, ctx: LeaderContext) -> Result<(), WorkError> {
        let token = ctx.token();
        self.0.send(ctx).await?;
        token.cancelled().await;
        Ok(())
    }
}

/// A node that leads a cluster of its own, in memory.
#[derive(Debug)]
pub(super) struct Office {
    /// Keeps the node and its store.
    _node: ClusterNode,
    lent: LeaderContext,
}

/// Ends an authority that was lent.
pub(super) type End = Box<dyn FnOnce() + Send>;

impl Office {
    /// Starts a node, and returns when it leads.
    ///
    /// # Errors
    ///
    /// The error of a node that does not start, for example if the process has no threads left.
    pub(super) async fn taken() -> Result<Self, WorkError> {
        let (lends, mut lent) = mpsc::channel(1);
        let node = ClusterNode::standalone().cluster("test").id(0).leader_task(Lends(lends));
        let node = node.build()?;
        node.start().await?;
        let lent = lent.recv().await.ok_or("the node ended before it led")?;
        Ok(Self { _node: node, lent })
    }

    /// A context of a shard whose authority holds until the returned end.
    pub(super) fn lend_shard(&self, work: &str, shard: u32) -> (ShardContext, End) {
        let token = CancellationToken::new();
        let (work, shard) = (WorkType::new(work), ShardId(shard));
        let (context, gate) = ShardContext::beside(&self.lent, work, shard, token.clone());
        gate.extend(Revision(1), clock::boot_now() + AGES);
        let end = move || {
            gate.close();
            token.cancel();
        };
        (context, Box::new(end))
    }

    /// A context whose authority holds until the returned end.
    pub(super) fn lend(&self) -> (LeaderContext, End) {
        let (context, gate) = self.lent.apart();
        gate.extend(clock::boot_now() + AGES);
        let token = CancellationToken::new();
        let context = context.with_token(token.clone());
        let end = move || {
            gate.close();
            token.cancel();
        };
        (context, Box::new(end))
    }
}
