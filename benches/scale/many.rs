//! Very many nodes in one process: all join, one leads, one takes over, all know each other.
//!
//! Two threads carry all drivers; each node has its own connection to etcd, its own watch and its own
//! picture of all others, as it would have in a process of its own.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bellwether::{
    clock::boot_now,
    engine::{BootTime, Role},
    node::{ClusterNode, DriverHost, LeaderContext, Node, Stopped},
    store::etcd::EtcdConfig,
};
use futures::{StreamExt as _, stream};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    common::{self, Bench, CLUSTER},
    support::{
        etcd::{Etcd, Medium},
        eventually,
    },
};

/// A limit against hanging.
const LONG: Duration = Duration::from_secs(600);
/// Of one core each; more would not help with two.
const HOSTS: usize = 2;
/// That many join at the same time.
const AT_ONCE: usize = 32;
/// The routines are not what is measured.
const TICK: Duration = Duration::from_secs(1);

/// Who began a term, and when.
type FirstTick = (usize, BootTime);

pub(crate) async fn measure(bench: &mut Bench, count: usize) {
    let etcd = common::etcd_with_cluster(Medium::Memory).await;
    let hosts: Vec<_> =
        (0..HOSTS).map(|host| DriverHost::new(&format!("host-{host}")).unwrap()).collect();
    let (sender, mut first_ticks) = mpsc::channel(count);
    let runs = Arc::new(AtomicUsize::new(0));
    let before = resident();
    let nodes: Vec<ClusterNode> = (0..count)
        .map(|id| node(id, &etcd, hosts[id % HOSTS].clone(), sender.clone(), &runs))
        .collect();

    let began = boot_now();
    nodes[0].start().await.unwrap();
    let (mut leader, _) = timeout(LONG, first_ticks.recv()).await.unwrap().unwrap();
    stream::iter(&nodes)
        .for_each_concurrent(AT_ONCE, async |node| node.start().await.unwrap())
        .await;
    let joined = boot_now().since(began);
    all_know(&nodes, count).await;
    let known = boot_now().since(began);
    let each = (resident() - before) / 1024.0 / count as f64;
    assert_one_leads(&nodes, leader);

    let stopped_at = boot_now();
    let (stopped, next) = tokio::join!(nodes[leader].stop(LONG), timeout(LONG, first_ticks.recv()));
    let (next, at) = next.unwrap().unwrap();
    assert_eq!(stopped.unwrap(), Stopped::Clean);
    assert_ne!(leader, next);
    leader = next;
    all_know(&nodes, count - 1).await;
    assert_one_leads(&nodes, leader);
    assert_eq!(first_ticks.try_recv().ok(), None, "one handoff, one change of role");
    let lost: u64 = nodes.iter().map(|node| node.membership().borrow().sessions_lost).sum();

    Bench::values();
    bench.value("all have joined after", joined.as_secs_f64(), "s", None);
    bench.value("all know all after", known.as_secs_f64(), "s", None);
    bench.value("memory of each node", each, "MiB", Some(1.0));
    bench.value("stop of the leader → first tick", ms(at.since(stopped_at)), "ms", None);
    bench.value("sessions lost", lost as f64, "", Some(0.0));
    stream::iter(&nodes)
        .for_each_concurrent(AT_ONCE, async |node| {
            let _ = node.stop(Duration::from_secs(5)).await;
        })
        .await;
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

fn node(
    id: usize,
    etcd: &Etcd,
    host: DriverHost,
    first_ticks: mpsc::Sender<FirstTick>,
    runs: &Arc<AtomicUsize>,
) -> ClusterNode {
    let (last, runs) = (AtomicI64::new(-1), Arc::clone(runs));
    ClusterNode::builder()
        .cluster(CLUSTER)
        .id(id as i64)
        .address(format!("10.0.{}.{}:8080", id / 256, id % 256))
        .etcd(EtcdConfig::new(etcd.endpoints()))
        .host(host)
        .tick(TICK)
        .leader(move |ctx: LeaderContext| {
            let (at, term) = (boot_now(), ctx.term().0);
            if last.swap(term, Ordering::Relaxed) != term {
                first_ticks.try_send((id, at)).unwrap();
            }
            async { Ok(()) }
        })
        .follower(move |_| {
            runs.fetch_add(1, Ordering::Relaxed);
            async { Ok(()) }
        })
        .build()
        .unwrap()
}

/// Until every node has that many in its picture.
async fn all_know(nodes: &[ClusterNode], count: usize) {
    for node in nodes {
        eventually("a node knows all others", LONG, async || {
            let membership = *node.membership().borrow();
            if !membership.joined {
                // The one that was stopped.
                return (membership.role == Role::Unknown).then_some(());
            }
            let status = node.status().await.ok()?;
            (status.nodes.len() == count).then_some(())
        })
        .await;
    }
}

fn assert_one_leads(nodes: &[ClusterNode], leader: usize) {
    let leaders: Vec<usize> = (0..nodes.len())
        .filter(|id| nodes[*id].membership().borrow().role == Role::Leader)
        .collect();
    assert_eq!(leaders, [leader]);
}

/// Resident memory of this process in KiB.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
