//! The workers of a controller: take keys from its queue and run its reconciler.

use std::{num::NonZeroUsize, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{FutureExt as _, future::join_all};
use kube::Client;
use tokio::sync::Semaphore;

use super::{
    Context, Reconciler,
    assignments::{Assignment, Selection},
    enqueue::Enqueuer,
    metrics::OneController,
    reconcile::{Action, ReconcileError},
};
use crate::{
    causes::{causes, find},
    clock,
    k8s::{
        authority::{Authority, Refused, is_refused},
        cache::{Cached, Readable, Synced},
        explain::{Reason, explain},
        fence::Fence,
        key::ObjectKey,
        queue::{Priority, Taken},
        writes::WriteError,
    },
    metrics::Counted,
    node::AuthorityLost,
    tasks::panic_message,
    telemetry::sparing::Sparing,
};

#[cfg(test)]
mod tests;

/// Limits of a controller's runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) at_once: NonZeroUsize,
    pub(super) timeout: Duration,
    pub(super) resync_every: Option<Duration>,
}

/// A controller that is ready to run.
#[async_trait]
pub(crate) trait Runnable: Send + Sync {
    /// The name of the controller.
    fn name(&self) -> &str;

    /// The context of work under this authority.
    fn context(
        &self,
        authority: Authority,
        fence: Option<Fence>,
        client: &Client,
        readable: &Readable,
    ) -> Context;

    /// Starts runs under the current assignments, for as long as it is polled.
    async fn dispatch(self: Arc<Self>);

    /// Assigns a selection of objects to the controller until the token of the context is cancelled; returns
    /// when all runs under the assignment have been joined.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, its runs are aborted.
    async fn work(self: Arc<Self>, selection: Selection, context: Context);
}

/// The workers of one controller.
pub(super) struct WorkerPool<K: Cached> {
    pub(super) name: Arc<str>,
    pub(super) reconciler: Arc<dyn Reconciler<K>>,
    pub(super) objects: Arc<Enqueuer<K>>,
    /// The caches that must be synced before the controller works.
    pub(super) needs: Vec<Synced>,
    pub(super) limits: Limits,
    pub(super) metrics: OneController,
    places: Arc<Semaphore>,
    failures: Sparing<Option<Reason>>,
}

impl<K: Cached> WorkerPool<K> {
    pub(super) fn new(
        name: Arc<str>,
        reconciler: Arc<dyn Reconciler<K>>,
        objects: Arc<Enqueuer<K>>,
        needs: Vec<Synced>,
        limits: Limits,
        metrics: OneController,
    ) -> Self {
        let at_once = limits.at_once.get().min(Semaphore::MAX_PERMITS);
        metrics.most_at_once.set(i64::try_from(at_once).unwrap_or(i64::MAX));
        let (places, failures) = (Arc::new(Semaphore::new(at_once)), Sparing::default());
        Self { name, reconciler, objects, needs, limits, metrics, places, failures }
    }

    async fn one(&self, taken: Taken<ObjectKey>, object: Arc<K>, assignment: &Assignment) {
        let key = taken.key().clone();
        if assignment.context.check().is_err() {
            return;
        }
        let _active = Counted::new(&self.metrics.active_workers);
        let begun = clock::boot_now();
        let ended = self.guarded(object, assignment.context.child()).await;
        self.metrics.time.observe(clock::boot_now().since(begun).as_secs_f64());
        self.on_end(&key, taken.priority(), ended);
    }

