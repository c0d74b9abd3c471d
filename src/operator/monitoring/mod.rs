//! Monitoring of the reference operator: the dashboards and the alert rules.
//!
//! Both name metrics by the constants that register them. The chart contains the output of the commands
//! `bellwether dashboards` and `bellwether alerts`; a test compares the two.

mod alerts;
mod elections;

use crate::telemetry::{grafana::Dashboard, rules::RuleGroup};

/// Default URL of the runbooks: `docs/runbooks/` as published.
pub const RUNBOOKS: &str = "https://bellwether.dev/runbooks";

/// Returns all Grafana dashboards.
pub fn dashboards() -> Vec<Dashboard> {
    vec![elections::dashboard()]
}

/// Returns all alert rules.
pub fn alerts() -> RuleGroup {
    alerts::group()
}
