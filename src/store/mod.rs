//! The store of a cluster: the trait [`Store`] and the types that its implementations share.
//!
//! [`Store`] is etcd's data model and no more: revisions, transactions, leases, watches. `etcd` speaks to a
//! real etcd and is the only module that names `etcd_client`; `memory` is a model of etcd in this process; the
//! store over the Kubernetes API, in `k8s`, keeps that model in a Lease. All give the same answers. `keys` defines
//! what the keys mean, `protocol` the protocol's transactions.

mod compaction;
mod compare;
#[doc(hidden)]
pub mod cut;
mod error;
pub mod etcd;
#[doc(hidden)]
pub mod keys;
#[doc(hidden)]
pub mod list_watch;
pub mod memory;
mod metrics;
#[doc(hidden)]
pub mod protocol;
#[doc(hidden)]
pub mod values;

pub use self::error::StoreError;
#[doc(hidden)]
pub use self::metrics::StateMetrics;
#[doc(hidden)]
pub use self::{
    compaction::{OLD_REVISIONS, holds_revisions_back},
    compare::{Compare, CompareOp, Target},
    error::Effected,
};

use std::{
    fmt::{self, Debug},
    time::Duration,
};

use async_trait::async_trait;

use crate::engine::{
    timing::StoreTiming,
    types::{LeaseId, Revision},
};

/// A key with its value, as the store holds it.
#[derive(Clone, PartialEq, Eq)]
#[doc(hidden)]
pub struct KeyValue {
    /// Key of this entry.
    pub key: Vec<u8>,
    /// Value of this entry.
    pub value: Vec<u8>,
    /// Revision that the key was created at.
    pub created: Revision,
    /// Revision that the key was last written at.
    pub modified: Revision,
    /// Number of writes to the key since it was created.
    pub version: i64,
    /// Lease that the key hangs on.
    pub lease: Option<LeaseId>,
}

impl Debug for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secrets of the user: `Debug` shows only their length.
        f.debug_struct("KeyValue")
            .field("key", &String::from_utf8_lossy(&self.key))
            .field("value_bytes", &self.value.len())
            .field("created", &self.created.0)
            .field("modified", &self.modified.0)
            .field("version", &self.version)
            .field("lease", &self.lease)
            .finish()
    }
}

/// A half-open range of keys, by bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[doc(hidden)]
pub struct KeyRange {
    /// First key in the range.
    pub from: Vec<u8>,
    /// First key after the range.
    pub to: Vec<u8>,
}

impl KeyRange {
    /// Range with just this key.
    pub fn key(key: impl Into<Vec<u8>>) -> Self {
        let from = key.into();
        let mut to = from.clone();
        to.push(0);
        Self { from, to }
    }

    /// All keys that begin with `prefix`.
    ///
    /// # Panics
    ///
    /// If `prefix` is empty or all 0xff: such a range has no end.
    pub fn prefix(prefix: impl Into<Vec<u8>>) -> Self {
        let from = prefix.into();
        let mut to = from.clone();
        while let Some(last) = to.pop() {
            if last < u8::MAX {
                to.push(last + 1);
                return Self { from, to };
            }
        }
        panic!("a prefix that is empty or all 0xff has no end");
    }

    /// Whether the range is just one key.
    pub fn is_key(&self) -> bool {
        self.to.len() == self.from.len() + 1
            && self.to.last() == Some(&0)
            && self.to.starts_with(&self.from)
    }

    /// Whether `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.from.as_slice() <= key && key < self.to.as_slice()
    }
}

/// Operation of a transaction.
#[derive(Clone, PartialEq, Eq)]
#[doc(hidden)]
pub enum Op {
    /// Write a key. Without a lease, the key then hangs on no lease.
    Put {
        /// Key to be written.
        key: Vec<u8>,
        /// Value to be written.
        value: Vec<u8>,
        /// Lease that the key is to hang on.
        lease: Option<LeaseId>,
    },
    /// Delete the keys that exist in a range.
    Delete(KeyRange),
    /// Read a range as it is at that point of the transaction.
    Get(Get),
}

