//! A node that behaves as the Go package does (`tests/tools/gonode`), in one cluster with our nodes.
//!
//! A Go node acting alone is as unsafe as ever: it leads while its id is in the oldest candidate key, according
//! to its last received state. Nothing cuts it off in these tests; so no two nodes may ever lead at once.

use std::{
    collections::BTreeMap,
    io::Write as _,
    process::{Command, Stdio},
};

use jiff::Timestamp;
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    binary::{LONG, Process},
    cluster::{Shop, base64},
    support::{eventually, tools},
};

/// Tick of both kinds of nodes: a Go node leaves a cluster with a different tick.
const TICK: &[&str] = &["--tick", "100ms"];

/// Id of the Go node.
const GO: &str = "5";

/// Bytes that survive only if they are never treated as text: invalid UTF-8, zeros, line ends.
const BYTES: &[u8] = b"\x00\xff\xfe line\r\n\xc3\x28 end\x00";

/// The same bytes, as a command to the Go node carries them.
const BYTES_BASE64: &str = "AP/+IGxpbmUNCsMoIGVuZAA=";

fn go_node(shop: &Shop) -> Process {
    let mut command = Command::new(tools::program("gonode", "gonode"));
    command
        .args(["-etcd", &shop.etcd.endpoint(0), "-cluster", "shop", "-id", GO])
        .args(["-address", "host-5", "-ttl", "2s", "-tick", "100ms"])
        .stdin(Stdio::piped());
    Process::of(command)
}

impl Process {
    /// All events of this kind that a Go node has printed.
    fn events(&self, event: &str) -> Vec<Value> {
        let out = self.out();
        // The last line may be incomplete.
        let lines = out.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let lines = lines.map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines.filter(|line| line["event"] == event).collect()
    }

    /// First event of this kind that satisfies `holds`, once there is one.
    async fn event(&self, event: &str, holds: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("the Go node's {event}; it said {}", self.out()), LONG, async || {
            self.events(event).into_iter().find(|line| holds(line))
        })
        .await
    }

    /// Answer of the Go node to a command.
    async fn answer(&mut self, command: &str) -> Value {
        let event = match command.split(' ').next().unwrap() {
            "watch" => "watching",
            word => word,
        };
        let before = self.events(event).len();
        self.tell(command);
        eventually(&format!("an answer to {command:?}"), LONG, async || {
            let refused = self.events("refused");
            assert_eq!(refused, [] as [Value; 0]);
            self.events(event).into_iter().nth(before)
        })
        .await
    }

    /// Waits until the Go node has taken this role.
    async fn takes(&self, role: &str) {
        self.event("role", |line| line["role"] == role).await;
    }
}

/// Span in which a node led: its id, the beginning and the end.
type Span = (String, Timestamp, Timestamp);

fn time(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Spans in which one of our nodes led. The log says that the leader's work starts after it has taken office,
/// and that it stops before it gives up office.
fn spans_of_ours(id: &str, node: &Process) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut since = None;
    for line in node.err().lines() {
        let at = || time(line.split(' ').next().unwrap());
        if line.contains("leader's work starts") {
            since.get_or_insert_with(at);
        } else if line.contains("leader's work stops") {
            spans.extend(since.take().map(|since| (id.to_owned(), since, at())));
        }
    }
    spans.extend(since.map(|since| (id.to_owned(), since, Timestamp::now())));
    spans
}

/// Spans in which the Go node led: until it printed another role, or the last tick before it was killed.
fn spans_of_go(node: &Process) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut span: Option<(Timestamp, Timestamp)> = None;
    for line in node.out().lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let at = time(line["at"].as_str().unwrap());
        match (line["event"].as_str().unwrap(), line["role"].as_str()) {
            ("role", Some("Leader")) => span = Some((at, at)),
            ("role", _) => spans.extend(span.take().map(|(since, _)| (GO.to_owned(), since, at))),
            ("tick", _) => {
                let span = span.as_mut().expect("only a leader acts");
                span.1 = at;
            }
            _ => (),
        }
    }
    spans.extend(span.map(|(since, last)| (GO.to_owned(), since, last)));
    spans
}

