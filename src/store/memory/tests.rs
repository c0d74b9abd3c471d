use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::store::{Event, KeyRange, KeyValue, Op, WatchItem};

const SOON: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(30);

fn put(key: &str, lease: Option<LeaseId>) -> Txn {
    let put = Op::Put { key: key.into(), value: b"v".to_vec(), lease };
    Txn { then: vec![put], ..Txn::default() }
}

async fn write(store: &MemoryStore, key: &str) -> Revision {
    store.txn(put(key, None), LONG).await.unwrap().revision
}

async fn watch(store: &MemoryStore, from: i64) -> Box<dyn Watch> {
    let range = KeyRange::prefix("k");
    store.watch(WatchRequest { range, from: Revision(from), previous: false }, LONG).await.unwrap()
}

fn wrote(key: &str, revision: i64) -> WatchItem {
    let kv = KeyValue {
        key: key.into(),
        value: b"v".to_vec(),
        created: Revision(revision),
        modified: Revision(revision),
        version: 1,
        lease: None,
    };
    WatchItem::Events {
        revision: Revision(revision),
        events: vec![Event { kv, deleted: false, previous: None }],
    }
}

async fn next(watch: &mut Box<dyn Watch>) -> WatchItem {
    tokio::time::timeout(LONG, watch.next()).await.expect("an item comes").unwrap()
}

#[tokio::test]
async fn a_watch_delivers_what_was_and_what_comes_and_reports_progress() {
    let store = MemoryStore::new();
    write(&store, "k1").await;
    let mut watch = watch(&store, 2).await;
    write(&store, "other").await;
    write(&store, "k2").await;
    assert_eq!(next(&mut watch).await, wrote("k1", 2));
    assert_eq!(next(&mut watch).await, wrote("k2", 4));
    watch.request_progress().await.unwrap();
    assert_eq!(next(&mut watch).await, WatchItem::Progress { revision: Revision(4) });
    let (item, _) = tokio::join!(next(&mut watch), async {
        tokio::task::yield_now().await;
        write(&store, "k3").await
    });
    assert_eq!(item, wrote("k3", 5));
}

#[tokio::test]
async fn a_lease_ends_on_time_for_a_watch_that_only_waits() {
    let store = MemoryStore::new();
    let mut watch = watch(&store, 2).await;
    let waiting =
        crate::tasks::spawn(
            "waiting",
            async move { [next(&mut watch).await, next(&mut watch).await] },
        );
    tokio::task::yield_now().await;
    let lease = LeaseId(7);
    let granted = clock::boot_now();
    store.grant(lease, Duration::from_secs(1), LONG).await.unwrap();
    store.txn(put("k", Some(lease)), LONG).await.unwrap();
    let [_, WatchItem::Events { revision, events }] = waiting.await.unwrap() else {
        panic!("two revisions");
    };
    assert!((revision, events[0].deleted) == (Revision(3), true));
    assert!(clock::boot_now().since(granted) >= Duration::from_secs(2));
}

#[tokio::test]
async fn a_watch_that_lags_beyond_a_compaction_is_told_so() {
    let store = MemoryStore::new();
    let mut watch = watch(&store, 2).await;
    for _ in 0..3 {
        write(&store, "k").await;
    }
    store.compact(Revision(4)).unwrap();
    let error = watch.next().await.unwrap_err();
    assert!(matches!(error, StoreError::Compacted { asked: Revision(2), oldest: Revision(4) }));
    assert!(matches!(watch.next().await, Err(StoreError::Broken { .. })));
}

#[tokio::test]
async fn the_history_of_a_long_life_stays_bounded() {
    let store = MemoryStore::new();
    for _ in 0..25_000 {
        store.with_model(|model| model.txn(BootTime::default(), &put("k", None)).unwrap());
    }
    let (revision, compacted) = store.with_model(|model| (model.revision(), model.compacted()));
    assert_eq!(revision, Revision(25_001));
    assert!((KEPT_REVISIONS..=2 * KEPT_REVISIONS).contains(&(revision.0 - compacted.0)));
}

