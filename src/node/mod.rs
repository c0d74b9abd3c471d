//! A node of a cluster: the trait, the node that implements it, and the work that the node runs.
//!
//! The node runs `engine` against a `store`; only `engine` makes decisions about leadership.
//!
//! [`ClusterNode`] keeps its cluster in a [`Store`](crate::store::Store): the Kubernetes API, or an etcd; a
//! [standalone](ClusterNode::standalone) node keeps its own cluster in memory, and gives the same guarantees.
//! An application picks one of them at run time, as `Arc<dyn Node>`:
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//!
//! use bellwether::node::{ClusterNode, FollowerContext, LeaderContext, Node};
//! use bellwether::store::memory::MemoryStore;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = MemoryStore::new();
//! let node: Arc<dyn Node> = Arc::new(
//!     ClusterNode::builder()
//!         .cluster("shop")
//!         .id(0)
//!         .memory(&store) // or .etcd(EtcdConfig::new(["https://etcd:2379"]))
//!         .on_leader_tick(|ctx: LeaderContext| async move {
//!             ctx.fenced().put("last-pass", ctx.term().to_string()).await?;
//!             Ok(())
//!         })
//!         .on_follower_tick(|_: FollowerContext| async move { Ok(()) })
//!         .build()?,
//! );
//! node.start().await?;
//! node.put("greeting", b"hello").await?;
//! assert_eq!(node.get("greeting").await?, Some(b"hello".to_vec()));
//! node.stop(Duration::from_secs(10)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Threads and runtimes
//!
//! Beats, keepalives, the watch and the engine run on a [`DriverHost`]: a thread of its own with a runtime
//! of its own. User work runs on the runtime that called [`start`](Node::start). When authority lapses the
//! driver closes the gates and cancels the work, however busy that runtime is. A gate also reads the clock
//! itself, so work that is not cancelled in time is refused too.
//!
//! # Coming from the Go package
//!
//! | Go package `cluster` | here |
//! | --- | --- |
//! | `ElectionPrefix`, `StateDataPrefix`, `NodesPrefix` | [`ELECTION_PREFIX`], [`STATE_DATA_PREFIX`], [`NODES_PREFIX`] |
//! | `ErrNoLease` | [`StateError::NoLease`] |
//! | `ErrClusterTickDisagreement` | [`StartError::TickDisagreement`], returned by `start` |
//! | `Node` | [`Node`], as `Arc<dyn Node>` |
//! | `ClusterNode`, `NewClusterNode`, `ClusterNodeOptions` | [`ClusterNode`], [`ClusterNode::builder`], [`ClusterNodeBuilder`] |
//! | `ClusterNodeOptions.Ctx` | – ([`stop`](Node::stop), [`close`](Node::close), or drop the node) |
//! | `.ID` `.Address` `.Ttl` `.ClusterName` | `id`, `address`, `ttl`, `cluster` of the builder |
//! | `.EtcdConfig` | [`etcd`](ClusterNodeBuilder::etcd) |
//! | `.LeaderRoutine` `.FollowerRoutine` `.RoutineTick` | `on_leader_tick`, `on_follower_tick`, `tick` |
//! | `.Logger` | – (`tracing`) |
//! | `ClusterNode.ID`, `.Address`, `.Role`, `.StartTime` | [`id`](Node::id), [`get_self_metadata`](Node::get_self_metadata), [`membership`](Node::membership) |
//! | `StandaloneNode`, `NewStandaloneNode` | [`StandaloneNode`], [`ClusterNode::standalone`] |
//! | `Start` | [`start`](Node::start): resolves when joined, or returns why the node cannot join |
//! | `Stop` | [`stop`](Node::stop): has a deadline; the node can be started again |
//! | `Close` | [`close`](Node::close) |
//! | `Put`, `Delete` | [`put`](Node::put), [`delete`](Node::delete) |
//! | `Get`, `GetAsNode` | [`get`](Node::get), [`get_as_node`](Node::get_as_node): `None` if there is no such key |
//! | `GetCluster` | [`get_cluster`](Node::get_cluster): the state at one revision; [`KV::key`] is the key as it was put |
//! | `WatchKeyCluster`, `StateChangeEvent` | [`watch_key_cluster`](Node::watch_key_cluster), [`StateChange`] in a [`StateWatch`] |
//! | `EventType`, `EventTypeAdded`, `…Modified`, `…Deleted` | [`ChangeKind`] |
//! | `GetNodes`, `GetNodeMetadata` | [`get_nodes`](Node::get_nodes), [`get_node_metadata`](Node::get_node_metadata) |
//! | `GetLeader` | [`get_leader`](Node::get_leader): `None` if no node is in office |
//! | `GetSelfMetadata` | [`get_self_metadata`](Node::get_self_metadata) |
//! | `KV` | [`KV`] |
//! | `NodeMetadata`, `Marshal`, `UnmarshalNodeMetadata` | [`NodeMetadata`], [`encode_metadata`](crate::store::values::encode_metadata), [`decode_metadata`](crate::store::values::decode_metadata) |
//! | `NodeRole`, `RoleUnknown`, `RoleLeader`, `RoleFollower` | [`Role`] |
//! | `LeaderRoutine`, `FollowerRoutine` | [`LeaderRoutine`](work::LeaderRoutine), [`FollowerRoutine`](work::FollowerRoutine) |
//!
//! A `StandaloneNode` differs from the one in Go in one point: it has state only while it is started, like
//! every other node.

