//! Prometheus metrics of the uptime checks. Labels come from closed sets; no label names a check.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, core::Collector,
};

use super::{
    check::Summary,
    probe::{Probed, Verdict},
    resource::State,
};

/// Metrics of uptime checks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct UptimeMetrics {
    /// Number of checks by state, as the leader sees them; zero on other nodes.
    pub checks: IntGaugeVec,
    /// Number of changes of state that the leader has seen, by the new state.
    pub changes: IntCounterVec,
    /// Number of runs by target and verdict.
    pub runs: IntCounterVec,
    /// Time until the answers came, by target.
    pub latency: HistogramVec,
    /// Time from the start of a slot to the start of its run.
    pub lateness: Histogram,
    /// Number of runs in progress.
    pub running: IntGauge,
    /// Number of runs that are due and wait for a place.
    pub waiting: IntGauge,
    /// Number of slots that no node ran, as the leader has seen them.
    pub missed: IntCounter,
    /// Number of failed calls to the store, by operation.
    pub store_failures: IntCounterVec,
    /// Number of problems in the folder of manifests.
    pub manifest_problems: IntGauge,
    /// Number of malformed results and statuses in the store.
    pub junk: IntCounter,
}

/// Purposes of calls to the store: the values of the label `operation`.
pub(super) const OPERATIONS: [&str; 6] =
    ["load", "claim", "publish", "retract", "collect", "status"];

impl UptimeMetrics {
    /// Creates the metrics and registers them.
    ///
    /// # Errors
    ///
    /// An error of the registry if a metric with one of these names is registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self::new()?;
        for collector in metrics.collectors() {
            registry.register(collector)?;
        }
        Ok(metrics)
    }

    /// Creates metrics without registering them.
    ///
    /// # Panics
    ///
    /// Never: names and labels are constants.
    pub fn unregistered() -> Self {
        Self::new().expect("these names and labels are valid")
    }

    fn new() -> prometheus::Result<Self> {
        let metrics = Self {
            checks: IntGaugeVec::new(
                Opts::new(
                    "bellwether_uptime_checks",
                    "Uptime checks by state, as the leader sees them; zero on other nodes.",
                ),
                &["state"],
            )?,
            changes: IntCounterVec::new(
                Opts::new(
                    "bellwether_uptime_changes_total",
                    "Changes of a check's state that the leader has seen, by the state that came.",
                ),
                &["state"],
            )?,
            runs: IntCounterVec::new(
                Opts::new(
                    "bellwether_uptime_runs_total",
                    "Runs of uptime checks on this node, by target and result.",
                ),
                &["target", "result"],
            )?,
            latency: HistogramVec::new(
                HistogramOpts::new(
                    "bellwether_uptime_latency_seconds",
                    "How long the answers of targets took, by target, in seconds.",
                )
                .buckets(vec![
                    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
                ]),
                &["target"],
            )?,
            lateness: Histogram::with_opts(
                HistogramOpts::new(
                    "bellwether_uptime_lateness_seconds",
                    "From the moment a check was due to the beginning of its run, in seconds.",
                )
                .buckets(vec![0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0]),
            )?,
            running: IntGauge::new(
                "bellwether_uptime_running",
                "Runs of uptime checks that go on at this node.",
            )?,
            waiting: IntGauge::new(
                "bellwether_uptime_waiting",
                "Runs of uptime checks that are due at this node and wait because too many others go on.",
            )?,
            missed: IntCounter::new(
                "bellwether_uptime_missed_total",
                "Intervals in which no node ran a check that was due, as the leader has seen them.",
            )?,
            store_failures: IntCounterVec::new(
                Opts::new(
                    "bellwether_uptime_store_failures_total",
                    "Calls to the store for uptime checks that failed, by operation.",
                ),
                &["operation"],
            )?,
            manifest_problems: IntGauge::new(
                "bellwether_uptime_manifest_problems",
                "Problems in the folder of manifests as it was last read.",
            )?,
            junk: IntCounter::new(
                "bellwether_uptime_unreadable_values_total",
                "Results and statuses in the store that could not be read.",
            )?,
        };
        metrics.show_zeros();
        Ok(metrics)
    }

    /// Creates every series with the value zero, because alerts need existing series.
    fn show_zeros(&self) {
        for state in [State::Up, State::Down, State::Unknown] {
            self.checks.with_label_values(&[state.as_str()]);
            self.changes.with_label_values(&[state.as_str()]);
        }
        for target in ["http", "tcp", "dns"] {
            self.latency.with_label_values(&[target]);
            for verdict in [Verdict::Up, Verdict::Down, Verdict::Unknown] {
                self.runs.with_label_values(&[target, verdict.as_str()]);
            }
        }
        for operation in OPERATIONS {
            self.store_failures.with_label_values(&[operation]);
        }
    }

    /// Collectors that [`Self::register`] registers.
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.checks.clone()),
            Box::new(self.changes.clone()),
            Box::new(self.runs.clone()),
            Box::new(self.latency.clone()),
            Box::new(self.lateness.clone()),
            Box::new(self.running.clone()),
            Box::new(self.waiting.clone()),
            Box::new(self.missed.clone()),
            Box::new(self.store_failures.clone()),
            Box::new(self.manifest_problems.clone()),
            Box::new(self.junk.clone()),
        ]
    }

    pub(super) fn on_run(&self, target: &'static str, probed: &Probed) {
        self.runs.with_label_values(&[target, probed.verdict.as_str()]).inc();
        if let Some(latency) = probed.latency {
            self.latency.with_label_values(&[target]).observe(latency.as_secs_f64());
        }
    }

    pub(super) fn on_store_failure(&self, operation: &'static str) {
        self.store_failures.with_label_values(&[operation]).inc();
    }

    pub(super) fn show(&self, summary: Summary) {
        for (state, count) in [
            (State::Up, summary.up),
            (State::Down, summary.down),
            (State::Unknown, summary.unknown),
        ] {
            self.checks.with_label_values(&[state.as_str()]).set(i64::from(count));
        }
    }
}