#[tokio::test]
async fn each_fault_does_what_it_says() {
    let store = MemoryStore::new();
    for (fault, effect, unknown) in [
        (Fault::LostRequest, false, true),
        (Fault::LostAnswer, true, true),
        (Fault::Interrupted, true, true),
        (Fault::Unreachable, false, false),
        (Fault::Denied, false, false),
        (Fault::Overloaded, false, false),
        (Fault::SlowAnswer(LONG), true, true),
    ] {
        let before = store.with_model(|model| model.revision());
        store.faults().set(move |_| Some(fault));
        let error = store.txn(put("k", None), SOON).await.unwrap_err();
        let changed = store.with_model(|model| model.revision()) != before;
        assert_eq!(changed, effect, "{fault:?}");
        assert_eq!(error.effected() == crate::store::Effected::Unknown, unknown, "{fault:?}");
    }
    store.faults().set(|_| Some(Fault::SlowRequest(SOON)));
    store.txn(put("k", None), LONG).await.unwrap();
}

#[tokio::test]
async fn a_request_that_nobody_waits_for_any_more_may_still_take_effect() {
    let store = MemoryStore::new();
    let mut watch = watch(&store, 2).await;
    store.faults().set(|seen| matches!(seen, Seen::Txn(_)).then_some(Fault::SlowRequest(2 * SOON)));
    let error = store.txn(put("k", None), SOON).await.unwrap_err();
    assert!(matches!(error, StoreError::Unanswered { call: "txn", .. }));
    assert!(store.with_model(|model| model.is_empty()));
    assert_eq!(next(&mut watch).await, wrote("k", 2));
}

#[tokio::test]
async fn a_request_does_not_outlive_the_store_that_it_was_sent_to() {
    let store = MemoryStore::new();
    let backup = store.with_model(|model| model.clone());
    store.faults().set(|seen| matches!(seen, Seen::Txn(_)).then_some(Fault::SlowRequest(SOON)));
    let put = store.txn(put("k", None), LONG);
    let restore = async { store.with_model(|model| model.restore(&backup, None)) };
    let (late, ()) = tokio::join!(biased; put, restore);
    assert!(matches!(late, Err(StoreError::Broken { .. })), "{late:?}");
    assert!(store.with_model(|model| model.is_empty()));
}

#[tokio::test]
async fn a_rule_chooses_which_call_a_fault_befalls() {
    let store = MemoryStore::new();
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    store.faults().set(move |seen| {
        let second = matches!(seen, Seen::Txn(_)) && counted.fetch_add(1, Ordering::Relaxed) == 1;
        second.then_some(Fault::Unreachable)
    });
    store.txn(put("k", None), LONG).await.unwrap();
    store.txn(put("k", None), LONG).await.unwrap_err();
    store.get(Get::key("k"), LONG).await.unwrap();
    store.txn(put("k", None), LONG).await.unwrap();
    store.faults().clear();
    assert_eq!(count.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn cut_watches_break_and_stalled_ones_fall_silent_until_another_member_is_asked() {
    let store = MemoryStore::new();
    let mut cut = watch(&store, 2).await;
    store.faults().cut_watches();
    assert!(matches!(cut.next().await, Err(StoreError::Broken { .. })));

    let mut silent = watch(&store, 2).await;
    store.faults().stall_watches();
    write(&store, "k").await;
    silent.request_progress().await.unwrap();
    assert!(tokio::time::timeout(SOON, silent.next()).await.is_err());
    let mut same = watch(&store, 2).await;
    assert!(tokio::time::timeout(SOON, same.next()).await.is_err());
    store.avoid_current();
    let mut other = watch(&store, 2).await;
    assert_eq!(next(&mut other).await, wrote("k", 2));
    assert_eq!(store.faults().members_avoided(), 1);
    store.faults().resume_watches();
    assert_eq!(next(&mut silent).await, wrote("k", 2));
}

#[tokio::test]
async fn only_a_store_that_began_here_is_own() {
    assert!(MemoryStore::new().is_own());
    assert!(!MemoryStore::from_model(Model::new(ModelConfig::default())).is_own());
    assert_ne!(
        MemoryStore::new().with_model(|model| model.cluster()),
        MemoryStore::new().with_model(|model| model.cluster())
    );
}
