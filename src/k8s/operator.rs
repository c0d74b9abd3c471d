//! An operator: a node, caches, controllers on the leader and shard work on the followers, in one process.

mod life;
mod work;

use std::{fmt, future::Future, sync::Arc, time::Duration};

use kube::Client;
use prometheus::{IntGauge, Registry, core::Collector};
use tokio::sync::watch;

pub use self::life::CachesSynced;
use self::work::{OfShard, Reconciling};
use super::{
    authority::DebugClient,
    cache::{Cache, CacheMetrics, CacheSet, Cached, Delta, Scope},
    controller::{Controller, ControllerMetrics, Runnable, Sharded, Share},
    election::{ElectionTask, Ends},
    fence::{self, Drawn, ElectionRef},
    identity::PodIdentity,
    queue::QueueMetrics,
    rbac::{self, Needs, Rules},
};
use crate::{
    host::{BuiltHost, Host, HostError},
    metrics::{Build, metrics},
    node::{ClusterNode, Stopped, WorkerOptions, work::LeaderTask},
    telemetry::ServerConfig,
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

/// Operator: a [`Host`] with caches and controllers.
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
    host: Host,
    client: Client,
    election: ElectionRef,
    scope: Scope,
    needs: Needs,
    pod: Option<PodIdentity>,
    summary: Option<watch::Receiver<Option<String>>>,
    controllers: Vec<Arc<dyn Runnable>>,
    sharded: Vec<(Arc<dyn Runnable>, Share)>,
    metrics: OperatorMetrics,
    queues: QueueMetrics,
    /// Collectors of the metrics, until they are registered.
    collectors: Vec<Box<dyn Collector>>,
    caches: CacheSet,
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.controllers.iter().map(|it| it.name()).collect();
        let sharded: Vec<_> = self.sharded.iter().map(|(it, _)| it.name()).collect();
        f.debug_struct("Operator")
            .field("host", &self.host)
            .field("election", &self.election)
            .field("controllers", &names)
            .field("sharded", &sharded)
            .finish_non_exhaustive()
    }
}

impl Operator {
    /// Creates an operator from the builder of its node, or from a whole [`Host`], a client, and its cluster's
    /// `Election` object.
    pub fn new(host: impl Into<Host>, client: Client, election: ElectionRef) -> Self {
        let ((metrics, queues), collectors) =
            Build::made_by(|b| (OperatorMetrics::build(b), QueueMetrics::build(b)));
        Self {
            host: host.into(),
            client,
            election,
            scope: Scope::all(),
            needs: Needs::default(),
            pod: None,
            summary: None,
            controllers: Vec::new(),
            sharded: Vec::new(),
            metrics,
            queues,
            collectors,
            caches: CacheSet::new(),
        }
    }

    /// Sets the scope of the controllers that are added later without a scope of their own. Default: all objects,
    /// in all namespaces.
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// Scope of the controllers without a scope of their own.
    pub fn watched(&self) -> &Scope {
        &self.scope
    }

    /// Adds a controller whose reconciler runs on the leader.
    #[must_use]
    pub fn controller<K: Cached>(mut self, controller: Controller<K>) -> Self {
        let controller = self.prepared(controller);
        self.controllers.push(controller);
        self
    }