pub mod status;
#[doc(hidden)]
pub mod supervision;
pub mod work;

mod builder;
mod claim;
mod cluster_node;
mod compaction;
mod context;
mod driver;
mod env;
mod error;
mod every;
mod fenced;
mod gate;
mod guarded;
mod host;
pub(crate) mod metrics;
mod options;
mod own_state;
mod pod_lock;
mod session;
mod shared;
mod shown;
mod state;
mod state_watch;

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use async_trait::async_trait;
use tokio::sync::watch;

pub use crate::engine::{
    Failover, InvalidFailover, LeaseId, NegativeNodeId, NodeId, NodeMetadata, Revision, Role,
    ShardEpoch, ShardId, Term, TickPolicy, WorkType,
};
#[doc(no_inline)]
pub use crate::store::keys::{ELECTION_PREFIX, NODES_PREFIX, STATE_DATA_PREFIX};

pub use self::{
    builder::ClusterNodeBuilder,
    claim::{Claim, Claimed},
    cluster_node::{ClusterNode, StandaloneNode},
    context::{AuthorityLost, FollowerContext, LeaderContext, ShardContext},
    error::{CloseError, NodeError, StartError, StateError},
    every::every,
    fenced::{Fenced, FencedError, FencedTxn, Versioned},
    host::DriverHost,
    metrics::{KNOWN_FOR, NodeMetrics},
    options::{InvalidOption, RoutineLimits, WorkerOptions},
    state_watch::{LagCause, StateItem, StateWatch, WatchFrom},
};

/// Key-value pair of a node's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KV {
    /// Key as the user put it.
    pub key: String,
    /// Value of the key.
    pub value: Vec<u8>,
}

/// Kind of a change to a key of a node's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// The key did not exist before.
    Added = 0,
    /// The key existed before and has a new value.
    Modified = 1,
    /// The key does not exist any more.
    Deleted = 2,
}

/// Change of a key of a node's state. The fields that do not apply are empty, as in the Go package: `old_*`
/// for an added key, `key` and `value` for a deleted one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// Kind of the change.
    pub kind: ChangeKind,
    /// Node whose state changed.
    pub node: NodeId,
    /// Key as the user put it.
    pub key: String,
    /// Value after the change.
    pub value: Vec<u8>,
    /// Key before the change, as the user put it.
    pub old_key: String,
    /// Value before the change.
    pub old_value: Vec<u8>,
    /// Store revision of the change.
    pub revision: Revision,
}

/// Membership of a node in its cluster, as it is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Whether the node is registered in its cluster.
    pub joined: bool,
    /// Role of the node.
    pub role: Role,
    /// Term of the node, if the node is leader.
    pub term: Option<Term>,
    /// Number of sessions that the node has lost since it started.
    pub sessions_lost: u64,
    /// Whether the node's driver has failed ([`NodeError::Broken`]): the node never joins again.
    pub broken: bool,
}

/// How a node left its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// All work has ended and the node's keys are known to be deleted: a successor takes office at once.
    Clean,
    /// Some work did not end, or the store did not answer, before the deadline. The node's lease expires by
    /// itself, and a successor waits until the node's authority is over.
    Unclean,
}

