//! Metrics that are shown only while they are known.

use prometheus::{
    core::{Collector, Desc},
    proto::{Gauge, MetricFamily},
};

use super::{Age, KNOWN_FOR, Remaining};

/// A metric of what this node knows of its cluster. While the view is older than [`KNOWN_FOR`], or nothing was ever
/// seen, it shows no series, or zeros: a scrape in an outage must not show the time before it.
#[derive(Clone, Debug)]
pub(super) struct Known<M> {
    metric: M,
    view_age: Age,
    authority: Remaining,
    otherwise: Otherwise,
}

/// What is shown instead of what is not known.
#[derive(Clone, Copy, Debug)]
pub(super) enum Otherwise {
    /// The metric has no series.
    Nothing,
    /// The metric shows zero.
    Zero,
    /// Zeros, and not by the view's age but whenever there is no authority.
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

    /// The same of a metric.
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
