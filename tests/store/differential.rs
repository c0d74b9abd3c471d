//! The memory store answers as etcd does: the same random program runs against both stores, and the test
//! compares every answer and every event as a whole.
//!
//! Both stores begin empty, so revisions are compared as they are. Only the cluster id is taken over from etcd.
//! Stores with one deliberate flaw prove that the programs would find a difference.

mod broken;
mod program;

use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};

use bellwether::{
    clock,
    engine::{LeaseId, Revision},
    k8s::{
        client::ClientOptions,
        store::{KubernetesConfig, KubernetesStore},
    },
    store::{
        Get, KeyRange, LeaseAnswer, Op, Store, StoreError, Txn, Watch, WatchItem, WatchRequest,
        etcd::{EtcdConfig, EtcdStore},
        keys::Keys,
        memory::{Contents, MemoryStore, Model},
    },
};
use rand::{SeedableRng as _, rngs::StdRng};

use crate::{kube::ApiServer, support::etcd::Etcd};
use broken::{Broken, Flaw};
use program::{Program, Step};

const LONG: Duration = Duration::from_secs(20);

/// Kinds of failures that both stores can report in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Failure {
    LeaseNotFound,
    LeaseExists,
    Compacted,
    Denied,
    /// Any other failure, which neither store should report here.
    Other,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::LeaseNotFound => Self::LeaseNotFound,
            StoreError::LeaseExists => Self::LeaseExists,
            StoreError::Compacted { .. } => Self::Compacted,
            StoreError::Denied { .. } => Self::Denied,
            other => {
                eprintln!("unexpected: {other}");
                Self::Other
            }
        }
    }
}

/// A store, and its functions outside of the trait.
struct Side {
    store: Arc<dyn Store>,
    compactor: Compactor,
    /// Open watches, with the first revision that each was opened from.
    watches: BTreeMap<u64, (Revision, Box<dyn Watch>)>,
    /// The order of the events of one revision does not count.
    sorted: bool,
}

enum Compactor {
    Memory(MemoryStore),
    Etcd(Box<etcd_client::Client>),
    /// The store has no compaction that a caller could ask for.
    None,
}

/// Result of a step: the same text on both sides, or a difference.
type Shown = String;

fn shown(what: &impl Debug) -> Shown {
    format!("{what:?}")
}

impl Side {
    fn new(store: Arc<dyn Store>, compactor: Compactor) -> Self {
        Self { store, compactor, watches: BTreeMap::new(), sorted: false }
    }

    /// Runs a step; returns its result, with the values that `Debug` of the store would hide.
    async fn step(&mut self, step: &Step) -> (Shown, Option<Failure>) {
        match step {
            Step::Txn(txn) => {
                let result = self.store.txn(txn.clone(), LONG).await;
                let values: Vec<_> = result
                    .iter()
                    .flat_map(|answer| answer.reads.iter().flatten())
                    .map(|kv| kv.value.clone())
                    .collect();
                outcome(result.map(|answer| (answer, values)))
            }
            Step::Get(get) => {
                let result = self.store.get(get.clone(), LONG).await;
                outcome(result.map(|answer| {
                    let values: Vec<_> = answer.kvs.iter().map(|kv| kv.value.clone()).collect();
                    (answer, values)
                }))
            }
            Step::Grant(lease, ttl) => outcome(self.store.grant(*lease, *ttl, LONG).await),
            Step::Revoke(lease) => outcome(self.store.revoke(*lease, LONG).await),
            Step::KeepAlive(lease) => outcome(renewed(&*self.store, *lease).await),
            Step::Compact(revision) => outcome(self.compact(*revision).await),
            Step::Watch(name, request) => match self.store.watch(request.clone(), LONG).await {
                Ok(watch) => {
                    self.watches.insert(*name, (request.from, watch));
                    ("opened".to_owned(), None)
                }
                // etcd may report this at once or as the first item: see `Drain`.
                Err(StoreError::Compacted { .. }) => ("opened".to_owned(), None),
                Err(error) => outcome::<()>(Err(error)),
            },
            Step::Drain(name, to) => self.drain(*name, *to).await,
        }
    }

