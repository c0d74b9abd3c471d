//! Three nodes in one process, each with its own link to etcd; the leader's link drops all data in both
//! directions.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bellwether::{
    clock::boot_now,
    engine::{BootTime, Failover, Role},
    node::{ClusterNode, Node},
    store::etcd::EtcdConfig,
};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    common::{self, LONG, Samples},
    graceful::{self, FirstTick, NODES},
    support::{
        etcd::Medium,
        eventually,
        proxy::{Fault, Proxy},
    },
};

/// A node behind a link that can be cut.
struct Linked {
    node: ClusterNode,
    link: Proxy,
    /// Boot clock of its last leader tick, in nanoseconds.
    last_tick: Arc<AtomicU64>,
}

impl Linked {
    fn last_tick(&self) -> BootTime {
        BootTime(Duration::from_nanos(self.last_tick.load(Ordering::SeqCst)))
    }
}

/// Measures from the moment the leader's link drops all data to the first tick of the successor.
pub(crate) async fn measure(failover: Failover, rounds: usize) -> Samples {
    let etcd = common::etcd_with_cluster(Medium::Memory).await;
    let mut client = etcd.client().await;
    let (sender, mut first_ticks) = mpsc::channel(64);
    let mut nodes = Vec::new();
    for id in 0..NODES {
        let link = Proxy::to(etcd.address(0)).await;
        let config = EtcdConfig::new([format!("http://{}", link.address())]);
        let (node, last_tick) = graceful::node(id, config, failover, sender.clone());
        node.start().await.unwrap();
        nodes.push(Linked { node, link, last_tick });
    }
    let mut leader = next(&mut first_ticks).await;
    let mut samples = Samples::default();
    for _ in 0..rounds {
        graceful::all_are_candidates(&mut client).await;
        common::pause_up_to(failover.h() * 2).await;
        let old = &nodes[leader.node];
        let cut_at = boot_now();
        old.link.set(Fault::Blackhole);
        let successor = next(&mut first_ticks).await;
        assert!(leader.term < successor.term && leader.node != successor.node, "{successor:?}");
        samples.push(successor.at.since(cut_at));
        old.link.set(Fault::None);
        let membership = old.node.membership();
        eventually("it follows", LONG, async || {
            (membership.borrow().role == Role::Follower).then_some(())
        })
        .await;
        let last = old.last_tick();
        assert!(last < successor.at, "the old leader acted {:?} late", last.since(successor.at));
        leader = successor;
    }
    for linked in &nodes {
        linked.node.close().await.unwrap();
    }
    samples
}

async fn next(first_ticks: &mut mpsc::Receiver<FirstTick>) -> FirstTick {
    timeout(LONG, first_ticks.recv()).await.unwrap().unwrap()
}
