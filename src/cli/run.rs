//! Command `run`: one node, on etcd or standalone, with the reference work; in Kubernetes as an operator.

mod kubernetes;
mod timing;
mod work;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use bellwether::{
    engine::NodeId,
    k8s::identity::PodIdentity,
    node::{
        ClusterNode, ClusterNodeBuilder, InvalidOption, Node, NodeError, NodeMetrics, StartError,
        Stopped, broken, keep_joined, supervision,
    },
    operator::uptime::probe::{Prober, denied::Network},
    store::{Get, Store},
    tasks,
    telemetry::metrics,
};
use clap::Args;
use prometheus::Registry;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub(crate) use self::timing::Profile;
use self::{kubernetes::KubeArgs, timing::Policy, work::Work};
use super::{
    args::{self, ClusterArgs, node_id},
    connect,
    exit::{Exit, Failure},
    serve,
};

/// Added to the TTL by the default of `--id-wait`: etcd checks for expired leases twice a second, grants at
/// least 2 s, and renews all leases when its leader changes.
const ID_WAIT_BEYOND_TTL: Duration = Duration::from_secs(2);

/// Runs a node: on etcd, or alone
#[derive(Args, Debug)]
#[command(after_long_help = "\
The node joins, campaigns, and works: as follower it runs the uptime checks of its shards, as leader it \
gathers what all of them found. While etcd cannot be reached it keeps trying, and says so in the log and \
on /readyz. SIGTERM, SIGINT (Ctrl-C) and SIGHUP end its work, hand office and shards over, and leave; a second \
SIGTERM or SIGINT ends at once. Copies of one request within a second are one request.

A restart while an earlier life of the same id is still in etcd waits for its end: see --id-wait.

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

    /// A cluster of one, in memory: no etcd
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

    /// How fast a silent leader is replaced: fast 0.44 s, default 1.1 s, stable 3.3 s
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

    /// How long the node's keys outlive it after a crash without a proof of death; whole seconds
    #[arg(
        long,
        value_name = "TIME",
        env = "BELLWETHER_TTL",
        default_value = "5s",
        value_parser = ttl
    )]
    ttl: Duration,

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
    /// killed and whose lease has yet to expire; 0 fails at once (default: --ttl and 2 s)
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
    pub(crate) status_file: Option<PathBuf>,

    /// Networks that no check may ask, like 169.254.0.0/16: otherwise a user who may create checks can reach every
    /// address that this node reaches
    #[arg(
        long = "deny-network",
        value_name = "CIDR,…",
        env = "BELLWETHER_DENY_NETWORKS",
        value_delimiter = ','
    )]
    pub(crate) deny_networks: Vec<Network>,
}

impl WorkArgs {
    /// Returns the probe for the targets.
    pub(crate) fn prober(&self) -> Prober {
        Prober::new().denying(self.deny_networks.iter().copied())
    }
}

impl NodeArgs {
    fn id_wait(&self) -> Duration {
        self.id_wait.unwrap_or(self.ttl + ID_WAIT_BEYOND_TTL)
    }
}

