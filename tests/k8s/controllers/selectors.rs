//! Objects in the caches of nodes whose work is spread: only those of the node's own shards, whether or not the
//! API server filters by shard.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use bellwether::{
    engine::Role,
    k8s::{
        cache::{Cache, Scope},
        controller::{Action, Context, Controller, Sharded},
        k8s_openapi::api::core::v1::ConfigMap,
        kube::{Client, client::Body},
    },
};
use http::Request;
use tower::{BoxError, service_fn};

use super::replicas::{Cluster, Ledger, Replica, SOON};
use crate::{kube::ApiServer, support::eventually};

/// Cache and requests of one node.
#[derive(Clone, Default)]
struct Seen {
    cache: Arc<Mutex<Option<Cache<ConfigMap>>>>,
    /// Queries of this node's watches of config maps.
    watches: Arc<Mutex<Vec<String>>>,
}

impl Seen {
    /// Names of the objects in the node's cache; empty before its first reconcile.
    fn kept(&self) -> BTreeSet<String> {
        let cache = self.cache.lock().unwrap();
        let keys = cache.as_ref().map(Cache::keys).unwrap_or_default();
        keys.iter().map(|key| key.name.to_string()).collect()
    }

    fn watches(&self) -> Vec<String> {
        self.watches.lock().unwrap().clone()
    }

    /// Client that notes the watches of this node.
    fn client(&self, client: Client) -> Client {
        let namespace = client.default_namespace().to_owned();
        let watches = Arc::clone(&self.watches);
        let service = service_fn(move |request: Request<Body>| {
            let uri = request.uri();
            let query = uri.query().unwrap_or_default();
            if uri.path().ends_with("/configmaps") && query.contains("watch=true") {
                watches.lock().unwrap().push(query.to_owned());
            }
            let client = client.clone();
            async move { client.send(request).await.map_err(BoxError::from) }
        });
        Client::new(service, namespace)
    }
}

/// Nodes whose work is spread, and the records about each.
struct Nodes<'a> {
    cluster: Cluster<'a>,
    ledger: Ledger,
    seen: BTreeMap<i64, Seen>,
}

impl<'a> Nodes<'a> {
    async fn on(api: &'a ApiServer, what: &str) -> Self {
        let cluster = Cluster::on(api, what).await;
        Self { cluster, ledger: Ledger::default(), seen: BTreeMap::new() }
    }

    async fn start(&mut self, id: i64) -> Replica {
        let seen = self.seen.entry(id).or_default().clone();
        let client = seen.client(self.cluster.space.client());
        let (ledger, cache) = (self.ledger.clone(), Arc::clone(&seen.cache));
        let controller = Controller::new(move |map: Arc<ConfigMap>, ctx: Context| {
            *cache.lock().unwrap() = ctx.cache::<ConfigMap>();
            let open = ledger.begin(id, &map);
            async move {
                let pause = tokio::time::sleep(Duration::from_millis(5));
                let _ = ctx.token().run_until_cancelled(pause).await;
                drop(open);
                Ok(Action::done())
            }
        })
        .named("spread")
        .scope(Scope::namespace(self.cluster.space.name.clone()).labels("reconciled=yes"))
        .at_once(8);
        let sharded = Sharded::new(controller).shards(16);
        self.cluster.replica_through(client, id, |it| it.shards(sharded)).await
    }

    /// Waits until these nodes together hold every object exactly once, and the others none.
    async fn until_kept_by(&self, nodes: &[i64], names: &BTreeSet<String>) {
        eventually(&format!("each object is kept by one of {nodes:?}"), SOON, async || {
            let mut all: Vec<String> = Vec::new();
            for (id, seen) in &self.seen {
                let kept = seen.kept();
                if kept.is_empty() == nodes.contains(id) {
                    return None;
                }
                all.extend(kept);
            }
            all.sort_unstable();
            all.iter().eq(names).then_some(())
        })
        .await;
    }

    /// Waits until one running node holds every object.
    async fn until_kept_by_running(&self, nodes: &[i64], names: &BTreeSet<String>) {
        eventually(&format!("all is kept by {nodes:?}"), SOON, async || {
            nodes.iter().all(|id| self.seen[id].kept() == *names).then_some(())
        })
        .await;
    }
}

/// Nodes join and leave while objects change: each node caches the objects of its shards, no object is lost, and
/// none is reconciled by two nodes at once.
async fn each_node_keeps_the_objects_of_its_shards(api: &ApiServer, what: &str) -> Vec<String> {
    let mut nodes = Nodes::on(api, what).await;
    let mut names: BTreeSet<String> = (0..32).map(|number| format!("map-{number}")).collect();
    for name in &names {
        nodes.cluster.make(name).await;
    }
    let leader = nodes.start(0).await;
    leader.is(Role::Leader).await;
    nodes.until_kept_by(&[0], &names).await;
    let second = nodes.start(1).await;
    let third = nodes.start(2).await;
    nodes.until_kept_by(&[1, 2], &names).await;
    // The owner of the shard receives creations, changes and deletions.
    nodes.cluster.make("late").await;
    names.insert("late".to_owned());
    nodes.ledger.until("late", 1).await;
    nodes.cluster.change("late", "changed").await;
    nodes.ledger.until_value("late", "changed").await;
    nodes.cluster.delete("map-0").await;
    names.remove("map-0");
    nodes.until_kept_by(&[1, 2], &names).await;
    // Objects change while shards move.
    let moving = async {
        second.stop().await;
        nodes.until_kept_by_running(&[2], &names).await;
    };
    let changing = async {
        for round in 0..4 {
            for name in &names {
                nodes.cluster.change(name, &format!("round-{round}")).await;
            }
        }
    };
    tokio::join!(moving, changing);
    eventually("the last change of each has reached its owner", SOON, async || {
        let last = nodes.ledger.last_values();
        names.iter().all(|name| last[name] == "round-3").then_some(())
    })
    .await;
    nodes.ledger.assert_no_overlap();
    let watches = nodes.seen.values().flat_map(Seen::watches).collect();
    third.stop().await;
    leader.stop().await;
    watches
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_filters_by_shard_is_asked_for_no_other_objects() {
    let api = ApiServer::sharded().await;
    let watches = each_node_keeps_the_objects_of_its_shards(api, "filtered").await;
    assert!(watches.len() >= 4, "{watches:?}");
    for query in &watches {
        assert!(query.contains("&shardSelector=shardRange(object.metadata.uid%2C+"), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_server_does_not_filter_by_shard_nodes_drop_what_is_not_theirs() {
    let api = super::server().await;
    let watches = each_node_keeps_the_objects_of_its_shards(api, "dropped").await;
    assert!(watches.len() >= 4, "{watches:?}");
    for query in &watches {
        assert!(!query.contains("shardSelector"), "it was noticed: {query}");
    }
}
