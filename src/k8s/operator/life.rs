//! The life of an operator: the status server starts first, then the caches, the node and the work. They stop
//! in reverse order.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use prometheus::Registry;

use super::OperatorError;
use crate::{
    k8s::{
        cache::{Running, Synced},
        controller::Runnable,
        election::{Ends, tell_pod},
        identity::PodIdentity,
    },
    node::{Node, NodeError, Stopped, broken, keep_joined},
    tasks::Tasks,
    telemetry::{NodeSource, ServerConfig, StatusServer},
};

/// Delay before another attempt to publish the pod.
const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// When the process ends, the end of its term is reported within this time; half of it is spent waiting for a
/// successor.
const REPORTED_WITHIN: Duration = Duration::from_secs(3);
/// Interval between logs of the caches that are not synced yet.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// An operator that has been built.
pub struct BuiltOperator {
    pub(super) node: Arc<dyn Node>,
    pub(super) controllers: Vec<Arc<dyn Runnable>>,
    pub(super) caches: Vec<Running>,
    /// Ends of this node's terms, and the future that reports them.
    pub(super) ends: (Ends, BoxFuture<'static, ()>),
    pub(super) pod: Option<PodIdentity>,
    pub(super) serving: Option<Serving>,
    pub(super) stop_within: Duration,
}

/// Configuration of the status server, and the registry that it exposes.
pub(super) struct Serving {
    pub(super) config: ServerConfig,
    pub(super) registry: Registry,
}

impl fmt::Debug for BuiltOperator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuiltOperator").field("node", &self.node).finish_non_exhaustive()
    }
}

/// Handle for readiness probes: the caches that are not synced yet.
#[derive(Clone)]
pub struct CachesSynced(Arc<Vec<(String, Synced)>>);

impl fmt::Debug for CachesSynced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CachesSynced").field(&self.missing()).finish()
    }
}

impl CachesSynced {
    /// Kinds of the caches that are not synced yet; ready when empty.
    pub fn missing(&self) -> Vec<&str> {
        let missing = self.0.iter().filter(|(_, synced)| !synced.is_synced());
        missing.map(|(kind, _)| kind.as_str()).collect()
    }

    async fn all(&self) {
        for (_, synced) in &*self.0 {
            synced.wait().await;
        }
    }
}

impl BuiltOperator {
    /// The node of this operator.
    pub fn node(&self) -> &Arc<dyn Node> {
        &self.node
    }

    /// A handle that shows, at any time, the caches that are not synced yet.
    pub fn caches_synced(&self) -> CachesSynced {
        let all = self.caches.iter().map(|cache| (cache.kind.clone(), cache.synced.clone()));
        CachesSynced(Arc::new(all.collect()))
    }

    /// Starts the caches, and lets the controllers work whenever the node has authority; does not start the
    /// node. For programs that start and stop the node themselves; others call [`run`](Self::run).
    pub fn begin(self) -> Begun {
        let synced = self.caches_synced();
        let mut tasks = Tasks::new();
        for Running { run, .. } in self.caches {
            tasks.spawn("cache", async move {
                run.await;
            });
        }
        for controller in self.controllers {
            tasks.spawn("controller", controller.dispatch());
        }
        if let Some(pod) = self.pod {
            tasks.spawn("pod", keep_told(Arc::clone(&self.node), pod));
        }
        let (ends, reports) = self.ends;
        tasks.spawn("election", reports);
        Begun { node: self.node, synced, ends, tasks }
    }

    /// As [`Operator::run`](super::Operator::run).
    ///
    /// # Errors
    ///
    /// [`OperatorError`].
    ///
    /// # Cancel safety
    ///
    /// As [`Operator::run`](super::Operator::run).
    pub async fn run(
        mut self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<Stopped, OperatorError> {
        let (node, stop_within) = (Arc::clone(&self.node), self.stop_within);
        let server = match self.begin_to_serve().await {
            Ok(server) => server,
            Err(error) => {
                let _ = node.close().await;
                return Err(error);
            }
        };
        let mut begun = self.begin();
        let lived = tokio::select! {
            biased;
            // This arm is dropped only with the whole future.
            () = shutdown => Ok(()),
            // If this arm is dropped, started tasks continue in the background until the node is stopped below.
            ended = begun.live(async { Err(keep_joined(&*node).await.into()) }) => ended,
            // Cancel safe: waits for a token. The thread ends only by a bug.
            () = server_ended(server.as_ref()) => {
                Err(OperatorError::Task("the status server has ended unasked".into()))
            }
        };
        if let Err(error @ OperatorError::Node(_)) = lived {
            // A broken node cannot leave, and the other nodes wait for the end of this process.
            return Err(error);
        }
        let stopped = match node.stop(stop_within).await {
            Err(error @ NodeError::Broken) => return Err(OperatorError::Node(error)),
            stopped => stopped,
        };
        begun.end().await;
        let closed = node.close().await;
        if let Some(server) = server {
            server.close().await;
        }
        lived?;
        let stopped = stopped.map_err(OperatorError::Stop)?;
        if let Err(error) = closed {
            tracing::warn!(error = &error as &dyn std::error::Error, "closing the node");
        }
        Ok(stopped)
    }

    /// Starts the status server before everything else, so that a probe shows what the operator waits for.
    async fn begin_to_serve(&mut self) -> Result<Option<StatusServer>, OperatorError> {
        let Some(Serving { config, registry }) = self.serving.take() else { return Ok(None) };
        let mut server = StatusServer::bind(config).await.map_err(OperatorError::Serve)?;
        let source = source(Arc::clone(&self.node), self.caches_synced());
        server.serve(Arc::new(source), registry).map_err(OperatorError::Metrics)?;
        Ok(Some(server))
    }
}

/// An operator whose caches and controllers run. Dropping this aborts them.
pub struct Begun {
    node: Arc<dyn Node>,
    synced: CachesSynced,
    ends: Ends,
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
    /// The node of this operator.
    pub fn node(&self) -> &Arc<dyn Node> {
        &self.node
    }

