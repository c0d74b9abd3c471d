//! Three nodes of one process share eight shards of work: the leader hands them out, the followers work
//! on them. Then a follower leaves, and its shards move to the other one.
//!
//! `cargo run --example shard_worker`

use std::{error::Error, time::Duration};

use bellwether::{
    engine::ShardId,
    node::{ClusterNode, Node, ShardContext, WorkerOptions, work::WorkError},
    store::memory::MemoryStore,
};
use tokio::{select, time::sleep};

/// Works on one shard until it is given to another node.
async fn work(shard: ShardId, ctx: ShardContext) -> Result<(), WorkError> {
    println!("node {} works on shard {shard} (epoch {})", ctx.node().id(), ctx.epoch());
    loop {
        // Before each effect that the store does not fence:
        ctx.check()?;
        // And what it does fence: refused there once the shard is another node's.
        ctx.fenced().put("done-by", ctx.node().id().to_string()).await?;
        select! {
            () = ctx.cancelled() => break,
            () = sleep(Duration::from_millis(100)) => (),
        }
    }
    println!("node {} lets go of shard {shard}", ctx.node().id());
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = MemoryStore::new();
    let mut nodes = Vec::new();
    for id in 0..3 {
        let node = ClusterNode::builder()
            .cluster("example")
            .id(id)
            .memory(&store)
            .worker(WorkerOptions::new("letters", work).shards(8))
            .build()?;
        node.start().await?;
        nodes.push(node);
    }
    sleep(Duration::from_secs(2)).await;
    println!("node 2 leaves");
    nodes[2].close().await?;
    sleep(Duration::from_secs(2)).await;
    for status in &nodes[0].status().await?.work {
        println!("{}: held by {:?}", status.work, status.held_by);
    }
    nodes[1].close().await?;
    nodes[0].close().await?;
    Ok(())
}
