//! A node's view of its cluster, item by item: the input that the driver hands to its engine.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::{AfterBreak, Counters, Item, ListWatch, Options, Stats};
use crate::{
    engine::{Input, Revision},
    store::{Store, StoreError, keys::Keys, protocol::Decoded},
    tasks,
};

/// Largest number of updates that wait for the driver. The driver takes them one by one as fast as they
/// come; while the driver does not, the store's own buffers fill.
const QUEUE: usize = 256;

/// A list and a watch over the range that every node watches (R2, views). The feed ends when dropped.
#[derive(Debug)]
pub struct Feed {
    updates: mpsc::Receiver<(u64, Input)>,
    /// Number of lists that the caller asked for: updates from before the latest request are dropped.
    generation: watch::Sender<u64>,
    expected: Arc<AtomicI64>,
    counters: Arc<Counters>,
    failure: watch::Receiver<Option<StoreError>>,
    _task: AbortOnDropHandle<()>,
}

impl Feed {
    /// Begins with a list, on the current runtime. A broken watch is never resumed: the range is listed
    /// again, even if `options` ask for another action (R2).
    pub fn start(store: Arc<dyn Store>, keys: Keys, options: Options) -> Self {
        let options = Options { after_break: AfterBreak::List, ..options };
        let list_watch = ListWatch::new(store, keys.watched(), options);
        let (sender, updates) = mpsc::channel(QUEUE);
        let (generation, wanted) = watch::channel(0);
        Self {
            updates,
            generation,
            expected: list_watch.expected(),
            counters: list_watch.counters(),
            failure: list_watch.failure(),
            _task: AbortOnDropHandle::new(tasks::spawn(
                "store feed",
                run(list_watch, keys, sender, wanted),
            )),
        }
    }

    /// Returns the next input of the view: [`Input::Listed`], [`Input::Changed`], [`Input::Progress`] or
    /// [`Input::WatchLost`]; `None` if the feed is over, which never happens while the feed exists.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Input> {
        loop {
            let (generation, update) = self.updates.recv().await?;
            if generation == *self.generation.borrow() {
                return Some(update);
            }
        }
    }

    /// Drops the watch and all updates that were not taken yet; a list comes next.
    pub fn relist(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// Reports that the store has reached `revision`, known by a linearizable answer: a watch that does not
    /// reach it in time is replaced by one on another member.
    pub fn expect(&self, revision: Revision) {
        self.expected.fetch_max(revision.0, Ordering::Relaxed);
    }

    /// Error of the last list or watch that failed, published as it happens: both are retried after any
    /// error.
    pub fn failure(&self) -> watch::Receiver<Option<StoreError>> {
        self.failure.clone()
    }

    /// Statistics of the feed so far.
    pub fn stats(&self) -> Stats {
        self.counters.stats()
    }
}

async fn run(
    mut list_watch: ListWatch,
    keys: Keys,
    updates: mpsc::Sender<(u64, Input)>,
    mut wanted: watch::Receiver<u64>,
) {
    let counters = list_watch.counters();
    loop {
        let generation = *wanted.borrow_and_update();
        // An item that is dropped here is obsolete: the list that follows contains it.
        tokio::select! {
            biased;
            changed = wanted.changed() => match changed {
                Ok(()) => list_watch.relist(),
                Err(_) => return,
            },
            sent = async {
                match decoded(&keys, list_watch.next().await, &counters) {
                    Some(update) => updates.send((generation, update)).await,
                    None => Ok(()),
                }
            } => if sent.is_err() {
                return;
            },
        }
    }
}

fn decoded(keys: &Keys, item: Item, counters: &Counters) -> Option<Input> {
    let count = |decoded: Decoded| {
        counters.foreign.fetch_add(decoded.foreign, Ordering::Relaxed);
        decoded.changes
    };
    Some(match item {
        // The engine itself detects why the range is listed again (R8, replaced store).
        Item::Listed { sent_at, received_at, revision, cluster, kvs, because: _ } => {
            let changes = count(Decoded::of_list(keys, &kvs));
            Input::Listed { sent_at, received_at, revision, cluster, changes }
        }
        Item::Changed { received_at, revision, events } => Input::Changed {
            received_at,
            revision,
            changes: count(Decoded::of_events(keys, &events)),
        },
        Item::Progress { revision } => Input::Progress { revision },
        Item::Lost => Input::WatchLost,
        // The range of a view is listed after each break, see [`Feed::start`].
        Item::Resumed { .. } => return None,
    })
}
