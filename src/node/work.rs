//! Traits that users implement: leader routines, follower routines, leader tasks, shard workers.
//!
//! All user work runs on the runtime that the node was started on. A panic is caught, counted and logged.
//!
//! # How work ends
//!
//! First the token of the work's context is cancelled. If the end is planned (stop, resign, a shard that
//! moves), authority continues meanwhile, and the work has
//! [`cancel_grace`](super::RoutineLimits::cancel_grace) to return. If authority is lost, the work has 10
//! ms: authority ends early by this margin, for a step that cannot be interrupted. Then the future is
//! dropped at the await where it waits.

use std::future::Future;

use async_trait::async_trait;

use crate::engine::ShardId;

use super::context::{FollowerContext, LeaderContext, ShardContext};

/// Error type of user code.
pub type WorkError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Routine that runs once per tick while the node is leader. Runs never overlap, and a late run is skipped.
///
/// Closures `Fn(LeaderContext) -> impl Future<Output = Result<(), WorkError>>` are routines.
#[async_trait]
pub trait LeaderRoutine: Send + Sync + 'static {
    /// Runs once. The future should return soon after `ctx` is cancelled.
    ///
    /// # Errors
    ///
    /// Any error of the run, which is logged and counted; the next tick runs.
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

/// Routine that runs once per tick while the node is follower, and beside the leader's work if
/// [`also_follow`](super::ClusterNodeBuilder::also_follow) is set. Runs never overlap, and a late run is
/// skipped.
///
/// Closures `Fn(FollowerContext) -> impl Future<Output = Result<(), WorkError>>` are routines.
#[async_trait]
pub trait FollowerRoutine: Send + Sync + 'static {
    /// Runs once. The future should return soon after `ctx` is cancelled.
    ///
    /// # Errors
    ///
    /// Any error of the run, which is logged and counted; the next tick runs.
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

/// Task for the time of leadership: started at its beginning, cancelled and joined at its end. Examples are
/// reconcile loops, aggregators and schedulers.
#[async_trait]
pub trait LeaderTask: Send + Sync + 'static {
    /// Name for logs and metrics; a constant of the program.
    fn name(&self) -> &'static str;

    /// Runs until the task is done or `ctx` is cancelled. A task may be started many times in one process,
    /// never twice at the same time.
    ///
    /// # Errors
    ///
    /// Any error of the run, which is logged; the task is started again after a back-off while the term
    /// lasts.
    async fn run(&self, ctx: LeaderContext) -> Result<(), WorkError>;
}

/// Worker for the shards of one work type that this node has claimed. Each shard has a run of its own.
#[async_trait]
pub trait ShardWorker: Send + Sync + 'static {
    /// Works on one shard until `ctx` is cancelled. At its start the run must list the shard's objects
    /// again: another node may have worked on them until now.
    ///
    /// # Errors
    ///
    /// Any error of the run, which is logged; the worker is run again after a back-off while the shard is
    /// held.
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
