//! How long node operations take through `EtcdStore`, against the plain etcd client in the same run on
//! the same etcd.
//!
//! ```text
//! cargo bench --bench store            # in memory
//! cargo bench --bench store -- --disk  # every commit costs an fsync
//! ```
//!
//! The two are called in turn, so that what else the machine does hits both alike. Ratios count, not
//! milliseconds.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement, not a library")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::Duration;

use bellwether::{
    clock::boot_now,
    engine::{LeaseId, Revision},
    store::{
        Compare, CompareOp, Get, KeyRange, Op, Store, Target, Txn, WatchItem, WatchRequest,
        etcd::{EtcdConfig, EtcdStore},
    },
};
use etcd_client::{Client, Compare as EtcdCompare, CompareOp as EtcdOp, Txn as EtcdTxn, TxnOp};
use support::etcd::{Etcd, Medium};

const ROUNDS: usize = 3000;
const WARM_UP: usize = 300;
const TIMEOUT: Duration = Duration::from_secs(10);

/// Times of one operation by the store and by the plain client.
struct Pair {
    name: &'static str,
    store: Vec<Duration>,
    plain: Vec<Duration>,
}

impl Pair {
    fn row(&mut self) {
        let [store_50, store_99] = percentiles(&mut self.store);
        let [plain_50, plain_99] = percentiles(&mut self.plain);
        println!(
            "{:<14} {:>8.3} {:>8.3} {:>7.2} {:>9.3} {:>8.3} {:>7.2}",
            self.name,
            store_50,
            plain_50,
            store_50 / plain_50,
            store_99,
            plain_99,
            store_99 / plain_99
        );
    }
}

/// p50 and p99 in milliseconds.
fn percentiles(times: &mut [Duration]) -> [f64; 2] {
    times.sort_unstable();
    [50, 99].map(|p| times[times.len() * p / 100].as_secs_f64() * 1e3)
}

/// Calls both in turn; which one goes first changes every time.
macro_rules! measure {
    ($name:expr, $store:expr, $plain:expr) => {{
        let mut pair = Pair { name: $name, store: Vec::new(), plain: Vec::new() };
        for round in 0..ROUNDS + WARM_UP {
            for turn in 0..2 {
                let by_store = (round + turn) % 2 == 0;
                let began = boot_now();
                if by_store {
                    $store;
                } else {
                    $plain;
                }
                let took = boot_now().since(began);
                if round >= WARM_UP {
                    (if by_store { &mut pair.store } else { &mut pair.plain }).push(took);
                }
            }
        }
        pair.row();
    }};
}

fn store_txn(key: &str) -> Txn {
    let compare = Compare {
        range: KeyRange::key("fence"),
        target: Target::Modified,
        op: CompareOp::Equal,
        revision: Revision(0),
    };
    let put = Op::Put { key: key.into(), value: vec![b'x'; 100], lease: None };
    Txn { compares: vec![compare], then: vec![put], ..Txn::default() }
}

fn plain_txn(key: &str) -> EtcdTxn {
    EtcdTxn::new()
        .when([EtcdCompare::mod_revision("fence", EtcdOp::Equal, 0)])
        .and_then([TxnOp::put(key, vec![b'x'; 100], None)])
}

async fn next_event(watch: &mut dyn bellwether::store::Watch) {
    loop {
        if let WatchItem::Events { .. } = watch.next().await.unwrap() {
            return;
        }
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let medium =
        if std::env::args().any(|arg| arg == "--disk") { Medium::Disk } else { Medium::Memory };
    let etcd = Etcd::options().medium(medium).start().await;
    let store = EtcdStore::connect(&EtcdConfig::new(etcd.endpoints())).await.unwrap();
    let mut plain = Client::connect(etcd.endpoints(), None).await.unwrap();
    println!("etcd {medium:?}, {ROUNDS} calls each, one caller, milliseconds");
    println!(
        "{:<14} {:>8} {:>8} {:>7} {:>9} {:>8} {:>7}",
        "", "p50", "plain", "ratio", "p99", "plain", "ratio"
    );
    measure!(
        "put",
        {
            let put = Op::Put { key: b"k".to_vec(), value: vec![b'x'; 100], lease: None };
            store.txn(Txn { then: vec![put], ..Txn::default() }, TIMEOUT).await.unwrap();
        },
        plain.put("k", vec![b'x'; 100], None).await.unwrap()
    );
    measure!(
        "fenced txn",
        store.txn(store_txn("k"), TIMEOUT).await.unwrap(),
        plain.txn(plain_txn("k")).await.unwrap()
    );
    measure!(
        "get",
        store.get(Get::key("k"), TIMEOUT).await.unwrap(),
        plain.get("k", None).await.unwrap()
    );
    store.grant(LeaseId(1), Duration::from_secs(60), TIMEOUT).await.unwrap();
    store.grant(LeaseId(2), Duration::from_secs(60), TIMEOUT).await.unwrap();
    let (mut keeper, mut answers) = plain.lease_keep_alive(2).await.unwrap();
    measure!("keepalive", store.keep_alive(LeaseId(1), TIMEOUT).await.unwrap(), {
        keeper.keep_alive().await.unwrap();
        answers.message().await.unwrap().unwrap();
    });
    let from = Revision(store.get(Get::key("k"), TIMEOUT).await.unwrap().revision.0 + 1);
    let request = |key: &str| WatchRequest { range: KeyRange::key(key), from, previous: false };
    let mut by_store = store.watch(request("w"), TIMEOUT).await.unwrap();
    let mut by_plain = plain.watch("v", None).await.unwrap();
    by_plain.message().await.unwrap();
    measure!(
        "put to event",
        {
            let put = Op::Put { key: b"w".to_vec(), value: vec![b'x'; 100], lease: None };
            let (put, ()) = tokio::join!(
                store.txn(Txn { then: vec![put], ..Txn::default() }, TIMEOUT),
                next_event(by_store.as_mut())
            );
            put.unwrap();
        },
        {
            let (put, event) =
                tokio::join!(plain.put("v", vec![b'x'; 100], None), by_plain.message());
            put.unwrap();
            event.unwrap();
        }
    );
}
