//! Feeds a cache from the API server by means of kube-runtime's watcher.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt as _;
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt as _,
        utils::Backoff,
        watcher::{self, Event, InitialListStrategy},
    },
};
use serde::de::DeserializeOwned;

use super::{
    Cache, Delta, HeldShards,
    guard::{Guarded, Unreadable},
    metrics::{OneCache, Restart},
};
use crate::k8s::{explain::explain, key::ObjectKey};

/// Delay between attempts to list or watch: from this,
const RETRY_LEAST: Duration = Duration::from_millis(200);
/// up to this. Work resumes at most this long after the API server is back.
const RETRY_MOST: Duration = Duration::from_secs(10);

/// Number of unreadable objects that are named in warnings. Further ones are counted, and logged at `debug`.
const NAMED_MOST: usize = 10;

/// Called for every change of the cached objects, on the task that feeds the cache: must be quick and must not block.
pub(crate) type Handler<K> = Box<dyn Fn(&Delta<K>) + Send + Sync>;

/// Delay that doubles with each attempt, with jitter, so that clients do not all hit a restarted server at once.
#[derive(Debug)]
pub(super) struct Retry(Duration);

impl Default for Retry {
    fn default() -> Self {
        Self(RETRY_LEAST)
    }
}

impl Iterator for Retry {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let delay = self.0;
        self.0 = (delay * 2).min(RETRY_MOST);
        Some(delay.mul_f64(rand::random_range(0.5..=1.0)))
    }
}

impl Backoff for Retry {
    fn reset(&mut self) {
        self.0 = RETRY_LEAST;
    }
}

/// Objects that the type cannot deserialize, with the reason: each is logged once.
#[derive(Debug, Default)]
pub(super) struct UnreadableSet(Mutex<HashMap<ObjectKey, String>>);

impl UnreadableSet {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectKey, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Objects of a list that is still being received.
struct Listed<K> {
    objects: HashMap<ObjectKey, Arc<K>>,
    unreadable: HashMap<ObjectKey, String>,
}

/// Returns the API of a kind, restricted by a shard selector if one is given.
pub(super) type ApiOf<K> = Box<dyn Fn(Option<&str>) -> Api<Guarded<K>> + Send + Sync>;

/// Everything that feeds one cache.
pub(super) struct Source<K> {
    pub(super) api: ApiOf<K>,
    pub(super) config: watcher::Config,
    pub(super) cache: Cache<K>,
    pub(super) handlers: Vec<Handler<K>>,
    /// Shards whose objects are cached; all objects if `None`.
    pub(super) held: Option<Arc<HeldShards>>,
    pub(super) unreadable: UnreadableSet,
    pub(super) metrics: OneCache,
}

impl<K> Source<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    /// Feeds the cache for as long as the future is polled.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the cache stays as it is.
    pub(super) async fn run(&self) -> Infallible {
        let mut config = self.config.clone();
        loop {
            let falls_back = self.watch((self.api)(None), config.clone()).await;
            if falls_back {
                self.say_no_streaming();
                config.initial_list_strategy = InitialListStrategy::ListWatch;
            }
        }
    }

    pub(super) fn say_no_streaming(&self) {
        tracing::info!(
            kind = self.metrics.kind(),
            "the API server does not stream lists: lists are paged"
        );
    }

    /// Watches until the server rejects streaming lists. Returns whether it did.
    pub(super) async fn watch(&self, api: Api<Guarded<K>>, config: watcher::Config) -> bool {
        let streams = config.initial_list_strategy == InitialListStrategy::StreamingList;
        let retry = Retry::default();
        let mut events = watcher::watcher(api, config).backoff(retry).boxed();
        let mut listed = Listed { objects: HashMap::new(), unreadable: HashMap::new() };
        loop {
            // The watcher never ends; if it did, the caller would restart it.
            let Some(event) = events.next().await else { return false };
            match event {
                Ok(event) => self.on_event(event, &mut listed),
                Err(error) => {
                    if streams && is_no_streaming(&error) {
                        return true;
                    }
                    self.on_error(&error);
                }
            }
        }
    }

    pub(super) fn on_error(&self, error: &watcher::Error) {
        let kind = restart(error);
        self.metrics.on_restart(kind);
        let what = in_words(error);
        if kind == Restart::Expired || (kind == Restart::Unavailable && !self.cache.is_synced()) {
            tracing::info!(kind = self.metrics.kind(), error = %what, "restarting the watch");
        } else {
            tracing::warn!(kind = self.metrics.kind(), error = %what, "watch failed, retrying");
        }
    }

    fn on_event(&self, event: Event<Guarded<K>>, listed: &mut Listed<K>) {
        match event {
            Event::Init => {
                listed.objects.clear();
                listed.unreadable.clear();
            }
            Event::InitApply(object) if !self.keeps(&object) => {}
            Event::InitApply(object) => {
                let key = ObjectKey::of(&object);
                match object.0 {
                    Ok(object) => {
                        listed.objects.insert(key, Self::pruned(object));
                    }
                    Err(Unreadable { why, .. }) => {
                        self.on_unreadable(key.clone(), why.clone());
                        listed.unreadable.insert(key, why);
                    }
                }
            }
            Event::InitDone => {
                *self.unreadable.lock() = std::mem::take(&mut listed.unreadable);
                self.on_list(std::mem::take(&mut listed.objects));
            }
            Event::Apply(object) => {
                self.metrics.applied.inc();
                if self.keeps(&object) {
                    self.on_apply(object);
                }
            }
            Event::Delete(object) => {
                self.metrics.deleted.inc();
                let key = ObjectKey::of(&object);
                self.unreadable.lock().remove(&key);
                if let Some(old) = self.cache.remove(&key) {
                    let object = object.0.map_or(old, Self::pruned);
                    self.tell(&Delta::Deleted { object });
                }
            }
        }
        self.show();
    }

