mod history;
mod state;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Mutex,
};

use async_trait::async_trait;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::oneshot;

use super::*;
use crate::{
    engine::{Change, Input, LeaseId, NodeId, StoreTiming},
    store::{
        GetAnswer, Health, LeaseAnswer, Op, Txn, TxnAnswer, Watch,
        keys::Keys,
        memory::{Fault, MemoryStore, Model, Seen},
    },
};

const LONG: Duration = Duration::from_secs(30);

/// Short times, so that tests need not wait long. Each is still long compared with what it limits here.
const OPTIONS: Options = Options {
    timeout: Duration::from_millis(500),
    probe_after: Duration::from_millis(40),
    stale_after: Duration::from_millis(200),
    after_break: AfterBreak::Resume,
};

/// Options with a probe that never becomes due: every delivery comes from the store, never from a probe.
const PATIENT: Options = Options { probe_after: LONG, ..OPTIONS };

async fn soon<T>(future: impl Future<Output = T>) -> T {
    time::timeout(LONG, future).await.expect("within the deadline")
}

fn range() -> KeyRange {
    KeyRange::prefix("k")
}

fn put(store: &MemoryStore, key: &str, value: &str) -> Revision {
    let put = Op::Put { key: key.into(), value: value.into(), lease: None };
    let txn = Txn { then: vec![put], ..Txn::default() };
    store.with_model(|model| model.txn(BootTime::default(), &txn).unwrap().revision)
}

fn delete(store: &MemoryStore, key: &str) -> Revision {
    let txn = Txn { then: vec![Op::Delete(KeyRange::key(key))], ..Txn::default() };
    store.with_model(|model| model.txn(BootTime::default(), &txn).unwrap().revision)
}

/// Contents of an item, without its times.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Listed(i64, Vec<String>),
    Resumed(Vec<String>),
    Changed(i64, Vec<String>),
    Progress(i64),
    Lost,
}

fn shown(kv: &KeyValue) -> String {
    format!("{}={}", String::from_utf8_lossy(&kv.key), String::from_utf8_lossy(&kv.value))
}

async fn said(list_watch: &mut ListWatch) -> Said {
    match soon(list_watch.next()).await {
        Item::Listed { sent_at, received_at, revision, kvs, .. } => {
            assert!(sent_at <= received_at);
            Said::Listed(revision.0, kvs.iter().map(shown).collect())
        }
        Item::Resumed { kvs } => Said::Resumed(kvs.iter().map(shown).collect()),
        Item::Changed { revision, events, .. } => {
            Said::Changed(revision.0, events.iter().map(|event| shown(&event.kv)).collect())
        }
        Item::Progress { revision } => Said::Progress(revision.0),
        Item::Lost => Said::Lost,
    }
}

fn follow(store: &MemoryStore, options: Options) -> ListWatch {
    ListWatch::new(Arc::new(store.clone()), range(), options)
}

fn changed(revision: i64, what: &str) -> Said {
    Said::Changed(revision, vec![what.into()])
}

#[tokio::test]
async fn a_list_is_followed_by_every_later_revision_that_touches_the_range() {
    let store = MemoryStore::new();
    put(&store, "k1", "a");
    let mut list_watch = follow(&store, PATIENT);
    assert_eq!(said(&mut list_watch).await, Said::Listed(2, vec!["k1=a".into()]));
    put(&store, "k1", "b");
    put(&store, "other", "x");
    delete(&store, "k1");
    assert_eq!(said(&mut list_watch).await, changed(3, "k1=b"));
    assert_eq!(said(&mut list_watch).await, changed(5, "k1="));
}

#[tokio::test]
async fn a_long_list_is_read_in_pages_of_one_revision() {
    let store = MemoryStore::new();
    for key in 0..4203 {
        put(&store, &format!("k{key:04}"), "");
    }
    // Between the first page and the second, keys are added in front and at the end.
    let (written, other) = (Mutex::new(false), store.clone());
    store.faults().set(move |seen| {
        let second = matches!(seen, Seen::Get(get) if get.at.is_some());
        if second && !std::mem::replace(&mut *written.lock().unwrap(), true) {
            put(&other, "k", "");
            put(&other, "k9", "");
        }
        None
    });
    let mut list_watch = follow(&store, PATIENT);
    let Said::Listed(4204, keys) = said(&mut list_watch).await else { panic!("a list") };
    assert_eq!(keys.len(), 4203);
    assert_eq!(said(&mut list_watch).await, changed(4205, "k="));
    assert_eq!(said(&mut list_watch).await, changed(4206, "k9="));
}

