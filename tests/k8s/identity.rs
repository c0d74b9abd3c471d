//! Pods as nodes: incarnations of one pod, and pods that claim the same id.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use bellwether::{
    k8s::identity::PodIdentity,
    node::{ClusterNode, Node, StartError},
    store::etcd::EtcdConfig,
};

use crate::support::{etcd::Etcd, eventually};

/// Timeout against a hanging test. Shorter than the TTL of the leases: a test that waited for a lease to expire
/// would fail.
const LONG: Duration = Duration::from_secs(60);

/// Longer than any test runs: only a proof of death ends such an incarnation sooner.
const TTL: Duration = Duration::from_secs(600);

// The processes of one pod exclude each other by a lock in the machine's network namespace, whichever etcd they
// use: tests that run at the same time use different pods.
const RESTARTED_UID: &str = "3f2a9c1e-8f0b-4a6d-9d55-0c1b2a3d4e5f";
const LIVE_UIDS: [&str; 2] =
    ["7b1d0e52-11aa-4c0e-8c7d-5e4f3a2b1c0d", "d0a4c1b2-5c1e-4f63-8a17-2b9e6f0c7d11"];
const DEAD_UIDS: [&str; 2] =
    ["5c8e7f90-6d2b-4b1a-9e34-8f7a6b5c4d3e", "a91b3c5d-7e8f-4012-b345-6c7d8e9f0a1b"];

/// Pod `web-1` of a `StatefulSet`.
fn pod(uid: &str, ip: &str) -> PodIdentity {
    PodIdentity::from_lookup(|name| {
        let value = match name {
            "POD_NAME" => "web-1",
            "POD_NAMESPACE" => "shop",
            "POD_UID" => uid,
            "POD_IP" => ip,
            "POD_INDEX" => "1",
            "NODE_NAME" => "worker-1",
            _ => return None,
        };
        Some(value.to_owned())
    })
    .unwrap()
    .or_port(8080)
}

fn node(etcd: &Etcd, pod: &PodIdentity) -> ClusterNode {
    pod.apply(ClusterNode::builder().cluster("shop").ttl(TTL))
        .etcd(EtcdConfig::new(etcd.endpoints()))
        .build()
        .unwrap()
}

/// First container of the pod, as a process; killed when dropped.
struct Container(Child);

impl Container {
    fn start(etcd: &Etcd, pod: &PodIdentity) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_bellwether"))
            .args(["run", "--cluster", "shop", "--listen", "127.0.0.1:0", "--ttl", "600s"])
            .args(["--id", &pod.id().to_string(), "--address", &pod.address()])
            .args(["--pod-uid", pod.uid(), "--etcd", &etcd.endpoint(0)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        Self(child)
    }

    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Lease of the incarnation that has id 1, once there is one.
async fn life(etcd: &Etcd) -> i64 {
    let mut client = etcd.client().await;
    eventually("web-1 has joined", LONG, async || {
        let found = client.get("/shop/nodes/1", None).await.ok()?;
        found.kvs().first().map(etcd_client::KeyValue::lease)
    })
    .await
}

#[tokio::test]
async fn a_restarted_container_is_a_new_incarnation_of_the_same_id_at_once() {
    let etcd = Etcd::start().await;
    let web = pod(RESTARTED_UID, "10.1.2.3");
    let mut first = Container::start(&etcd, &web);
    let before = life(&etcd).await;
    first.kill();
    assert_eq!(life(&etcd).await, before, "nobody has ended the dead life yet");

    let again = node(&etcd, &web);
    let started = tokio::time::timeout(LONG, again.start()).await;
    started.expect("ten minutes of its TTL are not waited for").unwrap();
    assert_ne!(life(&etcd).await, before);
    let me = again.get_self_metadata();
    assert_eq!((me.id.get(), me.address.as_str()), (1, "10.1.2.3:8080"));
    again.close().await.unwrap();
}

#[tokio::test]
async fn a_second_pod_with_a_live_id_is_refused_and_told_who_has_it() {
    let etcd = Etcd::start().await;
    let holder = node(&etcd, &pod(LIVE_UIDS[0], "10.1.2.3"));
    holder.start().await.unwrap();
    let second = node(&etcd, &pod(LIVE_UIDS[1], "10.9.9.9"));
    let refused = second.start().await.unwrap_err();
    assert!(matches!(refused, StartError::DuplicateId { .. }));
    assert_eq!(
        refused.to_string(),
        "node id 1 is taken by a live node at \"10.1.2.3:8080\": give this one another id, or stop that one"
    );
    let nodes = holder.get_nodes().await.unwrap();
    assert_eq!(nodes.len(), 1, "the holder is not disturbed");
    holder.close().await.unwrap();
}

#[tokio::test]
async fn another_pods_dead_life_is_not_taken_for_a_life_of_ones_own() {
    let etcd = Etcd::start().await;
    let mut first = Container::start(&etcd, &pod(DEAD_UIDS[0], "10.1.2.3"));
    let before = life(&etcd).await;
    first.kill();
    // A recreated pod has another UID: it cannot prove that the old one is dead.
    let second = node(&etcd, &pod(DEAD_UIDS[1], "10.9.9.9"));
    let refused = second.start().await.unwrap_err();
    assert!(matches!(refused, StartError::DuplicateId { .. }), "{refused}");
    assert_eq!(life(&etcd).await, before);
}
