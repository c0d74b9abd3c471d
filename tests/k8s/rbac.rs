//! The table of permissions: used by the binary, documented, and granted by the chart.

use std::{collections::BTreeSet, path::Path, process::Command, time::Duration};

use bellwether::{k8s::k8s_openapi::api::rbac::v1::PolicyRule, operator::uptime::crd::State};
use rustix::process::Signal;

use crate::{
    binary::{Process, bellwether},
    controllers::install,
    kube::{ApiServer, Right, rights_of, rule},
    processes::{Pods, state},
    support::{eventually, tools},
};

const LONG: Duration = Duration::from_secs(120);

/// Right that is used only where the server does not stream lists.
const LISTED: (&str, &str) = ("uptimechecks", "list");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Rights in the first table of `docs/rbac.md`.
pub(crate) fn documented() -> BTreeSet<Right> {
    let text = std::fs::read_to_string(root().join("docs/rbac.md")).unwrap();
    let (table, _) = text.split_once("All of it in the namespace").unwrap();
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

/// The chart's roles of that kind, with these values: names and rules.
fn roles(kind: &str, values: &[&str]) -> Vec<(String, Vec<PolicyRule>)> {
    let mut helm = Command::new(tools::program("helm", "helm"));
    helm.args(["template", "shop", "charts/bellwether", "--set", "etcd.endpoints={http://etcd}"])
        .current_dir(root());
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

/// Rights that the roles of that kind grant to the nodes.
fn charted(kind: &str, values: &[&str]) -> BTreeSet<Right> {
    let of_nodes = roles(kind, values).into_iter().filter(|(name, _)| !name.ends_with("-check"));
    of_nodes.flat_map(|(_, rules)| rights_of(&rules)).collect()
}

/// Rights that the chart grants to the pod of `helm test`.
pub(crate) fn charted_check() -> Vec<PolicyRule> {
    let found = roles("Role", &[]).into_iter().find(|(name, _)| name.ends_with("-check"));
    found.expect("the chart has a role for it").1
}

fn of_resources(rights: &BTreeSet<Right>, resources: &[&str]) -> BTreeSet<Right> {
    rights.iter().filter(|it| resources.contains(&it.1.as_str())).cloned().collect()
}

#[test]
fn the_charts_roles_are_the_documented_permissions() {
    let all = documented();
    assert_eq!(charted("Role", &[]), all);
    assert_eq!(charted("ClusterRole", &[]), BTreeSet::new());

    let wide = of_resources(&all, &["uptimechecks", "uptimechecks/status", "events"]);
    let own = of_resources(&all, &["elections", "elections/status", "pods", "events"]);
    assert_eq!(charted("ClusterRole", &["watch.allNamespaces=true"]), wide);
    assert_eq!(charted("Role", &["watch.allNamespaces=true"]), own);
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
