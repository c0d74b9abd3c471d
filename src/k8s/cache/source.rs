//! What keeps a cache as the API server has it: kube-runtime's watcher, applied.

use std::{collections::HashMap, convert::Infallible, fmt::Debug, sync::Arc, time::Duration};

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
    Cache, Delta,
    guard::{Guarded, Unreadable},
};
use crate::k8s::{client::explain, key::ObjectKey, metrics::CacheMetrics};

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
struct Retry(Duration);

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

/// What is known of the kind beside what is kept.
struct Progress<K> {
    /// What a list that is on its way has brought so far.
    listed: HashMap<ObjectKey, Arc<K>>,
    unreadable_listed: HashMap<ObjectKey, String>,
    /// Objects that the type does not take, and why.
    unreadable: HashMap<ObjectKey, String>,
}

impl<K> Default for Progress<K> {
    fn default() -> Self {
        let (listed, unreadable_listed) = (HashMap::new(), HashMap::new());
        Self { listed, unreadable_listed, unreadable: HashMap::new() }
    }
}

/// Keeps one cache.
pub(super) struct Source<K> {
    pub(super) api: Api<Guarded<K>>,
    pub(super) config: watcher::Config,
    pub(super) cache: Cache<K>,
    pub(super) handlers: Vec<Handler<K>>,
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
        let mut config = self.config.clone();
        let mut progress = Progress::default();
        loop {
            let falls_back = self.watch(config.clone(), &mut progress).await;
            if falls_back {
                tracing::info!(
                    kind = self.metrics.kind(),
                    "the API server does not stream lists: lists are paged"
                );
                config.initial_list_strategy = InitialListStrategy::ListWatch;
            }
        }
    }

    /// Watches until the server refuses to stream lists.
    async fn watch(&self, config: watcher::Config, progress: &mut Progress<K>) -> bool {
        let streams = config.initial_list_strategy == InitialListStrategy::StreamingList;
        let retry = Retry(RETRY_LEAST);
        let mut events = watcher::watcher(self.api.clone(), config).backoff(retry).boxed();
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.on_event(event, progress),
                Err(error) => {
                    if streams && is_no_streaming(&error) {
                        return true;
                    }
                    self.on_error(&error);
                }
            }
        }
        // The watcher never ends; if it did, it is begun anew.
        false
    }

    fn on_error(&self, error: &watcher::Error) {
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

    fn on_event(&self, event: Event<Guarded<K>>, progress: &mut Progress<K>) {
        self.cache.heard();
        match event {
            Event::Init => {
                progress.listed.clear();
                progress.unreadable_listed.clear();
            }
            Event::InitApply(object) => {
                let key = ObjectKey::of(&object);
                match object.0 {
                    Ok(object) => {
                        progress.listed.insert(key, Self::pruned(object));
                    }
                    Err(Unreadable { why, .. }) => {
                        self.say_unreadable(&key, &why, &progress.unreadable);
                        progress.unreadable.insert(key.clone(), why.clone());
                        progress.unreadable_listed.insert(key, why);
                    }
                }
            }
            Event::InitDone => {
                progress.unreadable = std::mem::take(&mut progress.unreadable_listed);
                self.on_list(std::mem::take(&mut progress.listed));
            }
            Event::Apply(object) => {
                self.metrics.on_event("apply");
                let key = ObjectKey::of(&object);
                match object.0 {
                    Ok(object) => {
                        progress.unreadable.remove(&key);
                        self.on_apply(key, Self::pruned(object));
                    }
                    // What it was is not what it is: it is not kept until it can be read again.
                    Err(Unreadable { why, .. }) => {
                        self.say_unreadable(&key, &why, &progress.unreadable);
                        if let Some(object) = self.cache.remove(&key) {
                            self.tell(&Delta::Deleted { object });
                        }
                        progress.unreadable.insert(key, why);
                    }
                }
            }
            Event::Delete(object) => {
                self.metrics.on_event("delete");
                let key = ObjectKey::of(&object);
                progress.unreadable.remove(&key);
                if let Some(old) = self.cache.remove(&key) {
                    let object = object.0.map_or(old, |object| Self::pruned(object));
                    self.tell(&Delta::Deleted { object });
                }
            }
        }
        self.metrics.show(self.cache.len(), progress.unreadable.len());
    }

    fn on_apply(&self, key: ObjectKey, object: Arc<K>) {
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
    fn say_unreadable(&self, key: &ObjectKey, why: &str, known: &HashMap<ObjectKey, String>) {
        if known.get(key).is_some_and(|it| it == why) {
            return;
        }
        let kind = self.metrics.kind();
        let said = "an object is left out: this version of the program cannot read it";
        if known.len() < NAMED_MOST {
            tracing::warn!(kind, object = %key, error = why, "{said}");
        } else {
            tracing::debug!(kind, object = %key, error = why, "{said}");
        }
    }

    /// A whole list has come: what differs from what was kept has changed meanwhile.
    fn on_list(&self, listed: HashMap<ObjectKey, Arc<K>>) {
        let now: Vec<(ObjectKey, Arc<K>)> =
            listed.iter().map(|(key, object)| (key.clone(), Arc::clone(object))).collect();
        let mut old = self.cache.replace(listed);
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
