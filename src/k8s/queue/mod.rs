//! The work queue of a controller: which keys wait to be reconciled, in which order, and when again.
//!
//! A queue knows nothing of Kubernetes. It has one entry for each key, however often that is added, hands
//! out the most urgent one first, and never hands out one that somebody works on: what is added meanwhile
//! is queued again when that work is done. So its length is bounded by the number of keys there are.
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

/// Places that are looked at in one go while nobody else can use the queue.
const RETAIN_STEP: u32 = 1024;

/// How a queue is made.
#[derive(Clone, Debug)]
pub struct QueueOptions {
    /// How keys are held back that are added with a limit.
    pub limits: Limits,
    /// Whether keys are handed out from the beginning. They are.
    pub gate: Gate,
    /// The clock. [`clock::boot_now`].
    pub clock: fn() -> BootTime,
    shown: Option<(QueueMetrics, Box<str>)>,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self { limits: Limits::default(), gate: Gate::Open, clock: clock::boot_now, shown: None }
    }
}

/// Whether a queue hands out anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// It does.
    Open,
    /// It only fills.
    Closed,
}

/// What happens to what waits when a queue is shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutDown {
    /// Ready keys are still handed out, and those whose key is added again while it is worked on was so
    /// before the end. Delayed ones are dropped.
    Drain,
    /// Everything is dropped.
    Drop,
}

/// A queue of keys to be worked on. Clones are the same queue.
///
/// # Invariants
///
/// - No key is handed out while it is worked on: until its [`Taken`] is done or dropped.
/// - The most urgent ready key goes first; of one priority, the one that came to that priority first.
/// - No key is handed out before its time, and none is lost: what was added is handed out some time
///   after, unless [`Self::retain`] or [`Self::shut_down`] has dropped it.
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
    /// An empty queue.
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
    /// Asks for a key to be worked on.
    ///
    /// One that waits already keeps its entry; the more urgent of both priorities counts. One that is
    /// worked on waits for the end of that. After [`Self::shut_down`] nothing is accepted.
    pub fn add(&self, key: K, priority: Priority) {
        self.add_after(key, Duration::ZERO, priority);
    }

    /// As [`Self::add`], once a time has passed. Of several times the earliest counts.
    pub fn add_after(&self, key: K, delay: Duration, priority: Priority) {
        let (now, hash) = (self.shared.now(), self.shared.hash(&key));
        self.shared.change(|core| core.add(now, key, hash, priority, delay));
    }

    /// As [`Self::add_after`], once it has waited for its back-off and for a token: see [`Limits`].
    /// Each call makes the next back-off longer, until the key is forgotten.
    pub fn add_rate_limited(&self, key: K, priority: Priority) {
        let (now, hash) = (self.shared.now(), self.shared.hash(&key));
        let draw = self.shared.draw();
        self.shared.change(|core| core.add_rate_limited(now, key, hash, priority, draw));
    }

    /// Forgets how often a key has failed: its next back-off is the first one again. It stays queued.
    pub fn forget(&self, key: &K) {
        let hash = self.shared.hash(key);
        self.shared.lock().core.forget(key, hash);
    }

    /// How often a key was added with a limit since it was forgotten; counted up to 65,535.
    pub fn requeues(&self, key: &K) -> u32 {
        let hash = self.shared.hash(key);
        self.shared.lock().core.failures(key, hash)
    }

    /// The next key, as soon as one is ready and the gate is open; none if the queue has been shut down
    /// and nothing will be handed out any more.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a future that is dropped has taken nothing.
    pub async fn take(&self) -> Option<Taken<K>> {
        let mut keeper = None;
        loop {
            if let Poll::Ready(taken) = self.shared.try_take(&mut keeper) {
                return taken;
            }
            let mut woken = pin!(self.shared.ready.notified());
            // Whoever adds something from now on wakes this future.
            woken.as_mut().enable();
            if let Poll::Ready(taken) = self.shared.try_take(&mut keeper) {
                return taken;
            }
            match &keeper {
                None => woken.await,
                // All arms are cancel safe: they only say that it is worth another look.
                Some(Keeper { until, .. }) => tokio::select! {
                    biased;
                    () = woken => {}
                    () = self.shared.sooner.notified() => {}
                    () = sleep(until.since(self.shared.now())) => {}
                },
            }
        }
    }

    /// The next key if one is ready now and the gate is open.
    pub fn try_take(&self) -> Option<Taken<K>> {
        match self.shared.try_take(&mut None) {
            Poll::Ready(taken) => taken,
            Poll::Pending => None,
        }
    }

    /// Lets keys be handed out. However many have gathered, this takes no time.
    pub fn open(&self) {
        self.shared.change(|core| core.set_open(true));
    }

    /// Lets nothing be handed out any more; the queue goes on filling.
    ///
    /// What is handed out when this returns was counted as worked on before; [`Self::settled`] waits
    /// for its end.
    pub fn close(&self) {
        self.shared.change(|core| core.set_open(false));
    }

    /// Waits until nobody works on any key. New work may begin at once, if the gate is open.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it changes nothing.
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

    /// Accepts nothing more, for good. Each [`Self::take`] that gets no key returns none, at once or when
    /// the last one has been handed out; behind a closed gate at once.
    pub fn shut_down(&self, how: ShutDown) {
        self.shared.change(|core| core.shut_down(how));
    }

    /// Drops the keys that are not to be kept, with what is known of their failures. One that is worked
    /// on stays so, and what it was asked for meanwhile is dropped.
    ///
    /// The queue is looked through piece by piece, so that others can use it meanwhile: a key that is added
    /// before this returns may be kept whatever `keep` says. `keep` must not use the queue.
    pub fn retain(&self, mut keep: impl FnMut(&K) -> bool) {
        let mut from = Some(0);
        while let Some(at) = from {
            from = self.shared.lock().core.retain(at, RETAIN_STEP, &mut keep);
        }
    }

    /// How many keys are ready, or will be when the work on them ends.
    pub fn len(&self) -> usize {
        self.shared.lock().core.waiting() as usize
    }

    /// Whether [`Self::len`] is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What there is to be seen of it now: depth and age by priority, unfinished work, and all counts.
    pub fn snapshot(&self) -> Snapshot {
        let now = self.shared.now();
        self.shared.lock().core.snapshot(now)
    }
}

