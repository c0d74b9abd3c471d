//! The root of the repository, and the metrics of a process.

use std::path::PathBuf;

use bellwether::{
    node::NodeMetrics,
    operator::uptime::metrics::UptimeMetrics,
    telemetry::{metrics, server::ServerMetrics},
};

use crate::support::metric_rows::{MetricRow, describe};

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All metrics of a process of ours.
pub(crate) fn catalogue() -> Vec<MetricRow> {
    let mut rows = describe(&NodeMetrics::collectors());
    rows.extend(describe(&UptimeMetrics::collectors()));
    rows.extend(describe(&ServerMetrics::collectors()));
    rows.extend(describe(&metrics::base_collectors()));
    rows
}
