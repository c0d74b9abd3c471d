//! The store on Kubernetes where the API server refuses: overload, credentials that have expired, a namespace that is
//! being deleted, missing rights. Each time the nodes name the problem and its remedy, ask seldom, and keep what was
//! acknowledged.

use std::{fs, path::Path, sync::Arc, time::Duration};

use bellwether::{
    clock,
    engine::{BootTime, NodeId, Role},
    k8s::{
        client::ClientOptions,
        k8s_openapi::api::core::v1::{Namespace, Secret},
        kube::{
            Api, Client,
            api::{DeleteParams, ListParams},
        },
        store::KubernetesConfig,
    },
    node::{ClusterNode, Node as _},
    tasks,
};
use rustix::process::Signal;

use crate::{
    binary::{Process, bellwether},
    front::{Front, Illness},
    kube::{ApiServer, User, rule},
    store::{LONG, VERBS, leases, node, spec, until_role},
    support::eventually,
};

/// A node that asks the API server through this kubeconfig. Not started.
fn node_through(kubeconfig: &Path, id: i64) -> Arc<ClusterNode> {
    let options = ClientOptions::default().kubeconfig(kubeconfig);
    let config = KubernetesConfig::new().client(options).identity(format!("pod-{id}"));
    Arc::new(ClusterNode::builder().cluster("shop").id(id).kubernetes(config).build().unwrap())
}

/// Two nodes behind the proxy, one of which leads.
async fn two_nodes(kubeconfig: &Path) -> [Arc<ClusterNode>; 2] {
    let nodes = [1, 2].map(|id| node_through(kubeconfig, id));
    for node in &nodes {
        node.start().await.unwrap();
    }
    until_one_acts(&nodes).await;
    nodes
}

/// Waits until all nodes have joined, one leads, and the store serves all of them.
async fn until_one_acts(nodes: &[Arc<ClusterNode>]) {
    eventually("a leader that acts", LONG, async || {
        let mut acts = 0;
        for node in nodes {
            let left = node.vitals().await.unwrap().authority_left;
            acts += usize::from(left.is_some_and(|left| !left.is_zero()));
            let joined = node.membership().borrow().joined;
            (joined && node.status().await.unwrap().store.healthy).then_some(())?;
        }
        (acts == 1).then_some(())
    })
    .await;
}

async fn problem_of(node: &ClusterNode) -> Option<String> {
    node.status().await.unwrap().store.problem
}

/// Puts keys one after the other, and returns those that were acknowledged.
async fn put_until(node: &ClusterNode, name: &str, until: impl Fn() -> bool) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        let key = format!("{name}-{number}");
        if node.put(&key, b"v").await.is_ok() {
            acknowledged.push(key);
        }
        if until() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    acknowledged
}

async fn assert_all_there(node: &ClusterNode, acknowledged: &[String]) {
    for key in acknowledged {
        assert_eq!(node.get(key).await.unwrap().as_deref(), Some(&b"v"[..]), "{key}");
    }
}

