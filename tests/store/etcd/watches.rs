//! Watches on a healthy etcd, and the effects of compaction and restarts on watches.

use bellwether::{
    engine::Revision,
    store::{KeyRange, Op, Store, StoreError, Txn, WatchItem},
};

use super::{LONG, events, get, put, store_on, watch};
use crate::support::{etcd::Etcd, eventually};

#[tokio::test]
async fn a_revision_comes_whole_and_with_what_was_before() {
    let etcd = Etcd::start().await;
    let store = store_on(&etcd).await;
    let start = put(&store, "p/1", "old").await.unwrap().revision;
    let mut watch = watch(&store, "p/", Revision(start.0 + 1)).await.unwrap();
    let ops = vec![
        Op::Delete(KeyRange::key("p/1")),
        Op::Put { key: b"p/2".to_vec(), value: b"b".to_vec(), lease: None },
        Op::Put { key: b"q/3".to_vec(), value: b"elsewhere".to_vec(), lease: None },
    ];
    let txn = store.txn(Txn { then: ops, ..Txn::default() }, LONG).await.unwrap();
    let item = watch.next().await.unwrap();
    let WatchItem::Events { revision, events } = item else { panic!("{item:?}") };
    assert_eq!(revision, txn.revision);
    assert_eq!(events.len(), 2);
    let previous = events[0].previous.as_ref().unwrap();
    assert!(events[0].deleted && previous.value == b"old" && previous.modified == start);
    assert!(!events[1].deleted && events[1].previous.is_none());
}

#[tokio::test]
async fn history_is_caught_up_with_in_order_and_more_than_one_message_can_hold() {
    let etcd = Etcd::start().await;
    let store = store_on(&etcd).await;
    let start = get(&store, "p/").await.unwrap().revision;
    let value = "x".repeat(500_000);
    for i in 0..30 {
        put(&store, &format!("p/{i}"), &value).await.unwrap();
    }
    let mut watch = watch(&store, "p/", Revision(start.0 + 1)).await.unwrap();
    for i in 0..30 {
        let (revision, texts) = events(watch.as_mut()).await;
        assert_eq!(revision.0, start.0 + 1 + i);
        assert_eq!(texts.len(), 1);
        assert!(texts[0].starts_with(&format!("p/{i}=")));
    }
}

#[tokio::test]
async fn a_large_revision_in_parts_is_put_together() {
    let etcd = Etcd::options().flag("--max-request-bytes=20000000").start().await;
    let store = store_on(&etcd).await;
    let start = get(&store, "p/").await.unwrap().revision;
    let value = vec![b'x'; 400_000];
    let put = |i: i32| Op::Put { key: format!("p/{i}").into(), value: value.clone(), lease: None };
    let big = Txn { then: (0..20).map(put).collect(), ..Txn::default() };
    let big = store.txn(big, LONG).await.unwrap();
    let mut watch = watch(&store, "p/", Revision(start.0 + 1)).await.unwrap();
    let (revision, texts) = events(watch.as_mut()).await;
    assert_eq!((revision, texts.len()), (big.revision, 20));
}

#[tokio::test]
async fn progress_is_told_when_asked_for() {
    let etcd = Etcd::start().await;
    let store = store_on(&etcd).await;
    let start = put(&store, "elsewhere", "x").await.unwrap().revision;
    let mut watch = watch(&store, "p/", Revision(start.0 + 1)).await.unwrap();
    let newest = put(&store, "elsewhere", "y").await.unwrap().revision;
    let progress = eventually("progress up to the newest revision", LONG, async || {
        watch.request_progress().await.unwrap();
        match watch.next().await.unwrap() {
            WatchItem::Progress { revision } if revision >= newest => Some(revision),
            WatchItem::Progress { .. } => None,
            other @ WatchItem::Events { .. } => panic!("{other:?}"),
        }
    })
    .await;
    assert_eq!(progress, newest);
}

#[tokio::test]
async fn a_watch_of_compacted_history_says_what_is_left() {
    let etcd = Etcd::start().await;
    let store = store_on(&etcd).await;
    let first = put(&store, "p/1", "a").await.unwrap().revision;
    put(&store, "p/1", "b").await.unwrap();
    let newest = put(&store, "p/1", "c").await.unwrap().revision;
    etcd.etcdctl(&["compact", &newest.to_string()]);
    let opened = watch(&store, "p/", first).await;
    let error = match opened {
        Ok(mut watch) => watch.next().await.unwrap_err(),
        Err(error) => error,
    };
    match error {
        StoreError::Compacted { asked, oldest } => assert_eq!((asked, oldest), (first, newest)),
        other => panic!("{other}"),
    }
    let read = bellwether::store::Get { at: Some(first), ..bellwether::store::Get::key("p/1") };
    assert!(matches!(store.get(read, LONG).await, Err(StoreError::Compacted { .. })));
}

#[tokio::test]
async fn compaction_does_not_touch_a_watch_that_is_up_to_date() {
    let etcd = Etcd::start().await;
    let store = store_on(&etcd).await;
    let start = put(&store, "p/1", "a").await.unwrap().revision;
    let mut watch = watch(&store, "p/", Revision(start.0 + 1)).await.unwrap();
    let newest = put(&store, "p/1", "b").await.unwrap().revision;
    assert_eq!(events(watch.as_mut()).await.0, newest);
    etcd.etcdctl(&["compact", &newest.to_string()]);
    put(&store, "p/1", "c").await.unwrap();
    assert_eq!(events(watch.as_mut()).await.1, ["p/1=c"]);
}

#[tokio::test]
async fn a_restart_ends_a_watch_and_the_next_one_goes_on_where_it_ended() {
    let etcd = Etcd::start().await;
    let store = store_on(&etcd).await;
    let start = put(&store, "p/1", "a").await.unwrap().revision;
    let mut first = watch(&store, "p/", Revision(start.0 + 1)).await.unwrap();
    let seen = put(&store, "p/1", "b").await.unwrap().revision;
    assert_eq!(events(first.as_mut()).await.0, seen);
    etcd.restart(0).await;
    let ended = tokio::time::timeout(LONG, first.next()).await.unwrap().unwrap_err();
    assert!(matches!(ended, StoreError::Broken { .. }) && ended.is_transient(), "{ended}");
    put(&store, "p/1", "c").await.unwrap();
    let mut second = watch(&store, "p/", Revision(seen.0 + 1)).await.unwrap();
    assert_eq!(events(second.as_mut()).await.1, ["p/1=c"]);
}

#[tokio::test]
async fn wiped_data_shows_as_a_smaller_revision() {
    let etcd = Etcd::start().await;
    let store = store_on(&etcd).await;
    for i in 0..10 {
        put(&store, "k", &i.to_string()).await.unwrap();
    }
    let before = get(&store, "k").await.unwrap();
    etcd.wipe(0);
    etcd.start_again(0).await;
    let after = get(&store, "k").await.unwrap();
    assert!(after.revision < before.revision && after.kvs.is_empty());
    // The cluster id is a hash of addresses and token, so the same id proves nothing.
    assert_eq!(after.cluster, before.cluster);
}
