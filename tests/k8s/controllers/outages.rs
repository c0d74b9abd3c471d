//! An API server that is unreachable, and one that refuses access.

use std::{sync::Arc, time::Duration};

use bellwether::{
    clock,
    engine::Role,
    k8s::{
        cache::Scope,
        client::{ClientOptions, connect},
        controller::{Action, Context, Controller},
        fence::ElectionRef,
        k8s_openapi::api::core::v1::ConfigMap,
        key::ObjectKey,
        operator::Operator,
    },
    node::ClusterNode,
    store::memory::MemoryStore,
};
use prometheus::{
    Registry,
    proto::{Metric, MetricFamily},
};

use super::replicas::{Cluster, Ledger, install};
use crate::{
    front::tries_since,
    kube::{ApiServer, Options, rule},
    support::{
        eventually,
        proxy::{Fault, Proxy},
    },
};

const SOON: Duration = Duration::from_secs(90);

/// How long the API server is away.
const AWAY: Duration = Duration::from_secs(60);
/// Longest pause between two attempts to watch.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Delay that a busy machine may add to a pause.
const LATE: Duration = Duration::from_secs(5);

/// How often the watch of config maps was restarted for that reason.
fn restarts(registry: &Registry, reason: &str) -> f64 {
    let families = registry.gather();
    let all = families.iter().filter(|it| it.name() == "bellwether_watch_restarts_total");
    let mut all = all.flat_map(MetricFamily::get_metric);
    let has = |it: &&Metric, value: &str| it.get_label().iter().any(|it| it.value() == value);
    all.find(|it| has(it, "ConfigMap") && has(it, reason))
        .map_or(0.0, |it| it.get_counter().get_value())
}

