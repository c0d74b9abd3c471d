//! The table of permissions: used by the binary, documented, and granted by the chart.

use std::{collections::BTreeSet, path::Path, process::Command, time::Duration};

use bellwether::{k8s::k8s_openapi::api::rbac::v1::PolicyRule, operator::uptime::crd::State};
use rustix::process::Signal;

use crate::{
    binary::{Process, bellwether, ended},
    controllers::{install, server},
    kube::{ApiServer, Right, Space, User, rights_of, rule},
    processes::{Pods, state},
    support::{eventually, tools},
};

const LONG: Duration = Duration::from_secs(120);

/// Right that is used only where the server does not stream lists.
const LISTED: (&str, &str) = ("uptimechecks", "list");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Rights in the first table of `docs/rbac.md`: those of a node whose cluster is kept in etcd.
pub(crate) fn documented() -> BTreeSet<Right> {
    tables().0
}

/// Rights that the store in Kubernetes needs in addition: the second table of `docs/rbac.md`.
fn documented_of_store() -> BTreeSet<Right> {
    tables().1
}

fn tables() -> (BTreeSet<Right>, BTreeSet<Right>) {
    let text = std::fs::read_to_string(root().join("docs/rbac.md")).unwrap();
    let (tables, _) = text.split_once("All of it in the namespace").unwrap();
    let (every, of_store) = tables.split_once("If the cluster is kept in Kubernetes").unwrap();
    (rights_in(every), rights_in(of_store))
}

fn rights_in(table: &str) -> BTreeSet<Right> {
    let rows = table.lines().filter(|line| line.contains("| `"));
    let cell = |it: &str| match it.trim().trim_matches('`') {
        "core" => String::new(),
        other => other.to_owned(),
    };
    rows.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
        (cell(cells[0]), cell(cells[1]), cell(cells[2]))
    })
    .collect()
}

/// The documented rights, as rules.
pub(crate) fn documented_rules() -> Vec<PolicyRule> {
    documented().iter().map(|(group, resource, verb)| rule(group, resource, &[verb])).collect()
}

/// The value that makes etcd the chart's store.
const ETCD: &str = "etcd.endpoints={http://etcd}";

/// The chart's roles of that kind, with these values: names and rules.
fn roles(kind: &str, values: &[&str]) -> Vec<(String, Vec<PolicyRule>)> {
    let mut helm = Command::new(tools::program("helm", "helm"));
    helm.args(["template", "shop", "charts/bellwether"]).current_dir(root());
    for value in values {
        helm.args(["--set", value]);
    }
    let output = helm.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut found = Vec::new();
    for document in text.split("\n---") {
        let document = document.trim_start_matches("---");
        let object: serde_json::Value = serde_saphyr::from_str(document).unwrap();
        if object["kind"] == kind {
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            found.push((name, serde_json::from_value(object["rules"].clone()).unwrap()));
        }
    }
    found
}

/// Rules in the roles of that kind for the nodes. The others are for the pod of `helm test`, and for users.
fn rules_of_nodes(kind: &str, values: &[&str]) -> Vec<PolicyRule> {
    let of_others = ["-check", "-view", "-edit"];
    let mut of_nodes = roles(kind, values);
    of_nodes.retain(|(name, _)| !of_others.iter().any(|it| name.ends_with(it)));
    of_nodes.into_iter().flat_map(|(_, rules)| rules).collect()
}

/// Rights that the roles of that kind grant to the nodes.
fn charted(kind: &str, values: &[&str]) -> BTreeSet<Right> {
    rights_of(&rules_of_nodes(kind, values))
}

/// Rules of the chart for the pod of `helm test`, whose cluster is kept in etcd.
pub(crate) fn charted_check() -> Vec<PolicyRule> {
    rules_of_check(&[ETCD])
}

fn rules_of_check(values: &[&str]) -> Vec<PolicyRule> {
    let found = roles("Role", values).into_iter().find(|(name, _)| name.ends_with("-check"));
    found.expect("the chart has a role for it").1
}

fn of_resources(rights: &BTreeSet<Right>, resources: &[&str]) -> BTreeSet<Right> {
    rights.iter().filter(|it| resources.contains(&it.1.as_str())).cloned().collect()
}

#[test]
fn the_charts_roles_are_the_documented_permissions() {
    let in_kubernetes = documented().union(&documented_of_store()).cloned().collect();
    for (store, all) in [(&[ETCD][..], documented()), (&[], in_kubernetes)] {
        assert_eq!(charted("Role", store), all);
        assert_eq!(charted("ClusterRole", store), BTreeSet::new());

        let wide = of_resources(&all, &["uptimechecks", "uptimechecks/status", "events"]);
        let own =
            of_resources(&all, &["elections", "elections/status", "pods", "events", "leases"]);
        let values = [store, &["watch.allNamespaces=true"]].concat();
        assert_eq!(charted("ClusterRole", &values), wide);
        assert_eq!(charted("Role", &values), own);
    }
}

