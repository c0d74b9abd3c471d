//! A watch for users: changes with what was before, whatever happens to the watches beneath.
//!
//! It keeps what it has delivered. So what was before is always known, a list after a compaction
//! becomes the changes that were missed, and a reader who lags gets the state as it is now. The task
//! that follows the store never waits for a reader.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    fmt::{self, Debug},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{Counters, Item, ListWatch, Options, Stats};
use crate::{
    engine::Revision,
    store::{Event, KeyRange, KeyValue, Store, StoreError},
    tasks,
};

/// How many changes wait for a reader at most; one who lets more come is given a snapshot instead.
const QUEUE: usize = 1024;

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// The revision of the change. Of a delete that was only found out by a list: the list's.
    pub revision: Revision,
    /// What it is now; `None` = deleted.
    pub now: Option<Arc<KeyValue>>,
    /// What it was before, as it was last delivered; `None` = it did not exist.
    pub before: Option<Arc<KeyValue>>,
}

/// What a [`StateWatch`] delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateItem {
    /// The whole range as of one revision. First of all, if asked for.
    Snapshot {
        /// Everything up to here is in it.
        revision: Revision,
        /// In the order of the keys.
        kvs: Vec<Arc<KeyValue>>,
    },
    /// The reader was too slow: this many changes are left out, and this is what came of them.
    Lagged {
        /// How many.
        missed: u64,
        /// Everything up to here is in it.
        revision: Revision,
        /// In the order of the keys.
        kvs: Vec<Arc<KeyValue>>,
    },
    /// One change.
    Changed(Delta),
}

/// What a [`StateWatch`] begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateStart {
    /// A snapshot, then all that changes after it.
    Snapshot,
    /// What changes from now on.
    Now,
}

/// Changes of a range of users' keys. Ends when dropped, and with its runtime.
pub struct StateWatch {
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    failure: watch::Receiver<Option<StoreError>>,
    _task: AbortOnDropHandle<()>,
}

struct Shared {
    seen: Mutex<Seen>,
    news: Notify,
}

struct Seen {
    /// What the reader is to get next; `Now` once it has got its snapshot.
    start: StateStart,
    /// Up to where the store was followed; `None` before the first list.
    revision: Option<Revision>,
    keys: BTreeMap<Vec<u8>, Arc<KeyValue>>,
    waiting: VecDeque<StateItem>,
    /// How many changes the reader has missed.
    missed: u64,
    /// Nothing more comes.
    ended: bool,
}

/// Held by the task that follows the store: however it goes, nobody waits for it any more.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.news.notify_one();
    }
}

impl StateWatch {
    /// Begins to follow a range, on the current runtime, until that ends or `end` is cancelled.
    ///
    /// Whatever is written after [`started`](Self::started) has returned is delivered.
    pub fn start(
        store: Arc<dyn Store>,
        range: KeyRange,
        start: StateStart,
        options: Options,
        end: CancellationToken,
    ) -> Self {
        let list_watch = ListWatch::new(store, range, options);
        let seen = Seen {
            start,
            revision: None,
            keys: BTreeMap::new(),
            waiting: VecDeque::new(),
            missed: 0,
            ended: false,
        };
        let shared = Arc::new(Shared { seen: Mutex::new(seen), news: Notify::new() });
        Self {
            counters: list_watch.counters(),
            failure: list_watch.failure(),
            _task: AbortOnDropHandle::new(tasks::spawn(
                "state watch",
                run(list_watch, Ending(Arc::clone(&shared)), end),
            )),
            shared,
        }
    }

    /// Waits for the first list, and says of which revision it is; `None` if the watch has ended before.
    ///
    /// # Errors
    ///
    /// [`StoreError::Denied`] if the store refuses it. The watch tries again all the same: drop it, or
    /// wait anew.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn started(&self) -> Result<Option<Revision>, StoreError> {
        // Both are cancel safe. Once nothing more can be refused, the list has come, or the end.
        tokio::select! {
            biased;
            revision = self.listed() => Ok(revision),
            error = self.refused() => Err(error),
        }
    }

    /// Returns when a list was refused; never, if none is.
    async fn refused(&self) -> StoreError {
        let mut failure = self.failure.clone();
        loop {
            if let Some(error @ StoreError::Denied { .. }) = &*failure.borrow_and_update() {
                return error.clone();
            }
            if failure.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    async fn listed(&self) -> Option<Revision> {
        loop {
            let news = self.shared.news.notified();
            let (revision, ended) = {
                let seen = self.shared.lock();
                (seen.revision, seen.ended)
            };
            if revision.is_some() || ended {
                // Whoever waits in `next` must not miss what this one was woken for.
                self.shared.news.notify_one();
                return revision;
            }
            news.await;
        }
    }

    /// Why a list failed last, if one did.
    pub fn failure(&self) -> Option<StoreError> {
        self.failure.borrow().clone()
    }

    /// What comes next; waits as long as nothing does. `None` once the watch has ended and all it saw is
    /// taken.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<StateItem> {
        loop {
            let news = self.shared.news.notified();
            {
                let mut seen = self.shared.lock();
                let item = seen.take();
                if item.is_some() || seen.ended {
                    return item;
                }
            }
            news.await;
        }
    }

    /// What happened so far.
    pub fn stats(&self) -> Stats {
        self.counters.stats()
    }
}

