//! A watch for users: changes with the entry before each change, even if the watches beneath break.
//!
//! The watch keeps the entries that it has delivered. So the entry before a change is always known, a
//! resumed watch can be checked against the store, and a reader that lags gets the current state. The task
//! that follows the store never waits for a reader.
//!
//! # Guarantees
//!
//! Within one history of the store revisions never decrease. A reader that folds snapshots and changes gets
//! the range as of each revision that it has received in full. Between two revisions no change is left out
//! unless a [`StateItem::Lagged`] with a snapshot comes between them. A history ends with a
//! [`LagCause::StoreReplaced`]; the next history may begin at a smaller revision.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    fmt::{self, Debug},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{Counters, Item, ListWatch, Options, Relist, Stats};
use crate::{
    engine::Revision,
    store::{Event, KeyRange, KeyValue, Store, StoreError},
    tasks,
};

/// Largest number of changes that wait for a reader; a reader that exceeds it gets a snapshot instead.
const QUEUE: usize = 1024;

/// Change of a single key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Revision of the change.
    pub revision: Revision,
    /// Entry after the change; `None` = deleted.
    pub now: Option<Arc<KeyValue>>,
    /// Entry before the change, as it was last delivered; `None` = the key did not exist.
    pub before: Option<Arc<KeyValue>>,
}

/// Reason why changes are left out of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LagCause {
    /// The reader was too slow, and more changes came than are kept for it.
    SlowReader {
        /// Number of changes that are left out.
        missed: u64,
    },
    /// The watch was cut off, and the store has compacted the changes made meanwhile. The number of changes
    /// that are left out is unknown; it may be zero.
    CutOff,
    /// The store was wiped, restored from a backup or exchanged for another. The snapshot begins another
    /// history: its revision may be smaller than those before, and it must not be compared with them.
    StoreReplaced,
}

impl LagCause {
    /// The cause as one word, for logs and output: `slow-reader`, `cut-off` or `store-replaced`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SlowReader { .. } => "slow-reader",
            Self::CutOff => "cut-off",
            Self::StoreReplaced => "store-replaced",
        }
    }

    /// Merges two causes into the stronger one. A reader that reacts to it has reacted to the other.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::StoreReplaced, _) | (_, Self::StoreReplaced) => Self::StoreReplaced,
            (Self::CutOff, _) | (_, Self::CutOff) => Self::CutOff,
            (Self::SlowReader { missed }, Self::SlowReader { missed: more }) => {
                Self::SlowReader { missed: missed + more }
            }
        }
    }
}

/// Item that a [`StateWatch`] delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateItem {
    /// The whole range as of one revision. Delivered first, if asked for.
    Snapshot {
        /// Revision of the snapshot: it contains every change up to here.
        revision: Revision,
        /// Entries in the order of the keys.
        kvs: Vec<Arc<KeyValue>>,
    },
    /// Changes are left out, and this is the whole range after them. The snapshot replaces everything that
    /// was delivered before.
    Lagged {
        /// Reason why changes are left out.
        cause: LagCause,
        /// Revision of the snapshot: it contains every change up to here.
        revision: Revision,
        /// Entries in the order of the keys.
        kvs: Vec<Arc<KeyValue>>,
    },
    /// Change of a single key.
    Changed(Delta),
}

/// First item of a [`StateWatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateStart {
    /// A snapshot, then all changes after it.
    Snapshot,
    /// The changes from now on.
    Now,
}

/// Changes of a range of users' keys. The watch ends when dropped, and with its runtime.
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
    /// Item that the reader is to get next; `Now` once the reader has got its snapshot.
    start: StateStart,
    /// Revision of the first list.
    began: Option<Revision>,
    /// Revision up to which the store was followed; `None` before the first list.
    revision: Option<Revision>,
    keys: BTreeMap<Vec<u8>, Arc<KeyValue>>,
    waiting: VecDeque<Delta>,
    /// Reason why changes are left out, until the reader has received it; `waiting` is empty meanwhile.
    lag: Option<LagCause>,
    /// No more items will come.
    ended: bool,
}