    /// The caches that are not synced yet.
    pub fn synced(&self) -> &CachesSynced {
        &self.synced
    }

    /// Source for a [`StatusServer`]: the node, which is not ready before its caches are synced.
    pub fn source(&self) -> NodeSource {
        source(Arc::clone(&self.node), self.synced.clone())
    }

    /// Waits until all caches are synced, then runs `life`. Returns when `life`, the node's driver or a task
    /// of the operator ends.
    ///
    /// # Errors
    ///
    /// The error of `life`, [`OperatorError::Task`] if a task of the operator has ended, or
    /// [`OperatorError::Node`] if the node's driver has failed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, `life` is dropped; caches and controllers continue until [`end`](Self::end).
    /// This may be called again.
    pub async fn live<E: From<OperatorError>>(
        &mut self,
        life: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        let Self { node, synced, tasks, .. } = self;
        tokio::select! {
            biased;
            // Cancel safe: only waits.
            error = broken(&**node) => Err(OperatorError::Node(error).into()),
            // Cancel safe: `tasks` keeps an ended task for the next call. `None`: the operator has no caches
            // or controllers, only leader tasks or workers, which the node runs.
            Some(ended) = tasks.join_next() => Err(OperatorError::Task(ended.to_string()).into()),
            // This arm is dropped only with the whole future.
            ended = async {
                say_until(synced).await;
                life.await
            } => ended,
        }
    }

    /// Ends caches and controllers; returns when they have ended. Stop the node first, because that ends
    /// their work. First waits, for 3 s at most, until the end of a term of office is reported to the
    /// `Election`.
    pub async fn end(mut self) {
        self.ends.settled(REPORTED_WITHIN).await;
        self.tasks.abort_all().await;
    }
}

async fn server_ended(server: Option<&StatusServer>) {
    match server {
        Some(server) => server.ended().await,
        None => std::future::pending().await,
    }
}

fn source(node: Arc<dyn Node>, synced: CachesSynced) -> NodeSource {
    NodeSource::new(node).unless(move || {
        let missing = synced.missing();
        (!missing.is_empty()).then(|| format!("caches are not synced: {}", missing.join(", ")))
    })
}

/// Waits for the caches, and logs at intervals which caches are not synced yet.
async fn say_until(synced: &CachesSynced) {
    let mut all = std::pin::pin!(synced.all());
    loop {
        match tokio::time::timeout(SAID_EVERY, &mut all).await {
            Ok(()) => return,
            Err(_) => {
                tracing::info!(missing = ?synced.missing(), "waiting for caches before joining");
            }
        }
    }
}

/// Publishes this node's pod to the cluster, each time the node has joined.
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
    // The node was closed: no further attempt is needed.
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;
    use crate::{
        k8s::cache::Cache,
        node::ClusterNode,
        store::memory::{MemoryStore, Seen},
    };

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test(flavor = "multi_thread")]
    async fn an_operator_whose_nodes_driver_fails_ends_at_once_and_says_so() {
        for joins in [true, false] {
            let store = MemoryStore::new();
            let node = ClusterNode::builder().id(1).cluster("C").store(Arc::new(store.clone()));
            let node: Arc<dyn Node> = Arc::new(node.build().unwrap());
            // An operator that waits for its caches has not started to join.
            let never = Running {
                kind: "never".into(),
                run: Box::pin(std::future::pending()),
                synced: Cache::<ConfigMap>::new().sync(),
            };
            let operator = BuiltOperator {
                node: Arc::clone(&node),
                controllers: Vec::new(),
                caches: if joins { Vec::new() } else { vec![never] },
                ends: (Ends::default(), Box::pin(std::future::pending())),
                pod: None,
                serving: None,
                stop_within: LONG,
            };
            let life = operator.run(std::future::pending());
            let breaking = async {
                if joins {
                    node.membership().wait_for(|it| it.joined).await.unwrap();
                }
                store.faults().break_on(|seen| matches!(seen, Seen::Health));
                assert!(node.status().await.is_err());
            };
            let both = async { tokio::join!(life, breaking).0 };
            let ended = tokio::time::timeout(LONG, both).await.expect("it ends");
            assert!(matches!(ended, Err(OperatorError::Node(NodeError::Broken))), "{ended:?}");
        }
    }
}
