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

/// All dashboards for Grafana.
pub fn dashboards() -> Vec<Dashboard> {
    vec![elections::dashboard()]
}

/// The alert rules as a rule file of Prometheus, in YAML, with the runbooks below this URL.
pub fn alerts(runbooks: &str) -> String {
    let quoted = json!(runbooks.trim_end_matches('/')).to_string();
    ALERTS.replace(RUNBOOKS, quoted.trim_matches('"'))
}

/// The alert rules as a `PrometheusRule` of that name, in YAML: the object that the Prometheus operator reads.
pub fn prometheus_rule(name: &str, runbooks: &str) -> String {
    let metadata = json!({"name": name, "labels": {"app.kubernetes.io/name": "bellwether"}});
    let mut text = format!(
        "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata: {metadata}\nspec:\n"
    );
    for line in alerts(runbooks).lines() {
        text.push_str("  ");
        text.push_str(line);
        text.push('\n');
    }
    text
}
