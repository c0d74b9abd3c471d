//! Metrics that are shown only while their values are known.

use prometheus::{
    core::{Collector, Desc},
    proto::{Gauge, MetricFamily},
};

use super::{Age, KNOWN_FOR, Remaining};

/// Metric of this node's view of its cluster. While the view is older than [`KNOWN_FOR`], or no view ever
/// arrived, the metric shows no series, or zeros: a scrape during an outage must not show values from
/// before.
#[derive(Clone, Debug)]
pub(super) struct Known<M> {
    metric: M,
    view_age: Age,
    authority: Remaining,
    otherwise: Otherwise,
}

/// Substitute that is shown while the value is not known.
#[derive(Clone, Copy, Debug)]
pub(super) enum Otherwise {
    /// The metric has no series while unknown.
    Nothing,
    /// The metric shows zero while unknown.
    Zero,
    /// The metric shows zero whenever the node has no authority, at any age of the view.
    ZeroWithoutAuthority,
}

impl Known<()> {
    pub(super) fn of(view_age: &Age, authority: &Remaining) -> Self {
        let (view_age, authority) = (view_age.clone(), authority.clone());
        Self { metric: (), view_age, authority, otherwise: Otherwise::Nothing }
    }

    pub(super) fn or(&self, otherwise: Otherwise) -> Self {
        Self { otherwise, ..self.clone() }
    }

    /// Applies these conditions to a metric.
    pub(super) fn about<M>(self, metric: M) -> Known<M> {
        let Self { view_age, authority, otherwise, .. } = self;
        Known { metric, view_age, authority, otherwise }
    }
}

impl<M> Known<M> {
    fn is_known(&self) -> bool {
        match self.otherwise {
            Otherwise::Nothing | Otherwise::Zero => self.view_age.is_within(KNOWN_FOR),
            Otherwise::ZeroWithoutAuthority => !self.authority.left().is_zero(),
        }
    }
}

impl<M: Collector> Collector for Known<M> {
    fn desc(&self) -> Vec<&Desc> {
        self.metric.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.metric.collect();
        if self.is_known() {
            return families;
        }
        for family in &mut families {
            match self.otherwise {
                Otherwise::Nothing => family.mut_metric().clear(),
                Otherwise::Zero | Otherwise::ZeroWithoutAuthority => {
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
