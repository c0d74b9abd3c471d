//! What the uptime checks tell Prometheus. Labels come from closed sets; no check is ever named.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, core::Collector,
};

use super::{
    check::Summary,
    probe::{Probed, Verdict},
    resource::State,
};

/// The metrics of uptime checks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct UptimeMetrics {
    /// Checks by state, as the leader sees them; zero on the others.
    pub checks: IntGaugeVec,
    /// Changes of state that the leader has seen, by the state that came.
    pub changes: IntCounterVec,
    /// Runs by target and verdict.
    pub runs: IntCounterVec,
    /// How long answers took, by target.
    pub latency: HistogramVec,
    /// From the beginning of a slot to that of its run.
    pub lateness: Histogram,
    /// Runs that go on.
    pub running: IntGauge,
    /// Runs that are due and wait for a place.
    pub waiting: IntGauge,
    /// Slots that nobody ran, as the leader has seen them.
    pub missed: IntCounter,
    /// Calls to the store that failed, by what they were for.
    pub store_failures: IntCounterVec,
    /// What could not be read in the folder of manifests.
    pub manifest_problems: IntGauge,
    /// Results and statuses in the store that could not be read.
    pub junk: IntCounter,
}

/// What a call to the store was for: the values of the label `operation`.
pub(super) const OPERATIONS: [&str; 6] =
    ["load", "claim", "publish", "retract", "collect", "status"];

impl UptimeMetrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    ///
    /// If a metric of such a name is registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self::new()?;
        for collector in metrics.collectors() {
            registry.register(collector)?;
        }
        Ok(metrics)
    }

    /// Metrics that nobody reads.
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

    /// A series that is not there cannot be alerted on.
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

    /// What [`Self::register`] registers.
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
