//! The loop of a controller: takes keys from its queue and runs its reconciler.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::{
    FutureExt as _,
    future::{BoxFuture, join_all},
};
use kube::Client;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    Context, Readable, Reconciler,
    builder::Limits,
    grants::{Grant, Grants, Lane},
    metrics::{ControllerMetrics, OneController},
    reconcile::{Action, ReconcileError},
};
use crate::{
    clock,
    k8s::{
        authority::{Authority, Refused, is_refused},
        cache::{Cache, CacheSet, Cached, HeldShards, Wanted},
        explain::{Reason, explain},
        fence::Fence,
        key::ObjectKey,
        queue::{Priority, Queue, QueueMetrics, Taken},
        shard::{fnv1a, shard_of_hash},
        writes::WriteError,
    },
    node::AuthorityLost,
    telemetry::sparing::Sparing,
};

#[cfg(test)]
mod tests;

/// Keys that are queued between two checks of the authority: less than a millisecond of work.
const ADDED_AT_ONCE: usize = 1024;

/// State that the controllers of a process share during setup.
pub(crate) struct Setup<'a> {
    pub(crate) caches: &'a mut CacheSet,
    pub(crate) readable: &'a mut Readable,
    pub(crate) metrics: &'a ControllerMetrics,
    pub(crate) queues: &'a QueueMetrics,
}

/// Authority of a controller's work, and the lane that it covers.
#[derive(Clone)]
pub(crate) struct Right {
    pub(crate) lane: Lane,
    pub(crate) authority: Authority,
    pub(crate) fence: Option<Fence>,
    pub(crate) client: Client,
    pub(crate) readable: Readable,
}

/// A controller that has been set up.
#[async_trait]
pub(crate) trait Loop: Send + Sync {
    /// The name of the controller.
    fn name(&self) -> &str;

    /// Starts runs under the current grants, for as long as it is polled.
    async fn dispatch(self: Arc<Self>);

    /// Grants the controller a lane until the authority's token is cancelled; returns when all its runs have
    /// been joined.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, its runs are aborted.
    async fn work(self: Arc<Self>, right: Right);
}

/// A cache that a controller needs, with its type erased.
trait Needed: Send + Sync {
    /// Resolves when the cache is synced.
    fn synced(&self) -> BoxFuture<'_, ()>;
}

impl<C: Cached> Needed for Cache<C> {
    fn synced(&self) -> BoxFuture<'_, ()> {
        Box::pin(Cache::synced(self))
    }
}

/// State of one controller.
pub(crate) struct Desk<K: Cached> {
    name: Arc<str>,
    reconciler: Arc<dyn Reconciler<K>>,
    cache: Cache<K>,
    limits: Limits,
    /// The shards that are held here, if the controller is sharded.
    held: Option<Arc<HeldShards>>,
    queue: Queue<ObjectKey>,
    grants: Arc<Grants>,
    /// Grows only during setup.
    needs: Mutex<Vec<Arc<dyn Needed>>>,
    places: Arc<Semaphore>,
    metrics: OneController,
    failures: Sparing<Option<Reason>>,
}

impl<K: Cached> Desk<K> {
    pub(super) fn new(
        name: Arc<str>,
        reconciler: Arc<dyn Reconciler<K>>,
        cache: Cache<K>,
        limits: Limits,
        held: Option<Arc<HeldShards>>,
        setup: &Setup<'_>,
    ) -> Self {
        let metrics = setup.metrics.of(&name);
        let at_once = limits.at_once.get().min(Semaphore::MAX_PERMITS);
        metrics.most_at_once.set(i64::try_from(at_once).unwrap_or(i64::MAX));
        Self {
            reconciler,
            cache,
            limits,
            held,
            queue: Queue::new(setup.queues.queue(&name)),
            grants: Arc::default(),
            needs: Mutex::default(),
            places: Arc::new(Semaphore::new(at_once)),
            metrics,
            failures: Sparing::default(),
            name,
        }
    }

    /// Makes the controller wait for this cache before it works.
    pub(super) fn needs<C: Cached>(&self, cache: &Cache<C>) {
        let cache: Arc<dyn Needed> = Arc::new(cache.clone());
        self.needs.lock().unwrap_or_else(PoisonError::into_inner).push(cache);
    }

    /// Queues an object that has changed, or that depends on a changed object.
    pub(super) fn on_change(&self, key: ObjectKey, object: Option<&Arc<K>>, priority: Priority) {
        if self.lane_of(&key, object).is_some_and(|lane| self.grants.has(lane)) {
            self.queue.add(key, priority);
        }
    }

    /// The lane of an object; `None` if the object is not cached here and its shard is therefore not known.
    fn lane_of(&self, key: &ObjectKey, object: Option<&Arc<K>>) -> Option<Lane> {
        let Some(held) = &self.held else { return Some(Lane::All) };
        let uid = |object: &K| object.meta().uid.as_ref().map(|uid| fnv1a(uid.as_bytes()));
        let hash = match object {
            Some(object) => uid(object),
            None => self.cache.get(key).and_then(|object| uid(&object)),
        }?;
        Some(Lane::Shard(shard_of_hash(hash, held.count())))
    }

    fn is_in(&self, lane: Lane, key: &ObjectKey) -> bool {
        lane == Lane::All || self.lane_of(key, None).is_none_or(|it| it == lane)
    }

