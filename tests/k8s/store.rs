//! The store on Kubernetes with a real API server: nodes, neighbours of client-go, missing rights, bad objects,
//! outages. The differential test compares the answers with those of the other stores, and the conformance suite runs
//! nodes on this store.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use bellwether::{
    engine::{LeaseId, Role},
    k8s::{
        client::ClientOptions,
        k8s_openapi::api::coordination::v1::{Lease, LeaseSpec},
        kube::{
            Api,
            api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
        },
        store::{KubernetesConfig, KubernetesStore},
    },
    node::{ClusterNode, Node as _},
    store::{Get, Op, Store as _, StoreError, Txn, keys::Keys},
};
use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    binary::{bellwether, ended},
    kube::{ApiServer, Space, named, rule},
    support::{eventually, tools},
};

/// A limit against hanging, on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(300);

const TTL: Duration = Duration::from_secs(60);

pub(crate) fn access(space: &Space<'_>, user: Option<&str>) -> KubernetesConfig {
    let kubeconfig = space.api.kubeconfig(&space.name, user);
    KubernetesConfig::new().client(ClientOptions::default().kubeconfig(kubeconfig))
}

fn observer(space: &Space<'_>, cluster: &str) -> KubernetesStore {
    KubernetesStore::observer(Keys::new(cluster).unwrap(), access(space, None)).unwrap()
}

pub(crate) async fn node(space: &Space<'_>, cluster: &str, id: i64) -> ClusterNode {
    let config = access(space, None).identity(format!("pod-{id}"));
    let node = ClusterNode::builder().cluster(cluster).id(id).kubernetes(config).build().unwrap();
    node.start().await.unwrap();
    node
}

/// Time of the newest beat in the Lease, and everything in the state that a beat leaves as it is.
async fn beat_and_rest(space: &Space<'_>, cluster: &str) -> (Timestamp, Value) {
    let lease = leases(space).get(cluster).await.unwrap();
    let state = &lease.metadata.annotations.unwrap()["bellwether.dev/state"];
    let mut state: Value = serde_json::from_str(state).unwrap();
    let record = String::from_utf8(Keys::new(cluster).unwrap().record()).unwrap();
    state["keys"].as_object_mut().unwrap().remove(&record);
    (lease.spec.unwrap().renew_time.unwrap().0, json!([state["keys"], state["leases"]]))
}

pub(crate) async fn until_role(node: &ClusterNode, role: Role) {
    eventually("the role", LONG, async || (node.membership().borrow().role == role).then_some(()))
        .await;
}

pub(crate) fn leases(space: &Space<'_>) -> Api<Lease> {
    Api::default_namespaced(space.client())
}

pub(crate) async fn spec(space: &Space<'_>, cluster: &str) -> LeaseSpec {
    leases(space).get(cluster).await.unwrap().spec.unwrap_or_default()
}

fn put(key: &str, value: &[u8]) -> Txn {
    let put = Op::Put { key: key.as_bytes().to_vec(), value: value.to_vec(), lease: None };
    Txn { then: vec![put], ..Txn::default() }
}

/// A candidate of client-go or controller-runtime, in a process of its own.
struct Neighbour {
    process: Child,
    lines: mpsc::Receiver<String>,
}

impl Neighbour {
    fn start(space: &Space<'_>, kind: &str, lease: &str) -> Self {
        let mut process = Command::new(tools::program("neighbour", "neighbour"))
            .args(["--kind", kind, "--lease", lease, "--namespace", &space.name])
            .args(["--duration", "6s", "--deadline", "4s", "--retry", "500ms"])
            .arg("--kubeconfig")
            .arg(space.api.kubeconfig(&space.name, None))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { process, lines }
    }

