//! Ten nodes with 256 shards in one cluster, at rest and while shards move, and the API server without them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bellwether::{
    clock::boot_now,
    engine::{Role, ShardId},
    k8s::{client::ClientOptions, store::KubernetesConfig},
    node::{ClusterNode, Node, ShardContext, WorkerOptions},
};

use crate::{
    STATE_BYTES,
    common::{Bench, CLUSTER, LONG},
    kube::{ApiServer, Space},
    support::eventually,
    usage::{State, Usage},
};

const NODES: usize = 10;
const SHARDS: usize = 256;

/// Node that works on each shard.
type Held = Arc<Mutex<BTreeMap<u32, usize>>>;

fn node(id: usize, space: &Space<'_>, held: &Held) -> ClusterNode {
    let held = Arc::clone(held);
    let worker = move |shard: ShardId, ctx: ShardContext| {
        let held = Arc::clone(&held);
        async move {
            held.lock().unwrap().insert(shard.0, id);
            ctx.cancelled().await;
            held.lock().unwrap().remove(&shard.0);
            Ok(())
        }
    };
    let kubeconfig = space.api.bulk_kubeconfig(&space.name);
    let client = ClientOptions::default().kubeconfig(kubeconfig);
    ClusterNode::builder()
        .cluster(CLUSTER)
        .id(id as i64)
        .address(format!("10.0.0.{id}:8080"))
        .kubernetes(KubernetesConfig::new().client(client))
        .worker(WorkerOptions::new("work", worker).shards(SHARDS as u32))
        .build()
        .unwrap()
}

/// Waits until all shards are spread evenly over so many owners.
async fn spread(held: &Held, owners: usize) {
    let (least, most) = (SHARDS / owners, SHARDS.div_ceil(owners));
    eventually("all shards are spread evenly", LONG * 5, async || {
        let mut counts = BTreeMap::<usize, usize>::new();
        let held = held.lock().unwrap();
        for owner in held.values() {
            *counts.entry(*owner).or_default() += 1;
        }
        let even = counts.values().all(|count| (least..=most).contains(count));
        (held.len() == SHARDS && counts.len() == owners && even).then_some(())
    })
    .await;
}

pub(crate) async fn measure(bench: &mut Bench, span: Duration) {
    let api = ApiServer::shared().await;
    let space = api.namespace("load").await;
    let held = Held::default();
    let before = Usage::of(api).await;
    tokio::time::sleep(span).await;
    let without = Usage::of(api).await;
    Bench::values();
    without.show_since(&before, bench, "without us");

    let mut nodes: Vec<_> = (0..NODES).map(|id| node(id, &space, &held)).collect();
    let began = boot_now();
    for node in &nodes {
        node.start().await.unwrap();
    }
    // The leader of others takes no shards.
    spread(&held, NODES - 1).await;
    let joined = Usage::of(api).await;
    bench.value("all shards have owners after", boot_now().since(began).as_secs_f64(), "s", None);
    joined.show_since(&without, bench, "joining");
    State::of(&space).await.show(bench, Some(STATE_BYTES));

    let before = Usage::of(api).await;
    tokio::time::sleep(span).await;
    Usage::of(api).await.show_since(&before, bench, "at rest");

    let before = Usage::of(api).await;
    let began = boot_now();
    let leaving = nodes.iter().position(|it| it.membership().borrow().role == Role::Follower);
    let left = nodes.remove(leaving.expect("a follower"));
    left.stop(LONG).await.unwrap();
    spread(&held, NODES - 2).await;
    bench.value("a node stopped, spread again", boot_now().since(began).as_secs_f64(), "s", None);
    Usage::of(api).await.show_since(&before, bench, "a node stops");

    let before = Usage::of(api).await;
    let began = boot_now();
    let joins = node(NODES, &space, &held);
    joins.start().await.unwrap();
    nodes.push(joins);
    spread(&held, NODES - 1).await;
    bench.value("a node joined, spread again", boot_now().since(began).as_secs_f64(), "s", None);
    Usage::of(api).await.show_since(&before, bench, "a node joins");
    State::of(&space).await.show(bench, Some(STATE_BYTES));
    for node in &nodes {
        node.close().await.unwrap();
    }
}
