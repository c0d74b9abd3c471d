//! Metrics of a node. Base units; labels only from closed sets and from the program's own options.

mod known;
pub(crate) mod names;

use std::{
    cell::RefCell,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use self::known::{Known, Otherwise};
use super::store_metrics::StoreMetrics;
use crate::{clock, engine::BootTime};

/// Buckets for round trips and routines, from a tenth of a millisecond to ten seconds.
const LATENCY: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// A node's view of its cluster counts as known for this long after the watch last reported; also for
/// readiness and for `/leader`.
pub const KNOWN_FOR: Duration = Duration::from_secs(10);

/// Metrics of one node.
#[derive(Clone)]
pub struct NodeMetrics {
    pub(crate) lease_remaining: Remaining,
    pub(crate) authority_remaining: Remaining,
    pub(crate) shard_authority_remaining: Remaining,
    pub(crate) view_age: Age,
    pub(crate) keepalive_seconds: Histogram,
    pub(crate) beat_seconds: Histogram,
    pub(crate) authority_margin: Histogram,
    pub(crate) term: IntGauge,
    pub(crate) role: IntGauge,
    pub(crate) master: IntGaugeVec,
    pub(crate) leader_suspended: IntGauge,
    pub(crate) transitions: IntCounterVec,
    pub(crate) sessions_lost: IntCounterVec,
    pub(crate) ticks: IntCounterVec,
    pub(crate) tick_seconds: HistogramVec,
    pub(crate) tick_lateness: HistogramVec,
    pub(crate) tick_overruns: IntCounterVec,
    pub(crate) ticks_skipped: IntCounterVec,
    pub(crate) tick_period: Gauge,
    pub(crate) last_tick: GaugeVec,
    pub(crate) panics: IntCounterVec,
    pub(crate) members: IntGauge,
    pub(crate) watch_lag: Histogram,
    pub(crate) watch_resyncs: IntCounter,
    pub(crate) store_calls: IntCounterVec,
    pub(crate) store_call_seconds: HistogramVec,
    pub(crate) shards_owned: IntGaugeVec,
    pub(crate) shards_draining: IntGaugeVec,
    pub(crate) shards_unowned: IntGaugeVec,
    pub(crate) shard_moves: IntCounterVec,
    pub(crate) drain_seconds: HistogramVec,
    pub(crate) drains_overdue: IntGaugeVec,
    pub(crate) stale_rejections: IntCounter,
    pub(crate) foreign_keys: IntCounter,
    pub(crate) driver_steps: IntCounter,
    pub(crate) store: StoreMetrics,
}

impl fmt::Debug for NodeMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeMetrics").finish_non_exhaustive()
    }
}

impl Default for NodeMetrics {
    fn default() -> Self {
        Self::unregistered()
    }
}

impl NodeMetrics {
    /// Creates metrics that no registry collects.
    ///
    /// # Panics
    ///
    /// Never: all names and labels are constants that a test registers.
    pub fn unregistered() -> Self {
        Self::build(&Build::default()).expect("the names of the metrics are valid")
    }

    /// Collectors of all metrics of a node, for the table in the documentation.
    ///
    /// # Panics
    ///
    /// Never, as [`Self::unregistered`].
    pub fn collectors() -> Vec<Box<dyn Collector>> {
        let build = Build::default();
        Self::build(&build).expect("the names of the metrics are valid");
        build.made.into_inner()
    }

