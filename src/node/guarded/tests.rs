use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::store::memory::{Fault, MemoryStore, Seen};

const SOON: Duration = Duration::from_secs(10);
const KEY: &[u8] = b"/c/k";

fn put(value: &str) -> Write {
    Write::Put { value: value.as_bytes().to_vec(), lease: None }
}

async fn at(store: &MemoryStore) -> Option<KeyValue> {
    store.get(Get::key(KEY), SOON).await.unwrap().kvs.into_iter().next()
}

async fn unguarded(
    store: &MemoryStore,
    known: Revision,
    value: &str,
    policy: Policy,
    within: Duration,
) -> Result<(Revision, bool), Failed> {
    let place = Place { key: KEY, marker: None };
    write(store, || Some(None), place, known, &put(value), policy, within).await
}

/// Applies this fault to the first transaction.
fn first_txn(store: &MemoryStore, fault: Fault) {
    let seen = AtomicU64::new(0);
    store.faults().set(move |call| {
        let first = matches!(call, Seen::Txn(_)) && seen.fetch_add(1, Ordering::Relaxed) == 0;
        first.then_some(fault)
    });
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_takes_effect_once() {
    let store = MemoryStore::new();
    first_txn(&store, Fault::LostAnswer);
    let done = unguarded(&store, Revision(0), "1", Policy::Expect, SOON).await.unwrap();
    let kv = at(&store).await.unwrap();
    assert_eq!((kv.value.as_slice(), kv.version, kv.modified), (b"1".as_slice(), 1, done.0));
}

#[tokio::test]
async fn a_write_whose_request_is_lost_is_sent_again() {
    let store = MemoryStore::new();
    first_txn(&store, Fault::LostRequest);
    unguarded(&store, Revision(0), "1", Policy::Expect, SOON).await.unwrap();
    assert_eq!(at(&store).await.unwrap().version, 1);
}

#[tokio::test]
async fn a_late_copy_of_a_write_does_not_undo_a_newer_one() {
    let store = MemoryStore::new();
    first_txn(&store, Fault::SlowRequest(Duration::from_millis(300)));
    let short = Duration::from_millis(50);
    let late = unguarded(&store, Revision(0), "old", Policy::Overwrite, short).await;
    assert!(matches!(late, Err(Failed::Unknown(_))), "{late:?}");
    unguarded(&store, Revision(0), "new", Policy::Overwrite, SOON).await.unwrap();
    sleep(Duration::from_millis(500)).await;
    assert_eq!(at(&store).await.unwrap().value, b"new");
}

#[tokio::test]
async fn overwriting_needs_one_more_request_and_expecting_finds_the_conflict() {
    let store = MemoryStore::new();
    let first = unguarded(&store, Revision(0), "1", Policy::Overwrite, SOON).await.unwrap();
    let conflict = unguarded(&store, Revision(0), "2", Policy::Expect, SOON).await;
    assert!(matches!(conflict, Err(Failed::Changed(Some(kv))) if kv.modified == first.0));
    unguarded(&store, Revision(0), "2", Policy::Overwrite, SOON).await.unwrap();
    assert_eq!(at(&store).await.unwrap().value, b"2");
}

#[tokio::test]
async fn nothing_is_written_once_the_guard_is_another() {
    let store = MemoryStore::new();
    let guard = |modified| move || Some(Some(Guard::new(b"/c/guard".to_vec(), modified)));
    let write_at = async |modified: Revision| {
        let policy = Policy::Overwrite;
        let place = Place { key: KEY, marker: None };
        write(&store, guard(modified), place, Revision(0), &put("x"), policy, SOON).await
    };
    assert!(matches!(write_at(Revision(3)).await, Err(Failed::GuardLost)));
    assert_eq!(at(&store).await, None);
    let op = Op::Put { key: b"/c/guard".to_vec(), value: Vec::new(), lease: None };
    let there = store.txn(Txn { then: vec![op], ..Txn::default() }, SOON).await.unwrap().revision;
    write_at(there).await.unwrap();
    assert!(at(&store).await.is_some());
}

#[tokio::test]
async fn a_store_that_is_away_is_waited_for_until_the_deadline() {
    let store = MemoryStore::new();
    store.faults().set(|_| Some(Fault::Unreachable));
    let within = Duration::from_millis(120);
    let before = clock::boot_now();
    let failed = unguarded(&store, Revision(0), "1", Policy::Overwrite, within).await;
    assert!(matches!(failed, Err(Failed::Store(_))), "{failed:?}");
    assert!(Duration::from_millis(50) < clock::boot_now().since(before));
}

#[test]
fn what_is_known_of_keys_is_bounded() {
    let known = Known::new(&Keys::new("c").unwrap(), LeaseId(1));
    for n in 0..=KNOWN_MOST {
        known.learn(&n.to_be_bytes(), Revision(n as i64 + 1));
    }
    assert_eq!(known.of(&KNOWN_MOST.to_be_bytes()), Revision(KNOWN_MOST as i64 + 1));
    assert_eq!(known.of(&0_usize.to_be_bytes()), Revision(0), "forgotten");
    known.learn(b"k", Revision(5));
    known.learn(b"k", Revision(4));
    assert_eq!(known.of(b"k"), Revision(5), "it only grows");
}
