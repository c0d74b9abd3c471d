//! Node in Kubernetes: the identity of its pod, and uptime checks from the API.

use std::env;

use bellwether::{
    host::Host,
    k8s::{
        cache::Scope, client::ClientMetrics, fence::ElectionRef, identity::PodIdentity,
        operator::Operator,
    },
    operator::uptime::{
        CutBy,
        api::{self, ApiChecks},
    },
};
use clap::Args;
use prometheus::Registry;

use super::{RunArgs, WorkArgs};
use crate::cli::{
    apiserver::When,
    args::SERVICE_HOST,
    exit::{Exit, Failure},
};

/// Variable that the downward API sets in every pod of the chart.
const POD_NAME: &str = "POD_NAME";

/// API server of a node, and the objects that it takes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Kubernetes")]
pub(crate) struct KubeArgs {
    /// Whether the checks come from the Kubernetes API, and statuses go there: auto means in a pod, unless
    /// --checks names a folder
    #[arg(
        long,
        value_name = "WHEN",
        env = "BELLWETHER_KUBERNETES",
        value_enum,
        default_value_t = When::Auto
    )]
    kubernetes: When,

    /// Take the checks of all namespaces; needs a `ClusterRole`
    #[arg(long, env = "BELLWETHER_ALL_NAMESPACES")]
    all_namespaces: bool,

    /// Take only the checks that this label selector picks, like team=a or team!=b. Two clusters that see the same
    /// namespaces need selectors that pick different checks
    #[arg(
        long,
        value_name = "SELECTOR",
        env = "BELLWETHER_CHECK_SELECTOR",
        value_parser = selector
    )]
    check_selector: Option<String>,
}

/// Parses a label selector by its characters only: the API server validates the rest.
fn selector(text: &str) -> Result<String, String> {
    let fits = |it: char| it.is_ascii_alphanumeric() || "./_=!(), -".contains(it);
    if text.trim().is_empty() || !text.chars().all(fits) {
        return Err(
            "is not a label selector: write it like team=a, team!=b or team in (a,b)".into()
        );
    }
    Ok(text.to_owned())
}

/// Returns the pod in which this process runs, if there is one.
///
/// # Errors
///
/// A [`Failure`] with the missing lines of the manifest, if the pod's variables are incomplete.
pub(super) fn pod(port: u16) -> Result<Option<PodIdentity>, Failure> {
    if !is_set(POD_NAME) {
        return Ok(None);
    }
    let pod =
        PodIdentity::from_env().map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    Ok(Some(pod.or_port(port)))
}

/// Whether a variable has a value.
fn is_set(variable: &str) -> bool {
    env::var_os(variable).is_some_and(|value| !value.is_empty())
}

/// Whether this node uses the Kubernetes API.
pub(super) fn is_wanted(kube: &KubeArgs, work: &WorkArgs) -> bool {
    match kube.kubernetes {
        When::On => true,
        When::Off => false,
        When::Auto => is_set(POD_NAME) && is_set(SERVICE_HOST) && work.checks.is_none(),
    }
}

/// Creates the operator: uptime checks from the API, and the cluster's `Election`.
///
/// # Errors
///
/// A [`Failure`] if the operator cannot be set up. An API server that does not answer is not an error.
pub(super) async fn operator(
    args: &RunArgs,
    host: Host,
    pod: Option<PodIdentity>,
    requests: Option<ClientMetrics>,
    registry: &Registry,
) -> Result<Operator, Failure> {
    let (endpoint, client) = args.cluster.api.connect(requests).await?;
    let namespace = args.cluster.api.namespace(&client);
    let scope =
        if args.kube.all_namespaces { Scope::all() } else { Scope::namespace(namespace.clone()) };
    let scope = match &args.kube.check_selector {
        Some(selector) => scope.labels(selector),
        None => scope,
    };
    let cluster = args.cluster.cluster.cluster().to_owned();
    let election = ElectionRef { namespace, cluster };
    tracing::info!(%endpoint, %election, "working on Kubernetes");

    let mut operator = Operator::new(host, client, election);
    if let Some(pod) = pod {
        operator = operator.pod(pod);
    }
    let checks = ApiChecks::of(&mut operator, &scope);
    let uptime = args.work.uptime(checks.checks(), CutBy::Uids, registry)?;
    Ok(api::add(operator, checks, &uptime, &scope))
}
