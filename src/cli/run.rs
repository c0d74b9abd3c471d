//! Command `run`: one node, on etcd, on Kubernetes or standalone, with the reference work; in Kubernetes as an operator.

mod kubernetes;
mod timing;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use bellwether::{
    engine::NodeId,
    host::{Host, HostError},
    k8s::{client::ClientMetrics, identity::PodIdentity},
    node::{ClusterNode, InvalidOption, Node, StartError, StateError, Stopped, supervision},
    operator::uptime::{
        self, Checks, CutBy, Uptime, UptimeMetrics, UptimeOptions,
        probe::{Prober, denied::Network},
        status_file,
    },
    tasks,
    telemetry::{StatusServer, metrics},
};
use clap::Args;
use prometheus::Registry;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub(crate) use self::timing::Profile;
use self::{kubernetes::KubeArgs, timing::Policy};
use super::{
    args::{self, ClusterArgs, StoreKind, node_id},
    connect,
    exit::{Exit, Failure, chain},
    serve,
};

/// Added to the wait for a TTL by the default of `--id-wait`: etcd checks for expired leases twice a second, grants at
/// least 2 s, and renews all leases when its leader changes. On Kubernetes, nodes wait up to a tenth of the TTL more.
const ID_WAIT_BEYOND_TTL: Duration = Duration::from_secs(2);

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
    cluster: ClusterArgs,
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    work: WorkArgs,
    #[command(flatten)]
    kube: KubeArgs,
}

/// How the node behaves.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Node")]
pub(crate) struct NodeArgs {
    /// This node's id: a whole number from 0, unique among the live nodes of the cluster (default in a pod:
    /// its ordinal, or a hash of its UID)
    #[arg(
        long,
        value_name = "ID",
        env = "BELLWETHER_ID",
        value_parser = node_id, allow_negative_numbers = true
    )]
    id: Option<NodeId>,

    /// A cluster of one, in memory: the same as --store memory
    #[arg(long, env = "BELLWETHER_STANDALONE")]
    standalone: bool,

    /// Where others can reach this node; shown, not interpreted (default: host name and port of --listen)
    #[arg(long, value_name = "ADDRESS", env = "BELLWETHER_ADDRESS")]
    address: Option<String>,

    /// Where the status server listens; 0.0.0.0:8080 for everybody, port 0 for any that is free
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "BELLWETHER_LISTEN",
        default_value = "127.0.0.1:8080"
    )]
    listen: String,

    /// How fast a silent leader is replaced. On etcd: fast 0.44 s, default 1.1 s, stable 3.3 s. On Kubernetes:
    /// fast 2.2 s, default 5.5 s, calm 16.5 s (a choice of all nodes)
    #[arg(
        long,
        value_name = "PROFILE",
        env = "BELLWETHER_PROFILE",
        value_enum,
        default_value_t = Profile::Default
    )]
    profile: Profile,

    /// Time between runs of the routines; all nodes of a cluster must agree
    #[arg(
        long,
        value_name = "TIME",
        env = "BELLWETHER_TICK",
        default_value = "50ms",
        value_parser = tick
    )]
    tick: Duration,

    /// Reaction to a cluster with another tick: refuse to join, or adopt its tick
    #[arg(
        long,
        value_name = "POLICY",
        env = "BELLWETHER_TICK_POLICY",
        value_enum,
        default_value_t = Policy::Strict
    )]
    tick_policy: Policy,

    /// How long the node's keys outlive it after a crash without a proof of death; whole seconds (default: 5s on
    /// etcd, 10s on Kubernetes, 30s with the profile calm)
    #[arg(long, value_name = "TIME", env = "BELLWETHER_TTL", value_parser = ttl)]
    ttl: Option<Duration>,

    /// How long leaving may take
    #[arg(
        long,
        value_name = "TIME",
        env = "BELLWETHER_GRACE",
        default_value = "20s",
        value_parser = args::duration
    )]
    grace: Duration,

    /// Give up with exit code 4 if it has not joined by then (default: keep trying)
    #[arg(long, value_name = "TIME", env = "BELLWETHER_START_WITHIN", value_parser = args::duration)]
    start_within: Option<Duration>,

    /// How long to wait for the holder of --id to end, before exit code 6: it may be an earlier life that was
    /// killed and whose lease has yet to expire; 0 fails at once (default: 1.2 times --ttl and 2 s)
    #[arg(
        long,
        value_name = "TIME",
        env = "BELLWETHER_ID_WAIT",
        value_parser = args::duration_or_zero
    )]
    id_wait: Option<Duration>,

    /// Work but never lead
    #[arg(long, env = "BELLWETHER_NEVER_LEAD")]
    never_lead: bool,

    /// UID of the pod: the next life of the same pod may then end this one at once
    #[arg(long, value_name = "UID", env = "BELLWETHER_POD_UID")]
    pod_uid: Option<String>,

    /// Let the status page ask this node to resign
    #[arg(long, env = "BELLWETHER_ALLOW_ACTIONS")]
    allow_actions: bool,

    /// Host names, beside localhost and bare addresses, under which the buttons of the page work: those that a
    /// proxy serves the page under. Several are separated by commas
    #[arg(
        long = "action-host",
        value_name = "HOST",
        env = "BELLWETHER_ACTION_HOSTS",
        value_delimiter = ',',
        value_parser = serve::host_name
    )]
    action_hosts: Vec<String>,
}

