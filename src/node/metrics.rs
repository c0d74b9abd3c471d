//! Metrics of a node. Base units; labels only from closed sets and from the program's own options.

mod known;

use std::{sync::Arc, time::Duration};

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts,
};

use self::known::{Otherwise, known};
use crate::{
    clock::{self, AtomicTime},
    engine::BootTime,
    metrics::{Build, metrics},
    store::{StateMetrics, etcd::EtcdMetrics},
};

/// Buckets for round trips and routines, from a tenth of a millisecond to ten seconds.
const LATENCY: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// A node's view of its cluster counts as known for this long after the watch last reported; also for
/// readiness and for `/leader`.
#[doc(hidden)]
pub const KNOWN_FOR: Duration = Duration::from_secs(10);

metrics! { b =>
    /// Metrics of one node.
    pub struct NodeMetrics {
        pub(crate) view_age: Age =
            Age::new(b, "bellwether_view_age_seconds", "How long ago the watch last delivered anything.");
        pub(crate) lease_remaining: Remaining = Remaining::new(b, "bellwether_lease_remaining_seconds",
            "What is left of the node's lease, counted from when the last renewal was sent.");
        pub(crate) authority_remaining: Remaining = Remaining::new(b, "bellwether_authority_remaining_seconds",
            "What is left of the node's authority as leader; 0 if it is not in office.");
        pub(crate) shard_authority_remaining: Remaining = Remaining::new(b,
            "bellwether_shard_authority_remaining_seconds",
            "What is left of the node's authority over its shards.");
        pub(crate) keepalive_seconds: Histogram =
            b.histogram("bellwether_keepalive_seconds", LATENCY, "Round trip of lease renewals.");
        pub(crate) beat_seconds: Histogram =
            b.histogram("bellwether_beat_seconds", LATENCY, "Round trip of the leader's beats.");
        pub(crate) authority_margin: Histogram = b.histogram("bellwether_authority_margin_seconds", LATENCY,
            "Authority that was left when the answer of a beat arrived.");
        pub(crate) term: IntGauge = view_age.known(b, Otherwise::Nothing, |b| b.gauge("bellwether_term",
            "The term of the record as this node sees it; no series while the view is old."));
        pub(crate) role: IntGauge = view_age.known(b, Otherwise::Zero, |b| b.gauge("bellwether_role",
            "The node's role: 0 unknown (also while the view is old), 1 leader, 2 follower."));
        pub(crate) master: IntGaugeVec = authority_remaining.known(b, |b| b.gauges(
            "leader_election_master_status", &["name"],
            "Whether this node leads the cluster of that name, with authority: 1 or 0."));
        pub(crate) leader_suspended: IntGauge =
            view_age.known(b, Otherwise::Nothing, |b| b.gauge("bellwether_leader_suspended",
                "Whether this node sees a leader in office that does not act: 1 or 0; no series while \
                 the view is old."));
        pub(crate) drained: IntGauge = view_age.known(b, Otherwise::Nothing, |b| b.gauge("bellwether_drained",
            "Whether this node is drained: 1 or 0; no series while the view is old."));
        pub(crate) transitions: IntCounterVec = b.counters("bellwether_transitions_total", &["to", "reason"],
            "Changes of the node's role and stops of the leader's work, by reason.");
        pub(crate) sessions_lost: IntCounterVec =
            b.counters("bellwether_sessions_lost_total", &["reason"], "Incarnations that ended unasked.");
        pub(crate) ticks: IntCounterVec =
            b.counters("bellwether_ticks_total", &["routine", "result"], "Runs of a routine, by how they ended.");
        pub(crate) tick_seconds: HistogramVec =
            b.histograms("bellwether_tick_duration_seconds", &["routine"], LATENCY,
                "How long a run of a routine took.");
        pub(crate) tick_lateness: HistogramVec = b.histograms("bellwether_tick_lateness_seconds", &["routine"], LATENCY,
            "How much later than due a run of a routine began.");
        pub(crate) tick_overruns: IntCounterVec = b.counters("bellwether_tick_overruns_total", &["routine"],
            "Runs of a routine that passed their limit and were cancelled.");
        pub(crate) ticks_skipped: IntCounterVec = b.counters("bellwether_ticks_skipped_total", &["routine"],
            "Ticks that were left out because the run before had not ended, or authority was over.");
        pub(crate) tick_period: Gauge = b.add(Gauge::new("bellwether_tick_period_seconds",
            "The time between runs of the routines, as this node keeps it."));
        pub(crate) last_tick: GaugeVec = b.add(GaugeVec::new(
            Opts::new("bellwether_last_tick_timestamp_seconds",
                "When a run of a routine last ended well, in Unix time."),
            &["routine"],
        ));
        pub(crate) panics: IntCounterVec =
            b.counters("bellwether_panics_total", &["work"], "Panics of user work, by kind of work.");
        pub(crate) members: IntGauge = view_age.known(b, Otherwise::Nothing, |b| b.gauge("bellwether_members",
            "Live nodes as this node sees them; no series while the view is old."));
        pub(crate) watch_lag: Histogram = b.histogram("bellwether_watch_lag_seconds", LATENCY,
            "From sending an own beat to receiving it by the watch.");
        pub(crate) watch_resyncs: IntCounter = b.counter("bellwether_watch_resyncs_total",
            "How often the view was listed again after it was first listed.");
        pub(crate) store_calls: IntCounterVec = b.counters("bellwether_store_calls_total", &["kind", "result"],
            "Calls of the protocol, by kind and result.");
        pub(crate) store_call_seconds: HistogramVec = b.histograms("bellwether_store_call_seconds", &["kind"], LATENCY,
            "Round trip of calls of the protocol.");
        pub(crate) shards_owned: IntGaugeVec =
            b.gauges("bellwether_shards_owned", &["work"], "Shards this node works on.");
        pub(crate) shards_draining: IntGaugeVec =
            b.gauges("bellwether_shards_draining", &["work"], "Shards this node is letting go of.");
        pub(crate) shards_unowned: IntGaugeVec =
            view_age.known(b, Otherwise::Nothing, |b| b.gauges("bellwether_shards_unowned", &["work"],
                "Shards that no node holds, of work that a live node offers, as this node sees it; no series \
                 while the view is old."));
        pub(crate) shard_moves: IntCounterVec = b.counters("bellwether_shard_moves_total", &["work", "direction"],
            "Shards this node has gained or lost.");
        pub(crate) drain_seconds: HistogramVec = b.histograms("bellwether_shard_drain_seconds", &["work"], LATENCY,
            "From asking the work of a shard to end to its end.");
        pub(crate) drains_overdue: IntGaugeVec = b.gauges("bellwether_shard_drains_overdue", &["work"],
            "Shards whose work has not ended within the drain deadline.");
        pub(crate) stale_rejections: IntCounter = b.counter("bellwether_stale_term_rejections_total",
            "Fenced writes that were refused because the term or the shard's epoch was over.");
        pub(crate) foreign_keys: IntCounter = b.counter("bellwether_foreign_keys_total",
            "Keys in the nodes' state that no node wrote, skipped.");
        pub(crate) driver_steps: IntCounter = b.counter("bellwether_driver_steps_total", "Steps of the driver.");
        pub(crate) uncompacted: IntGauge = b.gauge("bellwether_store_uncompacted",
            "1 if the store still has revisions so old that nobody can be compacting it; told by the leader.");
        pub(crate) etcd: EtcdMetrics = EtcdMetrics::build(b);
        pub(crate) state: StateMetrics = StateMetrics::build(b);
    }
}

