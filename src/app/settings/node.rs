//! Flags of one node: its identity, its timing, and its status server.

use std::{net::SocketAddr, time::Duration};

use clap::Args;

use super::timing::{Policy, Profile};
use crate::{
    app::{
        args::{self, StoreKind, node_id},
        exit::{Exit, Failure},
        serve,
    },
    engine::NodeId,
    k8s::identity::PodIdentity,
};

/// Added to the wait for a TTL by the default of `--id-wait`: etcd checks for expired leases twice a second, grants at
/// least 2 s, and renews all leases when its leader changes. On Kubernetes, nodes wait up to a tenth of the TTL more.
const ID_WAIT_BEYOND_TTL: Duration = Duration::from_secs(2);

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
    pub(super) id: Option<NodeId>,

    /// A cluster of one, in memory: the same as --store memory
    #[arg(long, env = "BELLWETHER_STANDALONE")]
    pub(super) standalone: bool,

    /// Where others can reach this node; shown, not interpreted (default: host name and port of --listen)
    #[arg(long, value_name = "ADDRESS", env = "BELLWETHER_ADDRESS")]
    pub(super) address: Option<String>,

    /// Where the status server listens; 0.0.0.0:8080 for everybody, port 0 for any that is free
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "BELLWETHER_LISTEN",
        default_value = "127.0.0.1:8080"
    )]
    pub(super) listen: String,

    /// How fast a silent leader is replaced. On etcd: fast 0.44 s, default 1.1 s, stable 3.3 s. On Kubernetes:
    /// fast 2.2 s, default 5.5 s, calm 16.5 s (a choice of all nodes)
    #[arg(
        long,
        value_name = "PROFILE",
        env = "BELLWETHER_PROFILE",
        value_enum,
        default_value_t = Profile::Default
    )]
    pub(super) profile: Profile,

    /// Time between runs of the routines; all nodes of a cluster must agree
    #[arg(
        long,
        value_name = "TIME",
        env = "BELLWETHER_TICK",
        default_value = "50ms",
        value_parser = tick
    )]
    pub(super) tick: Duration,

    /// Reaction to a cluster with another tick: refuse to join, or adopt its tick
    #[arg(
        long,
        value_name = "POLICY",
        env = "BELLWETHER_TICK_POLICY",
        value_enum,
        default_value_t = Policy::Strict
    )]
    pub(super) tick_policy: Policy,

    /// How long the node's keys outlive it after a crash without a proof of death; whole seconds (default: 5s on
    /// etcd, 10s on Kubernetes, 30s with the profile calm)
    #[arg(long, value_name = "TIME", env = "BELLWETHER_TTL", value_parser = ttl)]
    pub(super) ttl: Option<Duration>,

    /// How long leaving may take
    #[arg(
        long,
        value_name = "TIME",
        env = "BELLWETHER_GRACE",
        default_value = "20s",
        value_parser = args::duration
    )]
    pub(super) grace: Duration,

    /// Give up with exit code 4 if it has not joined by then (default: keep trying)
    #[arg(long, value_name = "TIME", env = "BELLWETHER_START_WITHIN", value_parser = args::duration)]
    pub(super) start_within: Option<Duration>,

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
    pub(super) never_lead: bool,

    /// UID of the pod: the next life of the same pod may then end this one at once
    #[arg(long, value_name = "UID", env = "BELLWETHER_POD_UID")]
    pod_uid: Option<String>,

    /// Let the status page ask this node to resign
    #[arg(long, env = "BELLWETHER_ALLOW_ACTIONS")]
    pub(super) allow_actions: bool,

    /// Host names, beside localhost and bare addresses, under which the buttons of the page work: those that a
    /// proxy serves the page under. Several are separated by commas
    #[arg(
        long = "action-host",
        value_name = "HOST",
        env = "BELLWETHER_ACTION_HOSTS",
        value_delimiter = ',',
        value_parser = serve::host_name
    )]
    pub(super) action_hosts: Vec<String>,
}

impl NodeArgs {
    pub(super) fn id_wait(&self, ttl: Duration) -> Duration {
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

/// Identity of this node: id, address and pod.
pub(super) struct Identity {
    pub(super) id: i64,
    pub(super) address: String,
    pub(super) pod_uid: Option<String>,
    pub(super) pod_name: Option<String>,
}

impl Identity {
    /// Takes each value from the flags, or else from the pod.
    pub(super) fn of(
        flags: &NodeArgs,
        kind: StoreKind,
        pod: Option<&PodIdentity>,
        listen: SocketAddr,
    ) -> Result<Self, Failure> {
        let given = flags.id.map(NodeId::get).or_else(|| pod.map(PodIdentity::id));
        let id = match given {
            Some(id) => id,
            None if kind == StoreKind::Memory => 0,
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

/// Returns the host's name, with the port of the status server.
fn own_address(listen: SocketAddr) -> String {
    if listen.ip().is_unspecified() {
        let host = rustix::system::uname();
        return format!("{}:{}", host.nodename().to_string_lossy(), listen.port());
    }
    listen.to_string()
}
