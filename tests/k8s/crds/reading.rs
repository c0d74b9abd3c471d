//! `kubectl explain`, `get`, `get -o wide`, `describe` and selectors, as an administrator reads them.

use std::time::Duration;

use bellwether::{
    clock,
    k8s::{
        crd::{
            self, Election, ElectionSpec, ElectionStatus, condition,
            election::{ElectionLeader, ElectionNode, ElectionRole, ElectionShards, WorkShards},
            value::{Span, UnixMs},
        },
        k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time},
        kube::{
            Api, Error,
            api::{Patch, PatchParams, PostParams},
        },
    },
    operator::uptime::crd::{State, UptimeCheck, UptimeCheckStatus},
};
use serde_json::json;

use super::{check, space};
use crate::{kube::Space, support::eventually};

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Time far enough in the past that the test's own duration does not change the printed age.
fn ago(ms: u64) -> UnixMs {
    UnixMs(clock::unix_ms() - ms)
}

/// A fixed time: 2026-03-01T12:00:00.123Z.
const THEN: UnixMs = UnixMs(1_772_366_400_123);

fn condition(type_: &str, status: &str, reason: &str, message: &str) -> Condition {
    Condition {
        type_: type_.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: Some(1),
        last_transition_time: Time("2026-03-01T12:00:00Z".parse().unwrap()),
    }
}

/// Cells of a table of kubectl, by the columns of its header; ages that grow are replaced by `(age)`.
fn columns(table: &str) -> Vec<Vec<String>> {
    let mut lines = table.lines();
    let head = lines.next().expect("a head");
    let mut starts = vec![0];
    let bytes = head.as_bytes();
    starts.extend((3..bytes.len()).filter(|&at| &bytes[at - 3..at] == b"   " && bytes[at] != b' '));
    let cells = |line: &str| -> Vec<String> {
        let ends = starts[1..].iter().copied().chain([line.len()]);
        let cell = |(start, end): (&usize, usize)| {
            line.get(*start..end.min(line.len())).unwrap_or_default().trim().to_owned()
        };
        starts.iter().zip(ends).map(cell).collect()
    };
    let mut rows = vec![cells(head)];
    let age = rows[0].iter().position(|it| it == "AGE");
    for line in lines {
        let mut row = cells(line);
        if let Some(age) = age {
            assert!(row[age].ends_with(['s', 'm']), "{row:?}");
            row[age] = "(age)".into();
        }
        rows.push(row);
    }
    rows
}

/// Three checks: one is up, one is down, and one has not run yet.
async fn checks(space: &Space<'_>) {
    let api = Api::<UptimeCheck>::default_namespaced(space.client());
    let shop = json!({"target": {"http": {"url": "https://u:secret@shop.example/?secret"}}});
    let database = json!({"target": {"tcp": {"host": "db", "port": 5432}}, "interval": "1m30s"});
    let new = json!({"target": {"dns": {"name": "shop.example"}}, "interval": "10s"});
    for (name, spec) in [("shop", shop), ("database", database), ("new", new)] {
        space.kubectl_apply(&check(name, &spec).to_string());
    }
    let up = UptimeCheckStatus {
        state: State::Up,
        up: Some(true),
        target: "GET https://shop.example/".into(),
        latency: Some(Span::millis(12)),
        last_change: Some(ago(3 * DAY + 12 * HOUR + 30 * MINUTE)),
        last_run: Some(THEN),
        checked_by: Some("2".into()),
        cluster: Some("sales/shop".into()),
        message: "200 OK".into(),
        observed_generation: Some(1),
        consecutive_failures: 0,
        certificate_expires: Some(THEN),
        conditions: vec![
            condition(condition::ACCEPTED, "True", "Valid", "the spec can be run"),
            condition(condition::UP, "True", "Up", "200 OK"),
        ],
    };
    let down = UptimeCheckStatus {
        state: State::Down,
        up: Some(false),
        target: "tcp db:5432".into(),
        latency: None,
        last_change: Some(ago(9 * HOUR + 30 * MINUTE)),
        checked_by: Some("1".into()),
        message: "connection refused".into(),
        consecutive_failures: 7,
        conditions: vec![condition(condition::ACCEPTED, "False", "Invalid", "spec.expect")],
        ..up.clone()
    };
    for (name, status) in [("shop", up), ("database", down)] {
        let patch = Patch::Merge(json!({"status": status}));
        let made = api.patch_status(name, &PatchParams::default(), &patch).await.unwrap();
        assert_eq!(made.status, Some(status), "the type reads what it wrote");
    }
}

