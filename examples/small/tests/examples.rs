//! Runs each example: against a fake API in memory, or without any.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use bellwether::{
    k8s::{
        k8s_openapi::api::{
            apps::v1::Deployment,
            core::v1::{ConfigMap, Secret},
        },
        kube::{api::DeleteParams, core::ApiResource},
        prelude::*,
    },
    node::{ClusterNode, Stopped},
    testing::{Cluster, Fake, eventually, gone, until},
};
use serde_json::{from_value, json};
use small_examples::{
    dynamic_kind, minimal,
    outside::{self, Provider},
    referenced_secret, two_controllers,
    without_kubernetes::{self, Done},
};
use tokio::sync::{mpsc, oneshot};

/// Limit against a test that hangs.
const SOON: Duration = Duration::from_secs(60);

fn map(name: &str) -> ConfigMap {
    from_value(json!({
        "metadata": { "name": name, "namespace": "shop", "labels": { "copy": "yes" } },
        "data": { "key": "value" },
    }))
    .expect("a map")
}

/// Operators on two nodes with a fake API.
async fn cluster(
    fake: &Fake,
    add: impl Fn(Operator) -> Operator + Send + Sync + 'static,
) -> Cluster {
    let clients = fake.clone();
    let build = move |node: bellwether::node::ClusterNodeBuilder, client| {
        let election = ElectionRef { namespace: "shop".into(), cluster: "shop".into() };
        add(Operator::new(node.cluster("shop"), client, election))
    };
    Cluster::of(2, move || clients.client(), build).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_gets_a_copy_and_gets_it_again_when_it_is_deleted() {
    let fake = Fake::new().with([map("a")]);
    let cluster = cluster(&fake, minimal::operator).await;
    let maps = Api::<ConfigMap>::namespaced(fake.client(), "shop");
    let copy = until(&maps, "a-copy", |copy| copy.data.is_some()).await;
    maps.delete("a-copy", &DeleteParams::default()).await.expect("it exists");
    until(&maps, "a-copy", |again| again.uid() != copy.uid()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_closed_before_its_map_is_removed() {
    let (fake, provider) = (Fake::new().with([map("a")]), Arc::new(Provider::default()));
    let of = Arc::clone(&provider);
    let cluster =
        cluster(&fake, move |operator| outside::operator(operator, Arc::clone(&of))).await;
    eventually("the account is open", SOON, async || (provider.accounts() == ["a"]).then_some(()))
        .await;
    let maps = Api::<ConfigMap>::namespaced(fake.client(), "shop");
    maps.delete("a", &DeleteParams::default()).await.expect("it exists");
    gone(&maps, "a").await;
    assert_eq!(provider.accounts(), Vec::<String>::new());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_replaced_when_the_secret_that_their_deployment_names_changes() {
    let app: Deployment = from_value(json!({
        "metadata": { "name": "app", "namespace": "shop", "annotations": { "example.com/secret": "key" } },
        "spec": {
            "selector": { "matchLabels": { "app": "app" } },
            "template": { "metadata": { "labels": { "app": "app" } } },
        },
    }))
    .expect("a deployment");
    let fake = Fake::new().with([app]);
    let cluster = cluster(&fake, referenced_secret::operator).await;
    let apps = Api::<Deployment>::namespaced(fake.client(), "shop");
    let version = |app: &Deployment| {
        let template = app.spec.template.metadata.as_ref()?;
        template.annotations.as_ref()?.get("example.com/secret-version").cloned()
    };
    let secret: Secret = from_value(json!({ "metadata": { "name": "key", "namespace": "shop" } }))
        .expect("a Secret");
    let first = fake.put(&secret).resource_version();
    until(&apps, "app", |app| version(app) == first).await;
    fake.change::<Secret>("shop", "key", |secret| secret.immutable = Some(true));
    until(&apps, "app", |app| version(app).is_some() && version(app) != first).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_a_kind_from_a_setting_are_annotated() {
    let fake = Fake::new().with([map("a")]);
    let kind = ApiResource::erase::<ConfigMap>(&());
    let cluster = cluster(&fake, move |operator| dynamic_kind::operator(operator, &kind)).await;
    let maps = Api::<ConfigMap>::namespaced(fake.client(), "shop");
    until(&maps, "a", |map| map.annotations().contains_key("example.com/seen")).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_controllers_work_on_the_same_maps() {
    let fake = Fake::new().with([map("a")]);
    let (results, mut measured) = mpsc::channel(64);
    let cluster =
        cluster(&fake, move |operator| two_controllers::operator(operator, results.clone())).await;
    let maps = Api::<ConfigMap>::namespaced(fake.client(), "shop");
    until(&maps, "a-copy", |copy| copy.data.is_some()).await;
    loop {
        let (name, bytes) = measured.recv().await.expect("an operator runs");
        assert_eq!(bytes, "keyvalue".len(), "{name}");
        if name == "a-copy" {
            break;
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_without_kubernetes_ticks_and_works_on_its_shards() {
    let done = Arc::new(Done::default());
    let node = ClusterNode::standalone().id(0).cluster("shop");
    let host = without_kubernetes::program(node, &done);
    let (end, ended) = oneshot::channel::<()>();
    let works = async {
        eventually("a tick, and a round", SOON, async || {
            (done.ticks.load(SeqCst) > 0 && done.rounds.load(SeqCst) > 0).then_some(())
        })
        .await;
        drop(end);
    };
    let (stopped, ()) = tokio::join!(host.run(async move { drop(ended.await) }), works);
    assert_eq!(stopped.expect("no error"), Stopped::Clean);
}