    /// Creates an operator `name` without a connection, whose controllers can be looked at.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[cfg(feature = "app")]
    pub(crate) fn unconnected(name: &str) -> Self {
        let refused = |_: http::Request<kube::client::Body>| async {
            Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("not connected"))
        };
        let client = Client::new(tower::service_fn(refused), name);
        let election = ElectionRef { namespace: name.to_owned(), cluster: name.to_owned() };
        let node = ClusterNode::standalone().id(0).cluster(name);
        Self::new(node, client, election).scope(Scope::namespace(name))
    }

    /// Adds a controller whose reconciler runs on the nodes that hold the objects' shards: on the followers.
    #[must_use]
    pub fn shards<K: Cached>(mut self, sharded: Sharded<K>) -> Self {
        let share = sharded.share.clone();
        let controller = self.prepared(sharded.into_controller());
        self.sharded.push((controller, share));
        self
    }

    fn prepared<K: Cached>(&mut self, mut controller: Controller<K>) -> Arc<dyn Runnable> {
        let (needs, scope) = controller.take_needs();
        self.needs.merge(needs, scope.as_ref(), &self.scope);
        let metrics = &self.metrics.controllers;
        controller.prepare(&self.scope, &mut self.caches, metrics, &self.queues)
    }

    /// Declares that tasks of this operator use these verbs on objects of type `C`, as
    /// [`Controller::needs`].
    #[must_use]
    pub fn needs<C: Cached>(mut self, verbs: &[&'static str]) -> Self
    where
        C::DynamicType: Default,
    {
        self.needs.add::<C>(&C::DynamicType::default(), "", verbs);
        self
    }

    /// Permissions that this operator needs, from what it and its controllers declare. The operator is taken to
    /// run in pods, whose labels it keeps.
    pub fn rules(&self) -> Rules {
        self.needs.rules()
    }

    /// Adds what a function adds: the controllers of one module.
    #[must_use]
    pub fn with(self, add: impl FnOnce(Self) -> Self) -> Self {
        add(self)
    }

    /// Adds a task that runs on the leader, beside the controllers.
    #[must_use]
    pub fn leader_task(self, task: impl LeaderTask) -> Self {
        self.with_host(|host| host.leader_task(task))
    }

    /// Adds a worker for shards of another work type.
    #[must_use]
    pub fn worker(self, worker: WorkerOptions) -> Self {
        self.with_host(|host| host.worker(worker))
    }

    /// Changes the host of this operator: adds tasks, steps before joining, or fields of `/status`.
    #[must_use]
    pub fn with_host(mut self, change: impl FnOnce(Host) -> Host) -> Self {
        self.host = change(self.host);
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
        let mut needs = Needs::default();
        needs.add::<K>(kind, "", rbac::READ);
        self.needs.merge(needs, Some(scope), &self.scope);
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

    /// Registry of this operator's metrics, for further ones of the program.
    ///
    /// # Errors
    ///
    /// [`HostError::Metrics`] if the metrics of the process cannot be registered.
    pub fn own_registry(&mut self) -> Result<Registry, HostError> {
        self.host.own_registry()
    }

    /// As [`Host::registry`]; the metrics of caches, controllers and queues are registered there too.
    #[must_use]
    pub fn registry(self, registry: Registry) -> Self {
        self.with_host(|host| host.registry(registry))
    }

    /// As [`Host::serve`]. A node is ready, leader or not, when it has joined and its caches are synced.
    #[must_use]
    pub fn serve(self, at: impl Into<ServerConfig>) -> Self {
        self.with_host(|host| host.serve(at))
    }

    /// Sets the limit for leaving the cluster, as [`Host::stop_within`].
    #[must_use]
    pub fn stop_within(self, limit: Duration) -> Self {
        self.with_host(|host| host.stop_within(limit))
    }

    /// Builds the operator, and a handle that shows the caches that are not synced yet.
    ///
    /// # Errors
    ///
    /// [`HostError::Options`] if the node's options are invalid or contradict each other,
    /// [`HostError::Metrics`] if the registry has metrics of these names already.
    #[doc(hidden)]
    pub fn build(self) -> Result<(BuiltHost, CachesSynced), HostError> {
        let Self {
            mut host,
            client,
            election,
            pod,
            summary,
            controllers,
            sharded,
            caches,
            metrics,
            collectors,
            ..
        } = self;
        let registry = host.own_registry()?;
        for collector in collectors {
            registry.register(collector).map_err(HostError::Metrics)?;
        }
        let all: Vec<_> =
            controllers.iter().chain(sharded.iter().map(|(it, _)| it)).cloned().collect();
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
        host = host.leader_task(match summary {
            Some(summary) => herald.summary(summary),
            None => herald,
        });
        let caches = caches.begin(&client, &metrics.caches);
        {
            let (client, readable, metrics) =
                (client.clone(), readable.clone(), metrics.controllers);
            let work = Reconciling { controllers, client, readable, election, metrics, drawn };
            host = host.leader_task(work);
        }
        for (controller, Share { shards, as_leader, .. }) in sharded {
            let name = controller.name().to_owned();
            let worker = OfShard { controller, client: client.clone(), readable: readable.clone() };
            let worker = WorkerOptions::new(name, worker).shards(shards);
            host = host.worker(if as_leader { worker.as_leader() } else { worker });
        }
        let (mut host, synced) = life::with_caches(host, caches);
        for controller in all {
            host = host.task("controller", move |_| controller.dispatch());
        }
        if let Some(pod) = pod {
            host = host.task("pod", move |node| life::keep_told(node, pod));
        }
        let host = host
            .task("election", move |_| reports)
            .after_leaving(async move { ends.settled(life::REPORTED_WITHIN).await });
        Ok((host.build()?, synced))
    }

    /// As [`Host::run`]: the caches and controllers are tasks of the host, and the node joins when all caches
    /// are synced.
    ///
    /// # Errors
    ///
    /// [`HostError`].
    ///
    /// # Cancel safety
    ///
    /// As [`Host::run`].
    pub async fn run(
        self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<Stopped, HostError> {
        self.build()?.0.run(shutdown).await
    }

    /// As [`Host::run_until_signalled`].
    ///
    /// # Errors
    ///
    /// As [`Host::run_until_signalled`].
    ///
    /// # Cancel safety
    ///
    /// As [`Host::run`].
    pub async fn run_until_signalled(self) -> Result<Stopped, HostError> {
        self.build()?.0.run_until_signalled().await
    }
}
