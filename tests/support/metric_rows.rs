//! Names, types, labels and help of metrics, read from their collectors.

use bellwether::telemetry::prometheus::{
    core::{Collector, Desc},
    proto::{MetricFamily, MetricType},
};

/// Row of the table of metrics.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MetricRow {
    /// Name of the metric.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Labels of the metric, in order.
    pub labels: Vec<String>,
    /// Help text of the metric.
    pub help: String,
}

/// Rows for all metrics of the collectors, by name; also for those that have no series yet.
pub fn describe(collectors: &[Box<dyn Collector>]) -> Vec<MetricRow> {
    let mut rows: Vec<MetricRow> =
        collectors.iter().flat_map(|one| rows_of(one.as_ref())).collect();
    rows.sort();
    rows
}

fn rows_of(collector: &dyn Collector) -> Vec<MetricRow> {
    let families = collector.collect();
    collector.desc().into_iter().map(|desc| row_of(desc, &families)).collect()
}

fn row_of(desc: &Desc, families: &[MetricFamily]) -> MetricRow {
    let kind = families.iter().find(|family| family.name() == desc.fq_name);
    MetricRow {
        name: desc.fq_name.clone(),
        kind: match kind.map(MetricFamily::get_field_type) {
            Some(MetricType::COUNTER) => "counter",
            Some(MetricType::GAUGE) => "gauge",
            Some(MetricType::HISTOGRAM) => "histogram",
            Some(MetricType::SUMMARY) => "summary",
            Some(MetricType::UNTYPED) | None => "untyped",
        },
        labels: desc.variable_labels.clone(),
        help: desc.help.clone(),
    }
}
