//! A store whose user can be cut off, as by the death of its process or by a partition of the network: calls
//! fail, and no answers or events reach the user.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{
    engine::{LeaseId, StoreTiming},
    store::{
        Get, GetAnswer, Health, LeaseAnswer, Store, StoreError, Txn, TxnAnswer, Watch, WatchItem,
        WatchRequest,
    },
};

/// Words in the errors of a store that is cut off.
const MESSAGE: &str = "cut off, as if the process had died or the network were parted";

/// Switch that cuts users off. Clones switch the same links.
#[derive(Clone, Debug, Default)]
pub struct Cut(watch::Sender<bool>);

impl Cut {
    /// Cuts the links off.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }

    /// Restores the links of all users.
    pub fn end(&self) {
        self.0.send_replace(false);
    }

    /// Whether the links are cut off now.
    pub fn is_on(&self) -> bool {
        *self.0.borrow()
    }

    /// Resolves when the links are cut off.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: only waits.
    pub async fn begun(&self) {
        let mut state = self.0.subscribe();
        // The sender lives in `self`, so the wait ends with a value.
        let _ = state.wait_for(|is_on| *is_on).await;
    }
}

/// Store that can be cut off; see the module's docs.
#[derive(Debug)]
pub struct CutStore {
    store: Arc<dyn Store>,
    cut: Cut,
}

impl CutStore {
    /// Wraps the store. The switch `cut` cuts its user off.
    pub fn new(store: Arc<dyn Store>, cut: Cut) -> Self {
        Self { store, cut }
    }

    async fn unless_cut<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        tokio::select! {
            biased;
            // Cancel safe: only waits.
            () = self.cut.begun() => Err(StoreError::Unreachable {
                call,
                endpoint: self.store.health().endpoint,
                message: MESSAGE.into(),
            }),
            // Dropped only by a cut: then the outcome is unknown, as with a connection that broke.
            answer = answer => answer,
        }
    }
}

#[async_trait]
impl Store for CutStore {
    fn kind(&self) -> &'static str {
        self.store.kind()
    }

    fn timing(&self) -> StoreTiming {
        self.store.timing()
    }

    async fn txn(&self, txn: Txn, timeout: Duration) -> Result<TxnAnswer, StoreError> {
        self.unless_cut("txn", self.store.txn(txn, timeout)).await
    }

    async fn get(&self, get: Get, timeout: Duration) -> Result<GetAnswer, StoreError> {
        self.unless_cut("get", self.store.get(get, timeout)).await
    }

    async fn grant(
        &self,
        lease: LeaseId,
        ttl: Duration,
        timeout: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        self.unless_cut("grant", self.store.grant(lease, ttl, timeout)).await
    }

    async fn revoke(&self, lease: LeaseId, timeout: Duration) -> Result<LeaseAnswer, StoreError> {
        self.unless_cut("revoke", self.store.revoke(lease, timeout)).await
    }

    async fn keep_alive(
        &self,
        lease: LeaseId,
        timeout: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        self.unless_cut("keep_alive", self.store.keep_alive(lease, timeout)).await
    }

    async fn watch(
        &self,
        request: WatchRequest,
        timeout: Duration,
    ) -> Result<Box<dyn Watch>, StoreError> {
        let watch = self.unless_cut("watch", self.store.watch(request, timeout)).await?;
        Ok(Box::new(CutWatch { watch, cut: self.cut.clone() }))
    }

    fn health(&self) -> Health {
        self.store.health()
    }

    fn avoid_current(&self) {
        self.store.avoid_current();
    }

    async fn failed(&self) -> String {
        self.store.failed().await
    }
}

struct CutWatch {
    watch: Box<dyn Watch>,
    cut: Cut,
}

fn broken() -> StoreError {
    StoreError::Broken { endpoint: String::new(), message: MESSAGE.into() }
}

#[async_trait]
impl Watch for CutWatch {
    async fn next(&mut self) -> Result<WatchItem, StoreError> {
        tokio::select! {
            biased;
            // Cancel safe: only waits.
            () = self.cut.begun() => Err(broken()),
            // Cancel safe, as the trait requires.
            item = self.watch.next() => item,
        }
    }

    async fn request_progress(&mut self) -> Result<(), StoreError> {
        if self.cut.is_on() {
            return Err(broken());
        }
        self.watch.request_progress().await
    }
}