/// A node of a cluster.
///
/// All calls have a deadline (the builder's `call_timeout`, unless a call takes its own), can be dropped at
/// any await, and hold no lock while a request to the store is under way.
///
/// # Cancel safety
///
/// A dropped call may or may not take effect, as if its outcome were unknown. A dropped
/// [`start`](Self::start) or [`stop`](Self::stop) continues in the background.
#[async_trait]
pub trait Node: Send + Sync + Debug + 'static {
    /// Id of the node.
    fn id(&self) -> NodeId;

    /// Name of the node's cluster.
    fn cluster(&self) -> &str;

    /// Joins the cluster and resolves when the node is registered. If the node is joined already, or
    /// joining, the call only waits. While the store is unreachable the node retries.
    ///
    /// # Errors
    ///
    /// [`StartError::DuplicateId`], after the builder's [`id_wait`](ClusterNodeBuilder::id_wait), and
    /// [`StartError::TickDisagreement`] if the cluster rejects the node: no other node is affected, and
    /// this one was never a candidate. [`StartError::Stopped`] if the node was stopped meanwhile,
    /// [`StartError::Closed`] after [`close`](Self::close), [`StartError::Broken`] if its driver has
    /// failed.
    async fn start(&self) -> Result<(), StartError>;

    /// Leaves the cluster: ends the work, resigns, revokes the lease. Returns at most a moment after
    /// `deadline`, also while the store is unreachable. The node may be [started](Self::start) again, as a
    /// new incarnation with empty state.
    ///
    /// # Errors
    ///
    /// [`NodeError::Closed`] after [`close`](Self::close), [`NodeError::Broken`] if its driver has failed.
    async fn stop(&self, deadline: Duration) -> Result<Stopped, NodeError>;

    /// Stops the node permanently, and ends its watches and its tasks on the [`DriverHost`]. The thread
    /// ends when all its nodes are dropped. Later calls return `Closed`, or `Broken` on a broken node.
    ///
    /// # Errors
    ///
    /// [`CloseError`] if the node did not leave cleanly in time. The node is closed nevertheless.
    async fn close(&self) -> Result<(), CloseError>;

    /// Puts a key of the node's own state, which is deleted when the node leaves or its lease expires.
    /// Returns the revision of the write.
    ///
    /// # Guarantees
    ///
    /// Calls of [`put`](Self::put) and [`delete`](Self::delete) for one key take turns, in the order in
    /// which they were made (in which their futures were first polled): a later call is sent when the
    /// earlier ones have ended. An acknowledged value stays until a later call replaces or deletes it.
    /// After a lost session, or in a store that was restored from a backup, the node puts the value back
    /// when it has joined again. The value put back may be that of a call that ended in
    /// [`StateError::Unknown`]. [`stop`](Self::stop) drops the state, with the effect of every call before
    /// it.
    ///
    /// # Errors
    ///
    /// [`StateError::NoLease`] if the node is not joined, or left before the call had its turn;
    /// [`StateError::Busy`] if the turn did not come in time; [`StateError::Unknown`] if the store did not
    /// answer; [`StateError::Key`] for an invalid or reserved key.
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped before its turn changes nothing. A call that is dropped later may have taken
    /// effect, as after [`StateError::Unknown`].
    async fn put(&self, key: &str, value: &[u8]) -> Result<Revision, StateError>;

    /// Value of a key of the node's own state; `None` if the key does not exist.
    ///
    /// # Errors
    ///
    /// [`StateError`]; nothing changes.
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StateError>;

    /// Value of a key of another node's state; `None` if the key or the node does not exist.
    ///
    /// # Errors
    ///
    /// [`StateError`]; nothing changes.
    async fn get_as_node(&self, node: NodeId, key: &str) -> Result<Option<Vec<u8>>, StateError>;

    /// Deletes a key of the node's own state. Returns whether the key existed; a key that a new session had
    /// not yet put back counts as existing. The order among the calls for the key is that of
    /// [`put`](Self::put).
    ///
    /// # Errors
    ///
    /// As for [`put`](Self::put). After [`StateError::Unknown`] the key is not put back.
    ///
    /// # Cancel safety
    ///
    /// As for [`put`](Self::put).
    async fn delete(&self, key: &str) -> Result<bool, StateError>;

    /// All state under `prefix` (the key itself and those below it, by `/`), by node, at one revision.
    /// Every live node is in the map. Keys that no node wrote are skipped and counted.
    ///
    /// # Errors
    ///
    /// [`StateError`]; nothing changes.
    async fn get_cluster(&self, prefix: &str) -> Result<BTreeMap<NodeId, Vec<KV>>, StateError>;

    /// Watches `key` and the keys below it, for all nodes. The watch survives reconnects without a lost or
    /// repeated change, and ends when the watch or the node is dropped or the node is
    /// [closed](Self::close). Where changes have to be left out, the reader gets [`StateItem::Lagged`] with
    /// the cause and a new snapshot: if the reader is too slow, if etcd has compacted the changes while the
    /// watch was disconnected, and if the store was replaced. A slow reader blocks neither the node nor
    /// other readers.
    ///
    /// # Errors
    ///
    /// [`StateError`]; nothing changes.
    async fn watch_key_cluster(&self, key: &str, from: WatchFrom)
    -> Result<StateWatch, StateError>;

    /// Metadata of all live nodes, by id.
    ///
    /// # Errors
    ///
    /// [`StateError`]; nothing changes.
    async fn get_nodes(&self) -> Result<Vec<NodeMetadata>, StateError>;

    /// Node in office, read from the store now; `None` if no node is in office. In a mixed cluster the
    /// leader may be a Go node.
    ///
    /// # Errors
    ///
    /// [`StateError`]; nothing changes.
    async fn get_leader(&self) -> Result<Option<NodeId>, StateError>;

    /// Metadata of this node, from memory.
    fn get_self_metadata(&self) -> NodeMetadata;

    /// Metadata of a node; `None` if that node is not live.
    ///
    /// # Errors
    ///
    /// [`StateError`]; nothing changes.
    async fn get_node_metadata(&self, node: NodeId) -> Result<Option<NodeMetadata>, StateError>;

    /// Claims a name for this node, in the whole cluster: one of any number of concurrent claims wins.
    /// A claim ends with the node's session, or when it is released.
    ///
    /// # Errors
    ///
    /// [`StateError`]. After [`StateError::Unknown`] the claim may have succeeded; claim again to find out.
    async fn claim(&self, name: &str) -> Result<Claimed, StateError>;

    /// Current role, term and number of lost sessions; the receiver is notified of each change.
    fn membership(&self) -> watch::Receiver<Membership>;

    /// Status of the node and its view of the cluster.
    ///
    /// # Errors
    ///
    /// [`NodeError::Closed`], [`NodeError::Unresponsive`] if the driver does not answer,
    /// [`NodeError::Broken`] if the driver has failed.
    async fn status(&self) -> Result<status::Status, NodeError>;

    /// Vital signs of the node, for probes. The driver publishes them, so that a probe costs the driver
    /// nothing.
    ///
    /// # Errors
    ///
    /// As for [`status`](Self::status): a driver that has taken no turn for seconds is unresponsive.
    #[doc(hidden)]
    async fn vitals(&self) -> Result<status::Vitals, NodeError>;

    /// Resigns from office once, after the work has ended; another node takes office. Does nothing if the
    /// node is not in office.
    ///
    /// # Errors
    ///
    /// [`NodeError::Closed`], [`NodeError::Broken`].
    async fn resign(&self) -> Result<(), NodeError>;

    /// Takes shards and office from the node, until [`undrain`](Self::undrain).
    ///
    /// # Errors
    ///
    /// [`NodeError::Closed`], [`NodeError::Broken`].
    async fn drain(&self) -> Result<(), NodeError>;

    /// Lets a [drained](Self::drain) node have shards and office again.
    ///
    /// # Errors
    ///
    /// [`NodeError::Closed`], [`NodeError::Broken`].
    async fn undrain(&self) -> Result<(), NodeError>;
}

/// Joins, and joins again whenever the session is lost. Returns the reason once the node cannot join (any
/// more): [`StartError::Broken`] once the node's driver has failed.
///
/// # Cancel safety
///
/// If the future is dropped, the node stays as it is, and continues to join by itself.
pub async fn keep_joined(node: &dyn Node) -> StartError {
    let mut membership = node.membership();
    loop {
        // A node joins again by itself; `start` only waits, and returns an error if the node is rejected.
        if let Err(refused) = node.start().await {
            return refused;
        }
        for joined in [true, false] {
            match membership.wait_for(|it| it.joined == joined || it.broken).await.map(|it| *it) {
                Ok(it) if it.broken => return StartError::Broken,
                Ok(_) => (),
                Err(_) => return StartError::Closed,
            }
        }
    }
}

/// Returns once the node's driver has failed ([`NodeError::Broken`]), otherwise never.
///
/// # Cancel safety
///
/// Cancel safe: it only waits.
#[doc(hidden)]
pub async fn broken(node: &dyn Node) -> NodeError {
    if node.membership().wait_for(|it| it.broken).await.is_err() {
        // The node was dropped, and its driver did not fail before.
        std::future::pending::<()>().await;
    }
    NodeError::Broken
}
