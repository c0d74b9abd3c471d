//! What users write: leader routines, follower routines, leader tasks, shard workers.
//!
//! All of it runs on the runtime the node was started on. A panic is caught, counted and logged.
//!
//! # How work ends
//!
//! Its context's token is cancelled first. Where the end is planned (stop, resign, a shard that moves)
//! authority goes on meanwhile, and the work has [`cancel_grace`](super::RoutineLimits::cancel_grace)
//! to return; where authority is lost, it has 10 ms, the margin by which authority ends early for the
//! sake of a step that cannot be interrupted. Then its future is dropped at the await it stands at.

use std::future::Future;

use async_trait::async_trait;

use crate::engine::ShardId;

use super::context::{FollowerContext, LeaderContext, ShardContext};

/// Any error of user code.
pub type WorkError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Runs once per tick while the node is leader. Runs never overlap, and a late one is skipped.
///
/// Closures `Fn(LeaderContext) -> impl Future<Output = Result<(), WorkError>>` are routines.
#[async_trait]
pub trait LeaderRoutine: Send + Sync + 'static {
    /// One run. It should return soon after `ctx` is cancelled.
    ///
    /// # Errors
    ///
    /// Anything; it is logged and counted, and the next tick runs.
    async fn tick(&self, ctx: LeaderContext) -> Result<(), WorkError>;
}

#[async_trait]
impl<F, Fut> LeaderRoutine for F
where
    F: Fn(LeaderContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), WorkError>> + Send,
{
    async fn tick(&self, ctx: LeaderContext) -> Result<(), WorkError> {
        self(ctx).await
    }
}

/// Runs once per tick while the node is follower; beside the leader's work too if the node was built
/// so. Runs never overlap, and a late one is skipped.
///
/// Closures `Fn(FollowerContext) -> impl Future<Output = Result<(), WorkError>>` are routines.
#[async_trait]
pub trait FollowerRoutine: Send + Sync + 'static {
    /// One run. It should return soon after `ctx` is cancelled.
    ///
    /// # Errors
    ///
    /// Anything; it is logged and counted, and the next tick runs.
    async fn tick(&self, ctx: FollowerContext) -> Result<(), WorkError>;
}

#[async_trait]
impl<F, Fut> FollowerRoutine for F
where
    F: Fn(FollowerContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), WorkError>> + Send,
{
    async fn tick(&self, ctx: FollowerContext) -> Result<(), WorkError> {
        self(ctx).await
    }
}

/// Starts with leadership, and is cancelled and joined at its end: reconcile loops, aggregators,
/// schedulers.
#[async_trait]
pub trait LeaderTask: Send + Sync + 'static {
    /// A name for logs and metrics. It must be a constant of the program.
    fn name(&self) -> &'static str;

    /// Runs until it is done or `ctx` is cancelled. It may be started many times in a process's life,
    /// never twice at once.
    ///
    /// # Errors
    ///
    /// Anything; it is logged, and the task is started again after a back-off while the term lasts.
    async fn run(&self, ctx: LeaderContext) -> Result<(), WorkError>;
}

/// Works on the shards of one work type that this node has claimed, each in a run of its own.
#[async_trait]
pub trait ShardWorker: Send + Sync + 'static {
    /// Works on one shard until `ctx` is cancelled. On entry it must list the shard's objects anew:
    /// another node may have worked on them until now.
    ///
    /// # Errors
    ///
    /// Anything; it is logged, and the worker is run again after a back-off while the shard is held.
    async fn run(&self, shard: ShardId, ctx: ShardContext) -> Result<(), WorkError>;
}

#[async_trait]
impl<F, Fut> ShardWorker for F
where
    F: Fn(ShardId, ShardContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), WorkError>> + Send,
{
    async fn run(&self, shard: ShardId, ctx: ShardContext) -> Result<(), WorkError> {
        self(shard, ctx).await
    }
}
