//! What users write: how one object is brought to what it should be.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::Context;

/// Brings one object to what its spec says.
///
/// It is *level-triggered*: it is not told what happened, looks at what is, and may be run at any time, any
/// number of times. One object is never reconciled twice at once, in the whole cluster.
///
/// Closures `Fn(Arc<K>, Context) -> impl Future<Output = Result<Action, ReconcileError>>` are reconcilers.
///
/// # Cancel safety
///
/// A run is dropped at an await when it takes too long, or when the right to act ends and it does not
/// return by itself. What it has written stands; the next run must find its way from there.
#[async_trait]
pub trait Reconciler<K>: Send + Sync + 'static {
    /// One run for one object, as the cache has it.
    ///
    /// # Errors
    ///
    /// Anything; it is logged and counted, and the object is reconciled again after a back-off, unless the
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

/// What is to be done about an object after a run that went well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Action {
    requeue_after: Option<Duration>,
}

impl Action {
    /// Nothing until something changes.
    pub const fn done() -> Self {
        Self { requeue_after: None }
    }

    /// Again after this long, or earlier if something changes.
    pub const fn requeue_after(delay: Duration) -> Self {
        Self { requeue_after: Some(delay) }
    }

    pub(crate) const fn delay(self) -> Option<Duration> {
        self.requeue_after
    }
}

/// A run that failed. Every error becomes one by `?`.
pub struct ReconcileError {
    source: Box<dyn std::error::Error + Send + Sync>,
    is_terminal: bool,
}

impl ReconcileError {
    /// Trying again cannot mend it: the object is left alone until it changes.
    pub fn terminal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { source: source.into(), is_terminal: true }
    }

    /// A failure in words.
    pub fn new(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { source: source.into(), is_terminal: false }
    }

    /// Whether trying again cannot mend it.
    pub fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// What went wrong.
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
