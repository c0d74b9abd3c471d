//! The watch of users.

use futures::FutureExt as _;
use tokio::sync::watch::channel;
use tokio_util::sync::CancellationToken;

use super::*;

fn kv(key: &str, value: &str, created: i64, modified: i64, version: i64) -> Arc<KeyValue> {
    Arc::new(KeyValue {
        key: key.into(),
        value: value.into(),
        created: Revision(created),
        modified: Revision(modified),
        version,
        lease: None,
    })
}

fn delta(revision: i64, before: Option<Arc<KeyValue>>, now: Option<Arc<KeyValue>>) -> StateItem {
    StateItem::Changed(Delta { revision: Revision(revision), now, before })
}

fn watch(store: &MemoryStore, start: StateStart) -> StateWatch {
    let (_, replacements) = channel(0);
    let end = CancellationToken::new();
    StateWatch::start(Arc::new(store.clone()), range(), start, OPTIONS, replacements, end)
}

fn lagged(cause: LagCause, revision: i64, kvs: Vec<Arc<KeyValue>>) -> StateItem {
    StateItem::Lagged { cause, revision: Revision(revision), kvs }
}

/// From now on no call reaches the store, and no watch delivers.
fn cut_off(store: &MemoryStore) {
    store.faults().set(|_| Some(Fault::Unreachable));
    store.faults().cut_watches();
}

#[tokio::test]
async fn a_state_watch_tells_added_modified_and_deleted_with_what_was_before() {
    let store = MemoryStore::new();
    put(&store, "k0", "there");
    let mut watch = watch(&store, StateStart::Now);
    assert_eq!(soon(watch.started()).await.unwrap(), Some(Revision(2)));
    put(&store, "k", "1");
    put(&store, "k", "1");
    delete(&store, "k");
    delete(&store, "k0");
    let (first, second) = (kv("k", "1", 3, 3, 1), kv("k", "1", 3, 4, 2));
    for expected in [
        delta(3, None, Some(Arc::clone(&first))),
        delta(4, Some(first), Some(Arc::clone(&second))),
        delta(5, Some(second), None),
        delta(6, Some(kv("k0", "there", 2, 2, 1)), None),
    ] {
        assert_eq!(soon(watch.next()).await, Some(expected));
    }
}

#[tokio::test]
async fn a_state_watch_begins_with_a_snapshot_if_asked_to() {
    let store = MemoryStore::new();
    put(&store, "k1", "a");
    put(&store, "k2", "b");
    let mut watch = watch(&store, StateStart::Snapshot);
    soon(watch.started()).await.unwrap();
    let kvs = vec![kv("k1", "a", 2, 2, 1), kv("k2", "b", 3, 3, 1)];
    assert_eq!(soon(watch.next()).await, Some(StateItem::Snapshot { revision: Revision(3), kvs }));
    put(&store, "k3", "c");
    assert_eq!(soon(watch.next()).await, Some(delta(4, None, Some(kv("k3", "c", 4, 4, 1)))));
}

/// A list does not contain keys that were created and deleted before it, and its entries have revisions in
/// no order: the difference of two lists is no history.
#[tokio::test]
async fn a_watch_that_was_cut_off_over_a_compaction_is_told_so_with_what_is_there() {
    let store = MemoryStore::new();
    for key in ["k-deleted", "k-kept", "k-reborn"] {
        put(&store, key, "old");
    }
    let mut watch = watch(&store, StateStart::Now);
    soon(watch.started()).await.unwrap();
    cut_off(&store);
    delete(&store, "k-deleted");
    delete(&store, "k-reborn");
    put(&store, "k-reborn", "new");
    put(&store, "k-brief", "new");
    let last = delete(&store, "k-brief");
    store.compact(last).unwrap();
    store.faults().clear();
    let (kept, reborn) = (kv("k-kept", "old", 3, 3, 1), kv("k-reborn", "new", 7, 7, 1));
    assert_eq!(
        soon(watch.next()).await,
        Some(lagged(LagCause::CutOff, 9, vec![Arc::clone(&kept), reborn]))
    );
    put(&store, "k-kept", "new");
    let new = kv("k-kept", "new", 3, 10, 2);
    assert_eq!(soon(watch.next()).await, Some(delta(10, Some(kept), Some(new))));
    assert_eq!(watch.stats().lists, 2);
}