/// Requests a second since then.
fn rate(requests: usize, since: BootTime) -> f64 {
    f64::from(u32::try_from(requests).unwrap()) / clock::boot_now().since(since).as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_of_429s_is_asked_about_seldom_and_loses_nothing() {
    let space = ApiServer::shared().await.namespace("throttled").await;
    let front = Front::before(space.client()).await;
    let nodes = two_nodes(&front.kubeconfig(&space)).await;
    let mut acknowledged = put_until(&nodes[0], "before", || true).await;
    assert_eq!(acknowledged.len(), 1);
    front.falls_ill(Illness {
        code: 429,
        retry_after: Some(1),
        meant: |_, uri| uri.path().contains("/leases"),
    });
    let began = clock::boot_now();
    let minute = || Duration::from_secs(60) <= clock::boot_now().since(began);
    acknowledged.extend(put_until(&nodes[0], "during", minute).await);
    let given = front.given().len();
    let asked = rate(given, began);
    println!("{asked:.1} requests a second were answered with 429, {} puts", acknowledged.len());
    for node in &nodes {
        let said = problem_of(node).await.expect("the store has a problem");
        assert!(said.contains("the server is ill") && said.contains("FlowSchema"), "{said}");
        let left = node.vitals().await.unwrap().authority_left;
        assert!(left.is_none_or(|left| left.is_zero()), "it acts");
    }
    assert!(asked < 40.0, "{asked} requests a second");
    front.recovers();
    until_one_acts(&nodes).await;
    acknowledged.extend(put_until(&nodes[0], "after", || true).await);
    assert!(acknowledged.last().unwrap().starts_with("after"), "{acknowledged:?}");
    assert_all_there(&nodes[0], &acknowledged).await;
    assert!(nodes.iter().all(|node| !node.membership().borrow().broken));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_watch_is_served_by_a_server_that_is_behind_deposes_nobody() {
    let space = ApiServer::shared().await.namespace("behind").await;
    let leader = node(&space, "shop", 1).await;
    until_role(&leader, Role::Leader).await;
    let front = Front::before(space.client()).await;
    let follower = node_through(&front.kubeconfig(&space), 2);
    follower.start().await.unwrap();
    until_role(&follower, Role::Follower).await;
    let term = leader.membership().borrow().term;
    let renewed = async || spec(&space, "shop").await.renew_time.unwrap().0;
    front.holds_watches(true);
    let since = renewed().await;
    leader.put("new", b"v").await.unwrap();
    let read = follower.get_as_node(NodeId::new(1).unwrap(), "new").await.unwrap();
    assert_eq!(read.as_deref(), Some(&b"v"[..]), "what the watch has not delivered");
    // Three times as long as a silent leader is waited for.
    eventually("the leader beats on", LONG, async || {
        assert_eq!(follower.membership().borrow().role, Role::Follower);
        (renewed().await.duration_since(since).as_secs() > 16).then_some(())
    })
    .await;
    // The old events come after the newer reads.
    front.holds_watches(false);
    let since = renewed().await;
    eventually("the leader beats on", LONG, async || {
        assert_eq!(follower.membership().borrow().role, Role::Follower);
        (renewed().await.duration_since(since).as_secs() > 6).then_some(())
    })
    .await;
    assert_eq!(
        (leader.membership().borrow().term, follower.membership().borrow().sessions_lost),
        (term, 0)
    );
    leader.close().await.unwrap();
    until_role(&follower, Role::Leader).await;
    follower.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_has_expired_is_named_and_the_next_one_is_taken_up() {
    let space = ApiServer::shared().await.namespace("token").await;
    let name = format!("system:serviceaccount:{}:default", space.name);
    let account = User { name, config: space.api.config() };
    space.grant(&account, "node", [rule("coordination.k8s.io", "leases", &VERBS)]).await;
    let (first, second) = (space.bound_token("first").await, space.bound_token("second").await);
    let file = space.api.folder().join(format!("{}.token", space.name));
    fs::write(&file, first).unwrap();
    // The proxy passes on the credentials of each request, and counts.
    let front = Front::before(Client::try_from(space.api.config()).unwrap()).await;
    let kubeconfig = front.kubeconfig(&space);
    let text = fs::read_to_string(&kubeconfig).unwrap();
    let with_token =
        text.replace("user: {}", &format!("user: {{tokenFile: {:?}}}", file.display().to_string()));
    assert_ne!(text, with_token);
    fs::write(&kubeconfig, with_token).unwrap();
    let nodes = two_nodes(&kubeconfig).await;
    let acknowledged = put_until(&nodes[0], "before", || true).await;

    Api::<Secret>::default_namespaced(space.client())
        .delete("first", &DeleteParams::default())
        .await
        .unwrap();
    for node in &nodes {
        let said = eventually("the refusal is told", LONG, async || problem_of(node).await).await;
        assert!(
            said.contains("does not know who is asking") && said.contains("has expired"),
            "{said}"
        );
    }
    let (before, began) = (front.received(), clock::boot_now());
    eventually("nobody acts", LONG, async || {
        for node in &nodes {
            let left = node.vitals().await.unwrap().authority_left;
            left.is_none_or(|left| left.is_zero()).then_some(())?;
        }
        (Duration::from_secs(15) <= clock::boot_now().since(began)).then_some(())
    })
    .await;
    let asked = rate(front.received() - before, began);
    println!("{asked:.1} requests a second were answered with 401");
    assert!(asked < 40.0, "{asked} requests a second");

    fs::write(&file, second).unwrap();
    // A token file is read again once a minute.
    until_one_acts(&nodes).await;
    nodes[0].put("after", b"v").await.unwrap();
    assert_all_there(&nodes[0], &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_being_deleted_takes_no_new_node_and_ends_the_others() {
    let space = ApiServer::shared().await.namespace("ending").await;
    let kubeconfig = space.api.kubeconfig(&space.name, None);
    let first = node_through(&kubeconfig, 1);
    first.start().await.unwrap();
    until_role(&first, Role::Leader).await;
    first.put("before", b"v").await.unwrap();
    let all = Api::<Namespace>::all(space.api.client());
    all.delete(&space.name, &DeleteParams::default()).await.unwrap();
    // Objects that exist can be written.
    first.put("during", b"v").await.unwrap();
    let acknowledged = ["before", "during"].map(str::to_owned);
    assert_all_there(&first, &acknowledged).await;
    let second = node_through(&kubeconfig, 2);
    let starting = Arc::clone(&second);
    let starting = tasks::spawn("start", async move { starting.start().await });
    let is_said = async |node: &ClusterNode| {
        let problem = problem_of(node).await;
        problem.filter(|it| it.contains("because it is being terminated"))
    };
    eventually("the new node says it", LONG, async || is_said(&second).await).await;
    assert_eq!(first.membership().borrow().role, Role::Leader);

    // The namespace's controller deletes what is in it.
    let (none, list) = (DeleteParams::default(), ListParams::default());
    leases(&space).delete_collection(&none, &list).await.unwrap();
    eventually("the leader says it", LONG, async || is_said(&first).await).await;
    let (before, began) = (space.writes().len(), clock::boot_now());
    eventually("it does not act", LONG, async || {
        let left = first.vitals().await.unwrap().authority_left;
        let is_over = Duration::from_secs(10) <= clock::boot_now().since(began);
        (is_over && left.is_none_or(|left| left.is_zero())).then_some(())
    })
    .await;
    let asked = rate(space.writes().len() - before, began);
    println!("{asked:.1} writes a second in a namespace that is being deleted");
    assert!(asked < 40.0, "{asked} writes a second");
    // A node that has nothing to give back leaves cleanly; none waits for an end of this.
    let _ = first.close().await;
    let _ = second.close().await;
    starting.await.unwrap().unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_right_names_it_and_neither_spins_nor_harms_the_others() {
    let space = ApiServer::shared().await.namespace("lacking").await;
    let whole = node(&space, "shop", 1).await;
    until_role(&whole, Role::Leader).await;
    whole.put("kept", b"v").await.unwrap();
    let term = whole.membership().borrow().term;
    let mut lacking = Vec::new();
    for (id, missing) in (2..).zip(VERBS) {
        let verbs: Vec<_> = VERBS.into_iter().filter(|verb| *verb != missing).collect();
        let user = space.user(missing, [rule("coordination.k8s.io", "leases", &verbs)]).await;
        let kubeconfig = space.api.kubeconfig(&space.name, Some(&user.name));
        let mut command = bellwether(["run", "--store", "kubernetes", "--kubernetes", "off"]);
        command
            .args(["--cluster", "shop", "--listen", "127.0.0.1:0", "--id", &id.to_string()])
            .arg("--kubeconfig")
            .arg(kubeconfig);
        lacking.push((missing, user, Process::of(command), clock::boot_now()));
    }
    for (missing, user, process, began) in &mut lacking {
        if *missing == "delete" {
            // The right is needed at the end.
            process.says("joined the cluster").await;
            process.signal(Signal::TERM);
        }
        let said = process.says(&format!("may not {missing} leases")).await;
        assert!(said.contains("of API group coordination.k8s.io"), "{said}");
        // In a field of the log, quotation marks are escaped.
        let log = process.err().replace('\\', "");
        assert!(log.contains("add to a Role in namespace") && log.contains(&user.name), "{log}");
        assert!(log.contains(&format!("verbs: [\"{missing}\"]")), "{log}");
        let most = Duration::from_secs(20);
        eventually("twenty seconds", LONG, async || {
            (most <= clock::boot_now().since(*began)).then_some(())
        })
        .await;
        let asked = rate(space.asked(user).len(), *began);
        println!("without {missing}: {asked:.1} requests a second");
        assert!(asked < 10.0, "without {missing}: {asked} requests a second");
    }
    let codes = async |process: &mut Process| process.status().await.code();
    for (missing, _, process, _) in &mut lacking {
        match *missing {
            // No use in waiting.
            "get" => assert_eq!(codes(process).await, Some(5)),
            // The Lease of the node is left for another node.
            "delete" => assert_eq!(codes(process).await, Some(0)),
            _ => {}
        }
    }
    assert_eq!(
        (whole.membership().borrow().role, whole.membership().borrow().term),
        (Role::Leader, term)
    );
    assert_eq!(whole.get("kept").await.unwrap().as_deref(), Some(&b"v"[..]));
    drop(lacking);
    whole.close().await.unwrap();
}
