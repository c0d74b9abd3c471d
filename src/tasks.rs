//! Tasks with names, whose handles are kept.

use std::{fmt, future::Future};

use tokio::task::{JoinHandle, JoinSet};

/// Spawns named tasks and keeps their handles; dropping it aborts what still runs.
#[derive(Debug, Default)]
pub struct Tasks {
    set: JoinSet<&'static str>,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It returned.
    Returned(&'static str),
    /// It panicked or was aborted; what it said.
    Failed(String),
}

/// As it is said where none should have ended.
impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Returned(name) => write!(f, "task `{name}` ended unasked"),
            Self::Failed(why) => write!(f, "a task failed: {why}"),
        }
    }
}

impl Tasks {
    /// No tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns a task on the current runtime.
    pub fn spawn<F>(&mut self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.set.spawn(async move {
            future.await;
            name
        });
    }

    /// How many have not been joined.
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Whether all have been joined.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// The next one that ends; `None` if there are none.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a task whose end was not returned is returned next time.
    pub async fn join_next(&mut self) -> Option<Ended> {
        match self.set.join_next().await? {
            Ok(name) => Some(Ended::Returned(name)),
            Err(error) => Some(Ended::Failed(error.to_string())),
        }
    }

    /// Waits until all have ended.
    pub async fn join_all(&mut self) {
        while self.join_next().await.is_some() {}
    }

    /// Aborts all and waits until they have ended.
    pub async fn abort_all(&mut self) {
        self.set.shutdown().await;
    }
}

/// Spawns one named task whose handle the caller keeps.
#[expect(clippy::disallowed_methods, reason = "the one place that spawns; the handle is returned")]
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    use tracing::Instrument as _;
    tokio::spawn(future.instrument(tracing::debug_span!("task", name)))
}
