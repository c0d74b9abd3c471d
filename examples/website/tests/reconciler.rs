//! The controllers against a fake API, in memory: no server and no cluster is needed.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use bellwether::{
    k8s::{
        k8s_openapi::api::{
            apps::v1::Deployment,
            core::v1::{ConfigMap, Service},
        },
        prelude::*,
    },
    testing::{Cluster, Fake, until},
};
use serde_json::{from_value, json};
use website_operator::website::{Website, WebsiteSpec, reconcile};

fn site() -> Website {
    let mut site =
        Website::new("home", WebsiteSpec { html: "<h1>hello</h1>".to_owned(), replicas: 2 });
    site.metadata.namespace = Some("shop".to_owned());
    site
}

/// Runs the reconciler on the state that the API has now, and on the one after that: the first run for a site adds
/// the finalizer, which causes the next one.
async fn reconciled(fake: &Fake) {
    for _ in 0..2 {
        let site = fake.get::<Website>("shop", "home").expect("the site exists");
        reconcile(Arc::new(site), fake.context().await).await.expect("the run succeeds");
    }
}

#[tokio::test]
async fn a_site_owns_a_page_pods_and_a_service() {
    let fake = Fake::new().custom::<Website>().with([site()]);
    reconciled(&fake).await;
    let page = fake.get::<ConfigMap>("shop", "home").expect("the page exists");
    assert_eq!(page.data.expect("it has data")["index.html"], "<h1>hello</h1>");
    let pods = fake.get::<Deployment>("shop", "home").expect("the pods exist");
    assert_eq!(pods.owner_references()[0].kind, "Website");
    assert_eq!(pods.spec.replicas, Some(2));
    assert!(fake.get::<Service>("shop", "home").is_some());
}

#[tokio::test]
async fn a_site_is_ready_when_its_pods_are() {
    let fake = Fake::new().custom::<Website>().with([site()]);
    reconciled(&fake).await;
    let is_ready = || {
        let status = fake.get::<Website>("shop", "home").and_then(|site| site.status);
        conditions::holds(&status.expect("a status").conditions, "Ready")
    };
    assert!(!is_ready());
    fake.change::<Deployment>("shop", "home", |pods| {
        pods.status = from_value(json!({ "replicas": 2, "readyReplicas": 2 })).ok();
    });
    reconciled(&fake).await;
    assert!(is_ready());
}

#[tokio::test]
async fn a_node_that_lost_its_office_writes_nothing() {
    let fake = Fake::new().custom::<Website>().with([site()]);
    let ctx = fake.context().await;
    fake.lose_office();
    let site = fake.get::<Website>("shop", "home").expect("the site exists");
    assert!(reconcile(Arc::new(site), ctx).await.is_err());
    assert_eq!(fake.writes(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_takes_over_when_the_leader_dies() {
    let fake = Fake::new().custom::<Website>();
    let (clients, built) = (fake.clone(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&built);
    let mut cluster = Cluster::of(
        3,
        move || clients.client(),
        move |node, client| {
            count.fetch_add(1, SeqCst);
            let election = ElectionRef { namespace: "shop".into(), cluster: "shop".into() };
            website_operator::operator(Operator::new(node.cluster("shop"), client, election))
        },
    )
    .await;
    assert_eq!(built.load(SeqCst), 3);
    let first = cluster.kill_leader().await;
    fake.put(&site());
    let pods = Api::<Deployment>::namespaced(fake.client(), "shop");
    until(&pods, "home", |pods| pods.spec.replicas == Some(2)).await;
    assert_ne!(cluster.leader().await, first);
    cluster.stop().await;
}
