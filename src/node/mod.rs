//! A node of a cluster: the trait, its two implementations, and the work they run.
//!
//! The node drives `engine` against a `store`; it decides nothing about leadership itself.
//!
//! [`ClusterNode`] keeps its cluster in etcd (or in any other [`Store`](crate::store::Store)),
//! [`StandaloneNode`] in a memory store of its own. Both are the same engine and the same driver, so
//! they keep the same promises. An application picks one at run time, as `Arc<dyn Node>`:
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
//!         .leader(|ctx: LeaderContext| async move {
//!             ctx.fenced().put("last-pass", ctx.term().to_string()).await?;
//!             Ok(())
//!         })
//!         .follower(|_: FollowerContext| async move { Ok(()) })
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
//! # Where the driver lives
//!
//! Beats, keepalives, the watch and the engine run on a [`DriverHost`]: a thread of its own with a
//! runtime of its own. User work runs on the runtime that called [`start`](Node::start). When authority
//! lapses the driver closes the gates and cancels the work, however busy that runtime is; a gate reads
//! the clock itself, so work that is not cancelled in time is refused all the same.
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
//! | `.LeaderRoutine` `.FollowerRoutine` `.RoutineTick` | `leader`, `follower`, `tick` |
//! | `.Logger` | – (`tracing`) |
//! | `ClusterNode.ID`, `.Address`, `.Role`, `.StartTime` | [`id`](Node::id), [`get_self_metadata`](Node::get_self_metadata), [`membership`](Node::membership) |
//! | `StandaloneNode`, `NewStandaloneNode` | [`StandaloneNode`], [`StandaloneNode::builder`] |
//! | `Start` | [`start`](Node::start): resolves when joined, says why not |
//! | `Stop` | [`stop`](Node::stop): has a deadline; the node can be started again |
//! | `Close` | [`close`](Node::close) |
//! | `Put`, `Delete` | [`put`](Node::put), [`delete`](Node::delete) |
//! | `Get`, `GetAsNode` | [`get`](Node::get), [`get_as_node`](Node::get_as_node): nothing is `None` |
//! | `GetCluster` | [`get_cluster`](Node::get_cluster): of one revision; [`KV::key`] is the key as it was put |
//! | `WatchKeyCluster`, `StateChangeEvent` | [`watch_key_cluster`](Node::watch_key_cluster), [`StateChange`] in a [`StateWatch`] |
//! | `EventType`, `EventTypeAdded`, `…Modified`, `…Deleted` | [`EventType`] |
//! | `GetNodes`, `GetNodeMetadata` | [`get_nodes`](Node::get_nodes), [`get_node_metadata`](Node::get_node_metadata) |
//! | `GetLeader` | [`get_leader`](Node::get_leader): nobody is `None` |
//! | `GetSelfMetadata` | [`get_self_metadata`](Node::get_self_metadata) |
//! | `KV` | [`KV`] |
//! | `NodeMetadata`, `Marshal`, `UnmarshalNodeMetadata` | [`NodeMetadata`], [`encode_metadata`](crate::store::values::encode_metadata), [`decode_metadata`](crate::store::values::decode_metadata) |
//! | `NodeRole`, `RoleUnknown`, `RoleLeader`, `RoleFollower` | [`Role`] |
//! | `LeaderRoutine`, `FollowerRoutine` | [`LeaderRoutine`](work::LeaderRoutine), [`FollowerRoutine`](work::FollowerRoutine) |
//!
//! A `StandaloneNode` differs in one point: it has state only while it is started, like any other node.

pub mod status;
pub mod supervision;
pub mod work;

mod builder;
mod claim;
mod compaction;
mod context;
mod core;
mod driver;
mod env;
mod error;
mod every;
mod fenced;
#[cfg(test)]
pub(crate) mod fragile;
mod gate;
mod guarded;
mod host;
pub(crate) mod metrics;
mod nodes;
mod options;
mod own_state;
mod pod_lock;
mod state;
mod state_watch;
mod store_metrics;

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::engine::{NodeId, NodeMetadata, Revision, Role, Term};

#[doc(no_inline)]
pub use crate::store::keys::{ELECTION_PREFIX, NODES_PREFIX, STATE_DATA_PREFIX};

pub use self::{
    builder::{ClusterNodeBuilder, NodeOptions, StandaloneNodeBuilder},
    claim::{Claim, Claimed},
    context::{AuthorityLost, FollowerContext, LeaderContext, ShardContext},
    error::{CloseError, NodeError, StartError, StateError},
    every::{Every, every},
    fenced::{Fenced, FencedError, FencedTxn, Versioned},
    host::DriverHost,
    metrics::{KNOWN_FOR, NodeMetrics},
    nodes::{ClusterNode, StandaloneNode},
    options::{InvalidOption, RoutineLimits, WorkerOptions},
    state_watch::{LagCause, StateItem, StateWatch, WatchFrom},
};

