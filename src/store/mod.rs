//! Where a cluster is kept: the trait, and what its two implementations share.
//!
//! [`Store`] is etcd's data model and no more: revisions, transactions, leases, watches. `etcd` speaks
//! to a real one and is the only module that names `etcd_client`; `memory` is a model of it in this
//! process. Both answer alike. What the keys mean is in `keys`, what the protocol's transactions are in
//! `protocol`.

mod compaction;
mod compare;
pub mod etcd;
#[doc(hidden)]
pub mod keys;
#[doc(hidden)]
pub mod list_watch;
pub mod memory;
#[doc(hidden)]
pub mod protocol;
#[doc(hidden)]
pub mod values;

pub use self::{
    compaction::{OLD_REVISIONS, holds_revisions_back},
    compare::{Compare, CompareOp, Target},
};

use std::{
    fmt::{self, Debug},
    time::Duration,
};

use async_trait::async_trait;

use crate::engine::types::{LeaseId, Revision};

/// A key with its value, as the store holds it.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// The revision the key was created at.
    pub created: Revision,
    /// The revision it was last written at.
    pub modified: Revision,
    /// How many times it was written since it was created.
    pub version: i64,
    /// The lease it hangs on.
    pub lease: Option<LeaseId>,
}

impl Debug for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secrets of the user's: only their length is shown.
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
pub struct KeyRange {
    /// The first key in it.
    pub from: Vec<u8>,
    /// The first key after it.
    pub to: Vec<u8>,
}

impl KeyRange {
    /// Just this key.
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

    /// Whether it is just one key.
    pub fn is_key(&self) -> bool {
        self.to.len() == self.from.len() + 1
            && self.to.last() == Some(&0)
            && self.to.starts_with(&self.from)
    }

    /// Whether `key` is in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.from.as_slice() <= key && key < self.to.as_slice()
    }
}

/// One operation of a transaction.
#[derive(Clone, PartialEq, Eq)]
pub enum Op {
    /// Write a key. Without a lease it hangs on none from then on.
    Put {
        /// The key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
        /// The lease it is to hang on.
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

/// What to read. Keys come back in the order of their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Get {
    /// Which keys.
    pub range: KeyRange,
    /// Without values, and without leases (etcd has them in such answers only before 3.7).
    pub keys_only: bool,
    /// At most this many; zero = all.
    pub limit: i64,
    /// As of this revision; `None` = the newest, linearizable.
    pub at: Option<Revision>,
}

impl Get {
    /// All of a range, newest, with values.
    pub fn range(range: KeyRange) -> Self {
        Self { range, keys_only: false, limit: 0, at: None }
    }

    /// One key, newest, with its value.
    pub fn key(key: impl Into<Vec<u8>>) -> Self {
        Self::range(KeyRange::key(key))
    }
}

/// If all compares hold, one list of operations; else the other.
///
/// At most 128 compares and 128 operations in each list; no key may be put twice in one list. A
/// transaction whose taken list only reads is linearizable too, but one without any operation is
/// answered by etcd without a quorum (R11): `store::protocol` never builds one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub compares: Vec<Compare>,
    /// If they do.
    pub then: Vec<Op>,
    /// If they do not.
    pub otherwise: Vec<Op>,
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnAnswer {
    /// Whether all compares held.
    pub succeeded: bool,
    /// Of the store after it.
    pub revision: Revision,
    /// Id of the store's cluster.
    pub cluster: u64,
    /// By operation of the list that was taken: keys read by gets; empty for others.
    pub reads: Vec<Vec<KeyValue>>,
    /// By operation: how many keys a delete removed; zero for others.
    pub deleted: Vec<i64>,
}

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetAnswer {
    /// Of the store when it was read.
    pub revision: Revision,
    /// Id of the store's cluster.
    pub cluster: u64,
    /// In the order of the keys' bytes.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit cut it short.
    pub more: bool,
}

/// What a lease was granted or renewed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseAnswer {
    /// Time to live; zero in a renewal = the lease is gone.
    pub ttl: Duration,
    /// Header revision of the answer; not to be relied on for renewals, zero if it is not known.
    pub revision: Revision,
    /// Id of the store's cluster; zero if it is not known.
    pub cluster: u64,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What it is now. For a delete: the key, with `modified` = the revision of the delete, and nothing
    /// else.
    pub kv: KeyValue,
    /// Whether it was deleted.
    pub deleted: bool,
    /// What it was before, if that was asked for and is still known.
    pub previous: Option<KeyValue>,
}

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// All events of one revision.
    Events {
        /// Theirs.
        revision: Revision,
        /// In the order of the store.
        events: Vec<Event>,
    },
    /// Everything up to this revision was delivered.
    Progress {
        /// Up to where.
        revision: Revision,
    },
}

/// What to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchRequest {
    /// Which keys.
    pub range: KeyRange,
    /// The first revision that is wanted. Always one above that of a list: a watch from a revision
    /// that exists already costs etcd's 100 ms loop.
    pub from: Revision,
    /// Whether events carry what was before.
    pub previous: bool,
}

/// A running watch. Ends when dropped.
#[async_trait]
pub trait Watch: Send {
    /// The next item.
    ///
    /// # Errors
    ///
    /// [`StoreError::Compacted`] if what is wanted is not there any more, [`StoreError::Broken`] if the
    /// stream ended. After an error the watch is over.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is lost if the future is dropped.
    async fn next(&mut self) -> Result<WatchItem, StoreError>;

    /// Asks for a [`WatchItem::Progress`]; it comes through [`next`](Self::next), or not: etcd keeps silent
    /// while the watch catches up, and until the first revision that it was asked for exists.
    ///
    /// # Errors
    ///
    /// [`StoreError::Broken`] if the stream ended.
    async fn request_progress(&mut self) -> Result<(), StoreError>;
}

