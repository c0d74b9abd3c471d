//! Late writes of a former leader have no effect.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use bellwether::{
    engine::{Role, Term},
    k8s::{
        authority::is_refused,
        cache::Scope,
        controller::{Action, Context, Controller},
        crd::Election,
        fence::{self, FENCE_ANNOTATION, Fence},
        k8s_openapi::api::core::v1::ConfigMap,
        kube::{
            Client, ResourceExt as _,
            api::{Api, Patch, PatchParams, PostParams},
            client::Body,
        },
        operator::Operator,
        writes::{WriteError, Written},
    },
    operator::uptime::crd::{UptimeCheck, UptimeCheckStatus},
};
use http::{Method, Request};
use prometheus::{Registry, TextEncoder};
use serde_json::{from_value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, service_fn};

use super::replicas::{Cluster, SOON, config_map};
use crate::support::eventually;

/// Controller that hands the contexts of its reconciles to the test.
fn lending(cluster: &Cluster<'_>, lent: &Arc<Mutex<Vec<Context>>>) -> Controller<ConfigMap> {
    let lent = Arc::clone(lent);
    Controller::new(move |_: Arc<ConfigMap>, ctx: Context| {
        lent.lock().unwrap().push(ctx);
        async { Ok(Action::done()) }
    })
    .scope(Scope::namespace(cluster.space.name.clone()).labels("reconciled=yes"))
}

