//! A driver that fails is reported to every caller, context and handle.

use std::sync::atomic::AtomicUsize;

use futures::future::BoxFuture;

use super::*;
use crate::{
    engine::{Call, Outcome, timing::SPAN_MAX},
    node::{
        ClusterNode, ClusterNodeBuilder, FencedError, LeaderContext, Role, ShardContext,
        WorkerOptions, broken, keep_joined,
        pod_lock::PodLock,
        work::{LeaderTask, WorkError},
    },
    store::{
        Get, Op, Store as _,
        keys::Keys,
        memory::{MemoryStore, Seen},
        protocol,
    },
};

/// Time limit, so that no test hangs.
const LONG: Duration = Duration::from_secs(60);

fn builder(store: &MemoryStore) -> ClusterNodeBuilder {
    ClusterNode::builder().id(1).cluster("C").store(Arc::new(store.clone()))
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(LONG, future).await.unwrap_or_else(|_| panic!("{what} does not come"))
}

/// Leader with a running tick, task and shard worker, and their contexts.
struct Leading {
    node: ClusterNode,
    store: MemoryStore,
    ticks: watch::Receiver<Option<LeaderContext>>,
    tasks: watch::Receiver<Option<LeaderContext>>,
    shards: watch::Receiver<Option<ShardContext>>,
    /// Number of futures of user work that exist.
    alive: Arc<AtomicUsize>,
}

/// Guard that counts as alive until it is dropped.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn one_of(all: &Arc<AtomicUsize>) -> Self {
        all.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(all))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Work that never returns by itself, and publishes its context.
macro_rules! endless {
    ($told:expr, $alive:expr, $context:ty) => {{
        let (told, alive) = (watch::Sender::clone(&$told), Arc::clone(&$alive));
        move |context: $context| {
            let (told, alive) = (told.clone(), Alive::one_of(&alive));
            async move {
                let _alive = alive;
                told.send_replace(Some(context));
                std::future::pending::<Result<(), WorkError>>().await
            }
        }
    }};
}

type Run = dyn Fn(LeaderContext) -> BoxFuture<'static, Result<(), WorkError>> + Send + Sync;

struct Task(Box<Run>);

#[async_trait]
impl LeaderTask for Task {
    fn name(&self) -> &'static str {
        "endless"
    }

    async fn run(&self, ctx: LeaderContext) -> Result<(), WorkError> {
        (self.0)(ctx).await
    }
}

impl Leading {
    async fn new(more: impl FnOnce(ClusterNodeBuilder) -> ClusterNodeBuilder) -> Self {
        let store = MemoryStore::new();
        // The store belongs to the test: no leader can have been there before.
        let (keys, seed) = (Keys::new("C").unwrap(), Call::Seed { d: SPAN_MAX, ended: true });
        let seeded = protocol::send(&store, &keys, &seed, LONG).await;
        assert!(matches!(seeded, Outcome::Done(_)), "{seeded:?}");
        let alive = Arc::new(AtomicUsize::new(0));
        let (tick, ticks) = watch::channel(None);
        let (task, tasks) = watch::channel(None);
        let (shard, shards) = watch::channel(None);
        let on_shard = endless!(shard, alive, ShardContext);
        let on_task = endless!(task, alive, LeaderContext);
        let worker = move |_, context: ShardContext| on_shard(context);
        let builder = builder(&store)
            .on_leader_tick(endless!(tick, alive, LeaderContext))
            .leader_task(Task(Box::new(move |context| on_task(context).boxed())))
            .worker(WorkerOptions::new("w", worker).shards(1));
        let node = more(builder).build().unwrap();
        within("joining", node.start()).await.unwrap();
        let mut leading = Self { node, store, ticks, tasks, shards, alive };
        within("a tick", leading.ticks.wait_for(Option::is_some)).await.unwrap();
        within("a task", leading.tasks.wait_for(Option::is_some)).await.unwrap();
        within("a shard", leading.shards.wait_for(Option::is_some)).await.unwrap();
        leading
    }

    fn shared(&self) -> &NodeShared {
        &self.node.shared
    }