    async fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        match &mut self.compactor {
            Compactor::Memory(store) => store.compact(revision),
            Compactor::None => Ok(()),
            Compactor::Etcd(client) => {
                let error = match client.compact(revision.0, None).await {
                    Ok(_) => return Ok(()),
                    Err(error) => error.to_string(),
                };
                Err(if error.contains("has been compacted") {
                    StoreError::Compacted { asked: revision, oldest: Revision(0) }
                } else {
                    let endpoint = String::new();
                    StoreError::Denied { call: "compact", endpoint, message: error }
                })
            }
        }
    }

    /// Reads all items of a watch up to a revision.
    async fn drain(&mut self, name: u64, to: Revision) -> (Shown, Option<Failure>) {
        let Some((from, watch)) = self.watches.get_mut(&name) else {
            return outcome::<()>(Err(compacted()));
        };
        if to < *from {
            // Neither store delivers an item before the first requested revision.
            let said = tokio::time::timeout(Duration::from_millis(1), watch.next()).await;
            return (shown(&said.is_ok()), None);
        }
        let mut seen = Vec::new();
        let until = clock::boot_now() + LONG;
        while clock::boot_now() < until {
            let asked = watch.request_progress().await;
            let next = match asked {
                Ok(()) => tokio::time::timeout(Duration::from_millis(50), watch.next()).await,
                Err(error) => Ok(Err(error)),
            };
            match next {
                // No item: the request for progress may have come before the watch had caught up. The loop
                // requests progress again.
                Err(_) => {}
                Ok(Ok(WatchItem::Progress { revision })) if revision < to => {}
                Ok(Ok(WatchItem::Progress { .. })) => return (shown(&seen), None),
                Ok(Ok(WatchItem::Events { revision, mut events })) => {
                    if self.sorted {
                        events.sort_by(|a, b| a.kv.key.cmp(&b.kv.key));
                    }
                    let values: Vec<_> = events
                        .iter()
                        .map(|event| {
                            let previous = event.previous.as_ref().map(|kv| kv.value.clone());
                            (event.kv.value.clone(), previous)
                        })
                        .collect();
                    seen.push((revision, events, values));
                }
                Ok(Err(error)) => {
                    self.watches.remove(&name);
                    let failure = Failure::from(error);
                    return (shown(&(seen, failure)), Some(failure));
                }
            }
        }
        (format!("{} does not get to {to}: {seen:#?}", self.store.kind()), Some(Failure::Other))
    }
}

/// Renews a lease; drops revision and cluster id if the lease is gone, since etcd-client does not report them
/// then.
async fn renewed(store: &dyn Store, lease: LeaseId) -> Result<LeaseAnswer, StoreError> {
    let mut answer = store.keep_alive(lease, LONG).await?;
    if answer.ttl.is_zero() {
        (answer.revision, answer.cluster) = (Revision(0), 0);
    }
    Ok(answer)
}

fn compacted() -> StoreError {
    StoreError::Compacted { asked: Revision(0), oldest: Revision(0) }
}

fn outcome<T: Debug>(result: Result<T, StoreError>) -> (Shown, Option<Failure>) {
    match result {
        Ok(answer) => (shown(&answer), None),
        Err(error) => {
            let failure = Failure::from(error);
            (shown(&(Vec::<()>::new(), failure)), Some(failure))
        }
    }
}

/// Outcomes, events and failures that a run has covered: a run that covers nothing proves nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    succeeded: u32,
    refused: u32,
    events: u32,
    failures: BTreeMap<Failure, u32>,
}

