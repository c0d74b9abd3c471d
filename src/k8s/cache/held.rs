//! The shards that are held here, shared between a cache and the work on those shards.
//!
//! # Invariants
//!
//! * A listed shard stays listed for as long as it is held: the cache continues to receive its changes. So work
//!   that begins to hold a shard, and finds it listed afterwards, can rely on the cache.
//! * listed ⊆ watched ⊆ ever held.

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

/// Shards move many at a time. A new watch begins when no further shard has moved for this long,
const GATHERED_AFTER: Duration = Duration::from_millis(50);
/// but after this long at the latest.
const GATHERED_AT_LAST: Duration = Duration::from_millis(500);
/// Shards that are no longer held leave the cache after this long without a move: after a restart of a node
/// many of them return, and a list costs more than memory.
const LET_GO_AFTER: Duration = Duration::from_secs(5);

/// The shards of one work type that are held here, and the shards whose objects a cache has.
#[derive(Debug)]
pub(crate) struct HeldShards {
    shards: u32,
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Number of guards for each held shard.
    held: BTreeMap<ShardId, usize>,
    /// Shards whose objects the current watch must cache.
    watched: BTreeSet<ShardId>,
    /// Watched shards that have been listed.
    listed: BTreeSet<ShardId>,
    /// The cache holds the objects of all shards, because other controllers read them too.
    is_whole: bool,
}

/// Action that a change of the held shards requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// No action is required.
    Rest,
    /// Some held shards are not watched: all held shards must be listed.
    Gain,
    /// Some watched shards are no longer held.
    LetGo,
}

impl State {
    fn call(&self) -> Call {
        // Waits for the list in progress: otherwise moves that never end would keep every shard from its work.
        if self.listed != self.watched {
            return Call::Rest;
        }
        if self.held.keys().any(|shard| !self.watched.contains(shard)) {
            return Call::Gain;
        }
        if self.held.len() < self.watched.len() { Call::LetGo } else { Call::Rest }
    }
}

impl HeldShards {
    /// Creates a set of `shards` shards, of which none is held.
    pub(crate) fn new(shards: u32) -> Self {
        Self { shards, state: watch::Sender::default() }
    }

    /// Keeps the objects of a shard in the cache until the returned guard is dropped.
    pub(crate) fn hold(self: &Arc<Self>, shard: ShardId) -> HeldShard {
        self.state.send_modify(|state| *state.held.entry(shard).or_default() += 1);
        HeldShard { all: Arc::clone(self), shard }
    }

    /// Makes the cache hold the objects of all shards.
    pub(crate) fn keep_whole(&self) {
        self.state.send_modify(|state| state.is_whole = true);
    }

    /// Number of shards, held or not.
    pub(crate) fn count(&self) -> u32 {
        self.shards
    }

    /// Whether the current watch must cache this object.
    pub(super) fn keeps(&self, object: &impl Resource) -> bool {
        let Some(uid) = &object.meta().uid else { return false };
        let shard = shard_of_hash(fnv1a(uid.as_bytes()), self.shards);
        self.state.borrow().watched.contains(&shard)
    }

    /// Begins a watch of the shards that are held now, and returns them.
    pub(super) fn begin_watch(&self) -> BTreeSet<ShardId> {
        let mut picked = BTreeSet::new();
        self.state.send_modify(|state| {
            state.watched = state.held.keys().copied().collect();
            state.listed.retain(|shard| state.watched.contains(shard));
            picked.clone_from(&state.watched);
        });
        picked
    }

    /// Notes that the current watch has listed its objects.
    pub(super) fn on_listed(&self) {
        self.state.send_if_modified(|state| {
            let is_new = state.listed != state.watched;
            state.listed.clone_from(&state.watched);
            is_new
        });
    }

    /// Restricts the current watch to the shards that are held; returns whether any is held.
    pub(super) fn let_go(&self) -> bool {
        let mut is_any = false;
        self.state.send_modify(|state| {
            is_any = !state.held.is_empty();
            state.watched.retain(|shard| state.held.contains_key(shard));
            state.listed.retain(|shard| state.held.contains_key(shard));
        });
        is_any
    }

    /// The required action, once shards have stopped moving.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: only waits.
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
                // Cancel safe: `at_last` keeps the sleep across iterations.
                () = is_late => return call,
                // Cancel safe: only waits. The sender lives in `self`, so an error is a timeout.
                changed = timeout(quiet, state.changed()) => if changed.is_err() { return call },
            }
        }
    }
}

/// A shard whose objects must stay in the cache. When this guard is dropped, they may leave it.
#[derive(Debug)]
pub(crate) struct HeldShard {
    all: Arc<HeldShards>,
    shard: ShardId,
}

impl HeldShard {
    /// Resolves when the cache has all objects of the shard and receives every later change of them.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: only waits.
    pub(crate) async fn listed(&self) {
        let mut state = self.all.state.subscribe();
        // The sender lives as long as this guard.
        let _ = state.wait_for(|it| it.is_whole || it.listed.contains(&self.shard)).await;
    }
}

impl Drop for HeldShard {
    fn drop(&mut self) {
        self.all.state.send_modify(|state| {
            if let Some(count) = state.held.get_mut(&self.shard) {
                *count -= 1;
                if *count == 0 {
                    state.held.remove(&self.shard);
                }
            }
        });
    }
}