    /// Makes the driver panic in its next step.
    async fn break_driver(&self) -> NodeError {
        self.store.faults().break_on(|seen| matches!(seen, Seen::Health));
        let error = within("an answer", self.node.status()).await.unwrap_err();
        self.store.faults().clear();
        error
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_panics_ends_authority_and_work_and_every_call_says_so() {
    let leading = Leading::new(|builder| builder).await;
    let node = leading.node.clone();
    let tick = leading.ticks.borrow().clone().unwrap();
    let task = leading.tasks.borrow().clone().unwrap();
    let shard = leading.shards.borrow().clone().unwrap();
    assert!(tick.check().is_ok() && task.check().is_ok() && shard.check().is_ok());
    let mut user_watch = node.watch_key_cluster("k", WatchFrom::Now).await.unwrap();
    let kept = {
        let node = node.clone();
        crate::tasks::spawn("keep joined", async move { keep_joined(&node).await })
    };
    let noticed = {
        let node = node.clone();
        crate::tasks::spawn("broken", async move { broken(&node).await })
    };

    assert_eq!(leading.break_driver().await, NodeError::Broken);

    // Before any caller gets the error, authority is over, and the work is cancelled and dropped.
    assert!(tick.check().is_err() && task.check().is_err() && shard.check().is_err());
    assert!(tick.is_cancelled() && task.is_cancelled() && shard.is_cancelled());
    let refused = tick.fenced().put("k", "v").await;
    assert!(matches!(refused, Err(FencedError::StaleTerm)), "{refused:?}");
    within("the end of all work", async {
        while leading.alive.load(Ordering::SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;

    let broken_now = Membership { broken: true, ..Membership::default() };
    assert_eq!(*node.membership().borrow(), broken_now);
    assert_eq!(node.get_self_metadata().role, Role::Unknown);
    assert!(matches!(within("keep_joined", kept).await.unwrap(), StartError::Broken));
    assert_eq!(within("broken", noticed).await.unwrap(), NodeError::Broken);
    assert_eq!(within("the end of the watch", user_watch.recv()).await, None);
    let metrics = &leading.shared().env.metrics;
    assert_eq!(metrics.role.get(), Role::Unknown as i64);
    assert_eq!(metrics.master.with_label_values(&["C"]).get(), 0);
    assert_eq!(metrics.shards_owned.with_label_values(&["w"]).get(), 0);

    assert!(matches!(node.start().await, Err(StartError::Broken)));
    assert_eq!(node.status().await.unwrap_err(), NodeError::Broken);
    assert_eq!(node.resign().await, Err(NodeError::Broken));
    assert_eq!(node.drain().await, Err(NodeError::Broken));
    assert_eq!(node.stop(LONG).await, Err(NodeError::Broken));
    assert!(matches!(node.put("k", b"v").await, Err(StateError::Broken)));
    assert!(matches!(node.get("k").await, Err(StateError::Broken)));
    assert!(matches!(node.get_nodes().await, Err(StateError::Broken)));
    assert!(matches!(node.claim("k").await, Err(StateError::Broken)));
    assert_eq!(node.close().await, Err(CloseError::Unclean));
    assert_eq!(node.close().await, Ok(()));
    assert_eq!(node.status().await.unwrap_err(), NodeError::Broken, "also when it is closed");

    // The term is not ended: without a proof of the leader's death the other nodes wait.
    let keys = &leading.shared().env.keys;
    let record = leading.store.get(Get::key(keys.record()), LONG).await.unwrap();
    let record = crate::store::values::decode_record(&record.kvs[0].value).unwrap();
    assert!(!record.ended, "{record:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_leaves_by_order_is_not_broken() {
    let leading = Leading::new(|builder| builder).await;
    let ended = leading.node.close().await;
    assert_eq!(ended, Ok(()));
    assert_eq!(leading.node.status().await.unwrap_err(), NodeError::Closed);
    assert!(!leading.node.membership().borrow().broken);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pods_lock_is_held_as_long_as_work_of_a_broken_node_may_act() {
    let leading = Leading::new(|builder| builder.pod_uid("pod-of-a-broken-node")).await;
    assert_eq!(leading.break_driver().await, NodeError::Broken);
    let taken = PodLock::take("C", "pod-of-a-broken-node");
    assert!(taken.is_err(), "the next life would take this one for dead");
    drop(leading);
    within("the lock", async {
        while PodLock::take("C", "pod-of-a-broken-node").is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_has_failed_ends_its_node() {
    let leading = Leading::new(|builder| builder).await;
    leading.store.faults().fail();
    assert_eq!(within("the end", broken(&leading.node)).await, NodeError::Broken);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_watch_of_the_store_has_panicked_is_broken() {
    let store = MemoryStore::new();
    store.faults().break_on(|seen| matches!(seen, Seen::Watch(_)));
    let node = builder(&store).build().unwrap();
    let started = within("an answer", node.start()).await;
    assert!(matches!(started, Ok(()) | Err(StartError::Broken)), "{started:?}");
    assert_eq!(within("the end", broken(&node)).await, NodeError::Broken);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_put_its_state_back_for_a_bug_is_broken() {
    let leading = Leading::new(|builder| builder).await;
    leading.node.put("precious", b"1").await.unwrap();
    leading.store.faults().break_on(|seen| {
        let precious = |op: &Op| matches!(op, Op::Put { key, .. } if String::from_utf8_lossy(key).contains("precious"));
        matches!(seen, Seen::Txn(txn) if txn.then.iter().any(precious))
    });
    let lease = leading.shared().published.session.borrow().clone().unwrap().lease;
    leading.store.revoke(lease, LONG).await.unwrap();
    assert_eq!(within("the end", broken(&leading.node)).await, NodeError::Broken);
}