#[tokio::test]
async fn a_broken_watch_is_resumed_where_it_left_off() {
    let store = MemoryStore::new();
    let mut list_watch = follow(&store, PATIENT);
    assert_eq!(said(&mut list_watch).await, Said::Listed(1, vec![]));
    put(&store, "k", "1");
    assert_eq!(said(&mut list_watch).await, changed(2, "k=1"));
    store.faults().cut_watches();
    assert_eq!(said(&mut list_watch).await, Said::Lost);
    put(&store, "k", "2");
    put(&store, "k", "3");
    assert_eq!(said(&mut list_watch).await, Said::Resumed(vec!["k=1".into()]));
    assert_eq!(said(&mut list_watch).await, changed(3, "k=2"));
    assert_eq!(said(&mut list_watch).await, changed(4, "k=3"));
    assert_eq!(list_watch.counters().stats().lists, 1);
}

#[tokio::test]
async fn a_view_is_listed_anew_after_its_watch_broke() {
    let store = MemoryStore::new();
    let mut list_watch = follow(&store, Options { after_break: AfterBreak::List, ..PATIENT });
    assert_eq!(said(&mut list_watch).await, Said::Listed(1, vec![]));
    put(&store, "k", "1");
    assert_eq!(said(&mut list_watch).await, changed(2, "k=1"));
    store.faults().cut_watches();
    assert_eq!(said(&mut list_watch).await, Said::Lost);
    put(&store, "k", "2");
    assert_eq!(said(&mut list_watch).await, Said::Listed(3, vec!["k=2".to_owned()]));
}

#[tokio::test]
async fn a_resumed_watch_says_that_it_is_there_even_if_nothing_happens() {
    let store = MemoryStore::new();
    put(&store, "k", "1");
    let mut list_watch = follow(&store, PATIENT);
    said(&mut list_watch).await;
    for _ in 0..3 {
        assert!(time::timeout(Duration::from_millis(20), list_watch.next()).await.is_err());
        store.faults().cut_watches();
        assert_eq!(said(&mut list_watch).await, Said::Lost);
        assert_eq!(said(&mut list_watch).await, Said::Resumed(vec!["k=1".into()]));
        assert_eq!(said(&mut list_watch).await, Said::Progress(2));
    }
}

#[tokio::test]
async fn after_a_compaction_the_range_is_listed_again() {
    let store = MemoryStore::new();
    let mut list_watch = follow(&store, PATIENT);
    said(&mut list_watch).await;
    for value in ["1", "2", "3"] {
        put(&store, "k", value);
    }
    assert_eq!(said(&mut list_watch).await, changed(2, "k=1"));
    store.faults().cut_watches();
    store.compact(Revision(4)).unwrap();
    assert_eq!(said(&mut list_watch).await, Said::Lost);
    assert_eq!(said(&mut list_watch).await, Said::Listed(4, vec!["k=3".into()]));
    put(&store, "k", "4");
    assert_eq!(said(&mut list_watch).await, changed(5, "k=4"));
}

#[tokio::test]
async fn a_silent_member_is_left_for_another() {
    let store = MemoryStore::new();
    let mut list_watch = follow(&store, OPTIONS);
    said(&mut list_watch).await;
    store.faults().stall_watches();
    put(&store, "k", "1");
    assert_eq!(said(&mut list_watch).await, Said::Lost);
    assert_eq!(said(&mut list_watch).await, Said::Resumed(vec![]));
    assert_eq!(said(&mut list_watch).await, changed(2, "k=1"));
    assert_eq!(store.faults().members_avoided(), 1);
    assert_eq!(list_watch.counters().stats().stale, 1);
}

