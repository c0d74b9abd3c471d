//! Command `run`: one node, on etcd, on Kubernetes or standalone, with the reference work; in Kubernetes as an operator.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::Args;
use prometheus::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    app::{
        When,
        args::SERVICE_HOST,
        exit::{Exit, Failure},
        life, serve,
        settings::{Api, POD_NAME, Prepared, Settings, is_set},
    },
    host::Host,
    k8s::{operator::Operator, rbac::Rules},
    operator::uptime::{
        self, Checks, CutBy, Folder, Uptime, UptimeMetrics, UptimeOptions,
        api::{self, ApiChecks},
        probe::{Prober, denied::Network},
        status_file,
    },
};

/// Runs a node: on etcd, on the Kubernetes API, or alone
#[derive(Args, Debug)]
#[command(after_long_help = "\
The node joins, campaigns, and works: as follower it runs the uptime checks of its shards, as leader it \
gathers what all of them found. While the store cannot be reached it keeps trying, and says so in the log and \
on /readyz. SIGTERM, SIGINT (Ctrl-C) and SIGHUP end its work, hand office and shards over, and leave; a second \
SIGTERM or SIGINT ends at once. Copies of one request within a second are one request.

A restart while an earlier life of the same id is still in the store waits for its end: see --id-wait.

Under a parent that ends a dead node's incarnation a crash fails over in milliseconds:
  bellwether supervise -- bellwether run --id 1")]
pub(crate) struct RunArgs {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    work: WorkArgs,
}

/// Options of the uptime checks.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Uptime checks")]
struct WorkArgs {
    /// Folder with `UptimeCheck` manifests (*.yaml); watched for changes
    #[arg(long, value_name = "FOLDER", env = "BELLWETHER_CHECKS")]
    checks: Option<PathBuf>,

    /// File that the leader writes every check's status to
    #[arg(long, value_name = "FILE", env = "BELLWETHER_STATUS_FILE", requires = "checks")]
    status_file: Option<PathBuf>,

    /// Networks that no check may ask, like 169.254.0.0/16: otherwise a user who may create checks can reach every
    /// address that this node reaches
    #[arg(
        long = "deny-network",
        value_name = "CIDR,…",
        env = "BELLWETHER_DENY_NETWORKS",
        value_delimiter = ','
    )]
    deny_networks: Vec<Network>,

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
}

impl WorkArgs {
    /// Whether the checks come from the Kubernetes API.
    fn api(&self) -> Api {
        let is_wanted = match self.kubernetes {
            When::On => true,
            When::Off => false,
            When::Auto => is_set(POD_NAME) && is_set(SERVICE_HOST) && self.checks.is_none(),
        };
        if is_wanted { Api::Used } else { Api::Unused }
    }

    /// Creates the work of this node on checks.
    fn uptime(
        &self,
        checks: watch::Receiver<Arc<Checks>>,
        cut_by: CutBy,
        registry: &Registry,
    ) -> Result<Uptime, Failure> {
        let status_file = self.status_file.clone();
        if let Some(file) = &status_file {
            status_file::check(file).map_err(|error| {
                Failure::caused(Exit::Usage, "--status-file (BELLWETHER_STATUS_FILE)", &error)
            })?;
        }
        let metrics =
            UptimeMetrics::register(registry).map_err(|error| serve::metric_twice(&error))?;
        let probe = Arc::new(Prober::new().denying(self.deny_networks.iter().copied()));
        let options = UptimeOptions { cut_by, status_file, probe, metrics, ..Default::default() };
        Ok(Uptime::new(checks, options))
    }

    /// Adds the checks of the folder to a host, if the flags name a folder.
    async fn add_to(&self, host: Host, registry: &Registry) -> Result<Host, Failure> {
        let Some(folder) = &self.checks else { return Ok(host) };
        let (folder, checks) = manifests(folder).await?;
        let uptime = self.uptime(checks, CutBy::Names, registry)?;
        let host = uptime::add(host, &uptime);
        Ok(host.task("manifests", |_| folder.run(CancellationToken::new())))
    }

    /// Adds the checks of the Kubernetes API to an operator.
    fn add_to_operator(&self, mut operator: Operator) -> Result<Operator, Failure> {
        let registry = operator.own_registry()?;
        let checks = ApiChecks::of(&mut operator);
        let uptime = self.uptime(checks.checks(), CutBy::Uids, &registry)?;
        Ok(api::add(operator, checks, &uptime))
    }
}

/// Opens the manifests of a folder.
///
/// # Errors
///
/// A [`Failure`] if the folder cannot be read. Problems inside the folder are logged, and the rest is used.
pub(super) async fn manifests(
    folder: &Path,
) -> Result<(Folder, watch::Receiver<Arc<Checks>>), Failure> {
    let opened = Folder::open(folder).await;
    opened.map_err(|error| Failure::caused(Exit::Usage, "--checks (BELLWETHER_CHECKS)", &error))
}

/// Runs the node, from joining to leaving.
///
/// # Errors
///
/// A [`Failure`] if the node cannot be set up, is refused, or cannot leave cleanly.
pub(crate) async fn run(args: RunArgs) -> Result<ExitCode, Failure> {
    let RunArgs { settings, work } = args;
    life::until_signalled(|leave| async move {
        let left = match work.api() {
            Api::Used => {
                let operator = Operator::from_settings(&settings).await?;
                work.add_to_operator(operator)?.run(leave.cancelled()).await?
            }
            Api::Unused => {
                let Prepared { host, registry, .. } = settings.prepare(Api::Unused).await?;
                work.add_to(host, &registry).await?.run(leave.cancelled()).await?
            }
        };
        Ok(left)
    })
    .await
}

/// Permissions of the reference operator.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub(crate) fn rules() -> Rules {
    let mut operator = Operator::unconnected("bellwether");
    let checks = ApiChecks::of(&mut operator);
    let registry = Registry::new();
    let metrics = UptimeMetrics::register(&registry).expect("the registry is empty");
    let options = UptimeOptions { metrics, ..UptimeOptions::default() };
    let uptime = Uptime::new(checks.checks(), options);
    api::add(operator, checks, &uptime).rules()
}