/// Options of the uptime checks.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Uptime checks")]
pub(crate) struct WorkArgs {
    /// Folder with `UptimeCheck` manifests (*.yaml); watched for changes
    #[arg(long, value_name = "FOLDER", env = "BELLWETHER_CHECKS")]
    pub(crate) checks: Option<PathBuf>,

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
}

impl WorkArgs {
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
        let options = UptimeOptions { cut_by, status_file, metrics, probe, ..Default::default() };
        Ok(Uptime::new(checks, options))
    }

    /// Adds the checks of the folder to a host, if the flags name a folder.
    async fn add_to(&self, host: Host, registry: &Registry) -> Result<Host, Failure> {
        let Some(folder) = &self.checks else { return Ok(host) };
        let (folder, checks) = serve::manifests(folder).await?;
        let uptime = self.uptime(checks, CutBy::Names, registry)?;
        let host = uptime::add(host, &uptime);
        Ok(host.task("manifests", |_| folder.run(CancellationToken::new())))
    }
}

impl NodeArgs {
    fn id_wait(&self, ttl: Duration) -> Duration {
        self.id_wait.unwrap_or(ttl + ttl / 5 + ID_WAIT_BEYOND_TTL)
    }
}

fn tick(text: &str) -> Result<Duration, String> {
    args::bounded(args::duration(text)?, Duration::from_millis(1), Duration::from_secs(3600))
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = args::duration(text)?;
    if ttl.subsec_nanos() != 0 {
        return Err("is not whole seconds: leases are counted in seconds".into());
    }
    args::bounded(ttl, Duration::from_secs(1), Duration::from_secs(3600))
}

/// Runs the node, from joining to leaving.
///
/// # Errors
///
/// A [`Failure`] if the node cannot be set up, is refused, or cannot leave cleanly.
pub(crate) async fn run(args: RunArgs) -> Result<ExitCode, Failure> {
    let signals = serve::signals()?;
    let _parent = leave_with_parent(signals.leave().clone());
    signals.unless_aborted(live_and_leave(args, signals.leave())).await?
}

