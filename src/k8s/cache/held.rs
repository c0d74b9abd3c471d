//! The shards that are held here, as a cache and the work on them agree on it.
//!
//! # Invariants
//!
//! * A shard that is covered and wanted stays covered for as long as it is wanted: what was seen of it goes
//!   on being seen. So whoever wants a shard first and finds it covered then can rely on it.
//! * Whatever is covered is watched; whatever is watched has been wanted.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    sync::Arc,
    time::Duration,
};

use kube::Resource;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    engine::ShardId,
    k8s::shard::{fnv1a, shard_of_hash},
};

#[cfg(test)]
mod tests;

/// Shards move many at a time. A new watch is begun when no more has come for this long,
const GATHERED_AFTER: Duration = Duration::from_millis(50);
/// but after this long at the latest.
const GATHERED_AT_LAST: Duration = Duration::from_millis(500);
/// What is no longer held is let go after this long without a move: much of it comes back when a node is
/// restarted, and a list costs more than memory.
const LET_GO_AFTER: Duration = Duration::from_secs(5);

/// The shards of one work type that are held here, and those whose objects a cache has.
#[derive(Debug)]
pub(crate) struct HeldShards {
    shards: u32,
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How many want each.
    wanted: BTreeMap<ShardId, usize>,
    /// Those whose objects the present watch is to keep.
    watched: BTreeSet<ShardId>,
    /// Those of these that have been listed.
    covered: BTreeSet<ShardId>,
    /// The cache keeps the objects of all shards: others look at them too.
    is_whole: bool,
}

/// What the held shards call for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// Nothing.
    Rest,
    /// Some are not watched: all that are held must be listed.
    Gain,
    /// Some are watched that need not be.
    LetGo,
}

impl State {
    fn call(&self) -> Call {
        // A list under way is let come in: else moves that do not end would keep every shard from its work.
        if self.covered != self.watched {
            return Call::Rest;
        }
        if self.wanted.keys().any(|shard| !self.watched.contains(shard)) {
            return Call::Gain;
        }
        if self.wanted.len() < self.watched.len() { Call::LetGo } else { Call::Rest }
    }
}

impl HeldShards {
    /// None, of that many.
    pub(crate) fn new(shards: u32) -> Self {
        Self { shards, state: watch::Sender::default() }
    }

    /// Has the objects of a shard kept here until this is dropped.
    pub(crate) fn want(self: &Arc<Self>, shard: ShardId) -> Wanted {
        self.state.send_modify(|state| *state.wanted.entry(shard).or_default() += 1);
        Wanted { held: Arc::clone(self), shard }
    }

    /// The cache keeps everything, whatever is held.
    pub(crate) fn keep_whole(&self) {
        self.state.send_modify(|state| state.is_whole = true);
    }

    /// How many shards there are, held or not.
    pub(crate) fn count(&self) -> u32 {
        self.shards
    }

    /// Whether the present watch is to keep that object.
    pub(super) fn keeps(&self, object: &impl Resource) -> bool {
        let Some(uid) = &object.meta().uid else { return false };
        let shard = shard_of_hash(fnv1a(uid.as_bytes()), self.shards);
        self.state.borrow().watched.contains(&shard)
    }

    /// Begins a watch: of the shards that are held now, which are returned.
    pub(super) fn begin_watch(&self) -> BTreeSet<ShardId> {
        let mut picked = BTreeSet::new();
        self.state.send_modify(|state| {
            state.watched = state.wanted.keys().copied().collect();
            state.covered.retain(|shard| state.watched.contains(shard));
            picked.clone_from(&state.watched);
        });
        picked
    }

    /// The present watch has listed its objects.
    pub(super) fn on_listed(&self) {
        self.state.send_if_modified(|state| {
            let is_new = state.covered != state.watched;
            state.covered.clone_from(&state.watched);
            is_new
        });
    }

    /// The present watch is to keep only what is held; whether that is anything.
    pub(super) fn let_go(&self) -> bool {
        let mut is_any = false;
        self.state.send_modify(|state| {
            is_any = !state.wanted.is_empty();
            state.watched.retain(|shard| state.wanted.contains_key(shard));
            state.covered.retain(|shard| state.wanted.contains_key(shard));
        });
        is_any
    }

    /// What is called for, once shards have stopped moving.
    ///
    /// # Cancel safety
    ///
    /// Only waits.
    pub(super) async fn called(&self) -> Call {
        let mut state = self.state.subscribe();
        let mut at_last = None;
        loop {
            let call = state.borrow_and_update().call();
            let quiet = match call {
                Call::Rest => Duration::MAX,
                Call::Gain => GATHERED_AFTER,
                Call::LetGo => LET_GO_AFTER,
            };
            let is_late = async {
                match call {
                    Call::Gain => {
                        at_last.get_or_insert_with(|| Box::pin(sleep(GATHERED_AT_LAST))).await;
                    }
                    Call::Rest | Call::LetGo => pending().await,
                }
            };
            tokio::select! {
                biased;
                // Cancel safe: a sleep that is kept.
                () = is_late => return call,
                // Cancel safe: waits. The sender is ours.
                changed = timeout(quiet, state.changed()) => if changed.is_err() { return call },
            }
        }
    }
}

/// A shard whose objects are to be kept here. Dropped, they are let go.
#[derive(Debug)]
pub(crate) struct Wanted {
    held: Arc<HeldShards>,
    shard: ShardId,
}

impl Wanted {
    /// Resolves when all its objects are in the cache, and every change of them will be.
    ///
    /// # Cancel safety
    ///
    /// Only waits.
    pub(crate) async fn covered(&self) {
        let mut state = self.held.state.subscribe();
        // The sender lives as long as this does.
        let _ = state.wait_for(|it| it.is_whole || it.covered.contains(&self.shard)).await;
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.held.state.send_modify(|state| {
            if let Some(count) = state.wanted.get_mut(&self.shard) {
                *count -= 1;
                if *count == 0 {
                    state.wanted.remove(&self.shard);
                }
            }
        });
    }
}
