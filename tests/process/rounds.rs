//! Work with observable progress: uptime checks that run every second, and a node in the test's own process
//! that has state of its own.

use std::{collections::BTreeMap, fs, net::SocketAddr};

use bellwether::{
    node::{ClusterNode, Node as _},
    store::etcd::EtcdConfig,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{binary::LONG, cluster::Shop, support::eventually};

const CHECKS: usize = 4;

/// Folder of checks of a port, each check on a shard of its own.
pub(crate) struct Checks(TempDir);

impl Checks {
    pub(crate) fn of(port: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for n in 0..CHECKS {
            let manifest = format!(
                "apiVersion: bellwether.dev/v1alpha1\nkind: UptimeCheck\nmetadata:\n  name: port-{n}\n\
                 spec:\n  target:\n    tcp:\n      host: {}\n      port: {}\n  interval: 1s\n",
                port.ip(),
                port.port()
            );
            fs::write(folder.path().join(format!("{n}.yaml")), manifest).unwrap();
        }
        Self(folder)
    }

    pub(crate) fn folder(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    /// Waits until all shards have an owner, and each check has run from now on and found its target up.
    pub(crate) async fn go_on(&self, shop: &Shop) {
        let since = jiff::Timestamp::now().as_millisecond();
        eventually("each check is run again", LONG, || async {
            let ran = shop.ask(&["get", "uptime", "-o", "json"]);
            let results: Value = serde_json::from_str(&ran.out).ok()?;
            let mut last = BTreeMap::new();
            for result in results.as_array()? {
                let (_, name) = result["key"].as_str()?.rsplit_once('/')?;
                let value: Value = serde_json::from_str(result["value"].as_str()?).ok()?;
                if value["verdict"] == "up" {
                    let at = last.entry(name.to_owned()).or_insert(0);
                    *at = value["ranUnixMs"].as_i64()?.max(*at);
                }
            }
            (last.len() == CHECKS && last.values().all(|at| since < *at)).then_some(())
        })
        .await;
        eventually("all shards are held", LONG, || async {
            (shop.status()["work"][0]["unowned"] == 0).then_some(())
        })
        .await;
    }
}

/// Node 3 of the cluster, in the test's own process: it never leads, runs no work, and restores its own state.
pub(crate) struct Keeper(pub(crate) ClusterNode);

impl Keeper {
    const VALUE: &str = "as it was put";

    pub(crate) async fn join(config: EtcdConfig) -> Self {
        let node = ClusterNode::builder().cluster("shop").id(3).address("host-3").never_lead();
        let node = node.etcd(config).build().unwrap();
        node.start().await.unwrap();
        node.put("kept", Self::VALUE.as_bytes()).await.unwrap();
        Self(node)
    }

    /// Waits until a client can read this node's state.
    pub(crate) async fn has_its_state(&self, shop: &Shop) {
        eventually("the state of node 3", LONG, || async {
            let ran = shop.ask(&["get", "kept", "-n", "3"]);
            (ran.code == 0 && ran.out == Self::VALUE).then_some(())
        })
        .await;
    }
}
