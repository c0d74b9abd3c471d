//! Named tasks whose handles are kept.

use std::{any::Any, collections::HashMap, fmt, future::Future};

use tokio::task::{AbortHandle, Id, JoinError, JoinHandle, JoinSet};
use tracing::Instrument as _;

/// Spawns named tasks and keeps their handles; dropping it aborts what still runs.
#[derive(Debug, Default)]
pub struct Tasks {
    set: JoinSet<()>,
    /// Names of the tasks that have not been joined.
    names: HashMap<Id, &'static str>,
}

/// End of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The task returned by itself.
    Returned(&'static str),
    /// The task was aborted, or its runtime has shut down.
    Aborted(&'static str),
    /// The task ended by a panic.
    Panicked {
        /// Name of the task.
        name: &'static str,
        /// Message of the panic.
        message: String,
    },
}

/// Message for the owner of a task that should not have ended.
impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Returned(name) => write!(f, "task `{name}` ended unasked"),
            Self::Aborted(name) => write!(f, "task `{name}` was aborted"),
            Self::Panicked { name, message } => write!(f, "task `{name}` panicked: {message}"),
        }
    }
}

impl Ended {
    fn of(name: &'static str, ended: Result<(), JoinError>) -> Self {
        match ended.map_err(JoinError::try_into_panic) {
            Ok(()) => Self::Returned(name),
            Err(Ok(panic)) => Self::Panicked { name, message: panic_message(panic.as_ref()) },
            Err(Err(_)) => Self::Aborted(name),
        }
    }
}

impl Tasks {
    /// Creates an empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns a task on the current runtime. The handle can abort the task; this set joins it.
    pub fn spawn<F>(&mut self, name: &'static str, future: F) -> AbortHandle
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = self.set.spawn(future.instrument(tracing::debug_span!("task", name)));
        self.names.insert(task.id(), name);
        task
    }

    /// Number of tasks that have not been joined.
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Whether all tasks have been joined.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Waits for the next task that ends; `None` if there are no tasks.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a task whose end was not returned is returned next time.
    pub async fn join_next(&mut self) -> Option<Ended> {
        let (id, ended) = match self.set.join_next_with_id().await? {
            Ok((id, ())) => (id, Ok(())),
            Err(error) => (error.id(), Err(error)),
        };
        let name = self.names.remove(&id).unwrap_or("unnamed");
        Some(Ended::of(name, ended))
    }

    /// Waits until all tasks have ended.
    pub async fn join_all(&mut self) {
        while self.join_next().await.is_some() {}
    }

    /// Aborts all tasks and waits until they have ended.
    pub async fn abort_all(&mut self) {
        self.set.shutdown().await;
        self.names.clear();
    }
}

/// Spawns one named task whose handle the caller keeps.
#[expect(clippy::disallowed_methods, reason = "the one place that spawns; the handle is returned")]
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future.instrument(tracing::debug_span!("task", name)))
}

/// Message of a panic, from the payload that `catch_unwind` or a join returned.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[tokio::test]
    async fn every_end_carries_the_name_of_its_task() {
        let mut tasks = Tasks::new();
        tasks.spawn("returns", async {});
        assert_eq!(tasks.join_next().await, Some(Ended::Returned("returns")));
        tasks.spawn("panics", async { panic!("on {}", "purpose") });
        let ended = tasks.join_next().await.unwrap();
        assert_eq!(ended, Ended::Panicked { name: "panics", message: "on purpose".into() });
        assert_eq!(ended.to_string(), "task `panics` panicked: on purpose");
        tasks.spawn("is aborted", std::future::pending()).abort();
        assert_eq!(tasks.join_next().await, Some(Ended::Aborted("is aborted")));
        assert_eq!(tasks.join_next().await, None);
        assert!(tasks.names.is_empty(), "the name of a joined task is forgotten");
    }

    /// Subscriber that counts the spans with the name `task`.
    struct Spans(Arc<AtomicUsize>);

    impl tracing::Subscriber for Spans {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            metadata.is_span() && metadata.name() == "task"
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            self.0.fetch_add(1, Ordering::Relaxed);
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, _: &tracing::Event<'_>) {}
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[tokio::test]
    async fn both_ways_to_spawn_run_the_task_in_a_span() {
        let spans = Arc::new(AtomicUsize::new(0));
        // With a single subscriber, a thread without it that opens a span first disables the span for all
        // threads.
        let _second = tracing::Dispatch::new(Spans(Arc::default()));
        let _logs = tracing::subscriber::set_default(Spans(Arc::clone(&spans)));
        tracing::callsite::rebuild_interest_cache();
        let mut tasks = Tasks::new();
        tasks.spawn("one", async {});
        tasks.join_all().await;
        spawn("other", async {}).await.unwrap();
        assert_eq!(spans.load(Ordering::Relaxed), 2);
    }
}
