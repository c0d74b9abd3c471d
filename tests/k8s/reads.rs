//! Commands that read a cluster's state through the API server, with kubectl's access only.

use std::{process::Output, time::Duration};

use serde_json::Value;

use crate::{
    binary::bellwether,
    kube::{User, rule},
    processes::Pods,
    rbac::charted_check,
    support::eventually,
};

const LONG: Duration = Duration::from_secs(120);

/// Runs a command as a user who has a kubeconfig, and no access to etcd.
fn asked(pods: &Pods, user: &User, args: &[&str]) -> Output {
    let mut command = bellwether(args);
    command
        .env("BELLWETHER_CLUSTER", "shop")
        .env("BELLWETHER_ETCD", "http://127.0.0.1:1")
        .env("KUBECONFIG", pods.space.api.kubeconfig(&pods.space.name, Some(&user.name)));
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&text(output)).unwrap()
}

/// Exit code and error output of a failed command.
fn failed(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_kubectls_access_alone_the_commands_read_the_election() {
    let pods = Pods::new("reads").await;
    let viewer = pods.space.user("viewer", [rule("bellwether.dev", "elections", &["get"])]).await;
    let nobody = pods.space.user("nobody", []).await;

    // Before the first election no leader is known.
    let (code, said) = failed(&asked(&pods, &viewer, &["leader", "--from", "election"]));
    assert!(code == Some(3) && said.contains("kubectl get elections -A"), "{code:?} {said}");

    let _first = pods.start(0).await;
    let leader = pods.leader(None).await.status.unwrap().leader.unwrap();
    assert_eq!(leader.node, 0);
    let _second = pods.start(1).await;
    let status = eventually("both nodes are told, and all shards", LONG, async || {
        let status = json(&asked(&pods, &viewer, &["status", "--from", "election", "-o", "json"]));
        let counts = &status["work_counts"][0];
        (status["nodes"].as_array()?.len() == 2 && counts["held"] == counts["shards"])
            .then_some(status)
    })
    .await;
    assert_eq!(status["leader"]["id"], "0");
    assert_eq!(status["election"]["name"], "shop");
    assert_eq!(status["election"]["namespace"], pods.space.name.as_str());

    let table = text(&asked(&pods, &viewer, &["status", "--from", "election"]));
    let head = format!("cluster shop   election {}/shop, reported ", pods.space.name);
    assert!(table.starts_with(&head) && table.contains("leader 0 at 127.0.0.1:"), "{table}");
    let nodes = text(&asked(&pods, &viewer, &["nodes", "--from", "election"]));
    assert!(nodes.contains("Leader") && nodes.contains("Follower"), "{nodes}");
    let leads = text(&asked(&pods, &viewer, &["leader", "--from", "election"]));
    assert!(leads.starts_with("leader 0 at "), "{leads}");
    let shards = text(&asked(&pods, &viewer, &["shards", "--from", "election"]));
    assert!(shards.contains("256"), "{shards}");
    let (code, said) = failed(&asked(&pods, &viewer, &["shards", "uptime", "--from", "election"]));
    assert!(code == Some(3) && said.contains("single shards"), "{code:?} {said}");

    // A user without the right sees which rule is missing; a command that writes is rejected.
    let (code, said) = failed(&asked(&pods, &nobody, &["status", "--from", "election"]));
    assert!(code == Some(5) && said.contains("elections"), "{code:?} {said}");
    let (code, said) = failed(&asked(&pods, &viewer, &["resign", "--from", "election"]));
    assert!(code == Some(2) && said.contains("only be looked at"), "{code:?} {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_looks_at_etcd_the_leader_the_api_server_and_its_kinds() {
    let pods = Pods::new("check-all").await;
    let check = |api: &crate::kube::ApiServer, user: Option<&str>| {
        let mut command = bellwether(["check", "--kubernetes", "on", "-o", "json"]);
        command
            .env("BELLWETHER_CLUSTER", "shop")
            .env("BELLWETHER_ETCD", pods.etcd.endpoint(0))
            .env("KUBECONFIG", api.kubeconfig(&pods.space.name, user));
        command.output().unwrap()
    };
    let verdict = |findings: &Value, what: &str| {
        let findings = findings.as_array().unwrap();
        let found = findings.iter().find(|it| it["what"] == what);
        found.map(|it| it["verdict"].as_str().unwrap().to_owned())
    };
    let api = pods.space.api;
    let helm_test = pods.space.user("helm-test", charted_check()).await;
    let own = Some(helm_test.name.as_str());

    let before = check(api, own);
    let findings: Value = serde_json::from_slice(&before.stdout).unwrap();
    assert_eq!(before.status.code(), Some(8));
    assert_eq!(verdict(&findings, "crds").as_deref(), Some("ok"));
    assert_eq!(verdict(&findings, "election").as_deref(), Some("failed"));

    let _first = pods.start(0).await;
    pods.leader(None).await;
    eventually("all is well, with the rights that the chart gives its test", LONG, async || {
        let output = check(api, own);
        let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
        let all = ["etcd", "apiserver", "crds", "election", "leader", "nodes"];
        let fine = all.iter().all(|what| verdict(&findings, what).as_deref() == Some("ok"));
        (fine && output.status.success()).then_some(())
    })
    .await;

    // A server without our kinds, and an address where no server runs.
    let bare = crate::kube::ApiServer::options().start().await;
    let output = check(&bare, None);
    let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(8));
    assert_eq!(verdict(&findings, "crds").as_deref(), Some("failed"));
    assert!(findings.to_string().contains("bellwether print crds | kubectl apply"), "{findings}");
    bare.kill();
    let (code, said) = failed(&check(&bare, None));
    assert_eq!(code, Some(4), "{said}");
}