async fn live_and_leave(args: RunArgs, asked: &CancellationToken) -> Result<ExitCode, Failure> {
    let page = serve::bind(&args.node.listen, &args.node.action_hosts).await?;
    let pod = kubernetes::pod(page.address().port())?;
    let identity = Identity::of(&args, pod.as_ref(), page.address())?;
    let registry = metrics::registry().map_err(|error| serve::metric_twice(&error))?;
    let is_operator = kubernetes::is_wanted(&args.kube, &args.work);
    // The store and the caches count their requests together.
    let requests = if is_operator || args.cluster.chosen().0 == StoreKind::Kubernetes {
        Some(ClientMetrics::register(&registry).map_err(|error| serve::metric_twice(&error))?)
    } else {
        None
    };
    let host = host(&args, identity, page, requests.clone())?.registry(registry.clone());
    let asked = asked.cancelled();
    let ended = if is_operator {
        kubernetes::operator(&args, host, pod, requests, &registry).await?.run(asked).await
    } else {
        args.work.add_to(host, &registry).await?.run(asked).await
    };
    match ended? {
        Stopped::Clean => {
            tracing::info!("left cleanly");
            Ok(ExitCode::SUCCESS)
        }
        Stopped::Unclean => Err(Failure::new(
            Exit::Failed,
            "did not leave cleanly: the lease has to run out",
        )
        .try_this("look above for work that does not end, or for a store that does not answer or denies it")),
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Options(error) => wrong_node(&error),
            HostError::Prepare(error) => match error.downcast::<Self>() {
                Ok(failure) => *failure,
                Err(error) => Self::caused(Exit::Failed, "preparing to join", &*error),
            },
            HostError::Start(error) => not_joined(&error),
            HostError::NotJoined { ref problem, .. } => {
                // The problem contains its own remedy, if there is one.
                let remedy = match problem {
                    Some(_) => "the log above says more",
                    None => "see that the store runs and that --etcd (BELLWETHER_ETCD), or the kubeconfig, names it",
                };
                Self::new(Exit::Unreachable, error.to_string()).try_this(remedy)
            }
            HostError::Node(error) => Self::caused(Exit::Broken, "running the node", &error).try_this(
                "this is a bug: keep the log, which has the panic, and start the node again; under \
                 `bellwether supervise` the others take over at once",
            ),
            error => Self::new(Exit::Failed, chain(&error)),
        }
    }
}

/// Identity of this node: id, address and pod UID.
struct Identity {
    id: i64,
    address: String,
    pod_uid: Option<String>,
    pod_name: Option<String>,
}

impl Identity {
    /// Takes each value from the flags, or else from the pod.
    fn of(args: &RunArgs, pod: Option<&PodIdentity>, listen: SocketAddr) -> Result<Self, Failure> {
        let flags = &args.node;
        let given = flags.id.map(NodeId::get).or_else(|| pod.map(PodIdentity::id));
        let id = match given {
            Some(id) => id,
            None if flags.standalone || args.cluster.store == Some(StoreKind::Memory) => 0,
            None => {
                return Err(Failure::new(Exit::Usage, "the node has no id").try_this(
                    "give it one with --id (BELLWETHER_ID), or run it in a pod with the downward API's \
                     variables, or alone with --standalone",
                ));
            }
        };
        let address = flags.address.clone().or_else(|| pod.map(PodIdentity::address));
        Ok(Self {
            id,
            address: address.unwrap_or_else(|| own_address(listen)),
            pod_uid: flags.pod_uid.clone().or_else(|| pod.map(|pod| pod.uid().to_owned())),
            pod_name: pod.map(|pod| pod.name().to_owned()),
        })
    }
}

/// Makes the node leave when its parent, `supervise`, dies: no process would end the node's incarnation after
/// that. The kernel sends the death signal for each thread of the parent that ends. The signal is SIGUSR1,
/// because a repeated SIGTERM would abort the leave. Active until the returned handle is dropped.
fn leave_with_parent(leave: CancellationToken) -> Option<AbortOnDropHandle<()>> {
    std::env::var_os(supervision::FD_ENV)?;
    let parent = getppid();
    // The listener comes first: without one, the signal ends the process.
    let listened = signal(SignalKind::user_defined1()).and_then(|gone| {
        set_parent_process_death_signal(Some(Signal::USR1))?;
        Ok(gone)
    });
    let mut gone = listened
        .inspect_err(|error| {
            tracing::warn!(%error, "the end of the parent process will go unnoticed");
        })
        .ok()?;
    // If the task fails, the node leaves, because the end of the parent would go unnoticed.
    let leave = leave.drop_guard();
    let leaving = tasks::spawn("parent", async move {
        loop {
            gone.recv().await;
            if getppid() != parent {
                break;
            }
            // The parent lives: it forwarded the signal, or a user sent it.
            tracing::debug!("SIGUSR1 ignored");
        }
        tracing::warn!("the parent process has ended: leaving");
        drop(leave);
    });
    Some(AbortOnDropHandle::new(leaving))
}

