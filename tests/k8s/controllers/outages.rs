//! An API server that goes away, and one that refuses.

use std::{sync::Arc, time::Duration};

use bellwether::{
    k8s::{
        cache::Scope,
        controller::{Action, Context, Controller},
        fence::ElectionRef,
        k8s_openapi::api::core::v1::ConfigMap,
        operator::Operator,
    },
    node::ClusterNode,
    store::memory::MemoryStore,
};

use super::replicas::{Cluster, Ledger, install};
use crate::{
    kube::{ApiServer, rule},
    support::eventually,
};

const SOON: Duration = Duration::from_secs(90);

fn noting(cluster: &Cluster<'_>, ledger: &Ledger) -> Controller<ConfigMap> {
    let ledger = ledger.clone();
    Controller::new(move |map: Arc<ConfigMap>, _: Context| {
        drop(ledger.begin(0, &map));
        async { Ok(Action::done()) }
    })
    .scope(Scope::namespace(cluster.space.name.clone()).labels("reconciled=yes"))
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_api_server_is_away_caches_stay_and_afterwards_nothing_is_missed() {
    let api = ApiServer::options().start().await;
    install(&api).await;
    let cluster = Cluster { store: MemoryStore::new(), space: api.namespace("away").await };
    let ledger = Ledger::default();
    let scope = Scope::namespace(cluster.space.name.clone()).labels("reconciled=yes");
    let mut cache = None;
    let replica = cluster
        .replica(0, |mut it| {
            cache = Some(it.cache::<ConfigMap>(&(), &scope));
            it.controller(noting(&cluster, &ledger))
        })
        .await;
    let cache = cache.unwrap();
    cluster.make("kept").await;
    cluster.make("changed").await;
    cluster.make("deleted").await;
    ledger.until("deleted", 1).await;

    api.kill();
    eventually("it is noticed that nothing is heard", SOON, async || {
        cache.age().filter(|age| *age > Duration::from_secs(2)).map(|_| ())
    })
    .await;
    assert_eq!(cache.len(), 3, "caches stay");
    assert!(replica.node.membership().borrow().joined, "the node goes on");

    api.start_again().await;
    cluster.change("changed", "2").await;
    cluster.delete("deleted").await;
    cluster.make("new").await;
    ledger.until_value("changed", "2").await;
    ledger.until("new", 1).await;
    eventually("the deletion is seen", SOON, async || (cache.len() == 3).then_some(())).await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_rights_nothing_dies_and_work_begins_when_they_are_given() {
    let cluster = Cluster::new("denied").await;
    let ledger = Ledger::default();
    cluster.make("a").await;
    let user = cluster.space.user("operator", [rule("", "events", &["create"])]).await;
    let election = ElectionRef { namespace: cluster.space.name.clone(), cluster: "test".into() };
    let node = ClusterNode::builder().cluster("test").id(0).memory(&cluster.store);
    let operator =
        Operator::new(node, user.client(), election).controller(noting(&cluster, &ledger));
    let operator = operator.build().unwrap();
    let synced = operator.caches_synced();
    let stop = tokio_util::sync::CancellationToken::new();
    let running =
        bellwether::tasks::spawn("operator", operator.run(stop.clone().cancelled_owned()));
    // The watch is refused, and refused again; the caches say so.
    assert_eq!(synced.missing(), ["ConfigMap"]);
    let rules = [
        rule("", "configmaps", &["get", "list", "watch"]),
        rule("bellwether.dev", "elections", &["get", "create"]),
        rule("bellwether.dev", "elections/status", &["patch"]),
    ];
    cluster.space.grant(&user, "later", rules).await;
    ledger.until("a", 1).await;
    assert_eq!(synced.missing(), Vec::<&str>::new());
    stop.cancel();
    running.await.unwrap().unwrap();
}
