//! Metrics of the Kubernetes layer. Names, types and labels are controller-runtime's and client-go's where
//! the meaning is the same, so that existing dashboards and alerts work.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use prometheus::{
    Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::cache::SourceError;

/// Buckets of the time in a reconciler, in seconds, as in controller-runtime.
const RECONCILE_BUCKETS: [f64; 40] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9,
    1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 15.0, 20.0,
    25.0, 30.0, 40.0, 50.0, 60.0,
];

/// Result of a reconcile, as `controller_runtime_reconcile_total` labels it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    Error,
    /// The object is queued again after a back-off, although the run did not fail.
    Requeue,
    RequeueAfter,
}

impl Outcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Error => "error",
            Self::Requeue => "requeue",
            Self::RequeueAfter => "requeue_after",
        }
    }
}

/// The metrics of this layer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct K8sMetrics {
    families: Families,
    ages: Ages,
}

#[derive(Clone, Debug)]
struct Families {
    reconciles: IntCounterVec,
    errors: IntCounterVec,
    terminal_errors: IntCounterVec,
    panics: IntCounterVec,
    timeouts: IntCounterVec,
    time: HistogramVec,
    most_at_once: IntGaugeVec,
    active_workers: IntGaugeVec,
    gate_open: IntGaugeVec,
    gate_close_seconds: HistogramVec,
    refused_writes: IntCounterVec,
    cache_objects: IntGaugeVec,
    cache_unreadable: IntGaugeVec,
    watch_restarts: IntCounterVec,
    watch_events: IntCounterVec,
    fence: IntGauge,
}

impl K8sMetrics {
    /// Creates the metrics and registers them.
    ///
    /// # Errors
    ///
    /// If a metric of the same name is registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self::new()?;
        for collector in metrics.collectors() {
            registry.register(collector)?;
        }
        Ok(metrics)
    }

    /// Creates metrics without a registry.
    ///
    /// # Errors
    ///
    /// Never with these names; the type is the registry's.
    pub fn new() -> prometheus::Result<Self> {
        Ok(Self { families: Families::new()?, ages: Ages::new()? })
    }

    /// The collectors that [`Self::register`] registers.
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let it = &self.families;
        vec![
            Box::new(it.reconciles.clone()),
            Box::new(it.errors.clone()),
            Box::new(it.terminal_errors.clone()),
            Box::new(it.panics.clone()),
            Box::new(it.timeouts.clone()),
            Box::new(it.time.clone()),
            Box::new(it.most_at_once.clone()),
            Box::new(it.active_workers.clone()),
            Box::new(it.gate_open.clone()),
            Box::new(it.gate_close_seconds.clone()),
            Box::new(it.refused_writes.clone()),
            Box::new(it.cache_objects.clone()),
            Box::new(it.cache_unreadable.clone()),
            Box::new(it.watch_restarts.clone()),
            Box::new(it.watch_events.clone()),
            Box::new(it.fence.clone()),
            Box::new(self.ages.clone()),
        ]
    }

    /// The metrics of one controller, all at zero.
    pub(crate) fn controller(&self, name: &str) -> ControllerMetrics {
        let it = &self.families;
        let outcome = |outcome: Outcome| it.reconciles.with_label_values(&[name, outcome.as_str()]);
        let refused = |why| Refusals(it.refused_writes.with_label_values(&[name, why]));
        ControllerMetrics {
            success: outcome(Outcome::Success),
            error: outcome(Outcome::Error),
            requeue: outcome(Outcome::Requeue),
            requeue_after: outcome(Outcome::RequeueAfter),
            errors: it.errors.with_label_values(&[name]),
            terminal_errors: it.terminal_errors.with_label_values(&[name]),
            panics: it.panics.with_label_values(&[name]),
            timeouts: it.timeouts.with_label_values(&[name]),
            time: it.time.with_label_values(&[name]),
            most_at_once: it.most_at_once.with_label_values(&[name]),
            active_workers: it.active_workers.with_label_values(&[name]),
            gate_open: it.gate_open.with_label_values(&[name]),
            gate_close_seconds: it.gate_close_seconds.with_label_values(&[name]),
            refused: refused("authority"),
            stale_fence: refused("fence"),
        }
    }

    /// The metrics of one cache.
    pub(crate) fn cache(
        &self,
        kind: &str,
        age: impl Fn() -> Option<Duration> + Send + Sync + 'static,
    ) -> CacheMetrics {
        let it = &self.families;
        let restarts =
            |why: SourceError| (why, it.watch_restarts.with_label_values(&[kind, why.as_str()]));
        let event = |what| (what, it.watch_events.with_label_values(&[kind, what]));
        let age: Arc<AgeOf> = Arc::new(AgeOf { kind: kind.to_owned(), age: Box::new(age) });
        self.ages.add(&age);
        CacheMetrics {
            kind: kind.to_owned(),
            objects: Part::of(it.cache_objects.with_label_values(&[kind])),
            unreadable: Part::of(it.cache_unreadable.with_label_values(&[kind])),
            restarts: SourceError::ALL.map(restarts),
            events: ["apply", "delete"].map(event),
            _age: age,
        }
    }

    /// Counter of rejected draws of the fence.
    pub(crate) fn draws(&self) -> Refusals {
        Refusals(self.families.refused_writes.with_label_values(&["election", "authority"]))
    }

    /// The fence of this node's writes; 0 while the node does not lead.
    pub(crate) fn fence(&self) -> &IntGauge {
        &self.families.fence
    }
}