/// Where a cluster is kept. See the module's docs.
///
/// Every call has a deadline of its own, `timeout`, after which it answers
/// [`StoreError::Unanswered`]; what was sent may still take effect. Nothing is sent twice by an
/// implementation if it may have taken effect.
#[async_trait]
pub trait Store: Send + Sync + Debug + 'static {
    /// `"etcd"` or `"memory"`, for the status page and the metrics.
    fn kind(&self) -> &'static str;

    /// Carries out a transaction, linearizable.
    async fn txn(&self, txn: Txn, timeout: Duration) -> Result<TxnAnswer, StoreError>;

    /// Reads a range, linearizable.
    async fn get(&self, get: Get, timeout: Duration) -> Result<GetAnswer, StoreError>;

    /// Grants a lease of that id. [`StoreError::LeaseExists`] if there is one already.
    async fn grant(
        &self,
        lease: LeaseId,
        ttl: Duration,
        timeout: Duration,
    ) -> Result<LeaseAnswer, StoreError>;

    /// Revokes a lease with its keys, in one revision; [`StoreError::LeaseNotFound`] if there is none.
    async fn revoke(&self, lease: LeaseId, timeout: Duration) -> Result<LeaseAnswer, StoreError>;

    /// Renews a lease once. A lease that is gone is an answer with a TTL of zero, not an error.
    async fn keep_alive(
        &self,
        lease: LeaseId,
        timeout: Duration,
    ) -> Result<LeaseAnswer, StoreError>;

    /// Opens a watch.
    async fn watch(
        &self,
        request: WatchRequest,
        timeout: Duration,
    ) -> Result<Box<dyn Watch>, StoreError>;

    /// Where the calls go now and how that place does, for the status page and for messages.
    fn health(&self) -> Health;

    /// Asks the store to prefer another member for what comes (a watch that lags, say). A hint.
    fn avoid_current(&self) {}

    /// Returns the reason once the store has failed by a bug (a task of its own panicked), and never else.
    async fn failed(&self) -> String {
        std::future::pending().await
    }
}

/// How the store is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The member that is asked now, without any credentials; empty for the memory store.
    pub endpoint: String,
    /// Whether the last call to it was answered.
    pub healthy: bool,
    /// What the last failed call said, if any failed since the last answer.
    pub problem: Option<String>,
}

/// Why a call to the store failed, and whether anything may have changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The lease is not in the store. Nothing changed.
    #[error("the lease is not in the store")]
    LeaseNotFound,
    /// A lease of that id exists. Nothing changed.
    #[error("a lease of that id exists")]
    LeaseExists,
    /// The revision asked for is compacted. Nothing changed.
    #[error("revision {asked} is compacted; the oldest one left is {oldest}")]
    Compacted {
        /// Asked for.
        asked: Revision,
        /// The oldest one left; zero if the store did not say.
        oldest: Revision,
    },
    /// No answer in time. The call may or may not have taken effect, now or later.
    #[error("{endpoint} did not answer {call} within {timeout:?}")]
    Unanswered {
        /// Which call, as it is named in the metrics.
        call: &'static str,
        /// Who was asked.
        endpoint: String,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// An error after the call was sent. It may or may not have taken effect.
    #[error("{endpoint} broke off {call}: {message}")]
    Interrupted {
        /// Which call.
        call: &'static str,
        /// Who was asked.
        endpoint: String,
        /// What it said.
        message: String,
    },
    /// Nothing was sent: no member could be reached. Nothing changed.
    #[error("{endpoint} cannot be reached for {call}: {message}")]
    Unreachable {
        /// Which call.
        call: &'static str,
        /// Who was tried last.
        endpoint: String,
        /// What went wrong.
        message: String,
    },
    /// The store refused for good: wrong credentials, no permission, an invalid request. Nothing
    /// changed.
    #[error("{endpoint} refused {call}: {message}")]
    Denied {
        /// Which call.
        call: &'static str,
        /// Who refused.
        endpoint: String,
        /// What it said, and what to try.
        message: String,
    },
    /// The store refused for now: no space, too many requests. Nothing changed.
    #[error("{endpoint} is overloaded and refused {call}: {message}")]
    Overloaded {
        /// Which call.
        call: &'static str,
        /// Who refused.
        endpoint: String,
        /// What it said, and what to try.
        message: String,
    },
    /// A watch's stream ended.
    #[error("the watch on {endpoint} ended: {message}")]
    Broken {
        /// Who served it.
        endpoint: String,
        /// Why.
        message: String,
    },
}

/// Whether a failed call may have taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effected {
    /// It did not and will not.
    No,
    /// It may have, or may yet.
    Unknown,
}

impl StoreError {
    /// Whether the call may have taken effect.
    pub fn effected(&self) -> Effected {
        match self {
            Self::Unanswered { .. } | Self::Interrupted { .. } => Effected::Unknown,
            Self::LeaseNotFound
            | Self::LeaseExists
            | Self::Compacted { .. }
            | Self::Unreachable { .. }
            | Self::Denied { .. }
            | Self::Overloaded { .. }
            | Self::Broken { .. } => Effected::No,
        }
    }

    /// Whether the same call may succeed later without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unanswered { .. }
            | Self::Interrupted { .. }
            | Self::Unreachable { .. }
            | Self::Overloaded { .. }
            | Self::Broken { .. } => true,
            Self::LeaseNotFound
            | Self::LeaseExists
            | Self::Compacted { .. }
            | Self::Denied { .. } => false,
        }
    }
}
