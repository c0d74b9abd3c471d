//! Dashboards for Grafana and alert rules for Prometheus.
//!
//! The dashboards name metrics by the constants that register them; the rules are a file of the chart. The chart
//! carries what the commands `bellwether dashboards` and `bellwether alerts` print; a test compares.

mod elections;

use serde_json::json;

use crate::telemetry::grafana::Dashboard;

/// Base of the URLs of the runbooks by default: `docs/runbooks/` as it is published.
pub const RUNBOOKS: &str = "https://bellwether.dev/runbooks";

/// The alert rules as the chart carries them, with the runbooks below [`RUNBOOKS`].
const ALERTS: &str = include_str!("../../../charts/bellwether/files/alerts.yaml");

/// More alert rules, which only the reference operator has: a rule file of its own in the chart.
#[cfg(feature = "uptime")]
pub const UPTIME_ALERTS: RuleFile = RuleFile {
    name: "uptime.yaml",
    text: include_str!("../../../charts/bellwether/files/alerts/uptime.yaml"),
};

/// Rule file of an operator beside the rules that every operator has.
#[derive(Clone, Copy, Debug)]
pub struct RuleFile {
    /// Name of the file below `files/alerts/` of the chart.
    pub name: &'static str,
    /// Rules in YAML, with the groups after the line `groups:` and the runbooks below [`RUNBOOKS`].
    pub text: &'static str,
}

/// All dashboards for Grafana, of the operator of that name. The name is in their titles and identifiers, so that
/// the dashboards of two operators stand side by side.
pub fn dashboards(operator: &str) -> Vec<Dashboard> {
    vec![elections::dashboard(operator)]
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
