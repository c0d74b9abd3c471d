//! Time of calls of the store and of nodes, compared with the plain etcd client in the same run on the same
//! etcd.
//!
//! ```text
//! cargo bench --bench store                  # on tmpfs and on disk
//! cargo bench --bench store -- --quick node  # fewer rounds, the calls of `Node` only
//! ```
//!
//! The two clients are called in turn, and the order changes every time.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::large_futures,
    reason = "a measurement, not a library"
)]

mod common;
#[path = "../tests/support/mod.rs"]
mod support;

use std::{process::ExitCode, sync::Arc, time::Duration};

use bellwether::{
    clock::boot_now,
    engine::{LeaseId, Revision},
    node::{ClusterNode, LeaderContext, Node, work::WorkError},
    store::{
        Compare, CompareOp, Get, KeyRange, Op, Store, Target, Txn, WatchItem, WatchRequest,
        etcd::{EtcdConfig, EtcdStore},
        keys::Keys,
    },
};
use common::{Aim, Bench, CLUSTER, LONG, Samples, plain::guarded_put};
use etcd_client::{Client, DeleteOptions, GetOptions, PutOptions};
use support::etcd::{Etcd, Medium};
use tokio::{sync::mpsc, time::timeout};

const WARM_UP: usize = 100;
const TIMEOUT: Duration = Duration::from_secs(10);
const VALUE: [u8; 100] = [b'x'; 100];

/// Calls both clients in turn, and prints the row.
macro_rules! measure {
    ($bench:expr, $rounds:expr, $name:expr, $ours:expr, $plain:expr) => {{
        let (mut ours, mut plain) = (Samples::default(), Samples::default());
        for round in 0..$rounds + WARM_UP {
            for turn in 0..2 {
                let by_us = (round + turn) % 2 == 0;
                let began = boot_now();
                if by_us {
                    $ours;
                } else {
                    $plain;
                }
                let took = boot_now().since(began);
                if WARM_UP <= round {
                    (if by_us { &mut ours } else { &mut plain }).push(took);
                }
            }
        }
        $bench.row($name, ours, Some(plain), &[Aim::Ratio(1.1)]);
    }};
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let mut bench = Bench::start("Operations");
    for medium in [Medium::Memory, Medium::Disk] {
        if bench.section(&format!("store calls, {}", common::named(medium))) {
            store_calls(&mut bench, medium).await;
        }
        if bench.section(&format!("node calls, {}", common::named(medium))) {
            node_calls(&mut bench, medium).await;
        }
    }
    bench.end()
}

async fn store_calls(bench: &mut Bench, medium: Medium) {
    let etcd = Etcd::options().medium(medium).start().await;
    let store = EtcdStore::connect(&EtcdConfig::new(etcd.endpoints())).await.unwrap();
    let mut plain = etcd.client().await;
    let rounds = bench.rounds(2000, 400);
    Bench::times();
    measure!(
        bench,
        rounds,
        "put",
        store.txn(put("k"), TIMEOUT).await.unwrap(),
        plain.put("k", VALUE, None).await.unwrap()
    );
    measure!(
        bench,
        rounds,
        "guarded put",
        store.txn(store_txn("k"), TIMEOUT).await.unwrap(),
        plain.txn(guarded_put("k")).await.unwrap()
    );
    measure!(
        bench,
        rounds,
        "get",
        store.get(Get::key("k"), TIMEOUT).await.unwrap(),
        plain.get("k", None).await.unwrap()
    );
    store.grant(LeaseId(1), Duration::from_secs(60), TIMEOUT).await.unwrap();
    store.grant(LeaseId(2), Duration::from_secs(60), TIMEOUT).await.unwrap();
    let (mut keeper, mut answers) = plain.lease_keep_alive(2).await.unwrap();
    measure!(bench, rounds, "keepalive", store.keep_alive(LeaseId(1), TIMEOUT).await.unwrap(), {
        keeper.keep_alive().await.unwrap();
        answers.message().await.unwrap().unwrap();
    });
    put_to_event(bench, rounds, &store, &mut plain).await;
}

