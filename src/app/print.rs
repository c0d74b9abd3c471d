//! Command `print`: what the operator brings to a cluster: definitions, roles, dashboards and alert rules.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};

use super::{
    crds::{self, CrdsArgs},
    exit::{Exit, Failure},
    monitoring::{self, Dashboard, RuleFile},
    output::{self, Layout},
    settings::Settings,
};
use crate::k8s::{
    crd::{self, CustomResourceDefinition},
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
    Values(ValuesArgs),
    Files(FilesArgs),
}

/// Operator whose parts are printed.
pub(crate) struct Described<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: &'a str,
    pub(crate) definitions: Vec<CustomResourceDefinition>,
    pub(crate) rules: Rules,
    pub(crate) dashboards: Vec<Dashboard>,
    /// Alert rules beside those that every operator has.
    pub(crate) alerts: &'a [RuleFile],
}

impl PrintArgs {
    /// Prints the part that the arguments name.
    ///
    /// # Errors
    ///
    /// A [`Failure`] if an argument is wrong, or if the output cannot be written.
    pub(crate) fn print(&self, operator: Described<'_>) -> Result<(), Failure> {
        match &self.what {
            Printed::Crds(args) => crds::crds(args, operator.definitions),
            Printed::Rbac(args) => rbac(args, &operator.rules),
            Printed::Dashboards(args) => dashboards(args, &operator.dashboards),
            Printed::Alerts(args) => alerts(args, operator.alerts),
            Printed::Values(_) => values(&operator),
            Printed::Files(args) => files(args, &operator),
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

/// Prints the Grafana dashboards as JSON, all of them or the one of that name
#[derive(Args, Debug)]
#[command(after_long_help = "\
For Grafana 10 and later: import one, or put all into a folder that Grafana is provisioned from. The Helm \
chart has them as a ConfigMap for Grafana's sidecar. `print files` writes each into a file of its own.")]
pub(crate) struct DashboardsArgs {
    /// Name of one dashboard, for instance elections
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

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
/// A [`Failure`] if there is no dashboard of that name, or if standard output is closed.
pub(crate) fn dashboards(args: &DashboardsArgs, all: &[Dashboard]) -> Result<(), Failure> {
    let is_meant = |it: &&Dashboard| args.name.as_ref().is_none_or(|name| it.name() == name);
    let meant: Vec<_> = all.iter().filter(is_meant).collect();
    if meant.is_empty() {
        let names: Vec<_> = all.iter().map(Dashboard::name).collect();
        let what = format!("NAME {:?} is no dashboard", args.name.as_deref().unwrap_or_default());
        return Err(
            Failure::new(Exit::Usage, what).try_this(format!("one of {}", names.join(", ")))
        );
    }
    for dashboard in meant {
        output::print_json(&dashboard.to_json(), Layout::Pretty)?;
    }
    Ok(())
}

/// Runs the command `alerts`. The rules are those of every operator, and `more`.
///
/// # Errors
///
/// A [`Failure`] if standard output is closed.
pub(crate) fn alerts(args: &AlertsArgs, more: &[RuleFile]) -> Result<(), Failure> {
    output::print(&if args.prometheus_rule {
        monitoring::prometheus_rule(&args.name, more, &args.runbooks)
    } else {
        monitoring::alerts(more, &args.runbooks)
    })
}

/// Prints values for the operator's Helm chart: its image, and every setting that a pod may have
#[derive(Args, Debug)]
pub(crate) struct ValuesArgs {}

/// Runs the command `print values`.
fn values(operator: &Described<'_>) -> Result<(), Failure> {
    let mut text = format!(
        "# The image of this version. The repository of yours comes before the name.\nimage:\n  repository: {}\n  \
         tag: {:?}\n\n# Settings of the program, with their defaults. The chart sets those that its own values describe.\n\
         extraEnv: []\n",
        operator.name, operator.version
    );
    for arg in Settings::augment_args(clap::Command::new("")).get_arguments() {
        let (Some(variable), Some(help)) = (arg.get_env(), arg.get_help()) else { continue };
        let default: Vec<_> =
            arg.get_default_values().iter().map(|it| it.to_string_lossy()).collect();
        let (variable, default) = (variable.to_string_lossy(), default.join(","));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  # - {{name: {variable}, value: {default:?}}}  # {help}");
    }
    output::print(&text)
}

/// Writes definitions, roles, dashboards and alert rules into the folder files/ of the operator's Helm chart
#[derive(Args, Debug)]
pub(crate) struct FilesArgs {
    /// Folder, which is created if it does not exist
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,

    /// Writes nothing, and fails if the folder has other contents
    #[arg(long, env = "BELLWETHER_PRINT_CHECK")]
    check: bool,
}

/// Runs the command `print files`.
fn files(args: &FilesArgs, operator: &Described<'_>) -> Result<(), Failure> {
    let mut files = common_files(&operator.dashboards);
    files.push(("rbac.yaml".to_owned(), operator.rules.yaml()));
    for file in operator.alerts {
        files.push((format!("alerts/{}", file.name), file.text.to_owned()));
    }
    let election = crd::election();
    for definition in operator.definitions.iter().filter(|it| **it != election) {
        files.push(definition_file(definition));
    }
    let mut other = Vec::new();
    for (name, text) in files {
        let path = args.folder.join(name);
        if args.check {
            if fs::read_to_string(&path).ok().as_deref() != Some(&text) {
                other.push(path.display().to_string());
            }
            continue;
        }
        written(&path, &text).map_err(|error| {
            Failure::caused(Exit::Local, &format!("writing {}", path.display()), &error)
        })?;
    }
    if other.is_empty() {
        return Ok(());
    }
    let what = format!("not what the operator prints: {}", other.join(", "));
    Err(Failure::new(Exit::Failed, what)
        .try_this("write them with the same command without --check"))
}

/// Files that every operator has: paths below the folder files/ of the chart, and contents.
pub(crate) fn common_files(dashboards: &[Dashboard]) -> Vec<(String, String)> {
    let mut files = vec![
        ("alerts.yaml".to_owned(), monitoring::alerts(&[], monitoring::RUNBOOKS)),
        definition_file(&crd::election()),
    ];
    for dashboard in dashboards {
        let text = format!("{}\n", dashboard.to_json());
        files.push((format!("dashboards/{}.json", dashboard.uid()), text));
    }
    files
}

fn definition_file(definition: &CustomResourceDefinition) -> (String, String) {
    let name = format!("crds/{}.yaml", definition.spec.names.plural);
    (name, crd::yaml(std::slice::from_ref(definition)))
}

fn written(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text)
}
