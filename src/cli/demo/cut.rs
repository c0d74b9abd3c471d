//! A store whose user can be cut off, as by the death of its process: no more calls reach the store, and no
//! answers or events reach the user.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::{
    engine::{LeaseId, StoreTiming},
    store::{
        Get, GetAnswer, Health, LeaseAnswer, Store, StoreError, Txn, TxnAnswer, Watch, WatchItem,
        WatchRequest,
    },
};

/// Store that can be cut off; see the module's docs.
#[derive(Debug)]
pub(crate) struct CutStore {
    store: Arc<dyn Store>,
    cut: CancellationToken,
}

impl CutStore {
    /// Wraps the store, until `cut` is cancelled.
    pub(crate) fn new(store: Arc<dyn Store>, cut: CancellationToken) -> Self {
        Self { store, cut }
    }

    async fn unless_cut<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        tokio::select! {
            biased;
            // Cancel safe: cancellation token.
            () = self.cut.cancelled() => Err(StoreError::Unreachable {
                call,
                endpoint: self.store.health().endpoint,
                message: "cut off, as if the process had died".into(),
            }),
            // Dropped only after the cut, when the answer no longer matters.
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
    cut: CancellationToken,
}

fn broken() -> StoreError {
    StoreError::Broken {
        endpoint: String::new(),
        message: "cut off, as if the process had died".into(),
    }
}

#[async_trait]
impl Watch for CutWatch {
    async fn next(&mut self) -> Result<WatchItem, StoreError> {
        tokio::select! {
            biased;
            // Cancel safe: cancellation token.
            () = self.cut.cancelled() => Err(broken()),
            // Cancel safe, as the trait requires.
            item = self.watch.next() => item,
        }
    }

    async fn request_progress(&mut self) -> Result<(), StoreError> {
        if self.cut.is_cancelled() {
            return Err(broken());
        }
        self.watch.request_progress().await
    }
}
