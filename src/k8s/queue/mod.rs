//! The work queue of a controller: which keys wait to be reconciled, in which order, and at which time.
//!
//! A queue is independent of Kubernetes. Each key has one entry, however often that key is added. The queue
//! hands out the most urgent key first, and never hands out a key that a worker holds: if that key is added
//! meanwhile, it is queued when the work on it ends. So the length of a queue is bounded by the number of keys.
//!
//! ```
//! # use bellwether::k8s::queue::{Priority, Queue, QueueOptions};
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let queue = Queue::new(QueueOptions::default());
//! queue.add("web", Priority::Resync);
//! queue.add("db", Priority::Change);
//! queue.add("web", Priority::Resync);
//! let taken = queue.take().await.expect("it is not shut down");
//! assert_eq!(*taken.key(), "db");
//! taken.done();
//! assert_eq!(queue.len(), 1);
//! # });
//! ```

mod core;
mod lanes;
mod limits;
mod metrics;
mod priority;
mod slots;
mod taken;
mod tally;

use std::{
    fmt,
    hash::{BuildHasher as _, Hash, RandomState},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use tokio::{sync::Notify, time::sleep};

use self::core::{Core, Take, Wake};
pub use self::{
    limits::{Backoff, Bucket, Limits},
    metrics::QueueMetrics,
    priority::Priority,
    taken::Taken,
    tally::{Depth, Snapshot, Times},
};
use crate::{clock, engine::BootTime};

/// Entries that `retain` checks while it holds the lock.
const RETAIN_STEP: u32 = 1024;

/// Options of a new queue.
#[derive(Clone, Debug)]
pub struct QueueOptions {
    limits: Limits,
    gate: Gate,
    clock: fn() -> BootTime,
    shown: Option<(QueueMetrics, Box<str>)>,
}

impl Default for QueueOptions {
    /// An open gate, [`Limits::default`], this machine's boot clock, no metrics.
    fn default() -> Self {
        Self { limits: Limits::default(), gate: Gate::Open, clock: clock::boot_now, shown: None }
    }
}

impl QueueOptions {
    /// Sets the limits for keys that are added with a rate limit.
    #[must_use]
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Sets whether the queue starts with an open gate.
    #[must_use]
    pub fn gate(self, gate: Gate) -> Self {
        Self { gate, ..self }
    }

    /// Sets the clock. The clock must not lag behind tokio's when a sleep ends.
    #[must_use]
    pub fn clock(self, clock: fn() -> BootTime) -> Self {
        Self { clock, ..self }
    }
}

/// Whether a queue hands out keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// The queue hands out keys.
    Open,
    /// The queue only fills.
    Closed,
}

/// How a shutdown treats the keys that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutDown {
    /// Ready keys are still handed out, as are keys that were added again, before the shutdown, while a
    /// worker held them. Delayed keys are dropped.
    Drain,
    /// All waiting keys are dropped.
    Drop,
}

/// A queue of keys to be worked on. Clones share one queue.
///
/// # Invariants
///
/// - No key is handed out while a worker holds it, until its [`Taken`] is done or dropped.
/// - The most urgent ready key goes first; keys of one priority go in the order in which they reached that priority.
/// - No key is handed out before its time, and no key is lost: an added key is eventually handed out, unless
///   [`Self::retain`] or [`Self::shut_down`] has dropped it.
pub struct Queue<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<K> fmt::Debug for Queue<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

impl<K: Hash + Eq + Clone + Send + 'static> Queue<K> {
    /// Creates an empty queue.
    pub fn new(options: QueueOptions) -> Self {
        let QueueOptions { limits, gate, clock, shown } = options;
        let inner = Inner {
            core: Core::new(limits, gate == Gate::Open),
            has_keeper: false,
            is_settling: false,
        };
        let shared = Arc::new(Shared {
            inner: Mutex::new(inner),
            hasher: RandomState::new(),
            clock,
            jitters: limits.backoff.jitter != 0.0,
            ready: Notify::new(),
            sooner: Notify::new(),
            settled: Notify::new(),
        });
        if let Some((metrics, name)) = shown {
            metrics.show(name, &shared);
        }
        Self { shared }
    }
}

impl<K: Hash + Eq + Clone> Queue<K> {
    /// Adds a key.
    ///
    /// A key that already waits keeps its entry, with the more urgent of both priorities. A key that a worker
    /// holds is queued when that work ends. After [`Self::shut_down`] the queue accepts no keys.
    pub fn add(&self, key: K, priority: Priority) {
        self.add_after(key, Duration::ZERO, priority);
    }