fn tick(text: &str) -> Result<Duration, String> {
    args::bounded(args::duration(text)?, Duration::from_millis(1), Duration::from_secs(3600))
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = args::duration(text)?;
    if ttl.subsec_nanos() != 0 {
        return Err("is not whole seconds: etcd counts leases in seconds".into());
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
    let mut page = serve::bind(&args.node.listen, &args.node.action_hosts).await?;
    let pod = kubernetes::pod(page.address().port())?;
    let identity = Identity::of(&args, pod.as_ref(), page.address())?;
    let registry = metrics::registry().map_err(|error| metric_twice(&error))?;
    let (builder, etcd) = builder(&args, identity, &registry)?;
    let mut work = if kubernetes::is_wanted(&args.kube, &args.work) {
        kubernetes::work(&args, builder, pod, &registry).await?
    } else {
        Work::of_folder(&args, builder, &registry).await?
    };
    let node = Arc::clone(&work.node);
    let source = work.source();
    let source = if args.node.allow_actions { source.may_resign() } else { source };
    page.serve(Arc::new(source), registry).map_err(|error| metric_twice(&error))?;

    let lived = tokio::select! {
        biased;
        // Cancel safe: cancellation token.
        () = asked.cancelled() => Ok(()),
        // Cancel safe: both only wait.
        error = broken(&*node) => Err(is_broken(&error)),
        () = page.ended() => Err(Failure::new(Exit::Failed, "the status server has ended unasked")),
        // If dropped, started calls go on in the background until the node is stopped below.
        ended = work.live(live(&*node, &args, etcd)) => ended,
    };
    if let Err(failure @ Failure { exit: Exit::Broken, .. }) = lived {
        // A broken node cannot leave, and a supervisor waits for this process to exit.
        return Err(failure);
    }
    supervision::announce_leaving();
    let left = leave(&*node, args.node.grace).await;
    if let Err(failure @ Failure { exit: Exit::Broken, .. }) = left {
        return Err(failure);
    }
    work.end().await;
    page.close().await;
    // The reason for the end is more useful than the result of the leave.
    lived.and(left).map(|()| ExitCode::SUCCESS)
}

/// Identity of this node: id, address and pod UID.
struct Identity {
    id: i64,
    address: String,
    pod_uid: Option<String>,
}

impl Identity {
    /// Takes each value from the flags, or else from the pod.
    fn of(args: &RunArgs, pod: Option<&PodIdentity>, listen: SocketAddr) -> Result<Self, Failure> {
        let flags = &args.node;
        let given = flags.id.map(NodeId::get).or_else(|| pod.map(PodIdentity::id));
        let id = match given {
            Some(id) => id,
            None if flags.standalone => 0,
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

/// Joins, and joins again whenever the session is lost; returns when joining fails.
async fn live(
    node: &dyn Node,
    args: &RunArgs,
    etcd: Option<Arc<dyn Store>>,
) -> Result<(), Failure> {
    if let Some(etcd) = etcd {
        look_at(&*etcd, &args.cluster).await?;
    }
    if let Some(within) = args.node.start_within {
        match tokio::time::timeout(within, node.start()).await {
            Ok(joined) => joined.map_err(|error| not_joined(&error))?,
            Err(_) => return Err(not_in_time(node, within).await),
        }
    }
    Err(not_joined(&keep_joined(node).await))
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
        StartError::Broken => is_broken(&NodeError::Broken),
        _ => failure(Exit::Failed),
    }
}

/// Failure of a node whose driver has failed.
pub(crate) fn is_broken(error: &NodeError) -> Failure {
    Failure::caused(Exit::Broken, "running the node", error).try_this(
        "this is a bug: keep the log, which has the panic, and start the node again; under \
         `bellwether supervise` the others take over at once",
    )
}

/// Fails on errors that waiting does not fix. An etcd that does not answer yet only causes a warning.
async fn look_at(store: &dyn Store, cluster: &ClusterArgs) -> Result<(), Failure> {
    let get = Get { keys_only: true, ..Get::key(cluster.cluster.record()) };
    let Err(error) = store.get(get, cluster.timeout).await else { return Ok(()) };
    let failure = Failure::of_store("looking at etcd", &error);
    if failure.exit == Exit::Denied {
        return Err(failure);
    }
    tracing::warn!(error = %failure.what, "etcd does not answer; waiting for it");
    Ok(())
}

async fn not_in_time(node: &dyn Node, within: Duration) -> Failure {
    let status = node.status().await.ok();
    let why = status.and_then(|it| {
        let of_store = it.store.problem.map(|problem| {
            // Some problems contain the endpoint already.
            let named = problem.contains(&it.store.endpoint);
            if named { problem } else { format!("{}: {problem}", it.store.endpoint) }
        });
        it.node.problem.or(of_store)
    });
    let what = format!("not joined within {within:?}");
    match why {
        // The error contains its own remedy, if there is one.
        Some(why) => Failure::new(Exit::Unreachable, format!("{what}: {why}"))
            .try_this("the log above says more"),
        None => Failure::new(Exit::Unreachable, what)
            .try_this("see that etcd runs and that --etcd (BELLWETHER_ETCD) names it"),
    }
}

async fn leave(node: &dyn Node, grace: Duration) -> Result<(), Failure> {
    let stopped = node.stop(grace).await;
    let closed = node.close().await;
    match stopped {
        Ok(Stopped::Clean) => {
            closed.map_err(|error| Failure::caused(Exit::Failed, "closing the node", &error))?;
            tracing::info!("left cleanly");
            Ok(())
        }
        Ok(Stopped::Unclean) => Err(Failure::new(
            Exit::Failed,
            format!("did not leave cleanly within {grace:?}: the lease has to run out"),
        )
        .try_this("look above for work that does not end, or for etcd not answering")),
        Err(error @ NodeError::Broken) => Err(is_broken(&error)),
        Err(error) => Err(Failure::caused(Exit::Failed, "leaving the cluster", &error)),
    }
}

fn wrong_node(error: &InvalidOption) -> Failure {
    Failure::caused(Exit::Usage, "setting up the node", error)
}

/// Returns the node that the flags describe, and a store to test etcd with, if the node uses etcd.
fn builder(
    args: &RunArgs,
    identity: Identity,
    registry: &Registry,
) -> Result<(ClusterNodeBuilder, Option<Arc<dyn Store>>), Failure> {
    let metrics = NodeMetrics::register(registry).map_err(|error| metric_twice(&error))?;
    let Identity { id, address, pod_uid } = identity;
    let it = &args.node;
    if it.standalone {
        let node = ClusterNode::standalone()
            .id(id)
            .address(address)
            .cluster(args.cluster.cluster.cluster())
            .tick(it.tick)
            .ttl(it.ttl)
            .failover(it.profile.into())
            .metrics(metrics);
        return Ok((node, None));
    }
    // The node has a connection of its own, on its own thread. This store only detects wrong flags and an
    // etcd that denies access, and is dropped then.
    let config = connect::etcd_config(&args.cluster)?;
    let store = connect::store(&args.cluster)?;
    let node = ClusterNode::builder()
        .id(id)
        .address(address)
        .cluster(args.cluster.cluster.cluster())
        .tick(it.tick)
        .tick_policy(it.tick_policy.into())
        .ttl(it.ttl)
        .failover(it.profile.into())
        .call_timeout(args.cluster.timeout)
        .id_wait(it.id_wait())
        .metrics(metrics)
        .etcd(config);
    let node = match pod_uid {
        Some(uid) => node.pod_uid(uid),
        None => node,
    };
    let node = if it.never_lead { node.never_lead() } else { node };
    Ok((node, Some(store)))
}

fn metric_twice(error: &prometheus::Error) -> Failure {
    Failure::caused(Exit::Failed, "registering metrics", error)
}

/// Returns the host's name, with the port of the status server.
fn own_address(listen: SocketAddr) -> String {
    if listen.ip().is_unspecified() {
        let host = rustix::system::uname();
        return format!("{}:{}", host.nodename().to_string_lossy(), listen.port());
    }
    listen.to_string()
}