/// Guard held by the task that follows the store: when the task ends, in any way, no reader waits for it.
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
    /// Every change that is written after [`started`](Self::started) has returned is delivered. Each change
    /// of `replacements` reports that another component has found the store replaced (R8, replaced store):
    /// the range is listed again, and the reader gets a [`LagCause::StoreReplaced`].
    pub fn start(
        store: Arc<dyn Store>,
        range: KeyRange,
        start: StateStart,
        options: Options,
        replacements: watch::Receiver<u64>,
        end: CancellationToken,
    ) -> Self {
        let list_watch = ListWatch::new(store, range, options);
        let seen = Seen {
            start,
            began: None,
            revision: None,
            keys: BTreeMap::new(),
            waiting: VecDeque::new(),
            lag: None,
            ended: false,
        };
        let shared = Arc::new(Shared { seen: Mutex::new(seen), news: Notify::new() });
        Self {
            counters: list_watch.counters(),
            failure: list_watch.failure(),
            _task: AbortOnDropHandle::new(tasks::spawn(
                "state watch",
                run(list_watch, Ending(Arc::clone(&shared)), replacements, end),
            )),
            shared,
        }
    }

    /// Waits for the first list and returns its revision; `None` if the watch has ended before.
    ///
    /// # Errors
    ///
    /// [`StoreError::Denied`] if the store refuses the list. The watch retries all the same: the caller may
    /// drop it, or wait again.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn started(&self) -> Result<Option<Revision>, StoreError> {
        // Both futures are cancel safe. `refused` never returns once the watch's task is gone; `listed`
        // then does.
        tokio::select! {
            biased;
            revision = self.listed() => Ok(revision),
            error = self.refused() => Err(error),
        }
    }

    /// Returns when a list was refused, else never.
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
                (seen.began, seen.ended)
            };
            if revision.is_some() || ended {
                // A caller that waits in `next` must not miss the notification that woke this call.
                self.shared.news.notify_one();
                return revision;
            }
            news.await;
        }
    }

    /// Error of the last list or watch that failed, if one did.
    pub fn failure(&self) -> Option<StoreError> {
        self.failure.borrow().clone()
    }

    /// Returns the next item, and waits until there is one. `None` once the watch has ended and all its
    /// items are taken.
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

    /// Statistics of the watch so far.
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

async fn run(
    list_watch: ListWatch,
    ending: Ending,
    replacements: watch::Receiver<u64>,
    end: CancellationToken,
) {
    end.run_until_cancelled(follow(list_watch, &ending.0, replacements)).await;
}

async fn follow(
    mut list_watch: ListWatch,
    shared: &Shared,
    mut replacements: watch::Receiver<u64>,
) -> Infallible {
    loop {
        // Both branches are cancel safe: a list that is dropped is read again, from the store that is there
        // now.
        let item = tokio::select! {
            biased;
            () = next_replacement(&mut replacements) => {
                list_watch.relist();
                continue;
            }
            item = list_watch.next() => item,
        };
        let mut seen = shared.lock();
        match item {
            Item::Listed { revision, kvs, because, .. } => seen.listed(revision, kvs, because),
            Item::Changed { revision, events, .. } => seen.changed(revision, events),
            Item::Progress { revision } => seen.revision = Some(revision),
            Item::Resumed { kvs } => {
                if !seen.holds(&kvs) {
                    list_watch.relist();
                }
                continue;
            }
            // The resumed watch or the list that follows makes up for the loss.
            Item::Lost => continue,
        }
        drop(seen);
        shared.news.notify_one();
    }
}

/// Returns when the store is found replaced once more; never, if the sender is gone.
async fn next_replacement(replacements: &mut watch::Receiver<u64>) {
    if replacements.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl Seen {
    fn listed(&mut self, revision: Revision, kvs: Vec<KeyValue>, because: Option<Relist>) {
        self.keys = kvs.into_iter().map(|kv| (kv.key.clone(), Arc::new(kv))).collect();
        self.began.get_or_insert(revision);
        if self.revision.replace(revision).is_none() {
            return;
        }
        // A list does not show keys that were created and deleted before it: the difference of two lists
        // is no history.
        let cause = match because {
            Some(Relist::Replaced) => LagCause::StoreReplaced,
            Some(Relist::CutOff) | None => LagCause::CutOff,
        };
        tracing::warn!(
            cause = cause.as_str(),
            revision = revision.0,
            "watch missed changes, sending a snapshot"
        );
        self.leave_out(cause);
    }

    /// Whether `kvs` equals the entries that were delivered.
    fn holds(&self, kvs: &[KeyValue]) -> bool {
        self.keys.len() == kvs.len() && self.keys.values().zip(kvs).all(|(is, kv)| **is == *kv)
    }

    fn changed(&mut self, revision: Revision, events: Vec<Event>) {
        self.revision = Some(revision);
        for Event { kv, deleted, .. } in events {
            let delta = if deleted {
                // The deletion of a key that was not delivered changes nothing.
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
        if self.lag.is_none() && self.waiting.len() < QUEUE {
            self.waiting.push_back(delta);
        } else {
            self.leave_out(LagCause::SlowReader { missed: 1 + self.waiting.len() as u64 });
        }
    }

    /// Drops the waiting changes: the reader gets a snapshot instead, which contains all of them.
    fn leave_out(&mut self, cause: LagCause) {
        self.waiting.clear();
        self.lag = Some(self.lag.map_or(cause, |lag| lag.and(cause)));
    }

    fn take(&mut self) -> Option<StateItem> {
        let revision = self.revision?;
        let kvs = || self.keys.values().cloned().collect();
        if self.start == StateStart::Snapshot {
            // The snapshot is as of now, rather than of the list: it contains the waiting changes.
            let first = StateItem::Snapshot { revision, kvs: kvs() };
            self.start = StateStart::Now;
            self.waiting.clear();
            self.lag = None;
            return Some(first);
        }
        match self.lag.take() {
            Some(cause) => Some(StateItem::Lagged { cause, revision, kvs: kvs() }),
            None => self.waiting.pop_front().map(StateItem::Changed),
        }
    }
}
