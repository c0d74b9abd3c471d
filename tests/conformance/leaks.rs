//! What nodes leave behind, however often they come and go: nothing. The same in thousands, with memory,
//! is `cargo bench --bench scale -- cycles`.

use bellwether::{
    node::{ClusterNode, DriverHost, Node, Stopped, WatchFrom},
    store::etcd::EtcdConfig,
};
use futures::future::{join_all, try_join_all};

use crate::{
    rig::SOON,
    support::{etcd::Etcd, eventually, proxy::Proxy},
};

const NODES: i64 = 8;
const LOSSES: u64 = 3;
const CYCLES: usize = 5;

/// Starts all nodes, takes each its session a few times, and stops them.
async fn cycle(nodes: &[ClusterNode], etcd: &Etcd) {
    let client = etcd.client().await;
    let all = nodes.iter().map(|node| async {
        let (mut membership, mut client) = (node.membership(), client.clone());
        node.start().await.unwrap();
        for _ in 0..LOSSES {
            let lost = membership.wait_for(|now| now.joined).await.unwrap().sessions_lost;
            let lease = node.status().await.unwrap().node.incarnation.unwrap();
            client.lease_revoke(i64::from_str_radix(&lease, 16).unwrap()).await.unwrap();
            membership.wait_for(|now| lost < now.sessions_lost).await.unwrap();
        }
        membership.wait_for(|now| now.joined).await.unwrap();
        assert_eq!(node.stop(SOON).await.unwrap(), Stopped::Clean);
    });
    tokio::time::timeout(SOON, join_all(all)).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_come_and_go_leave_no_task_connection_lease_or_key() {
    let etcd = Etcd::start().await;
    // Counts the connections of these nodes and no others.
    let proxy = Proxy::to(etcd.address(0)).await;
    let host = DriverHost::new("leaks").unwrap();
    let node = |id| {
        let config = EtcdConfig::new([format!("http://{}", proxy.address())]);
        let node = ClusterNode::builder().cluster("leaks").id(id).etcd(config);
        node.host(host.clone()).build().unwrap()
    };
    let nodes: Vec<_> = (1..=NODES).map(node).collect();
    cycle(&nodes, &etcd).await;
    let before = (host.tasks(), proxy.open());
    assert!(0 < before.0 && 0 < before.1, "they are counted: {before:?}");
    for _ in 0..CYCLES {
        cycle(&nodes, &etcd).await;
    }
    eventually("no more tasks and connections than before", SOON, async || {
        (host.tasks() <= before.0 && proxy.open() <= before.1).then_some(())
    })
    .await;
    let lost = nodes.iter().map(|node| node.membership().borrow().sessions_lost).sum::<u64>();
    assert!(NODES as u64 * LOSSES * CYCLES as u64 <= lost, "{lost} sessions were lost");
    let leases = etcd.etcdctl(&["lease", "list"]);
    assert_eq!(leases.lines().filter(|line| !line.contains("found")).count(), 0, "{leases}");
    let keys = etcd.etcdctl(&["get", "/leaks/", "--prefix", "--keys-only"]);
    let keys: Vec<_> = keys.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(keys, ["/leaks/bellwether/beat", "/leaks/bellwether/tick"]);
    let watches = nodes.iter().map(|node| node.watch_key_cluster("k", WatchFrom::Now));
    let watches = try_join_all(watches).await.unwrap();
    join_all(nodes.iter().map(ClusterNode::close)).await;
    // Their store ends with the last handle.
    drop(nodes);
    eventually("their tasks and connections end with them", SOON, async || {
        (host.tasks() == 0 && proxy.open() == 0).then_some(())
    })
    .await;
    // Who still waits for changes keeps nothing alive.
    drop(watches);
}
