//! Handle of a node: the calls of the trait, as commands to the driver or requests to the store. No call here
//! waits for the driver to reach the store.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use futures::FutureExt as _;
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
    time::timeout,
};
use tokio_util::sync::DropGuard;

use super::{
    Claimed, CloseError, KV, Membership, Node, NodeError, StartError, StateError, StateWatch,
    Stopped, WatchFrom, claim, driver,
    options::NodeOptions,
    session::Session,
    shared::{CLOSE_WITHIN, Command, NodeShared},
    state, state_watch,
    status::{LeaderStatus, Status, Vitals},
};
use crate::{
    clock,
    engine::{NodeId, NodeMetadata, Revision},
    tasks::panic_message,
};

/// How long the driver may take to answer a command that needs no store.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Maximum time between two turns of a driver that is healthy: it takes a turn each second at least.
const TURNS_WITHIN: Duration = Duration::from_secs(2);
/// How long `stop` waits beyond its deadline for the driver to report the outcome.
const STOP_SLACK: Duration = Duration::from_millis(100);

/// A node of a cluster that is kept in a shared store, or, from [`standalone`](Self::standalone), of a
/// cluster of its own. Cheap to clone; when the last clone is dropped, the node leaves in the background.
#[derive(Clone, Debug)]
pub struct ClusterNode {
    pub(crate) shared: Arc<NodeShared>,
    /// Abandons the node when the last clone is dropped; `None` in the handle that the node's own work has.
    _owner: Option<Arc<DropGuard>>,
}

/// A node that is a cluster of its own, in a memory store: [`ClusterNode::standalone`] builds it.
pub type StandaloneNode = ClusterNode;

impl ClusterNode {
    /// Creates a node whose driver runs; the node is not started.
    pub(crate) fn from_options(options: NodeOptions) -> Self {
        let (shared, received) = NodeShared::new(&options);
        let shared = Arc::new(shared);
        let for_work = Arc::new(Self { shared: Arc::clone(&shared), _owner: None });
        let running = Box::pin(driver::run(Arc::clone(&shared), for_work, options, received));
        let guard = DriverGuard { shared: Arc::clone(&shared), was_asked: false };
        let driver = shared.host.spawn(watched(running, guard));
        *shared.driver.lock().unwrap_or_else(PoisonError::into_inner) = Some(driver);
        let owner = Some(Arc::new(shared.abandoned.clone().drop_guard()));
        Self { shared, _owner: owner }
    }

    fn session(&self) -> watch::Receiver<Option<Session>> {
        self.shared.published.session.subscribe()
    }

    fn open(&self) -> Result<(), StateError> {
        self.shared.is_there().map_err(|error| match error {
            NodeError::Broken => StateError::Broken,
            _ => StateError::Closed,
        })
    }

    async fn send(&self, command: Command) -> Result<(), NodeError> {
        self.shared.is_there()?;
        match timeout(ANSWER_WITHIN, self.shared.commands.send(command)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.over().await),
            Err(_) => Err(NodeError::Unresponsive(ANSWER_WITHIN)),
        }
    }

    /// Waits until the driver has ended; returns why it dropped a command: it failed, or the node was
    /// closed.
    async fn over(&self) -> NodeError {
        let _ = timeout(ANSWER_WITHIN, self.shared.gone.cancelled()).await;
        if self.shared.broken.load(Ordering::Acquire) {
            NodeError::Broken
        } else {
            NodeError::Closed
        }
    }
}

#[async_trait]
impl Node for ClusterNode {
    fn id(&self) -> NodeId {
        self.shared.id
    }

    fn cluster(&self) -> &str {
        self.shared.env.keys.cluster()
    }