/// Gauge that shows the time left until a boot time, at each scrape.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remaining(Arc<AtomicTime>);

impl Remaining {
    fn new(b: &Build, name: &str, help: &str) -> Self {
        let this = Self::default();
        shown(b, name, help, {
            let this = this.clone();
            move || this.left()
        });
        this
    }

    pub(crate) fn set(&self, until: Option<BootTime>) {
        self.0.store(until.unwrap_or_default());
    }

    /// Time that is left now.
    pub(crate) fn left(&self) -> Duration {
        self.0.load().since(clock::boot_now())
    }

    /// Makes a metric that shows zero when no time is left.
    fn known<M>(&self, b: &Build, build: impl FnOnce(&Build) -> M) -> M {
        let this = self.clone();
        known(b, move || !this.left().is_zero(), Otherwise::Zero, build)
    }
}

/// Gauge that shows how long ago an event happened, at each scrape; 0 if it never did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Age(Arc<AtomicTime>);

impl Age {
    fn new(b: &Build, name: &str, help: &str) -> Self {
        let this = Self::default();
        shown(b, name, help, {
            let this = this.clone();
            move || this.age()
        });
        this
    }

    pub(crate) fn set(&self, at: BootTime) {
        self.0.store(at);
    }

    /// Time since the event.
    pub(crate) fn age(&self) -> Duration {
        match self.0.load() {
            BootTime(Duration::ZERO) => Duration::ZERO,
            at => clock::boot_now().since(at),
        }
    }

    /// Makes a metric that is shown for [`KNOWN_FOR`] after the event.
    fn known<M>(&self, b: &Build, otherwise: Otherwise, build: impl FnOnce(&Build) -> M) -> M {
        let this = self.clone();
        let is_known = move || this.0.load() != BootTime::default() && this.age() <= KNOWN_FOR;
        known(b, is_known, otherwise, build)
    }
}

/// Makes a gauge of a time, in seconds, that is read at each scrape.
fn shown(b: &Build, name: &str, help: &str, time: impl Fn() -> Duration + Send + 'static) {
    b.computed(|b| {
        let gauge = b.add(Gauge::new(name, help));
        move || gauge.set(time().as_secs_f64())
    });
}

#[cfg(test)]
mod tests;
