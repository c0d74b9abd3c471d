//! An operator: a node, caches, controllers on the leader, shard work on the followers, in one process.

mod node;
mod work;

use std::{fmt, future::Future, sync::Arc, time::Duration};

use futures::future::{BoxFuture, join_all};
use kube::Client;
use tokio::sync::watch;

pub use self::node::{NodeBuilder, OperatorError};
use self::work::{OfShard, Reconciling};
use super::{
    cache::{Cache, CacheSet, Cached, Delta, IsSynced, Running, Scope},
    controller::{Controller, Loop, Prepare, Readable, Setup, Sharded, Share},
    crd::election::ElectionChecks,
    election::{ElectionTask, tell_pod},
    fence::ElectionRef,
    identity::PodIdentity,
    metrics::K8sMetrics,
    queue::QueueMetrics,
};
use crate::{
    node::{Node, Stopped, WorkerOptions, work::LeaderTask},
    tasks::{Ended, Tasks},
};

/// How long leaving may take by default: less than Kubernetes' default grace period of 30 s.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// The pod is told again after this long where that failed.
const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often it is said that caches are waited for.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// An operator that is being put together.
///
/// ```no_run
/// use std::sync::Arc;
///
/// use bellwether::{
///     k8s::{
///         controller::{Action, Context, Controller, ReconcileError},
///         fence::ElectionRef,
///         k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap},
///         kube::Client,
///         operator::Operator,
///     },
///     node::StandaloneNode,
/// };
///
/// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// async fn reconcile(object: Arc<Deployment>, ctx: Context) -> Result<Action, ReconcileError> {
///     Ok(Action::done())
/// }
///
/// let node = StandaloneNode::builder().id(0).cluster("shop");
/// let election = ElectionRef { namespace: "shop".into(), cluster: "shop".into() };
/// Operator::new(node, client, election)
///     .controller(Controller::<Deployment>::new(reconcile).owns::<ConfigMap>())
///     .run(async { let _ = tokio::signal::ctrl_c().await; })
///     .await?;
/// # Ok(())
/// # }
/// ```
pub struct Operator {
    node: NodeBuilder,
    client: Client,
    election: ElectionRef,
    pod: Option<PodIdentity>,
    checks: Option<watch::Receiver<ElectionChecks>>,
    controllers: Vec<Box<dyn Prepare>>,
    sharded: Vec<(Box<dyn Prepare>, Share)>,
    metrics: Option<(K8sMetrics, QueueMetrics)>,
    caches: CacheSet,
    stop_within: Duration,
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.controllers.iter().map(|it| it.name()).collect();
        let sharded: Vec<_> = self.sharded.iter().map(|(it, _)| it.name()).collect();
        f.debug_struct("Operator")
            .field("node", &self.node)
            .field("election", &self.election)
            .field("controllers", &names)
            .field("sharded", &sharded)
            .finish_non_exhaustive()
    }
}

impl Operator {
    /// Of that node, by that client, with that `Election` object.
    pub fn new(node: impl Into<NodeBuilder>, client: Client, election: ElectionRef) -> Self {
        Self {
            node: node.into(),
            client,
            election,
            pod: None,
            checks: None,
            controllers: Vec::new(),
            sharded: Vec::new(),
            metrics: None,
            caches: CacheSet::new(),
            stop_within: STOP_WITHIN,
        }
    }

    /// A controller whose reconciler runs on the leader.
    #[must_use]
    pub fn controller<K: Cached>(mut self, controller: Controller<K>) -> Self {
        self.controllers.push(Box::new(controller));
        self
    }

    /// A controller whose reconciler runs on the nodes that hold the objects' shards: on the followers.
    #[must_use]
    pub fn shards<K: Cached>(mut self, sharded: Sharded<K>) -> Self {
        let share = sharded.share.clone();
        self.sharded.push((Box::new(sharded.into_controller()), share));
        self
    }

    /// What runs as long as the node leads, beside the controllers.
    #[must_use]
    pub fn leader_task(mut self, task: impl LeaderTask) -> Self {
        self.node = self.node.leader_task(task);
        self
    }

    /// Work on shards of another kind.
    #[must_use]
    pub fn worker(mut self, worker: WorkerOptions) -> Self {
        self.node = self.node.worker(worker);
        self
    }

    /// The pod that it runs in: it is named in the `Election`, and labelled while its node leads.
    #[must_use]
    pub fn pod(mut self, pod: PodIdentity) -> Self {
        self.pod = Some(pod);
        self
    }

    /// How many uptime checks there are in which state, for the `Election`.
    #[must_use]
    pub(crate) fn checks(mut self, checks: watch::Receiver<ElectionChecks>) -> Self {
        self.checks = Some(checks);
        self
    }

    /// The cache of a kind, kept by this operator whether or not a controller looks at it.
    pub fn cache<K: Cached>(&mut self, kind: &K::DynamicType, scope: &Scope) -> Cache<K> {
        self.caches.of(kind, scope)
    }

