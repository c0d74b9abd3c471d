//! Command `print`: what the operator brings to a cluster: definitions, roles, dashboards and alert rules.

use clap::{Args, Subcommand};

use super::{
    crds::{self, CrdsArgs},
    exit::Failure,
    monitoring,
    output::{self, Layout},
};
use crate::k8s::{
    crd::CustomResourceDefinition,
    rbac::{Reach, Rules},
};

/// Prints what the operator brings to a cluster: definitions, roles, dashboards, alert rules
#[derive(Args, Debug)]
pub(crate) struct PrintArgs {
    #[command(subcommand)]
    what: Printed,
}

#[derive(Subcommand, Debug)]
enum Printed {
    Crds(CrdsArgs),
    Rbac(RbacArgs),
    Dashboards(DashboardsArgs),
    Alerts(AlertsArgs),
}

impl PrintArgs {
    /// Prints the part that the arguments name. `rules` computes the permissions.
    ///
    /// # Errors
    ///
    /// A [`Failure`] if an argument is wrong, or if standard output is closed.
    pub(crate) fn print(
        &self,
        definitions: Vec<CustomResourceDefinition>,
        rules: impl FnOnce() -> Rules,
    ) -> Result<(), Failure> {
        match &self.what {
            Printed::Crds(args) => crds::crds(args, definitions),
            Printed::Rbac(args) => rbac(args, &rules()),
            Printed::Dashboards(_) => dashboards(),
            Printed::Alerts(args) => alerts(args),
        }
    }
}

/// Prints the permissions that the operator needs, computed from its controllers
#[derive(Args, Debug)]
#[command(after_long_help = "\
Without arguments: ServiceAccount, roles and bindings, for kubectl apply. With --rules: the file files/rbac.yaml \
of the operator's Helm chart, which makes the roles from it.")]
pub(crate) struct RbacArgs {
    /// The rules alone, as the Helm chart reads them
    #[arg(long, env = "BELLWETHER_PRINT_RULES")]
    rules: bool,

    /// Roles for a program with --all-namespaces
    #[arg(long, env = "BELLWETHER_ALL_NAMESPACES", conflicts_with = "rules")]
    all_namespaces: bool,

    /// Namespace of the pods
    #[arg(
        long,
        value_name = "NAME",
        env = "BELLWETHER_NAMESPACE",
        default_value = "default",
        conflicts_with = "rules"
    )]
    namespace: String,

    /// Name of the account and the roles, and of the cluster's Lease
    #[arg(
        long,
        short = 'c',
        value_name = "NAME",
        env = "BELLWETHER_CLUSTER",
        default_value = "bellwether",
        conflicts_with = "rules"
    )]
    cluster: String,
}

/// Runs the command `print rbac`.
///
/// # Errors
///
/// A [`Failure`] if standard output is closed.
fn rbac(args: &RbacArgs, rules: &Rules) -> Result<(), Failure> {
    if args.rules {
        return output::print(&rules.yaml());
    }
    let reach = if args.all_namespaces { Reach::AllNamespaces } else { Reach::OwnNamespace };
    output::print(&rules.manifests(&args.cluster, &args.namespace, reach))
}

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
