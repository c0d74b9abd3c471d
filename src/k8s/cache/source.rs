//! What keeps a cache as the API server has it: kube-runtime's watcher, applied.

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
    narrow,
};
use crate::k8s::{explain::explain, key::ObjectKey, metrics::CacheMetrics};

/// Between attempts to list or watch: from this,
const RETRY_LEAST: Duration = Duration::from_millis(200);
/// up to this. Work resumes that long after the API server is back, at the latest.
const RETRY_MOST: Duration = Duration::from_secs(10);

/// So many objects that cannot be read are named in warnings; more are in the metric, and said on `debug`.
const NAMED_MOST: usize = 10;

/// Is told every change of what is kept, on the task that keeps it: it must be quick and must not wait.
pub(crate) type Handler<K> = Box<dyn Fn(&Delta<K>) + Send + Sync>;

/// Doubles from attempt to attempt, and is shortened by chance: a restarted server is not asked by all at once.
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

/// Why a watch was begun anew, as the metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SourceError {
    /// What was to be resumed is no longer kept by the server (410): all is listed anew.
    Expired,
    /// The server refused (403, 401).
    Denied,
    /// There is no such kind (404).
    NoKind,
    /// Too many requests (429).
    Throttled,
    /// Anything else: the server is away, restarts, or closed the stream.
    Unavailable,
}

impl SourceError {
    pub(crate) const ALL: [Self; 5] =
        [Self::Expired, Self::Denied, Self::NoKind, Self::Throttled, Self::Unavailable];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Denied => "denied",
            Self::NoKind => "no_kind",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
        }
    }

    fn of(error: &watcher::Error) -> Self {
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
            410 => Self::Expired,
            401 | 403 => Self::Denied,
            404 => Self::NoKind,
            429 => Self::Throttled,
            _ => Self::Unavailable,
        }
    }
}

/// Objects that the type does not take, and why: each is said once.
#[derive(Debug, Default)]
pub(super) struct UnreadableSet(Mutex<HashMap<ObjectKey, String>>);

impl UnreadableSet {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectKey, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a list that is on its way has brought so far.
struct Listed<K> {
    objects: HashMap<ObjectKey, Arc<K>>,
    unreadable: HashMap<ObjectKey, String>,
}

/// Hands out the API of a kind; with a selector, that of the objects it picks.
pub(super) type ApiOf<K> = Box<dyn Fn(Option<&str>) -> Api<Guarded<K>> + Send + Sync>;

/// Keeps one cache.
pub(super) struct Source<K> {
    pub(super) api: ApiOf<K>,
    pub(super) config: watcher::Config,
    pub(super) cache: Cache<K>,
    pub(super) handlers: Vec<Handler<K>>,
    /// Only the objects of these are kept; all if none.
    pub(super) held: Option<Arc<HeldShards>>,
    pub(super) unreadable: UnreadableSet,
    pub(super) metrics: CacheMetrics,
}

impl<K> Source<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    /// Keeps it for as long as it is polled.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the cache stays as it is.
    pub(super) async fn run(self) -> Infallible {
        if let Some(held) = &self.held {
            return narrow::run(&self, held).await;
        }
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

    /// Watches until the server refuses to stream lists.
    pub(super) async fn watch(&self, api: Api<Guarded<K>>, config: watcher::Config) -> bool {
        let streams = config.initial_list_strategy == InitialListStrategy::StreamingList;
        let retry = Retry::default();
        let mut events = watcher::watcher(api, config).backoff(retry).boxed();
        let mut listed = Listed { objects: HashMap::new(), unreadable: HashMap::new() };
        loop {
            // The watcher never ends; if it did, it is begun anew.
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
        let kind = SourceError::of(error);
        self.metrics.on_restart(kind);
        let what = in_words(error);
        if kind == SourceError::Expired
            || (kind == SourceError::Unavailable && !self.cache.is_synced())
        {
            tracing::info!(kind = self.metrics.kind(), error = %what, "watch is begun anew");
        } else {
            tracing::warn!(kind = self.metrics.kind(), error = %what, "watch failed; trying again");
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
                self.metrics.on_event("apply");
                if self.keeps(&object) {
                    self.on_apply(object);
                }
            }
            Event::Delete(object) => {
                self.metrics.on_event("delete");
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

    /// Shows how many there are.
    pub(super) fn show(&self) {
        self.metrics.show(self.cache.len(), self.unreadable.lock().len());
    }

    /// None is kept any more.
    pub(super) fn clear(&self) {
        self.cache.replace(HashMap::new());
        self.unreadable.lock().clear();
        self.show();
    }

    fn on_apply(&self, object: Guarded<K>) {
        let key = ObjectKey::of(&object);
        let object = match object.0 {
            Ok(object) => Self::pruned(object),
            // What it was is not what it is: it is not kept until it can be read again.
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

    /// Says once of an object that it cannot be read, and again if the reason changes.
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

    /// A whole list has come: what differs from what was kept has changed meanwhile.
    fn on_list(&self, mut listed: HashMap<ObjectKey, Arc<K>>) {
        listed.retain(|_, object| self.keeps(&**object));
        let now: Vec<(ObjectKey, Arc<K>)> =
            listed.iter().map(|(key, object)| (key.clone(), Arc::clone(object))).collect();
        let mut old = self.cache.replace(listed);
        // What is not kept any more may be there still.
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
        // A third of a small object, and nobody's to reconcile.
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

/// What a watch says, in words a person can act on.
fn in_words(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => explain(error).to_string(),
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => error.to_string(),
    }
}

/// Whether the server does not know lists by way of a watch: it is older, or the kind's storage is.
fn is_no_streaming(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status))
        if status.code == 422 || status.code == 400)
}
