//! An operator: a node, caches, controllers on the leader and shard work on the followers, in one process.

mod error;
mod life;
mod work;

use std::{fmt, future::Future, sync::Arc, time::Duration};

use kube::Client;
use prometheus::{IntGauge, Registry, core::Collector};
use tokio::sync::watch;

pub use self::{
    error::OperatorError,
    life::{Begun, BuiltOperator, CachesSynced},
};
use self::{
    life::Serving,
    work::{OfShard, Reconciling},
};
use super::{
    authority::DebugClient,
    cache::{Cache, CacheMetrics, CacheSet, Cached, Delta, Scope},
    controller::{Controller, ControllerMetrics, Runnable, Sharded, Share},
    election::{ElectionTask, Ends},
    fence::{self, Drawn, ElectionRef},
    identity::PodIdentity,
    queue::QueueMetrics,
};
use crate::{
    metrics::{Build, metrics},
    node::{ClusterNodeBuilder, Stopped, WorkerOptions, work::LeaderTask},
    telemetry::{self, ServerConfig},
};

metrics! { b =>
    /// Metrics of the caches, the controllers and the fence of an operator.
    #[doc(hidden)]
    pub struct OperatorMetrics {
        caches: CacheMetrics = CacheMetrics::build(b);
        controllers: ControllerMetrics = ControllerMetrics::build(b);
        fence: IntGauge = fence::metric(b);
    }
}

/// Default limit for leaving the cluster: less than Kubernetes' default grace period of 30 s.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// Builder of an operator.
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
///     node::ClusterNode,
/// };
///
/// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// async fn reconcile(object: Arc<Deployment>, ctx: Context) -> Result<Action, ReconcileError> {
///     Ok(Action::done())
/// }
///
/// let node = ClusterNode::standalone().id(0).cluster("shop");
/// let election = ElectionRef { namespace: "shop".into(), cluster: "shop".into() };
/// Operator::new(node, client, election)
///     .controller(Controller::<Deployment>::new(reconcile).owns::<ConfigMap>())
///     .serve("0.0.0.0:8080") // /metrics, /livez, /readyz, /leader, and a page for people
///     .run_until_signalled()
///     .await?;
/// # Ok(())
/// # }
/// ```
pub struct Operator {
    node: ClusterNodeBuilder,
    client: Client,
    election: ElectionRef,
    pod: Option<PodIdentity>,
    summary: Option<watch::Receiver<Option<String>>>,
    controllers: Vec<Arc<dyn Runnable>>,
    sharded: Vec<(Arc<dyn Runnable>, Share)>,
    metrics: OperatorMetrics,
    queues: QueueMetrics,
    /// Collectors of the metrics, until they are registered.
    collectors: Vec<Box<dyn Collector>>,
    registry: Option<Registry>,
    serve: Option<ServerConfig>,
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
    /// Creates an operator from a node, a client, and its cluster's `Election` object.
    pub fn new(node: ClusterNodeBuilder, client: Client, election: ElectionRef) -> Self {
        let ((metrics, queues), collectors) =
            Build::made_by(|b| (OperatorMetrics::build(b), QueueMetrics::build(b)));
        Self {
            node,
            client,
            election,
            pod: None,
            summary: None,
            controllers: Vec::new(),
            sharded: Vec::new(),
            metrics,
            queues,
            collectors,
            registry: None,
            serve: None,
            caches: CacheSet::new(),
            stop_within: STOP_WITHIN,
        }
    }

    /// Adds a controller whose reconciler runs on the leader.
    #[must_use]
    pub fn controller<K: Cached>(mut self, controller: Controller<K>) -> Self {
        let controller = self.prepared(controller);
        self.controllers.push(controller);
        self
    }

    /// Adds a controller whose reconciler runs on the nodes that hold the objects' shards: on the followers.
    #[must_use]
    pub fn shards<K: Cached>(mut self, sharded: Sharded<K>) -> Self {
        let share = sharded.share.clone();
        let controller = self.prepared(sharded.into_controller());
        self.sharded.push((controller, share));
        self
    }

    fn prepared<K: Cached>(&mut self, controller: Controller<K>) -> Arc<dyn Runnable> {
        controller.prepare(&mut self.caches, &self.metrics.controllers, &self.queues)
    }

    /// Adds a task that runs on the leader, beside the controllers.
    #[must_use]
    pub fn leader_task(mut self, task: impl LeaderTask) -> Self {
        self.node = self.node.leader_task(task);
        self
    }

    /// Adds a worker for shards of another work type.
    #[must_use]
    pub fn worker(mut self, worker: WorkerOptions) -> Self {
        self.node = self.node.worker(worker);
        self
    }

    /// Sets the pod of this process: the `Election` shows it, and the leader's pod is labelled.
    #[must_use]
    pub fn pod(mut self, pod: PodIdentity) -> Self {
        self.pod = Some(pod);
        self
    }

    /// A line about the operator's own work for `status.summary` of the `Election`, at most 256 characters,
    /// for example `13 checks: 12 up, 1 down`. While this node leads, the status follows the channel; a `None`
    /// keeps the line of the last leader.
    #[must_use]
    pub fn summary(mut self, summary: watch::Receiver<Option<String>>) -> Self {
        self.summary = Some(summary);
        self
    }

