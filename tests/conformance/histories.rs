//! Items of a node's watches after a compaction or a restore of etcd that happens while the watches are cut
//! off.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bellwether::{
    engine::{NodeId, Revision},
    node::{ClusterNode, KV, LagCause, Node as _, StateItem, StateWatch, WatchFrom},
    store::{
        Get, KeyRange, Op, Store, Txn,
        etcd::{EtcdConfig, EtcdStore},
        keys::Keys,
        memory::MemoryStore,
    },
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::timeout;

use crate::{
    rig::SOON,
    support::{
        etcd::Etcd,
        eventually,
        proxy::{Fault, Proxy},
    },
    watches::change,
};

type State = BTreeMap<(NodeId, String), Vec<u8>>;

/// A real etcd, a reader that reaches etcd through a proxy, and an operator's client without the proxy.
struct Scene {
    etcd: Etcd,
    proxy: Proxy,
    reader: ClusterNode,
    raw: EtcdStore,
    keys: Keys,
}

impl Scene {
    async fn new() -> Self {
        let etcd = Etcd::start().await;
        let proxy = Proxy::to(etcd.address(0)).await;
        let raw = EtcdStore::new(&EtcdConfig::new(etcd.endpoints())).unwrap();
        let endpoint = format!("http://{}", proxy.address());
        // The reader is never started: without own keys, it cannot use them to distinguish one store from
        // another.
        let reader = ClusterNode::builder()
            .cluster("histories")
            .id(0)
            .store_from(move || Ok(Arc::new(EtcdStore::new(&EtcdConfig::new([endpoint]))?)))
            .build()
            .unwrap();
        Self { etcd, proxy, reader, raw, keys: Keys::new("histories").unwrap() }
    }

    async fn write(&self, op: Op) -> Revision {
        let txn = Txn { then: vec![op], ..Txn::default() };
        // An etcd that was just restarted may refuse requests at first.
        eventually("a write", SOON, async || self.raw.txn(txn.clone(), SOON).await.ok())
            .await
            .revision
    }

    fn key(&self, key: &str) -> Vec<u8> {
        self.keys.state(key, writer()).unwrap()
    }

    async fn put(&self, key: &str, value: &str) -> Revision {
        self.write(Op::Put { key: self.key(key), value: value.into(), lease: None }).await
    }

    async fn delete(&self, key: &str) -> Revision {
        self.write(Op::Delete(KeyRange::key(self.key(key)))).await
    }

    /// Current revision and cluster id of the store.
    async fn header(&self) -> (Revision, u64) {
        let get = Get::key(self.key("k"));
        let answer =
            eventually("a read", SOON, async || self.raw.get(get.clone(), SOON).await.ok()).await;
        (answer.revision, answer.cluster)
    }

    async fn watch(&self) -> (StateWatch, Revision, State) {
        let mut watch = self.reader.watch_key_cluster("k", WatchFrom::Snapshot).await.unwrap();
        match item(&mut watch).await {
            StateItem::Snapshot { revision, state } => (watch, revision, of(state)),
            other => panic!("expected a snapshot, got {other:?}"),
        }
    }

    fn cut(&self) {
        self.proxy.set(Fault::Refuse);
    }

    fn mend(&self) {
        self.proxy.set(Fault::None);
    }
}

/// The node whose state is written; no node of that id runs.
fn writer() -> NodeId {
    NodeId::new(7).unwrap()
}

fn of(state: Vec<(NodeId, KV)>) -> State {
    state.into_iter().map(|(node, kv)| ((node, kv.key), kv.value)).collect()
}

fn state(pairs: &[(&str, &str)]) -> State {
    let pair =
        |(key, value): &(&str, &str)| ((writer(), (*key).to_owned()), value.as_bytes().into());
    pairs.iter().map(pair).collect()
}

async fn item(watch: &mut StateWatch) -> StateItem {
    timeout(SOON, watch.recv()).await.expect("an item").expect("the node is not closed")
}