async fn borrowed(lent: &Arc<Mutex<Vec<Context>>>, many: usize) -> Context {
    eventually("a context is lent", SOON, async || lent.lock().unwrap().get(many - 1).cloned())
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_after_the_term_is_refused_and_never_reaches_the_server() {
    let cluster = Cluster::new("late").await;
    let lent = Arc::default();
    let replica = cluster.replica(0, |it| it.controller(lending(&cluster, &lent))).await;
    let seen = cluster.make("a").await;
    let ctx = borrowed(&lent, 1).await;
    replica.stop().await;

    let maps: Api<ConfigMap> = Api::namespaced(ctx.unfenced_client().clone(), &cluster.space.name);
    let patch = Patch::Merge(json!({ "data": { "value": "late" } }));
    let error = maps.patch("a", &PatchParams::default(), &patch).await.unwrap_err();
    assert!(is_refused(&error), "{error}");
    let writer = ctx.writer::<ConfigMap>(Some(&cluster.space.name));
    assert!(matches!(writer.delete(&seen).await, Err(WriteError::Refused { .. })));
    assert!(maps.get("a").await.is_ok(), "reads pass");
    let late = cluster.space.writes().into_iter().any(|it| it.request["data"]["value"] == "late");
    assert!(!late, "it reached the server");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_by_what_was_seen_before_fails_after_a_later_leader_has_written() {
    let cluster = Cluster::new("stale").await;
    let lent = Arc::default();
    let replica = cluster.replica(0, |it| it.controller(lending(&cluster, &lent))).await;
    let seen = cluster.make("a").await;
    let ctx = borrowed(&lent, 1).await;
    let writer = ctx.writer::<ConfigMap>(Some(&cluster.space.name));
    cluster.change("a", "by another").await;

    let mut desired = config_map("a");
    desired.data = Some([("value".to_owned(), "by the stale one".to_owned())].into());
    let error = writer.apply(&desired, Some(&seen)).await.unwrap_err();
    assert!(matches!(error, WriteError::Conflict { .. }), "{error}");
    let error = writer.delete(&seen).await.unwrap_err();
    assert!(matches!(error, WriteError::Conflict { .. }), "{error}");
    let now = cluster.maps().get("a").await.unwrap();
    assert_eq!(now.data.unwrap()["value"], "by another");
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_by_what_was_seen_before_fails_after_another_one_was_written() {
    let cluster = Cluster::new("stale-status").await;
    let lent = Arc::default();
    let replica = cluster.replica(0, |it| it.controller(lending(&cluster, &lent))).await;
    cluster.make("a").await;
    let ctx = borrowed(&lent, 1).await;
    let checks = Api::<UptimeCheck>::default_namespaced(cluster.space.client());
    let check: UptimeCheck = from_value(json!({
        "apiVersion": "bellwether.dev/v1alpha1",
        "kind": "UptimeCheck",
        "metadata": { "name": "a" },
        "spec": { "target": { "tcp": { "host": "a", "port": 1 } } },
    }))
    .unwrap();
    let seen = checks.create(&PostParams::default(), &check).await.unwrap();
    let later = Patch::Merge(json!({ "status": { "message": "of the later leader" } }));
    checks.patch_status("a", &PatchParams::default(), &later).await.unwrap();

    let writer = ctx.writer::<UptimeCheck>(Some(&cluster.space.name));
    let late = UptimeCheckStatus { message: "too late".to_owned(), ..UptimeCheckStatus::default() };
    let error = writer.status(&seen, &late).await.unwrap_err();
    assert!(matches!(error, WriteError::Conflict { .. }), "{error}");
    let now = checks.get("a").await.unwrap().status.unwrap();
    assert_eq!(now.message, "of the later leader");
    // From the current object the write succeeds, and a second one changes nothing.
    let seen = checks.get("a").await.unwrap();
    assert_eq!(writer.status(&seen, &late).await.unwrap(), Written::Changed);
    let seen = checks.get("a").await.unwrap();
    assert_eq!(writer.status(&seen, &late).await.unwrap(), Written::Unchanged);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_the_same_name_that_came_after_is_not_taken_for_the_one_seen() {
    let cluster = Cluster::new("reborn").await;
    let lent = Arc::default();
    let replica = cluster.replica(0, |it| it.controller(lending(&cluster, &lent))).await;
    let mut seen = cluster.make("a").await;
    let ctx = borrowed(&lent, 1).await;
    cluster.delete("a").await;
    let reborn = cluster.make("a").await;
    // Without the resource version, only the UID distinguishes the two objects.
    seen.metadata.resource_version = None;
    let writer = ctx.writer::<ConfigMap>(Some(&cluster.space.name));
    assert!(matches!(writer.delete(&seen).await, Err(WriteError::Conflict { .. })));
    assert_eq!(cluster.maps().get("a").await.unwrap().uid(), reborn.uid());
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_later_leader_has_stamped_is_not_written_by_an_earlier_one() {
    let cluster = Cluster::new("stamped").await;
    let (lent, registry) = (Arc::default(), Registry::new());
    let work = |it: Operator| it.controller(lending(&cluster, &lent)).registry(registry.clone());
    let replica = cluster.replica(0, work).await;
    cluster.make("a").await;
    let ctx = borrowed(&lent, 1).await;
    let ours = ctx.fence().unwrap();
    let writer = ctx.writer::<ConfigMap>(Some(&cluster.space.name));
    let made = writer.create(config_map("made")).await.unwrap();
    assert_eq!(Fence::read(&made), Some(ours));

    let later = Patch::Merge(json!({
        "metadata": { "annotations": { FENCE_ANNOTATION: (ours.number() + 1).to_string() } },
    }));
    let seen = cluster.maps().patch("made", &PatchParams::default(), &later).await.unwrap();
    let error = writer.apply(&config_map("made"), Some(&seen)).await.unwrap_err();
    let WriteError::StaleFence { found, ours: told, .. } = error else { panic!("{error}") };
    assert_eq!((found.number(), told), (ours.number() + 1, ours));
    let shown = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    let counted =
        r#"bellwether_controller_refused_writes_total{controller="configmap",reason="fence"} 1"#;
    assert!(shown.contains(counted), "{shown}");
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fence_grows_even_if_the_store_was_wiped() {
    let mut cluster = Cluster::new("wiped").await;
    let lent = Arc::default();
    let replica = cluster.replica(0, |it| it.controller(lending(&cluster, &lent))).await;
    replica.is(Role::Leader).await;
    cluster.make("a").await;
    let before = borrowed(&lent, 1).await;
    replica.stop().await;

    // In an empty store, terms begin again from the start.
    cluster.store = bellwether::store::memory::MemoryStore::new();
    let replica = cluster.replica(0, |it| it.controller(lending(&cluster, &lent))).await;
    let after = borrowed(&lent, 2).await;
    assert!(before.fence().unwrap() < after.fence().unwrap());
    assert!(after.term().unwrap() <= before.term().unwrap(), "the store was not wiped");
    let elections = Api::<Election>::default_namespaced(cluster.space.client());
    assert_eq!(
        elections.get("test").await.unwrap().status.unwrap().fence,
        Some(after.fence().unwrap().number())
    );
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draw_that_is_overtaken_by_a_later_leaders_draws_anew_above_it() {
    let cluster = Cluster::new("overtaken").await;
    let (election, client) = (cluster.election(), cluster.space.client());
    let first = fence::draw(&client, &election, Term(5)).await.unwrap();
    assert_eq!(first.number(), 5);

    // A later leader draws once, between this leader's read and its write.
    let overtaken = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&overtaken);
    let (later, of) = (client.clone(), election.clone());
    let service = service_fn(move |request: Request<Body>| {
        let (later, of, overtaken) = (later.clone(), of.clone(), Arc::clone(&noted));
        async move {
            if request.method() == Method::PATCH && !overtaken.swap(true, SeqCst) {
                assert_eq!(fence::draw(&later, &of, Term(9)).await?.number(), 9);
            }
            later.send(request).await.map_err(BoxError::from)
        }
    });
    let slow = Client::new(service, cluster.space.name.clone());
    let drawn = fence::draw(&slow, &election, Term(7)).await.unwrap();
    assert!(overtaken.load(SeqCst));
    assert_eq!(drawn.number(), 10, "it does not go back to what it had read");
    let kept = election.api(client).get(&election.name()).await.unwrap();
    assert_eq!(kept.status.unwrap().fence, Some(10));
}

/// Client that holds each report of the Election until `go` is cancelled, even if the sender has given up, as a
/// network may do. `came` receives the outcome of each held report.
fn holding(
    client: Client,
    held: CancellationToken,
    go: CancellationToken,
    came: mpsc::Sender<Result<u16, String>>,
) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = service_fn(move |request: Request<Body>| {
        let (client, held) = (client.clone(), held.clone());
        let (go, came) = (go.clone(), came.clone());
        // A merge patch draws a fence; only apply patches are reports.
        let kind = request.headers().get("content-type").map(http::HeaderValue::as_bytes);
        let is_told = request.uri().path().contains("/elections/")
            && kind.is_some_and(|it| it.starts_with(b"application/apply-patch"));
        async move {
            if !is_told {
                return client.send(request).await.map_err(BoxError::from);
            }
            let sent = bellwether::tasks::spawn("on its way", async move {
                held.cancel();
                go.cancelled().await;
                let answer = client.send(request).await;
                let code = answer.as_ref().map(|it| it.status().as_u16());
                let _ = came.send(code.map_err(ToString::to_string)).await;
                answer
            });
            sent.await?.map_err(BoxError::from)
        }
    });
    Client::new(service, namespace)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_former_leader_told_of_the_cluster_does_not_undo_what_its_successor_tells() {
    let cluster = Cluster::new("told-late").await;
    let lent = Arc::default();
    let (held, go) = (CancellationToken::new(), CancellationToken::new());
    let (came, mut arrived) = mpsc::channel(16);
    let slow = holding(cluster.space.client(), held.clone(), go.clone(), came);
    let first =
        cluster.replica_through(slow, 0, |it| it.controller(lending(&cluster, &lent))).await;
    first.is(Role::Leader).await;
    let elections = Api::<Election>::default_namespaced(cluster.space.client());
    let told = async || {
        let status = elections.get_opt("test").await.unwrap()?.status?;
        status.leader.map(|it| it.node)
    };
    let second = cluster.replica(1, |it| it.controller(lending(&cluster, &lent))).await;
    tokio::time::timeout(SOON, held.cancelled()).await.expect("it tells of the cluster");
    first.stop().await;
    second.is(Role::Leader).await;
    eventually("the second tells", SOON, async || told().await.filter(|node| *node == 1)).await;

    go.cancel();
    let code = tokio::time::timeout(SOON, arrived.recv()).await.unwrap().unwrap();
    assert_eq!(code, Ok(409), "it had come too late");
    assert_eq!(told().await, Some(1));
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_is_told_of_only_with_the_fence_of_its_term() {
    let cluster = Cluster::new("told-with").await;
    let lent = Arc::default();
    let first = cluster.replica(0, |it| it.controller(lending(&cluster, &lent))).await;
    first.is(Role::Leader).await;
    let elections = Api::<Election>::default_namespaced(cluster.space.client());
    let told_by = async |node: i64| {
        eventually("the leader is told of", SOON, async || {
            let status = elections.get_opt("test").await.unwrap()?.status?;
            (status.leader.as_ref()?.node == node).then_some(status)
        })
        .await
    };
    let before = told_by(0).await;

    // The draw takes longer than three rounds of this node's polling of the cluster.
    let client = cluster.space.client();
    let (slow, namespace) = (client.clone(), client.default_namespace().to_owned());
    let service = service_fn(move |request: Request<Body>| {
        let client = slow.clone();
        async move {
            let kind = request.headers().get("content-type").map(http::HeaderValue::as_bytes);
            if kind.is_some_and(|it| it.starts_with(b"application/merge-patch"))
                && request.uri().path().contains("/elections/")
            {
                tokio::time::sleep(Duration::from_millis(3500)).await;
            }
            client.send(request).await.map_err(BoxError::from)
        }
    });
    let slow = Client::new(service, namespace);
    let second =
        cluster.replica_through(slow, 1, |it| it.controller(lending(&cluster, &lent))).await;
    first.stop().await;
    second.is(Role::Leader).await;
    let after = told_by(1).await;
    assert!(before.fence < after.fence, "{before:?} {after:?}");
    assert!(before.term < after.term, "{before:?} {after:?}");
    second.stop().await;
}
