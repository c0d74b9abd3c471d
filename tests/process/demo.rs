//! `demo` and `run --standalone`: the modes that need nothing installed.

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    binary::{LONG, Process, bellwether, ended, http, http_get, run},
    cluster::page,
    support::{eventually, tools},
};

/// URL that the demonstration has printed.
async fn url(process: &Process) -> String {
    eventually("the address of the page", LONG, || async {
        let out = process.out();
        let line = out.lines().find(|it| it.contains("status page"))?.to_owned();
        Some(line.split_whitespace().last()?.trim_end_matches('/').to_owned())
    })
    .await
}

fn status(url: &str) -> Option<Value> {
    let ran = run(["status", "-o", "json", "--url", url]);
    serde_json::from_str(&ran.out).ok()
}

async fn leader(url: &str, not: Option<&str>) -> String {
    eventually("a leader", LONG, || async {
        let status = status(url)?;
        let id = status["leader"]["id"].as_str()?.to_owned();
        (Some(id.as_str()) != not).then_some(id)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_elects_resigns_on_request_survives_a_kill_and_leaves_on_ctrl_c() {
    let mut demo = Process::start(["demo", "--listen", "127.0.0.1:0", "--away", "200ms"]);
    let url = url(&demo).await;
    // The first node leads as soon as it has joined, whether or not the others have.
    eventually("all three nodes", LONG, || async {
        (status(&url)?["nodes"].as_array()?.len() == 3).then_some(())
    })
    .await;
    let first = leader(&url, None).await;
    let resigned = run(["resign", "--url", &url]);
    assert_eq!(resigned.code, 0, "{}", resigned.err);
    let second = leader(&url, Some(&first)).await;
    // The same request as from the page's button.
    let client = post(&url, "kill").await;
    assert!(client.contains(&second), "{client}");
    leader(&url, Some(&second)).await;
    demo.says(&format!("node {second} is killed")).await;
    eventually("it is back", LONG, || async {
        let joined = demo.err().matches(&format!("node {second} has joined")).count();
        (joined == 2).then_some(())
    })
    .await;
    let check = ended(bellwether(["check", "--url", &url]));
    assert_eq!(check.code, 0, "{}{}", check.out, check.err);
    demo.signal(Signal::INT);
    assert_eq!(demo.status().await.code(), Some(0), "{}", demo.err());
}

/// Sends the POST request of an action.
async fn post(url: &str, action: &str) -> String {
    http(
        url,
        &format!("POST /actions/{action}"),
        "x-bellwether-action: test\r\ncontent-length: 0\r\n",
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_node_leads_at_once_without_etcd_and_refuses_actions_unless_allowed() {
    let mut node = Process::start(["run", "--standalone", "--listen", "127.0.0.1:0"]);
    let url = page(&node).await;
    assert_eq!(leader(&url, None).await, "0");
    let resign = run(["resign", "--url", &url]);
    assert_eq!(resign.code, 5, "{}", resign.err);
    node.signal(Signal::TERM);
    assert_eq!(node.status().await.code(), Some(0), "{}", node.err());
}

#[tokio::test(flavor = "multi_thread")]
async fn buttons_work_under_the_host_names_that_are_named_and_under_no_other() {
    let node = Process::start([
        "run",
        "--standalone",
        "--listen",
        "127.0.0.1:0",
        "--allow-actions",
        "--action-host",
        "status.shop.example",
    ]);
    let url = page(&node).await;
    assert_eq!(leader(&url, None).await, "0");
    for (origin, code) in [("ops.shop.example", " 403 "), ("status.shop.example", " 200 ")] {
        let headers = format!(
            "x-bellwether-action: test\r\ncontent-length: 0\r\norigin: https://{origin}\r\n"
        );
        let answer = http(&url, "POST /actions/resign", &headers).await;
        assert!(answer.lines().next().unwrap().contains(code), "{origin}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_ask_no_address_of_a_network_that_is_denied() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let check = format!(
        "apiVersion: bellwether.dev/v1alpha1\nkind: UptimeCheck\nmetadata: {{name: near}}\n\
         spec: {{interval: 1s, target: {{tcp: {{host: 127.0.0.1, port: {port}}}}}}}\n"
    );
    std::fs::write(folder.path().join("near.yaml"), check).unwrap();
    let mut command = bellwether(["run", "--standalone", "--listen", "127.0.0.1:0"]);
    command
        .env("BELLWETHER_CHECKS", folder.path())
        .env("BELLWETHER_DENY_NETWORKS", "10.0.0.0/8,127.0.0.0/8");
    let node = Process::of(command);
    let url = page(&node).await;
    let found = eventually("the check has a result", LONG, || async {
        let status: Value = serde_json::from_str(&http_get(&url, "/status").await).unwrap();
        let check = &status["checks"]["checks"][0];
        let found = [&check["state"], &check["message"]].map(|it| it.as_str().map(str::to_owned));
        check["last_run_unix_ms"].as_u64().map(|_| found.map(Option::unwrap_or_default))
    })
    .await;
    let denied =
        "checks may not ask 127.0.0.1: its network is denied on this node (--deny-network)";
    assert_eq!(found, ["unknown", denied]);
}

/// All metrics of a node with work, not only those of its server.
#[tokio::test(flavor = "multi_thread")]
async fn promtool_has_nothing_to_say_about_the_metrics_of_a_node_that_runs_checks() {
    let checks = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/checks");
    let node =
        Process::start(["run", "--standalone", "--listen", "127.0.0.1:0", "--checks", checks]);
    let url = page(&node).await;
    assert_eq!(leader(&url, None).await, "0");
    let text = eventually("runs of all kinds of checks", LONG, || async {
        let text = http_get(&url, "/metrics").await;
        let ran = |target: &str| {
            text.lines().any(|line| {
                line.starts_with("bellwether_uptime_runs_total{")
                    && line.contains(&format!("target=\"{target}\""))
            })
        };
        ["http", "tcp", "dns"].into_iter().all(ran).then_some(text)
    })
    .await;
    for series in [
        "leader_election_master_status{",
        "bellwether_beat_seconds_bucket{",
        "bellwether_store_calls_total{",
        "bellwether_shards_owned{",
        "bellwether_transitions_total{",
        "bellwether_uptime_checks{",
        "bellwether_http_requests_total{",
        "process_cpu_seconds_total ",
    ] {
        assert!(text.lines().any(|line| line.starts_with(series)), "{series} in\n{text}");
    }
    assert_eq!(tools::promtool_check(&text), (true, String::new()));
}

#[test]
fn a_url_where_no_node_is_answers_with_exit_code_4() {
    let ran = run(["status", "--url", "http://127.0.0.1:9"]);
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(ran.err.contains("http://127.0.0.1:9") && ran.err.contains("--url"), "{}", ran.err);
}
