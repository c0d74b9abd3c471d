//! Metrics that are shown only while their values are known: a scrape during an outage must not show values
//! from before.

use prometheus::{
    core::{Collector, Desc},
    proto::{Gauge, MetricFamily},
};

use crate::metrics::Build;

/// Substitute that is shown while the value is not known.
#[derive(Clone, Copy, Debug)]
pub(super) enum Otherwise {
    /// The metric has no series while unknown.
    Nothing,
    /// The metric shows zero while unknown.
    Zero,
}

/// Makes a metric that is shown only while its values are known; returns the metric itself.
pub(super) fn known<M>(
    b: &Build,
    is_known: impl Fn() -> bool + Send + Sync + 'static,
    otherwise: Otherwise,
    build: impl FnOnce(&Build) -> M,
) -> M {
    let (made, metrics) = Build::made_by(build);
    b.collect(Known { metrics, condition: is_known, otherwise });
    made
}

struct Known<F> {
    metrics: Vec<Box<dyn Collector>>,
    condition: F,
    otherwise: Otherwise,
}

impl<F: Fn() -> bool + Send + Sync> Collector for Known<F> {
    fn desc(&self) -> Vec<&Desc> {
        self.metrics.iter().flat_map(|it| it.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families: Vec<_> = self.metrics.iter().flat_map(|it| it.collect()).collect();
        if (self.condition)() {
            return families;
        }
        for family in &mut families {
            match self.otherwise {
                Otherwise::Nothing => family.mut_metric().clear(),
                Otherwise::Zero => {
                    for metric in family.mut_metric() {
                        let mut zero = Gauge::default();
                        zero.set_value(0.0);
                        metric.set_gauge(zero);
                    }
                }
            }
        }
        families
    }
}
