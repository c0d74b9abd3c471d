//! Dashboards for Grafana and alert rules for Prometheus.
//!
//! The dashboards are files in `dashboards/`, the rules are a file of the chart. The chart has what the commands
//! `bellwether dashboards` and `bellwether alerts` print. A test compares.

mod dashboard;
mod narrow;
mod panel;

use serde_json::json;

pub use self::dashboard::Dashboard;
use self::narrow::{Metrics, registered};
use crate::telemetry::metrics::MetricRow;

/// Base of the URLs of the runbooks by default: `docs/runbooks/` as it is published.
pub const RUNBOOKS: &str = "https://bellwether.dev/runbooks";

/// The alert rules as the chart carries them, with the runbooks below [`RUNBOOKS`].
const ALERTS: &str = include_str!("../../../charts/bellwether/files/alerts.yaml");

/// Names and files of the dashboards of every operator.
const DASHBOARDS: [(&str, &str); 6] = [
    ("overview", include_str!("dashboards/overview.yaml")),
    ("elections", include_str!("dashboards/elections.yaml")),
    ("nodes", include_str!("dashboards/nodes.yaml")),
    ("shards", include_str!("dashboards/shards.yaml")),
    ("controllers", include_str!("dashboards/controllers.yaml")),
    ("store", include_str!("dashboards/store.yaml")),
];

/// Rule file of an operator beside the rules that every operator has.
#[derive(Clone, Copy, Debug)]
pub struct RuleFile {
    /// Name of the file below `files/alerts/` of the chart.
    pub name: &'static str,
    /// Rules in YAML, with the groups after the line `groups:` and the runbooks below [`RUNBOOKS`].
    pub text: &'static str,
}

/// The dashboards for Grafana that fit every operator, for the operator of that name.
pub fn dashboards(operator: &str) -> Vec<Dashboard> {
    let metrics = Metrics::new(registered());
    DASHBOARDS.map(|(name, file)| Dashboard::of(file, name, operator, &metrics)).into()
}

/// Dashboard that only this operator has, about the metrics `own`.
pub(crate) fn own_dashboard(
    file: &str,
    name: &str,
    operator: &str,
    own: Vec<MetricRow>,
) -> Dashboard {
    let metrics = Metrics::new([registered(), own].concat());
    Dashboard::of(file, name, operator, &metrics)
}

/// The alert rules that every operator has, and more of them, as one rule file of Prometheus, in YAML, with the
/// runbooks below this URL.
pub fn alerts(more: &[RuleFile], runbooks: &str) -> String {
    let mut text = ALERTS.to_owned();
    for file in more {
        let (_, groups) = file.text.split_once("groups:\n").unwrap_or_default();
        text.push_str(groups);
    }
    let quoted = json!(runbooks.trim_end_matches('/')).to_string();
    text.replace(RUNBOOKS, quoted.trim_matches('"'))
}

/// The same alert rules as a `PrometheusRule` of that name, in YAML: the object that the Prometheus operator reads.
pub fn prometheus_rule(name: &str, more: &[RuleFile], runbooks: &str) -> String {
    let metadata = json!({"name": name, "labels": {"app.kubernetes.io/name": "bellwether"}});
    let mut text = format!(
        "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata: {metadata}\nspec:\n"
    );
    for line in alerts(more, runbooks).lines() {
        text.push_str("  ");
        text.push_str(line);
        text.push('\n');
    }
    text
}