    /// Runs the reconciler with its time limit, and converts a panic into an error.
    async fn guarded(&self, object: Arc<K>, ctx: Context) -> Result<Action, ReconcileError> {
        let _ending = ctx.ending();
        let run = AssertUnwindSafe(self.reconciler.reconcile(object, ctx)).catch_unwind();
        match tokio::time::timeout(self.limits.timeout, run).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(panic)) => {
                self.metrics.panics.inc();
                Err(ReconcileError::new(format!(
                    "the reconciler panicked: {}",
                    panic_message(&*panic)
                )))
            }
            Err(_) => {
                self.metrics.timeouts.inc();
                let timeout = self.limits.timeout;
                Err(ReconcileError::new(format!("took longer than {timeout:?} and was dropped")))
            }
        }
    }

    fn on_end(&self, key: &ObjectKey, priority: Priority, ended: Result<Action, ReconcileError>) {
        let (controller, object) = (&*self.name, key);
        match ended {
            Ok(action) => {
                self.objects.queue.forget(key);
                match action.delay() {
                    None => self.metrics.success.inc(),
                    Some(delay) => {
                        self.metrics.requeue_after.inc();
                        self.objects.queue.add_after(key.clone(), delay, priority);
                    }
                }
            }
            // The authority has ended: its next holder reconciles the object.
            Err(error) if is_authority_lost(&error) => {
                tracing::debug!(controller, %object, error = error.source(), "left to the next owner");
            }
            Err(error) if error.is_terminal() => {
                self.objects.queue.forget(key);
                self.metrics.on_error(true);
                tracing::error!(
                    controller, %object, error = error.source(),
                    "reconciling failed permanently, waiting for the object to change"
                );
            }
            // Another client wrote the object in between, which is common. The cache will have the new version soon.
            Err(error) if is_conflict(&error) => {
                self.metrics.requeue.inc();
                tracing::debug!(controller, %object, "the object has changed meanwhile: again");
                self.objects.queue.add_rate_limited(key.clone(), priority);
            }
            Err(error) => {
                self.metrics.on_error(false);
                let retries = self.objects.queue.requeues(key);
                // If the API server is away, every object fails at every attempt.
                if let Some(left_out) = self.failures.admit(reason(&error), clock::boot_now()) {
                    tracing::warn!(
                        controller, %object, retries, left_out, error = error.source(),
                        "reconciling failed, retrying after a back-off"
                    );
                }
                self.objects.queue.add_rate_limited(key.clone(), priority);
            }
        }
    }
}

#[async_trait]
impl<K: Cached> Runnable for WorkerPool<K> {
    fn name(&self) -> &str {
        &self.name
    }

    fn context(
        &self,
        authority: Authority,
        fence: Option<Fence>,
        client: &Client,
        readable: &Readable,
    ) -> Context {
        Context::new(&self.name, authority, fence, client, readable.clone(), self.metrics.clone())
    }

    async fn dispatch(self: Arc<Self>) {
        let objects = &self.objects;
        loop {
            // Waits for a free place before a key, so that the key is the most urgent one when its run starts.
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
            let Some(taken) = objects.queue.take().await else { return };
            // Uses one object for selection and run: its replacement in the cache may be in another shard.
            let object = objects.cache.get(taken.key());
            let selection =
                object.as_ref().and_then(|it| objects.selection_of(taken.key(), Some(it)));
            let assignment = selection.and_then(|it| objects.assignments.of(it));
            let (Some(object), Some(assignment)) = (object, assignment) else {
                objects.queue.forget(taken.key());
                continue;
            };
            let (pool, under) = (Arc::clone(&self), Arc::clone(&assignment));
            assignment.spawn(async move {
                let _place = place;
                pool.one(taken, object, &under).await;
            });
        }
    }

    async fn work(self: Arc<Self>, selection: Selection, context: Context) {
        let (objects, token) = (&self.objects, context.token());
        // Dropped last, when all runs have ended.
        let held = objects.hold(selection);
        let assigned = tokio::select! {
            biased;
            // Cancel safe: waits for a token. If the other arm is dropped, nothing was assigned.
            () = token.cancelled() => return,
            assigned = async {
                join_all(self.needs.iter().map(Synced::wait)).await;
                if let Some(held) = &held {
                    held.listed().await;
                }
                objects.assignments.assign(selection, context.clone()).await
            } => assigned,
        };
        let _open = Counted::new(&self.metrics.gate_open);
        objects.add_all(selection, &token).await;
        let resync_every = self.limits.resync_every.unwrap_or(Duration::MAX);
        while tokio::time::timeout(resync_every, token.cancelled()).await.is_err() {
            objects.add_all(selection, &token).await;
        }
        let begun = clock::boot_now();
        let mut runs = assigned.close();
        // Waiting keys are left to the next owner. New changes find no assignment and are not queued.
        objects.remove_all(selection);
        while runs.join_next().await.is_some() {}
        context.end().await;
        self.metrics.gate_close_seconds.observe(clock::boot_now().since(begun).as_secs_f64());
    }
}

/// Whether a run failed because its authority had ended.
fn is_authority_lost(error: &ReconcileError) -> bool {
    causes(error.source()).any(|it| {
        it.is::<AuthorityLost>()
            || it.is::<Refused>()
            || it.downcast_ref::<kube::Error>().is_some_and(is_refused)
    })
}

/// The kind of API failure that a run failed with, if any.
fn reason(error: &ReconcileError) -> Option<Reason> {
    find(error.source()).map(|it| explain(it).reason)
}

/// Whether a run failed because the object had changed since it was observed.
fn is_conflict(error: &ReconcileError) -> bool {
    causes(error.source()).any(|it| matches!(it.downcast_ref(), Some(WriteError::Conflict { .. })))
}
