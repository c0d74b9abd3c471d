//! The registry, its text form, and the table of its metrics.
//!
//! Every module creates its own metrics struct and registers it; this module has the shared parts, and the
//! metrics of the server itself.

use std::fmt::Write as _;

use prometheus::{
    Encoder as _, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder,
    core::{Collector, Desc},
    proto::{MetricFamily, MetricType},
};

use super::{logs::DroppedLines, process::ProcessCollector};

/// Metric that every process exports.
pub(crate) const BUILD_INFO: &str = "bellwether_build_info";

/// Content type of `/metrics`: the text format, which every Prometheus reads.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Creates a registry with the metrics that every process exports: `bellwether_build_info`, dropped log
/// lines, and `process_*`.
///
/// # Errors
///
/// Never with these names; the error type is the registry's.
pub fn registry() -> prometheus::Result<Registry> {
    let registry = Registry::new();
    for collector in base_collectors()? {
        registry.register(collector)?;
    }
    Ok(registry)
}

/// Collectors that [`registry`] registers.
///
/// # Errors
///
/// As for [`registry`].
#[doc(hidden)]
pub fn base_collectors() -> prometheus::Result<Vec<Box<dyn Collector>>> {
    let build = GaugeVec::new(
        Opts::new(BUILD_INFO, "Always 1; the labels say what is running."),
        &["version", "commit"],
    )?;
    let commit = option_env!("BELLWETHER_COMMIT").unwrap_or("unknown");
    build.with_label_values(&[env!("CARGO_PKG_VERSION"), commit]).set(1.0);
    Ok(vec![Box::new(build), Box::new(DroppedLines::new()?), Box::new(ProcessCollector::new()?)])
}

/// Encodes all metrics of the registry in the text format.
///
/// # Errors
///
/// If a collector returns a family that cannot be written.
pub fn encode(registry: &Registry) -> prometheus::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(16 * 1024);
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(text)
}

/// Metrics of the server itself.
#[derive(Clone, Debug)]
pub struct ServerMetrics {
    /// Number of answered requests, by path and status code.
    pub requests: IntCounterVec,
    /// Time from the request's head to the answer's head, by path.
    pub duration: HistogramVec,
    /// Number of open connections.
    pub connections: IntGauge,
    /// Number of connections that were closed to make room for a newer one.
    pub evicted: IntCounter,
    /// Number of open event streams.
    pub streams: IntGauge,
}

impl ServerMetrics {
    /// Creates the metrics and registers them.
    ///
    /// # Errors
    ///
    /// If a metric with one of the names is registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self::new()?;
        for collector in metrics.collectors() {
            registry.register(collector)?;
        }
        Ok(metrics)
    }

    /// Creates metrics that are in no registry.
    ///
    /// # Errors
    ///
    /// Never with these names; the error type is the registry's.
    pub fn new() -> prometheus::Result<Self> {
        Ok(Self {
            requests: IntCounterVec::new(
                Opts::new(
                    "bellwether_http_requests_total",
                    "Requests to the status server, by path and status code.",
                ),
                &["path", "code"],
            )?,
            duration: HistogramVec::new(
                HistogramOpts::new(
                    "bellwether_http_request_duration_seconds",
                    "From a request to the status server to its answer, by path, in seconds.",
                )
                .buckets(vec![0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0]),
                &["path"],
            )?,
            connections: IntGauge::new(
                "bellwether_http_connections",
                "Open connections to the status server.",
            )?,
            evicted: IntCounter::new(
                "bellwether_http_connections_evicted_total",
                "Connections to the status server that were closed to make room for newer ones.",
            )?,
            streams: IntGauge::new(
                "bellwether_http_event_streams",
                "Open event streams: status pages that are looked at.",
            )?,
        })
    }

    /// Collectors that [`Self::register`] registers.
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.requests.clone()),
            Box::new(self.duration.clone()),
            Box::new(self.connections.clone()),
            Box::new(self.evicted.clone()),
            Box::new(self.streams.clone()),
        ]
    }
}

/// Row of the table of metrics.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[doc(hidden)]
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
#[doc(hidden)]
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

/// Table of the metrics as Markdown.
#[doc(hidden)]
pub fn markdown(rows: &[MetricRow]) -> String {
    let mut table =
        String::from("| metric | type | labels | what it says |\n| --- | --- | --- | --- |\n");
    for row in rows {
        let labels: Vec<String> = row.labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { "–".to_owned() } else { labels.join(", ") };
        let help = row.help.replace('|', "\\|");
        // Writing to a string cannot fail.
        let _ = writeln!(table, "| `{}` | {} | {labels} | {help} |", row.name, row.kind);
    }
    table
}

/// Violations of the rules for names and labels, in words; empty if there are none.
///
/// Names must follow Prometheus' conventions (base units last, `_total` for counters only); labels must
/// have a closed set of values, so no label can carry an object's name, a lease or an error.
#[doc(hidden)]
pub fn broken_rules(rows: &[MetricRow]) -> Vec<String> {
    const OPEN_LABELS: [&str; 8] =
        ["node", "lease", "address", "object", "uid", "error", "message", "shard"];
    let mut broken = Vec::new();
    for MetricRow { name, kind, labels, help } in rows {
        let mut must = |holds: bool, rule: &str| {
            if !holds {
                broken.push(format!("{name}: {rule}"));
            }
        };
        must(
            name.ends_with("_total") == (*kind == "counter"),
            "`_total` is for counters, all of them",
        );
        must(!name.contains("milliseconds") && !name.ends_with("_ms"), "times are in seconds");
        must(!help.is_empty() && help.ends_with('.'), "help is a sentence");
        must(*kind != "untyped", "every metric has a type");
        must(!labels.iter().any(|label| OPEN_LABELS.contains(&&**label)), "labels are closed sets");
    }
    broken
}

#[cfg(test)]
mod tests;