impl Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { key, value, lease } => f
                .debug_struct("Put")
                .field("key", &String::from_utf8_lossy(key))
                .field("value_bytes", &value.len())
                .field("lease", lease)
                .finish(),
            Self::Delete(range) => f.debug_tuple("Delete").field(range).finish(),
            Self::Get(get) => f.debug_tuple("Get").field(get).finish(),
        }
    }
}

/// Range to read, with its options. Keys come back in the order of their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub struct Get {
    /// Range of keys to read.
    pub range: KeyRange,
    /// Return no values, and no leases (etcd returns leases in such answers only before 3.7).
    pub keys_only: bool,
    /// Largest number of keys to return; zero = all.
    pub limit: i64,
    /// Revision to read at; `None` = the newest, linearizable.
    pub at: Option<Revision>,
}

impl Get {
    /// Reads a whole range, newest, with values.
    pub fn range(range: KeyRange) -> Self {
        Self { range, keys_only: false, limit: 0, at: None }
    }

    /// Reads a single key, newest, with its value.
    pub fn key(key: impl Into<Vec<u8>>) -> Self {
        Self::range(KeyRange::key(key))
    }
}

/// A transaction: if all compares hold, etcd carries out `then`, else `otherwise`.
///
/// A transaction has at most 128 compares and 128 operations in each list; no key may be put twice in one
/// list. A transaction whose chosen list only reads is linearizable too, but etcd answers a transaction
/// without any operation without a quorum (R11: every check reads at least one range): `store::protocol`
/// never builds one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[doc(hidden)]
pub struct Txn {
    /// Compares that must all hold.
    pub compares: Vec<Compare>,
    /// Operations if all compares hold.
    pub then: Vec<Op>,
    /// Operations if a compare fails.
    pub otherwise: Vec<Op>,
}

/// Answer to a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub struct TxnAnswer {
    /// Whether all compares held.
    pub succeeded: bool,
    /// Revision of the store after the transaction.
    pub revision: Revision,
    /// Id of the store's cluster.
    pub cluster: u64,
    /// Keys read by gets, for each operation of the chosen list; empty for other operations.
    pub reads: Vec<Vec<KeyValue>>,
    /// Number of keys that a delete removed, for each operation; zero for other operations.
    pub deleted: Vec<i64>,
}

/// Answer to a read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub struct GetAnswer {
    /// Revision of the store when it was read.
    pub revision: Revision,
    /// Id of the store's cluster.
    pub cluster: u64,
    /// Entries found, in the order of the keys' bytes.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit cut the answer short.
    pub more: bool,
}

/// Answer to the grant, renewal or revocation of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub struct LeaseAnswer {
    /// Time to live; zero in a renewal = the lease is gone.
    pub ttl: Duration,
    /// Header revision of the answer; not reliable for renewals, zero if unknown.
    pub revision: Revision,
    /// Id of the store's cluster; zero if unknown.
    pub cluster: u64,
}

/// Change of a single key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub struct Event {
    /// The key after the change. For a delete: only the key, with `modified` = the revision of the delete.
    pub kv: KeyValue,
    /// Whether the key was deleted.
    pub deleted: bool,
    /// The key before the change, if the watch asked for it and the store still has it.
    pub previous: Option<KeyValue>,
}

/// Item that a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub enum WatchItem {
    /// All events of one revision.
    Events {
        /// Revision of these events.
        revision: Revision,
        /// Events of different keys, in any order: the stores differ in it.
        events: Vec<Event>,
    },
    /// The watch delivered everything up to this revision.
    Progress {
        /// Revision that the watch has reached.
        revision: Revision,
    },
}

/// Range to watch, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub struct WatchRequest {
    /// Range of keys to watch.
    pub range: KeyRange,
    /// First revision to deliver. Always one above the revision of a list: a watch from a revision that
    /// exists already costs etcd's 100 ms loop.
    pub from: Revision,
    /// Whether events carry the key before the change.
    pub previous: bool,
}

