//! State of one node that its handles and its driver share.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    Membership, NodeError, StartError, Stopped,
    env::Env,
    host::DriverHost,
    options::NodeOptions,
    own_state::OwnState,
    pod_lock::PodLock,
    session::Session,
    shown::{Known, Shown},
};
use crate::{
    clock,
    engine::{BootTime, NodeId, NodeMetadata, Role},
};

/// Capacity of the command channel. Commands are rare, and each caller waits for its own answer.
const COMMANDS: usize = 64;
/// Time that a node has to leave after `close` or after its last handle was dropped.
pub(super) const CLOSE_WITHIN: Duration = Duration::from_secs(10);

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
pub(crate) struct NodeShared {
    pub(crate) env: Env,
    pub(crate) host: DriverHost,
    pub(crate) published: Published,
    pub(crate) own: OwnState,
    pub(crate) id: NodeId,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) closed: AtomicBool,
    /// Whether the driver has ended without a request.
    pub(crate) broken: AtomicBool,
    /// Lock that is held as long as the process may have an incarnation that names the pod's UID. The lock is
    /// here and not in the driver: the work of a driver that failed holds a handle of the node for as long as
    /// the work may act.
    pub(crate) pod_lock: Mutex<Option<PodLock>>,
    /// Cancelled when the last handle of the node was dropped.
    pub(crate) abandoned: CancellationToken,
    /// Cancelled when the driver has ended.
    pub(crate) gone: CancellationToken,
    pub(crate) driver: Mutex<Option<JoinHandle<()>>>,
}

impl NodeShared {
    /// The state of a new node, and the commands of its handles.
    pub(crate) fn new(options: &NodeOptions) -> (Self, mpsc::Receiver<Command>) {
        let (commands, received) = mpsc::channel(COMMANDS);
        let id = options.engine.id;
        let metadata = NodeMetadata {
            id,
            address: options.engine.address.clone(),
            start: clock::wall_now(),
            role: Role::Unknown,
        };
        let shared = Self {
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
        };
        (shared, received)
    }

    pub(crate) fn is_there(&self) -> Result<(), NodeError> {
        if self.broken.load(Ordering::Acquire) {
            return Err(NodeError::Broken);
        }
        if self.closed.load(Ordering::Acquire) { Err(NodeError::Closed) } else { Ok(()) }
    }

    /// Called when the driver has ended without a request. By then `UserWork` has closed the gates and
    /// cancelled the work; this publishes that the node has no session, has no role, and is broken.
    pub(crate) fn break_down(&self) {
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

/// Deadline for an abandoned node to leave.
pub(crate) fn abandoned_deadline() -> BootTime {
    clock::boot_now() + CLOSE_WITHIN
}
