use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use super::*;
use crate::{
    engine::{BootTime, Revision},
    node::NodeMetrics,
    store::{
        Op, Txn,
        keys::Keys,
        memory::{MemoryStore, Seen},
    },
};

fn env(store: &MemoryStore) -> Env {
    Env {
        store: Arc::new(store.clone()),
        keys: Keys::new("shop").unwrap(),
        metrics: NodeMetrics::unregistered(),
        call_timeout: Duration::from_secs(5),
    }
}

/// Writes this many revisions to the store.
fn write(env: &Env, store: &MemoryStore, revisions: u32) {
    let put = Op::Put { key: env.keys.record(), value: Vec::new(), lease: None };
    for _ in 0..revisions {
        let txn = Txn { then: vec![put.clone()], ..Txn::default() };
        store.with_model(|model| model.txn(BootTime::default(), &txn).unwrap());
    }
}

#[tokio::test]
async fn a_store_that_nobody_compacts_is_told_until_somebody_does() {
    let store = MemoryStore::new();
    let env = env(&store);
    write(&env, &store, 20);
    let (mut said, uncompacted) = (false, &env.metrics.uncompacted);
    look(&env, 100, &mut said).await;
    assert_eq!((uncompacted.get(), said), (0, false), "it has none that old");
    look(&env, 10, &mut said).await;
    assert_eq!((uncompacted.get(), said), (1, true));
    store.with_model(|model| model.compact(Revision(15)).unwrap());
    look(&env, 10, &mut said).await;
    assert_eq!((uncompacted.get(), said), (0, false));
}

/// Buffer that a subscriber writes its log lines to.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn it_is_logged_once_until_it_was_mended() {
    let (store, log) = (MemoryStore::new(), Log::default());
    let (env, written) = (env(&store), log.clone());
    let subscriber = tracing_subscriber::fmt().with_writer(move || written.clone()).finish();
    // With a single subscriber, a test on another thread that reaches the warning first disables it for all
    // threads.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _here = tracing::subscriber::set_default(subscriber);
    tracing::callsite::rebuild_interest_cache();
    let warnings = || {
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        text.matches("nobody compacts the store").count()
    };
    let mut said = false;
    write(&env, &store, 20);
    for _ in 0..3 {
        look(&env, 10, &mut said).await;
    }
    assert_eq!(warnings(), 1);
    store.with_model(|model| model.compact(Revision(15)).unwrap());
    look(&env, 10, &mut said).await;
    write(&env, &store, 20);
    look(&env, 10, &mut said).await;
    assert_eq!(warnings(), 2);
}

#[tokio::test(start_paused = true)]
async fn only_a_leader_looks_and_one_that_leads_no_more_says_nothing() {
    let store = MemoryStore::new();
    let env = env(&store);
    let reads = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&reads);
    store.faults().set(move |call| {
        seen.fetch_add(u64::from(matches!(call, Seen::Get(_))), Ordering::Relaxed);
        None
    });
    let uncompacted = env.metrics.uncompacted.clone();
    let membership = watch::Sender::new(Membership::default());
    let looking = crate::tasks::spawn("looking", {
        let (env, membership) = (env.clone(), membership.subscribe());
        async move { match watch_over(env, membership).await {} }
    });
    let becomes = |role| membership.send_modify(|now| now.role = role);
    let looks_within = async |span| {
        let before = reads.load(Ordering::Relaxed);
        sleep(span).await;
        reads.load(Ordering::Relaxed) - before
    };
    becomes(Role::Follower);
    assert_eq!(looks_within(LOOK_EVERY * 10).await, 0);
    becomes(Role::Leader);
    assert_eq!(looks_within(FIRST_AFTER * 2).await, 1, "the first one comes soon");
    assert_eq!(looks_within(LOOK_EVERY * 3).await, 3);
    uncompacted.set(1);
    becomes(Role::Follower);
    assert_eq!(looks_within(LOOK_EVERY * 10).await, 0);
    assert_eq!(uncompacted.get(), 0, "the next leader tells it");
    becomes(Role::Leader);
    assert_eq!(looks_within(FIRST_AFTER * 2).await, 1);
    looking.abort();
}
