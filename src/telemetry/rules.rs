//! Alert rules, as Prometheus reads them from a file and as the Prometheus operator reads them from an
//! object.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use serde_json::{Value, json};

/// Time by which an operator must react.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Now: the cluster does not do its work, or a guarantee is broken.
    Critical,
    /// Today: the cluster works, but not as it should.
    Warning,
}

/// Condition that an operator must be notified of.
#[derive(Clone, Debug)]
pub struct Alert {
    /// Name of this item in the rule file.
    pub name: &'static str,
    /// Query in `PromQL` for the condition; each series of the answer is an alert.
    pub query: String,
    /// Time for which the condition must have lasted.
    pub lasting: Duration,
    /// Time by which an operator must react.
    pub severity: Severity,
    /// Summary in one line; may use `{{ $labels.x }}` and `{{ $value }}`.
    pub summary: &'static str,
    /// Meaning and consequences of the condition.
    pub description: &'static str,
    /// Page with the remedy, relative to the base of all runbooks.
    pub runbook: &'static str,
}

/// Group of alerts that belong together.
#[derive(Clone, Debug)]
pub struct RuleGroup {
    /// Name of this item in the rule file.
    pub name: &'static str,
    /// The alerts, in the order in which they are evaluated.
    pub alerts: Vec<Alert>,
}

#[derive(Serialize)]
struct AlertForm<'a> {
    alert: &'a str,
    expr: &'a str,
    #[serde(rename = "for")]
    lasting: String,
    labels: BTreeMap<&'a str, Severity>,
    annotations: BTreeMap<&'a str, String>,
}

impl RuleGroup {
    /// Content of a rule file, with the runbooks below `runbooks`, a URL.
    pub fn to_json(&self, runbooks: &str) -> Value {
        let base = runbooks.trim_end_matches('/');
        let rules: Vec<AlertForm<'_>> = self
            .alerts
            .iter()
            .map(|alert| AlertForm {
                alert: alert.name,
                expr: &alert.query,
                lasting: format!("{}s", alert.lasting.as_secs()),
                labels: BTreeMap::from([("severity", alert.severity)]),
                annotations: BTreeMap::from([
                    ("summary", alert.summary.to_owned()),
                    ("description", alert.description.to_owned()),
                    ("runbook_url", format!("{base}/{}", alert.runbook)),
                ]),
            })
            .collect();
        json!({"groups": [{"name": self.name, "rules": rules}]})
    }

    /// Object that the Prometheus operator reads as a rule file.
    pub fn to_prometheus_rule(&self, name: &str, runbooks: &str) -> Value {
        json!({
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "bellwether"}},
            "spec": self.to_json(runbooks),
        })
    }
}
