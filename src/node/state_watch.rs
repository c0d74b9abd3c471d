//! Changes of the nodes' state, for users: a list at one revision and a watch from the next, kept up
//! through reconnects and compaction.
//!
//! A task on the driver's thread follows the store and keeps the present state of the range; a reader
//! takes items from a bounded queue. The one rule to keep: the task never waits for the reader. When the
//! queue is full it is thrown away, and the reader is told with the state as it is when it reads on.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::{Stream, StreamExt as _};
use tokio::{task::JoinHandle, time::sleep};

use super::{EventType, KV, StateChange, env::Env, error::StateError, guarded, host::DriverHost};
use crate::{
    engine::{NodeId, Revision},
    store::{
        Event, Get, GetAnswer, KeyRange, StoreError, Watch, WatchItem, WatchRequest, keys::Key,
    },
};

/// A reader that is this many changes behind is told that it lags.
const QUEUE: usize = 1024;
/// Between attempts to open a watch again.
const RETRY_AFTER: Duration = Duration::from_millis(50);
const RETRY_AFTER_MOST: Duration = Duration::from_secs(2);
/// Of each attempt.
const OPEN_WITHIN: Duration = Duration::from_secs(2);

/// Where a watch begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchFrom {
    /// With what changes from now on.
    #[default]
    Now,
    /// With a [`StateItem::Snapshot`] of what is there, and then all that changes after it.
    Snapshot,
}

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateItem {
    /// All that was there at one revision. Only as the first item, if it was asked for.
    Snapshot {
        /// The revision.
        revision: Revision,
        /// By node and key.
        state: Vec<(NodeId, KV)>,
    },
    /// A change.
    Change(StateChange),
    /// The reader was too slow, and some changes are left out. Nothing that is in `state` changes again
    /// before the next item.
    Lagged {
        /// The revision.
        revision: Revision,
        /// All that is there at that revision, by node and key.
        state: Vec<(NodeId, KV)>,
    },
}

/// A watch on state. Ends when dropped; a stream of [`StateItem`].
#[derive(Debug)]
pub struct StateWatch {
    shared: Arc<Mutex<Shared>>,
    task: JoinHandle<()>,
}

impl StateWatch {
    /// The next item; `None` if the store refuses the watch for good (permissions) or the node's thread
    /// is gone.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was not returned is returned next time.
    pub async fn recv(&mut self) -> Option<StateItem> {
        self.next().await
    }
}

