//! A store in this process: a model of etcd, and the [`Store`] over it.
//!
//! [`Model`] is pure: time is an argument, and the simulation drives the model directly. [`MemoryStore`]
//! runs the model on this machine's boot clock, for standalone nodes, the demo and tests; [`Faults`] makes
//! the store as unreliable as a test needs it.

#[doc(hidden)]
pub mod faults;
#[doc(hidden)]
pub mod model;
mod watch;

use std::{
    fmt::{self, Debug},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;

use crate::{
    clock,
    engine::{BootTime, LeaseId, Revision, StoreTiming},
    store::{
        Get, GetAnswer, Health, LeaseAnswer, Store, StoreError, Txn, TxnAnswer, Watch, WatchRequest,
    },
};

#[doc(hidden)]
pub use faults::{Fault, Faults, Seen};
#[doc(hidden)]
pub use model::{Between, Contents, Deposed, Model, ModelConfig, Revisions, WithPrevious};

/// Smallest number of newest revisions that are kept. A watch that lags further ends with the error that
/// its revisions are compacted.
const KEPT_REVISIONS: i64 = 10_000;

/// A store in this process. Clones are handles to the same store.
///
/// A watch reads the history at its own pace: a slow reader delays no other caller and costs nothing. To
/// every caller, leases end on time: each call and each waiting watch lets the model's time pass.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

struct Shared {
    model: Mutex<Model>,
    /// Changes with each change of the model, to wake the watches.
    changed: tokio::sync::watch::Sender<u64>,
    faults: Faults,
    origin: Origin,
}

/// Whether the store can have been used before this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    New,
    Given,
}

impl MemoryStore {
    /// Creates an empty store with etcd's defaults and a random cluster id.
    pub fn new() -> Self {
        let model = Model::new(ModelConfig { cluster: rand::random(), ..ModelConfig::default() });
        Self::over(model, Origin::New)
    }

    /// Creates a store with the contents of `model`.
    pub fn from_model(model: Model) -> Self {
        Self::over(model, Origin::Given)
    }

    fn over(model: Model, origin: Origin) -> Self {
        let shared = Shared {
            model: Mutex::new(model),
            changed: tokio::sync::watch::Sender::new(0),
            faults: Faults::default(),
            origin,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Whether the store was created empty by this process: no node can have led by it before, so that its
    /// record may be seeded as ended.
    pub fn is_own(&self) -> bool {
        self.shared.origin == Origin::New
    }

    /// Faults that tests inject into this store.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Reads or changes the model, as an operator would, in tests.
    pub fn with_model<T>(&self, act: impl FnOnce(&mut Model) -> T) -> T {
        self.shared.at_now(|model, _| act(model))
    }

    /// A request in flight. The request fails if the store that it was sent to is replaced: a wipe or a
    /// restore restarts etcd, which ends all connections.
    fn sent<T, A>(&self, act: A) -> impl FnOnce() -> Result<T, StoreError> + Send + use<T, A>
    where
        A: FnOnce(&mut Model, BootTime) -> Result<T, StoreError> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        let sent_to = shared.at_now(|model, _| model.replacements());
        move || {
            shared.at_now(|model, now| {
                if model.replacements() == sent_to {
                    act(model, now)
                } else {
                    let (endpoint, message) =
                        ("memory".to_owned(), "the store was replaced".to_owned());
                    Err(StoreError::Broken { endpoint, message })
                }
            })
        }
    }

    /// Forgets the history before `revision`, as etcd's compaction does.
    ///
    /// # Errors
    ///
    /// [`StoreError::Compacted`] if `revision` is compacted already, [`StoreError::Denied`] if it is a
    /// future revision.
    pub fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.with_model(|model| model.compact(revision))
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (revision, keys) = self.with_model(|model| (model.revision(), model.len()));
        f.debug_struct("MemoryStore").field("revision", &revision.0).field("keys", &keys).finish()
    }
}

impl Shared {
    /// Acts on the model as it is now, and wakes the watches if the model changed.
    fn at_now<T>(&self, act: impl FnOnce(&mut Model, BootTime) -> T) -> T {
        let mut model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
        let before = (model.revision(), model.compacted(), model.replacements());
        let quiet_until = model.quiet_until();
        // The clock is read with the lock held, so that the model's time never goes back.
        let now = clock::boot_now();
        model.advance(now);
        let result = act(&mut model, now);
        let revision = model.revision();
        if revision.0 - model.compacted().0 > 2 * KEPT_REVISIONS {
            let oldest = Revision(revision.0 - KEPT_REVISIONS);
            model.compact(oldest).expect("between what is compacted and what is");
        }
        // Watches also wait for the next lease to end: a lease that ends earlier must wake them.
        let sooner = match (model.quiet_until(), quiet_until) {
            (Some(now), Some(before)) => now < before,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if sooner || before != (revision, model.compacted(), model.replacements()) {
            self.changed.send_modify(|changes| *changes = changes.wrapping_add(1));
        }
        result
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn timing(&self) -> StoreTiming {
        StoreTiming::ETCD
    }

    async fn txn(&self, txn: Txn, timeout: Duration) -> Result<TxnAnswer, StoreError> {
        let fault = self.faults().on(&Seen::Txn(&txn));
        let act = self.sent(move |model, now| model.txn(now, &txn));
        self.faults().around("txn", fault, timeout, act).await
    }

    async fn get(&self, get: Get, timeout: Duration) -> Result<GetAnswer, StoreError> {
        let fault = self.faults().on(&Seen::Get(&get));
        let act = self.sent(move |model, now| model.get(now, &get));
        self.faults().around("get", fault, timeout, act).await
    }

    async fn grant(
        &self,
        lease: LeaseId,
        ttl: Duration,
        timeout: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        let fault = self.faults().on(&Seen::Grant(lease));
        let act = self.sent(move |model, now| model.grant(now, lease, ttl));
        self.faults().around("grant", fault, timeout, act).await
    }

    async fn revoke(&self, lease: LeaseId, timeout: Duration) -> Result<LeaseAnswer, StoreError> {
        let fault = self.faults().on(&Seen::Revoke(lease));
        let act = self.sent(move |model, now| model.revoke(now, lease));
        self.faults().around("revoke", fault, timeout, act).await
    }

    async fn keep_alive(
        &self,
        lease: LeaseId,
        timeout: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        let fault = self.faults().on(&Seen::KeepAlive(lease));
        let act = self.sent(move |model, now| Ok(model.keep_alive(now, lease)));
        self.faults().around("keep_alive", fault, timeout, act).await
    }

    async fn watch(
        &self,
        request: WatchRequest,
        timeout: Duration,
    ) -> Result<Box<dyn Watch>, StoreError> {
        let fault = self.faults().on(&Seen::Watch(&request));
        let shared = Arc::clone(&self.shared);
        let act = move || Ok(Box::new(watch::MemoryWatch::open(shared, request)) as Box<dyn Watch>);
        self.faults().around("watch", fault, timeout, act).await
    }

    fn health(&self) -> Health {
        let denied = self.faults().on(&Seen::Health) == Some(Fault::Denied);
        Health { healthy: true, denied, ..Health::default() }
    }

    fn avoid_current(&self) {
        self.faults().member_avoided();
    }

    async fn failed(&self) -> String {
        self.faults().failed().await
    }
}

#[cfg(test)]
mod tests;
