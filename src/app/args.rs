//! Flags that several commands share. Each flag has an environment variable; a secret has only a variable or
//! a file.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::apiserver::ApiArgs;
use crate::{engine::NodeId, store::keys::Keys};

/// Kind of store that a cluster is kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StoreKind {
    /// An etcd cluster, named by its client URLs.
    Etcd,
    /// The Kubernetes API: a Lease named after the cluster.
    Kubernetes,
    /// The memory of this process, for a cluster of one node.
    Memory,
}

/// Cluster of a command, and its store.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Cluster and store")]
pub(crate) struct ClusterArgs {
    /// The cluster's name: its keys lie under /NAME/ in etcd, or in the Lease NAME in Kubernetes
    #[arg(
        long,
        short = 'c',
        value_name = "NAME",
        env = "BELLWETHER_CLUSTER",
        default_value = "bellwether",
        value_parser = cluster
    )]
    pub(crate) cluster: Keys,

    /// Where the cluster is kept (default: etcd if --etcd is given, else kubernetes in a pod, else etcd on this
    /// machine)
    #[arg(long, value_name = "KIND", env = "BELLWETHER_STORE", value_enum)]
    pub(crate) store: Option<StoreKind>,

    /// etcd's client URLs, separated by commas; all members of one etcd cluster (default: port 2379 of this
    /// machine)
    #[arg(long = "etcd", value_name = "URL,…", env = "BELLWETHER_ETCD", value_delimiter = ',')]
    pub(crate) endpoints: Vec<String>,

    /// PEM file with the authority that signed etcd's certificate (default: the public ones)
    #[arg(long, value_name = "FILE", env = "BELLWETHER_ETCD_CA_FILE")]
    pub(crate) etcd_ca_file: Option<PathBuf>,

    /// PEM file with the client certificate; read again when it changes
    #[arg(
        long,
        value_name = "FILE",
        env = "BELLWETHER_ETCD_CERT_FILE",
        requires = "etcd_key_file"
    )]
    pub(crate) etcd_cert_file: Option<PathBuf>,

    /// PEM file with the client certificate's key
    #[arg(
        long,
        value_name = "FILE",
        env = "BELLWETHER_ETCD_KEY_FILE",
        requires = "etcd_cert_file"
    )]
    pub(crate) etcd_key_file: Option<PathBuf>,

    /// Name that etcd's certificate must carry, if it is not the one in the URL
    #[arg(long, value_name = "NAME", env = "BELLWETHER_ETCD_SERVER_NAME")]
    pub(crate) etcd_server_name: Option<String>,

    /// etcd user. The password comes from --etcd-password-file or `BELLWETHER_ETCD_PASSWORD`
    #[arg(long, value_name = "NAME", env = "BELLWETHER_ETCD_USER")]
    pub(crate) etcd_user: Option<String>,

    /// File with the password of --etcd-user; a line break at its end does not count
    #[arg(
        long,
        value_name = "FILE",
        env = "BELLWETHER_ETCD_PASSWORD_FILE",
        requires = "etcd_user"
    )]
    pub(crate) etcd_password_file: Option<PathBuf>,

    /// How long one call to the store may take
    #[arg(
        long = "etcd-timeout",
        value_name = "TIME",
        env = "BELLWETHER_ETCD_TIMEOUT",
        default_value = "2s",
        value_parser = call_timeout
    )]
    pub(crate) timeout: Duration,

    #[command(flatten)]
    pub(crate) api: ApiArgs,
}

impl ClusterArgs {
    /// Kind of store that the flags and the surroundings choose.
    pub(crate) fn kind(&self) -> StoreKind {
        self.chosen().0
    }

    /// Kind of store that the flags and the surroundings choose, and the reason.
    pub(crate) fn chosen(&self) -> (StoreKind, &'static str) {
        let in_pod = std::env::var_os(SERVICE_HOST).is_some_and(|value| !value.is_empty());
        match self.store {
            Some(kind) => (kind, "--store (BELLWETHER_STORE) says so"),
            None if !self.endpoints.is_empty() => {
                (StoreKind::Etcd, "--etcd (BELLWETHER_ETCD) is given")
            }
            None if in_pod => (StoreKind::Kubernetes, "this is a pod, and no --etcd is given"),
            None => (StoreKind::Etcd, "this is no pod"),
        }
    }
}

/// Variable that kubelet sets in every pod.
pub(crate) const SERVICE_HOST: &str = "KUBERNETES_SERVICE_HOST";

fn cluster(text: &str) -> Result<Keys, String> {
    Keys::new(text).map_err(|error| error.problem.to_string())
}

/// Parses a node id: 0 to 9223372036854775807.
pub(crate) fn node_id(text: &str) -> Result<NodeId, String> {
    let number: i64 =
        text.parse().map_err(|_| "is no whole number: choose one from 0 to 9223372036854775807")?;
    NodeId::new(number).map_err(|error| error.to_string())
}

/// Parses a duration with its unit, above zero.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let time = duration_or_zero(text)?;
    if time.is_zero() { Err("is zero: choose more".into()) } else { Ok(time) }
}

/// Parses a duration with its unit, or `0`.
pub(crate) fn duration_or_zero(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}: write a number with its unit, as 50ms, 5s or 2m"))
}

fn call_timeout(text: &str) -> Result<Duration, String> {
    bounded(duration(text)?, Duration::from_millis(50), Duration::from_secs(60))
}

/// Returns the duration if it is within the bounds.
pub(crate) fn bounded(time: Duration, least: Duration, most: Duration) -> Result<Duration, String> {
    if time < least || most < time {
        return Err(format!("is out of bounds: choose {least:?} to {most:?}"));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_needs_a_unit_and_is_not_zero() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(duration("5").unwrap_err().contains("50ms"));
        assert_eq!(duration_or_zero("0"), Ok(Duration::ZERO));
        assert_eq!(duration_or_zero("0s"), Ok(Duration::ZERO));
        assert!(duration("0s").unwrap_err().contains("choose more"));
    }

    #[test]
    fn an_id_below_zero_is_refused_since_it_meant_nobody() {
        assert_eq!(node_id("7").map(NodeId::get), Ok(7));
        assert!(node_id("-1").unwrap_err().contains("negative"));
        assert!(node_id("seven").is_err());
    }
}
