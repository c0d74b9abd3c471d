//! What happens to etcd under running nodes, and etcd locked down.

use std::{collections::BTreeSet, path::Path, time::Duration};

use rustix::process::Signal;

use crate::{
    binary::{LONG, Process, bellwether},
    cluster::Shop,
    support::{etcd::Etcd, eventually, pki::Validity},
};

/// Two nodes whose checks nobody runs, and their leader.
async fn pair(shop: &Shop) -> ([Process; 2], String, i64) {
    let nodes = ["1", "2"].map(|id| shop.node(id, &[]));
    let (leader, term) = shop.leader(2, None).await;
    (nodes, leader, term)
}

/// Never two that say they lead: the log lines of all nodes, in the order of their time stamps.
fn led_one_after_another(nodes: &[Process]) {
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
    shop.etcd.kill(0);
    // Without a store nobody leads, whoever did.
    for node in &nodes {
        if node.err().contains("role=Leader") {
            node.says("reason=\"suspended\"").await;
        }
    }
    shop.etcd.restart(0).await;
    shop.leader(2, None).await;
    led_one_after_another(&nodes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_etcd_is_noticed_and_joined_anew_without_a_manual_step() {
    let shop = Shop::open().await;
    let (nodes, ..) = pair(&shop).await;
    shop.etcd.kill(0);
    shop.etcd.wipe(0);
    shop.etcd.start_again(0).await;
    // The record is gone with the rest: the first leader of the new store waits 3.3 s.
    shop.leader(2, None).await;
    for node in &nodes {
        assert!(node.err().contains("session lost"), "{}", node.err());
    }
    led_one_after_another(&nodes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_while_a_node_is_frozen_costs_it_nothing() {
    let shop = Shop::open().await;
    let (nodes, leader, term) = pair(&shop).await;
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
    assert_eq!(shop.leader(2, None).await, (leader, term));
}

/// A node of the cluster `shop` on an etcd that is locked down.
fn locked_node(etcd: &Etcd, id: &str, flags: &[(&str, &Path)], password: Option<&str>) -> Process {
    let mut command = bellwether(["run", "--id", id, "--listen", "127.0.0.1:0", "-c", "shop"]);
    command.args(["--etcd", &etcd.endpoint(0)]);
    for (flag, path) in flags {
        command.arg(flag).arg(path);
    }
    if let Some(password) = password {
        command.args(["--etcd-user", "ann"]).env("BELLWETHER_ETCD_PASSWORD", password);
    }
    Process::of(command)
}

/// Waits until both joined and one leads; hands over once; and nothing lies outside the prefix.
async fn works_locked_down(etcd: &Etcd, nodes: [Process; 2]) {
    let leads = async |not: Option<usize>| {
        eventually("one of them leads", LONG, || async {
            let leading = |node: &Process| node.err().contains("role=Leader");
            (0..2).find(|one| Some(*one) != not && leading(&nodes[*one]))
        })
        .await
    };
    let first = leads(None).await;
    for node in &nodes {
        node.says("joined").await;
    }
    // Longer than a token lives: the session is to outlive it.
    tokio::time::timeout(Duration::from_secs(7), std::future::pending::<()>()).await.unwrap_err();
    nodes[first].signal(Signal::TERM);
    nodes[first].says("left cleanly").await;
    leads(Some(first)).await;
    for node in &nodes {
        assert!(!node.err().contains("session lost"), "{}", node.err());
    }
    let keys = etcd.etcdctl(&["get", "--prefix", "", "--keys-only"]);
    let outside: Vec<&str> =
        keys.lines().filter(|key| !key.is_empty() && !key.starts_with("/shop/")).collect();
    assert!(outside.is_empty(), "{outside:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_for_the_prefix_and_tokens_of_five_seconds_are_enough() {
    let etcd = Etcd::options()
        .user("ann", "secret-of-ann", "/shop/")
        .token_ttl(Duration::from_secs(5))
        .start()
        .await;
    let nodes = ["1", "2"].map(|id| locked_node(&etcd, id, &[], Some("secret-of-ann")));
    works_locked_down(&etcd, nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates_are_enough() {
    let etcd = Etcd::options().tls().start().await;
    let files = etcd.pki().client("ann", Validity::Now);
    let flags: [(&str, &Path); 3] = [
        ("--etcd-ca-file", etcd.pki().ca.as_ref()),
        ("--etcd-cert-file", files.cert.as_ref()),
        ("--etcd-key-file", files.key.as_ref()),
    ];
    let nodes = ["1", "2"].map(|id| locked_node(&etcd, id, &flags, None));
    works_locked_down(&etcd, nodes).await;
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