/// What all clones of a queue share.
struct Shared<K> {
    inner: Mutex<Inner<K>>,
    hasher: RandomState,
    clock: fn() -> BootTime,
    jitters: bool,
    /// There is a key to be had, or a time to be kept.
    ready: Notify,
    /// The first time has changed: for the keeper.
    sooner: Notify,
    /// Nobody works.
    settled: Notify,
}

struct Inner<K> {
    core: Core<K>,
    /// Whether one of those that wait for a key sleeps until the first time: one timer is enough.
    has_keeper: bool,
    /// Whether anybody wants to know when nobody works.
    is_settling: bool,
}

impl<K> Shared<K> {
    fn lock(&self) -> MutexGuard<'_, Inner<K>> {
        // Only a key's own comparison can panic in here, and it is called before anything is changed.
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
    // 32 bits are enough to tell most of four billion keys apart.
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

    /// As [`Self::change`], where work may have ended.
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

    /// A key, or that there will be none any more; pending if it is worth waiting. Then the caller
    /// is the keeper of the first time if there is one and nobody else keeps it.
    fn try_take(self: &Arc<Self>, keeper: &mut Option<Keeper<K>>) -> Poll<Option<Taken<K>>> {
        let now = self.now();
        let mut inner = self.lock();
        match inner.core.take(now) {
            Take::Key(handed) => {
                let wake = if inner.core.is_over() {
                    Wake::All
                } else if inner.core.has_ready() {
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

/// Sleeps until the first time on behalf of all that wait. Dropped, it hands that over.
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