    /// Waits for the next line that it prints.
    async fn until(&self, line: &str) {
        let said = eventually("the neighbour speaks", LONG, async || self.lines.try_recv().ok());
        assert_eq!(said.await, line);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_go_and_controller_runtime_share_the_lease_with_ours() {
    let space = ApiServer::shared().await.namespace("neighbours").await;
    for (number, kind) in ["client-go", "controller-runtime"].into_iter().enumerate() {
        let cluster = format!("mixed-{number}");
        // The neighbour leads: our nodes join, and wait.
        let theirs = Neighbour::start(&space, kind, &cluster);
        theirs.until("leading").await;
        let ours = node(&space, &cluster, 1).await;
        until_role(&ours, Role::Follower).await;
        let renewed = spec(&space, &cluster).await.renew_time;
        eventually("it renews the Lease that holds our state", LONG, async || {
            (spec(&space, &cluster).await.renew_time > renewed).then_some(())
        })
        .await;
        assert_eq!(ours.membership().borrow().role, Role::Follower);
        let leader = ours.get_leader().await.unwrap().expect("the neighbour is shown");
        assert_ne!(leader.get(), 1);
        let holder = spec(&space, &cluster).await.holder_identity.unwrap();
        let shown = ours.status().await.unwrap().leader.unwrap();
        assert_eq!((shown.id, shown.address.as_ref()), (leader, Some(&holder)));
        for (command, line) in [
            ("leader", format!("leader {leader} at {holder}, term ")),
            ("check", format!("{holder}, a candidate of client-go, leads")),
        ] {
            let kubeconfig = space.api.kubeconfig(&space.name, None);
            let mut asking = bellwether([command, "--store", "kubernetes", "--cluster", &cluster]);
            asking.arg("--kubeconfig").arg(kubeconfig);
            let ran = ended(asking);
            assert!(ran.out.contains(&line), "{ran:?}");
        }
        // The neighbour leaves, and our node leads.
        theirs.signal(Signal::TERM);
        theirs.until("stopped").await;
        until_role(&ours, Role::Leader).await;
        assert_eq!(spec(&space, &cluster).await.holder_identity.as_deref(), Some("pod-1"));
        // Another one comes, and waits as long as ours beats.
        let theirs = Neighbour::start(&space, kind, &cluster);
        let renewed = spec(&space, &cluster).await.renew_time;
        eventually("ours beats for longer than the Lease lasts", LONG, async || {
            let now = spec(&space, &cluster).await.renew_time?.0;
            let since = renewed.as_ref()?.0;
            (now.duration_since(since).as_secs() > 8).then_some(())
        })
        .await;
        assert!(theirs.lines.try_recv().is_err(), "two led at once");
        assert_eq!(spec(&space, &cluster).await.holder_identity.as_deref(), Some("pod-1"));
        // Ours leaves, and the neighbour leads.
        ours.close().await.unwrap();
        theirs.until("leading").await;
        let ours = node(&space, &cluster, 2).await;
        until_role(&ours, Role::Follower).await;
        // The neighbour dies: our node leads when the neighbour's time has run out.
        theirs.signal(Signal::KILL);
        until_role(&ours, Role::Leader).await;
        assert_eq!(spec(&space, &cluster).await.holder_identity.as_deref(), Some("pod-2"));
        ours.close().await.unwrap();
        assert_eq!(spec(&space, &cluster).await.holder_identity, None, "nobody leads");
    }
}

/// Everything that a node needs. The chart gives no more, see `tests/k8s/rbac.rs`.
pub(crate) const VERBS: [&str; 7] = ["get", "list", "watch", "create", "update", "patch", "delete"];

#[tokio::test]
async fn each_missing_right_is_named_in_a_sentence() {
    let space = ApiServer::shared().await.namespace("rights").await;
    for missing in VERBS {
        if missing == "watch" || missing == "list" || missing == "delete" {
            // Without them a node works on reads alone, or leaves what others tidy up: see the next test.
            continue;
        }
        let verbs: Vec<_> = VERBS.into_iter().filter(|verb| *verb != missing).collect();
        let user = space.user(missing, [rule("coordination.k8s.io", "leases", &verbs)]).await;
        let keys = Keys::new(&format!("without-{missing}")).unwrap();
        let store = KubernetesStore::of_node(keys, access(&space, Some(&user.name))).unwrap();
        let lease = LeaseId(7);
        let all = async {
            store.get(Get::key("a"), LONG).await?;
            store.grant(lease, TTL, LONG).await?;
            store.txn(put("a", b"1"), LONG).await?;
            store.keep_alive(lease, LONG).await?;
            store.revoke(lease, LONG).await
        };
        let error = all.await.unwrap_err();
        let said = error.to_string();
        assert!(matches!(error, StoreError::Denied { .. }), "{said}");
        assert!(
            said.contains(&format!("may not {missing} leases"))
                && said.contains(&format!("verbs: [\"{missing}\"]")),
            "{said}"
        );
    }
}

#[tokio::test]
async fn what_is_not_ours_or_not_readable_is_left_as_it_is() {
    let space = ApiServer::shared().await.namespace("objects").await;
    let api = leases(&space);
    let junk = json!({"metadata": {"annotations": {"bellwether.dev/state": "{oops"}}});
    api.create(&PostParams::default(), &Lease { metadata: named("junk"), ..Lease::default() })
        .await
        .unwrap();
    api.patch("junk", &PatchParams::default(), &Patch::Merge(&junk)).await.unwrap();
    let keys = Keys::new("junk").unwrap();
    let store = KubernetesStore::of_node(keys, access(&space, None)).unwrap();
    for _ in 0..2 {
        let error = store.txn(put("a", b"1"), LONG).await.unwrap_err();
        let said = error.to_string();
        assert!(matches!(error, StoreError::Denied { .. }), "{said}");
        assert!(said.contains("kubectl annotate lease junk bellwether.dev/state-"), "{said}");
    }
    let left = api.get("junk").await.unwrap().metadata.annotations.unwrap();
    assert_eq!(left["bellwether.dev/state"], "{oops");
    // Taken away, the cluster starts with an empty state.
    let removed = json!({"metadata": {"annotations": {"bellwether.dev/state": null}}});
    api.patch("junk", &PatchParams::default(), &Patch::Merge(&removed)).await.unwrap();
    store.txn(put("a", b"1"), LONG).await.unwrap();

    // Labels and annotations of others stay.
    let noted = json!({"metadata": {"annotations": {"team": "a"}, "labels": {"tier": "b"}}});
    api.patch("junk", &PatchParams::default(), &Patch::Merge(&noted)).await.unwrap();
    store.txn(put("a", b"2"), LONG).await.unwrap();
    let left = api.get("junk").await.unwrap().metadata;
    assert_eq!(left.annotations.unwrap()["team"], "a");
    assert_eq!(left.labels.unwrap()["tier"], "b");
}

#[tokio::test]
async fn a_state_near_its_bound_refuses_what_does_not_fit_and_keeps_the_rest() {
    let space = ApiServer::shared().await.namespace("bound").await;
    let store = observer(&space, "large");
    let value = vec![b'x'; 10_000];
    let mut kept = 0;
    let refused = loop {
        match store.txn(put(&format!("/large/state-data/k{kept}/1"), &value), LONG).await {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
    };
    let said = refused.to_string();
    assert!(matches!(refused, StoreError::Denied { .. }), "{said}");
    assert!(said.contains("229376 fit the Lease") && said.contains("/large/state-data"), "{said}");
    assert!((20..24).contains(&kept), "{kept}");
    // The stored keys stay; they can be read, and deleted to make room.
    let all = Get::range(bellwether::store::KeyRange::prefix("/large/"));
    assert_eq!(store.get(all, LONG).await.unwrap().kvs.len(), kept);
    let first = bellwether::store::KeyRange::key("/large/state-data/k0/1");
    let gone = Txn { then: vec![Op::Delete(first)], ..Txn::default() };
    store.txn(gone, LONG).await.unwrap();
    store.txn(put("/large/state-data/again/1", &value), LONG).await.unwrap();
}

#[tokio::test]
async fn two_clusters_of_one_name_in_two_namespaces_are_strangers() {
    let api = ApiServer::shared().await;
    let spaces = [api.namespace("one").await, api.namespace("two").await];
    let mut answers = BTreeMap::new();
    for (number, space) in spaces.iter().enumerate() {
        let store = observer(space, "shop");
        store.txn(put("a", number.to_string().as_bytes()), LONG).await.unwrap();
        let answer = store.get(Get::key("a"), LONG).await.unwrap();
        assert_eq!(answer.kvs[0].value, number.to_string().as_bytes());
        answers.insert(answer.cluster, number);
    }
    assert_eq!(answers.len(), 2, "each has an id of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_outlive_an_api_server_that_is_away_and_a_lease_that_is_deleted() {
    let api = ApiServer::options().start().await;
    let space = api.namespace("outage").await;
    let nodes = [node(&space, "shop", 1).await, node(&space, "shop", 2).await];
    let leader = async || {
        eventually("a leader that acts", LONG, async || {
            nodes.iter().position(|node| node.membership().borrow().role == Role::Leader)
        })
        .await
    };
    let first = leader().await;
    nodes[first].put("k", b"v").await.unwrap();
    api.kill();
    eventually("nobody acts as leader without an API server", LONG, async || {
        for node in &nodes {
            let left = node.vitals().await.unwrap().authority_left;
            left.is_none_or(|left| left.is_zero()).then_some(())?;
        }
        Some(())
    })
    .await;
    api.start_again().await;
    let second = leader().await;
    assert_eq!(nodes[first].get("k").await.unwrap().as_deref(), Some(&b"v"[..]));
    assert!(nodes.iter().all(|node| !node.membership().borrow().broken));
    // Deleted by hand: the nodes make another one, whose terms go on above.
    let term = nodes[second].membership().borrow().term;
    leases(&space).delete("shop", &DeleteParams::default()).await.unwrap();
    eventually("a leader in a later term", LONG, async || {
        nodes
            .iter()
            .map(|node| *node.membership().borrow())
            .find(|it| it.role == Role::Leader && it.term > term)
    })
    .await;
    for node in nodes {
        node.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_cluster_only_beats_and_renews() {
    let space = ApiServer::shared().await.namespace("idle").await;
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(node(&space, "idle", id).await);
    }
    eventually("a leader", LONG, async || {
        nodes.iter().any(|node| node.membership().borrow().role == Role::Leader).then_some(())
    })
    .await;
    // The nodes write their own keys while they start; the cluster is idle once nothing but beats is written.
    let mut rests = beat_and_rest(&space, "idle").await;
    eventually("five seconds of beats alone", LONG, async || {
        let now = beat_and_rest(&space, "idle").await;
        if now.1 != rests.1 {
            rests = now.clone();
        }
        (now.0.duration_since(rests.0).as_secs() >= 5).then_some(())
    })
    .await;
    // The log is read once, at the end: that takes seconds on a busy machine.
    let (began, from) = (bellwether::clock::boot_now(), Timestamp::now());
    let (beats, rest) = beat_and_rest(&space, "idle").await;
    let after = eventually("twenty seconds of beats", LONG, async || {
        let (beat, rest) = beat_and_rest(&space, "idle").await;
        (beat.duration_since(beats).as_secs() >= 20).then_some(rest)
    })
    .await;
    assert_eq!(after, rest, "nothing but beats");
    let (took, until) =
        (bellwether::clock::boot_now().since(began).as_secs_f64(), Timestamp::now());
    let mut all = space.writes();
    all.retain(|it| (from..until).contains(&it.received.parse::<Timestamp>().unwrap()));
    let mut writes = BTreeMap::<_, u32>::new();
    for write in all {
        *writes.entry((write.verb, write.name, write.code)).or_default() += 1;
    }
    let rate = f64::from(writes.values().sum::<u32>()) / took;
    println!("{rate:.2} writes a second: {writes:?}");
    let of = |verb: &str| -> f64 {
        writes.iter().filter(|((of, ..), _)| of == verb).map(|(_, n)| f64::from(*n)).sum()
    };
    // A beat each second, and renewals a sixth of the TTL apart at least, also when answers are late.
    assert!(of("update") <= took + 2.0, "{writes:?} in {took} s");
    assert!(of("patch") <= 3.0 * (took / (10.0 / 6.0) + 1.0), "{writes:?} in {took} s");
    assert!(of("create") + of("delete") < 1.0, "{writes:?}");
    for node in nodes {
        node.close().await.unwrap();
    }
    let left = leases(&space).list(&ListParams::default()).await.unwrap();
    let left: Vec<_> = left.items.iter().filter_map(|it| it.metadata.name.clone()).collect();
    assert_eq!(left, ["idle"], "no Lease of an incarnation is left");
}