/// Leaders in their order; fails if two nodes led at once.
fn leaders(ours: &BTreeMap<&str, Process>, go: &[&Process]) -> Vec<String> {
    let mut spans: Vec<Span> = ours.iter().flat_map(|(id, it)| spans_of_ours(id, it)).collect();
    spans.extend(go.iter().flat_map(|node| spans_of_go(node)));
    spans.sort_by_key(|(_, since, _)| *since);
    for pair in spans.windows(2) {
        assert!(pair[0].2 <= pair[1].1, "two led at once: {pair:#?}");
    }
    spans.into_iter().map(|(who, ..)| who).collect()
}

/// Go node that leads, and two of our nodes that follow it.
async fn go_leads(shop: &Shop) -> (Process, BTreeMap<&'static str, Process>) {
    let go = go_node(shop);
    go.takes("Leader").await;
    let ours: BTreeMap<&str, Process> = ["1", "2"].map(|id| (id, shop.node(id, TICK))).into();
    for node in ours.values() {
        node.says("role=Follower").await;
    }
    (go, ours)
}

/// Writes a value through our node and reads it at the Go node, and the other way round.
async fn each_reads_what_the_other_writes(shop: &Shop, go: &mut Process, ours: &str) {
    go.answer(&format!("put blob {BYTES_BASE64}")).await;
    let got = shop.command(&["get", "blob", "-n", GO]).output().unwrap();
    assert_eq!(got.stdout, BYTES, "what the Go node wrote: {got:?}");
    let mut put = shop.command(&["put", "blob", "-", "-n", ours]);
    let mut put = put.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    put.stdin.take().unwrap().write_all(BYTES).unwrap();
    assert!(put.wait().unwrap().success());
    let got = go.answer(&format!("get {ours} blob")).await;
    assert_eq!(base64(got["value"].as_str().unwrap()), BYTES, "what one of ours wrote");
    let all = go.answer("cluster blob").await;
    let all: Vec<&str> = all["values"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(all, [ours, GO], "{all:?}");
}

/// State of the cluster as the Go node reads it: the leader, and each node's address and role by its id.
async fn looks(go: &mut Process) -> (i64, BTreeMap<i64, (String, i64)>) {
    let seen = go.answer("look").await;
    let nodes = seen["nodes"].as_array().unwrap().iter().map(|node| {
        let address = node["Address"].as_str().unwrap().to_owned();
        (node["ID"].as_i64().unwrap(), (address, node["Role"].as_i64().unwrap()))
    });
    (seen["leader"].as_i64().unwrap(), nodes.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn ours_follow_a_go_leader_read_it_and_take_over_when_it_stops() {
    let shop = Shop::open().await;
    let (mut go, ours) = go_leads(&shop).await;
    let status = shop.status();
    assert_eq!(status["leader"]["id"], GO, "{status}");
    assert_eq!(shop.ask(&["leader"]).code, 0);
    let nodes = shop.ask(&["nodes"]).out;
    for address in ["host-1", "host-2", "host-5"] {
        assert!(nodes.contains(address), "{nodes}");
    }
    each_reads_what_the_other_writes(&shop, &mut go, "1").await;
    let (leader, nodes) = looks(&mut go).await;
    let expected = [
        (1, ("host-1".to_owned(), 2)),
        (2, ("host-2".to_owned(), 2)),
        (5, ("host-5".to_owned(), 1)),
    ];
    assert_eq!((leader, nodes), (5, expected.into()));

    go.signal(Signal::TERM);
    assert_eq!(go.status().await.code(), Some(0), "{}", go.err());
    let (next, _) = shop.leader(2, Some(GO)).await;
    ours[next.as_str()].says("leader's work starts").await;
    assert_eq!(leaders(&ours, &[&go]), [GO, &next]);
    assert_eq!(go.events("failed"), [] as [Value; 0], "ours never disturbed it");
}

#[tokio::test(flavor = "multi_thread")]
async fn ours_take_over_from_a_go_leader_that_was_killed_once_its_lease_has_run_out() {
    let shop = Shop::open().await;
    let (go, ours) = go_leads(&shop).await;
    go.event("tick", |_| true).await;
    go.signal(Signal::KILL);
    let (next, _) = shop.leader(2, Some(GO)).await;
    ours[next.as_str()].says("leader's work starts").await;
    let spans = spans_of_ours(&next, &ours[next.as_str()]);
    let (_, _, last) = spans_of_go(&go).pop().unwrap();
    // Only its lease proves that the Go node is dead: a lease of two seconds, renewed twice a second.
    let waited = spans[0].1.duration_since(last);
    assert!(1 <= waited.as_secs(), "{waited:?}");
    assert_eq!(leaders(&ours, &[&go]), [GO, &next]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_go_node_follows_ours_reads_them_and_takes_over_when_they_stop() {
    let shop = Shop::open().await;
    let mut ours: BTreeMap<&str, Process> = [("1", shop.node("1", TICK))].into();
    shop.leader(1, None).await;
    let mut go = go_node(&shop);
    go.takes("Follower").await;
    go.answer("watch blob").await;
    each_reads_what_the_other_writes(&shop, &mut go, "1").await;
    let (leader, nodes) = looks(&mut go).await;
    let expected = [(1, ("host-1".to_owned(), 1)), (5, ("host-5".to_owned(), 2))];
    assert_eq!((leader, nodes), (1, expected.into()));
    // A second node of ours that joins later is a candidate like any other.
    ours.insert("2", shop.node("2", TICK));
    ours["2"].says("role=Follower").await;

    for id in ["1", "2"] {
        let node = ours.get_mut(id).unwrap();
        node.signal(Signal::TERM);
        assert_eq!(node.status().await.code(), Some(0), "{}", node.err());
    }
    go.takes("Leader").await;
    go.event("tick", |_| true).await;
    let (leader, nodes) = looks(&mut go).await;
    assert_eq!((leader, nodes.into_keys().collect::<Vec<_>>()), (5, vec![5]));
    // A value that our node wrote has vanished with the node, and the watch reported that.
    let told = go.event("deleted", |line| line["node"] == 1).await;
    assert_eq!(base64(told["old"].as_str().unwrap()), BYTES);
    let order = leaders(&ours, &[&go]);
    assert!(order == ["1", GO] || order == ["1", "2", GO], "{order:?}");
    assert_eq!(go.events("failed"), [] as [Value; 0], "ours never disturbed it");
}

#[tokio::test(flavor = "multi_thread")]
async fn office_goes_back_and_forth_between_the_two_kinds_and_never_two_lead() {
    let shop = Shop::open().await;
    let ours: BTreeMap<&str, Process> = ["1", "2"].map(|id| (id, shop.node(id, TICK))).into();
    shop.leader(2, None).await;
    let mut retired = Vec::new();
    for round in 0..3 {
        let mut go = go_node(&shop);
        go.takes("Follower").await;
        // Our nodes resign, whichever leads, until the Go node leads.
        let is_gos = async || {
            let leads = |line: &Value| line["role"] == "Leader";
            let turn = go.events("role").iter().any(leads);
            if !turn {
                shop.ask(&["resign"]);
            }
            turn.then_some(())
        };
        eventually("the Go node leads", LONG, is_gos).await;
        go.event("tick", |_| true).await;
        if round == 1 {
            go.signal(Signal::KILL);
            go.status().await;
        } else {
            go.signal(Signal::TERM);
            assert_eq!(go.status().await.code(), Some(0), "{}", go.err());
        }
        shop.leader(2, Some(GO)).await;
        retired.push(go);
    }
    let order = leaders(&ours, &retired.iter().collect::<Vec<_>>());
    assert_eq!(order.iter().filter(|who| *who == GO).count(), 3, "{order:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_go_node_with_another_tick_is_no_danger_and_one_of_ours_is_told() {
    let shop = Shop::open().await;
    let (go, ours) = go_leads(&shop).await;
    let mut other = shop.node("3", &["--tick", "70ms"]);
    assert_eq!(other.status().await.code(), Some(6), "{}", other.err());
    let said = other.err();
    assert!(said.contains("100ms") && said.contains("70ms"), "{said}");
    assert_eq!(go.events("failed"), [] as [Value; 0], "it was not disturbed");
    assert_eq!(leaders(&ours, &[&go]), [GO]);
}
