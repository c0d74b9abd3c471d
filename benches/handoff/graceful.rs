//! Three nodes in one process; the leader is stopped, and joins again as the last in the queue.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use bellwether::{
    clock::boot_now,
    engine::{BootTime, Term},
    node::{ClusterNode, LeaderContext, Node, Stopped},
    store::{etcd::EtcdConfig, keys::Keys},
};
use etcd_client::{Client, GetOptions};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    common::{self, CLUSTER, LONG, Samples, plain::Handover},
    support::{
        etcd::{Etcd, Medium},
        eventually,
    },
};

const NODES: usize = 3;
const WARM_UP: usize = 5;

/// The first tick of a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FirstTick {
    node: usize,
    term: Term,
    at: BootTime,
}

/// Handoffs by nodes, and by the plain client.
pub(crate) async fn measure(medium: Medium, rounds: usize) -> (Samples, Samples) {
    let etcd = common::etcd_with_cluster(medium).await;
    let mut client = etcd.client().await;
    let (sender, mut first_ticks) = mpsc::channel(64);
    let nodes: Vec<_> = (0..NODES).map(|id| node(id, &etcd, sender.clone())).collect();
    for node in &nodes {
        node.start().await.unwrap();
    }
    let mut leader = timeout(LONG, first_ticks.recv()).await.unwrap().unwrap();
    let mut plain = Handover::new(&etcd).await;
    let mut samples = (Samples::default(), Samples::default());
    for round in 0..WARM_UP + rounds {
        all_are_candidates(&mut client).await;
        // In no step with beats and ticks.
        common::pause_up_to(Duration::from_millis(60)).await;
        let called_at = boot_now();
        let (stopped, next) =
            tokio::join!(nodes[leader.node].stop(LONG), timeout(LONG, first_ticks.recv()));
        let next = next.unwrap().unwrap();
        assert_eq!(stopped.unwrap(), Stopped::Clean);
        assert!(leader.term < next.term && leader.node != next.node, "{leader:?}, {next:?}");
        nodes[leader.node].start().await.unwrap();
        leader = next;
        let by_plain = plain.once().await;
        if WARM_UP <= round {
            samples.0.push(next.at.since(called_at));
            samples.1.push(by_plain);
        }
        // One change of role for one handoff: nobody else has taken office, now or before.
        assert_eq!(first_ticks.try_recv().ok(), None);
    }
    for node in &nodes {
        node.close().await.unwrap();
    }
    samples
}

fn node(node: usize, etcd: &Etcd, first_ticks: mpsc::Sender<FirstTick>) -> ClusterNode {
    let last = Arc::new(AtomicI64::new(-1));
    ClusterNode::builder()
        .cluster(CLUSTER)
        .id(node as i64)
        .etcd(EtcdConfig::new(etcd.endpoints()))
        .leader(move |ctx: LeaderContext| {
            let at = boot_now();
            let term = ctx.term();
            if last.swap(term.0, Ordering::Relaxed) != term.0 {
                // Room for many more than are ever under way.
                first_ticks.try_send(FirstTick { node, term, at }).unwrap();
            }
            async { Ok(()) }
        })
        .build()
        .unwrap()
}

/// A handoff needs somebody to hand over to.
async fn all_are_candidates(client: &mut Client) {
    let keys = Keys::new(CLUSTER).unwrap().candidates();
    let count = GetOptions::new().with_range(keys.to).with_count_only();
    eventually("all are candidates", LONG, async || {
        let answer = client.get(keys.from.clone(), Some(count.clone())).await.unwrap();
        (answer.count() == NODES as i64).then_some(())
    })
    .await;
}
