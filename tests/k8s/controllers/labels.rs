//! The label by which a Service selects the leader's pod: exactly one pod carries it, even when writes arrive
//! late.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use bellwether::{
    engine::Role,
    k8s::{
        election::{CLUSTER_LABEL, ROLE_LABEL},
        identity::PodIdentity,
        k8s_openapi::api::core::v1::Pod,
        kube::{
            Api, Client, ResourceExt,
            api::{ListParams, Patch, PatchParams, PostParams},
            client::Body,
        },
        operator::Operator,
    },
    node::{ClusterNode, RoutineLimits},
    store::memory::Fault,
    tasks,
};
use http::{Method, Request, StatusCode};
use serde_json::{Value, from_value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, service_fn};

use super::replicas::{Cluster, Replica, SOON};
use crate::support::eventually;

impl Cluster<'_> {
    fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.space.client())
    }

    /// Creates the pod of a node, with these labels; no kubelet runs it.
    async fn pod(&self, ordinal: i64, labels: Value) -> PodIdentity {
        let name = format!("pod-{ordinal}");
        let pod: Pod = from_value(json!({
            "metadata": { "name": name, "labels": labels },
            "spec": { "containers": [{ "name": "operator", "image": "operator" }] },
        }))
        .unwrap();
        let pod = self.pods().create(&PostParams::default(), &pod).await.unwrap();
        let variables = BTreeMap::from([
            ("POD_NAME", name),
            ("POD_NAMESPACE", self.space.name.clone()),
            ("POD_UID", pod.uid().unwrap()),
            ("POD_IP", "10.0.0.1".to_owned()),
            ("NODE_NAME", "machine".to_owned()),
            ("POD_INDEX", ordinal.to_string()),
        ]);
        PodIdentity::from_lookup(|name| variables.get(name).cloned()).unwrap()
    }

    /// Names of the pods that a Service for the leader selects.
    async fn labelled(&self) -> Vec<String> {
        let selector = format!("{CLUSTER_LABEL}=test,{ROLE_LABEL}=leader");
        let found = self.pods().list(&ListParams::default().labels(&selector)).await.unwrap();
        found.iter().map(ResourceExt::name_any).collect()
    }

    async fn until_labelled(&self, pod: &str) {
        eventually(&format!("{pod} alone is labelled"), SOON, async || {
            (self.labelled().await == [pod]).then_some(())
        })
        .await;
    }

    async fn put_label(&self, pod: &str, role: &str) {
        let labels = json!({ CLUSTER_LABEL: "test", ROLE_LABEL: role });
        let patch = Patch::Merge(json!({ "metadata": { "labels": labels } }));
        self.pods().patch(pod, &PatchParams::default(), &patch).await.unwrap();
    }
}

/// Write in transit: the sender has sent it and cannot cancel it, and the server has not received it.
#[derive(Clone)]
struct OnItsWay {
    has_left: CancellationToken,
    arrive: CancellationToken,
    answer: watch::Receiver<Option<StatusCode>>,
}