impl Families {
    fn new() -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            IntGaugeVec::new(Opts::new(name, help), labels)
        };
        let of = &["controller"][..];
        Ok(Self {
            reconciles: counter(
                "controller_runtime_reconcile_total",
                "Reconciles by controller and result.",
                &["controller", "result"],
            )?,
            errors: counter(
                "controller_runtime_reconcile_errors_total",
                "Reconciles that failed, by controller.",
                of,
            )?,
            terminal_errors: counter(
                "controller_runtime_terminal_reconcile_errors_total",
                "Reconciles that failed permanently, by controller.",
                of,
            )?,
            panics: counter(
                "controller_runtime_reconcile_panics_total",
                "Reconciles that panicked, by controller.",
                of,
            )?,
            timeouts: counter(
                "controller_runtime_reconcile_timeouts_total",
                "Reconciles that took too long and were dropped, by controller.",
                of,
            )?,
            time: HistogramVec::new(
                HistogramOpts::new(
                    "controller_runtime_reconcile_time_seconds",
                    "Time in the reconciler, by controller, in seconds.",
                )
                .buckets(RECONCILE_BUCKETS.to_vec()),
                of,
            )?,
            most_at_once: gauge(
                "controller_runtime_max_concurrent_reconciles",
                "How many reconciles a controller may run at once.",
                of,
            )?,
            active_workers: gauge(
                "controller_runtime_active_workers",
                "How many reconciles a controller runs now.",
                of,
            )?,
            gate_open: gauge(
                "bellwether_controller_gate_open",
                "How many gates of a controller are open: 1 on the leader, or the shards it works on.",
                of,
            )?,
            gate_close_seconds: HistogramVec::new(
                HistogramOpts::new(
                    "bellwether_controller_gate_close_seconds",
                    "From the end of the right to work until all workers were joined, in seconds.",
                )
                .buckets(vec![0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0]),
                of,
            )?,
            refused_writes: counter(
                "bellwether_controller_refused_writes_total",
                "Writes of reconcilers that were refused: their authority had ended, or a later leader's \
                 fence was found.",
                &["controller", "reason"],
            )?,
            cache_objects: gauge(
                "bellwether_cache_objects",
                "Objects kept in memory, by kind.",
                &["kind"],
            )?,
            cache_unreadable: gauge(
                "bellwether_cache_unreadable_objects",
                "Objects that are left out because this version of the program cannot read them, by kind.",
                &["kind"],
            )?,
            watch_restarts: counter(
                "bellwether_watch_restarts_total",
                "Watches that were restarted, by kind and reason.",
                &["kind", "reason"],
            )?,
            watch_events: counter(
                "bellwether_watch_events_total",
                "Changes that watches brought, by kind and type.",
                &["kind", "type"],
            )?,
            fence: IntGauge::new(
                "bellwether_fence",
                "The fence number of this node's writes to Kubernetes while it leads, else 0.",
            )?,
        })
    }
}

