//! The thinnest true path.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bellwether::{
    engine::Role,
    node::{ClusterNode, FollowerContext, LeaderContext, Node, Stopped},
    store::memory::MemoryStore,
};

use crate::support::{eventually, logs};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_elect_one_leader_tick_and_hand_over_on_stop() {
    logs();
    let store = MemoryStore::new();
    let ticks: Vec<Arc<(AtomicU64, AtomicU64)>> = (0..3).map(|_| Arc::default()).collect();
    let nodes: Vec<ClusterNode> = (0..3_usize)
        .map(|id| {
            let (led, followed) = (Arc::clone(&ticks[id]), Arc::clone(&ticks[id]));
            ClusterNode::builder()
                .cluster("first")
                .id(id as i64)
                .memory(&store)
                .leader(move |ctx: LeaderContext| {
                    let led = Arc::clone(&led);
                    async move {
                        ctx.check()?;
                        ctx.fenced().put("last", ctx.term().to_string()).await?;
                        led.0.fetch_add(1, Ordering::Relaxed);
                        Ok(())
                    }
                })
                .follower(move |_: FollowerContext| {
                    let followed = Arc::clone(&followed);
                    async move {
                        followed.1.fetch_add(1, Ordering::Relaxed);
                        Ok(())
                    }
                })
                .build()
                .unwrap()
        })
        .collect();
    for node in &nodes {
        node.start().await.unwrap();
    }
    let leader = eventually("one leads", SOON, async || {
        nodes.iter().position(|node| node.membership().borrow().role == Role::Leader)
    })
    .await;
    eventually("all tick", SOON, async || {
        let led = ticks[leader].0.load(Ordering::Relaxed);
        let others = (0..3).filter(|id| *id != leader);
        let followed = others.map(|id| ticks[id].1.load(Ordering::Relaxed)).min().unwrap();
        (3 < led && 3 < followed).then_some(())
    })
    .await;
    assert_eq!(nodes[(leader + 1) % 3].get_leader().await.unwrap(), Some(nodes[leader].id()));
    let before = std::time::Instant::now();
    assert_eq!(nodes[leader].stop(SOON).await.unwrap(), Stopped::Clean);
    let next = eventually("another leads", SOON, async || {
        let mut others = (0..3).filter(|id| *id != leader);
        others.find(|id| 0 < ticks[*id].0.load(Ordering::Relaxed))
    })
    .await;
    println!("handed over in {:?}", before.elapsed());
    assert_eq!(nodes[next].get_leader().await.unwrap(), Some(nodes[next].id()));
    for node in &nodes {
        node.close().await.unwrap();
    }
}