impl OnItsWay {
    /// Client whose first patch that gives the leader's label to this pod stays in transit.
    fn of(client: Client, pod: &'static str) -> (Client, Self) {
        let (answered, answer) = watch::channel(None);
        let answered = Arc::new(answered);
        let it =
            Self { has_left: CancellationToken::new(), arrive: CancellationToken::new(), answer };
        let (shared, namespace) = (it.clone(), client.default_namespace().to_owned());
        let is_met = Arc::new(AtomicBool::new(false));
        let travelling = Arc::new(Mutex::new(Vec::new()));
        let service = service_fn(move |request: Request<Body>| {
            let (client, it, is_met) = (client.clone(), shared.clone(), Arc::clone(&is_met));
            let (answered, travelling) = (Arc::clone(&answered), Arc::clone(&travelling));
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect_bytes().await?;
                let is_patch = head.method == Method::PATCH && head.uri.path().ends_with(pod);
                let is_leader = String::from_utf8_lossy(&body).contains(r#""leader""#);
                let request = Request::from_parts(head, Body::from(body));
                if !is_patch || !is_leader || is_met.swap(true, SeqCst) {
                    return client.send(request).await.map_err(BoxError::from);
                }
                let travels = tasks::spawn("a write on its way", async move {
                    it.has_left.cancel();
                    it.arrive.cancelled().await;
                    answered.send_replace(Some(client.send(request).await.unwrap().status()));
                });
                travelling.lock().unwrap().push(travels);
                std::future::pending().await
            }
        });
        (Client::new(service, namespace), it)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_former_leaders_label_that_arrives_late_is_refused() {
    let cluster = Cluster::new("late-label").await;
    // The usual case: the former leader's pod was a follower's, and the successor's write changes no label of
    // it.
    let follower = json!({ CLUSTER_LABEL: "test", ROLE_LABEL: "follower" });
    let (pod_0, pod_1) = (cluster.pod(0, follower).await, cluster.pod(1, json!({})).await);
    let (client, late) = OnItsWay::of(cluster.space.client(), "/pods/pod-0");
    let first = cluster.replica_through(client, 0, |it| it.pod(pod_0)).await;
    first.is(Role::Leader).await;
    let second = cluster.replica(1, |it| it.pod(pod_1)).await;
    tokio::time::timeout(SOON, late.has_left.cancelled()).await.unwrap();

    first.node.resign().await.unwrap();
    second.is(Role::Leader).await;
    cluster.until_labelled("pod-1").await;
    late.arrive.cancel();
    let mut answer = late.answer.clone();
    let answered = answer.wait_for(Option::is_some);
    let answered = *tokio::time::timeout(SOON, answered).await.unwrap().unwrap();
    assert_eq!(answered, Some(StatusCode::CONFLICT));
    assert_eq!(cluster.labelled().await, ["pod-1"]);
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_label_is_taken_off_and_a_lost_one_is_put_on_again() {
    let cluster = Cluster::new("wrong-label").await;
    let (pod_0, pod_1) = (cluster.pod(0, json!({})).await, cluster.pod(1, json!({})).await);
    let first = cluster.replica(0, |it| it.pod(pod_0)).await;
    first.is(Role::Leader).await;
    let second = cluster.replica(1, |it| it.pod(pod_1)).await;
    cluster.until_labelled("pod-0").await;
    eventually("the follower's pod is labelled too", SOON, async || {
        let pod = cluster.pods().get("pod-1").await.unwrap();
        pod.labels().get(ROLE_LABEL).filter(|role| *role == "follower").map(|_| ())
    })
    .await;

    // The leader corrects wrong labels on a pod that is unknown to it, on a follower's pod and on its own.
    cluster.pod(7, json!({ CLUSTER_LABEL: "test", ROLE_LABEL: "leader" })).await;
    cluster.pod(8, json!({ CLUSTER_LABEL: "another", ROLE_LABEL: "leader" })).await;
    cluster.put_label("pod-1", "leader").await;
    cluster.put_label("pod-0", "follower").await;
    cluster.until_labelled("pod-0").await;
    let other = cluster.pods().get("pod-8").await.unwrap();
    assert_eq!(other.labels()[ROLE_LABEL], "leader", "a pod of another cluster");
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_label_leaves_the_pod_of_a_leader_that_loses_its_store_and_comes_back_with_it() {
    let cluster = Cluster::new("suspended-label").await;
    let pod = cluster.pod(0, json!({})).await;
    let replica = cluster.replica(0, |it| it.pod(pod)).await;
    cluster.until_labelled("pod-0").await;
    cluster.store.faults().set(|_| Some(Fault::Unreachable));
    cluster.store.faults().stall_watches();
    eventually("no pod is labelled", SOON, async || {
        cluster.labelled().await.is_empty().then_some(())
    })
    .await;
    cluster.store.faults().clear();
    cluster.store.faults().resume_watches();
    cluster.until_labelled("pod-0").await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_leaves_takes_its_label_along() {
    let cluster = Cluster::new("leaving-label").await;
    let pod = cluster.pod(0, json!({})).await;
    let replica = cluster.replica(0, |it| it.pod(pod)).await;
    cluster.until_labelled("pod-0").await;
    replica.stop().await;
    assert_eq!(cluster.labelled().await, Vec::<String>::new());
}

/// Client that receives no more answers once `from` is cancelled.
fn cut_off(client: Client, from: &CancellationToken) -> Client {
    let (namespace, from) = (client.default_namespace().to_owned(), from.clone());
    let service = service_fn(move |request: Request<Body>| {
        let (client, from) = (client.clone(), from.clone());
        async move {
            if from.is_cancelled() {
                return std::future::pending().await;
            }
            client.send(request).await.map_err(BoxError::from)
        }
    });
    Client::new(service, namespace)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_does_not_answer_does_not_hold_up_a_hand_over() {
    let cluster = Cluster::new("silent-api").await;
    let (pod_0, pod_1) = (cluster.pod(0, json!({})).await, cluster.pod(1, json!({})).await);
    let cut = CancellationToken::new();
    let node = ClusterNode::builder()
        .cluster("test")
        .id(0)
        // No routine may be aborted in this test.
        .limits(RoutineLimits { cancel_grace: 10 * SOON, ..RoutineLimits::default() })
        .memory(&cluster.store);
    let client = cut_off(cluster.space.client(), &cut);
    let first = Replica::start(Operator::new(node, client, cluster.election()).pod(pod_0)).await;
    first.is(Role::Leader).await;
    let second = cluster.replica(1, |it| it.pod(pod_1)).await;
    cluster.until_labelled("pod-0").await;
    cut.cancel();
    first.node.resign().await.unwrap();
    second.is(Role::Leader).await;
    cluster.until_labelled("pod-1").await;
    first.stop().await;
    second.stop().await;
}
