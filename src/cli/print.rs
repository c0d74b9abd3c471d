//! Commands `dashboards` and `alerts`: they print the dashboard for Grafana and the rules for Prometheus.

use bellwether::operator::monitoring;
use clap::Args;

use super::{
    exit::Failure,
    output::{self, Layout},
};

/// Prints the Grafana dashboard *Elections* as JSON
#[derive(Args, Debug)]
#[command(after_long_help = "\
For Grafana 10 and later: import it, or put it into a folder that Grafana is provisioned from. The Helm \
chart carries it as a ConfigMap for Grafana's sidecar.")]
pub(crate) struct DashboardsArgs {}

/// Prints the alert rules, each with its runbook
#[derive(Args, Debug)]
#[command(after_long_help = "\
A rule file for Prometheus (rule_files), or with --prometheus-rule the object that the Prometheus operator \
reads. The Helm chart carries it too.")]
pub(crate) struct AlertsArgs {
    /// As a `PrometheusRule` object, for kubectl apply
    #[arg(long, env = "BELLWETHER_PROMETHEUS_RULE")]
    prometheus_rule: bool,

    /// Name of that object
    #[arg(
        long,
        value_name = "NAME",
        env = "BELLWETHER_PROMETHEUS_RULE_NAME",
        default_value = "bellwether",
        requires = "prometheus_rule"
    )]
    name: String,

    /// Where the runbooks are; the name of each follows
    #[arg(
        long,
        value_name = "URL",
        env = "BELLWETHER_RUNBOOKS",
        default_value = monitoring::RUNBOOKS
    )]
    runbooks: String,
}

/// Runs the command `dashboards`.
///
/// # Errors
///
/// A [`Failure`] if standard output is closed.
pub(crate) fn dashboards() -> Result<(), Failure> {
    for dashboard in monitoring::dashboards() {
        output::print_json(&dashboard.to_json(), Layout::Pretty)?;
    }
    Ok(())
}

/// Runs the command `alerts`.
///
/// # Errors
///
/// A [`Failure`] if standard output is closed.
pub(crate) fn alerts(args: &AlertsArgs) -> Result<(), Failure> {
    output::print(&if args.prometheus_rule {
        monitoring::prometheus_rule(&args.name, &args.runbooks)
    } else {
        monitoring::alerts(&args.runbooks)
    })
}
