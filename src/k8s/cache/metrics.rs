//! Metrics of caches, by kind.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use crate::metrics::{Build, metrics};

/// Reason why a watch was restarted, as the metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restart {
    /// The server no longer has the resource version to resume from (410): the objects are listed again.
    Expired,
    /// The server rejected the request (403, 401).
    Denied,
    /// The server has no such kind (404).
    NoKind,
    /// The server received too many requests (429).
    Throttled,
    /// Any other failure: the server is away, restarts, or closed the stream.
    Unavailable,
}

impl Restart {
    const ALL: [Self; 5] =
        [Self::Expired, Self::Denied, Self::NoKind, Self::Throttled, Self::Unavailable];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Denied => "denied",
            Self::NoKind => "no_kind",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
        }
    }
}

metrics! { b =>
    /// Metrics of all caches of a process.
    pub(crate) struct CacheMetrics {
        objects: IntGaugeVec =
            b.gauges("bellwether_cache_objects", &["kind"], "Objects kept in memory, by kind.");
        unreadable: IntGaugeVec = b.gauges("bellwether_cache_unreadable_objects", &["kind"],
            "Objects that are left out because this version of the program cannot read them, by kind.");
        restarts: IntCounterVec = b.counters("bellwether_watch_restarts_total", &["kind", "reason"],
            "Watches that were restarted, by kind and reason.");
        events: IntCounterVec = b.counters("bellwether_watch_events_total", &["kind", "type"],
            "Changes that watches brought, by kind and type.");
        ages: Ages = Ages::new(b);
    }
}

impl CacheMetrics {
    /// The metrics of one cache, all at zero.
    pub(super) fn of(
        &self,
        kind: &str,
        age: impl Fn() -> Option<Duration> + Send + Sync + 'static,
    ) -> OneCache {
        for why in Restart::ALL {
            self.restarts.with_label_values(&[kind, why.as_str()]);
        }
        let event = |what| self.events.with_label_values(&[kind, what]);
        let age: Arc<AgeOf> = Arc::new(AgeOf { kind: kind.to_owned(), age: Box::new(age) });
        self.ages.add(&age);
        OneCache {
            objects: Part::of(self.objects.with_label_values(&[kind])),
            unreadable: Part::of(self.unreadable.with_label_values(&[kind])),
            restarts: self.restarts.clone(),
            applied: event("apply"),
            deleted: event("delete"),
            age,
        }
    }
}

/// The metrics of one cache. A kind may have several caches, of different scopes.
pub(super) struct OneCache {
    objects: Part,
    unreadable: Part,
    restarts: IntCounterVec,
    pub(super) applied: IntCounter,
    pub(super) deleted: IntCounter,
    age: Arc<AgeOf>,
}

impl OneCache {
    pub(super) fn kind(&self) -> &str {
        &self.age.kind
    }

    pub(super) fn show(&self, objects: usize, unreadable: usize) {
        self.objects.set(objects);
        self.unreadable.set(unreadable);
    }

    pub(super) fn on_restart(&self, why: Restart) {
        self.restarts.with_label_values(&[self.kind(), why.as_str()]).inc();
    }
}

/// The part that one cache adds to its kind's gauge, until it is dropped.
struct Part {
    sum: IntGauge,
    own: AtomicI64,
}

impl Part {
    fn of(sum: IntGauge) -> Self {
        Self { sum, own: AtomicI64::new(0) }
    }

    fn set(&self, now: usize) {
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        self.sum.add(now - self.own.swap(now, Relaxed));
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// The age of one cache.
struct AgeOf {
    kind: String,
    age: Box<dyn Fn() -> Option<Duration> + Send + Sync>,
}

/// The ages of all caches, each computed at each scrape. Of the caches of one kind the oldest is shown.
#[derive(Clone, Default)]
struct Ages(Arc<Mutex<Vec<Weak<AgeOf>>>>);

impl Ages {
    fn new(b: &Build) -> Self {
        let this = Self::default();
        let caches = Arc::clone(&this.0);
        let help = "Since the API server was last heard of what is kept, by kind, in seconds.";
        let opts = Opts::new("bellwether_cache_age_seconds", help);
        b.computed(|b| {
            let family = b.add(GaugeVec::new(opts, &["kind"]));
            move || {
                family.reset();
                let caches = caches.lock().unwrap_or_else(PoisonError::into_inner);
                for cache in caches.iter().filter_map(Weak::upgrade) {
                    if let Some(age) = (cache.age)() {
                        let series = family.with_label_values(&[cache.kind.as_str()]);
                        series.set(age.as_secs_f64().max(series.get()));
                    }
                }
            }
        });
        this
    }

    fn add(&self, age: &Arc<AgeOf>) {
        let mut caches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        caches.retain(|cache| cache.strong_count() > 0);
        caches.push(Arc::downgrade(age));
    }
}

#[cfg(test)]
mod tests;
