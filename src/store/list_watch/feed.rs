//! A node's view of its cluster, as it comes: what the driver hands to its engine.

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

/// How many updates wait for the driver at most. It takes them one by one as fast as they come; while
/// it does not, the store's own buffers fill.
const QUEUE: usize = 256;

/// One list and one watch over what every node watches (R2). Ends when dropped.
#[derive(Debug)]
pub struct Feed {
    updates: mpsc::Receiver<(u64, Input)>,
    /// Counts the lists that were asked for: what belongs to an earlier one is not shown any more.
    generation: watch::Sender<u64>,
    expected: Arc<AtomicI64>,
    counters: Arc<Counters>,
    failure: watch::Receiver<Option<StoreError>>,
    _task: AbortOnDropHandle<()>,
}

impl Feed {
    /// Begins with a list, on the current runtime. A broken watch is never resumed: the range is listed
    /// again, whatever `options` say (R2).
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

    /// The next input of the view: [`Input::Listed`], [`Input::Changed`], [`Input::Progress`] or
    /// [`Input::WatchLost`]; `None` if the feed is over, which it never is by itself.
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

    /// Drops the watch and all that it delivered and was not taken yet; a list comes next.
    pub fn relist(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// The store is at least here, by a linearizable answer: a watch that does not get there in time is
    /// left for another member.
    pub fn expect(&self, revision: Revision) {
        self.expected.fetch_max(revision.0, Ordering::Relaxed);
    }

    /// Why a list or a watch failed last, as it happens: both are tried again, whatever the reason.
    pub fn failure(&self) -> watch::Receiver<Option<StoreError>> {
        self.failure.clone()
    }

    /// What happened so far.
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
        // What is dropped here is not wanted any more: the list that follows shows it again.
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
        // Why it is listed again, the engine finds out by itself (R8).
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
        // A view is listed after each break, see [`Feed::start`].
        Item::Resumed { .. } => return None,
    })
}