    fn needed(&self) -> Vec<Arc<dyn Needed>> {
        self.needs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a sharded cache hold the objects of this lane.
    fn want(&self, lane: Lane) -> Option<Wanted> {
        match (lane, &self.held) {
            (Lane::Shard(shard), Some(held)) => Some(held.want(shard)),
            _ => None,
        }
    }

    /// Queues all objects of a lane with the priority of a resync. Stops when the work should end: many
    /// objects would delay the hand-over.
    async fn add_all(&self, lane: Lane, token: &CancellationToken) {
        let mut keys = self.cache.keys().into_iter();
        while keys.len() > 0 && !token.is_cancelled() {
            for key in keys.by_ref().take(ADDED_AT_ONCE) {
                if self.is_in(lane, &key) {
                    self.queue.add(key, Priority::Resync);
                }
            }
            tokio::task::yield_now().await;
        }
    }

    async fn one(&self, taken: Taken<ObjectKey>, object: Arc<K>, grant: &Grant) {
        let key = taken.key().clone();
        if grant.context.check().is_err() {
            return;
        }
        self.metrics.active_workers.inc();
        let _active = Active(&self.metrics);
        let begun = clock::boot_now();
        let ended = self.guarded(object, grant.context.child()).await;
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
                Err(ReconcileError::new(format!("the reconciler panicked: {}", words(&*panic))))
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
                self.queue.forget(key);
                match action.delay() {
                    None => self.metrics.success.inc(),
                    Some(delay) => {
                        self.metrics.requeue_after.inc();
                        self.queue.add_after(key.clone(), delay, priority);
                    }
                }
            }
            // The authority has ended: its next holder reconciles the object.
            Err(error) if is_for_want_of_right(&error) => {
                tracing::debug!(controller, %object, error = error.source(), "left to the next owner");
            }
            Err(error) if error.is_terminal() => {
                self.queue.forget(key);
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
                self.queue.add_rate_limited(key.clone(), priority);
            }
            Err(error) => {
                self.metrics.on_error(false);
                let retries = self.queue.requeues(key);
                // If the API server is away, every object fails at every attempt.
                if let Some(left_out) = self.failures.admit(reason(&error), clock::boot_now()) {
                    tracing::warn!(
                        controller, %object, retries, left_out, error = error.source(),
                        "reconciling failed, retrying after a back-off"
                    );
                }
                self.queue.add_rate_limited(key.clone(), priority);
            }
        }
    }
}

#[async_trait]
impl<K: Cached> Loop for Desk<K> {
    fn name(&self) -> &str {
        &self.name
    }

    async fn dispatch(self: Arc<Self>) {
        loop {
            // Waits for a free place before a key, so that the key is the most urgent one when its run starts.
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
            let Some(taken) = self.queue.take().await else { return };
            // Uses one object for lane and run: its replacement in the cache may be in another shard.
            let object = self.cache.get(taken.key());
            let lane = object.as_ref().and_then(|it| self.lane_of(taken.key(), Some(it)));
            let (Some(object), Some(grant)) = (object, lane.and_then(|it| self.grants.of(it)))
            else {
                self.queue.forget(taken.key());
                continue;
            };
            let desk = Arc::clone(&self);
            let held = Arc::clone(&grant);
            grant.spawn(async move {
                let _place = place;
                desk.one(taken, object, &held).await;
            });
        }
    }

    async fn work(self: Arc<Self>, right: Right) {
        let Right { lane, authority, fence, client, readable } = right;
        let token = authority.token();
        let context =
            Context::new(&self.name, authority, fence, &client, readable, self.metrics.clone());
        let ending = context.clone();
        // Dropped last, when all runs have ended.
        let wanted = self.want(lane);
        let needed = self.needed();
        let hold = tokio::select! {
            biased;
            // Cancel safe: waits for a token. If the other arm is dropped, no grant was made.
            () = token.cancelled() => return,
            hold = async {
                join_all(needed.iter().map(|cache| cache.synced())).await;
                if let Some(wanted) = &wanted {
                    wanted.covered().await;
                }
                self.grants.hold(lane, context).await
            } => hold,
        };
        self.metrics.gate_open.inc();
        let _gate = Gate(&self.metrics);
        self.add_all(lane, &token).await;
        let resync_every = self.limits.resync_every.unwrap_or(Duration::MAX);
        while tokio::time::timeout(resync_every, token.cancelled()).await.is_err() {
            self.add_all(lane, &token).await;
        }
        let begun = clock::boot_now();
        let closed = hold.close();
        // Waiting keys are left to the next owner. New changes find no grant and are not queued.
        self.queue.retain(|key| !self.is_in(lane, key));
        closed.joined().await;
        ending.end().await;
        self.metrics.gate_close_seconds.observe(clock::boot_now().since(begun).as_secs_f64());
    }
}

struct Active<'a>(&'a OneController);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.active_workers.dec();
    }
}

struct Gate<'a>(&'a OneController);

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        self.0.gate_open.dec();
    }
}

/// Whether a run failed because its authority had ended.
fn is_for_want_of_right(error: &ReconcileError) -> bool {
    causes(error).any(|it| {
        it.is::<AuthorityLost>()
            || it.is::<Refused>()
            || it.downcast_ref::<kube::Error>().is_some_and(is_refused)
    })
}

/// The kind of API failure that a run failed with, if any.
fn reason(error: &ReconcileError) -> Option<Reason> {
    causes(error).find_map(|it| it.downcast_ref::<kube::Error>()).map(|it| explain(it).reason)
}

/// Whether a run failed because the object had changed since it was observed.
fn is_conflict(error: &ReconcileError) -> bool {
    causes(error).any(|it| matches!(it.downcast_ref(), Some(WriteError::Conflict { .. })))
}

fn causes(error: &ReconcileError) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let first: &(dyn std::error::Error + 'static) = error.source();
    std::iter::successors(Some(first), |it| it.source())
}

/// The message of a panic.
fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&'static str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no words)")
}
