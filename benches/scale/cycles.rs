//! Whether a node leaks: the same node started and stopped, and its session lost and regained, very
//! often, in one process on one etcd. A tenth as many losses: a node whose sessions do not last waits up to
//! 3 s before it joins again, on purpose.

use std::{fs, time::Duration};

use bellwether::{
    node::{ClusterNode, Node, Stopped},
    store::etcd::EtcdConfig,
};

use crate::{
    common::{self, Bench, CLUSTER},
    support::{
        etcd::{Etcd, Medium},
        eventually,
    },
};

const LONG: Duration = Duration::from_secs(60);
/// What pools and caches grow to is not counted.
const WARM_UP: usize = 50;

/// What a process holds.
#[derive(Clone, Copy)]
struct Held {
    tasks: usize,
    files: usize,
    threads: usize,
    resident_kib: f64,
}

pub(crate) async fn measure(bench: &mut Bench, cycles: usize) {
    let etcd = common::etcd_with_cluster(Medium::Memory).await;
    let node = ClusterNode::builder()
        .cluster(CLUSTER)
        .id(1)
        .address("cycles")
        .etcd(EtcdConfig::new(etcd.endpoints()))
        .build()
        .unwrap();

    starts_and_stops(&node, WARM_UP).await;
    let before = held();
    starts_and_stops(&node, cycles).await;
    Bench::values();
    grown(bench, "start and stop", before).await;

    node.start().await.unwrap();
    losses(&node, &etcd, WARM_UP / 10).await;
    let before = held();
    losses(&node, &etcd, cycles / 10).await;
    grown(bench, "lose and regain", before).await;
    assert_eq!(node.stop(LONG).await.unwrap(), Stopped::Clean);
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

async fn losses(node: &ClusterNode, etcd: &Etcd, cycles: usize) {
    let mut membership = node.membership();
    let mut client = etcd.client().await;
    for _ in 0..cycles {
        let lost = membership.wait_for(|now| now.joined).await.unwrap().sessions_lost;
        let lease = node.status().await.unwrap().node.incarnation.unwrap();
        client.lease_revoke(i64::from_str_radix(&lease, 16).unwrap()).await.unwrap();
        membership.wait_for(|now| lost < now.sessions_lost).await.unwrap();
    }
    membership.wait_for(|now| now.joined).await.unwrap();
}

async fn grown(bench: &mut Bench, what: &str, before: Held) {
    // What is being dropped may still be counted.
    let settled = eventually("as few tasks and files as before", LONG, async || {
        let now = held();
        (now.tasks <= before.tasks && now.files <= before.files).then_some(now)
    });
    let now = settled.await;
    let more = |now: usize, before: usize| now as f64 - before as f64;
    bench.value(&format!("{what}: more tasks"), more(now.tasks, before.tasks), "", Some(0.0));
    bench.value(&format!("{what}: more files"), more(now.files, before.files), "", Some(0.0));
    bench.value(&format!("{what}: more threads"), more(now.threads, before.threads), "", Some(0.0));
    let memory = (now.resident_kib - before.resident_kib) / 1024.0;
    bench.value(&format!("{what}: more memory"), memory, "MiB", Some(2.0));
}

fn held() -> Held {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse::<f64>().unwrap()
    };
    Held {
        tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(),
        files: fs::read_dir("/proc/self/fd").unwrap().count(),
        threads: field("Threads:") as usize,
        resident_kib: field("VmRSS:"),
    }
}
