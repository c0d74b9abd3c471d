//! Behaviour of each call on a healthy etcd.

use std::time::Duration;

use bellwether::{
    engine::Revision,
    store::{
        Compare, CompareOp, Get, KeyRange, Op, Store, StoreError, Target, Txn,
        etcd::{EtcdConfig, EtcdStore},
        holds_revisions_back,
    },
};

use super::{LONG, get, lease, put, store_on, value};
use crate::support::{
    etcd::Etcd,
    eventually,
    proxy::{Fault, Proxy},
};

fn compare(
    range: KeyRange,
    target: fn(Revision) -> Target,
    op: CompareOp,
    revision: Revision,
) -> Compare {
    Compare { range, target: target(revision), op }
}

#[tokio::test]
async fn a_transaction_takes_the_list_that_its_compares_choose() {
    let etcd = Etcd::start().await;
    let store = store_on(&etcd).await;
    let absent = || compare(KeyRange::key("a"), Target::Created, CompareOp::Equal, Revision(0));
    let txn = Txn {
        compares: vec![absent()],
        then: vec![
            Op::Put { key: b"a".to_vec(), value: b"1".to_vec(), lease: None },
            Op::Get(Get::key("a")),
        ],
        otherwise: vec![Op::Get(Get::key("a")), Op::Delete(KeyRange::prefix("a"))],
    };
    let first = store.txn(txn.clone(), LONG).await.unwrap();
    assert!(first.succeeded);
    assert_eq!(first.reads[1][0].modified, first.revision);
    assert_eq!(first.reads[1][0].created, first.revision);
    let second = store.txn(txn, LONG).await.unwrap();
    assert!(!second.succeeded);
    assert_eq!(second.reads[0][0].value, b"1");
    assert_eq!(second.deleted, [0, 1]);
    assert_eq!(second.revision.0, first.revision.0 + 1);
    assert_eq!(second.cluster, first.cluster);
}

#[tokio::test]
async fn a_compare_of_a_range_must_hold_for_every_key_and_for_zero_if_there_is_none() {
    let etcd = Etcd::start().await;
    let store = store_on(&etcd).await;
    let r1 = put(&store, "p/1", "x").await.unwrap().revision;
    put(&store, "p/2", "x").await.unwrap();
    let holds = |range, op, revision| {
        let compares = vec![compare(range, Target::Modified, op, revision)];
        let txn = Txn { compares, then: vec![Op::Get(Get::key("p/1"))], ..Txn::default() };
        let store = &store;
        async move { store.txn(txn, LONG).await.unwrap().succeeded }
    };
    assert!(!holds(KeyRange::prefix("p/"), CompareOp::Equal, r1).await);
    assert!(!holds(KeyRange::prefix("p/"), CompareOp::Greater, r1).await);
    assert!(holds(KeyRange::prefix("p/"), CompareOp::Greater, Revision(r1.0 - 1)).await);
    for nothing in [KeyRange::prefix("q/"), KeyRange::key("q")] {
        assert!(!holds(nothing.clone(), CompareOp::Equal, r1).await);
        assert!(holds(nothing.clone(), CompareOp::Less, r1).await);
        assert!(holds(nothing, CompareOp::Equal, Revision(0)).await);
    }
}

#[tokio::test]
async fn a_get_honours_limit_keys_only_and_revision() {
    let etcd = Etcd::start().await;
    let store = store_on(&etcd).await;
    let old = put(&store, "p/1", "old").await.unwrap().revision;
    put(&store, "p/1", "new").await.unwrap();
    let newest = put(&store, "p/2", "x").await.unwrap().revision;
    let limited = Get { limit: 1, keys_only: true, ..Get::range(KeyRange::prefix("p/")) };
    let answer = store.get(limited, LONG).await.unwrap();
    assert!(answer.more && answer.kvs.len() == 1 && answer.kvs[0].value.is_empty());
    assert_eq!((answer.revision, answer.kvs[0].version), (newest, 2));
    let before = Get { at: Some(old), ..Get::range(KeyRange::prefix("p/")) };
    let answer = store.get(before, LONG).await.unwrap();
    assert_eq!(answer.kvs.iter().map(|kv| kv.value.as_slice()).collect::<Vec<_>>(), [b"old"]);
}

#[tokio::test]
async fn a_lease_takes_its_keys_along() {
    let etcd = Etcd::start().await;
    let store = store_on(&etcd).await;
    let id = lease(0x1234_5678_9abc_def0);
    let granted = store.grant(id, Duration::from_millis(4100), LONG).await.unwrap();
    assert_eq!(granted.ttl, Duration::from_secs(5), "rounded up");
    assert!(matches!(
        store.grant(id, Duration::from_secs(5), LONG).await,
        Err(StoreError::LeaseExists)
    ));
    let on_lease = Op::Put { key: b"k".to_vec(), value: b"v".to_vec(), lease: Some(id) };
    store.txn(Txn { then: vec![on_lease], ..Txn::default() }, LONG).await.unwrap();
    assert_eq!(get(&store, "k").await.unwrap().kvs[0].lease, Some(id));
    for _ in 0..3 {
        assert_eq!(store.keep_alive(id, LONG).await.unwrap().ttl, Duration::from_secs(5));
    }
    store.revoke(id, LONG).await.unwrap();
    assert_eq!(value(&store, "k").await, None);
    assert_eq!(store.keep_alive(id, LONG).await.unwrap().ttl, Duration::ZERO);
    assert!(matches!(store.revoke(id, LONG).await, Err(StoreError::LeaseNotFound)));
    let late = Op::Put { key: b"k".to_vec(), value: b"v".to_vec(), lease: Some(id) };
    let late = store.txn(Txn { then: vec![late], ..Txn::default() }, LONG).await;
    assert!(matches!(late, Err(StoreError::LeaseNotFound)), "{late:?}");
}