fn not_joined(error: &StartError) -> Failure {
    let failure = |exit| Failure::caused(exit, "joining the cluster", error);
    match error {
        StartError::DuplicateId { waited, .. } if waited.is_zero() => failure(Exit::Refused)
            .try_this("wait for the holder's lease to expire: --id-wait (BELLWETHER_ID_WAIT)"),
        StartError::DuplicateId { .. } => failure(Exit::Refused).try_this(
            "look at that address whether the node still runs; if it was killed and had a longer --ttl, \
             raise --id-wait (BELLWETHER_ID_WAIT)",
        ),
        StartError::TickDisagreement { .. } => failure(Exit::Refused),
        _ => failure(Exit::Failed),
    }
}

/// Fails on errors that waiting does not fix. A store that does not answer yet only causes a warning.
async fn look_at_store(kind: StoreKind, node: Arc<dyn Node>) -> Result<(), Failure> {
    let Err(StateError::Store { source, .. }) = node.get_leader().await else { return Ok(()) };
    let failure = Failure::of_store(kind, "looking at the store", &source);
    if matches!(failure.exit, Exit::Denied | Exit::Refused) {
        return Err(failure);
    }
    tracing::warn!(error = %failure.what, "the store does not answer; waiting for it");
    Ok(())
}

fn wrong_node(error: &InvalidOption) -> Failure {
    if let InvalidOption::Store(source) = error
        && let Some(error) = source.downcast_ref()
    {
        return connect::wrong_flag(error);
    }
    Failure::caused(Exit::Usage, "setting up the node", error)
}

/// Returns the host of the node that the flags describe.
fn host(
    args: &RunArgs,
    identity: Identity,
    page: StatusServer,
    requests: Option<ClientMetrics>,
) -> Result<Host, Failure> {
    let Identity { id, address, pod_uid, pod_name } = identity;
    let it = &args.node;
    let (kind, reason) = if it.standalone {
        (StoreKind::Memory, "--standalone (BELLWETHER_STANDALONE) says so")
    } else {
        args.cluster.chosen()
    };
    tracing::info!(store = ?kind, reason, "keeping the cluster");
    let timing = it.profile.timing(kind)?;
    let ttl = it.ttl.unwrap_or(timing.ttl);
    let host = if kind == StoreKind::Memory {
        let node = ClusterNode::standalone()
            .id(id)
            .address(address)
            .cluster(args.cluster.cluster.cluster())
            .tick(it.tick)
            .ttl(ttl)
            .failover(timing.failover);
        Host::new(node)
    } else {
        let node = ClusterNode::builder()
            .id(id)
            .address(address)
            .cluster(args.cluster.cluster.cluster())
            .tick(it.tick)
            .tick_policy(it.tick_policy.into())
            .ttl(ttl)
            .failover(timing.failover)
            .call_timeout(args.cluster.timeout)
            .id_wait(it.id_wait(ttl));
        let node = if kind == StoreKind::Kubernetes {
            let mut config = connect::kubernetes_config(&args.cluster, requests);
            config = match it.profile {
                Profile::Fast => config.fast(),
                Profile::Calm => config.calm(),
                Profile::Default | Profile::Stable => config,
            };
            if let Some(name) = pod_name {
                config = config.identity(name);
            }
            node.kubernetes(config)
        } else {
            node.etcd(connect::etcd_config(&args.cluster)?)
        };
        let node = match pod_uid {
            Some(uid) => node.pod_uid(uid),
            None => node,
        };
        let node = if it.never_lead { node.never_lead() } else { node };
        Host::new(node)
            .before_joining(move |node| async move { Ok(look_at_store(kind, node).await?) })
    };
    let host = match it.start_within {
        Some(within) => host.start_within(within),
        None => host,
    };
    let allows_actions = it.allow_actions;
    Ok(host
        .status(move |page| if allows_actions { page.may_resign() } else { page })
        .serve_on(page)
        .stop_within(it.grace))
}

/// Returns the host's name, with the port of the status server.
fn own_address(listen: SocketAddr) -> String {
    if listen.ip().is_unspecified() {
        let host = rustix::system::uname();
        return format!("{}:{}", host.nodename().to_string_lossy(), listen.port());
    }
    listen.to_string()
}
