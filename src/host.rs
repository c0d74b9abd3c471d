//! The life of a program with a node: the status server starts first, then the tasks beside the node, and the node with
//! its work. They stop in reverse order.

mod error;

use std::{fmt, future::Future, sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use prometheus::Registry;

pub use self::error::HostError;
use crate::{
    node::{
        ClusterNodeBuilder, Node, NodeError, Stopped, WorkerOptions, broken, keep_joined,
        supervision,
        work::{LeaderTask, WorkError},
    },
    signals::Signals,
    tasks::Tasks,
    telemetry::{NodeSource, ServerConfig, StatusServer, metrics},
};

#[cfg(test)]
mod tests;

/// Default limit for leaving the cluster: less than Kubernetes' default grace period of 30 s.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// A node with its status server and the tasks beside it, in one process: a program without Kubernetes. An
/// `Operator` is a host with caches and controllers.
///
/// ```no_run
/// use bellwether::{
///     host::Host,
///     node::{ClusterNode, LeaderContext, ShardContext, ShardId, WorkerOptions},
///     store::etcd::EtcdConfig,
/// };
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let rounds = WorkerOptions::new("rounds", |shard: ShardId, ctx: ShardContext| async move {
///     while !ctx.is_cancelled() {
///         ctx.check()?; // … one round of work on the shard's objects …
///     }
///     Ok(())
/// });
/// let node = ClusterNode::builder()
///     .cluster("shop")
///     .id(0)
///     .etcd(EtcdConfig::new(["http://etcd:2379"]))
///     .on_leader_tick(|ctx: LeaderContext| async move {
///         ctx.fenced().put("last-pass", ctx.term().to_string()).await?;
///         Ok(())
///     })
///     .worker(rounds.shards(8));
/// Host::new(node)
///     .serve("0.0.0.0:8080") // /metrics, /livez, /readyz, /leader, and a page for people
///     .run_until_signalled()
///     .await?;
/// # Ok(())
/// # }
/// ```
pub struct Host {
    node: ClusterNodeBuilder,
    life: Life,
}

/// Function that gets the node as soon as the node is built.
type OnNode<T> = Box<dyn FnOnce(Arc<dyn Node>) -> BoxFuture<'static, T> + Send>;

/// Parts of a host beside its node.
struct Life {
    registry: Option<Registry>,
    serving: Option<Serving>,
    status: Vec<Box<dyn FnOnce(NodeSource) -> NodeSource + Send>>,
    tasks: Vec<(&'static str, OnNode<()>)>,
    before_joining: Vec<OnNode<Result<(), WorkError>>>,
    after_leaving: BoxFuture<'static, ()>,
    start_within: Option<Duration>,
    stop_within: Duration,
}

/// Status server of a host.
enum Serving {
    At(ServerConfig),
    On(StatusServer),
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tasks: Vec<_> = self.life.tasks.iter().map(|(name, _)| *name).collect();
        f.debug_struct("Host")
            .field("node", &self.node)
            .field("tasks", &tasks)
            .finish_non_exhaustive()
    }
}

impl From<ClusterNodeBuilder> for Host {
    fn from(node: ClusterNodeBuilder) -> Self {
        Self::new(node)
    }
}

impl Host {
    /// Creates a host from the builder of its node.
    pub fn new(node: ClusterNodeBuilder) -> Self {
        let life = Life {
            registry: None,
            serving: None,
            status: Vec::new(),
            tasks: Vec::new(),
            before_joining: Vec::new(),
            after_leaving: std::future::ready(()).boxed(),
            start_within: None,
            stop_within: STOP_WITHIN,
        };
        Self { node, life }
    }

    /// Adds a task that runs on the leader.
    #[must_use]
    pub fn leader_task(mut self, task: impl LeaderTask) -> Self {
        self.node = self.node.leader_task(task);
        self
    }

    /// Adds a worker for the shards of a work type.
    #[must_use]
    pub fn worker(mut self, worker: WorkerOptions) -> Self {
        self.node = self.node.worker(worker);
        self
    }

    /// Adds a task that runs beside the node, leader or not, until the node has left. If the task ends before,
    /// the program leaves the cluster and ends with [`HostError::Task`].
    #[must_use]
    pub fn task<F>(
        mut self,
        name: &'static str,
        task: impl FnOnce(Arc<dyn Node>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future + Send + 'static,
    {
        let task: OnNode<()> = Box::new(move |node| task(node).map(drop).boxed());
        self.life.tasks.push((name, task));
        self
    }

    /// Adds a step that must succeed before the node joins. The steps run one after the other, while the status
    /// server and the tasks run already. If a step fails, the program ends with [`HostError::Prepare`].
    #[must_use]
    pub fn before_joining<F>(
        mut self,
        step: impl FnOnce(Arc<dyn Node>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), WorkError>> + Send + 'static,
    {
        self.life.before_joining.push(Box::new(move |node| step(node).boxed()));
        self
    }

    /// Sets what is awaited between the end of the node's work and the end of the tasks.
    pub(crate) fn after_leaving(mut self, last: impl Future<Output = ()> + Send + 'static) -> Self {
        self.life.after_leaving = last.boxed();
        self
    }

    /// Sets the registry for the metrics of the node (unless the node has its own) and the status server. The
    /// program may register further metrics there. [`metrics::registry`] creates one that includes process
    /// metrics. Default: a new registry that only [`serve`](Self::serve) exposes.
    #[must_use]
    pub fn registry(mut self, registry: Registry) -> Self {
        self.life.registry = Some(registry);
        self
    }

    /// Registry of the host, which is created if the program has set none.
    pub(crate) fn own_registry(&mut self) -> Result<Registry, HostError> {
        let registry = match self.life.registry.take() {
            Some(registry) => registry,
            None => metrics::registry().map_err(HostError::Metrics)?,
        };
        Ok(self.life.registry.insert(registry).clone())
    }

    /// Lets [`run`](Self::run) serve `/metrics`, the probes `/livez` and `/readyz`, `/leader`, `/status` and
    /// the status page at this address, or as a whole [`ServerConfig`] specifies. The server runs on its own
    /// thread from before the node joins until after it has left. Default: no server.
    #[must_use]
    pub fn serve(mut self, at: impl Into<ServerConfig>) -> Self {
        self.life.serving = Some(Serving::At(at.into()));
        self
    }

    /// As [`serve`](Self::serve), with a server that is bound already: for a program that needs the address
    /// before.
    #[must_use]
    pub fn serve_on(mut self, server: StatusServer) -> Self {
        self.life.serving = Some(Serving::On(server));
        self
    }

    /// Changes the source of the status server: adds fields to `/status`, conditions to `/readyz`, or a button.
    #[must_use]
    pub fn status(
        mut self,
        change: impl FnOnce(NodeSource) -> NodeSource + Send + 'static,
    ) -> Self {
        self.life.status.push(Box::new(change));
        self
    }

    /// Sets the limit for joining the cluster for the first time. Default: the node keeps trying.
    #[must_use]
    pub fn start_within(mut self, limit: Duration) -> Self {
        self.life.start_within = Some(limit);
        self
    }

    /// Sets the limit for leaving the cluster. Default: 20 s.
    #[must_use]
    pub fn stop_within(mut self, limit: Duration) -> Self {
        self.life.stop_within = limit;
        self
    }

    /// Builds the node.
    ///
    /// # Errors
    ///
    /// [`HostError::Options`] if the node's options are invalid or contradict each other,
    /// [`HostError::Metrics`] if the registry has metrics of these names already.
    #[doc(hidden)]
    pub fn build(mut self) -> Result<BuiltHost, HostError> {
        let registry = self.own_registry()?;
        let node = self.node.counted(&registry).map_err(HostError::Metrics)?;
        let node: Arc<dyn Node> = Arc::new(node.build().map_err(HostError::Options)?);
        Ok(BuiltHost { node, registry, life: self.life })
    }

    /// Starts the status server, then the tasks, and the node with its work, and stops them in reverse order.
    /// When `shutdown` resolves, the node leaves the cluster: it ends and joins all work, and hands over office
    /// and shards. A node is ready, leader or not, when it has joined.
    ///
    /// # Errors
    ///
    /// [`HostError`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the node continues to leave in the background; work is aborted.
    pub async fn run(
        self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<Stopped, HostError> {
        self.build()?.run(shutdown).await
    }

    /// As [`run`](Self::run), until SIGTERM, Ctrl-C or SIGHUP requests the program to leave. A second SIGTERM
    /// or Ctrl-C ends it at once (see [`Signals`]): the other nodes then wait for its lease to expire.
    ///
    /// # Errors
    ///
    /// [`HostError`]; [`HostError::Aborted`] after a second signal.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run).
    pub async fn run_until_signalled(self) -> Result<Stopped, HostError> {
        self.build()?.run_until_signalled().await
    }
}

/// A host whose node is built.
#[doc(hidden)]
pub struct BuiltHost {
    node: Arc<dyn Node>,
    registry: Registry,
    life: Life,
}

impl fmt::Debug for BuiltHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuiltHost").field("node", &self.node).finish_non_exhaustive()
    }
}

impl BuiltHost {
    /// The node of this host.
    pub fn node(&self) -> &Arc<dyn Node> {
        &self.node
    }

    /// As [`Host::run`].
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
        let Self { node, registry, life } = self;
        let Life {
            serving,
            status,
            tasks,
            before_joining,
            after_leaving,
            start_within,
            stop_within,
            ..
        } = life;
        // The server starts before everything else, so that a probe shows what the program waits for.
        let source =
            status.into_iter().fold(NodeSource::new(node.clone()), |it, change| change(it));
        let server = match begin_to_serve(serving, source, registry).await {
            Ok(server) => server,
            Err(error) => {
                let _ = node.close().await;
                return Err(error);
            }
        };
        let mut beside = Tasks::new();
        for (name, task) in tasks {
            beside.spawn(name, task(Arc::clone(&node)));
        }
        let lived = tokio::select! {
            biased;
            // This arm is dropped only with the whole future.
            () = shutdown => Ok(()),
            // Cancel safe: only waits.
            error = broken(&*node) => Err(HostError::Node(error)),
            // Cancel safe: an ended task that was not taken is returned by the next call.
            Some(ended) = beside.join_next() => Err(HostError::Task(ended.to_string())),
            // Cancel safe: waits for a token. The thread ends only by a bug.
            () = server_ended(server.as_ref()) => {
                Err(HostError::Task("the status server has ended unasked".into()))
            }
            // If this arm is dropped, started calls continue in the background until the node is stopped below.
            error = join(&node, before_joining, start_within) => Err(error),
        };
        if let Err(error @ HostError::Node(_)) = lived {
            // A broken node cannot leave, and the other nodes wait for the end of this process.
            return Err(error);
        }
        supervision::announce_leaving();
        let stopped = match node.stop(stop_within).await {
            Err(error @ NodeError::Broken) => return Err(HostError::Node(error)),
            stopped => stopped,
        };
        after_leaving.await;
        beside.abort_all().await;
        let closed = node.close().await;
        if let Some(server) = server {
            server.close().await;
        }
        // The reason for the end is more useful than the result of the leave.
        lived?;
        let stopped = stopped.map_err(HostError::Stop)?;
        if stopped == Stopped::Clean {
            closed.map_err(HostError::Close)?;
        }
        Ok(stopped)
    }

    /// Runs as [`Host::run_until_signalled`] does.
    pub(crate) async fn run_until_signalled(self) -> Result<Stopped, HostError> {
        let signals = Signals::listen().map_err(HostError::Signals)?;
        let life = self.run(signals.leave().clone().cancelled_owned());
        signals.unless_aborted(life).await.map_err(HostError::Aborted)?
    }
}

async fn begin_to_serve(
    serving: Option<Serving>,
    source: NodeSource,
    registry: Registry,
) -> Result<Option<StatusServer>, HostError> {
    let mut server = match serving {
        None => return Ok(None),
        Some(Serving::At(config)) => StatusServer::bind(config).await.map_err(HostError::Serve)?,
        Some(Serving::On(server)) => server,
    };
    server.serve(Arc::new(source), registry).map_err(HostError::Metrics)?;
    Ok(Some(server))
}

async fn server_ended(server: Option<&StatusServer>) {
    match server {
        Some(server) => server.ended().await,
        None => std::future::pending().await,
    }
}

/// Joins, and joins again whenever the session is lost. Returns the reason once the node cannot join (any more).
async fn join(
    node: &Arc<dyn Node>,
    before: Vec<OnNode<Result<(), WorkError>>>,
    within: Option<Duration>,
) -> HostError {
    for step in before {
        if let Err(error) = step(Arc::clone(node)).await {
            return HostError::Prepare(error);
        }
    }
    if let Some(within) = within {
        match tokio::time::timeout(within, node.start()).await {
            Ok(Ok(())) => (),
            Ok(Err(error)) => return error.into(),
            Err(_) => return HostError::NotJoined { within, problem: problem(&**node).await },
        }
    }
    keep_joined(&**node).await.into()
}

/// Reason why a node has not joined, as far as the node knows.
async fn problem(node: &dyn Node) -> Option<String> {
    let status = node.status().await.ok()?;
    let of_store = status.store.problem.map(|problem| {
        // Some problems contain the endpoint already.
        let is_named = problem.contains(&status.store.endpoint);
        if is_named { problem } else { format!("{}: {problem}", status.store.endpoint) }
    });
    status.node.problem.or(of_store)
}
