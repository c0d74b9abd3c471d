//! Caches of the objects of one kind, kept in step with the API server on every node, leader or not.
//!
//! Kube-runtime's watcher feeds a cache. The store is our own and not kube-runtime's reflector, because
//! handlers get the object *before* a change (for predicates, and for deletions that a re-list reveals), and
//! because its keys cost less (see `cargo bench --bench cache`).
//!
//! # Guarantees
//!
//! * Once a cache is [synced](Cache::is_synced) it stays readable: while the API server is away the cache
//!   holds the last known objects, and [`Cache::age`] grows.
//! * A cache that only sharded work uses holds the objects of the shards that are held here, see [`narrow`].
//!   Objects of other shards leave the cache without a `Deleted` event.
//! * Handlers get every change of the cached objects, in order, including changes that a re-list reveals.
//!   Several changes of one object may arrive as one.
//! * An object that the type cannot deserialize is left out, logged once and counted; the others are cached.

mod guard;
mod held;
mod link;
mod metrics;
mod narrow;
mod set;
mod source;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::sync::watch;

pub use self::set::{ApiScope, Cached, Scope};
pub(crate) use self::{
    held::{HeldShard, HeldShards},
    metrics::CacheMetrics,
    set::{CacheSet, Need, Readable, Running},
    source::Handler,
};
use super::key::ObjectKey;
use crate::{clock, engine::BootTime};

/// Change of a cached object.
#[derive(Clone, Debug, PartialEq)]
pub enum Delta<K> {
    /// The object was not in the cache before.
    Added {
        /// The object as it is now.
        object: Arc<K>,
        /// Whether a list delivered the object and not an event: the object may have existed for a long time.
        is_listed: bool,
    },
    /// The object was cached with another resource version.
    Changed {
        /// The object before the change.
        old: Arc<K>,
        /// The object after the change.
        new: Arc<K>,
    },
    /// The object was deleted, or changed so that this program's type cannot deserialize it.
    Deleted {
        /// The last known state of the object.
        object: Arc<K>,
    },
}

impl<K> Delta<K> {
    /// The object as it is now, or its last known state.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Added { object, .. } | Self::Deleted { object } => object,
            Self::Changed { new, .. } => new,
        }
    }
}

/// A view of the objects of one kind. Cheap to clone.
pub struct Cache<K> {
    shelf: Arc<Shelf<K>>,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self { shelf: Arc::clone(&self.shelf) }
    }
}

impl<K> fmt::Debug for Cache<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("objects", &self.len())
            .field("synced", &self.is_synced())
            .finish_non_exhaustive()
    }
}

/// Shows whether a cache is synced.
#[derive(Clone, Debug)]
pub(crate) struct Synced(watch::Receiver<Option<BootTime>>);

impl Synced {
    pub(crate) fn is_synced(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Resolves when the cache is synced, and never if the cache is dropped before.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: only waits.
    pub(crate) async fn wait(&self) {
        if self.0.clone().wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

struct Shelf<K> {
    objects: RwLock<HashMap<ObjectKey, Arc<K>>>,
    /// When the cache was last known to be up to date; `None` before the first list.
    fresh: watch::Sender<Option<BootTime>>,
}

impl<K> Cache<K> {
    pub(crate) fn new() -> Self {
        let (objects, fresh) = (RwLock::default(), watch::Sender::default());
        Self { shelf: Arc::new(Shelf { objects, fresh }) }
    }

    /// The object with this key; `None` if no such object is cached.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.read().get(key).cloned()
    }

    /// Number of cached objects.
    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// Whether the cache is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys of all cached objects, in no order.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.read().keys().cloned().collect()
    }

    /// All cached objects, in no order.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.read().values().cloned().collect()
    }

    /// The cached objects that the predicate accepts, in no order. The predicate runs under a lock and must not block.
    pub fn filter(&self, mut pick: impl FnMut(&K) -> bool) -> Vec<Arc<K>> {
        self.read().values().filter(|object| pick(object)).cloned().collect()
    }

    /// Whether all objects have been listed once.
    pub fn is_synced(&self) -> bool {
        self.shelf.fresh.borrow().is_some()
    }

    /// Resolves when all objects have been listed once.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: only waits.
    pub async fn synced(&self) {
        self.sync().wait().await;
    }

    /// A handle that shows whether the cache is synced, of a type that does not depend on the kind.
    pub(crate) fn sync(&self) -> Synced {
        Synced(self.shelf.fresh.subscribe())
    }

    /// Time since the API server last reported on this kind; `None` before the cache is synced.
    pub fn age(&self) -> Option<Duration> {
        let heard = *self.shelf.fresh.borrow();
        heard.map(|heard| clock::boot_now().since(heard))
    }

    /// Notes that the API server has answered; without effect before the first list is complete.
    fn heard(&self) {
        self.shelf.fresh.send_if_modified(|fresh| {
            if fresh.is_some() {
                *fresh = Some(clock::boot_now());
            }
            false
        });
    }

    /// Creates a synced cache with these objects.
    #[cfg(test)]
    pub(crate) fn holding(objects: impl IntoIterator<Item = K>) -> Self
    where
        K: kube::Resource,
    {
        let cache = Self::new();
        let key = |object| (ObjectKey::of(&object), Arc::new(object));
        cache.replace(objects.into_iter().map(key).collect());
        cache
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<ObjectKey, Arc<K>>> {
        self.shelf.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Inserts an object, and returns the one that it replaces.
    pub(crate) fn put(&self, key: ObjectKey, object: Arc<K>) -> Option<Arc<K>> {
        let mut objects = self.shelf.objects.write().unwrap_or_else(PoisonError::into_inner);
        objects.insert(key, object)
    }

    pub(crate) fn remove(&self, key: &ObjectKey) -> Option<Arc<K>> {
        let mut objects = self.shelf.objects.write().unwrap_or_else(PoisonError::into_inner);
        objects.remove(key)
    }

    /// Removes all objects that the predicate rejects.
    fn retain(&self, mut pick: impl FnMut(&K) -> bool) {
        let mut objects = self.shelf.objects.write().unwrap_or_else(PoisonError::into_inner);
        objects.retain(|_, object| pick(object));
        objects.shrink_to_fit();
    }

    /// Replaces all objects with a complete list, and returns the former ones.
    pub(crate) fn replace(&self, listed: HashMap<ObjectKey, Arc<K>>) -> HashMap<ObjectKey, Arc<K>> {
        let old = {
            let mut objects = self.shelf.objects.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *objects, listed)
        };
        self.shelf.fresh.send_replace(Some(clock::boot_now()));
        old
    }
}
