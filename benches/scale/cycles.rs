//! Whether a node leaks: the same node starts and stops, and sessions are lost and regained, very often, in one
//! process on one etcd.
//!
//! A node whose sessions do not last waits up to 3 s before it joins again, on purpose: [`LOSERS`] nodes of one
//! process lose their sessions at the same time, so that the waits overlap.

use std::{fs, time::Duration};

use bellwether::{
    engine::Role,
    node::{ClusterNode, DriverHost, Node, Stopped},
    store::etcd::EtcdConfig,
};
use futures::future::join_all;
use tokio::time::timeout;

use crate::{
    common::{self, Bench, CLUSTER},
    support::{
        etcd::{Etcd, Medium},
        eventually,
    },
};

const LONG: Duration = Duration::from_secs(60);
/// Time after which each node has renewed the lease of its session, which takes a task.
const RENEWED_AFTER: Duration = Duration::from_secs(3);
/// Time within which dropped values must be gone.
const SETTLED_WITHIN: Duration = Duration::from_secs(15);
/// Cycles whose growth does not count, since pools and caches fill up.
const WARM_UP: usize = 50;
/// Losses of each node until its timeline and the like have their full length.
const WARM_UP_EACH: usize = 10;
/// Number of nodes that lose their sessions in turn.
const LOSERS: usize = 50;

/// Resources that a process holds.
#[derive(Clone, Copy)]
struct Held {
    tasks: usize,
    files: usize,
    threads: usize,
    resident_kib: f64,
}

pub(crate) async fn measure(bench: &mut Bench, cycles: usize) {
    let etcd = common::etcd_with_cluster(Medium::Memory).await;
    let host = DriverHost::new("cycles").unwrap();
    let node = cluster_node(1, &etcd, &host);
    starts_and_stops(&node, WARM_UP).await;
    let before = held(&host);
    starts_and_stops(&node, cycles).await;
    Bench::values();
    grown(bench, "start and stop", &host, before).await;

    let losers: Vec<_> = (2..).take(LOSERS).map(|id| cluster_node(id, &etcd, &host)).collect();
    join_all(losers.iter().map(|node| async { node.start().await.unwrap() })).await;
    losses(&losers, &etcd, WARM_UP_EACH).await;
    tokio::time::sleep(RENEWED_AFTER).await;
    // A leak of each loss would show in both sections. Growth up to a full length shows only in the first.
    for what in ["lose and regain", "as often again"] {
        let before = held(&host);
        losses(&losers, &etcd, cycles / LOSERS).await;
        grown(bench, what, &host, before).await;
    }
    for loser in &losers {
        assert_eq!(loser.stop(LONG).await.unwrap(), Stopped::Clean);
    }
    let leases = etcd.etcdctl(&["lease", "list"]);
    let left = leases.lines().filter(|line| !line.contains("found")).count();
    bench.value("leases left in etcd", left as f64, "", Some(0.0));
}

async fn starts_and_stops(node: &ClusterNode, cycles: usize) {
    for _ in 0..cycles {
        node.start().await.unwrap();
        assert_eq!(node.stop(LONG).await.unwrap(), Stopped::Clean);
    }
}

/// Revokes the sessions of all nodes at the same time, `each` times. Every revoked session had been
/// established.
async fn losses(nodes: &[ClusterNode], etcd: &Etcd, each: usize) {
    let client = etcd.client().await;
    let all = nodes.iter().map(|node| async {
        let (mut membership, mut client) = (node.membership(), client.clone());
        for _ in 0..each {
            let lost = membership.wait_for(|now| now.joined).await.unwrap().sessions_lost;
            let lease = node.status().await.unwrap().node.incarnation.unwrap();
            client.lease_revoke(lease.0).await.unwrap();
            membership.wait_for(|now| lost < now.sessions_lost).await.unwrap();
        }
        membership.wait_for(|now| now.joined).await.unwrap();
    });
    join_all(all).await;
    // A leader has tasks of its own.
    eventually("one of them leads", LONG, async || {
        let leaders = nodes.iter().filter(|node| node.membership().borrow().role == Role::Leader);
        (leaders.count() == 1).then_some(())
    })
    .await;
}

fn cluster_node(id: i64, etcd: &Etcd, host: &DriverHost) -> ClusterNode {
    ClusterNode::builder()
        .cluster(CLUSTER)
        .id(id)
        .address("cycles")
        .etcd(EtcdConfig::new(etcd.endpoints()))
        .host(host.clone())
        .build()
        .unwrap()
}

async fn grown(bench: &mut Bench, what: &str, host: &DriverHost, before: Held) {
    // Tasks and files that are being dropped may still be counted.
    let mut now = held(host);
    let settled = async {
        while before.tasks < now.tasks || before.files < now.files {
            tokio::time::sleep(Duration::from_millis(100)).await;
            now = held(host);
        }
    };
    let _ = timeout(SETTLED_WITHIN, settled).await;
    let more = |now: usize, before: usize| now as f64 - before as f64;
    bench.value(&format!("{what}: more tasks"), more(now.tasks, before.tasks), "", Some(0.0));
    bench.value(&format!("{what}: more files"), more(now.files, before.files), "", Some(0.0));
    bench.value(&format!("{what}: more threads"), more(now.threads, before.threads), "", Some(0.0));
    let memory = (now.resident_kib - before.resident_kib) / 1024.0;
    bench.value(&format!("{what}: more memory"), memory, "MiB", Some(2.0));
}

/// Resources of the whole process; its tasks are those of the bench and of the drivers.
fn held(host: &DriverHost) -> Held {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse::<f64>().unwrap()
    };
    Held {
        tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks() + host.tasks(),
        files: fs::read_dir("/proc/self/fd").unwrap().count(),
        threads: field("Threads:") as usize,
        resident_kib: field("VmRSS:"),
    }
}
