//! Nodes as processes, on etcd.

use std::{collections::BTreeMap, ffi::OsString, time::Duration};

use bellwether::{
    engine::{Record, Term},
    store::{
        keys::{Key, Keys},
        values,
    },
};
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    binary::{LONG, Process, Ran, bellwether, ended},
    support::{etcd::Etcd, eventually},
};

/// A cluster's name and its etcd.
pub(crate) struct Shop {
    pub(crate) etcd: Etcd,
    /// Credentials for etcd, by environment variable.
    credentials: Vec<(&'static str, OsString)>,
}

impl Shop {
    /// Cluster on an etcd that asks for these credentials.
    pub(crate) fn locked(etcd: Etcd, credentials: Vec<(&'static str, OsString)>) -> Self {
        Self { etcd, credentials }
    }

    /// An etcd on which the first leader need not wait for a possible earlier leader to expire: the stored
    /// record says that a leader has ended cleanly.
    pub(crate) async fn open() -> Self {
        let etcd = Etcd::start().await;
        let record = Record {
            term: Term(0),
            lease: None,
            node: None,
            n: 0,
            d: Duration::from_secs(1),
            ended: true,
            suspended: false,
        };
        let mut client = etcd.client().await;
        let key = Keys::new("shop").unwrap().record();
        client.put(key, values::encode_record(&record), None).await.unwrap();
        Self::locked(etcd, Vec::new())
    }

    /// Command of the binary, with this cluster and its etcd.
    pub(crate) fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = bellwether(args);
        command.env("BELLWETHER_CLUSTER", "shop").env("BELLWETHER_ETCD", self.etcd.endpoint(0));
        command.envs(self.credentials.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn ask(&self, args: &[&str]) -> Ran {
        ended(self.command(args))
    }

    pub(crate) fn node(&self, id: &str, more: &[&str]) -> Process {
        let args =
            ["run", "--id", id, "--listen", "127.0.0.1:0", "--address", &format!("host-{id}")];
        Process::of(self.command(&[&args, more].concat()))
    }

    /// Parsed output of `status -o json`.
    pub(crate) fn status(&self) -> Value {
        let ran = self.ask(&["status", "-o", "json"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        serde_json::from_str(&ran.out).unwrap()
    }

    /// The leader and its term, once a leader other than `not` is in office and `nodes` nodes are live.
    pub(crate) async fn leader(&self, nodes: usize, not: Option<&str>) -> (String, i64) {
        eventually(&format!("a leader of {nodes}, not {not:?}"), LONG, || async {
            let status = self.status();
            let id = status["leader"]["id"].as_str()?.to_owned();
            let live = status["nodes"].as_array()?.len();
            let term = status["leader"]["term"].as_str()?.parse().ok()?;
            (live == nodes && Some(id.as_str()) != not).then_some((id, term))
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_in_etcd_have_the_go_packages_layout_byte_for_byte() {
    let shop = Shop::open().await;
    let one = shop.node("1", &["--tick", "100ms"]);
    let two = shop.node("22", &["--tick", "100ms"]);
    shop.leader(2, None).await;
    one.says("joined").await;
    two.says("joined").await;
    // The dump is stable when both nodes have written the role that they took.
    let dump = eventually("one leader and one follower in the metadata", LONG, || async {
        let dump = dump(&shop.etcd);
        let of_role = |role: &str| dump.values().filter(|it| it.value.ends_with(role)).count();
        (of_role("\"Role\":1}") == 1 && of_role("\"Role\":2}") == 1).then_some(dump)
    })
    .await;
    for (id, address) in [("1", "host-1"), ("22", "host-22")] {
        let node = &dump[&format!("/shop/nodes/{id}")];
        let lease = format!("{:x}", node.lease);
        // The lease in lower-case hex without padding names the candidate; the value is the id.
        let candidate = &dump[&format!("/shop/election/{lease}")];
        assert_eq!((candidate.value.as_str(), candidate.lease), (id, node.lease));
        let tick = &dump[&format!("/shop/state-data/tick/{id}")];
        assert_eq!((tick.value.as_str(), tick.lease), ("100000000", node.lease));
        // The fields have Go's names and Go's order; the time is RFC 3339 with an offset.
        let (head, rest) = node.value.split_once("\"Start\":\"").unwrap();
        assert_eq!(head, format!("{{\"ID\":{id},\"Address\":\"{address}\","));
        let (start, role) = rest.split_once("\",").unwrap();
        assert!(start.parse::<jiff::Timestamp>().is_ok(), "{start}");
        assert!(["\"Role\":1}", "\"Role\":2}"].contains(&role), "{role}");
    }
    // All other keys are below one prefix, which the Go package never reads.
    let keys = Keys::new("shop").unwrap();
    for key in dump.keys() {
        let known =
            keys.parse(key.as_bytes()).unwrap_or_else(|| panic!("{key} is in no catalogue"));
        let seeds =
            matches!(known, Key::Candidate(_) | Key::Node(_) | Key::TickKey(_) | Key::State { .. });
        assert!(seeds || key.starts_with("/shop/bellwether/"), "{key}");
    }
}

#[derive(Debug)]
pub(crate) struct Dumped {
    pub(crate) value: String,
    pub(crate) lease: i64,
}

/// All keys, as `etcdctl get --prefix / -w json` shows them.
pub(crate) fn dump(etcd: &Etcd) -> BTreeMap<String, Dumped> {
    let json: Value =
        serde_json::from_str(&etcd.etcdctl(&["get", "--prefix", "/", "-w", "json"])).unwrap();
    let text = |it: &Value| String::from_utf8(base64(it.as_str().unwrap_or_default())).unwrap();
    let kvs = json["kvs"].as_array().cloned().unwrap_or_default();
    kvs.iter()
        .map(|kv| {
            let lease = kv["lease"].as_i64().unwrap_or_default();
            (text(&kv["key"]), Dumped { value: text(&kv["value"]), lease })
        })
        .collect()
}

pub(crate) fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.bytes().filter_map(|it| DIGITS.iter().position(|digit| *digit == it));
    let (mut bits, mut count, mut bytes) = (0_usize, 0, Vec::new());
    for digit in digits {
        (bits, count) = (bits << 6 | digit, count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_hands_over_at_once_leaves_nothing_behind_and_exits_with_0() {
    // The successor of a silent leader waits 3.3 s: one that takes over sooner got the office handed over.
    let shop = Shop::open().await;
    let mut nodes: BTreeMap<&str, Process> =
        ["1", "2", "3"].map(|id| (id, shop.node(id, &["--profile", "stable"]))).into();
    let (first, term) = shop.leader(3, None).await;
    let mut leader = nodes.remove(first.as_str()).unwrap();
    leader.signal(Signal::TERM);
    let status = leader.status().await;
    assert_eq!(status.code(), Some(0), "{}", leader.err());
    let (second, next) = shop.leader(2, Some(&first)).await;
    assert!(term < next, "{next} follows {term}");
    nodes[second.as_str()].says("role=Leader").await;
    let left = dump(&shop.etcd);
    assert!(!left.contains_key(&format!("/shop/nodes/{first}")), "{left:?}");
    assert!(!leader.err().contains("WARN"), "a clean end warns of nothing: {}", leader.err());
    // The other nodes stop too; then only the record and the tick remain, which belong to no node.
    for (_, mut node) in nodes {
        node.signal(Signal::INT);
        assert_eq!(node.status().await.code(), Some(0), "{}", node.err());
    }
    let left: Vec<String> = dump(&shop.etcd).into_keys().collect();
    assert_eq!(left, ["/shop/bellwether/beat", "/shop/bellwether/tick"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_leader_does_not_spin() {
    let shop = Shop::open().await;
    let node = shop.node("1", &[]);
    shop.leader(1, None).await;
    // The node's own beats measure the time, not the clock of a busy machine: beats are 200 ms apart.
    let beats = async || {
        let mut client = shop.etcd.client().await;
        let record = client.get(Keys::new("shop").unwrap().record(), None).await.unwrap();
        record.kvs()[0].version()
    };
    let (first, used) = (beats().await, node.cpu_time());
    eventually("twenty beats", LONG, async || (first + 20 <= beats().await).then_some(())).await;
    let used = node.cpu_time().saturating_sub(used);
    // A spinning thread would have used most of these four seconds or more. An optimised build of an idle node
    // uses a hundredth of them, as the benches measure.
    assert!(used < Duration::from_millis(800), "{used:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_with_a_live_id_is_refused_with_exit_code_6_and_disturbs_nobody() {
    let shop = Shop::open().await;
    let one = shop.node("7", &[]);
    let before = shop.leader(1, None).await;
    let mut twin = shop.node("7", &["--id-wait", "0"]);
    let status = twin.status().await;
    assert_eq!(status.code(), Some(6), "{}", twin.err());
    let said = twin.err();
    assert!(said.contains("node id 7 is taken by a live node at \"host-7\""), "{said}");
    assert!(said.contains("--id-wait"), "it names the remedy: {said}");
    assert_eq!(shop.leader(1, None).await, before);
    assert!(!one.err().contains("WARN"), "{}", one.err());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tick_is_refused_with_exit_code_6_and_adopted_if_that_is_the_policy() {
    let shop = Shop::open().await;
    let _one = shop.node("1", &["--tick", "50ms"]);
    shop.leader(1, None).await;
    let mut strict = shop.node("2", &["--tick", "70ms"]);
    assert_eq!(strict.status().await.code(), Some(6), "{}", strict.err());
    let said = strict.err();
    assert!(said.contains("50ms") && said.contains("70ms") && said.contains("adopt"), "{said}");
    let _adopting = shop.node("3", &["--tick", "70ms", "--tick-policy", "adopt"]);
    shop.leader(2, None).await;
    assert_eq!(dump(&shop.etcd)["/shop/state-data/tick/3"].value, "50000000");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_read_and_write_a_cluster_and_answer_with_their_exit_codes() {
    let shop = Shop::open().await;
    assert_eq!(shop.ask(&["leader"]).code, 3, "nobody leads yet");
    assert_eq!(shop.ask(&["put", "k", "v", "-n1"]).code, 3, "no such node yet");
    assert_eq!(shop.ask(&["check"]).code, 8, "no nodes");
    assert_eq!(shop.ask(&["check", "--store-only"]).code, 0);
    let _one = shop.node("1", &[]);
    let _two = shop.node("2", &[]);
    let (first, _) = shop.leader(2, None).await;

    let leader = shop.ask(&["leader"]);
    assert_eq!(leader.code, 0, "{}", leader.err);
    assert!(leader.out.starts_with(&format!("leader {first} at host-{first}")), "{}", leader.out);
    let nodes = shop.ask(&["nodes"]).out;
    assert!(nodes.contains("host-1") && nodes.contains("host-2"), "{nodes}");
    let check = shop.ask(&["check"]);
    assert_eq!(check.code, 0, "{}{}", check.out, check.err);

    // The value is returned unchanged, byte for byte.
    assert_eq!(shop.ask(&["put", "greeting", "hello\nworld", "-n", "2"]).code, 0);
    assert_eq!(shop.ask(&["get", "greeting", "-n", "2"]).out, "hello\nworld");
    assert_eq!(shop.ask(&["get", "greeting", "-n", "1"]).code, 3);
    let of_all: Value =
        serde_json::from_str(&shop.ask(&["get", "greeting", "-o", "json"]).out).unwrap();
    assert_eq!(of_all[0]["value"], "hello\nworld");
    // The key is attached to the node's own lease, so that it vanishes with the node.
    let dump = dump(&shop.etcd);
    assert_eq!(dump["/shop/state-data/greeting/2"].lease, dump["/shop/nodes/2"].lease);
    let revision = of_all[0]["revision"].as_str().unwrap();
    let stale = shop.ask(&["put", "greeting", "x", "-n2", "--if-revision", "1"]);
    assert_eq!(stale.code, 6, "{}", stale.err);
    assert_eq!(shop.ask(&["put", "greeting", "x", "-n2", "--if-revision", revision]).code, 0);
    assert_eq!(shop.ask(&["delete", "greeting", "-n2"]).code, 0);
    assert_eq!(shop.ask(&["delete", "greeting", "-n2"]).code, 3);

    let resigned = shop.ask(&["resign", "-o", "json"]);
    assert_eq!(resigned.code, 0, "{}", resigned.err);
    let resigned: Value = serde_json::from_str(&resigned.out).unwrap();
    assert_eq!(resigned["resigned"]["id"], first);
    assert_ne!(resigned["leader"]["id"], first);

    // A drained node resigns and is not elected again.
    let (second, _) = shop.leader(2, Some(&first)).await;
    assert_eq!(shop.ask(&["drain", "9"]).code, 3, "no such node");
    let drained = shop.ask(&["drain", &second, "--why", "maintenance"]);
    assert_eq!(drained.code, 0, "{}", drained.err);
    let (third, _) = shop.leader(2, Some(&second)).await;
    assert_eq!(third, first);
    assert!(shop.ask(&["nodes"]).out.contains("draining"));
    assert_eq!(shop.ask(&["undrain", &second]).code, 0);
    assert_eq!(shop.ask(&["undrain", &second]).code, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_shows_what_is_there_and_then_each_change() {
    let shop = Shop::open().await;
    let _one = shop.node("1", &[]);
    shop.leader(1, None).await;
    assert_eq!(shop.ask(&["put", "jobs/a", "1", "-n1"]).code, 0);
    let watch = Process::of(shop.command(&["watch", "jobs", "-o", "json"]));
    let lines = async |count: usize| {
        let lines = eventually(&format!("{count} lines"), LONG, || async {
            let out = watch.out();
            (out.lines().count() >= count).then_some(out)
        })
        .await;
        let line = lines.lines().nth(count - 1).unwrap();
        let json: Value = serde_json::from_str(line).unwrap();
        (json["what"].clone(), json["key"].clone(), json["value"].clone())
    };
    let is = |what: &str, value: Value| (what.into(), "jobs/a".into(), value);
    assert_eq!(lines(1).await, is("present", "1".into()));
    assert_eq!(shop.ask(&["put", "jobs/a", "2", "-n1"]).code, 0);
    assert_eq!(lines(2).await, is("modified", "2".into()));
    assert_eq!(shop.ask(&["delete", "jobs/a", "-n1"]).code, 0);
    assert_eq!(lines(3).await, is("deleted", Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_view_goes_on_after_etcd_was_away() {
    let shop = Shop::open().await;
    let _one = shop.node("1", &[]);
    shop.leader(1, None).await;
    let view = Process::of(shop.command(&["status", "--watch", "-o", "json"]));
    let shows = async |nodes: usize| {
        eventually(&format!("{nodes} nodes in the last line"), LONG, || async {
            let out = view.out();
            let last: Value = serde_json::from_str(out.lines().last()?).ok()?;
            (last["nodes"].as_array()?.len() == nodes).then_some(())
        })
        .await;
    };
    shows(1).await;
    shop.etcd.kill(0);
    shop.etcd.restart(0).await;
    let _two = shop.node("2", &[]);
    shows(2).await;
}

/// The member that is asked answers and keeps its watches, but has no quorum behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_live_view_of_a_member_that_is_cut_off_says_that_it_is_not_current() {
    let shop = Shop::locked(Etcd::options().members(3).start().await, Vec::new());
    let table = Process::of(shop.command(&["status", "--watch"]));
    let json = Process::of(shop.command(&["status", "--watch", "-o", "json"]));
    let shows = async |is_current: bool| {
        eventually(&format!("both views are current: {is_current}"), LONG, || async {
            let (table, json) = (table.out(), json.out());
            let (_, shown) = table.rsplit_once("cluster shop")?;
            let last: Value = serde_json::from_str(json.lines().last()?).ok()?;
            let why = last["not_current"].as_str();
            let is_stale =
                shown.contains("NOT CURRENT: ") && why.is_some_and(|why| !why.is_empty());
            let is_fresh = !shown.contains("NOT CURRENT") && why.is_none();
            (if is_current { is_fresh } else { is_stale }).then_some(())
        })
        .await;
    };
    shows(true).await;
    shop.etcd.freeze(1);
    shop.etcd.freeze(2);
    shows(false).await;
    shop.etcd.thaw(1);
    shop.etcd.thaw(2);
    shows(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_say_why_a_node_is_not_ready_and_pass_once_it_is() {
    let shop = Shop::open().await;
    shop.etcd.freeze(0);
    let node = shop.node("1", &[]);
    let url = page(&node).await;
    let probe = |url: &str| ended(bellwether(["check", "--url", url]));
    let unready = probe(&url);
    assert_eq!(unready.code, 8, "{}{}", unready.out, unready.err);
    assert!(unready.out.contains("not joined"), "{}", unready.out);
    assert!(unready.out.lines().any(|it| it.starts_with("live") && it.contains("ok")));
    shop.etcd.thaw(0);
    eventually("ready", LONG, || async { (probe(&url).code == 0).then_some(()) }).await;
}

/// URL of a node's page, from its log.
pub(crate) async fn page(node: &Process) -> String {
    let line = node.says("status server listens").await;
    let address = line.rsplit_once("address=").expect("an address").1;
    format!("http://{}", address.trim())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_is_not_there_yet_is_waited_for_and_named_in_the_log() {
    let shop = Shop::open().await;
    let endpoint = shop.etcd.endpoint(0);
    shop.etcd.kill(0);
    let node = shop.node("1", &[]);
    let said = node.says("waiting for it").await;
    assert!(said.contains(&endpoint) && said.contains("Connection refused"), "{said}");
    let mut impatient = shop.node("2", &["--start-within", "1s"]);
    assert_eq!(impatient.status().await.code(), Some(4), "{}", impatient.err());
    shop.etcd.restart(0).await;
    shop.leader(1, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_leaves_within_its_grace_while_etcd_is_gone() {
    let shop = Shop::open().await;
    let mut node = shop.node("1", &["--grace", "1s"]);
    shop.leader(1, None).await;
    shop.etcd.kill(0);
    node.signal(Signal::TERM);
    // The node ends, and reports that it could not end cleanly.
    assert_eq!(node.status().await.code(), Some(1), "{}", node.err());
    assert!(node.err().contains("did not leave cleanly"), "{}", node.err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_leader_is_replaced_and_does_not_lead_when_it_thaws() {
    let shop = Shop::open().await;
    let nodes: BTreeMap<&str, Process> = ["1", "2"].map(|id| (id, shop.node(id, &[]))).into();
    let (first, term) = shop.leader(2, None).await;
    let frozen = &nodes[first.as_str()];
    frozen.says("role=Leader").await;
    frozen.signal(Signal::STOP);
    let (second, next) = shop.leader(2, Some(&first)).await;
    assert!(term < next);
    // The node stays frozen longer than its lease lives: its keys vanish, too.
    shop.leader(1, Some(&first)).await;
    frozen.signal(Signal::CONT);
    // The node returns as a follower of its successor, under a new lease.
    shop.leader(2, Some(&first)).await;
    assert_eq!(shop.leader(2, Some(&first)).await, (second, next));
    let said = frozen.err();
    let leads = said.matches("role=Leader").count();
    assert_eq!(leads, 1, "it led once, before: {said}");
}