    /// Creates the metrics and registers them in `registry`.
    ///
    /// # Errors
    ///
    /// If the registry has metrics with these names already: each node needs its own registry.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Self::build(&Build { registry: Some(registry), ..Build::default() })
    }

    fn build(b: &Build<'_>) -> Result<Self, prometheus::Error> {
        let view_age =
            b.add(Age::new(names::VIEW_AGE, "How long ago the watch last delivered anything.")?)?;
        let authority_remaining = b.add(Remaining::new(
            names::AUTHORITY_REMAINING,
            "What is left of the node's authority as leader; 0 if it is not in office.",
        )?)?;
        let known = Known::of(&view_age, &authority_remaining);
        Ok(Self {
            lease_remaining: b.add(Remaining::new(
                names::LEASE_REMAINING,
                "What is left of the node's lease, counted from when the last renewal was sent.",
            )?)?,
            shard_authority_remaining: b.add(Remaining::new(
                names::SHARD_AUTHORITY_REMAINING,
                "What is left of the node's authority over its shards.",
            )?)?,
            authority_remaining,
            view_age,
            keepalive_seconds: b
                .histogram(names::KEEPALIVE_SECONDS, "Round trip of lease renewals.")?,
            beat_seconds: b.histogram(names::BEAT_SECONDS, "Round trip of the leader's beats.")?,
            authority_margin: b.histogram(
                names::AUTHORITY_MARGIN,
                "Authority that was left when the answer of a beat arrived.",
            )?,
            term: b.known(
                IntGauge::new(
                    names::TERM,
                    "The term of the record as this node sees it; no series while the view is old.",
                )?,
                known.or(Otherwise::Nothing),
            )?,
            role: b.known(
                IntGauge::new(
                    names::ROLE,
                    "The node's role: 0 unknown (also while the view is old), 1 leader, 2 follower.",
                )?,
                known.or(Otherwise::Zero),
            )?,
            master: b.known(
                IntGaugeVec::new(
                    Opts::new(
                        names::MASTER,
                        "Whether this node leads the cluster of that name, with authority: 1 or 0.",
                    ),
                    &["name"],
                )?,
                known.or(Otherwise::ZeroWithoutAuthority),
            )?,
            leader_suspended: b.known(
                IntGauge::new(
                    names::LEADER_SUSPENDED,
                    "Whether this node sees a leader in office that does not act: 1 or 0; no series while \
                     the view is old.",
                )?,
                known.or(Otherwise::Nothing),
            )?,
            transitions: b.counters(
                names::TRANSITIONS,
                "Changes of the node's role and stops of the leader's work, by reason.",
                &["to", "reason"],
            )?,
            sessions_lost: b.counters(
                names::SESSIONS_LOST,
                "Incarnations that ended unasked.",
                &["reason"],
            )?,
            ticks: b.counters(
                names::TICKS,
                "Runs of a routine, by how they ended.",
                &["routine", "result"],
            )?,
            tick_seconds: b.histograms(
                names::TICK_SECONDS,
                "How long a run of a routine took.",
                &["routine"],
            )?,
            tick_lateness: b.histograms(
                names::TICK_LATENESS,
                "How much later than due a run of a routine began.",
                &["routine"],
            )?,
            tick_overruns: b.counters(
                names::TICK_OVERRUNS,
                "Runs of a routine that passed their limit and were cancelled.",
                &["routine"],
            )?,
            ticks_skipped: b.counters(
                names::TICKS_SKIPPED,
                "Ticks that were left out because the run before had not ended, or authority was over.",
                &["routine"],
            )?,
            tick_period: b.add(Gauge::new(
                names::TICK_PERIOD,
                "The time between runs of the routines, as this node keeps it.",
            )?)?,
            last_tick: b.gauge_times(
                names::LAST_TICK,
                "When a run of a routine last ended well, in Unix time.",
                &["routine"],
            )?,
            panics: b.counters(
                names::PANICS,
                "Panics of user work, by kind of work.",
                &["work"],
            )?,
            members: b.known(
                IntGauge::new(
                    names::MEMBERS,
                    "Live nodes as this node sees them; no series while the view is old.",
                )?,
                known.or(Otherwise::Nothing),
            )?,
            watch_lag: b.histogram(
                names::WATCH_LAG,
                "From sending an own beat to receiving it by the watch.",
            )?,
            watch_resyncs: b.counter(
                names::WATCH_RESYNCS,
                "How often the view was listed anew after it was first listed.",
            )?,
            store_calls: b.counters(
                names::STORE_CALLS,
                "Calls of the protocol, by kind and result.",
                &["kind", "result"],
            )?,
            store_call_seconds: b.histograms(
                names::STORE_CALL_SECONDS,
                "Round trip of calls of the protocol.",
                &["kind"],
            )?,
            shards_owned: b.gauges(names::SHARDS_OWNED, "Shards this node works on.", &["work"])?,
            shards_draining: b.gauges(
                names::SHARDS_DRAINING,
                "Shards this node is letting go of.",
                &["work"],
            )?,
            shards_unowned: b.known(
                IntGaugeVec::new(
                    Opts::new(
                        names::SHARDS_UNOWNED,
                        "Shards that no node holds, of work that a live node offers, as this node sees \
                         it; no series while the view is old.",
                    ),
                    &["work"],
                )?,
                known.or(Otherwise::Nothing),
            )?,
            shard_moves: b.counters(
                names::SHARD_MOVES,
                "Shards this node has gained or lost.",
                &["work", "direction"],
            )?,
            drain_seconds: b.histograms(
                names::DRAIN_SECONDS,
                "From asking the work of a shard to end to its end.",
                &["work"],
            )?,
            drains_overdue: b.gauges(
                names::DRAINS_OVERDUE,
                "Shards whose work has not ended within the drain deadline.",
                &["work"],
            )?,
            stale_rejections: b.counter(
                names::STALE_REJECTIONS,
                "Fenced writes that were refused because the term or the shard's epoch was over.",
            )?,
            foreign_keys: b.counter(
                names::FOREIGN_KEYS,
                "Keys in the nodes' state that no node wrote, skipped.",
            )?,
            driver_steps: b.counter(names::DRIVER_STEPS, "Steps of the driver.")?,
            store: StoreMetrics::build(b)?,
        })
    }
}