async fn lagged(watch: &mut StateWatch) -> (LagCause, Revision, State) {
    match item(watch).await {
        StateItem::Lagged { cause, revision, state } => (cause, revision, of(state)),
        other => panic!("expected to lag, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_cut_off_over_a_compaction_of_etcd_is_given_a_snapshot() {
    let scene = Scene::new().await;
    scene.put("k/deleted", "old").await;
    scene.put("k/kept", "old").await;
    let (mut watch, _, there) = scene.watch().await;
    assert_eq!(there, state(&[("k/deleted", "old"), ("k/kept", "old")]));

    scene.cut();
    scene.put("k/added", "1").await;
    scene.put("k/brief", "1").await;
    scene.delete("k/brief").await;
    scene.put("k/added", "2").await;
    let last = scene.delete("k/deleted").await;
    scene.etcd.etcdctl(&["compact", &last.to_string()]);
    scene.mend();

    let (cause, revision, there) = lagged(&mut watch).await;
    assert_eq!((cause, revision), (LagCause::CutOff, last));
    assert_eq!(there, state(&[("k/added", "2"), ("k/kept", "old")]));
    let next = scene.put("k/kept", "new").await;
    let modified = change(&mut watch).await;
    assert_eq!((modified.revision, modified.key.as_str()), (next, "k/kept"));
    assert_eq!(modified.old_value, b"old");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_cut_off_without_a_compaction_of_etcd_misses_nothing() {
    let scene = Scene::new().await;
    scene.put("k/a", "0").await;
    let (mut watch, before, _) = scene.watch().await;
    scene.cut();
    for value in 1..=20 {
        scene.put("k/a", &value.to_string()).await;
    }
    // The latest revision that etcd can compact without a gap for the watch.
    scene.etcd.etcdctl(&["compact", &before.to_string()]);
    scene.mend();
    for value in 1..=20 {
        let modified = change(&mut watch).await;
        assert_eq!(modified.value, value.to_string().into_bytes());
        assert_eq!(modified.revision, Revision(before.0 + value));
    }
}

/// The cluster id and the revisions of the restored etcd do not show the restore: the etcd has the same flags,
/// and its revision is higher than that of the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_cut_off_until_a_restored_etcd_has_overtaken_is_given_another_history() {
    let scene = Scene::new().await;
    scene.put("k/kept", "old").await;
    let backup = scene.etcd.back_up(0);
    scene.etcd.start_again(0).await;
    scene.header().await;
    let (mut watch, _, _) = scene.watch().await;
    scene.put("k/lost", "1").await;
    assert_eq!(change(&mut watch).await.key, "k/lost");
    let before = scene.header().await;

    scene.cut();
    scene.etcd.kill(0);
    scene.etcd.put_back(0, &backup);
    scene.etcd.start_again(0).await;
    for value in 0..10 {
        scene.put("k/new", &value.to_string()).await;
    }
    let now = scene.header().await;
    assert!(before.0 < now.0 && before.1 == now.1, "{before:?}, {now:?}");
    scene.mend();

    let (cause, revision, there) = lagged(&mut watch).await;
    assert_eq!((cause, revision), (LagCause::StoreReplaced, now.0));
    assert_eq!(there, state(&[("k/kept", "old"), ("k/new", "9")]));
    scene.delete("k/kept").await;
    assert_eq!(change(&mut watch).await.old_key, "k/kept");
}

/// Nothing in the watched range has changed since the backup, so the watch gets no event from the store. The
/// node notices that the store's revision went back (R8, replaced store).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_finds_its_store_replaced_tells_its_watches() {
    let store = MemoryStore::new();
    let node = ClusterNode::builder().cluster("C").id(1).memory(&store).build().unwrap();
    node.start().await.unwrap();
    let mut watch = node.watch_key_cluster("quiet", WatchFrom::Snapshot).await.unwrap();
    assert!(
        matches!(item(&mut watch).await, StateItem::Snapshot { state, .. } if state.is_empty())
    );
    let backup = store.with_model(|model| model.clone());
    // The node's beats raise the revision.
    eventually("the node has seen the store go on", SOON, async || {
        (backup.revision().0 + 2 < store.with_model(|model| model.revision().0)).then_some(())
    })
    .await;
    store.with_model(|model| model.restore(&backup, None));
    let (cause, _, there) = lagged(&mut watch).await;
    assert_eq!((cause, there), (LagCause::StoreReplaced, State::new()));
    // The watch continues after the restore.
    eventually("the node has joined again", SOON, async || node.put("quiet", b"1").await.ok())
        .await;
    loop {
        match item(&mut watch).await {
            StateItem::Change(change) => {
                assert_eq!((change.key.as_str(), change.value.as_slice()), ("quiet", &b"1"[..]));
                break;
            }
            // The watch may have noticed the restore by itself as well.
            StateItem::Lagged { cause: LagCause::StoreReplaced, state, .. } if state.is_empty() => {
            }
            other => panic!("expected a change, got {other:?}"),
        }
    }
    node.stop(Duration::from_secs(5)).await.unwrap();
    node.close().await.unwrap();
}

/// Content of the range after each write, by the revisions that etcd assigned, to compare with the items that a
/// reader received.
struct Ledger {
    written: BTreeMap<Revision, State>,
    fold: State,
    told: Revision,
    changes: u32,
    lags: u32,
}

impl Ledger {
    fn wrote(&mut self, revision: Revision, key: &str, value: Option<&str>) {
        let (_, last) = self.written.last_key_value().expect("it begins with what was there");
        let mut state = last.clone();
        let at = (writer(), key.to_owned());
        match value {
            Some(value) => drop(state.insert(at, value.into())),
            None => drop(state.remove(&at)),
        }
        // A delete that finds no key has the revision of the write before it.
        self.written.insert(revision, state);
    }

    /// The state at a revision, which need not be the revision of a write.
    fn as_of(&self, revision: Revision) -> &State {
        let (_, state) = self.written.range(..=revision).next_back().expect("not before it began");
        state
    }

    fn take(&mut self, item: StateItem) {
        match item {
            StateItem::Change(change) => {
                self.changes += 1;
                let (told, revision) = (self.told, change.revision);
                assert!(told < revision, "{revision} after {told}");
                let between = self.written.range(Revision(told.0 + 1)..revision).next();
                assert_eq!(between, None, "left out between {told} and {revision}");
                let deleted = change.key.is_empty();
                let key = if deleted { change.old_key } else { change.key };
                let before = self.fold.remove(&(change.node, key.clone()));
                assert_eq!(before.unwrap_or_default(), change.old_value, "a gap at {revision}");
                if !deleted {
                    self.fold.insert((change.node, key), change.value);
                }
                self.told = revision;
            }
            StateItem::Lagged { cause: LagCause::CutOff, revision, state } => {
                self.lags += 1;
                assert!(self.told <= revision, "{revision} after {}", self.told);
                (self.fold, self.told) = (of(state), revision);
            }
            other => panic!("neither a change nor a lag after a compaction: {other:?}"),
        }
        assert_eq!(self.fold, *self.as_of(self.told), "at {}", self.told);
    }

    /// Reads until the reader has received the last write.
    async fn catch_up(&mut self, watch: &mut StateWatch) {
        let (last, _) = self.written.last_key_value().expect("it begins with what was there");
        let last = *last;
        eventually("the last change", SOON, async || {
            self.read(watch, Duration::from_millis(10)).await;
            (last <= self.told).then_some(())
        })
        .await;
    }

    async fn read(&mut self, watch: &mut StateWatch, within: Duration) {
        while let Ok(item) = timeout(within, watch.recv()).await {
            self.take(item.expect("the node is not closed"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_is_told_or_said_to_be_left_out_by_etcds_own_revisions() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let scene = Scene::new().await;
    let (mut watch, told, fold) = scene.watch().await;
    let written = BTreeMap::from([(told, fold.clone())]);
    let mut ledger = Ledger { written, fold, told, changes: 0, lags: 0 };
    let mut compacted = told;
    for step in 0..600 {
        let key = format!("k/{}", rng.random_range(0..4));
        // In some rounds, a cut during a compaction is certain.
        let chance = match step % 100 {
            90 => 1,
            96 => 4,
            99 => 2,
            91..99 => 19,
            _ => rng.random_range(0..20),
        };
        match chance {
            0 => scene.proxy.reset(),
            1 => scene.cut(),
            2 | 3 => scene.mend(),
            4 => {
                let (newest, _) = scene.header().await;
                if compacted < newest {
                    scene.etcd.etcdctl(&["compact", &newest.to_string()]);
                    compacted = newest;
                }
            }
            5..9 => {
                let revision = scene.delete(&key).await;
                if !ledger.written.contains_key(&revision) {
                    ledger.wrote(revision, &key, None);
                }
            }
            _ => {
                let value = step.to_string();
                let revision = scene.put(&key, &value).await;
                ledger.wrote(revision, &key, Some(&value));
            }
        }
        ledger.read(&mut watch, Duration::from_millis(1)).await;
        if step % 100 == 99 {
            ledger.catch_up(&mut watch).await;
        }
    }
    scene.mend();
    let last = scene.put("k/last", "").await;
    ledger.wrote(last, "k/last", Some(""));
    ledger.catch_up(&mut watch).await;
    let (changes, lags) = (ledger.changes, ledger.lags);
    assert!(changes > 20 && lags > 2, "{changes} changes, {lags} lags");
}
