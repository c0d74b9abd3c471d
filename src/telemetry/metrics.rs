//! The registry, its text form, and the table of what is in it.
//!
//! Every module makes its own metrics struct and registers it; here is what they share, and the
//! metrics of the server itself.

use std::fmt::Write as _;

use prometheus::{
    Encoder as _, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder,
    core::{Collector, Desc},
    proto::{MetricFamily, MetricType},
};

use super::{logs::DroppedLines, process::ProcessCollector};

/// The metric that every process has.
pub(crate) const BUILD_INFO: &str = "bellwether_build_info";

/// What `/metrics` is served as: the text format, which every Prometheus reads.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A registry that holds what every process shows: `bellwether_build_info`, log lines that were dropped,
/// and `process_*`.
///
/// # Errors
///
/// Never with these names; the registry's kind of error is passed on.
pub fn registry() -> prometheus::Result<Registry> {
    let registry = Registry::new();
    for collector in base_collectors()? {
        registry.register(collector)?;
    }
    Ok(registry)
}

/// What [`registry`] registers.
///
/// # Errors
///
/// As there.
pub fn base_collectors() -> prometheus::Result<Vec<Box<dyn Collector>>> {
    let build = GaugeVec::new(
        Opts::new(BUILD_INFO, "Always 1; the labels say what is running."),
        &["version", "commit"],
    )?;
    let commit = option_env!("BELLWETHER_COMMIT").unwrap_or("unknown");
    build.with_label_values(&[env!("CARGO_PKG_VERSION"), commit]).set(1.0);
    Ok(vec![Box::new(build), Box::new(DroppedLines::new()?), Box::new(ProcessCollector::new()?)])
}

/// All metrics of the registry in the text format.
///
/// # Errors
///
/// If a collector hands out a family that cannot be written.
pub fn encode(registry: &Registry) -> prometheus::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(16 * 1024);
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(text)
}

/// The server's own metrics.
#[derive(Clone, Debug)]
pub struct ServerMetrics {
    /// Answered requests by path and status code.
    pub requests: IntCounterVec,
    /// From the request's head to the answer's head, by path.
    pub duration: HistogramVec,
    /// Open connections.
    pub connections: IntGauge,
    /// Connections that were closed because a newer one needed the place.
    pub evicted: IntCounter,
    /// Open event streams.
    pub streams: IntGauge,
}

impl ServerMetrics {
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

    /// Metrics that no registry has.
    ///
    /// # Errors
    ///
    /// Never with these names; the registry's kind of error is passed on.
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

    /// What [`Self::register`] registers.
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

/// One row of the table of metrics.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MetricRow {
    /// The metric's name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Its labels, in order.
    pub labels: Vec<String>,
    /// What it says.
    pub help: String,
}

/// The rows of what collectors hold, by name; also of those that have no series yet.
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

/// The table as Markdown.
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

/// The rules of names and labels that rows break, in words; empty if all is well.
///
/// Names as Prometheus asks for them (base units last, `_total` for counters only); labels only where
/// their values are a closed set, so none that could carry an object's name, a lease or an error.
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