#[tokio::test]
async fn a_quiet_store_keeps_its_watch() {
    let store = MemoryStore::new();
    let mut list_watch = follow(&store, Options { stale_after: LONG, ..OPTIONS });
    said(&mut list_watch).await;
    // A watch from a future revision gets no progress.
    let quiet = time::timeout(Duration::from_secs(1), list_watch.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    // A key outside of the range changed: the view is as new as that change.
    put(&store, "other", "1");
    assert_eq!(said(&mut list_watch).await, Said::Progress(2));
}

/// A range read makes etcd count to the range's end, even with a limit: a thousand nodes that read at once,
/// when their leader fell silent, overloaded etcd.
#[tokio::test]
async fn a_probe_of_a_watch_reads_one_key_however_many_there_are() {
    let store = MemoryStore::new();
    for key in 0..100 {
        put(&store, &format!("k{key}"), "");
    }
    let reads = Arc::new(Mutex::new(Vec::new()));
    let seen_reads = Arc::clone(&reads);
    store.faults().set(move |seen| {
        if let Seen::Get(get) = seen {
            seen_reads.lock().unwrap().push((*get).clone());
        }
        None
    });
    let mut list_watch = follow(&store, Options { stale_after: LONG, ..OPTIONS });
    assert!(matches!(said(&mut list_watch).await, Said::Listed(101, _)));
    reads.lock().unwrap().clear();
    // Only a probe finds out that the store has moved on: no key of the range has changed.
    put(&store, "other", "1");
    assert_eq!(said(&mut list_watch).await, Said::Progress(102));
    let probes = std::mem::take(&mut *reads.lock().unwrap());
    assert!(!probes.is_empty());
    for probe in probes {
        assert!(probe.range.is_key() && probe.keys_only && probe.at.is_none(), "{probe:?}");
        assert!(range().contains(&probe.range.from), "a key that may be read: {probe:?}");
    }
}

#[tokio::test]
async fn a_watch_without_a_quorum_behind_it_is_left_for_another() {
    let store = MemoryStore::new();
    let mut list_watch = follow(&store, OPTIONS);
    said(&mut list_watch).await;
    store.faults().set(|seen| matches!(seen, Seen::Get(_)).then_some(Fault::LostRequest));
    assert_eq!(said(&mut list_watch).await, Said::Lost);
    assert_eq!(store.faults().members_avoided(), 1);
}

/// Installs a probe that fails when the returned sender is used.
fn probe_that_fails(list_watch: &mut ListWatch) -> oneshot::Sender<()> {
    let (fail, failed) = oneshot::channel::<()>();
    let delivered = list_watch.place.expect("it has listed").delivered;
    let following = list_watch.watch.as_mut().expect("it has delivered");
    following.probed_from = delivered;
    following.probed_at = clock::boot_now();
    following.probe = Some(Box::pin(async move {
        failed.await.expect("it is told");
        let (call, endpoint) = ("get", "memory".to_owned());
        Err(StoreError::Unanswered { call, endpoint, timeout: LONG })
    }));
    fail
}

#[tokio::test]
async fn a_watch_that_delivers_outlives_a_probe_that_is_not_answered() {
    let store = MemoryStore::new();
    let mut list_watch = follow(&store, PATIENT);
    said(&mut list_watch).await;
    put(&store, "k", "1");
    assert_eq!(said(&mut list_watch).await, changed(2, "k=1"));
    let fail = probe_that_fails(&mut list_watch);
    put(&store, "k", "2");
    assert_eq!(said(&mut list_watch).await, changed(3, "k=2"));
    fail.send(()).unwrap();
    let quiet = time::timeout(Duration::from_millis(50), list_watch.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    assert!(list_watch.watch.as_ref().is_some_and(|following| following.probe.is_none()));
    put(&store, "k", "3");
    assert_eq!(said(&mut list_watch).await, changed(4, "k=3"));
    assert_eq!(store.faults().members_avoided(), 0);
    // A watch that has shown nothing since the probe was sent is given up.
    let fail = probe_that_fails(&mut list_watch);
    fail.send(()).unwrap();
    assert_eq!(said(&mut list_watch).await, Said::Lost);
    assert_eq!(store.faults().members_avoided(), 1);
}

#[test]
fn a_watch_is_stale_if_it_does_not_get_to_where_the_store_was_not_to_where_it_is() {
    let at = |ms| BootTime(Duration::from_millis(ms));
    let watch = Box::new(OddWatch { items: VecDeque::new() });
    let mut following = Following::new(watch, String::new(), at(0), Revision(1));
    let is_stale = |following: &Following, ms| following.judge(at(ms), OPTIONS).is_err();
    following.note(at(0), Revision(1), Revision(2));
    // The watch reached 2 in time; reaching 9, the store's revision by now, has a deadline of its own.
    following.note(at(150), Revision(2), Revision(9));
    assert!(!is_stale(&following, 349));
    following.note(at(349), Revision(8), Revision(20));
    assert!(is_stale(&following, 350));
    following.note(at(351), Revision(20), Revision(20));
    assert!(!is_stale(&following, 10_000));
}

/// A list that is followed at once needs no second read; a list whose watch failed to open at first does.
#[tokio::test]
async fn a_watch_that_is_opened_late_after_its_list_proves_that_the_list_still_holds() {
    let store = MemoryStore::new();
    put(&store, "k", "1");
    store.faults().set(|seen| matches!(seen, Seen::Watch(_)).then_some(Fault::Unreachable));
    let mut list_watch = follow(&store, PATIENT);
    assert_eq!(said(&mut list_watch).await, Said::Listed(2, vec!["k=1".into()]));
    assert_eq!(said(&mut list_watch).await, Said::Lost);
    store.faults().clear();
    assert_eq!(said(&mut list_watch).await, Said::Resumed(vec!["k=1".into()]));
}

/// A watch on old etcds, from a compacted revision on, leaves out a delete at exactly that revision.
#[tokio::test]
async fn a_watch_is_not_resumed_from_the_revision_of_a_compaction() {
    let store = MemoryStore::new();
    let mut list_watch = follow(&store, PATIENT);
    said(&mut list_watch).await;
    put(&store, "k", "1");
    assert_eq!(said(&mut list_watch).await, changed(2, "k=1"));
    store.faults().cut_watches();
    let deleted = delete(&store, "k");
    store.compact(deleted).unwrap();
    assert_eq!(said(&mut list_watch).await, Said::Lost);
    assert_eq!(said(&mut list_watch).await, Said::Listed(3, vec![]));
}

#[tokio::test]
async fn a_wiped_store_is_listed_anew() {
    let store = MemoryStore::new();
    for value in ["1", "2", "3"] {
        put(&store, "k", value);
    }
    let mut list_watch = follow(&store, OPTIONS);
    said(&mut list_watch).await;
    store.with_model(Model::wipe);
    put(&store, "k", "new");
    assert_eq!(said(&mut list_watch).await, Said::Lost);
    assert_eq!(said(&mut list_watch).await, Said::Listed(2, vec!["k=new".into()]));
}

#[tokio::test]
async fn a_store_that_is_away_is_not_asked_without_pause() {
    let store = MemoryStore::new();
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    store.faults().set(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Some(Fault::Unreachable)
    });
    let mut list_watch = follow(&store, OPTIONS);
    assert!(time::timeout(Duration::from_secs(1), list_watch.next()).await.is_err());
    let calls = calls.load(Ordering::Relaxed);
    assert!((3..=12).contains(&calls), "{calls}");
    store.faults().clear();
    assert_eq!(said(&mut list_watch).await, Said::Listed(1, vec![]));
}

/// An etcd member with faulty watches, before a correct store.
#[derive(Debug)]
struct Odd {
    store: MemoryStore,
    how: Oddity,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Oddity {
    /// The first watch always reports the revision that it began at, and delivers nothing.
    Behind,
    /// Every watch begins before the requested revision.
    Early,
}

struct OddWatch {
    items: VecDeque<WatchItem>,
}

#[async_trait]
impl Watch for OddWatch {
    async fn next(&mut self) -> Result<WatchItem, StoreError> {
        match self.items.pop_front() {
            Some(item) => Ok(item),
            None => std::future::pending().await,
        }
    }

    async fn request_progress(&mut self) -> Result<(), StoreError> {
        self.items.push_back(WatchItem::Progress { revision: Revision(1) });
        Ok(())
    }
}

#[async_trait]
impl Store for Odd {
    fn kind(&self) -> &'static str {
        "odd"
    }

    fn timing(&self) -> StoreTiming {
        StoreTiming::ETCD
    }

    async fn txn(&self, txn: Txn, timeout: Duration) -> Result<TxnAnswer, StoreError> {
        self.store.txn(txn, timeout).await
    }

    async fn get(&self, get: Get, timeout: Duration) -> Result<GetAnswer, StoreError> {
        self.store.get(get, timeout).await
    }

    async fn grant(
        &self,
        lease: LeaseId,
        ttl: Duration,
        timeout: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        self.store.grant(lease, ttl, timeout).await
    }

    async fn revoke(&self, lease: LeaseId, timeout: Duration) -> Result<LeaseAnswer, StoreError> {
        self.store.revoke(lease, timeout).await
    }

    async fn keep_alive(
        &self,
        lease: LeaseId,
        timeout: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        self.store.keep_alive(lease, timeout).await
    }

    async fn watch(
        &self,
        mut request: WatchRequest,
        timeout: Duration,
    ) -> Result<Box<dyn Watch>, StoreError> {
        if self.how == Oddity::Behind && self.store.faults().members_avoided() == 0 {
            return Ok(Box::new(OddWatch { items: VecDeque::new() }));
        }
        if self.how == Oddity::Early {
            request.from = Revision(1);
        }
        self.store.watch(request, timeout).await
    }

    fn health(&self) -> Health {
        self.store.health()
    }

    fn avoid_current(&self) {
        self.store.avoid_current();
    }
}

#[tokio::test]
async fn a_member_that_answers_but_lags_is_left_for_another() {
    let store = MemoryStore::new();
    let odd = Odd { store: store.clone(), how: Oddity::Behind };
    let mut list_watch = ListWatch::new(Arc::new(odd), range(), OPTIONS);
    said(&mut list_watch).await;
    put(&store, "k", "1");
    assert_eq!(said(&mut list_watch).await, Said::Lost);
    assert_eq!(said(&mut list_watch).await, Said::Resumed(vec![]));
    assert_eq!(said(&mut list_watch).await, changed(2, "k=1"));
    assert_eq!(store.faults().members_avoided(), 1);
}

#[tokio::test]
async fn a_watch_must_get_to_where_an_answer_showed_the_store_to_be() {
    let store = MemoryStore::new();
    let odd = Odd { store: store.clone(), how: Oddity::Behind };
    let mut list_watch = ListWatch::new(Arc::new(odd), range(), PATIENT);
    said(&mut list_watch).await;
    let revision = put(&store, "k", "1");
    list_watch.expected().fetch_max(revision.0, Ordering::Relaxed);
    assert_eq!(said(&mut list_watch).await, Said::Lost);
    assert_eq!(said(&mut list_watch).await, Said::Resumed(vec![]));
    assert_eq!(said(&mut list_watch).await, changed(2, "k=1"));
}

#[tokio::test]
async fn what_is_older_than_was_asked_for_is_dropped() {
    let store = MemoryStore::new();
    put(&store, "k", "old");
    let odd = Odd { store: store.clone(), how: Oddity::Early };
    let mut list_watch = ListWatch::new(Arc::new(odd), range(), PATIENT);
    assert_eq!(said(&mut list_watch).await, Said::Listed(2, vec!["k=old".into()]));
    put(&store, "k", "new");
    assert_eq!(said(&mut list_watch).await, changed(3, "k=new"));
}

#[tokio::test]
async fn a_feed_decodes_stamps_after_receipt_and_counts_foreign_keys() {
    let store = MemoryStore::new();
    let keys = Keys::new("C").unwrap();
    put(&store, "/C/election/a1", "5");
    put(&store, "/C/nodes/what", "");
    let started = clock::boot_now();
    let mut feed = Feed::start(Arc::new(store.clone()), keys, PATIENT);
    let Some(Input::Listed { sent_at, received_at, revision, changes, cluster }) =
        soon(feed.next()).await
    else {
        panic!("a list comes first");
    };
    assert!(started <= sent_at && sent_at <= received_at);
    assert_eq!(cluster, store.with_model(|model| model.cluster()));
    assert_eq!(revision, Revision(3));
    let [Change::Candidate(LeaseId(0xa1), Some(stored))] = changes.as_slice() else {
        panic!("{changes:?}");
    };
    assert_eq!(stored.value, NodeId::new(5).ok());

    let wrote_at = clock::boot_now();
    delete(&store, "/C/election/a1");
    let Some(Input::Changed { received_at, revision, changes }) = soon(feed.next()).await else {
        panic!("a change follows");
    };
    assert!(wrote_at <= received_at);
    assert_eq!((revision, changes), (Revision(4), vec![Change::Candidate(LeaseId(0xa1), None)]));
    put(&store, "/C/nodes/what", "");
    assert!(
        matches!(soon(feed.next()).await, Some(Input::Changed { changes, .. }) if changes.is_empty())
    );
    let stats = feed.stats();
    assert_eq!((stats.lists, stats.foreign, stats.delivered), (1, 2, Revision(5)));
}

#[tokio::test]
async fn a_feed_that_is_to_list_again_shows_nothing_of_the_old_watch_any_more() {
    let store = MemoryStore::new();
    let mut feed = Feed::start(Arc::new(store.clone()), Keys::new("C").unwrap(), PATIENT);
    soon(feed.next()).await;
    for node in 0..50 {
        put(&store, &format!("/C/nodes/{node}"), "{}");
    }
    // The updates wait in the queue, or will do so.
    soon(async {
        while feed.stats().delivered < Revision(51) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    feed.relist();
    let Some(Input::Listed { revision, changes, .. }) = soon(feed.next()).await else {
        panic!("a list, and nothing else");
    };
    assert_eq!((revision, changes.len()), (Revision(51), 50));
}
