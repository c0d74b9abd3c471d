//! One node, whichever kind: the calls of the trait, as messages to the driver or requests to the
//! store. Nothing here waits for the driver to reach the store.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Claimed, CloseError, KV, Membership, Node, NodeError, StartError, StateError, StateWatch,
    Stopped, WatchFrom, builder::NodeOptions, claim, driver, env::Env, guarded::Marker,
    host::DriverHost, own_state::OwnState, state, state_watch, status::Status,
};
use crate::{
    clock,
    engine::{BootTime, LeaseId, NodeId, NodeMetadata, Revision},
    store::keys::Keys,
};

/// Commands are rare, and each caller waits for its own.
const COMMANDS: usize = 64;
/// What `close` and the drop of a node give it to leave.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);
/// How long the driver may take to answer what needs no store.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// What `stop` waits beyond its deadline for the driver to say how it went.
const STOP_SLACK: Duration = Duration::from_millis(100);

/// A registered incarnation.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) lease: LeaseId,
    /// Of the state and the names that hang on it (T17).
    pub(crate) marker: Arc<Marker>,
}

impl Session {
    pub(crate) fn new(keys: &Keys, lease: LeaseId) -> Self {
        Self { lease, marker: Arc::new(Marker::new(keys, lease)) }
    }
}

/// What the driver is asked.
#[derive(Debug)]
pub(crate) enum Command {
    Start { runtime: Handle, reply: oneshot::Sender<Result<(), StartError>> },
    Stop { deadline: BootTime, reply: oneshot::Sender<Stopped> },
    Close { deadline: BootTime, reply: oneshot::Sender<Stopped> },
    Resign,
    Drain(bool),
    Status { reply: oneshot::Sender<Status> },
}

/// What the driver tells everybody.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) membership: watch::Sender<Membership>,
    pub(crate) session: watch::Sender<Option<Session>>,
    pub(crate) metadata: watch::Sender<NodeMetadata>,
    /// How often the store was found replaced (R8).
    pub(crate) replacements: watch::Sender<u64>,
}

/// One node.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) env: Env,
    pub(crate) host: DriverHost,
    pub(crate) published: Published,
    pub(crate) own: OwnState,
    id: NodeId,
    commands: mpsc::Sender<Command>,
    closed: AtomicBool,
    /// Cancelled when nobody can call the node any more.
    pub(crate) abandoned: CancellationToken,
    /// Cancelled when the driver has ended: nothing of the node is left.
    gone: CancellationToken,
    driver: Mutex<Option<JoinHandle<()>>>,
}

impl Core {
    /// A node whose driver runs, at rest.
    pub(crate) fn new(options: NodeOptions) -> Arc<Self> {
        let (commands, received) = mpsc::channel(COMMANDS);
        let id = options.engine.id;
        let metadata = NodeMetadata {
            id,
            address: options.engine.address.clone(),
            start: clock::wall_now(),
            role: crate::engine::Role::Unknown,
        };
        let core = Arc::new(Self {
            env: options.env.clone(),
            host: options.host.clone(),
            published: Published {
                membership: watch::Sender::new(Membership::default()),
                session: watch::Sender::new(None),
                metadata: watch::Sender::new(metadata),
                replacements: watch::Sender::new(0),
            },
            own: OwnState::default(),
            id,
            commands,
            closed: AtomicBool::new(false),
            abandoned: CancellationToken::new(),
            gone: CancellationToken::new(),
            driver: Mutex::new(None),
        });
        let running = Box::pin(driver::run(Arc::clone(&core), options, received));
        let gone = core.gone.clone().drop_guard();
        let driver = core.host.spawn(async move {
            running.await;
            drop(gone);
        });
        *core.driver.lock().unwrap_or_else(PoisonError::into_inner) = Some(driver);
        core
    }

    fn session(&self) -> watch::Receiver<Option<Session>> {
        self.published.session.subscribe()
    }

    fn open(&self) -> Result<(), StateError> {
        if self.closed.load(Ordering::Acquire) { Err(StateError::Closed) } else { Ok(()) }
    }

    async fn send(&self, command: Command) -> Result<(), NodeError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(NodeError::Closed);
        }
        match timeout(ANSWER_WITHIN, self.commands.send(command)).await {
            Ok(sent) => sent.map_err(|_| NodeError::Closed),
            Err(_) => Err(NodeError::Unresponsive(ANSWER_WITHIN)),
        }
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
        self.send(command).await.map_err(|_| StartError::Closed)?;
        answer.await.unwrap_or(Err(StartError::Closed))
    }

    async fn stop(&self, deadline: Duration) -> Result<Stopped, NodeError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Stop { deadline: clock::boot_now() + deadline, reply }).await?;
        match timeout(deadline + STOP_SLACK, answer).await {
            Ok(Ok(stopped)) => Ok(stopped),
            Ok(Err(_)) => Err(NodeError::Closed),
            Err(_) => Ok(Stopped::Unclean),
        }
    }

    async fn close(&self) -> Result<(), CloseError> {
        let (reply, answer) = oneshot::channel();
        let deadline = clock::boot_now() + CLOSE_WITHIN;
        if self.send(Command::Close { deadline, reply }).await.is_err() {
            return Ok(());
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
            Ok(Ok(status)) => Ok(status),
            Ok(Err(_)) => Err(NodeError::Closed),
            Err(_) => Err(NodeError::Unresponsive(ANSWER_WITHIN)),
        }
    }

    async fn resign(&self) -> Result<(), NodeError> {
        self.send(Command::Resign).await
    }

    async fn drain(&self, draining: bool) -> Result<(), NodeError> {
        self.send(Command::Drain(draining)).await
    }
}

/// Held by those who may call a node; when the last one goes, the node leaves in the background.
#[derive(Debug)]
pub(crate) struct Owner(pub(crate) Arc<Core>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.abandoned.cancel();
    }
}

/// What an abandoned node gets to leave.
pub(crate) fn abandoned_deadline() -> BootTime {
    clock::boot_now() + CLOSE_WITHIN
}