#[tokio::test]
async fn a_lease_that_ends_between_two_renewals_is_told() {
    let etcd = Etcd::start().await;
    let store = store_on(&etcd).await;
    store.grant(lease(7), Duration::from_secs(60), LONG).await.unwrap();
    assert_eq!(store.keep_alive(lease(7), LONG).await.unwrap().ttl, Duration::from_secs(60));
    etcd.etcdctl(&["lease", "revoke", "7"]);
    assert_eq!(store.keep_alive(lease(7), LONG).await.unwrap().ttl, Duration::ZERO);
}

#[tokio::test]
async fn connections_stay_few_over_a_thousand_calls() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.address(0)).await;
    let config = EtcdConfig::new([proxy.address().to_string()]);
    let store = EtcdStore::connect(&config).await.unwrap();
    store.grant(lease(9), Duration::from_secs(60), LONG).await.unwrap();
    for i in 0..1000 {
        put(&store, "k", &i.to_string()).await.unwrap();
        store.keep_alive(lease(9), LONG).await.unwrap();
    }
    assert_eq!((proxy.accepted(), proxy.open()), (1, 1));
    // The same holds after outages.
    for _ in 0..5 {
        proxy.set(Fault::Refuse);
        let refused = super::put_within(&store, "k", "x", Duration::from_millis(100)).await;
        assert!(refused.is_err());
        proxy.set(Fault::None);
        eventually("etcd answers again", LONG, async || put(&store, "k", "y").await.ok()).await;
    }
    eventually("one connection", LONG, async || (proxy.open() == 1).then_some(())).await;
    drop(store);
    eventually("no connection", LONG, async || (proxy.open() == 0).then_some(())).await;
}

#[tokio::test]
async fn a_store_whose_only_member_is_dead_is_not_healthy_and_names_the_problem() {
    let etcd = Etcd::start().await;
    let store = EtcdStore::connect(&EtcdConfig::new(etcd.endpoints())).await.unwrap();
    put(&store, "k", "v").await.unwrap();
    etcd.kill(0);
    super::put_within(&store, "k", "v", Duration::from_millis(200)).await.unwrap_err();
    assert!(!store.health().healthy);
    assert!(store.health().problem.is_some());
}

#[tokio::test]
async fn a_store_that_nobody_compacts_is_noticed() {
    let etcd = Etcd::start().await;
    let store = store_on(&etcd).await;
    for i in 0..20 {
        put(&store, "k", &i.to_string()).await.unwrap();
    }
    assert!(holds_revisions_back(&store, b"k", 10, LONG).await.unwrap());
    assert!(!holds_revisions_back(&store, b"k", 1000, LONG).await.unwrap(), "none that old");
    let newest = get(&store, "k").await.unwrap().revision;
    etcd.etcdctl(&["compact", &newest.to_string()]);
    assert!(!holds_revisions_back(&store, b"k", 10, LONG).await.unwrap());
}

#[tokio::test]
async fn members_say_what_they_are() {
    let etcd = Etcd::options().members(3).start().await;
    let store = store_on(&etcd).await;
    let members = store.members(LONG).await;
    let members: Vec<_> = members.into_iter().map(Result::unwrap).collect();
    assert_eq!(members.iter().filter(|member| member.leads).count(), 1);
    for member in &members {
        assert_eq!(member.version, "3.7.3");
        assert!(!member.is_learner && member.alarms.is_empty() && member.db_bytes > 0);
    }
}

#[tokio::test]
async fn a_full_etcd_is_told_apart_from_a_broken_one() {
    let etcd = Etcd::options().flag("--quota-backend-bytes=300000").start().await;
    let store = store_on(&etcd).await;
    let big = "x".repeat(100_000);
    let full = eventually("etcd is full", LONG, async || put(&store, "k", &big).await.err()).await;
    let said = full.to_string();
    assert!(matches!(full, StoreError::Overloaded { .. }), "{said}");
    assert!(said.contains("alarm disarm") && full.is_transient(), "{said}");
    // Reads and renewals still work.
    assert!(value(&store, "k").await.is_some());
}

#[tokio::test]
async fn what_is_too_large_for_etcd_is_refused_for_good() {
    let etcd = Etcd::start().await;
    let store = store_on(&etcd).await;
    let refused = put(&store, "k", &"x".repeat(2_000_000)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Denied { .. }), "{refused}");
    assert!(refused.to_string().contains("--max-request-bytes"), "{refused}");
    // More than the 4 MiB that gRPC decodes by default.
    let value = "x".repeat(1_000_000);
    for i in 0..6 {
        put(&store, &format!("big/{i}"), &value).await.unwrap();
    }
    let all = store.get(Get::range(KeyRange::prefix("big/")), LONG).await.unwrap();
    assert_eq!(all.kvs.iter().map(|kv| kv.value.len()).sum::<usize>(), 6_000_000);
}

#[tokio::test]
async fn something_that_is_no_etcd_is_named() {
    let etcd = Etcd::start().await;
    // The peer port speaks HTTP, but not gRPC.
    let config = EtcdConfig::new([etcd.peer_address(0).to_string()]);
    let error = EtcdStore::connect(&config).await.unwrap_err();
    let said = std::error::Error::source(&error).unwrap().to_string();
    assert!(said.contains("no etcd answers there"), "{said}");
}
