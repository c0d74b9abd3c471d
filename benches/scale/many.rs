//! Very many nodes in one process: all nodes join, one leads, and all know each other. The leader is cut off,
//! later a leader stops, and each time another node takes over.
//!
//! Two threads run all drivers; each node has its own connection to etcd, its own watch and its own view of all
//! other nodes, as in a process of its own.

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
    common::{self, Bench, CLUSTER, cpu_time_of},
    few::cpu_time,
    support::{
        etcd::Medium,
        eventually,
        proxy::{Fault, Proxy},
    },
};

/// A limit against hanging.
const LONG: Duration = Duration::from_secs(600);
/// Number of driver threads, each of which uses one core; more would not help with two cores.
const HOSTS: usize = 2;
/// Number of nodes that join at the same time.
const AT_ONCE: usize = 32;
/// Tick of the routines, long since the bench does not measure routines.
const TICK: Duration = Duration::from_secs(1);

/// Length of the measurement of idle nodes.
const IDLE: Duration = Duration::from_secs(10);

/// Node that began a term, and the time of its first tick.
type FirstTick = (usize, BootTime);

pub(crate) async fn measure(bench: &mut Bench, count: usize) {
    let etcd = common::etcd_with_cluster(Medium::Memory).await;
    // The first leader reaches etcd through this proxy, which cuts it off.
    let proxy = Proxy::to(etcd.address(0)).await;
    let hosts: Vec<_> =
        (0..HOSTS).map(|host| DriverHost::new(&format!("host-{host}")).unwrap()).collect();
    let (sender, mut first_ticks) = mpsc::channel(count);
    let runs = Arc::new(AtomicUsize::new(0));
    let before = resident();
    let nodes: Vec<ClusterNode> = (0..count)
        .map(|id| {
            let endpoint =
                if id == 0 { format!("http://{}", proxy.address()) } else { etcd.endpoint(0) };
            node(id, endpoint, hosts[id % HOSTS].clone(), sender.clone(), &runs)
        })
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

    let (began, ours, theirs) = (boot_now(), cpu_time(), cpu_time_of(etcd.pid(0)));
    tokio::time::sleep(IDLE).await;
    let span = boot_now().since(began);
    let part = |now: Duration, before| {
        100.0 * now.saturating_sub(before).as_secs_f64() / span.as_secs_f64()
    };
    let (ours, theirs) = (part(cpu_time(), ours), part(cpu_time_of(etcd.pid(0)), theirs));

    assert_eq!(leader, 0, "the first one leads");
    let cut_at = boot_now();
    proxy.set(Fault::Blackhole);
    let (next, silent_until) = timeout(LONG, first_ticks.recv()).await.unwrap().unwrap();
    assert_ne!(leader, next);
    leader = next;
    proxy.set(Fault::None);
    proxy.reset();
    all_know(&nodes, count).await;
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
    // The node that was cut off may have lost its session, and does not count.
    let lost = nodes[1..].iter().map(|node| node.membership().borrow().sessions_lost);
    let lost: u64 = lost.sum();

    Bench::values();
    bench.value("all have joined after", joined.as_secs_f64(), "s", None);
    bench.value("all know all after", known.as_secs_f64(), "s", None);
    bench.value("memory of each node", each, "MiB", Some(1.0));
    bench.value("all of them idle, of one core", ours, "%", None);
    bench.value("their etcd, of one core", theirs, "%", None);
    let cut_off = ms(silent_until.since(cut_at));
    bench.value("leader cut off → first tick of the next", cut_off, "ms", None);
    bench.value("stop of the leader → first tick", ms(at.since(stopped_at)), "ms", None);
    bench.value("sessions lost, but of the one cut off", lost as f64, "", Some(0.0));
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
    endpoint: String,
    host: DriverHost,
    first_ticks: mpsc::Sender<FirstTick>,
    runs: &Arc<AtomicUsize>,
) -> ClusterNode {
    let (last, runs) = (AtomicI64::new(-1), Arc::clone(runs));
    ClusterNode::builder()
        .cluster(CLUSTER)
        .id(id as i64)
        .address(format!("10.0.{}.{}:8080", id / 256, id % 256))
        .etcd(EtcdConfig::new([endpoint]))
        .host(host)
        .tick(TICK)
        .on_leader_tick(move |ctx: LeaderContext| {
            let (at, term) = (boot_now(), ctx.term().0);
            if last.swap(term, Ordering::Relaxed) != term {
                first_ticks.try_send((id, at)).unwrap();
            }
            async { Ok(()) }
        })
        .on_follower_tick(move |_| {
            runs.fetch_add(1, Ordering::Relaxed);
            async { Ok(()) }
        })
        .build()
        .unwrap()
}

/// Waits until every node has `count` nodes in its view.
async fn all_know(nodes: &[ClusterNode], count: usize) {
    for node in nodes {
        eventually("a node knows all others", LONG, async || {
            let membership = *node.membership().borrow();
            if !membership.joined {
                // The node that was stopped.
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