#[tokio::test]
async fn what_waits_for_its_reader_gives_way_to_the_snapshot_after_a_compaction() {
    let store = MemoryStore::new();
    let mut watch = watch(&store, StateStart::Now);
    soon(watch.started()).await.unwrap();
    let waits = put(&store, "k", "1");
    soon(async {
        while watch.stats().delivered < waits {
            tokio::task::yield_now().await;
        }
    })
    .await;
    cut_off(&store);
    let last = put(&store, "k", "2");
    put(&store, "other", "");
    store.compact(Revision(last.0 + 1)).unwrap();
    store.faults().clear();
    soon(async {
        while watch.stats().lists < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(
        soon(watch.next()).await,
        Some(lagged(LagCause::CutOff, 4, vec![kv("k", "2", 2, 3, 2)]))
    );
}

/// The restored store has a higher revision than the last delivered one of the old store: the headers of
/// its answers do not distinguish the two stores.
#[tokio::test]
async fn a_restored_store_that_has_overtaken_the_old_one_is_told_as_another_history() {
    let store = MemoryStore::new();
    put(&store, "k1", "kept");
    let backup = store.with_model(|model| model.clone());
    let mut watch = watch(&store, StateStart::Now);
    soon(watch.started()).await.unwrap();
    put(&store, "k2", "lost");
    assert!(matches!(soon(watch.next()).await, Some(StateItem::Changed(_))));
    cut_off(&store);
    store.with_model(|model| model.restore(&backup, None));
    for _ in 0..5 {
        put(&store, "k3", "new");
    }
    store.faults().clear();
    let kvs = vec![kv("k1", "kept", 2, 2, 1), kv("k3", "new", 3, 7, 5)];
    assert_eq!(soon(watch.next()).await, Some(lagged(LagCause::StoreReplaced, 7, kvs)));
}

#[tokio::test]
async fn a_wiped_store_is_told_as_another_history_whose_revisions_begin_again() {
    let store = MemoryStore::new();
    for value in ["1", "2", "3"] {
        put(&store, "k", value);
    }
    let mut watch = watch(&store, StateStart::Now);
    soon(watch.started()).await.unwrap();
    store.with_model(Model::wipe);
    put(&store, "k", "new");
    let new = kv("k", "new", 2, 2, 1);
    assert_eq!(
        soon(watch.next()).await,
        Some(lagged(LagCause::StoreReplaced, 2, vec![Arc::clone(&new)]))
    );
    delete(&store, "k");
    assert_eq!(soon(watch.next()).await, Some(delta(3, Some(new), None)));
}

#[tokio::test]
async fn another_cluster_id_is_told_as_another_history_even_if_it_holds_the_same() {
    let store = MemoryStore::new();
    put(&store, "k", "1");
    let mut watch = watch(&store, StateStart::Now);
    soon(watch.started()).await.unwrap();
    store.with_model(|model| model.set_cluster(1));
    assert_eq!(
        soon(watch.next()).await,
        Some(lagged(LagCause::StoreReplaced, 2, vec![kv("k", "1", 2, 2, 1)]))
    );
}

/// R8 (replaced store): the node detects by its own keys what a watch of an unchanged range cannot detect.
#[tokio::test]
async fn a_watch_lists_again_when_somebody_else_finds_the_store_replaced() {
    let store = MemoryStore::new();
    put(&store, "k", "1");
    let (found, replacements) = channel(0);
    let mut watch = StateWatch::start(
        Arc::new(store.clone()),
        range(),
        StateStart::Now,
        OPTIONS,
        replacements,
        CancellationToken::new(),
    );
    soon(watch.started()).await.unwrap();
    found.send_modify(|count| *count += 1);
    let there = kv("k", "1", 2, 2, 1);
    assert_eq!(
        soon(watch.next()).await,
        Some(lagged(LagCause::StoreReplaced, 2, vec![Arc::clone(&there)]))
    );
    drop(found);
    put(&store, "k", "2");
    let now = kv("k", "2", 2, 3, 2);
    assert_eq!(soon(watch.next()).await, Some(delta(3, Some(there), Some(now))));
}

#[tokio::test]
async fn a_slow_reader_is_told_what_it_missed_and_holds_up_nobody() {
    let store = MemoryStore::new();
    let mut slow = watch(&store, StateStart::Now);
    let mut quick = watch(&store, StateStart::Now);
    soon(async { tokio::try_join!(slow.started(), quick.started()) }).await.unwrap();
    let mut last = Revision(0);
    for value in 0..3000 {
        last = put(&store, "k", &value.to_string());
        assert!(matches!(soon(quick.next()).await, Some(StateItem::Changed(_))));
    }
    soon(async {
        while slow.stats().delivered < last {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let now = kv("k", "2999", 2, 3001, 3000);
    assert_eq!(
        soon(slow.next()).await,
        Some(lagged(LagCause::SlowReader { missed: 3000 }, last.0, vec![Arc::clone(&now)]))
    );
    delete(&store, "k");
    assert_eq!(soon(slow.next()).await, Some(delta(3002, Some(now), None)));
}

/// Even if the watches beneath break: the changes lead, without a gap or a repetition, from the first
/// contents to the last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_have_no_gap_and_no_repetition_over_cuts_compactions_and_stalls() {
    for seed in 0..12 {
        let store = MemoryStore::new();
        let mut rng = StdRng::seed_from_u64(seed);
        let mut watch = watch(&store, StateStart::Snapshot);
        let mut state: BTreeMap<Vec<u8>, Arc<KeyValue>> = BTreeMap::new();
        let writer = crate::tasks::spawn("writer", {
            let store = store.clone();
            async move {
                for step in 0..400 {
                    let key = format!("k{}", rng.random_range(0..6));
                    match rng.random_range(0..100) {
                        0..60 => drop(put(&store, &key, &step.to_string())),
                        60..85 => drop(delete(&store, &key)),
                        85..91 => store.faults().cut_watches(),
                        91..95 => {
                            let revision = store.with_model(|model| model.revision());
                            let _ = store.compact(revision);
                        }
                        95..96 => store.faults().stall_watches(),
                        _ => time::sleep(Duration::from_millis(1)).await,
                    }
                }
                store.faults().resume_watches();
                put(&store, "k-last", "")
            }
        });
        loop {
            match soon(watch.next()).await.unwrap() {
                StateItem::Snapshot { kvs, .. } | StateItem::Lagged { kvs, .. } => {
                    state = kvs.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
                }
                StateItem::Changed(Delta { now, before, .. }) => {
                    let key = now.as_ref().or(before.as_ref()).unwrap().key.clone();
                    assert_ne!(now, before, "seed {seed}: a repetition");
                    assert_eq!(state.remove(&key), before, "seed {seed}: a gap");
                    state.extend(now.map(|now| (key, now)));
                }
            }
            if state.contains_key(b"k-last".as_slice()) {
                break;
            }
        }
        writer.await.unwrap();
        let get = Get::range(range());
        let kvs = store.with_model(|model| model.get(BootTime::default(), &get).unwrap().kvs);
        let state: Vec<_> = state.into_values().map(|kv| KeyValue::clone(&kv)).collect();
        assert_eq!(state, kvs, "seed {seed}");
    }
}

#[tokio::test]
async fn a_state_watch_that_has_ended_says_so_after_what_it_saw_and_lets_go_of_the_store() {
    let store = MemoryStore::new();
    let (seen, end) = (Arc::new(store.clone()), CancellationToken::new());
    let kept = Arc::downgrade(&seen);
    let (_, replacements) = channel(0);
    let start = StateStart::Now;
    let mut watch = StateWatch::start(seen, range(), start, OPTIONS, replacements, end.clone());
    soon(watch.started()).await.unwrap();
    let last = put(&store, "k", "1");
    soon(async {
        while watch.stats().delivered < last {
            tokio::task::yield_now().await;
        }
    })
    .await;
    end.cancel();
    assert_eq!(soon(watch.next()).await, Some(delta(2, None, Some(kv("k", "1", 2, 2, 1)))));
    assert_eq!(soon(watch.next()).await, None);
    assert_eq!(soon(watch.next()).await, None);
    assert_eq!(kept.strong_count(), 0);
}

#[test]
fn a_state_watch_ends_with_the_runtime_that_it_lives_on() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (its_own, readers) = (runtime(), runtime());
    let mut following = its_own.block_on(async {
        let following = watch(&MemoryStore::new(), StateStart::Now);
        soon(following.started()).await.unwrap();
        following
    });
    let ended = readers.block_on(async {
        let waiting = soon(following.next());
        let (item, ()) = tokio::join!(waiting, async { its_own.shutdown_background() });
        item
    });
    assert_eq!(ended, None);
    // The reader of a watch that never listed anything is not blocked either.
    let gone = runtime();
    let inside = gone.enter();
    let unborn = watch(&MemoryStore::new(), StateStart::Now);
    drop(inside);
    drop(gone);
    assert_eq!(readers.block_on(soon(unborn.started())).unwrap(), None);
}

#[tokio::test]
async fn a_state_watch_says_at_once_that_it_is_refused_and_begins_when_it_no_longer_is() {
    let store = MemoryStore::new();
    store.faults().set(|_| Some(Fault::Denied));
    let watch = watch(&store, StateStart::Now);
    let refused = soon(watch.started()).await;
    assert!(matches!(refused, Err(StoreError::Denied { .. })), "{refused:?}");
    assert!(matches!(watch.failure(), Some(StoreError::Denied { .. })));
    store.faults().set(|_| Some(Fault::Unreachable));
    soon(async {
        while !matches!(watch.failure(), Some(StoreError::Unreachable { .. })) {
            time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert!(watch.started().now_or_never().is_none(), "that is no refusal");
    store.faults().clear();
    assert_eq!(soon(watch.started()).await.unwrap(), Some(Revision(1)));
}