/// A key-value pair of a node's state. `key` is the user's key, as it was put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KV {
    /// The user's key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
}

/// What happened to a key of a node's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// It did not exist before.
    Added = 0,
    /// It existed before.
    Modified = 1,
    /// It does not exist any more.
    Deleted = 2,
}

/// One change of one key of one node's state. The fields that do not apply are empty, as in the Go
/// package: `old_*` for an added key, `key` and `value` for a deleted one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// What happened.
    pub kind: EventType,
    /// Whose state it is.
    pub node: NodeId,
    /// The user's key.
    pub key: String,
    /// Its value now.
    pub value: Vec<u8>,
    /// The user's key before.
    pub old_key: String,
    /// Its value before.
    pub old_value: Vec<u8>,
    /// The store's revision of the change.
    pub revision: Revision,
}

/// Where a node stands in its cluster now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Whether it is registered.
    pub joined: bool,
    /// Its role.
    pub role: Role,
    /// Its term, if it is leader.
    pub term: Option<Term>,
    /// How many sessions it has lost since it started.
    pub sessions_lost: u64,
    /// Whether its driver has failed ([`NodeError::Broken`]): it never joins again.
    pub broken: bool,
}

/// How a node left its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// All work has ended, and its keys are known to be gone: a successor takes office at once.
    Clean,
    /// Something did not end, or the store did not answer, before the deadline: its lease runs out by
    /// itself, and a successor waits out its authority.
    Unclean,
}

