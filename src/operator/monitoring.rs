//! Dashboards for Grafana and alert rules for Prometheus.
//!
//! Both are files of the chart, which the commands `bellwether dashboards` and `bellwether alerts` print. Tests
//! compare the metrics and labels in them with those that the program registers.

use serde_json::{Value, json};

/// Base of the URLs of the runbooks by default: `docs/runbooks/` as it is published.
pub const RUNBOOKS: &str = "https://bellwether.dev/runbooks";

/// The alert rules as the chart carries them, with the runbooks below [`RUNBOOKS`].
const ALERTS: &str = include_str!("../../charts/bellwether/files/alerts.yaml");

/// The dashboard *Elections* as the chart carries it.
const ELECTIONS: &str =
    include_str!("../../charts/bellwether/files/dashboards/bellwether-elections.json");

/// A dashboard for Grafana.
#[derive(Clone, Copy, Debug)]
pub struct Dashboard(&'static str);

impl Dashboard {
    /// JSON model that Grafana reads.
    ///
    /// # Panics
    ///
    /// If the file of the chart is malformed.
    pub fn to_json(self) -> Value {
        serde_json::from_str(self.0).expect("the file of the chart is JSON")
    }
}

/// All dashboards for Grafana.
pub fn dashboards() -> Vec<Dashboard> {
    vec![Dashboard(ELECTIONS)]
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