    /// Namespace and name of the `Election` object of its cluster.
    pub fn election(&self) -> &ElectionRef {
        &self.election
    }

    /// The cache of a kind, filled by this operator whether or not a controller uses it.
    pub fn cache<K: Cached>(&mut self, kind: &K::DynamicType, scope: &Scope) -> Cache<K> {
        self.caches.of(kind, scope)
    }

    /// As [`cache`](Self::cache), with a `handler` that is called for every change, on the task that feeds
    /// the cache: it must be quick and must not block.
    pub fn on_change<K: Cached>(
        &mut self,
        kind: &K::DynamicType,
        scope: &Scope,
        handler: impl Fn(&Delta<K>) + Send + Sync + 'static,
    ) -> Cache<K> {
        self.caches.handle(kind, scope, Box::new(handler));
        self.cache(kind, scope)
    }

    /// Sets the registry for the metrics of the node (unless the node has its own), caches, controllers,
    /// queues and status server. The program may register further metrics there.
    /// [`telemetry::metrics::registry`] creates one that includes process metrics. Default: a new registry
    /// that only [`serve`](Self::serve) exposes.
    ///
    /// [`telemetry::metrics::registry`]: crate::telemetry::metrics::registry
    #[must_use]
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Lets [`run`](Self::run) serve `/metrics`, the probes `/livez` and `/readyz`, `/leader`, `/status` and
    /// the status page at this address, or as a whole [`ServerConfig`] specifies. The server runs on its own
    /// thread from before the node joins until after it has left. A node is ready, leader or not, when it has
    /// joined and its caches are synced. Default: no server.
    ///
    /// A program that calls [`BuiltOperator::begin`] serves [`Begun::source`] with its own [`StatusServer`].
    ///
    /// [`StatusServer`]: crate::telemetry::StatusServer
    #[must_use]
    pub fn serve(mut self, at: impl Into<ServerConfig>) -> Self {
        self.serve = Some(at.into());
        self
    }

    /// Sets the limit for leaving the cluster. Default: 20 s.
    #[must_use]
    pub fn stop_within(mut self, limit: Duration) -> Self {
        self.stop_within = limit;
        self
    }

    /// Builds the operator.
    ///
    /// # Errors
    ///
    /// [`OperatorError::Options`] if the node's options are invalid or contradict each other,
    /// [`OperatorError::Metrics`] if the registry has metrics of these names already.
    pub fn build(self) -> Result<BuiltOperator, OperatorError> {
        let Self {
            mut node,
            client,
            election,
            pod,
            summary,
            controllers,
            sharded,
            registry,
            serve,
            caches,
            stop_within,
            metrics,
            collectors,
            ..
        } = self;
        let registry = match registry {
            Some(registry) => registry,
            None => telemetry::metrics::registry().map_err(OperatorError::Metrics)?,
        };
        node = node.counted(&registry).map_err(OperatorError::Metrics)?;
        for collector in collectors {
            registry.register(collector).map_err(OperatorError::Metrics)?;
        }
        let all = controllers.iter().chain(sharded.iter().map(|(it, _)| it)).cloned().collect();
        let readable = caches.readable();
        let drawn = Drawn::new(metrics.fence);
        let ends = Ends::default();
        let reports = ends.clone().report(DebugClient(client.clone()), election.clone());
        let herald = ElectionTask::new(
            client.clone(),
            election.clone(),
            metrics.controllers.clone(),
            drawn.awaited(),
            ends.clone(),
        );
        node = node.leader_task(match summary {
            Some(summary) => herald.summary(summary),
            None => herald,
        });
        {
            let (client, readable, metrics) =
                (client.clone(), readable.clone(), metrics.controllers);
            let work = Reconciling { controllers, client, readable, election, metrics, drawn };
            node = node.leader_task(work);
        }
        for (controller, Share { shards, as_leader, .. }) in sharded {
            let name = controller.name().to_owned();
            let worker = OfShard { controller, client: client.clone(), readable: readable.clone() };
            let worker = WorkerOptions::new(name, worker).shards(shards);
            node = node.worker(if as_leader { worker.as_leader() } else { worker });
        }
        Ok(BuiltOperator {
            node: Arc::new(node.build().map_err(OperatorError::Options)?),
            controllers: all,
            caches: caches.begin(&client, &metrics.caches),
            ends: (ends, Box::pin(reports)),
            pod,
            serving: serve.map(|config| Serving { config, registry }),
            stop_within,
        })
    }

    /// Builds the operator and runs it: starts the status server, then the caches, the node and the work, and
    /// stops them in reverse order. When `shutdown` resolves, the operator leaves the cluster: it ends and
    /// joins all work, and hands over office and shards. A node is ready, leader or not, when it has joined
    /// and its caches are synced.
    ///
    /// # Errors
    ///
    /// [`OperatorError`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the node continues to leave in the background; work is aborted.
    pub async fn run(
        self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<Stopped, OperatorError> {
        self.build()?.run(shutdown).await
    }
}
