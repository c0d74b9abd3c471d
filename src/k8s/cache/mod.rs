//! Objects of one kind, kept as the API server has them: warm on every node, whoever leads.
//!
//! Fed by kube-runtime's watcher. The store is our own and not kube-runtime's reflector because
//! handlers are told what an object was *before* (predicates, deletions that a re-list brings up), and
//! because its keys cost less (see `cargo bench --bench cache`).
//!
//! # Guarantees
//!
//! * Once it is [synced](Cache::is_synced) it stays readable: while the API server is away it holds what
//!   was last seen, and [`Cache::age`] grows.
//! * A cache that only the work on shards looks at keeps the objects of the shards that are held here, see
//!   [`narrow`]: others leave it without being told as deleted.
//! * Handlers see every change of what is kept, in order, also those that a re-list brings up; a series of
//!   changes of one object may arrive as one.
//! * An object that the type cannot read is left out, said once and counted; the others are kept.

mod guard;
mod held;
mod link;
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

pub use self::set::{ApiScope, CacheSet, Cached, Scope};
pub(crate) use self::{
    held::{HeldShards, Wanted},
    set::{IsSynced, Need, Running},
    source::{Handler, SourceError},
};
use super::key::ObjectKey;
use crate::{clock, engine::BootTime};

/// One change of what is kept.
#[derive(Clone, Debug, PartialEq)]
pub enum Delta<K> {
    /// It was not kept before.
    Added {
        /// As it is.
        object: Arc<K>,
        /// Whether it came by a list and not by an event: nothing is known to have happened just now.
        is_listed: bool,
    },
    /// It was kept with another resource version.
    Changed {
        /// As it was.
        old: Arc<K>,
        /// As it is.
        new: Arc<K>,
    },
    /// It is gone, or has become what this program's type cannot read.
    Deleted {
        /// As it was last seen.
        object: Arc<K>,
    },
}

impl<K> Delta<K> {
    /// The object as it is, or as it was last seen.
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

struct Shelf<K> {
    objects: RwLock<HashMap<ObjectKey, Arc<K>>>,
    /// When it was last known to be as the API server has it; never yet if none.
    fresh: watch::Sender<Option<BootTime>>,
}

impl<K> Cache<K> {
    pub(crate) fn new() -> Self {
        let (objects, fresh) = (RwLock::default(), watch::Sender::default());
        Self { shelf: Arc::new(Shelf { objects, fresh }) }
    }

    /// The object of that key; none if there is none, or if it is not kept here.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.read().get(key).cloned()
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys of all, in no order.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.read().keys().cloned().collect()
    }

    /// All of them, in no order.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.read().values().cloned().collect()
    }

    /// Those that the predicate picks, in no order. It is asked under a lock: it must not wait.
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
        let mut fresh = self.shelf.fresh.subscribe();
        // The sender lives as long as this does.
        let _ = fresh.wait_for(Option::is_some).await;
    }

    /// How long ago the API server was last heard of what is kept; none before it is synced.
    pub fn age(&self) -> Option<Duration> {
        let heard = *self.shelf.fresh.borrow();
        heard.map(|heard| clock::boot_now().since(heard))
    }

    /// The API server was heard of; before the first list is done that says nothing.
    fn heard(&self) {
        self.shelf.fresh.send_if_modified(|fresh| {
            if fresh.is_some() {
                *fresh = Some(clock::boot_now());
            }
            false
        });
    }

    /// A cache that has these.
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

    /// Puts it there; what was there before.
    fn put(&self, key: ObjectKey, object: Arc<K>) -> Option<Arc<K>> {
        let mut objects = self.shelf.objects.write().unwrap_or_else(PoisonError::into_inner);
        objects.insert(key, object)
    }

    fn remove(&self, key: &ObjectKey) -> Option<Arc<K>> {
        let mut objects = self.shelf.objects.write().unwrap_or_else(PoisonError::into_inner);
        objects.remove(key)
    }

    /// Lets go of all that the predicate does not pick.
    fn retain(&self, mut pick: impl FnMut(&K) -> bool) {
        let mut objects = self.shelf.objects.write().unwrap_or_else(PoisonError::into_inner);
        objects.retain(|_, object| pick(object));
        objects.shrink_to_fit();
    }

    /// Puts a whole list in the place of all; what was there before.
    fn replace(&self, listed: HashMap<ObjectKey, Arc<K>>) -> HashMap<ObjectKey, Arc<K>> {
        let old = {
            let mut objects = self.shelf.objects.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *objects, listed)
        };
        self.shelf.fresh.send_replace(Some(clock::boot_now()));
        old
    }
}
