//! Alert rules, as Prometheus reads them from a file and as the Prometheus operator reads them from an
//! object.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use serde_json::{Value, json};

/// How soon somebody must look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Now: what the cluster is for does not happen, or a guarantee is broken.
    Critical,
    /// Today: it goes on, but not as it should.
    Warning,
}

/// A condition that somebody is to be told about.
#[derive(Clone, Debug)]
pub struct Alert {
    /// Its name.
    pub name: &'static str,
    /// Is there something wrong? In `PromQL`; each series of the answer is an alert.
    pub query: String,
    /// How long it must have been wrong.
    pub lasting: Duration,
    /// How soon somebody must look.
    pub severity: Severity,
    /// One line; may use `{{ $labels.x }}` and `{{ $value }}`.
    pub summary: &'static str,
    /// What it means and what comes of it.
    pub description: &'static str,
    /// The page that says what to do, below the base of all of them.
    pub runbook: &'static str,
}

/// Alerts that belong together.
#[derive(Clone, Debug)]
pub struct RuleGroup {
    /// Its name.
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
    /// What a rule file holds, with the runbooks below `runbooks`, a URL.
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

    /// The object that the Prometheus operator takes for a rule file.
    pub fn to_prometheus_rule(&self, name: &str, runbooks: &str) -> Value {
        json!({
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "bellwether"}},
            "spec": self.to_json(runbooks),
        })
    }
}
