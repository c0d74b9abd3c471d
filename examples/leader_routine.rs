//! Three nodes of one process elect a leader, which counts its passes in the cluster's store; then the
//! leader leaves, and the next one goes on counting.
//!
//! `cargo run --example leader_routine`

use std::{error::Error, time::Duration};

use bellwether::{
    engine::Role,
    node::{ClusterNode, LeaderContext, Node, work::WorkError},
    store::memory::MemoryStore,
};

/// One tick. Whatever it writes by `fenced` is refused in the store once the term is over.
async fn count(ctx: LeaderContext) -> Result<(), WorkError> {
    let fenced = ctx.fenced();
    let before = fenced.get("passes").await?;
    let passes: u64 = match &before {
        Some(found) => std::str::from_utf8(&found.value)?.parse()?,
        None => 0,
    };
    let expected = before.map(|found| found.revision);
    fenced.compare_and_set("passes", expected, (passes + 1).to_string()).await?;
    println!("node {} counted {} in term {}", ctx.node().id(), passes + 1, ctx.term());
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // With etcd: `.etcd(EtcdConfig::new(["http://127.0.0.1:2379"]))` in place of `.memory(&store)`.
    let store = MemoryStore::new();
    let mut nodes = Vec::new();
    for id in 0..3 {
        let node = ClusterNode::builder()
            .cluster("example")
            .id(id)
            .memory(&store)
            .tick(Duration::from_millis(200))
            .leader(count)
            .build()?;
        node.start().await?;
        nodes.push(node);
    }
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let leads = |node: &ClusterNode| node.membership().borrow().role == Role::Leader;
        if let Some(leader) = nodes.iter().position(leads) {
            println!("node {} leaves: {:?}", nodes[leader].id(), nodes[leader].close().await);
            nodes.remove(leader);
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for node in nodes {
        node.close().await?;
    }
    Ok(())
}