    /// As [`Self::add`], after a delay. If a key is added with several delays, the earliest time counts.
    pub fn add_after(&self, key: K, delay: Duration, priority: Priority) {
        let (now, hash) = (self.shared.now(), self.shared.hash(&key));
        self.shared.change(|core| core.add(now, key, hash, priority, delay));
    }

    /// As [`Self::add_after`], after the key's back-off and a token: see [`Limits`]. Each call makes the next
    /// back-off longer, until the key is forgotten.
    pub fn add_rate_limited(&self, key: K, priority: Priority) {
        let (now, hash) = (self.shared.now(), self.shared.hash(&key));
        let draw = self.shared.draw();
        self.shared.change(|core| core.add_rate_limited(now, key, hash, priority, draw));
    }

    /// Resets the failure count of a key, so that its next back-off is the first one. The key stays queued.
    pub fn forget(&self, key: &K) {
        let hash = self.shared.hash(key);
        self.shared.lock().core.forget(key, hash);
    }

    /// How often a key was added with a rate limit since it was forgotten; counted up to 65,535.
    pub fn requeues(&self, key: &K) -> u32 {
        let hash = self.shared.hash(key);
        self.shared.lock().core.failures(key, hash)
    }

    /// Waits for the next key: until one is ready and the gate is open. Returns `None` if the queue has been
    /// shut down and will hand out no more keys.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped future has taken no key.
    pub async fn take(&self) -> Option<Taken<K>> {
        let mut keeper = None;
        loop {
            if let Poll::Ready(taken) = self.shared.try_take(&mut keeper) {
                return taken;
            }
            let mut woken = pin!(self.shared.ready.notified());
            // From here on, an added key wakes this future.
            woken.as_mut().enable();
            if let Poll::Ready(taken) = self.shared.try_take(&mut keeper) {
                return taken;
            }
            match &keeper {
                None => woken.await,
                // All arms are cancel safe: each only means that the queue should be checked again.
                Some(Keeper { until, .. }) => tokio::select! {
                    biased;
                    () = woken => {}
                    () = self.shared.sooner.notified() => {}
                    () = sleep(until.since(self.shared.now())) => {}
                },
            }
        }
    }

    /// The next key, if one is ready now and the gate is open.
    pub fn try_take(&self) -> Option<Taken<K>> {
        match self.shared.try_take(&mut None) {
            Poll::Ready(taken) => taken,
            Poll::Pending => None,
        }
    }

    /// Opens the gate. The cost does not depend on the number of waiting keys.
    pub fn open(&self) {
        self.shared.change(|core| core.set_open(true));
    }

    /// Closes the gate; the queue still accepts keys.
    ///
    /// A key that was handed out before this returns counts as being worked on; [`Self::settled`] waits for
    /// the end of that work.
    pub fn close(&self) {
        self.shared.change(|core| core.set_open(false));
    }

    /// Waits until no worker holds a key. New work may begin immediately afterwards, if the gate is open.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: changes nothing.
    pub async fn settled(&self) {
        loop {
            let mut settled = pin!(self.shared.settled.notified());
            settled.as_mut().enable();
            {
                let mut inner = self.shared.lock();
                if inner.core.working() == 0 {
                    return;
                }
                inner.is_settling = true;
            }
            settled.await;
        }
    }

    /// Permanently stops accepting keys. Each [`Self::take`] that gets no key returns `None`, either
    /// immediately or when the last key has been handed out; with a closed gate immediately.
    pub fn shut_down(&self, how: ShutDown) {
        self.shared.change(|core| core.shut_down(how));
    }

    /// Drops the keys that `keep` rejects, with their failure counts. A key that a worker holds stays with
    /// that worker, but is not queued again.
    ///
    /// The lock is released between steps, so that others can use the queue meanwhile. A key that is added
    /// before this returns may therefore remain although `keep` would reject it. `keep` must not use the queue.
    pub fn retain(&self, mut keep: impl FnMut(&K) -> bool) {
        let mut from = Some(0);
        while let Some(at) = from {
            from = self.shared.lock().core.retain(at, RETAIN_STEP, &mut keep);
        }
    }

    /// Number of keys that are ready, or will be ready when the work on them ends.
    pub fn len(&self) -> usize {
        self.shared.lock().core.waiting() as usize
    }