/// Runs a program against both sides.
///
/// # Errors
///
/// Returns the first difference, with its seed, its step and both answers.
async fn run(seed: u64, steps: usize, left: Side, right: Side) -> Result<Seen, String> {
    let (mut left, mut right) = (left, right);
    let mut program = Program::new(StdRng::seed_from_u64(seed));
    let compacts = !matches!(right.compactor, Compactor::None);
    if !compacts {
        let got = left.store.get(Get::key("x"), LONG).await.map_err(|error| error.to_string())?;
        program = program.text(got.revision);
        (left.sorted, right.sorted) = (true, true);
    }
    let mut seen = Seen::default();
    for at in 0..steps {
        for step in program.next_steps() {
            if !compacts && matches!(step, Step::Compact(_)) {
                continue;
            }
            let (l, failure) = left.step(&step).await;
            let (r, _) = right.step(&step).await;
            if l != r {
                return Err(format!("seed {seed}, step {at}: {step:?}\nleft: {l}\nright: {r}"));
            }
            match failure {
                Some(failure) => *seen.failures.entry(failure).or_default() += 1,
                None if matches!(step, Step::Txn(_)) && l.contains("succeeded: true") => {
                    seen.succeeded += 1;
                }
                None if matches!(step, Step::Txn(_)) => seen.refused += 1,
                None if matches!(step, Step::Drain(..)) => {
                    seen.events += u32::try_from(l.matches("Event {").count()).unwrap();
                }
                None => {}
            }
        }
        // The program draws its next steps from the present content.
        let all = Get::range(KeyRange { from: vec![0], to: vec![0xff; 3] });
        let now = left.store.get(all, LONG).await.map_err(|error| error.to_string())?;
        program.look(now.revision, &now.kvs);
    }
    Ok(seen)
}

fn memory(store: &MemoryStore) -> Side {
    Side::new(Arc::new(store.clone()), Compactor::Memory(store.clone()))
}

async fn real(etcd: &Etcd) -> (Side, u64) {
    let store = EtcdStore::connect(&EtcdConfig::new(etcd.endpoints())).await.unwrap();
    let answer = store.get(Get::key("x"), LONG).await.unwrap();
    assert_eq!(answer.revision, Revision(1), "a new etcd");
    let client = Compactor::Etcd(Box::new(etcd.client().await));
    (Side::new(Arc::new(store), client), answer.cluster)
}

#[tokio::test]
async fn the_memory_store_answers_as_etcd_does_over_random_programs() {
    let mut seen = Vec::new();
    for seed in 0..6 {
        let etcd = Etcd::start().await;
        let (etcd_side, cluster) = real(&etcd).await;
        let store = MemoryStore::new();
        store.with_model(|model| model.set_cluster(cluster));
        match run(seed, 500, memory(&store), etcd_side).await {
            Ok(one) => seen.push(one),
            Err(difference) => panic!("memory (left) is not as etcd (right): {difference}"),
        }
    }
    for (seed, seen) in seen.iter().enumerate() {
        let enough = seen.succeeded > 50 && seen.refused > 20 && seen.events > 100;
        assert!(enough, "seed {seed} came across too little: {seen:?}");
        for failure in
            [Failure::LeaseNotFound, Failure::LeaseExists, Failure::Compacted, Failure::Denied]
        {
            assert!(seen.failures.contains_key(&failure), "seed {seed}: no {failure:?}: {seen:?}");
        }
        assert!(!seen.failures.contains_key(&Failure::Other), "seed {seed}: {seen:?}");
    }
    println!("{seen:#?}");
}

