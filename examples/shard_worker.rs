//! Work that is spread over the followers: eight shards, each worked on by exactly one node.
//!
//! ```sh
//! cargo run --example shard_worker
//! ```
//!
//! Three nodes in one process on a store in memory. After a while the first worker leaves: its shards
//! move, and no shard is ever worked on by two.

use std::{error::Error, sync::Arc, time::Duration};

use bellwether::{
    node::{ClusterNode, Node, ShardContext, ShardId, WorkerOptions, work::WorkError},
    store::memory::MemoryStore,
};

/// Works on one shard until the node must release it.
async fn work(shard: ShardId, ctx: ShardContext) -> Result<(), WorkError> {
    // List the shard's objects here: another node may have worked on them until now.
    println!("node {} takes shard {shard} in epoch {}", ctx.node().id(), ctx.epoch());
    let mut done = 0_u64;
    while !ctx.is_cancelled() {
        ctx.check()?;
        done += 1;
        // The store rejects the write once another node may own the shard.
        ctx.fenced().put("done", done.to_string()).await?;
        tokio::select! {
            () = ctx.cancelled() => break,
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
    }
    println!("node {} lets go of shard {shard} after {done} rounds", ctx.node().id());
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = MemoryStore::new();
    let mut nodes: Vec<Arc<dyn Node>> = Vec::new();
    for id in 1..=3 {
        let node = ClusterNode::builder()
            .cluster("example")
            .id(id)
            .address(format!("node-{id}"))
            .memory(&store)
            .worker(WorkerOptions::new("rounds", work).shards(8))
            .build()?;
        node.start().await?;
        nodes.push(Arc::new(node));
    }
    // The first assignment waits 3.3 s: an earlier owner might still be working.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let leaver = nodes.pop().ok_or("no nodes")?;
    println!("node {} leaves", leaver.id());
    leaver.stop(Duration::from_secs(5)).await?;
    leaver.close().await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for node in nodes {
        node.stop(Duration::from_secs(5)).await?;
        node.close().await?;
    }
    Ok(())
}