/// Counter of writes that were rejected for one reason.
#[derive(Clone, Debug)]
pub(crate) struct Refusals(IntCounter);

impl Refusals {
    pub(crate) fn count(&self) {
        self.0.inc();
    }
}

/// The metrics of one controller.
#[derive(Clone, Debug)]
pub(crate) struct ControllerMetrics {
    success: IntCounter,
    error: IntCounter,
    requeue: IntCounter,
    requeue_after: IntCounter,
    errors: IntCounter,
    terminal_errors: IntCounter,
    pub(crate) panics: IntCounter,
    pub(crate) timeouts: IntCounter,
    pub(crate) time: prometheus::Histogram,
    pub(crate) most_at_once: IntGauge,
    pub(crate) active_workers: IntGauge,
    pub(crate) gate_open: IntGauge,
    pub(crate) gate_close_seconds: prometheus::Histogram,
    pub(crate) refused: Refusals,
    pub(crate) stale_fence: Refusals,
}

impl ControllerMetrics {
    pub(crate) fn on_end(&self, outcome: Outcome) {
        match outcome {
            Outcome::Success => self.success.inc(),
            Outcome::RequeueAfter => self.requeue_after.inc(),
            Outcome::Error => self.error.inc(),
            Outcome::Requeue => self.requeue.inc(),
        }
    }

    pub(crate) fn on_error(&self, is_terminal: bool) {
        self.error.inc();
        self.errors.inc();
        if is_terminal {
            self.terminal_errors.inc();
        }
    }
}

/// The metrics of one cache. A kind may have several, of different scopes.
#[derive(Debug)]
pub(crate) struct CacheMetrics {
    kind: String,
    objects: Part,
    unreadable: Part,
    restarts: [(SourceError, IntCounter); 5],
    events: [(&'static str, IntCounter); 2],
    _age: Arc<AgeOf>,
}

impl CacheMetrics {
    pub(crate) fn kind(&self) -> &str {
        &self.kind
    }

    pub(crate) fn show(&self, objects: usize, unreadable: usize) {
        self.objects.set(objects);
        self.unreadable.set(unreadable);
    }

    pub(crate) fn on_restart(&self, why: SourceError) {
        self.restarts.iter().filter(|(it, _)| *it == why).for_each(|(_, counter)| counter.inc());
    }

    pub(crate) fn on_event(&self, what: &str) {
        self.events.iter().filter(|(it, _)| *it == what).for_each(|(_, counter)| counter.inc());
    }
}

/// The part that one cache adds to its kind's gauge, until it is dropped.
#[derive(Debug)]
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

/// The age of the caches of one kind.
struct AgeOf {
    kind: String,
    age: Box<dyn Fn() -> Option<Duration> + Send + Sync>,
}

impl std::fmt::Debug for AgeOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgeOf").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Computes the age of each cache when it is collected.
#[derive(Clone, Debug)]
struct Ages {
    family: prometheus::GaugeVec,
    caches: Arc<Mutex<Vec<Weak<AgeOf>>>>,
}

impl Ages {
    fn new() -> prometheus::Result<Self> {
        let family = prometheus::GaugeVec::new(
            Opts::new(
                "bellwether_cache_age_seconds",
                "Since the API server was last heard of what is kept, by kind, in seconds.",
            ),
            &["kind"],
        )?;
        Ok(Self { family, caches: Arc::default() })
    }

    fn add(&self, age: &Arc<AgeOf>) {
        let mut caches = self.caches.lock().unwrap_or_else(PoisonError::into_inner);
        caches.retain(|cache| cache.strong_count() > 0);
        caches.push(Arc::downgrade(age));
    }
}

impl Collector for Ages {
    fn desc(&self) -> Vec<&Desc> {
        self.family.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let caches = self.caches.lock().unwrap_or_else(PoisonError::into_inner);
        self.family.reset();
        for cache in caches.iter().filter_map(Weak::upgrade) {
            if let Some(age) = (cache.age)() {
                let series: Gauge = self.family.with_label_values(&[cache.kind.as_str()]);
                series.set(age.as_secs_f64().max(series.get()));
            }
        }
        self.family.collect()
    }
}

#[cfg(test)]
mod tests;