#[tokio::test]
async fn uptime_checks_are_listed_as_a_table_that_tells_what_matters() {
    let space = space("checks").await;
    checks(&space).await;
    let head =
        ["NAME", "STATE", "TARGET", "INTERVAL", "LATENCY", "LAST CHANGE", "CHECKED BY", "ACCEPTED"];
    let table = space.kubectl(&["get", "uptimechecks"]);
    assert!(!table.contains("secret"), "{table}");
    let rows = [
        head,
        ["database", "down", "tcp db:5432", "1m30s", "", "9h", "1", "False"],
        ["new", "", "", "10s", "", "", "", ""],
        ["shop", "up", "GET https://shop.example/", "30s", "12ms", "3d12h", "2", "True"],
    ];
    assert_eq!(columns(&table), rows, "{table}");

    let wide = space.kubectl(&["get", "uc", "-o", "wide"]);
    let added = [
        ["FAILURES", "MESSAGE", "AGE"],
        ["7", "connection refused", "(age)"],
        ["", "", "(age)"],
        ["0", "200 OK", "(age)"],
    ];
    let rows: Vec<Vec<&str>> =
        rows.iter().zip(&added).map(|(row, more)| [&row[..], &more[..]].concat()).collect();
    assert_eq!(columns(&wide), rows, "{wide}");
}

#[tokio::test]
async fn uptime_checks_are_selected_by_state_and_by_node() {
    let space = space("selected").await;
    checks(&space).await;
    for (selector, names) in [
        ("status.state=down", "uptimecheck.bellwether.dev/database\n"),
        ("status.state=up,status.checkedBy=2", "uptimecheck.bellwether.dev/shop\n"),
        ("status.checkedBy=3", ""),
    ] {
        let args = ["get", "uptimechecks", "-o", "name", "--field-selector", selector];
        assert_eq!(space.kubectl(&args), names, "{selector}");
    }
    let args = ["wait", "uc/shop", "--for=condition=Up", "--timeout=10s"];
    assert_eq!(space.kubectl(&args), "uptimecheck.bellwether.dev/shop condition met\n");
    let both = space.kubectl(&["get", "bellwether", "-o", "name"]);
    assert_eq!(both.lines().count(), 3, "{both}");
}

/// Election of three nodes, as its leader writes it.
fn election() -> ElectionStatus {
    let node = |id: i64, role, shards_owned| ElectionNode {
        id,
        pod: Some(format!("shop-{id}")),
        address: format!("10.0.0.{id}:7070"),
        role,
        incarnation: "694d8a3f1c2b4e01".into(),
        shards_owned,
        last_seen: Some(THEN),
    };
    let work =
        WorkShards { work: "uptime".into(), total: 256, owned: 255, draining: 0, unowned: 1 };
    ElectionStatus {
        leader: Some(ElectionLeader {
            node: 1,
            name: "shop-1".into(),
            pod: Some("shop-1".into()),
            address: "10.0.0.1:7070".into(),
        }),
        term: Some(9_007_199_254_740_993),
        fence: Some(9_007_199_254_740_995),
        since: Some(ago(3 * DAY + 12 * HOUR + 30 * MINUTE)),
        node_count: Some(3),
        reported_at: Some(ago(2 * DAY + 12 * HOUR + 30 * MINUTE)),
        nodes: vec![
            node(0, ElectionRole::Follower, 128),
            node(1, ElectionRole::Leader, 0),
            node(i64::MAX, ElectionRole::Follower, 127),
        ],
        shards: Some(ElectionShards {
            total: 256,
            owned: 255,
            draining: 0,
            unowned: 1,
            works: vec![work],
        }),
        summary: Some("13 checks: 12 up, 1 down".into()),
        observed_generation: Some(1),
        conditions: vec![
            condition(condition::READY, "True", "Leading", "shop-1 leads"),
            condition(condition::STABLE, "True", "Quiet", "the leader has not changed lately"),
            condition(condition::SHARDS_OWNED, "False", "Unowned", "1 of 256 shards has no owner"),
        ],
    }
}

