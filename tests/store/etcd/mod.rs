//! The etcd store against real servers, with every fault that the store must withstand.

mod auth;
mod calls;
mod faults;
mod tls;
mod watches;

use std::time::Duration;

use bellwether::{
    engine::{LeaseId, Revision},
    store::{
        Get, GetAnswer, KeyRange, Op, Store, StoreError, Txn, TxnAnswer, Watch, WatchItem,
        WatchRequest,
        etcd::{EtcdConfig, EtcdStore},
    },
};

use crate::support::etcd::Etcd;

/// Far more than any call here takes, on a busy machine.
const LONG: Duration = Duration::from_secs(20);

async fn store_on(etcd: &Etcd) -> EtcdStore {
    EtcdStore::connect(&EtcdConfig::new(etcd.endpoints())).await.unwrap()
}

async fn put_within(
    store: &EtcdStore,
    key: &str,
    value: &str,
    timeout: Duration,
) -> Result<TxnAnswer, StoreError> {
    let put = Op::Put { key: key.into(), value: value.into(), lease: None };
    store.txn(Txn { then: vec![put], ..Txn::default() }, timeout).await
}

async fn put(store: &EtcdStore, key: &str, value: &str) -> Result<TxnAnswer, StoreError> {
    put_within(store, key, value, LONG).await
}

async fn get(store: &EtcdStore, key: &str) -> Result<GetAnswer, StoreError> {
    store.get(Get::key(key), LONG).await
}

/// The value of a key, if the key exists.
async fn value(store: &EtcdStore, key: &str) -> Option<String> {
    let answer = get(store, key).await.unwrap();
    answer.kvs.into_iter().next().map(|kv| String::from_utf8(kv.value).unwrap())
}

async fn watch(
    store: &EtcdStore,
    prefix: &str,
    from: Revision,
) -> Result<Box<dyn Watch>, StoreError> {
    let request = WatchRequest { range: KeyRange::prefix(prefix), from, previous: true };
    store.watch(request, LONG).await
}

/// The next events of a watch: their revision, and `key=value` of each, `key!` for a delete.
async fn events(watch: &mut dyn Watch) -> (Revision, Vec<String>) {
    loop {
        let item = tokio::time::timeout(LONG, watch.next()).await.expect("events").unwrap();
        if let WatchItem::Events { revision, events } = item {
            let texts = events.iter().map(|event| {
                let key = String::from_utf8_lossy(&event.kv.key).into_owned();
                if event.deleted {
                    format!("{key}!")
                } else {
                    format!("{key}={}", String::from_utf8_lossy(&event.kv.value))
                }
            });
            return (revision, texts.collect());
        }
    }
}

fn lease(id: i64) -> LeaseId {
    LeaseId(id)
}
