//! Nodes and commands on an etcd that is locked down: a role for the cluster's prefix, tokens that expire,
//! client certificates. Everything works, and no node touches a key outside of the prefix.

use std::{path::Path, time::Duration};

use bellwether::{
    node::{Claimed, Node as _, StateItem, WatchFrom},
    store::etcd::{EtcdConfig, Tls},
};
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    binary::{LONG, Process, http_get},
    cluster::{Shop, page},
    etcd_faults::led_one_after_another,
    rounds::{Checks, Keeper},
    support::{etcd::Etcd, eventually, pki::Validity},
};

const PASSWORD: &str = "secret-of-ann";

fn of_user(config: EtcdConfig) -> EtcdConfig {
    config.user("ann", PASSWORD).probe_key("/shop/bellwether/beat")
}

/// Output of a command that succeeds.
fn told(shop: &Shop, args: &[&str]) -> String {
    let ran = shop.ask(args);
    assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
    ran.out
}

async fn prints(watch: &Process, value: &str) {
    eventually(&format!("{value:?} by the watch"), LONG, || async {
        let out = watch.out();
        let last: Value = serde_json::from_str(out.lines().last()?).ok()?;
        (last["value"] == value).then_some(())
    })
    .await;
}

/// Runs two nodes with checks, a third with claims, and all read commands, before and after a time in which no
/// call renews a token.
async fn works_locked_down(shop: Shop, config: EtcdConfig, has_tokens: bool) {
    let checks = Checks::of(shop.etcd.address(0));
    // The leases outlive the pause: the same incarnations continue.
    let run = ["--checks", checks.folder(), "--ttl", "60s", "--profile", "stable"];
    let nodes = ["1", "2"].map(|id| shop.node(id, &run));
    let keeper = Keeper::join(config).await;
    let (first, _) = shop.leader(3, None).await;
    let second = if first == "1" { "2" } else { "1" };
    let process = |id: &str| &nodes[usize::from(id == "2")];
    checks.go_on(&shop).await;

    told(&shop, &["put", "jobs/a", "before", "-n", second]);
    assert_eq!(told(&shop, &["get", "jobs/a", "-n", second]), "before");
    let watch = Process::of(shop.command(&["watch", "jobs", "-o", "json"]));
    prints(&watch, "before").await;
    let mut changes = keeper.0.watch_key_cluster("jobs", WatchFrom::Now).await.unwrap();
    let Claimed::Won(claim) = keeper.0.claim("turn").await.unwrap() else {
        panic!("nobody has it")
    };

    // The pause is longer than an unused token lives: the frozen follower uses its token for nothing meanwhile.
    process(second).signal(Signal::STOP);
    tokio::time::sleep(Duration::from_secs(7)).await;
    process(second).signal(Signal::CONT);

    checks.go_on(&shop).await;
    told(&shop, &["put", "jobs/a", "after", "-n", second]);
    assert_eq!(told(&shop, &["get", "jobs/a", "-n", second]), "after");
    prints(&watch, "after").await;
    match tokio::time::timeout(LONG, changes.recv()).await.expect("a change") {
        Some(StateItem::Change(change)) => assert_eq!(change.value, b"after"),
        other => panic!("expected a change, got {other:?}"),
    }
    claim.release().await.unwrap();
    assert!(matches!(keeper.0.claim("turn").await.unwrap(), Claimed::Won(_)));
    if has_tokens {
        let metrics = http_get(&page(process(second)).await, "/metrics").await;
        let logins = metrics
            .lines()
            .find_map(|line| {
                line.strip_prefix("bellwether_store_logins_total{result=\"accepted\"} ")
            })
            .unwrap_or_else(|| panic!("no logins in {metrics}"));
        assert!(1.0 < logins.parse().unwrap(), "its token never ended: {logins}");
    }

    // The node that was frozen takes office, plans for the other node, and hands back.
    told(&shop, &["resign"]);
    process(second).says("role=Leader").await;
    checks.go_on(&shop).await;
    told(&shop, &["drain", second, "--why", "maintenance"]);
    assert_eq!(shop.leader(3, Some(second)).await.0, first);
    told(&shop, &["undrain", second]);
    checks.go_on(&shop).await;
    told(&shop, &["delete", "jobs/a", "-n", second]);
    assert_eq!(shop.ask(&["check"]).code, 0);
    process(&first).signal(Signal::TERM);
    process(&first).says("left cleanly").await;
    assert_eq!(shop.leader(2, Some(&first)).await.0, second);
    checks.go_on(&shop).await;
    keeper.has_its_state(&shop).await;

    for node in &nodes {
        assert!(!node.err().contains("session lost"), "{}", node.err());
    }
    led_one_after_another(&nodes);
    let keys = shop.etcd.etcdctl(&["get", "--prefix", "", "--keys-only"]);
    let outside: Vec<&str> =
        keys.lines().filter(|key| !key.is_empty() && !key.starts_with("/shop/")).collect();
    assert!(outside.is_empty(), "{outside:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_for_the_prefix_and_tokens_of_five_seconds_are_enough() {
    let etcd = Etcd::options()
        .user("ann", PASSWORD, "/shop/")
        .token_ttl(Duration::from_secs(5))
        .start()
        .await;
    let config = of_user(EtcdConfig::new(etcd.endpoints()));
    let credentials = [("BELLWETHER_ETCD_USER", "ann"), ("BELLWETHER_ETCD_PASSWORD", PASSWORD)];
    let credentials = credentials.map(|(name, value)| (name, value.into())).into();
    works_locked_down(Shop::locked(etcd, credentials), config, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates_are_enough() {
    let etcd = Etcd::options().tls().start().await;
    let files = etcd.pki().client("ann", Validity::Now);
    let (ca, cert, key): (&Path, &Path, &Path) =
        (etcd.pki().ca.as_ref(), files.cert.as_ref(), files.key.as_ref());
    let config = EtcdConfig::new(etcd.endpoints()).tls(Tls::ca(ca).client(cert, key));
    let credentials = [
        ("BELLWETHER_ETCD_CA_FILE", ca),
        ("BELLWETHER_ETCD_CERT_FILE", cert),
        ("BELLWETHER_ETCD_KEY_FILE", key),
    ];
    let credentials = credentials.map(|(name, path)| (name, path.into())).into();
    works_locked_down(Shop::locked(etcd, credentials), config, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_a_role_and_tokens_of_five_seconds_work_together() {
    let etcd = Etcd::options()
        .tls()
        .user("ann", PASSWORD, "/shop/")
        .token_ttl(Duration::from_secs(5))
        .start()
        .await;
    let files = etcd.pki().client("ann", Validity::Now);
    let (ca, cert, key): (&Path, &Path, &Path) =
        (etcd.pki().ca.as_ref(), files.cert.as_ref(), files.key.as_ref());
    let config = of_user(EtcdConfig::new(etcd.endpoints()).tls(Tls::ca(ca).client(cert, key)));
    let credentials = vec![
        ("BELLWETHER_ETCD_CA_FILE", ca.into()),
        ("BELLWETHER_ETCD_CERT_FILE", cert.into()),
        ("BELLWETHER_ETCD_KEY_FILE", key.into()),
        ("BELLWETHER_ETCD_USER", "ann".into()),
        ("BELLWETHER_ETCD_PASSWORD", PASSWORD.into()),
    ];
    works_locked_down(Shop::locked(etcd, credentials), config, true).await;
}
