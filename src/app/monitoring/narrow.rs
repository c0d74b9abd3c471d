//! Narrows queries to what the reader of a dashboard chose by its variables.

use std::collections::BTreeSet;

use regex::{Captures, Regex};

use crate::{
    k8s::{client::ClientMetrics, operator::OperatorMetrics, queue::QueueMetrics},
    node::NodeMetrics,
    telemetry::{
        metrics::{MetricRow, base_collectors, describe},
        server::ServerMetrics,
    },
};

/// Variables that narrow every metric of the library, with their labels for readers, outermost first.
pub(super) const VARIABLES: [(&str, &str); 4] = [
    ("cluster", "Kubernetes cluster"),
    ("namespace", "Namespace"),
    ("job", "Job"),
    ("instance", "Node"),
];

/// Metrics of others, with how many of the [`VARIABLES`] narrow them. Alerts need not have an instance, and etcd has
/// targets of its own.
const OF_OTHERS: [(&str, usize); 4] = [
    ("ALERTS", 3),
    ("etcd_disk_backend_commit_duration_seconds_bucket", 1),
    ("etcd_disk_wal_fsync_duration_seconds_bucket", 1),
    ("etcd_server_leader_changes_seen_total", 1),
];

/// Label matcher of a variable.
pub(super) fn chosen(variable: &str) -> String {
    format!("{variable}=~\"${variable}\"")
}

/// Metrics that the library registers, from the code that registers them.
pub(super) fn registered() -> Vec<MetricRow> {
    let mut all = describe(&NodeMetrics::collectors());
    all.extend(describe(&OperatorMetrics::collectors()));
    all.extend(describe(&QueueMetrics::collectors()));
    all.extend(describe(&ClientMetrics::collectors()));
    all.extend(describe(&ServerMetrics::collectors()));
    all.extend(describe(&base_collectors()));
    all
}

/// Names of the series that are narrowed.
#[derive(Debug)]
pub(super) struct Metrics {
    names: BTreeSet<String>,
    series: Regex,
}

impl Metrics {
    pub(super) fn new(rows: Vec<MetricRow>) -> Self {
        let mut names = BTreeSet::new();
        for row in rows {
            if row.kind == "histogram" {
                names.extend(["bucket", "sum", "count"].map(|it| format!("{}_{it}", row.name)));
            } else {
                names.insert(row.name);
            }
        }
        let series = Regex::new(r"\b([A-Za-z_]\w*)\b(?:\{([^}]*)\})?").expect("a constant");
        Self { names, series }
    }

    /// Adds to each metric in the query that it is of the targets that the reader chose.
    pub(super) fn narrow(&self, query: &str) -> String {
        let narrowed = |found: &Captures<'_>| {
            let name = &found[1];
            let others =
                OF_OTHERS.iter().find(|(other, _)| *other == name).map(|(_, count)| *count);
            let ours = self.names.contains(name).then_some(VARIABLES.len());
            let Some(count) = others.or(ours) else { return found[0].to_owned() };
            let chosen = VARIABLES.iter().take(count).map(|(variable, _)| chosen(variable));
            let own = found.get(2).map(|it| it.as_str().to_owned());
            let matchers: Vec<_> = chosen.chain(own).collect();
            format!("{name}{{{}}}", matchers.join(", "))
        };
        self.series.replace_all(query, narrowed).into_owned()
    }
}
