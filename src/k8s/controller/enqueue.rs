//! The queue of a controller: which changed objects enter it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::assignments::{Assignments, Selection};
use crate::k8s::{
    cache::{Cache, Cached, HeldShard, HeldShards},
    key::ObjectKey,
    queue::{Priority, Queue},
    shard::{fnv1a, shard_of_hash},
};

/// Keys that are queued between two checks of the authority: less than a millisecond of work.
pub(super) const ADDED_AT_ONCE: usize = 1024;

/// Queues the objects that are assigned to this node.
pub(super) struct Enqueuer<K: Cached> {
    pub(super) cache: Cache<K>,
    /// The shards that are held here, if the controller is sharded.
    pub(super) held: Option<Arc<HeldShards>>,
    pub(super) queue: Queue<ObjectKey>,
    pub(super) assignments: Assignments,
}

impl<K: Cached> Enqueuer<K> {
    /// Queues an object that has changed, or that depends on a changed object.
    pub(super) fn on_change(&self, key: ObjectKey, object: Option<&Arc<K>>, priority: Priority) {
        let selection = self.selection_of(&key, object);
        if selection.is_some_and(|it| self.assignments.of(it).is_some()) {
            self.queue.add(key, priority);
        }
    }

    /// The selection of an object; `None` if the object is not cached here and its shard is therefore not known.
    pub(super) fn selection_of(
        &self,
        key: &ObjectKey,
        object: Option<&Arc<K>>,
    ) -> Option<Selection> {
        let Some(held) = &self.held else { return Some(Selection::All) };
        let uid = |object: &K| object.meta().uid.as_ref().map(|uid| fnv1a(uid.as_bytes()));
        let hash = match object {
            Some(object) => uid(object),
            None => self.cache.get(key).and_then(|object| uid(&object)),
        }?;
        Some(Selection::Shard(shard_of_hash(hash, held.count())))
    }

    fn is_in(&self, selection: Selection, key: &ObjectKey) -> bool {
        selection == Selection::All || self.selection_of(key, None).is_none_or(|it| it == selection)
    }

    /// Queues all objects of a selection with the priority of a resync. Stops when the work should end: many
    /// objects would delay the hand-over.
    pub(super) async fn add_all(&self, selection: Selection, token: &CancellationToken) {
        let mut keys = self.cache.keys().into_iter();
        while keys.len() > 0 && !token.is_cancelled() {
            for key in keys.by_ref().take(ADDED_AT_ONCE) {
                if self.is_in(selection, &key) {
                    self.queue.add(key, Priority::Resync);
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Makes a sharded cache hold the objects of this selection.
    pub(super) fn hold(&self, selection: Selection) -> Option<HeldShard> {
        match (selection, &self.held) {
            (Selection::Shard(shard), Some(held)) => Some(held.hold(shard)),
            _ => None,
        }
    }

    /// Drops the waiting keys of a selection.
    pub(super) fn remove_all(&self, selection: Selection) {
        self.queue.retain(|key| !self.is_in(selection, key));
    }
}