impl Debug for StateWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = self.shared.lock();
        f.debug_struct("StateWatch")
            .field("revision", &seen.revision)
            .field("keys", &seen.keys.len())
            .field("waiting", &seen.waiting.len())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run(list_watch: ListWatch, ending: Ending, end: CancellationToken) {
    end.run_until_cancelled(follow(list_watch, &ending.0)).await;
}

async fn follow(mut list_watch: ListWatch, shared: &Shared) -> Infallible {
    loop {
        let item = list_watch.next().await;
        let mut seen = shared.lock();
        match item {
            Item::Listed { revision, kvs, .. } => seen.listed(revision, kvs),
            Item::Changed { revision, events, .. } => seen.changed(revision, events),
            Item::Progress { revision } => seen.revision = Some(revision),
            // Whatever follows makes up for it.
            Item::Lost => continue,
        }
        drop(seen);
        shared.news.notify_one();
    }
}

impl Seen {
    fn listed(&mut self, revision: Revision, kvs: Vec<KeyValue>) {
        let listed: BTreeMap<_, _> =
            kvs.into_iter().map(|kv| (kv.key.clone(), Arc::new(kv))).collect();
        let before = std::mem::replace(&mut self.keys, listed);
        if self.revision.replace(revision).is_some() {
            for delta in missed_between(&before, &self.keys, revision) {
                self.deliver(delta);
            }
        }
    }

    fn changed(&mut self, revision: Revision, events: Vec<Event>) {
        self.revision = Some(revision);
        for Event { kv, deleted, .. } in events {
            let delta = if deleted {
                // One that was never there changes nothing.
                let Some(before) = self.keys.remove(&kv.key) else { continue };
                Delta { revision, now: None, before: Some(before) }
            } else {
                let now = Arc::new(kv);
                let before = self.keys.insert(now.key.clone(), Arc::clone(&now));
                Delta { revision, now: Some(now), before }
            };
            self.deliver(delta);
        }
    }

    fn deliver(&mut self, delta: Delta) {
        if self.missed == 0 && self.waiting.len() < QUEUE {
            self.waiting.push_back(StateItem::Changed(delta));
            return;
        }
        self.missed += 1 + self.waiting.len() as u64;
        self.waiting.clear();
    }

    fn take(&mut self) -> Option<StateItem> {
        let revision = self.revision?;
        let kvs = || self.keys.values().cloned().collect();
        if self.start == StateStart::Snapshot {
            // As of now, rather than of the list: what waits is in it.
            let first = StateItem::Snapshot { revision, kvs: kvs() };
            self.start = StateStart::Now;
            self.waiting.clear();
            self.missed = 0;
            return Some(first);
        }
        if self.missed == 0 {
            return self.waiting.pop_front();
        }
        let lagged = StateItem::Lagged { missed: self.missed, revision, kvs: kvs() };
        self.missed = 0;
        Some(lagged)
    }
}

/// The changes that lead from one state to the other: deletes first, then puts as they happened.
fn missed_between(
    before: &BTreeMap<Vec<u8>, Arc<KeyValue>>,
    now: &BTreeMap<Vec<u8>, Arc<KeyValue>>,
    revision: Revision,
) -> Vec<Delta> {
    let mut deltas = Vec::new();
    for (key, was) in before {
        // One that was created anew was deleted in between.
        if now.get(key).is_none_or(|is| is.created != was.created) {
            deltas.push(Delta { revision, now: None, before: Some(Arc::clone(was)) });
        }
    }
    let mut puts: Vec<_> = now
        .iter()
        .filter(|(key, is)| before.get(*key) != Some(is))
        .map(|(key, is)| Delta {
            revision: is.modified,
            now: Some(Arc::clone(is)),
            before: before.get(key).filter(|was| was.created == is.created).cloned(),
        })
        .collect();
    puts.sort_by_key(|delta| delta.revision);
    deltas.append(&mut puts);
    deltas
}
