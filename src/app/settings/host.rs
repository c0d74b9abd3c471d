//! The [`Host`] that the settings describe: its store, its node and its status server.

use std::{env, sync::Arc};

use prometheus::Registry;

use super::{Settings, node::Identity, timing::Profile};
use crate::{
    app::{
        args::StoreKind,
        connect,
        exit::{Exit, Failure, chain},
        serve,
    },
    host::{Host, HostError},
    k8s::{client::ClientMetrics, identity::PodIdentity},
    node::{ClusterNode, InvalidOption, Node, StartError, StateError},
    telemetry::{StatusServer, metrics},
};

/// Variable that the downward API sets in every pod of the chart.
pub(crate) const POD_NAME: &str = "POD_NAME";

/// A host whose status server listens, and the parts that an operator on it shares with the host.
pub(crate) struct Prepared {
    pub(crate) host: Host,
    pub(crate) pod: Option<PodIdentity>,
    pub(crate) registry: Registry,
    /// Metrics of the requests to the API server, which the store and the caches count together.
    pub(crate) requests: Option<ClientMetrics>,
}

/// Whether the program uses the API server beyond what its store does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    /// The program has caches and controllers.
    Used,
    /// The program has a node alone.
    Unused,
}

impl Settings {
    /// Binds the status server, finds the identity of the node, and composes the host.
    ///
    /// # Errors
    ///
    /// A [`Failure`] that names the flag and the variable.
    pub(crate) async fn prepare(&self, api: Api) -> Result<Prepared, Failure> {
        let page = serve::bind(&self.node.listen, &self.node.action_hosts).await?;
        let pod = own_pod(page.address().port())?;
        let (kind, reason) = self.store();
        tracing::info!(store = ?kind, reason, "keeping the cluster");
        let identity = Identity::of(&self.node, kind, pod.as_ref(), page.address())?;
        let registry = metrics::registry().map_err(|error| serve::metric_twice(&error))?;
        let counts = api == Api::Used || kind == StoreKind::Kubernetes;
        let requests = counts
            .then(|| ClientMetrics::register(&registry))
            .transpose()
            .map_err(|error| serve::metric_twice(&error))?;
        let host = self.composed(kind, identity, page, requests.clone())?;
        Ok(Prepared { host: host.registry(registry.clone()), pod, registry, requests })
    }

    /// Kind of store that the settings and the surroundings choose, and the reason.
    fn store(&self) -> (StoreKind, &'static str) {
        if self.node.standalone {
            return (StoreKind::Memory, "--standalone (BELLWETHER_STANDALONE) says so");
        }
        self.cluster.chosen()
    }

    fn composed(
        &self,
        kind: StoreKind,
        identity: Identity,
        page: StatusServer,
        requests: Option<ClientMetrics>,
    ) -> Result<Host, Failure> {
        let Identity { id, address, pod_uid, pod_name } = identity;
        let it = &self.node;
        let timing = it.profile.timing(kind)?;
        let ttl = it.ttl.unwrap_or(timing.ttl);
        let host = if kind == StoreKind::Memory {
            let node = ClusterNode::standalone()
                .id(id)
                .address(address)
                .cluster(self.cluster.cluster.cluster())
                .tick(it.tick)
                .ttl(ttl)
                .failover(timing.failover);
            Host::new(node)
        } else {
            let node = ClusterNode::builder()
                .id(id)
                .address(address)
                .cluster(self.cluster.cluster.cluster())
                .tick(it.tick)
                .tick_policy(it.tick_policy.into())
                .ttl(ttl)
                .failover(timing.failover)
                .call_timeout(self.cluster.timeout)
                .id_wait(it.id_wait(ttl));
            let node = if kind == StoreKind::Kubernetes {
                let mut config = connect::kubernetes_config(&self.cluster, requests);
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
                node.etcd(connect::etcd_config(&self.cluster)?)
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
}

/// Returns the pod in which this process runs, if there is one.
///
/// # Errors
///
/// A [`Failure`] with the missing lines of the manifest, if the pod's variables are incomplete.
fn own_pod(port: u16) -> Result<Option<PodIdentity>, Failure> {
    if !is_set(POD_NAME) {
        return Ok(None);
    }
    let pod =
        PodIdentity::from_env().map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    Ok(Some(pod.or_port(port)))
}

/// Whether a variable has a value.
pub(crate) fn is_set(variable: &str) -> bool {
    env::var_os(variable).is_some_and(|value| !value.is_empty())
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

fn wrong_node(error: &InvalidOption) -> Failure {
    if let InvalidOption::Store(source) = error
        && let Some(error) = source.downcast_ref()
    {
        return connect::wrong_flag(error);
    }
    Failure::caused(Exit::Usage, "setting up the node", error)
}
