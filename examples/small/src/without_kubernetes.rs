//! A program without Kubernetes: a tick of the leader, and work on shards, with a status page.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bellwether::{
    host::Host,
    node::{
        ClusterNodeBuilder, LeaderContext, ShardContext, ShardId, WorkerOptions, work::WorkError,
    },
};

/// Counts of the work that a node has done.
#[derive(Debug, Default)]
pub struct Done {
    /// Number of ticks of this node as leader.
    pub ticks: AtomicU64,
    /// Number of rounds over shards.
    pub rounds: AtomicU64,
}

/// Time between two rounds over a shard.
const ROUND_EVERY: Duration = Duration::from_millis(10);

/// Writes the time of its last tick into the store, which refuses the write once the term is over.
async fn tick(done: Arc<Done>, ctx: LeaderContext) -> Result<(), WorkError> {
    ctx.fenced().put("last-tick", ctx.term().to_string()).await?;
    done.ticks.fetch_add(1, SeqCst);
    Ok(())
}

/// Works on one shard until the shard belongs to another node.
async fn rounds(done: Arc<Done>, ctx: ShardContext) -> Result<(), WorkError> {
    while !ctx.is_cancelled() {
        ctx.check()?;
        done.rounds.fetch_add(1, SeqCst);
        tokio::select! {
            biased;
            // Cancel safe: only waits.
            () = ctx.cancelled() => break,
            // Cancel safe: a timer.
            () = tokio::time::sleep(ROUND_EVERY) => (),
        }
    }
    Ok(())
}

/// The program on a node: on etcd, on the Kubernetes API or in memory, as the builder says.
pub fn program(node: ClusterNodeBuilder, done: &Arc<Done>) -> Host {
    let (ticks, shards) = (Arc::clone(done), Arc::clone(done));
    let worker = WorkerOptions::new("rounds", move |_: ShardId, ctx: ShardContext| {
        rounds(Arc::clone(&shards), ctx)
    });
    let node = node
        .on_leader_tick(move |ctx: LeaderContext| tick(Arc::clone(&ticks), ctx))
        .worker(worker.shards(8));
    // /metrics, /livez, /readyz, /leader, and a page for people.
    Host::new(node).serve("127.0.0.1:0")
}
