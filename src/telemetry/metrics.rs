//! The registry, its text form, and the table of its metrics.
//!
//! Every module creates its own metrics struct and registers it; this module has the shared parts.

use std::fmt::Write as _;

use prometheus::{
    Encoder as _, GaugeVec, Opts, Registry, TextEncoder,
    core::{Collector, Desc},
    proto::{MetricFamily, MetricType},
};

use super::{
    logs::dropped_lines,
    process::process,
    program::{Program, program},
};
use crate::metrics::Build;

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
    Build::register(&registry, base)?;
    Ok(registry)
}

/// Collectors that [`registry`] registers.
#[doc(hidden)]
pub fn base_collectors() -> Vec<Box<dyn Collector>> {
    Build::made_by(base).1
}

fn base(b: &Build) {
    let build = Opts::new(
        BUILD_INFO,
        "Always 1; the labels are the program, its version and commit, and the version of the library.",
    );
    let build = b.add(GaugeVec::new(build, &["operator", "version", "commit", "bellwether"]));
    let commit = option_env!("BELLWETHER_COMMIT").unwrap_or("unknown");
    let Program { name, version } = program();
    build.with_label_values(&[name, version, commit, env!("CARGO_PKG_VERSION")]).set(1.0);
    dropped_lines(b);
    process(b);
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
