//! Core of a node of either kind: the calls of the trait, as messages to the driver or requests to the
//! store. No call here waits for the driver to reach the store.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::FutureExt as _;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Claimed, CloseError, KV, Membership, Node, NodeError, StartError, StateError, StateWatch,
    Stopped, WatchFrom,
    builder::NodeOptions,
    claim,
    driver::{self, Known, Shown},
    env::Env,
    guarded::Marker,
    host::DriverHost,
    own_state::OwnState,
    pod_lock::PodLock,
    state, state_watch,
    status::{LeaderStatus, Status, Vitals},
};
use crate::{
    clock,
    engine::{BootTime, LeaseId, NodeId, NodeMetadata, Revision, Role},
    store::keys::Keys,
    tasks::panic_message,
};

/// Capacity of the command channel. Commands are rare, and each caller waits for its own answer.
const COMMANDS: usize = 64;
/// Time that a node has to leave after `close` or after its last handle was dropped.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);
/// How long the driver may take to answer a command that needs no store.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Maximum time between two turns of a driver that is healthy: it takes a turn each second at least.
const TURNS_WITHIN: Duration = Duration::from_secs(2);
/// How long `stop` waits beyond its deadline for the driver to report the outcome.
const STOP_SLACK: Duration = Duration::from_millis(100);

/// Session of a registered incarnation.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) lease: LeaseId,
    /// Marker for state and names on this lease (T17: writes of own keys).
    pub(crate) marker: Arc<Marker>,
}

impl Session {
    pub(crate) fn new(keys: &Keys, lease: LeaseId) -> Self {
        Self { lease, marker: Arc::new(Marker::new(keys, lease)) }
    }
}

/// Command to the driver.
#[derive(Debug)]
pub(crate) enum Command {
    Start { runtime: Handle, reply: oneshot::Sender<Result<(), StartError>> },
    Stop { deadline: BootTime, reply: oneshot::Sender<Stopped> },
    Close { deadline: BootTime, reply: oneshot::Sender<Stopped> },
    Resign,
    Drain(bool),
    Status { reply: oneshot::Sender<Known> },
}

/// Values that the driver publishes to all readers.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) membership: watch::Sender<Membership>,
    pub(crate) session: watch::Sender<Option<Session>>,
    pub(crate) metadata: watch::Sender<NodeMetadata>,
    /// Number of times that the store was found replaced (R8: another store in its place).
    pub(crate) replacements: watch::Sender<u64>,
    pub(crate) shown: watch::Sender<Shown>,
}

/// State of one node that its handles and its driver share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) env: Env,
    pub(crate) host: DriverHost,
    pub(crate) published: Published,
    pub(crate) own: OwnState,
    id: NodeId,
    commands: mpsc::Sender<Command>,
    closed: AtomicBool,
    /// Whether the driver has ended without a request.
    broken: AtomicBool,
    /// Lock that is held as long as the process may have an incarnation that names the pod's UID. The core
    /// holds it, not the driver: the work of a driver that failed holds a handle of the node for as long as
    /// the work may act.
    pub(crate) pod_lock: Mutex<Option<PodLock>>,
    /// Cancelled when the last handle of the node was dropped.
    pub(crate) abandoned: CancellationToken,
    /// Cancelled when the driver has ended.
    gone: CancellationToken,
    driver: Mutex<Option<JoinHandle<()>>>,
}

impl Core {
    /// Creates a node whose driver runs; the node is not started.
    pub(crate) fn new(options: NodeOptions) -> Arc<Self> {
        let (commands, received) = mpsc::channel(COMMANDS);
        let id = options.engine.id;
        let metadata = NodeMetadata {
            id,
            address: options.engine.address.clone(),
            start: clock::wall_now(),
            role: Role::Unknown,
        };
        let core = Arc::new(Self {
            env: options.env.clone(),
            host: options.host.clone(),
            published: Published {
                membership: watch::Sender::new(Membership::default()),
                session: watch::Sender::new(None),
                metadata: watch::Sender::new(metadata),
                replacements: watch::Sender::new(0),
                shown: watch::Sender::default(),
            },
            own: OwnState::default(),
            id,
            commands,
            closed: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            pod_lock: Mutex::new(None),
            abandoned: CancellationToken::new(),
            gone: CancellationToken::new(),
            driver: Mutex::new(None),
        });
        let running = Box::pin(driver::run(Arc::clone(&core), options, received));
        let fall = Fall { core: Arc::clone(&core), was_asked: false };
        let driver = core.host.spawn(watched(running, fall));
        *core.driver.lock().unwrap_or_else(PoisonError::into_inner) = Some(driver);
        core
    }

    fn session(&self) -> watch::Receiver<Option<Session>> {
        self.published.session.subscribe()
    }

    fn open(&self) -> Result<(), StateError> {
        if self.broken.load(Ordering::Acquire) {
            return Err(StateError::Broken);
        }
        if self.closed.load(Ordering::Acquire) { Err(StateError::Closed) } else { Ok(()) }
    }

    fn is_there(&self) -> Result<(), NodeError> {
        if self.broken.load(Ordering::Acquire) {
            return Err(NodeError::Broken);
        }
        if self.closed.load(Ordering::Acquire) { Err(NodeError::Closed) } else { Ok(()) }
    }

