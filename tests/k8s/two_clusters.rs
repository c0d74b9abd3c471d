//! Two clusters that see one namespace, as two releases of the chart in it.

use bellwether::k8s::kube::{Api, api::PostParams};
use bellwether::operator::uptime::crd::UptimeCheck;
use serde_json::{Value, from_value, json};

use crate::{
    badinput::LONG,
    binary::{Process, bellwether},
    controllers::server,
    kube::{Space, named},
    support::eventually,
};

/// A cluster of one node, which needs no etcd.
fn cluster(space: &Space<'_>, name: &str, selector: Option<&str>) -> Process {
    let mut command = bellwether(["run", "--standalone", "--listen", "127.0.0.1:0"]);
    command
        .env("BELLWETHER_CLUSTER", name)
        .env("BELLWETHER_KUBERNETES", "on")
        .env("BELLWETHER_KUBECONFIG", space.api.kubeconfig(&space.name, None))
        .envs(selector.map(|it| ("BELLWETHER_SELECTOR", it)));
    Process::of(command)
}

async fn check(space: &Space<'_>, name: &str, labels: Value) {
    let mut check: UptimeCheck = from_value(json!({
        "apiVersion": "bellwether.dev/v1alpha1",
        "kind": "UptimeCheck",
        "metadata": {},
        "spec": { "interval": "1s", "target": { "tcp": { "host": "127.0.0.1", "port": 1 } } },
    }))
    .unwrap();
    check.metadata = named(name);
    check.metadata.labels = from_value(labels).unwrap();
    let checks = Api::<UptimeCheck>::default_namespaced(space.client());
    checks.create(&PostParams::default(), &check).await.unwrap();
}

/// The cluster that wrote the status of a check, once one has.
async fn writer(space: &Space<'_>, name: &str) -> String {
    let checks = Api::<UptimeCheck>::default_namespaced(space.client());
    eventually(&format!("the status of {name} is written"), LONG, async || {
        checks.get(name).await.unwrap().status?.cluster
    })
    .await
}

fn warnings(space: &Space<'_>) -> String {
    let columns = "--output=custom-columns=R:.reason,T:.type,O:.regarding.name,M:.message";
    let events = space.kubectl(&["get", "events", columns]);
    events.lines().filter(|it| it.contains("TwoClusters")).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_that_selectors_part_run_their_own_checks_and_those_of_no_selector_are_warned() {
    let space = server().await.namespace("two-clusters").await;
    for team in ["a", "b"] {
        check(&space, team, json!({ "team": team })).await;
    }
    let parted = ["a", "b"].map(|team| {
        let selector = format!("team={team}");
        cluster(&space, &format!("of-{team}"), Some(&selector))
    });
    for team in ["a", "b"] {
        assert_eq!(writer(&space, team).await, format!("{}/of-{team}", space.name));
    }
    check(&space, "later", json!({ "team": "b" })).await;
    assert_eq!(writer(&space, "later").await, format!("{}/of-b", space.name));
    assert_eq!(warnings(&space), "");

    // A third cluster runs all checks.
    let _all = cluster(&space, "of-all", None);
    eventually("a warning names both", LONG, async || {
        let warnings = warnings(&space);
        let names = |team: &str| {
            let clusters = [format!("{}/of-{team}", space.name), format!("{}/of-all", space.name)];
            warnings.lines().any(|line| clusters.iter().all(|it| line.contains(it)))
        };
        (names("a") && names("b")).then_some(())
    })
    .await;
    drop(parted);
}
