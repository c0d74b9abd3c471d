//! For tests: a store that panics on request, as with a bug of the driver or of the store.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::{
    engine::LeaseId,
    store::{
        Get, GetAnswer, Health, LeaseAnswer, Op, Store, StoreError, Txn, TxnAnswer, Watch,
        WatchRequest, memory::MemoryStore,
    },
};

/// Memory store that panics where a test requests it.
#[derive(Debug, Default)]
pub(crate) struct Fragile {
    pub(crate) store: MemoryStore,
    /// Reading the store's health panics: the driver reads it for its status.
    pub(crate) health: AtomicBool,
    /// Opening a watch panics: the task that follows the store opens one.
    pub(crate) watch: AtomicBool,
    /// Every put of a key whose name contains `precious` panics.
    pub(crate) precious: AtomicBool,
    /// Cancelled to report that a task of the store has ended.
    pub(crate) failed: CancellationToken,
}

impl Fragile {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }
}

fn breaks(flag: &AtomicBool) {
    assert!(!flag.load(Ordering::SeqCst), "broken on purpose");
}

#[async_trait]
impl Store for Fragile {
    fn kind(&self) -> &'static str {
        self.store.kind()
    }

    async fn txn(&self, txn: Txn, timeout: Duration) -> Result<TxnAnswer, StoreError> {
        let writes = txn.then.iter().any(
            |op| matches!(op, Op::Put { key, .. } if String::from_utf8_lossy(key).contains("precious")),
        );
        if writes {
            breaks(&self.precious);
        }
        self.store.txn(txn, timeout).await
    }

    async fn get(&self, get: Get, timeout: Duration) -> Result<GetAnswer, StoreError> {
        self.store.get(get, timeout).await
    }

    async fn grant(
        &self,
        lease: LeaseId,
        ttl: Duration,
        timeout: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        self.store.grant(lease, ttl, timeout).await
    }

    async fn revoke(&self, lease: LeaseId, timeout: Duration) -> Result<LeaseAnswer, StoreError> {
        self.store.revoke(lease, timeout).await
    }

    async fn keep_alive(
        &self,
        lease: LeaseId,
        timeout: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        self.store.keep_alive(lease, timeout).await
    }

    async fn watch(
        &self,
        request: WatchRequest,
        timeout: Duration,
    ) -> Result<Box<dyn Watch>, StoreError> {
        breaks(&self.watch);
        self.store.watch(request, timeout).await
    }

    fn health(&self) -> Health {
        breaks(&self.health);
        self.store.health()
    }

    async fn failed(&self) -> String {
        self.failed.cancelled().await;
        "broken on purpose".into()
    }
}