    async fn send(&self, command: Command) -> Result<(), NodeError> {
        self.is_there()?;
        match timeout(ANSWER_WITHIN, self.commands.send(command)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.over().await),
            Err(_) => Err(NodeError::Unresponsive(ANSWER_WITHIN)),
        }
    }

    /// Waits until the driver has ended; returns why it dropped a command: it failed, or the node was
    /// closed.
    async fn over(&self) -> NodeError {
        let _ = timeout(ANSWER_WITHIN, self.gone.cancelled()).await;
        if self.broken.load(Ordering::Acquire) { NodeError::Broken } else { NodeError::Closed }
    }

    /// Called when the driver has ended without a request. By then `UserWork` has closed the gates and
    /// cancelled the work; this publishes that the node has no session, has no role, and is broken.
    fn break_down(&self) {
        self.broken.store(true, Ordering::Release);
        let metrics = &self.env.metrics;
        metrics.role.set(Role::Unknown as i64);
        metrics.master.with_label_values(&[self.env.keys.cluster()]).set(0);
        metrics.authority_remaining.set(None);
        metrics.shard_authority_remaining.set(None);
        metrics.lease_remaining.set(None);
        let published = &self.published;
        published.session.send_replace(None);
        published.metadata.send_modify(|metadata| metadata.role = Role::Unknown);
        published.membership.send_modify(|membership| {
            *membership = Membership {
                sessions_lost: membership.sessions_lost,
                broken: true,
                ..Membership::default()
            };
        });
    }
}

/// Runs the driver, and records how it ends.
async fn watched(driver: impl Future<Output = ()> + Unpin, mut fall: Fall) {
    match AssertUnwindSafe(driver).catch_unwind().await {
        Ok(()) => fall.was_asked = true,
        Err(panic) => {
            let panic = panic_message(panic.as_ref());
            tracing::error!(
                node = fall.core.id.get(),
                panic,
                "the node's driver panicked: its authority is over, its work is cancelled, and the \
                 process must be restarted"
            );
        }
    }
}

/// Publishes the driver's end when dropped, also after a panic or when the runtime drops the driver.
struct Fall {
    core: Arc<Core>,
    was_asked: bool,
}

impl Drop for Fall {
    fn drop(&mut self) {
        if !self.was_asked {
            self.core.break_down();
        }
        self.core.gone.cancel();
    }
}

#[async_trait]
impl Node for Core {
    fn id(&self) -> NodeId {
        self.id
    }

    fn cluster(&self) -> &str {
        self.env.keys.cluster()
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
            Err(NodeError::Broken) if !self.closed.swap(true, Ordering::AcqRel) => {
                return Err(CloseError::Unclean);
            }
            Err(NodeError::Unresponsive(within)) => return Err(CloseError::Stuck(within)),
            Err(NodeError::Closed | NodeError::Broken) => return Ok(()),
        }
        self.closed.store(true, Ordering::Release);
        let stopped = timeout(CLOSE_WITHIN + STOP_SLACK, answer).await;
        let driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner).take();
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
        self.own.put(&self.env, self.id, &self.session(), key, value).await
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        self.get_as_node(self.id, key).await
    }

    async fn get_as_node(&self, node: NodeId, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        self.open()?;
        state::get(&self.env, node, key).await
    }

    async fn delete(&self, key: &str) -> Result<bool, StateError> {
        self.open()?;
        self.own.delete(&self.env, self.id, &self.session(), key).await
    }

    async fn get_cluster(&self, prefix: &str) -> Result<BTreeMap<NodeId, Vec<KV>>, StateError> {
        self.open()?;
        state::get_cluster(&self.env, prefix).await
    }

    async fn watch_key_cluster(
        &self,
        key: &str,
        from: WatchFrom,
    ) -> Result<StateWatch, StateError> {
        self.open()?;
        let replacements = self.published.replacements.subscribe();
        state_watch::open(&self.env, &self.host, replacements, &self.gone, key, from).await
    }

    async fn get_nodes(&self) -> Result<Vec<NodeMetadata>, StateError> {
        self.open()?;
        state::get_nodes(&self.env).await
    }

    async fn get_leader(&self) -> Result<Option<NodeId>, StateError> {
        self.open()?;
        state::get_leader(&self.env).await
    }

    fn get_self_metadata(&self) -> NodeMetadata {
        self.published.metadata.borrow().clone()
    }

    async fn get_node_metadata(&self, node: NodeId) -> Result<Option<NodeMetadata>, StateError> {
        self.open()?;
        state::get_node_metadata(&self.env, node).await
    }

    async fn claim(&self, name: &str) -> Result<Claimed, StateError> {
        self.open()?;
        claim::claim(&self.env, self.id, self.session(), name).await
    }

    fn membership(&self) -> watch::Receiver<Membership> {
        self.published.membership.subscribe()
    }

    async fn status(&self) -> Result<Status, NodeError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Status { reply }).await?;
        match timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(known)) => Ok(known.tell(self)),
            Ok(Err(_)) => Err(self.over().await),
            Err(_) => Err(NodeError::Unresponsive(ANSWER_WITHIN)),
        }
    }

    async fn vitals(&self) -> Result<Vitals, NodeError> {
        self.is_there()?;
        if TURNS_WITHIN < clock::boot_now().since(self.published.shown.borrow().turned_at) {
            // A driver that has just started, or whose machine slept, answers a command at once.
            self.status().await?;
        }
        let now = clock::boot_now();
        let shown = self.published.shown.borrow();
        Ok(Vitals {
            membership: *self.published.membership.borrow(),
            problem: shown.problem(),
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

    async fn drain(&self, draining: bool) -> Result<(), NodeError> {
        self.send(Command::Drain(draining)).await
    }
}

/// Owned by the handles of a node; when the last one is dropped, the node leaves in the background.
#[derive(Debug)]
pub(crate) struct Owner(pub(crate) Arc<Core>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.abandoned.cancel();
    }
}

/// Deadline for an abandoned node to leave.
pub(crate) fn abandoned_deadline() -> BootTime {
    clock::boot_now() + CLOSE_WITHIN
}

#[cfg(test)]
mod tests;
