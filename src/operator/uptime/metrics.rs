//! Prometheus metrics of the uptime checks. Labels come from closed sets; no label names a check.

use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    core::{MetricVec, MetricVecBuilder},
};

use super::{
    check::Summary,
    probe::{Probed, Verdict},
    resource::State,
};
use crate::metrics::metrics;

/// Purposes of calls to the store: the values of the label `operation`.
pub(super) const OPERATIONS: [&str; 6] =
    ["load", "claim", "publish", "retract", "collect", "status"];

const STATES: [State; 3] = [State::Up, State::Down, State::Unknown];
const TARGETS: [&str; 3] = ["http", "tcp", "dns"];
const VERDICTS: [Verdict; 3] = [Verdict::Up, Verdict::Down, Verdict::Unknown];

metrics! { b =>
    /// Metrics of uptime checks. Cheap to clone.
    pub struct UptimeMetrics {
        checks: IntGaugeVec = zeros(STATES.map(|it| [it.as_str()]), b.gauges("bellwether_uptime_checks",
            &["state"], "Uptime checks by state, as the leader sees them; zero on other nodes."));
        pub(super) changes: IntCounterVec = zeros(STATES.map(|it| [it.as_str()]), b.counters(
            "bellwether_uptime_changes_total", &["state"],
            "Changes of a check's state that the leader has seen, by the state that came."));
        runs: IntCounterVec = zeros(
            TARGETS.iter().flat_map(|target| VERDICTS.map(|it| [*target, it.as_str()])),
            b.counters("bellwether_uptime_runs_total", &["target", "result"],
                "Runs of uptime checks on this node, by target and result."));
        latency: HistogramVec = zeros(TARGETS.map(|it| [it]), b.histograms(
            "bellwether_uptime_latency_seconds", &["target"],
            &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0],
            "How long the answers of targets took, by target, in seconds."));
        pub(super) lateness: Histogram = b.histogram("bellwether_uptime_lateness_seconds",
            &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0],
            "From the moment a check was due to the beginning of its run, in seconds.");
        pub(super) running: IntGauge = b.gauge("bellwether_uptime_running",
            "Runs of uptime checks that go on at this node.");
        pub(super) waiting: IntGauge = b.gauge("bellwether_uptime_waiting",
            "Runs of uptime checks that are due at this node and wait because too many others go on.");
        pub(super) missed: IntCounter = b.counter("bellwether_uptime_missed_total",
            "Intervals in which no node ran a check that was due, as the leader has seen them.");
        store_failures: IntCounterVec = zeros(OPERATIONS.map(|it| [it]), b.counters(
            "bellwether_uptime_store_failures_total", &["operation"],
            "Calls to the store for uptime checks that failed, by operation."));
        pub(super) manifest_problems: IntGauge = b.gauge("bellwether_uptime_manifest_problems",
            "Problems in the folder of manifests as it was last read.");
        pub(super) junk: IntCounter = b.counter("bellwether_uptime_unreadable_values_total",
            "Results and statuses in the store that could not be read.");
    }
}

/// Creates these series with the value zero, because alerts need existing series.
fn zeros<M: MetricVecBuilder, const N: usize>(
    series: impl IntoIterator<Item = [&'static str; N]>,
    metric: MetricVec<M>,
) -> MetricVec<M> {
    for labels in series {
        metric.with_label_values(&labels);
    }
    metric
}

impl UptimeMetrics {
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