    async fn start(&self) -> Result<(), StartError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Start { runtime: Handle::current(), reply };
        let refused = |error| match error {
            NodeError::Broken => StartError::Broken,
            NodeError::Closed => StartError::Closed,
            NodeError::Unresponsive(within) => StartError::Unresponsive(within),
        };
        self.send(command).await.map_err(refused)?;
        match answer.await {
            Ok(started) => started,
            Err(_) => Err(refused(self.over().await)),
        }
    }

    async fn stop(&self, deadline: Duration) -> Result<Stopped, NodeError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Stop { deadline: clock::boot_now() + deadline, reply }).await?;
        match timeout(deadline + STOP_SLACK, answer).await {
            Ok(Ok(stopped)) => Ok(stopped),
            Ok(Err(_)) => Err(self.over().await),
            Err(_) => Ok(Stopped::Unclean),
        }
    }

    async fn close(&self) -> Result<(), CloseError> {
        let (reply, answer) = oneshot::channel();
        let deadline = clock::boot_now() + CLOSE_WITHIN;
        match self.send(Command::Close { deadline, reply }).await {
            Ok(()) => (),
            // A driver that has failed runs no more work that could end.
            Err(NodeError::Broken) if !self.shared.closed.swap(true, Ordering::AcqRel) => {
                return Err(CloseError::Unclean);
            }
            Err(NodeError::Unresponsive(within)) => return Err(CloseError::Stuck(within)),
            Err(NodeError::Closed | NodeError::Broken) => return Ok(()),
        }
        self.shared.closed.store(true, Ordering::Release);
        let stopped = timeout(CLOSE_WITHIN + STOP_SLACK, answer).await;
        let driver = self.shared.driver.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(driver) = driver
            && timeout(ANSWER_WITHIN, driver).await.is_err()
        {
            return Err(CloseError::Stuck(ANSWER_WITHIN));
        }
        match stopped {
            Ok(Ok(Stopped::Clean)) => Ok(()),
            Ok(Ok(Stopped::Unclean) | Err(_)) | Err(_) => Err(CloseError::Unclean),
        }
    }

    async fn put(&self, key: &str, value: &[u8]) -> Result<Revision, StateError> {
        self.open()?;
        self.shared.own.put(&self.shared.env, self.shared.id, &self.session(), key, value).await
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        self.get_as_node(self.shared.id, key).await
    }

    async fn get_as_node(&self, node: NodeId, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        self.open()?;
        state::get(&self.shared.env, node, key).await
    }

    async fn delete(&self, key: &str) -> Result<bool, StateError> {
        self.open()?;
        self.shared.own.delete(&self.shared.env, self.shared.id, &self.session(), key).await
    }

    async fn get_cluster(&self, prefix: &str) -> Result<BTreeMap<NodeId, Vec<KV>>, StateError> {
        self.open()?;
        state::get_cluster(&self.shared.env, prefix).await
    }

    async fn watch_key_cluster(
        &self,
        key: &str,
        from: WatchFrom,
    ) -> Result<StateWatch, StateError> {
        self.open()?;
        let NodeShared { env, host, published, gone, .. } = &*self.shared;
        let replacements = published.replacements.subscribe();
        state_watch::open(env, host, replacements, gone, key, from).await
    }

    async fn get_nodes(&self) -> Result<Vec<NodeMetadata>, StateError> {
        self.open()?;
        state::get_nodes(&self.shared.env).await
    }

    async fn get_leader(&self) -> Result<Option<NodeId>, StateError> {
        self.open()?;
        state::get_leader(&self.shared.env).await
    }

    fn get_self_metadata(&self) -> NodeMetadata {
        self.shared.published.metadata.borrow().clone()
    }

    async fn get_node_metadata(&self, node: NodeId) -> Result<Option<NodeMetadata>, StateError> {
        self.open()?;
        state::get_node_metadata(&self.shared.env, node).await
    }

    async fn claim(&self, name: &str) -> Result<Claimed, StateError> {
        self.open()?;
        claim::claim(&self.shared.env, self.shared.id, self.session(), name).await
    }

    fn membership(&self) -> watch::Receiver<Membership> {
        self.shared.published.membership.subscribe()
    }

    async fn status(&self) -> Result<Status, NodeError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Status { reply }).await?;
        match timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(known)) => {
                let membership = *self.shared.published.membership.borrow();
                Ok(known.tell(&self.shared.env, self.get_self_metadata(), &membership))
            }
            Ok(Err(_)) => Err(self.over().await),
            Err(_) => Err(NodeError::Unresponsive(ANSWER_WITHIN)),
        }
    }

    async fn vitals(&self) -> Result<Vitals, NodeError> {
        self.shared.is_there()?;
        if TURNS_WITHIN < clock::boot_now().since(self.shared.published.shown.borrow().turned_at) {
            // A driver that has just started, or whose machine slept, answers a command at once.
            self.status().await?;
        }
        let now = clock::boot_now();
        let shown = self.shared.published.shown.borrow();
        Ok(Vitals {
            span_max: self.shared.env.store.timing().span_max,
            membership: *self.shared.published.membership.borrow(),
            problem: shown.problem.clone(),
            authority_left: shown.authority_left(now),
            view_age: shown.view_age(now),
            leader: shown.leader(now).map(|(leader, address)| LeaderStatus {
                id: leader.id,
                address: address.map(ToOwned::to_owned),
                term: leader.term,
                last_beat_unix_ms: None,
                suspended: leader.suspended,
            }),
        })
    }

    async fn resign(&self) -> Result<(), NodeError> {
        self.send(Command::Resign).await
    }

    async fn drain(&self) -> Result<(), NodeError> {
        self.send(Command::Drain(true)).await
    }

    async fn undrain(&self) -> Result<(), NodeError> {
        self.send(Command::Drain(false)).await
    }
}

/// Runs the driver, and records how it ends.
async fn watched(driver: impl Future<Output = ()> + Unpin, mut guard: DriverGuard) {
    match AssertUnwindSafe(driver).catch_unwind().await {
        Ok(()) => guard.was_asked = true,
        Err(panic) => {
            let panic = panic_message(panic.as_ref());
            tracing::error!(
                node = guard.shared.id.get(),
                panic,
                "the node's driver panicked: its authority is over, its work is cancelled, and the \
                 process must be restarted"
            );
        }
    }
}

/// Publishes the driver's end when dropped, also after a panic or when the runtime drops the driver.
struct DriverGuard {
    shared: Arc<NodeShared>,
    was_asked: bool,
}

impl Drop for DriverGuard {
    fn drop(&mut self) {
        if !self.was_asked {
            self.shared.break_down();
        }
        self.shared.gone.cancel();
    }
}

#[cfg(test)]
mod tests;
