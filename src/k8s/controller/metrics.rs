//! Metrics of controllers. Names, types and labels are controller-runtime's where the meaning is the same, so
//! that existing dashboards and alerts work.

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use crate::metrics::metrics;

/// Buckets of the time in a reconciler, in seconds, as in controller-runtime.
const RECONCILE_BUCKETS: [f64; 40] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9,
    1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 15.0, 20.0,
    25.0, 30.0, 40.0, 50.0, 60.0,
];

metrics! { b =>
    /// Metrics of all controllers of a process.
    pub(crate) struct ControllerMetrics {
        reconciles: IntCounterVec = b.counters("controller_runtime_reconcile_total", &["controller", "result"],
            "Reconciles by controller and result.");
        errors: IntCounterVec = b.counters("controller_runtime_reconcile_errors_total", &["controller"],
            "Reconciles that failed, by controller.");
        terminal_errors: IntCounterVec =
            b.counters("controller_runtime_terminal_reconcile_errors_total", &["controller"],
                "Reconciles that failed permanently, by controller.");
        panics: IntCounterVec = b.counters("controller_runtime_reconcile_panics_total", &["controller"],
            "Reconciles that panicked, by controller.");
        timeouts: IntCounterVec = b.counters("controller_runtime_reconcile_timeouts_total", &["controller"],
            "Reconciles that took too long and were dropped, by controller.");
        time: HistogramVec = b.histograms("controller_runtime_reconcile_time_seconds", &["controller"],
            &RECONCILE_BUCKETS, "Time in the reconciler, by controller, in seconds.");
        most_at_once: IntGaugeVec = b.gauges("controller_runtime_max_concurrent_reconciles", &["controller"],
            "How many reconciles a controller may run at once.");
        active_workers: IntGaugeVec = b.gauges("controller_runtime_active_workers", &["controller"],
            "How many reconciles a controller runs now.");
        gate_open: IntGaugeVec = b.gauges("bellwether_controller_gate_open", &["controller"],
            "How many gates of a controller are open: 1 on the leader, or the shards it works on.");
        gate_close_seconds: HistogramVec =
            b.histograms("bellwether_controller_gate_close_seconds", &["controller"],
                &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0],
                "From the end of the right to work until all workers were joined, in seconds.");
        refused_writes: IntCounterVec =
            b.counters("bellwether_controller_refused_writes_total", &["controller", "reason"],
                "Writes of reconcilers that were refused: their authority had ended, or a later leader's \
                 fence was found.");
    }
}

impl ControllerMetrics {
    /// The metrics of one controller, all at zero.
    pub(crate) fn of(&self, name: &str) -> OneController {
        let result = |result| self.reconciles.with_label_values(&[name, result]);
        let name = &[name];
        OneController {
            success: result("success"),
            error: result("error"),
            requeue: result("requeue"),
            requeue_after: result("requeue_after"),
            errors: self.errors.with_label_values(name),
            terminal_errors: self.terminal_errors.with_label_values(name),
            panics: self.panics.with_label_values(name),
            timeouts: self.timeouts.with_label_values(name),
            time: self.time.with_label_values(name),
            most_at_once: self.most_at_once.with_label_values(name),
            active_workers: self.active_workers.with_label_values(name),
            gate_open: self.gate_open.with_label_values(name),
            gate_close_seconds: self.gate_close_seconds.with_label_values(name),
            refused: self.refused(name[0]),
            stale_fence: self.refused_writes.with_label_values(&[name[0], "fence"]),
        }
    }

    /// Counter of writes of this controller, or of another task, that were refused for want of authority.
    pub(crate) fn refused(&self, name: &str) -> IntCounter {
        self.refused_writes.with_label_values(&[name, "authority"])
    }
}

/// The metrics of one controller.
#[derive(Clone)]
pub(crate) struct OneController {
    pub(super) success: IntCounter,
    error: IntCounter,
    /// The object is queued again after a back-off, although the run did not fail.
    pub(super) requeue: IntCounter,
    pub(super) requeue_after: IntCounter,
    errors: IntCounter,
    terminal_errors: IntCounter,
    pub(super) panics: IntCounter,
    pub(super) timeouts: IntCounter,
    pub(super) time: Histogram,
    pub(super) most_at_once: IntGauge,
    pub(super) active_workers: IntGauge,
    pub(super) gate_open: IntGauge,
    pub(super) gate_close_seconds: Histogram,
    pub(crate) refused: IntCounter,
    pub(crate) stale_fence: IntCounter,
}

impl OneController {
    pub(super) fn on_error(&self, is_terminal: bool) {
        self.error.inc();
        self.errors.inc();
        if is_terminal {
            self.terminal_errors.inc();
        }
    }
}