fn noting(cluster: &Cluster<'_>, ledger: &Ledger) -> Controller<ConfigMap> {
    let ledger = ledger.clone();
    Controller::new(move |map: Arc<ConfigMap>, _: Context| {
        drop(ledger.begin(0, &map));
        async { Ok(Action::done()) }
    })
    .scope(Scope::namespace(cluster.space.name.clone()).labels("reconciled=yes"))
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_api_server_is_away_for_a_minute_caches_stay_and_afterwards_nothing_is_missed() {
    let api = ApiServer::options().start().await;
    install(&api).await;
    let cluster = Cluster { store: MemoryStore::new(), space: api.namespace("away").await };
    let ledger = Ledger::default();
    let scope = Scope::namespace(cluster.space.name.clone()).labels("reconciled=yes");
    let registry = Registry::new();
    let mut cache = None;
    let replica = cluster
        .replica(0, |it| {
            let mut it = it.registry(registry.clone());
            cache = Some(it.cache::<ConfigMap>(&(), &scope));
            it.controller(noting(&cluster, &ledger))
        })
        .await;
    let cache = cache.unwrap();
    cluster.make("kept").await;
    cluster.make("changed").await;
    cluster.make("deleted").await;
    ledger.until("deleted", 1).await;

    replica.is(Role::Leader).await;
    let membership = *replica.node.membership().borrow();
    let kept = ObjectKey::namespaced(cluster.space.name.as_str(), "kept");

    api.kill();
    let gone = clock::boot_now();
    let (mut tries, mut tried) = (0.0, gone);
    while clock::boot_now().since(gone) < AWAY {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(cache.len(), 3, "caches stay");
        assert_eq!(cache.get(&kept).unwrap().data.as_ref().unwrap()["value"], "1");
        replica.assert_runs();
        assert_eq!(*replica.node.membership().borrow(), membership, "the node goes on");
        let (now, so_far) = (clock::boot_now(), restarts(&registry, "unavailable"));
        if tries < so_far {
            (tries, tried) = (so_far, now);
        }
        let quiet = now.since(tried);
        assert!(quiet < LONGEST_PAUSE + LATE, "not tried for {quiet:?}, after {tries} times");
    }
    assert!(AWAY <= cache.age().unwrap(), "it shows how old they are");
    // The first pause is at least half of 200 ms, and each next one is twice as long.
    let most = tries_since(gone, Duration::from_millis(100), LONGEST_PAUSE / 2);
    assert!(tries <= f64::from(u32::try_from(most).unwrap()), "tried {tries} times");

    api.start_again().await;
    let back = clock::boot_now();
    eventually("the API server is heard", SOON, async || {
        cache.age().filter(|age| *age < AWAY).map(|_| ())
    })
    .await;
    let resumed = clock::boot_now().since(back);
    assert!(resumed < LONGEST_PAUSE + LATE, "resumed {resumed:?} after the server was back");
    cluster.change("changed", "2").await;
    cluster.delete("deleted").await;
    cluster.make("new").await;
    ledger.until_value("changed", "2").await;
    ledger.until("new", 1).await;
    eventually("the deletion is seen", SOON, async || (cache.len() == 3).then_some(())).await;
    replica.stop().await;
}

/// The revision to resume a watch from is gone, as the server reports (410): the cache lists again, and picks
/// up all changes that happened in between.
async fn a_watch_is_cut_and_what_it_would_resume_from_is_gone(options: Options, what: &str) {
    let api = options.start().await;
    install(&api).await;
    let cluster = Cluster { store: MemoryStore::new(), space: api.namespace(what).await };
    let proxy = Proxy::to(api.address()).await;
    let file = api.kubeconfig(&cluster.space.name, None);
    let proxied = std::fs::read_to_string(&file).unwrap();
    let proxied = proxied.replace(&api.url(), &format!("https://{}", proxy.address()));
    std::fs::write(&file, proxied).unwrap();
    let client = ClientOptions::default().environment(|_| None).kubeconfig(file);
    let client = connect(client).await.unwrap();

    let registry = Registry::new();
    let expired = || restarts(&registry, "expired");
    let ledger = Ledger::default();
    let scope = Scope::namespace(cluster.space.name.clone()).labels("reconciled=yes");
    let mut cache = None;
    let replica = cluster
        .replica_through(client, 0, |it| {
            let mut it = it.registry(registry.clone());
            cache = Some(it.cache::<ConfigMap>(&(), &scope));
            it.controller(noting(&cluster, &ledger))
        })
        .await;
    let cache = cache.unwrap();
    for name in ["kept", "changed", "deleted"] {
        cluster.make(name).await;
        ledger.until(name, 1).await;
    }

    proxy.set(Fault::Refuse);
    cluster.change("changed", "2").await;
    cluster.delete("deleted").await;
    let made = cluster.make("new").await;
    let revision = made.metadata.resource_version.unwrap();
    api.etcd().etcdctl(&["compact", &revision]);
    // A server that does not read from etcd serves old revisions from its memory until it restarts.
    if what == "restarted" {
        api.restart().await;
    }
    proxy.set(Fault::None);
    ledger.until_value("changed", "2").await;
    ledger.until("new", 1).await;
    eventually("the deletion is seen", SOON, async || (cache.len() == 3).then_some(())).await;
    assert!((expired() - 1.0).abs() < f64::EPSILON, "410 was met {} times", expired());
    // Exactly one run for the object: a list does not reconcile objects that have not changed.
    assert_eq!(ledger.runs().iter().filter(|run| run.object == "kept").count(), 1);
    cluster.change("kept", "2").await;
    ledger.until_value("kept", "2").await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_whose_revisions_etcd_has_compacted_lists_anew_and_misses_nothing() {
    let uncached = ApiServer::options().flag("--watch-cache-sizes=configmaps#0");
    a_watch_is_cut_and_what_it_would_resume_from_is_gone(uncached, "compacted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_whose_revisions_a_restarted_server_does_not_remember_lists_anew() {
    let options = ApiServer::options();
    a_watch_is_cut_and_what_it_would_resume_from_is_gone(options, "restarted").await;
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
    let (operator, synced) = operator.build().unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let running =
        bellwether::tasks::spawn("operator", operator.run(stop.clone().cancelled_owned()));
    // The server refuses the watch again and again; the caches report it as missing.
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