    /// The same, and `handler` is told every change of it, on the task that keeps it: it must be quick and
    /// must not wait.
    pub fn on_change<K: Cached>(
        &mut self,
        kind: &K::DynamicType,
        scope: &Scope,
        handler: impl Fn(&Delta<K>) + Send + Sync + 'static,
    ) -> Cache<K> {
        self.caches.handle(kind, scope, Box::new(handler));
        self.caches.of(kind, scope)
    }

    /// Where it counts. Default: nobody collects it.
    #[must_use]
    pub fn metrics(mut self, metrics: K8sMetrics, queues: QueueMetrics) -> Self {
        self.metrics = Some((metrics, queues));
        self
    }

    /// How long leaving may take. Default: 20 s.
    #[must_use]
    pub fn stop_within(mut self, limit: Duration) -> Self {
        self.stop_within = limit;
        self
    }

    /// Puts it together.
    ///
    /// # Errors
    ///
    /// [`OperatorError::Options`] if the node's options do not go together.
    ///
    /// # Panics
    ///
    /// Never: the names of the metrics that nobody collects are good.
    pub fn build(self) -> Result<BuiltOperator, OperatorError> {
        let Self {
            mut node,
            client,
            election,
            pod,
            checks,
            controllers,
            sharded,
            metrics,
            mut caches,
            stop_within,
        } = self;
        let (metrics, queues) = metrics.unwrap_or_else(|| {
            (K8sMetrics::new().expect("the names are good"), QueueMetrics::unregistered())
        });
        let mut readable = Readable::default();
        let mut setup = Setup {
            caches: &mut caches,
            readable: &mut readable,
            metrics: &metrics,
            queues: &queues,
        };
        let loops: Vec<_> = controllers.into_iter().map(|it| it.prepare(&mut setup)).collect();
        let lanes: Vec<_> =
            sharded.into_iter().map(|(it, share)| (it.prepare(&mut setup), share)).collect();
        let all = loops.iter().chain(lanes.iter().map(|(it, _)| it)).cloned().collect();
        let herald = ElectionTask::new(client.clone(), election.clone(), metrics.clone());
        node = node.leader_task(match checks {
            Some(checks) => herald.checks(checks),
            None => herald,
        });
        {
            let (client, readable, metrics) = (client.clone(), readable.clone(), metrics.clone());
            node = node.leader_task(Reconciling { loops, client, readable, election, metrics });
        }
        for (lane, Share { shards, as_leader, .. }) in lanes {
            let name = lane.name().to_owned();
            let worker = OfShard { lane, client: client.clone(), readable: readable.clone() };
            let worker = WorkerOptions::new(name, worker).shards(shards).as_leader(as_leader);
            node = node.worker(worker);
        }
        Ok(BuiltOperator {
            node: node.build().map_err(OperatorError::Options)?,
            loops: all,
            caches: caches.begin(&client, &metrics),
            pod,
            stop_within,
        })
    }

    /// Puts it together and runs it: caches first, then the node, then the work; at the end the other way
    /// round. When `shutdown` resolves it leaves: all work is ended and joined, office and shards are handed
    /// over. Readiness on every node, leader or not, is that it has joined and its caches are synced.
    ///
    /// # Errors
    ///
    /// [`OperatorError`].
    ///
    /// # Cancel safety
    ///
    /// Dropped, the node goes on leaving in the background; work is aborted.
    pub async fn run(
        self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<Stopped, OperatorError> {
        self.build()?.run(shutdown).await
    }
}

/// An operator that has been put together.
pub struct BuiltOperator {
    node: Arc<dyn Node>,
    loops: Vec<Arc<dyn Loop>>,
    caches: Vec<Running>,
    pod: Option<PodIdentity>,
    stop_within: Duration,
}

impl fmt::Debug for BuiltOperator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuiltOperator").field("node", &self.node).finish_non_exhaustive()
    }
}

/// Which caches are not synced yet: a handle for readiness probes.
#[derive(Clone)]
pub struct CachesSynced(Arc<Vec<(String, IsSynced)>>);

impl fmt::Debug for CachesSynced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CachesSynced").field(&self.missing()).finish()
    }
}

impl CachesSynced {
    /// The kinds that have not been listed yet; none means ready.
    pub fn missing(&self) -> Vec<&str> {
        let missing = self.0.iter().filter(|(_, is_synced)| !is_synced());
        missing.map(|(kind, _)| kind.as_str()).collect()
    }
}

impl BuiltOperator {
    /// The node.
    pub fn node(&self) -> &Arc<dyn Node> {
        &self.node
    }

    /// Which caches are not synced yet, now and later.
    pub fn caches_synced(&self) -> CachesSynced {
        let mut all = Vec::new();
        for cache in &self.caches {
            all.push((cache.kind.clone(), Arc::clone(&cache.is_synced)));
        }
        CachesSynced(Arc::new(all))
    }