/// A node of the cluster `shop`, kept in Kubernetes, that does no other work there.
fn node_in_kubernetes(space: &Space<'_>, user: &User, id: &str) -> Process {
    let mut command = bellwether(["run", "--store", "kubernetes", "--kubernetes", "off"]);
    command
        .args(["--cluster", "shop", "--id", id, "--listen", "127.0.0.1:0", "--ttl", "2s"])
        .env("BELLWETHER_KUBECONFIG", space.api.kubeconfig(&space.name, Some(&user.name)));
    Process::of(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_in_kubernetes_asks_for_the_documented_permissions_and_for_nothing_else() {
    let space = server().await.namespace("rbac-store").await;
    // The chart's own rules, since one of them is for a single name.
    let values = ["clusterName=shop"];
    let mut rules = rules_of_nodes("Role", &values);
    rules.retain(|it| it.resources.as_ref().unwrap() == &["leases"]);
    let user = space.user("bellwether", rules).await;
    let mut first = node_in_kubernetes(&space, &user, "1");
    let holder = |not: &str| {
        let holder =
            space.kubectl(&["get", "lease", "shop", "-o", "jsonpath={.spec.holderIdentity}"]);
        (!holder.is_empty() && holder != not).then_some(holder)
    };
    eventually("the Lease of the cluster exists", LONG, async || {
        let leases = space.kubectl(&["get", "leases", "-o", "name"]);
        leases.contains("/shop\n").then_some(())
    })
    .await;
    let leader = eventually("a node leads", LONG, async || holder("")).await;
    let _second = node_in_kubernetes(&space, &user, "2");
    let count = || {
        let all = ["get", "leases", "-l", "bellwether.dev/cluster=shop", "-o", "name"];
        space.kubectl(&all).lines().count()
    };
    eventually("both nodes have a Lease", LONG, async || (count() == 2).then_some(())).await;

    // The rights of the pod of `helm test` suffice to ask for the leader.
    let test = space.user("helm-test", rules_of_check(&values)).await;
    let mut status = bellwether(["leader", "--store", "kubernetes", "--cluster", "shop"]);
    status.env("BELLWETHER_KUBECONFIG", space.api.kubeconfig(&space.name, Some(&test.name)));
    let status = ended(status);
    assert_eq!(status.code, 0, "{}", status.err);
    assert_eq!(space.refused(&test), BTreeSet::new(), "a rule of the test is missing");

    // The other node deletes the Lease of the killed one, and takes over.
    first.signal(Signal::KILL);
    first.status().await;
    eventually("the other node leads", LONG, async || holder(&leader)).await;
    eventually("one Lease is left", LONG, async || (count() == 1).then_some(())).await;
    assert_eq!(space.refused(&user), BTreeSet::new(), "a rule is missing");
    assert_eq!(space.used(&user), documented_of_store(), "left: used, right: documented");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_binary_asks_for_the_documented_permissions_and_for_nothing_else() {
    let pods = Pods::new("rbac").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut first = pods.start(0).await;
    let election = pods.leader(None).await;
    let leader = election.status.unwrap().leader.unwrap().pod.unwrap();
    pods.is_labelled(&leader).await;
    let _second = pods.start(1).await;
    pods.check("flapping", port).await;
    pods.until("flapping", "is up", |it| state(it) == State::Up).await;

    // The successor removes a killed leader's label; a node that comes and goes again is recorded as a series
    // of events.
    first.signal(Signal::KILL);
    first.status().await;
    pods.leader(Some(&leader)).await;
    let mut listener = Some(listener);
    eventually("an event is counted in a series", LONG, async || {
        if listener.is_some() {
            listener = None;
            pods.until("flapping", "is down", |it| state(it) == State::Down).await;
        } else {
            listener = Some(tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap());
            pods.until("flapping", "is up", |it| state(it) == State::Up).await;
        }
        let used = pods.space.used(&pods.user);
        used.iter().any(|it| it.1 == "events" && it.2 == "patch").then_some(())
    })
    .await;

    assert_eq!(pods.space.refused(&pods.user), BTreeSet::new(), "a rule is missing");
    let used = pods.space.used(&pods.user);
    let mut idle = documented();
    // This server streams lists of checks; the next test uses a server that does not.
    idle.retain(|right| !used.contains(right) && (right.1.as_str(), right.2.as_str()) != LISTED);
    assert_eq!(idle, BTreeSet::new(), "a rule is superfluous");
    assert!(used.is_subset(&documented()), "{used:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_lists_are_not_streamed_checks_are_listed_and_that_takes_the_right_to_list() {
    let api = ApiServer::options().flag("--feature-gates=WatchList=false").start().await;
    install(&api).await;
    let space = api.namespace("old").await;
    let user = space.user("bellwether", documented_rules()).await;
    let mut command = bellwether(["run", "--standalone", "--kubernetes", "on"]);
    command
        .env("BELLWETHER_LISTEN", "127.0.0.1:0")
        .env("BELLWETHER_KUBECONFIG", api.kubeconfig(&space.name, Some(&user.name)));
    let _process = Process::of(command);
    eventually("the checks are listed", LONG, async || {
        let used = space.used(&user);
        used.iter().any(|it| (it.1.as_str(), it.2.as_str()) == LISTED).then_some(())
    })
    .await;
}
