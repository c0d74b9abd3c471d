//! The reconciler that users write, and its results.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::Context;

/// Brings one object to the state that its spec describes.
///
/// A reconciler is *level-triggered*: it is not given the change, reads the current state, and may be run at
/// any time, any number of times. Two reconciles of one object never run at the same time, in the whole cluster.
///
/// Closures `Fn(Arc<K>, Context) -> impl Future<Output = Result<Action, ReconcileError>>` are reconcilers.
///
/// # Cancel safety
///
/// A run is dropped at an await when it exceeds its time limit, or when its authority ends and it does not
/// return by itself. Writes of that run remain; the next run must continue from that state.
#[async_trait]
pub trait Reconciler<K>: Send + Sync + 'static {
    /// Reconciles one object, as the cache has it.
    ///
    /// # Errors
    ///
    /// Any error; it is logged and counted, and the object is reconciled again after a back-off, unless the
    /// error is [terminal](ReconcileError::terminal).
    async fn reconcile(&self, object: Arc<K>, ctx: Context) -> Result<Action, ReconcileError>;
}

#[async_trait]
impl<K, F, Fut> Reconciler<K> for F
where
    K: Send + Sync + 'static,
    F: Fn(Arc<K>, Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Action, ReconcileError>> + Send,
{
    async fn reconcile(&self, object: Arc<K>, ctx: Context) -> Result<Action, ReconcileError> {
        self(object, ctx).await
    }
}

/// When to reconcile an object again after a successful run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Action {
    requeue_after: Option<Duration>,
}

impl Action {
    /// Reconciles the object again only after a change.
    pub const fn done() -> Self {
        Self { requeue_after: None }
    }

    /// Reconciles the object again after `delay`, or earlier after a change.
    pub const fn requeue_after(delay: Duration) -> Self {
        Self { requeue_after: Some(delay) }
    }

    pub(crate) const fn delay(self) -> Option<Duration> {
        self.requeue_after
    }
}

/// Error of a failed run. The operator `?` converts every error into one.
pub struct ReconcileError {
    source: Box<dyn std::error::Error + Send + Sync>,
    is_terminal: bool,
}

impl ReconcileError {
    /// Creates an error that a retry cannot fix: the object is not reconciled until it changes.
    pub fn terminal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { source: source.into(), is_terminal: true }
    }

    /// Creates an error from another error or from text.
    pub fn new(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { source: source.into(), is_terminal: false }
    }

    /// Whether a retry cannot fix this error.
    pub fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// The error that the run failed with.
    pub fn source(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.source
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for ReconcileError {
    fn from(source: E) -> Self {
        Self::new(source)
    }
}

impl fmt::Debug for ReconcileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReconcileError")
            .field("source", &self.source)
            .field("is_terminal", &self.is_terminal)
            .finish()
    }
}