    /// Updates the metrics with the number of objects.
    pub(super) fn show(&self) {
        self.metrics.show(self.cache.len(), self.unreadable.lock().len());
    }

    /// Removes all objects from the cache.
    pub(super) fn clear(&self) {
        self.cache.replace(HashMap::new());
        self.unreadable.lock().clear();
        self.show();
    }

    fn on_apply(&self, object: Guarded<K>) {
        let key = ObjectKey::of(&object);
        let object = match object.0 {
            Ok(object) => Self::pruned(object),
            // The cached state is outdated, so the object leaves the cache until it can be read again.
            Err(Unreadable { why, .. }) => {
                if let Some(object) = self.cache.remove(&key) {
                    self.tell(&Delta::Deleted { object });
                }
                return self.on_unreadable(key, why);
            }
        };
        self.unreadable.lock().remove(&key);
        match self.cache.put(key, Arc::clone(&object)) {
            Some(old) if is_same(&*old, &*object) => {}
            Some(old) if old.meta().uid != object.meta().uid => {
                self.tell(&Delta::Deleted { object: old });
                self.tell(&Delta::Added { object, is_listed: false });
            }
            Some(old) => self.tell(&Delta::Changed { old, new: object }),
            None => self.tell(&Delta::Added { object, is_listed: false }),
        }
    }

    /// Logs once that an object cannot be read, and again if the reason changes.
    fn on_unreadable(&self, key: ObjectKey, why: String) {
        let mut known = self.unreadable.lock();
        if known.get(&key).is_some_and(|it| *it == why) {
            return;
        }
        let kind = self.metrics.kind();
        let said = "an object is left out: this version of the program cannot read it";
        if known.len() < NAMED_MOST {
            tracing::warn!(kind, object = %key, error = why, "{said}");
        } else {
            tracing::debug!(kind, object = %key, error = why, "{said}");
        }
        known.insert(key, why);
    }

    /// A whole list has arrived: objects that differ from the cached ones have changed meanwhile.
    fn on_list(&self, mut listed: HashMap<ObjectKey, Arc<K>>) {
        listed.retain(|_, object| self.keeps(&**object));
        let now: Vec<(ObjectKey, Arc<K>)> =
            listed.iter().map(|(key, object)| (key.clone(), Arc::clone(object))).collect();
        let mut old = self.cache.replace(listed);
        // Objects of shards that are no longer held may still exist, so they cause no `Deleted`.
        old.retain(|_, object| self.keeps(&**object));
        for (key, object) in now {
            match old.remove(&key) {
                Some(old) if is_same(&*old, &*object) => {}
                Some(old) if old.meta().uid != object.meta().uid => {
                    self.tell(&Delta::Deleted { object: old });
                    self.tell(&Delta::Added { object, is_listed: false });
                }
                Some(old) => self.tell(&Delta::Changed { old, new: object }),
                None => self.tell(&Delta::Added { object, is_listed: true }),
            }
        }
        for (_, object) in old {
            self.tell(&Delta::Deleted { object });
        }
        if let Some(held) = &self.held {
            held.on_listed();
        }
    }

    fn keeps(&self, object: &impl Resource) -> bool {
        self.held.as_ref().is_none_or(|held| held.keeps(object))
    }

    fn pruned(mut object: K) -> Arc<K> {
        // Managed fields are a third of a small object, and no reconciler needs them.
        object.meta_mut().managed_fields = None;
        Arc::new(object)
    }

    fn tell(&self, delta: &Delta<K>) {
        for handler in &self.handlers {
            handler(delta);
        }
    }
}

fn is_same<K: Resource>(old: &K, new: &K) -> bool {
    let (old, new) = (old.meta(), new.meta());
    old.uid == new.uid && old.resource_version == new.resource_version
}

/// The reason of a restart after this error.
fn restart(error: &watcher::Error) -> Restart {
    let status = match error {
        watcher::Error::WatchError(status) => Some(status),
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => match error {
            kube::Error::Api(status) => Some(status),
            _ => None,
        },
        watcher::Error::NoResourceVersion => None,
    };
    let code = status.map_or(0, |status| status.code);
    match code {
        410 => Restart::Expired,
        401 | 403 => Restart::Denied,
        404 => Restart::NoKind,
        429 => Restart::Throttled,
        _ => Restart::Unavailable,
    }
}

/// Explanation of a watch error that a person can act on.
fn in_words(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => explain(error).to_string(),
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => error.to_string(),
    }
}

/// Whether the server cannot stream lists: because it is older, or because of the kind's storage.
fn is_no_streaming(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status))
        if status.code == 422 || status.code == 400)
}