impl Stream for StateWatch {
    type Item = StateItem;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<StateItem>> {
        let mut shared = lock(&self.shared);
        if let Some(item) = shared.take() {
            return Poll::Ready(Some(item));
        }
        if shared.ended {
            return Poll::Ready(None);
        }
        shared.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for StateWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Between the task and the reader.
#[derive(Debug, Default)]
struct Shared {
    state: BTreeMap<(NodeId, String), Vec<u8>>,
    revision: Revision,
    queue: VecDeque<StateItem>,
    lagged: bool,
    ended: bool,
    reader: Option<Waker>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn take(&mut self) -> Option<StateItem> {
        if self.lagged {
            self.lagged = false;
            return Some(StateItem::Lagged { revision: self.revision, state: self.snapshot() });
        }
        self.queue.pop_front()
    }

    fn snapshot(&self) -> Vec<(NodeId, KV)> {
        let state = self.state.iter();
        state
            .map(|((node, key), value)| (*node, KV { key: key.clone(), value: value.clone() }))
            .collect()
    }

    fn push(&mut self, item: StateItem) {
        if self.lagged {
            return;
        }
        if QUEUE <= self.queue.len() {
            self.queue.clear();
            self.lagged = true;
        } else {
            self.queue.push_back(item);
        }
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// One key is now this; `None` = it does not exist.
    fn set(&mut self, node: NodeId, key: &str, value: Option<Vec<u8>>, revision: Revision) {
        let slot = (node, key.to_owned());
        let old = match value.clone() {
            Some(value) => self.state.insert(slot, value),
            None => self.state.remove(&slot),
        };
        let (kind, value, old) = match (value, old) {
            (Some(value), None) => (EventType::Added, Some(value), None),
            (Some(value), Some(old)) => (EventType::Modified, Some(value), Some(old)),
            (None, Some(old)) => (EventType::Deleted, None, Some(old)),
            (None, None) => return,
        };
        let name = |there: bool| if there { key.to_owned() } else { String::new() };
        self.push(StateItem::Change(StateChange {
            kind,
            node,
            key: name(value.is_some()),
            old_key: name(old.is_some()),
            value: value.unwrap_or_default(),
            old_value: old.unwrap_or_default(),
            revision,
        }));
    }

    /// The watch was cut, and what happened since is compacted: the difference is delivered.
    fn replace(&mut self, listed: Vec<((NodeId, String), Vec<u8>)>, revision: Revision) {
        let gone: Vec<_> = {
            let there: std::collections::BTreeSet<_> =
                listed.iter().map(|(slot, _)| slot).collect();
            self.state.keys().filter(|slot| !there.contains(slot)).cloned().collect()
        };
        for (node, key) in gone {
            self.set(node, &key, None, revision);
        }
        for ((node, key), value) in listed {
            if self.state.get(&(node, key.clone())) != Some(&value) {
                self.set(node, &key, Some(value), revision);
            }
        }
        self.revision = revision;
    }
}

/// Lists the range and follows it from there.
pub(crate) async fn open(
    env: &Env,
    host: &DriverHost,
    key: &str,
    from: WatchFrom,
) -> Result<StateWatch, StateError> {
    let range = env
        .keys
        .state_of_all(key)
        .map_err(|source| StateError::Key { key: key.to_owned(), source })?;
    let failed = |source| StateError::Store { doing: format!("watch {key:?}"), source };
    let get = Get::range(range.clone());
    let store = &env.store;
    let answer = guarded::read(env.call_timeout, |wait| store.get(get.clone(), wait))
        .await
        .map_err(failed)?;
    let mut shared = Shared { revision: answer.revision, ..Shared::default() };
    shared.state = listed(env, &answer).into_iter().collect();
    if from == WatchFrom::Snapshot {
        let (revision, state) = (shared.revision, shared.snapshot());
        shared.queue.push_back(StateItem::Snapshot { revision, state });
    }
    // Opened here already, so that what the caller does next is seen even if the task starts late.
    let request =
        WatchRequest { range: range.clone(), from: next(answer.revision), previous: false };
    let watch = store.watch(request, env.call_timeout).await.map_err(failed)?;
    let shared = Arc::new(Mutex::new(shared));
    let follower = Follower { env: env.clone(), range, shared: Arc::clone(&shared) };
    let task = host.spawn(follower.run(watch));
    Ok(StateWatch { shared, task })
}

const fn next(revision: Revision) -> Revision {
    Revision(revision.0 + 1)
}

fn listed(env: &Env, answer: &GetAnswer) -> Vec<((NodeId, String), Vec<u8>)> {
    let mut listed = Vec::with_capacity(answer.kvs.len());
    for kv in &answer.kvs {
        match env.keys.parse(&kv.key) {
            Some(Key::State { key, node }) => listed.push(((node, key), kv.value.clone())),
            _ => env.metrics.foreign_keys.inc(),
        }
    }
    listed
}

/// Follows the store. Lives on the driver's thread.
struct Follower {
    env: Env,
    range: KeyRange,
    shared: Arc<Mutex<Shared>>,
}

impl Follower {
    async fn run(self, watch: Box<dyn Watch>) {
        let error = self.follow(watch).await;
        tracing::error!(error = %error, "a watch on state ended for good");
        let mut shared = lock(&self.shared);
        shared.ended = true;
        shared.wake();
    }

    /// Until the store refuses for good.
    async fn follow(&self, mut watch: Box<dyn Watch>) -> StoreError {
        loop {
            let mut error = self.deliver(watch.as_mut()).await;
            let mut again_after = RETRY_AFTER;
            watch = loop {
                let opened = match error {
                    StoreError::Compacted { .. } => self.list_again().await,
                    error if error.is_transient() => Ok(()),
                    error => return error,
                };
                let opened = match opened {
                    Ok(()) => self.open_again().await,
                    Err(error) => Err(error),
                };
                match opened {
                    Ok(watch) => break watch,
                    Err(failed) => error = failed,
                }
                sleep(again_after).await;
                again_after = (again_after * 2).min(RETRY_AFTER_MOST);
            };
        }
    }

    /// Until the watch breaks.
    async fn deliver(&self, watch: &mut dyn Watch) -> StoreError {
        loop {
            match watch.next().await {
                Ok(WatchItem::Events { revision, events }) => self.apply(revision, events),
                Ok(WatchItem::Progress { revision }) => {
                    let mut shared = lock(&self.shared);
                    shared.revision = revision.max(shared.revision);
                }
                Err(error) => return error,
            }
        }
    }

    fn apply(&self, revision: Revision, events: Vec<Event>) {
        let mut shared = lock(&self.shared);
        // A store that delivers what was delivered already is not believed twice.
        if revision <= shared.revision {
            return;
        }
        for event in events {
            match self.env.keys.parse(&event.kv.key) {
                Some(Key::State { key, node }) => {
                    let value = (!event.deleted).then_some(event.kv.value);
                    shared.set(node, &key, value, revision);
                }
                _ => self.env.metrics.foreign_keys.inc(),
            }
        }
        shared.revision = revision;
    }

    async fn open_again(&self) -> Result<Box<dyn Watch>, StoreError> {
        let from = next(lock(&self.shared).revision);
        let request = WatchRequest { range: self.range.clone(), from, previous: false };
        self.env.store.watch(request, OPEN_WITHIN).await
    }

    async fn list_again(&self) -> Result<(), StoreError> {
        let answer = self.env.store.get(Get::range(self.range.clone()), OPEN_WITHIN).await?;
        let listed = listed(&self.env, &answer);
        lock(&self.shared).replace(listed, answer.revision);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