    /// Keeps its caches and lets its controllers work whenever the node has the right to; the node is not
    /// started. For programs that start and stop the node themselves; others call [`run`](Self::run).
    pub fn begin(self) -> Begun {
        let synced = self.caches_synced();
        let mut tasks = Tasks::new();
        let mut waits = Vec::new();
        for Running { run, synced, .. } in self.caches {
            waits.push(synced);
            tasks.spawn("cache", async move {
                run.await;
            });
        }
        for controller in self.loops {
            tasks.spawn("controller", controller.dispatch());
        }
        if let Some(pod) = self.pod {
            tasks.spawn("pod", keep_told(Arc::clone(&self.node), pod));
        }
        Begun { node: self.node, synced, waits, tasks }
    }

    /// As [`Operator::run`].
    ///
    /// # Errors
    ///
    /// [`OperatorError`].
    ///
    /// # Cancel safety
    ///
    /// As [`Operator::run`].
    pub async fn run(
        self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<Stopped, OperatorError> {
        let stop_within = self.stop_within;
        let mut begun = self.begin();
        let node = Arc::clone(begun.node());
        let lived = tokio::select! {
            biased;
            // Dropped with this future only.
            () = shutdown => Ok(()),
            // Dropped, what was begun goes on in the background until the node is stopped below.
            ended = begun.live(live(&*node)) => ended,
        };
        let stopped = node.stop(stop_within).await;
        begun.end().await;
        let closed = node.close().await;
        lived?;
        let stopped = stopped.map_err(OperatorError::Stop)?;
        if let Err(error) = closed {
            tracing::warn!(error = &error as &dyn std::error::Error, "closing the node");
        }
        Ok(stopped)
    }
}

/// An operator whose caches are kept and whose controllers work when they may. Dropped, all of it is aborted.
pub struct Begun {
    node: Arc<dyn Node>,
    synced: CachesSynced,
    waits: Vec<BoxFuture<'static, ()>>,
    tasks: Tasks,
}

impl fmt::Debug for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Begun")
            .field("node", &self.node)
            .field("synced", &self.synced)
            .finish_non_exhaustive()
    }
}

impl Begun {
    /// The node.
    pub fn node(&self) -> &Arc<dyn Node> {
        &self.node
    }

    /// Which caches are not synced yet.
    pub fn synced(&self) -> &CachesSynced {
        &self.synced
    }

    /// Waits until all caches are synced and then for the node's life; whatever ends first ends this.
    ///
    /// # Errors
    ///
    /// That of the node's life, or [`OperatorError::Task`] if a part of the operator has ended.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the node's life is dropped; caches and controllers go on until [`end`](Self::end).
    pub async fn live<E: From<OperatorError>>(
        &mut self,
        life: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        let waits = std::mem::take(&mut self.waits);
        let (synced, tasks) = (&self.synced, &mut self.tasks);
        tokio::select! {
            biased;
            // Cancel safe: what ended is handed out next time, and there is no next time.
            ended = tasks.join_next() => Err(unasked(ended).into()),
            // Dropped with this future only.
            ended = async {
                say_until(synced, join_all(waits)).await;
                life.await
            } => ended,
        }
    }

    /// Ends caches and controllers; returns when they have ended. Stop the node first: it ends their work.
    pub async fn end(mut self) {
        self.tasks.abort_all().await;
    }
}

fn unasked(ended: Option<Ended>) -> OperatorError {
    OperatorError::Task(match ended {
        Some(Ended::Returned(name)) => format!("task `{name}` ended unasked"),
        Some(Ended::Failed(why)) => format!("a task failed: {why}"),
        None => "there is nothing to run: give the operator a controller".to_owned(),
    })
}

/// Says now and then which caches are waited for.
async fn say_until<T>(synced: &CachesSynced, all: impl Future<Output = T>) -> T {
    let mut all = std::pin::pin!(all);
    loop {
        match tokio::time::timeout(SAID_EVERY, &mut all).await {
            Ok(done) => return done,
            Err(_) => {
                tracing::info!(missing = ?synced.missing(), "waiting for caches before joining");
            }
        }
    }
}

/// Joins, and joins again whenever the session is lost; returns when it cannot.
async fn live(node: &dyn Node) -> Result<(), OperatorError> {
    let mut membership = node.membership();
    loop {
        // It joins again by itself; this waits, and finds out if it is refused.
        node.start().await.map_err(OperatorError::Start)?;
        for joined in [true, false] {
            if membership.wait_for(|it| it.joined == joined).await.is_err() {
                return Err(OperatorError::Task("the node's driver has ended".to_owned()));
            }
        }
    }
}

/// Tells the cluster which pod this node runs in, whenever it has joined.
async fn keep_told(node: Arc<dyn Node>, pod: PodIdentity) {
    let mut membership = node.membership();
    while membership.wait_for(|it| it.joined).await.is_ok() {
        match tell_pod(&*node, pod.name(), pod.uid()).await {
            Ok(()) => {
                let _ = membership.wait_for(|it| !it.joined).await;
            }
            Err(error) => {
                tracing::debug!(%error, "the others are not told which pod this node runs in");
                tokio::time::sleep(TOLD_AGAIN_AFTER).await;
            }
        }
    }
    // The node was closed: there is nobody to tell any more.
    std::future::pending::<()>().await;
}