async fn elected(space: &Space<'_>, status: &ElectionStatus) -> Api<Election> {
    let api = Api::<Election>::default_namespaced(space.client());
    let spec = ElectionSpec { cluster: "shop".into() };
    api.create(&PostParams::default(), &Election::new("shop", spec)).await.unwrap();
    let patch = Patch::Merge(json!({"status": status}));
    let made = api.patch_status("shop", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(made.status.as_ref(), Some(status), "numbers above 2^53 and all");
    api
}

#[tokio::test]
async fn an_election_is_listed_as_a_table_that_names_the_leader() {
    let space = space("elections").await;
    elected(&space, &election()).await;
    let head = ["NAME", "LEADER", "TERM", "NODES", "READY", "SINCE", "REPORTED", "AGE"];
    let row = ["shop", "shop-1", "9007199254740993", "3", "True", "3d12h", "2d12h", "(age)"];
    let table = space.kubectl(&["get", "elections"]);
    assert_eq!(columns(&table), [head, row], "{table}");

    let wide = space.kubectl(&["get", "el", "-o", "wide"]);
    let more = ["NODE", "ADDRESS", "FENCE", "SHARDS", "UNOWNED", "SUMMARY"];
    let added = ["1", "10.0.0.1:7070", "9007199254740995", "256", "1", "13 checks: 12 up, 1 down"];
    let rows = [[&head[..], &more[..]].concat(), [&row[..], &added[..]].concat()];
    assert_eq!(columns(&wide), rows, "{wide}");
}

#[tokio::test]
async fn an_election_and_a_check_are_described_in_full() {
    let space = space("described").await;
    let status = ElectionStatus { since: Some(THEN), reported_at: Some(THEN), ..election() };
    elected(&space, &status).await;
    checks(&space).await;
    for (what, golden) in
        [("election/shop", "election.txt"), ("uptimecheck/shop", "uptimecheck.txt")]
    {
        let told = space.kubectl(&["describe", what]);
        // Lines that differ from run to run.
        let volatile =
            ["Namespace:", "Creation Timestamp:", "Resource Version:", "UID:", "Last Change:"];
        let kept = |line: &&str| !volatile.iter().any(|it| line.trim_start().starts_with(it));
        let told: Vec<_> = told.lines().filter(kept).map(str::trim_end).collect();
        let told = told.join("\n") + "\n";
        let path = format!("{}/tests/k8s/crds/{golden}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("BELLWETHER_UPDATE").is_some() {
            std::fs::write(&path, &told).unwrap();
        }
        let wanted = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(told, wanted, "BELLWETHER_UPDATE=1 writes tests/k8s/crds/{golden}");
    }
}

#[tokio::test]
async fn a_status_beyond_its_bounds_is_refused() {
    let space = space("bounds").await;
    let api = elected(&space, &election()).await;
    let change = |change: serde_json::Value| Patch::Merge(json!({"status": change}));
    let twice = condition(condition::READY, "True", "Leading", "");
    let nodes: Vec<_> = (0..=crd::election::MOST_NODES as i64)
        .map(|id| ElectionNode { id, ..ElectionNode::default() })
        .collect();
    for (status, says) in [
        (json!({"conditions": [twice, twice]}), "status.conditions[1]: Duplicate value"),
        (json!({"nodes": nodes}), "status.nodes: Too many: 1001: must have at most 1000 items"),
        (json!({"nodes": [{"id": -1}]}), "status.nodes[0].id"),
        (json!({"since": "yesterday"}), "status.since"),
        (json!({"summary": "x".repeat(257)}), "status.summary: Too long"),
    ] {
        match api.patch_status("shop", &PatchParams::default(), &change(status)).await {
            Err(Error::Api(status)) => assert!(status.message.contains(says), "{}", status.message),
            other => panic!("{says}: {other:?}"),
        }
    }
    // A status with the largest number of listed nodes fits.
    let status = json!({"nodes": nodes[..crd::election::MOST_NODES]});
    api.patch_status("shop", &PatchParams::default(), &change(status)).await.unwrap();
}

#[tokio::test]
async fn kubectl_explains_every_field() {
    let space = space("explained").await;
    let explained = async |what: &str| {
        // The server publishes a definition's schema a moment after it serves the resource.
        eventually("the schema is published", Duration::from_secs(60), async || {
            let output = space.try_kubectl(&["explain", what], None);
            output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
        })
        .await
    };
    for (what, lines) in [
        (
            "uptimechecks",
            &[
                "KIND:       UptimeCheck",
                "A target that is asked at a fixed interval",
                "status\t<Object>",
            ][..],
        ),
        (
            "uptimechecks.spec",
            &[
                "target\t<Object> -required-",
                "interval\t<string>",
                "Between the beginnings of two runs",
            ],
        ),
        (
            "uptimechecks.spec.target",
            &["http\t<Object>", "dns\t<Object>", "An HTTP request is answered."],
        ),
        (
            "uptimechecks.spec.target.http",
            &["url\t<string> -required-", "enum: GET, HEAD, OPTIONS", "up to ten of them"],
        ),
        ("uptimechecks.spec.expect", &["status\t<[]Object>", "answerContains\t<string>"]),
        ("uptimechecks.status", &["latency\t<string>", "Whether the target is up"]),
        ("elections.spec.cluster", &["Cannot be changed."]),
        ("elections.status.nodes", &["incarnation\t<string>", "Each restart makes a new one."]),
        ("elections.status.shards.works", &["work\t<string> -required-"]),
    ] {
        let said = explained(what).await;
        // kubectl wraps words where the line ends.
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        for line in lines {
            assert!(words(&said).contains(&words(line)), "{what}: {line:?} in\n{said}");
        }
        assert!(!said.contains("<no description>"), "{what}:\n{said}");
    }
}