/// A node of a cluster.
///
/// All calls have a deadline (the builder's `call_timeout`, unless they take one), can be dropped at
/// any await, and hold no lock while the store is asked.
///
/// # Cancel safety
///
/// A dropped call may or may not take effect; it is as if its outcome were unknown. A dropped
/// [`start`](Self::start) or [`stop`](Self::stop) goes on in the background.
#[async_trait]
pub trait Node: Send + Sync + Debug + 'static {
    /// Its id.
    fn id(&self) -> NodeId;

    /// The name of its cluster.
    fn cluster(&self) -> &str;

    /// Joins the cluster and resolves when the node is registered. If it is joined already, or
    /// joining, it only waits. While the store cannot be reached it goes on trying.
    ///
    /// # Errors
    ///
    /// [`StartError::DuplicateId`], after the builder's [`id_wait`](ClusterNodeBuilder::id_wait), and
    /// [`StartError::TickDisagreement`] if the cluster does not let it in: nobody else is disturbed, and
    /// it was never a candidate. [`StartError::Stopped`] if it was stopped meanwhile,
    /// [`StartError::Closed`] after [`close`](Self::close), [`StartError::Broken`] if its driver has
    /// failed.
    async fn start(&self) -> Result<(), StartError>;

    /// Leaves the cluster: ends the work, resigns, gives the lease back. Returns before `deadline` has
    /// passed by more than a moment, also while the store cannot be reached. The node may be
    /// [started](Self::start) again, as a new incarnation with empty state.
    ///
    /// # Errors
    ///
    /// [`NodeError::Closed`] after [`close`](Self::close), [`NodeError::Broken`] if its driver has failed.
    async fn stop(&self, deadline: Duration) -> Result<Stopped, NodeError>;

    /// Stops the node for good, and ends its watches and its part of the [`DriverHost`]. The thread ends
    /// when all its nodes are dropped. Later calls answer `Closed`, those of a broken node `Broken`.
    ///
    /// # Errors
    ///
    /// [`CloseError`] if the work or the store did not let it end in time; it is closed all the same.
    async fn close(&self) -> Result<(), CloseError>;

    /// Puts a key of the node's own state, which vanishes with the node. Returns the revision of the write.
    ///
    /// # Guarantees
    ///
    /// Calls of [`put`](Self::put) and [`delete`](Self::delete) for one key take turns, in the order in
    /// which they were made (in which their futures were first polled): a later call is sent when the
    /// earlier ones have ended. An acknowledged value stays until a later call replaces or deletes it:
    /// after a lost session, or in a store that was restored from a backup, the node puts it back by
    /// itself when it has joined again. A call that ended in [`StateError::Unknown`] may be what is put
    /// back. [`stop`](Self::stop) drops the state, and so all that was called before it.
    ///
    /// # Errors
    ///
    /// [`StateError::NoLease`] if the node is not joined, or left before it was the call's turn;
    /// [`StateError::Busy`] if that did not come in time; [`StateError::Unknown`] if the store did not
    /// answer; [`StateError::Key`] for an invalid or reserved key.
    ///
    /// # Cancel safety
    ///
    /// Dropped before its turn has come, a call changes nothing. Dropped later, it may have taken effect,
    /// as after [`StateError::Unknown`].
    async fn put(&self, key: &str, value: &[u8]) -> Result<Revision, StateError>;

    /// A key of the node's own state; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`StateError`]; nothing changes.
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StateError>;

    /// A key of another node's state; `None` if there is none or no such node.
    ///
    /// # Errors
    ///
    /// [`StateError`]; nothing changes.
    async fn get_as_node(&self, node: NodeId, key: &str) -> Result<Option<Vec<u8>>, StateError>;

    /// Deletes a key of the node's own state. Whether there was one, also if a new session had not put it
    /// back yet. Its order among the calls for the key is that of [`put`](Self::put).
    ///
    /// # Errors
    ///
    /// As for [`put`](Self::put). After [`StateError::Unknown`] the key is not put back.
    ///
    /// # Cancel safety
    ///
    /// As for [`put`](Self::put).
    async fn delete(&self, key: &str) -> Result<bool, StateError>;

    /// All state under `prefix` (the key itself and those below it, by `/`), by node, as of one
    /// revision. Every live node is in the map. Keys that no node wrote are skipped and counted.
    ///
    /// # Errors
    ///
    /// [`StateError`]; nothing changes.
    async fn get_cluster(&self, prefix: &str) -> Result<BTreeMap<NodeId, Vec<KV>>, StateError>;

    /// Changes of `key` and of the keys below it, of all nodes. The watch survives reconnects with
    /// nothing lost or repeated, and ends when it or the node is dropped or the node is
    /// [closed](Self::close). Where changes have to be left out, the reader gets
    /// [`StateItem::Lagged`] with the cause and a fresh snapshot: if it is too slow, if etcd has compacted
    /// them while the watch was cut off, and if the store was replaced. A slow reader blocks nobody.
    ///
    /// # Errors
    ///
    /// [`StateError`]; nothing changes.
    async fn watch_key_cluster(&self, key: &str, from: WatchFrom)
    -> Result<StateWatch, StateError>;

    /// The metadata of all live nodes, by id.
    ///
    /// # Errors
    ///
    /// [`StateError`]; nothing changes.
    async fn get_nodes(&self) -> Result<Vec<NodeMetadata>, StateError>;

    /// The node in office, as the store says now; `None` if nobody is. In a mixed cluster it may be a
    /// Go node.
    ///
    /// # Errors
    ///
    /// [`StateError`]; nothing changes.
    async fn get_leader(&self) -> Result<Option<NodeId>, StateError>;

    /// This node's metadata, from memory.
    fn get_self_metadata(&self) -> NodeMetadata;

    /// The metadata of a node; `None` if it is not live.
    ///
    /// # Errors
    ///
    /// [`StateError`]; nothing changes.
    async fn get_node_metadata(&self, node: NodeId) -> Result<Option<NodeMetadata>, StateError>;

    /// Claims a name for this node, in the whole cluster: of any number of concurrent claims one wins.
    /// A claim ends with the node's session, or when it is released.
    ///
    /// # Errors
    ///
    /// [`StateError`]. After [`StateError::Unknown`] the claim may stand; claim again to find out.
    async fn claim(&self, name: &str) -> Result<Claimed, StateError>;

    /// Role, term, sessions lost and regained, as they change.
    fn membership(&self) -> watch::Receiver<Membership>;

    /// What the node knows about itself and its cluster.
    ///
    /// # Errors
    ///
    /// [`NodeError::Closed`], [`NodeError::Unresponsive`] if the driver does not answer,
    /// [`NodeError::Broken`] if it has failed.
    async fn status(&self) -> Result<status::Status, NodeError>;

    /// The node's vital signs, for probes. They are read from what the driver has published, so that a probe
    /// costs the driver nothing.
    ///
    /// # Errors
    ///
    /// As for [`status`](Self::status): a driver that has taken no turn for seconds is unresponsive.
    async fn vitals(&self) -> Result<status::Vitals, NodeError>;

    /// Gives up office once, after the work has ended; another node gets it. Nothing happens if the
    /// node is not in office.
    ///
    /// # Errors
    ///
    /// [`NodeError::Closed`], [`NodeError::Broken`].
    async fn resign(&self) -> Result<(), NodeError>;

    /// Asks that the node gets no shards and no office, or that it may get them again.
    ///
    /// # Errors
    ///
    /// [`NodeError::Closed`], [`NodeError::Broken`].
    async fn drain(&self, draining: bool) -> Result<(), NodeError>;
}

/// Joins, and joins again whenever the session is lost; returns why it cannot (any more):
/// [`StartError::Broken`] once the node's driver has failed.
///
/// # Cancel safety
///
/// Dropped, the node stays as it is, and goes on joining by itself.
pub async fn keep_joined(node: &dyn Node) -> StartError {
    let mut membership = node.membership();
    loop {
        // A node joins again by itself; this waits, and finds out if it is refused.
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

/// Returns once the node's driver has failed ([`NodeError::Broken`]), and never otherwise.
///
/// # Cancel safety
///
/// Cancel safe: it only waits.
pub async fn broken(node: &dyn Node) -> NodeError {
    if node.membership().wait_for(|it| it.broken).await.is_err() {
        // The node is gone, and did not fail before.
        std::future::pending::<()>().await;
    }
    NodeError::Broken
}