/// A running watch. The watch ends when dropped.
#[async_trait]
#[doc(hidden)]
pub trait Watch: Send {
    /// Waits for the next item.
    ///
    /// # Errors
    ///
    /// [`StoreError::Compacted`] if the store no longer has the revisions to deliver,
    /// [`StoreError::Broken`] if the stream ended. After an error the watch is over.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is lost if the future is dropped.
    async fn next(&mut self) -> Result<WatchItem, StoreError>;

    /// Asks for a [`WatchItem::Progress`], which may come through [`next`](Self::next): etcd sends none
    /// while the watch catches up, and none until the first revision that the watch asked for exists.
    ///
    /// # Errors
    ///
    /// [`StoreError::Broken`] if the stream ended.
    async fn request_progress(&mut self) -> Result<(), StoreError>;
}

/// The store of a cluster. See the module's docs.
///
/// Every call has its own deadline, `timeout`, after which it returns [`StoreError::Unanswered`]; a request
/// that was sent may still take effect. An implementation never sends a request twice if the first attempt
/// may have taken effect.
#[async_trait]
pub trait Store: Send + Sync + Debug + 'static {
    /// Kind of store, `"etcd"`, `"kubernetes"` or `"memory"`, for the status page and the metrics.
    fn kind(&self) -> &'static str;

    /// Durations that the protocol uses on this store.
    fn timing(&self) -> StoreTiming;

    /// Carries out a transaction, linearizable.
    async fn txn(&self, txn: Txn, timeout: Duration) -> Result<TxnAnswer, StoreError>;

    /// Reads a range, linearizable.
    async fn get(&self, get: Get, timeout: Duration) -> Result<GetAnswer, StoreError>;

    /// Grants a lease with that id. Returns [`StoreError::LeaseExists`] if a lease has the id already.
    async fn grant(
        &self,
        lease: LeaseId,
        ttl: Duration,
        timeout: Duration,
    ) -> Result<LeaseAnswer, StoreError>;

    /// Revokes a lease with its keys, in one revision. Returns [`StoreError::LeaseNotFound`] if no lease
    /// has the id.
    async fn revoke(&self, lease: LeaseId, timeout: Duration) -> Result<LeaseAnswer, StoreError>;

    /// Renews a lease once. For a lease that is gone, the answer has a TTL of zero and is not an error.
    async fn keep_alive(
        &self,
        lease: LeaseId,
        timeout: Duration,
    ) -> Result<LeaseAnswer, StoreError>;

    /// Opens a watch on a range.
    async fn watch(
        &self,
        request: WatchRequest,
        timeout: Duration,
    ) -> Result<Box<dyn Watch>, StoreError>;

    /// Member that serves the calls now, and its state, for the status page and for messages.
    fn health(&self) -> Health;

    /// Name of a candidate that is no node, by the lease in the name of its key: on the Kubernetes API a candidate of
    /// client-go holds the cluster's Lease under its own name.
    fn name_of(&self, lease: LeaseId) -> Option<String> {
        let _ = lease;
        None
    }

    /// Asks the store to prefer another member for later calls (because a watch lags, for example). Only a
    /// hint.
    fn avoid_current(&self) {}

    /// Returns the reason once the store has failed because of a bug (one of its own tasks panicked), else
    /// never returns.
    async fn failed(&self) -> String {
        std::future::pending().await
    }
}

/// State of the connection to the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[doc(hidden)]
pub struct Health {
    /// Member that serves the calls now, without any credentials; empty for the memory store.
    pub endpoint: String,
    /// Whether the store answered the last call.
    pub healthy: bool,
    /// Error of the last failed call, if any call failed since the last answer.
    pub problem: Option<String>,
    /// Whether the store denies calls permanently, for want of credentials or rights.
    pub denied: bool,
}
