//! Nodes that start and stop often leave nothing behind. `cargo bench --bench scale -- cycles` does the same
//! thousands of times, and checks memory too.

use std::time::Duration;

use bellwether::{
    engine::Role,
    node::{ClusterNode, DriverHost, Node, Stopped, WatchFrom},
    store::etcd::EtcdConfig,
};
use etcd_client::Client;
use futures::future::{join_all, try_join_all};

use crate::{
    rig::SOON,
    support::{
        etcd::Etcd,
        eventually,
        proxy::{Fault, Proxy},
    },
};

const NODES: i64 = 8;
const LOSSES: u64 = 3;
const CYCLES: usize = 5;

/// Revokes the lease of a node's session.
async fn lose(node: &ClusterNode, client: &mut Client) {
    let mut membership = node.membership();
    let lost = membership.wait_for(|now| now.joined).await.unwrap().sessions_lost;
    // The node may be about to notice that its incarnation has changed.
    let incarnation = async || node.status().await.ok()?.node.incarnation;
    let lease = eventually("an incarnation", SOON, incarnation).await;
    // After an outage the lease may have expired already.
    let _ = client.lease_revoke(lease.0).await;
    membership.wait_for(|now| lost < now.sessions_lost).await.unwrap();
}

/// Starts all nodes, revokes the session of each a few times, and stops them.
async fn cycle(nodes: &[ClusterNode], etcd: &Etcd) {
    let client = etcd.client().await;
    let all = nodes.iter().map(|node| async {
        let (mut membership, mut client) = (node.membership(), client.clone());
        node.start().await.unwrap();
        for _ in 0..LOSSES {
            lose(node, &mut client).await;
        }
        membership.wait_for(|now| now.joined).await.unwrap();
        assert_eq!(node.stop(SOON).await.unwrap(), Stopped::Clean);
    });
    tokio::time::timeout(SOON, join_all(all)).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_come_and_go_leave_no_task_connection_lease_or_key() {
    let etcd = Etcd::start().await;
    // This proxy carries, and counts, only the connections of these nodes.
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
    // The store of the nodes ends with its last handle.
    drop(nodes);
    eventually("their tasks and connections end with them", SOON, async || {
        (host.tasks() == 0 && proxy.open() == 0).then_some(())
    })
    .await;
    // A watch that still waits for changes keeps no task or connection alive.
    drop(watches);
}

const CALLS: usize = 1000;

/// Makes `calls` reads; returns how many were answered.
async fn reads(node: &ClusterNode, calls: usize) -> usize {
    let mut answered = 0;
    for _ in 0..calls {
        answered += usize::from(node.get("k").await.is_ok());
    }
    answered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_calls_an_outage_and_re_joins_under_a_narrow_role_cost_no_connection() {
    let etcd = Etcd::options().user("ann", "secret-of-ann", "/leaks/").start().await;
    let proxy = Proxy::to(etcd.address(0)).await;
    let host = DriverHost::new("leaks").unwrap();
    let config = EtcdConfig::new([format!("http://{}", proxy.address())]);
    let config = config.user("ann", "secret-of-ann").probe_key("/leaks/bellwether/beat");
    let node = ClusterNode::builder().cluster("leaks").id(1).etcd(config);
    let node = node.host(host.clone()).call_timeout(Duration::from_secs(10)).build().unwrap();
    node.start().await.unwrap();
    let mut membership = node.membership();
    membership.wait_for(|now| now.role == Role::Leader).await.unwrap();
    node.put("k", b"first").await.unwrap();
    assert_eq!(reads(&node, 1).await, 1);
    let before = (host.tasks(), proxy.open());
    assert!(0 < before.0 && 0 < before.1, "they are counted: {before:?}");
    let no_more = async |when: &str| {
        eventually(when, SOON, async || {
            (host.tasks() <= before.0 && proxy.open() <= before.1).then_some(())
        })
        .await;
    };

    let accepted = proxy.accepted();
    for n in 0..CALLS / 2 {
        node.put("k", n.to_string().as_bytes()).await.unwrap();
        assert_eq!(reads(&node, 1).await, 1);
    }
    // No call opens a connection. On a busy machine, the store may replace a connection that seems dead now and
    // then.
    let made = proxy.accepted() - accepted;
    assert!(made < CALLS / 20, "{made} connections for {CALLS} calls");
    no_more("no more than before, after the calls").await;

    proxy.set(Fault::Refuse);
    assert_eq!(reads(&node, 1).await, 0, "an outage");
    proxy.set(Fault::None);
    eventually("calls are answered again", SOON, async || node.get("k").await.ok()).await;
    let mut client = etcd.client().await;
    for _ in 0..LOSSES {
        lose(&node, &mut client).await;
    }
    membership.wait_for(|now| now.joined).await.unwrap();
    no_more("no more than before, after the outage").await;

    assert_eq!(node.stop(SOON).await.unwrap(), Stopped::Clean);
    let accepted = proxy.accepted();
    assert_eq!(reads(&node, CALLS).await, CALLS, "whoever has left may read");
    let made = proxy.accepted() - accepted;
    assert!(made < CALLS / 20, "{made} connections for {CALLS} calls");
    no_more("no more than before, after the node has left").await;
}
