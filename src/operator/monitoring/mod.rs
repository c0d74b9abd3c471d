//! What there is to look at and to be woken by: the dashboards and the alert rules.
//!
//! Both name metrics by the constants that register them. The chart carries what the commands
//! `bellwether dashboards` and `bellwether alerts` print; a test compares.

mod alerts;
mod elections;

use crate::telemetry::{grafana::Dashboard, rules::RuleGroup};

/// Where the runbooks are read, unless told otherwise: `docs/runbooks/` as it is published.
pub const RUNBOOKS: &str = "https://bellwether.dev/runbooks";

/// All dashboards.
pub fn dashboards() -> Vec<Dashboard> {
    vec![elections::dashboard()]
}

/// All alerts.
pub fn alerts() -> RuleGroup {
    alerts::group()
}