#[derive(Default)]
pub(super) struct Build<'a> {
    registry: Option<&'a Registry>,
    made: RefCell<Vec<Box<dyn Collector>>>,
}

impl Build<'_> {
    fn add<C: Collector + Clone + 'static>(&self, collector: C) -> Result<C, prometheus::Error> {
        if let Some(registry) = self.registry {
            registry.register(Box::new(collector.clone()))?;
        }
        self.made.borrow_mut().push(Box::new(collector.clone()));
        Ok(collector)
    }

    /// Registers a metric that is shown only while its values are known; returns the metric itself.
    fn known<C: Collector + Clone + 'static>(
        &self,
        metric: C,
        known: Known<()>,
    ) -> Result<C, prometheus::Error> {
        self.add(known.about(metric.clone()))?;
        Ok(metric)
    }

    fn histogram(&self, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
        let opts = HistogramOpts::new(name, help).buckets(LATENCY.to_vec());
        self.add(Histogram::with_opts(opts)?)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<HistogramVec, prometheus::Error> {
        let opts = HistogramOpts::new(name, help).buckets(LATENCY.to_vec());
        self.add(HistogramVec::new(opts, labels)?)
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.add(IntGauge::new(name, help)?)
    }

    fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge_times(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<GaugeVec, prometheus::Error> {
        self.add(GaugeVec::new(Opts::new(name, help), labels)?)
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.add(IntCounter::new(name, help)?)
    }

    pub(super) fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }
}

/// Gauge that shows the time left until a boot time, at each scrape.
#[derive(Clone, Debug)]
pub(crate) struct Remaining {
    gauge: Gauge,
    until: Arc<AtomicU64>,
}

impl Remaining {
    fn new(name: &str, help: &str) -> Result<Self, prometheus::Error> {
        Ok(Self { gauge: Gauge::new(name, help)?, until: Arc::default() })
    }

    pub(crate) fn set(&self, until: Option<BootTime>) {
        self.until.store(nanos(until.unwrap_or_default()), Ordering::Relaxed);
    }

    /// Time that is left now.
    pub(crate) fn left(&self) -> Duration {
        let until = BootTime(Duration::from_nanos(self.until.load(Ordering::Relaxed)));
        until.since(clock::boot_now())
    }
}

impl Collector for Remaining {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge.set(self.left().as_secs_f64());
        self.gauge.collect()
    }
}

/// Gauge that shows how long ago an event happened, at each scrape; 0 if it never did.
#[derive(Clone, Debug)]
pub(crate) struct Age {
    gauge: Gauge,
    at: Arc<AtomicU64>,
}

impl Age {
    fn new(name: &str, help: &str) -> Result<Self, prometheus::Error> {
        Ok(Self { gauge: Gauge::new(name, help)?, at: Arc::default() })
    }

    pub(crate) fn set(&self, at: BootTime) {
        self.at.store(nanos(at), Ordering::Relaxed);
    }

    /// Whether the event happened, at most `limit` ago.
    fn is_within(&self, limit: Duration) -> bool {
        self.at.load(Ordering::Relaxed) != 0 && self.age() <= limit
    }

    /// Time since the event.
    pub(crate) fn age(&self) -> Duration {
        match self.at.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            at => clock::boot_now().since(BootTime(Duration::from_nanos(at))),
        }
    }
}

impl Collector for Age {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge.set(self.age().as_secs_f64());
        self.gauge.collect()
    }
}

fn nanos(time: BootTime) -> u64 {
    u64::try_from(time.0.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