    /// Whether [`Self::len`] is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The state of the queue now: depth and age by priority, unfinished work, and all counts.
    pub fn snapshot(&self) -> Snapshot {
        let now = self.shared.now();
        self.shared.lock().core.snapshot(now)
    }
}

/// The state that all clones of a queue share.
struct Shared<K> {
    inner: Mutex<Inner<K>>,
    hasher: RandomState,
    clock: fn() -> BootTime,
    jitters: bool,
    /// Notifies workers of a ready key, or of a timer that needs a keeper.
    ready: Notify,
    /// Notifies the keeper that the first due time has changed.
    sooner: Notify,
    /// Notifies `Queue::settled` that no worker holds a key.
    settled: Notify,
}

struct Inner<K> {
    core: Core<K>,
    /// Whether one of the waiting workers sleeps until the first due time: one timer is enough.
    has_keeper: bool,
    /// Whether a call of `Queue::settled` waits.
    is_settling: bool,
}

impl<K> Shared<K> {
    fn lock(&self) -> MutexGuard<'_, Inner<K>> {
        // Only the key's own comparison can panic under this lock, and it runs before any change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> BootTime {
        (self.clock)()
    }

    fn draw(&self) -> f64 {
        if self.jitters { rand::random() } else { 0.0 }
    }

    fn wake(&self, wake: Wake, has_keeper: bool) {
        match wake {
            Wake::Nobody => {}
            Wake::Timer if has_keeper => self.sooner.notify_one(),
            Wake::Worker | Wake::Timer => self.ready.notify_one(),
            Wake::All => self.ready.notify_waiters(),
        }
    }
}

impl<K: Hash + Eq + Clone> Shared<K> {
    // 32 bits are enough to distinguish most of four billion keys.
    fn hash(&self, key: &K) -> u32 {
        self.hasher.hash_one(key) as u32
    }

    fn change(&self, change: impl FnOnce(&mut Core<K>) -> Wake) {
        let mut inner = self.lock();
        let wake = change(&mut inner.core);
        let has_keeper = inner.has_keeper;
        drop(inner);
        self.wake(wake, has_keeper);
    }

    /// As [`Self::change`], for a change that may end work.
    fn finish(&self, change: impl FnOnce(&mut Core<K>) -> Wake) {
        let mut inner = self.lock();
        let wake = change(&mut inner.core);
        let has_keeper = inner.has_keeper;
        let is_settled = inner.is_settling && inner.core.working() == 0;
        inner.is_settling &= !is_settled;
        drop(inner);
        self.wake(wake, has_keeper);
        if is_settled {
            self.settled.notify_waiters();
        }
    }

    /// Returns a key, or `None` if there will be no more keys; pending if the caller should wait. In the
    /// pending case the caller becomes the keeper of the first due time, if there is one without a keeper.
    fn try_take(self: &Arc<Self>, keeper: &mut Option<Keeper<K>>) -> Poll<Option<Taken<K>>> {
        let now = self.now();
        let mut inner = self.lock();
        match inner.core.take(now) {
            Take::Key(handed) => {
                let wake = if inner.core.is_over() {
                    Wake::All
                } else if inner.core.has_ready()
                    || inner.core.has_timers() && !inner.has_keeper && keeper.is_none()
                {
                    // The worker that we just woke takes the key, so wake another one for the remaining keys
                    // or the timer.
                    Wake::Worker
                } else {
                    Wake::Nobody
                };
                drop(inner);
                self.wake(wake, false);
                Poll::Ready(Some(Taken::new(handed, Arc::clone(self))))
            }
            Take::Over => Poll::Ready(None),
            Take::Wait(None) => {
                drop(inner);
                *keeper = None;
                Poll::Pending
            }
            Take::Wait(Some(until)) => {
                match keeper {
                    Some(keeper) => keeper.until = until,
                    None if !inner.has_keeper => {
                        inner.has_keeper = true;
                        *keeper = Some(Keeper { until, shared: Arc::clone(self) });
                    }
                    None => {}
                }
                Poll::Pending
            }
        }
    }
}

/// Sleeps until the first due time on behalf of all waiting workers. When dropped, passes this duty to another.
struct Keeper<K: Hash + Eq + Clone> {
    until: BootTime,
    shared: Arc<Shared<K>>,
}

impl<K: Hash + Eq + Clone> Drop for Keeper<K> {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        inner.has_keeper = false;
        let has_timers = inner.core.has_timers();
        drop(inner);
        if has_timers {
            self.shared.ready.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