async fn put_to_event(bench: &mut Bench, rounds: usize, store: &EtcdStore, plain: &mut Client) {
    let from = Revision(store.get(Get::key("k"), TIMEOUT).await.unwrap().revision.0 + 1);
    let request = WatchRequest { range: KeyRange::key("w"), from, previous: false };
    let mut by_store = store.watch(request, TIMEOUT).await.unwrap();
    let mut by_plain = plain.watch("v", None).await.unwrap();
    by_plain.message().await.unwrap();
    measure!(
        bench,
        rounds,
        "put → event",
        {
            let event = next_event(by_store.as_mut());
            tokio::join!(store.txn(put("w"), TIMEOUT), event).0.unwrap();
        },
        {
            let (put, event) = tokio::join!(plain.put("v", VALUE, None), by_plain.message());
            put.unwrap();
            event.unwrap();
        }
    );
}

fn put(key: &str) -> Txn {
    let put = Op::Put { key: key.into(), value: VALUE.into(), lease: None };
    Txn { then: vec![put], ..Txn::default() }
}

fn store_txn(key: &str) -> Txn {
    let compare = Compare {
        range: KeyRange::key("plain/fence"),
        target: Target::Modified(Revision(0)),
        op: CompareOp::Equal,
    };
    Txn { compares: vec![compare], ..put(key) }
}

async fn next_event(watch: &mut dyn bellwether::store::Watch) {
    loop {
        if let WatchItem::Events { .. } = watch.next().await.unwrap() {
            return;
        }
    }
}

/// The calls of `Node`, each compared with the single call of the plain client that has the same result.
async fn node_calls(bench: &mut Bench, medium: Medium) {
    let etcd = common::etcd_with_cluster(medium).await;
    let (sender, mut offices) = mpsc::channel(1);
    let node: Arc<dyn Node> = Arc::new(leader(&etcd, sender));
    node.start().await.unwrap();
    let office = timeout(LONG, offices.recv()).await.unwrap().unwrap();
    let fenced = office.fenced();
    let mut plain = etcd.client().await;
    let keys = Keys::new(CLUSTER).unwrap();
    // The key has the plain client as its only writer, as a node's own keys have the node.
    let own = keys.state("plain", node.id()).unwrap();
    let lease = node.status().await.unwrap().node.incarnation.unwrap().0;
    let range = |range: KeyRange| (range.from, GetOptions::new().with_range(range.to));
    let rounds = bench.rounds(2000, 400);
    Bench::times();
    let on_lease = PutOptions::new().with_lease(lease);
    measure!(
        bench,
        rounds,
        "`put`",
        node.put("k", &VALUE).await.unwrap(),
        plain.put(own.clone(), VALUE, Some(on_lease.clone())).await.unwrap()
    );
    measure!(
        bench,
        rounds,
        "`get`",
        node.get("k").await.unwrap().unwrap(),
        plain.get(own.clone(), None).await.unwrap()
    );
    let (from, all) = range(keys.state_of_all("k").unwrap());
    measure!(
        bench,
        rounds,
        "`get_cluster`",
        node.get_cluster("k").await.unwrap(),
        plain.get(from.clone(), Some(all.clone())).await.unwrap()
    );
    let (from, all) = range(keys.nodes());
    measure!(
        bench,
        rounds,
        "`get_nodes`",
        node.get_nodes().await.unwrap(),
        plain.get(from.clone(), Some(all.clone())).await.unwrap()
    );
    measure!(
        bench,
        rounds,
        "`get_leader`",
        node.get_leader().await.unwrap().unwrap(),
        plain.get(keys.record(), None).await.unwrap()
    );
    measure!(
        bench,
        rounds,
        "`fenced().put`",
        fenced.put("k", VALUE.to_vec()).await.unwrap(),
        plain.txn(guarded_put("k")).await.unwrap()
    );
    measure!(bench, rounds, "`delete`", node.delete("gone").await.unwrap(), {
        plain.delete("gone", Some(DeleteOptions::new().with_prev_key())).await.unwrap()
    });
    node.close().await.unwrap();
}

/// A node whose leader routine hands out its context.
fn leader(etcd: &Etcd, offices: mpsc::Sender<LeaderContext>) -> ClusterNode {
    ClusterNode::builder()
        .cluster(CLUSTER)
        .id(1)
        .etcd(EtcdConfig::new(etcd.endpoints()))
        .on_leader_tick(move |ctx: LeaderContext| {
            // The first context is enough.
            let _ = offices.try_send(ctx);
            async { Ok::<(), WorkError>(()) }
        })
        .build()
        .unwrap()
}
