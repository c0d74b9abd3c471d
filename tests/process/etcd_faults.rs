//! Faults of etcd under running nodes, and manual changes to its keys.

use std::collections::{BTreeMap, BTreeSet};

use bellwether::{engine::LeaseId, store::etcd::EtcdConfig};
use rustix::process::Signal;

use crate::{
    binary::{LONG, Process},
    cluster::{Dumped, Shop, dump},
    rounds::{Checks, Keeper},
    support::{etcd::Etcd, eventually},
};

/// Node 3, with state of its own.
async fn keep(shop: &Shop) -> Keeper {
    Keeper::join(EtcdConfig::new(shop.etcd.endpoints())).await
}

/// Two nodes without checks, and their leader.
async fn pair(shop: &Shop) -> ([Process; 2], String, i64) {
    let nodes = ["1", "2"].map(|id| shop.node(id, &[]));
    let (leader, term) = shop.leader(2, None).await;
    (nodes, leader, term)
}

/// Asserts that no two nodes acted as leader at once: by the log lines of all nodes, in the order of their time
/// stamps.
pub(crate) fn led_one_after_another(nodes: &[Process]) {
    let mut turns: Vec<(String, usize, bool)> = Vec::new();
    for (node, process) in nodes.iter().enumerate() {
        let said = process.err();
        for line in said.lines() {
            let at = line.split(' ').next().unwrap_or_default().to_owned();
            if line.contains("leader's work starts") {
                turns.push((at, node, true));
            } else if line.contains("leader's work stops") {
                turns.push((at, node, false));
            }
        }
    }
    turns.sort();
    assert!(!turns.is_empty(), "nobody led");
    let mut acting = BTreeSet::new();
    for (at, node, starts) in turns {
        if starts {
            assert!(acting.is_empty(), "at {at} node {node} starts while {acting:?} acts");
            acting.insert(node);
        } else {
            acting.remove(&node);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_etcd_suspends_the_leader_and_its_restart_loses_nobody() {
    let shop = Shop::open().await;
    let (nodes, ..) = pair(&shop).await;
    let keeper = keep(&shop).await;
    shop.etcd.kill(0);
    // Without a store no node leads, so the former leader suspends its office.
    for node in &nodes {
        if node.err().contains("role=Leader") {
            node.says("reason=\"suspended\"").await;
        }
    }
    shop.etcd.restart(0).await;
    shop.leader(3, None).await;
    keeper.has_its_state(&shop).await;
    led_one_after_another(&nodes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_etcd_is_noticed_and_joined_anew_without_a_manual_step() {
    let shop = Shop::open().await;
    let (nodes, ..) = pair(&shop).await;
    let keeper = keep(&shop).await;
    shop.etcd.kill(0);
    shop.etcd.wipe(0);
    shop.etcd.start_again(0).await;
    // The record is lost with all other keys: the first leader of the new store waits 3.3 s.
    shop.leader(3, None).await;
    keeper.has_its_state(&shop).await;
    for node in &nodes {
        assert!(node.err().contains("session lost"), "{}", node.err());
    }
    led_one_after_another(&nodes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_while_a_node_is_frozen_costs_it_nothing() {
    let shop = Shop::open().await;
    let (nodes, leader, term) = pair(&shop).await;
    let keeper = keep(&shop).await;
    let follower = &nodes[usize::from(leader == "1")];
    follower.signal(Signal::STOP);
    let mut client = shop.etcd.client().await;
    for n in 0..50 {
        client.put("/shop/bellwether/noise", n.to_string(), None).await.unwrap();
    }
    let now = client.get("/shop/none", None).await.unwrap().header().unwrap().revision();
    client.compact(now, None).await.unwrap();
    follower.signal(Signal::CONT);
    let id = if leader == "1" { "2" } else { "1" };
    let ran = shop.ask(&["put", "--node", id, "after", "compaction"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(shop.ask(&["get", "after", "-n", id]).out, "compaction");
    // The state from before the compaction still exists.
    keeper.has_its_state(&shop).await;
    assert_eq!(shop.leader(3, None).await, (leader, term));
}

/// Harm that an operator does to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    Deleted,
    Overwritten,
}

const JUNK: &str = "junk";

/// Harms one kind of key on each node that has such a key; returns the number of harmed keys.
fn harm(shop: &Shop, kind: &str, harm: Harm) -> usize {
    let harmed: Vec<String> =
        dump(&shop.etcd).into_keys().filter(|key| key.starts_with(kind)).collect();
    for key in &harmed {
        match harm {
            Harm::Deleted => shop.etcd.etcdctl(&["del", key]),
            Harm::Overwritten => shop.etcd.etcdctl(&["put", key, JUNK]),
        };
    }
    harmed.len()
}

/// Whether nodes 1 to 3 have all their keys, no other node has any, all values are as expected, and all keys of
/// a node are on one lease. Node 3 is no candidate.
fn is_whole(dump: &BTreeMap<String, Dumped>) -> bool {
    let hangs = |key: &str, lease: i64| {
        dump.get(key).is_some_and(|kv| kv.lease == lease && kv.value != JUNK)
    };
    let count = |kind: &str| dump.keys().filter(|key| key.starts_with(kind)).count();
    let of_node = |id: &str| {
        let Some(node) = dump.get(&format!("/shop/nodes/{id}")) else { return false };
        let lease = LeaseId(node.lease);
        let candidate = dump.get(&format!("/shop/election/{lease}"));
        node.value.starts_with(&format!("{{\"ID\":{id},"))
            && hangs(&format!("/shop/bellwether/members/{id}"), node.lease)
            && hangs(&format!("/shop/bellwether/held/{lease}"), node.lease)
            && candidate.is_none_or(|it| it.lease == node.lease && it.value == id)
            && candidate.is_some() == (id != "3")
    };
    ["1", "2", "3"].into_iter().all(of_node)
        && count("/shop/election/") == 2
        && ["/shop/nodes/", "/shop/bellwether/members/", "/shop/bellwether/held/"]
            .into_iter()
            .all(|kind| count(kind) == 3)
}

/// Two nodes that run checks, and a third with state.
struct Working {
    shop: Shop,
    checks: Checks,
    nodes: [Process; 2],
    keeper: Keeper,
}

impl Working {
    async fn start() -> Self {
        let shop = Shop::open().await;
        let checks = Checks::of(shop.etcd.address(0));
        let nodes = ["1", "2"].map(|id| shop.node(id, &["--checks", checks.folder()]));
        let keeper = keep(&shop).await;
        let working = Self { shop, checks, nodes, keeper };
        Box::pin(working.goes_on()).await;
        working
    }

    /// Waits until all nodes have joined, one leads, each check runs, and the state of node 3 is readable.
    async fn goes_on(&self) {
        self.shop.leader(3, None).await;
        self.checks.go_on(&self.shop).await;
        self.keeper.has_its_state(&self.shop).await;
    }
}

/// After each harm the cluster restores itself, without help.
async fn keys_come_back(what: Harm) {
    let working = Box::pin(Working::start()).await;
    let shop = &working.shop;
    for (kind, of) in [
        ("/shop/election/", 2),
        ("/shop/nodes/", 3),
        ("/shop/bellwether/members/", 3),
        ("/shop/bellwether/held/", 3),
    ] {
        let whole = async |when: String| {
            eventually(&when, LONG, || async { is_whole(&dump(&shop.etcd)).then_some(()) }).await;
        };
        whole(format!("whole before {kind}")).await;
        assert_eq!(harm(shop, kind, what), of, "{kind}");
        whole(format!("{kind} back after it was {what:?}")).await;
        working.goes_on().await;
    }
    led_one_after_another(&working.nodes);
}

#[tokio::test(flavor = "multi_thread")]
async fn candidate_node_member_and_held_keys_that_were_deleted_come_back_by_themselves() {
    Box::pin(keys_come_back(Harm::Deleted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn candidate_node_member_and_held_keys_that_were_overwritten_come_back_by_themselves() {
    Box::pin(keys_come_back(Harm::Overwritten)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_leases_come_back_with_all_that_hung_on_them() {
    let working = Box::pin(Working::start()).await;
    let shop = &working.shop;
    let leases = || -> BTreeSet<i64> {
        let dump = dump(&shop.etcd);
        let nodes = dump.iter().filter(|(key, _)| key.starts_with("/shop/nodes/"));
        nodes.map(|(_, kv)| kv.lease).collect()
    };
    let before = leases();
    assert_eq!(before.len(), 3);
    for lease in &before {
        shop.etcd.etcdctl(&["lease", "revoke", &LeaseId(*lease).to_string()]);
    }
    eventually("all back on new leases", LONG, || async {
        (is_whole(&dump(&shop.etcd)) && leases().is_disjoint(&before)).then_some(())
    })
    .await;
    working.goes_on().await;
    led_one_after_another(&working.nodes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_node_that_cannot_leave_and_its_number_is_in_the_exit_code() {
    let shop = Shop::open().await;
    let (mut nodes, ..) = pair(&shop).await;
    shop.etcd.freeze(0);
    for (node, (signal, code)) in nodes.iter_mut().zip([(Signal::TERM, 143), (Signal::INT, 130)]) {
        node.signal(Signal::TERM);
        node.says("a second signal ends at once").await;
        node.signal(signal);
        assert_eq!(node.status().await.code(), Some(code), "{}", node.err());
    }
}

const FULL: &str = "etcd has no space left, it rejects writes";
const SPACE_AGAIN: &str = "etcd has space again, it accepts writes";

/// Writes until etcd's quota is used up.
async fn fill(etcd: &Etcd) {
    let mut client = etcd.client().await;
    let large = vec![b'x'; 1_000_000];
    let refused = eventually("etcd is full", LONG, async || {
        client.put("junk", large.clone(), None).await.err()
    })
    .await;
    assert!(refused.to_string().contains("database space exceeded"), "{refused}");
}

/// Frees space in etcd by the steps of the runbook.
async fn make_room(etcd: &Etcd) {
    etcd.etcdctl(&["del", "junk"]);
    let mut client = etcd.client().await;
    let now = client.get("none", None).await.unwrap().header().unwrap().revision();
    etcd.etcdctl(&["compact", &now.to_string()]);
    etcd.etcdctl(&["defrag"]);
    etcd.etcdctl(&["alarm", "disarm"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_etcd_is_named_once_by_every_node_and_its_end_too_and_nobody_is_called_leader() {
    const QUOTA: &str = "--quota-backend-bytes=16777216";
    let shop = Shop::locked(Etcd::options().flag(QUOTA).start().await, Vec::new());
    // Node 3 writes no keys of its own: it learns of a full etcd from the alarm.
    let nodes = [shop.node("1", &[]), shop.node("2", &[]), shop.node("3", &["--never-lead"])];
    shop.leader(3, None).await;
    fill(&shop.etcd).await;
    for node in &nodes {
        node.says(FULL).await;
    }
    // The leader cannot write a beat, so no node acts.
    let leader = shop.ask(&["leader"]);
    assert!([3, 8].contains(&leader.code), "{leader:?}");
    assert!(
        !leader.out.starts_with("leader 1") && !leader.out.starts_with("leader 2"),
        "{leader:?}"
    );
    assert_eq!(shop.status()["leader"], serde_json::Value::Null);
    let check = shop.ask(&["check"]);
    assert_eq!(check.code, 8, "{check:?}");
    assert!(check.out.contains("NOSPACE"), "{check:?}");

    let mut late = shop.node("9", &["--start-within", "4s"]);
    assert_eq!(late.status().await.code(), Some(4), "{}", late.err());
    let said = late.err();
    assert!(said.contains(FULL), "{said}");
    let error = said.lines().find(|line| line.starts_with("bellwether: ")).unwrap();
    assert!(error.contains("not joined") && error.contains("space exceeded"), "{error}");
    assert!(error.contains("alarm disarm"), "{error}");

    make_room(&shop.etcd).await;
    for node in &nodes {
        node.says(SPACE_AGAIN).await;
    }
    shop.leader(3, None).await;
    assert_eq!(shop.ask(&["leader"]).code, 0);
    for node in &nodes {
        let said = node.err();
        assert_eq!(
            (said.matches(FULL).count(), said.matches(SPACE_AGAIN).count()),
            (1, 1),
            "{said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_leader_is_not_called_leader() {
    let shop = Shop::open().await;
    // Only one node runs, so no other node takes its office.
    let node = shop.node("1", &["--ttl", "60s"]);
    shop.leader(1, None).await;
    node.signal(Signal::STOP);
    let leader = shop.ask(&["leader"]);
    assert_eq!(leader.code, 8, "{leader:?}");
    assert_eq!(leader.out, "", "nobody is named");
    assert!(leader.err.contains("nobody acts") && leader.err.contains("silent for"), "{leader:?}");
    let status = shop.status();
    assert_eq!(
        (&status["leader"], &status["not_acting"]["id"]),
        (&serde_json::Value::Null, &"1".into())
    );
    node.signal(Signal::CONT);
    shop.leader(1, None).await;
    assert_eq!(shop.ask(&["leader"]).code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_of_two_etcd_clusters_fail_the_check() {
    let (one, other) = (Etcd::start().await, Etcd::start().await);
    let both = format!("{},{}", one.endpoint(0), other.endpoint(0));
    let ran = crate::binary::run(["check", "--etcd-only", "--cluster", "shop", "--etcd", &both]);
    assert_eq!(ran.code, 8, "{ran:?}");
    assert!(ran.out.contains("different etcd clusters"), "{ran:?}");
    for etcd in [&one, &other] {
        assert!(ran.out.contains(&format!("{} of cluster", etcd.endpoint(0))), "{ran:?}");
    }
}