#[tokio::test]
async fn the_store_on_kubernetes_answers_as_the_memory_store_does() {
    let api = ApiServer::shared().await;
    let space = api.namespace("differential").await;
    let client = ClientOptions::default().kubeconfig(api.kubeconfig(&space.name, None));
    for seed in 0..4 {
        let config = KubernetesConfig::new().client(client.clone());
        let keys = Keys::new(&format!("program-{seed}")).unwrap();
        let store = KubernetesStore::observer(keys, config).unwrap();
        // The first write makes the Lease, with the first revision.
        let then = vec![Op::Put { key: b"x".to_vec(), value: Vec::new(), lease: None }];
        store.txn(Txn { then, ..Txn::default() }, LONG).await.unwrap();
        let first = store.get(Get::key("x"), LONG).await.unwrap();
        let keys = first.kvs.iter().map(|kv| (kv.key.clone(), kv.clone())).collect();
        let contents = Contents { revision: first.revision, keys, ..Contents::default() };
        let model = Model::from_contents(first.cluster, contents);
        let memory = MemoryStore::from_model(model);
        let right = Side::new(Arc::new(store), Compactor::None);
        let left = Side::new(Arc::new(memory.clone()), Compactor::Memory(memory));
        match run(seed, 300, left, right).await {
            Ok(seen) => assert!(seen.succeeded > 30 && seen.events > 50, "{seen:?}"),
            Err(difference) => panic!("memory (left) is not as Kubernetes (right): {difference}"),
        }
    }
}

#[tokio::test]
async fn a_store_with_one_thing_wrong_is_found_out() {
    for flaw in Flaw::ALL {
        let mut found = None;
        for seed in 0..20 {
            let (good, bad) = (MemoryStore::new(), MemoryStore::new());
            let cluster = good.with_model(|model| model.cluster());
            bad.with_model(|model| model.set_cluster(cluster));
            let broken = Arc::new(Broken::new(bad.clone(), flaw));
            let bad = Side::new(broken, Compactor::Memory(bad));
            if run(seed, 300, memory(&good), bad).await.is_err() {
                found = Some(seed);
                break;
            }
        }
        println!("{flaw:?}: found with seed {found:?}");
        assert!(found.is_some(), "{flaw:?} goes unnoticed");
    }
}

#[tokio::test]
async fn two_memory_stores_do_not_differ() {
    for seed in 100..110 {
        let (left, right) = (MemoryStore::new(), MemoryStore::new());
        let cluster = left.with_model(|model| model.cluster());
        right.with_model(|model| model.set_cluster(cluster));
        run(seed, 300, memory(&left), memory(&right)).await.unwrap();
    }
}

/// Time in both stores: the minimal TTL, no expiry before the TTL, and the events of an expiry.
#[tokio::test]
async fn leases_end_in_both_stores_after_their_time_and_with_the_same_events() {
    let etcd = Etcd::start().await;
    let (etcd_side, cluster) = real(&etcd).await;
    let store = MemoryStore::new();
    store.with_model(|model| model.set_cluster(cluster));
    let mut ends = Vec::new();
    for side in [memory(&store), etcd_side] {
        let (lease, other) = (LeaseId(0x51), LeaseId(0x52));
        let granted_at = clock::boot_now();
        let granted = side.store.grant(lease, Duration::from_secs(1), LONG).await.unwrap();
        side.store.grant(other, Duration::from_secs(60), LONG).await.unwrap();
        let put = |key: &str, lease| Op::Put { key: key.into(), value: b"v".to_vec(), lease };
        let then = vec![put("b", Some(lease)), put("a", Some(lease)), put("c", Some(other))];
        side.store.txn(Txn { then, ..Txn::default() }, LONG).await.unwrap();
        let range = KeyRange { from: b"a".to_vec(), to: b"z".to_vec() };
        let request = WatchRequest { range, from: Revision(3), previous: true };
        let mut watch = side.store.watch(request, LONG).await.unwrap();
        let ended = tokio::time::timeout(LONG, watch.next()).await.unwrap().unwrap();
        let lived = clock::boot_now().since(granted_at);
        assert!(lived >= Duration::from_secs(2), "{} ended it early: {lived:?}", side.store.kind());
        let gone = renewed(&*side.store, lease).await.unwrap();
        ends.push((granted.ttl, ended, gone));
    }
    assert_eq!(ends[0].0, Duration::from_secs(2), "the floor");
    assert_eq!(ends[0], ends[1]);
}
