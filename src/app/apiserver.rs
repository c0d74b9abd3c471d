//! Access of the commands to the Kubernetes API server: its address, and the cluster's objects in it.

use std::{env, path::PathBuf};

use clap::{Args, ValueEnum};

use super::exit::{Exit, Failure};
use crate::{
    k8s::{
        client::{ClientMetrics, ClientOptions, connect_to},
        crd::{CustomResourceDefinition, Election},
        explain::{Explained, Reason, explain},
        fence::ElectionRef,
        prelude::Client,
    },
    telemetry::program::{Program, program},
};

/// API server, user and namespace of a command.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Kubernetes")]
pub(crate) struct ApiArgs {
    /// kubeconfig to use outside of a pod (default: KUBECONFIG, then ~/.kube/config)
    #[arg(long, value_name = "FILE", env = "BELLWETHER_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig (default: its current one)
    #[arg(long, value_name = "NAME", env = "BELLWETHER_KUBE_CONTEXT")]
    context: Option<String>,

    /// Namespace of the cluster's Lease and Election, and of its objects (default: the pod's, or the context's)
    #[arg(long, value_name = "NAME", env = "BELLWETHER_NAMESPACE")]
    namespace: Option<String>,
}

/// Whether to work with Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    Auto,
    On,
    Off,
}

impl ApiArgs {
    /// Creates a client for the server, without a request.
    ///
    /// # Errors
    ///
    /// A [`Failure`] if no configuration of a server is found.
    pub(crate) async fn connect(
        &self,
        metrics: Option<ClientMetrics>,
    ) -> Result<(http::Uri, Client), Failure> {
        let mut options = self.options();
        if let Some(metrics) = metrics {
            options = options.metrics(metrics);
        }
        let failed =
            |error| Failure::caused(Exit::Usage, "finding the Kubernetes API server", &error);
        connect_to(options).await.map_err(failed)
    }

    /// Options of a client for the server that the flags name.
    pub(crate) fn options(&self) -> ClientOptions {
        let Program { name, version } = program();
        let mut options = ClientOptions::default().agent(format!("{name}/{version}"));
        if let Some(file) = &self.kubeconfig {
            options = options.kubeconfig(file);
        }
        if let Some(context) = &self.context {
            options = options.context(context);
        }
        options
    }

    /// Namespace of the cluster's objects: from the flag, else of the pod.
    pub(crate) fn given_namespace(&self) -> Option<String> {
        let own = env::var("POD_NAMESPACE").ok().filter(|it| !it.is_empty());
        self.namespace.clone().or(own)
    }

    /// Namespace of the cluster's objects: from the flag, else of the pod, else of the credentials.
    pub(crate) fn namespace(&self, client: &Client) -> String {
        self.given_namespace().unwrap_or_else(|| client.default_namespace().to_owned())
    }

    /// Returns the `Election` of a cluster, and its namespace and name.
    ///
    /// # Errors
    ///
    /// A [`Failure`] if the `Election` does not exist, or if the server does not return it.
    pub(crate) async fn election(&self, cluster: &str) -> Result<(Election, ElectionRef), Failure> {
        let (_, client) = self.connect(None).await?;
        let namespace = self.namespace(&client);
        let election = ElectionRef { namespace, cluster: cluster.to_owned() };
        match election.api(client).get(&election.name()).await {
            Ok(found) => Ok((found, election)),
            Err(error) => Err(failure(&format!("reading election {election}"), explain(&error))),
        }
    }
}

/// Returns which of these kinds the server does not have in the version of this program.
///
/// # Errors
///
/// A [`Failure`] if the server does not answer this.
pub(crate) async fn missing_kinds(
    client: &Client,
    definitions: &[CustomResourceDefinition],
) -> Result<Vec<String>, Failure> {
    let mut missing = Vec::new();
    for definition in definitions {
        let (group, plural) = (&definition.spec.group, &definition.spec.names.plural);
        for version in definition.spec.versions.iter().filter(|it| it.served) {
            let version = format!("{group}/{}", version.name);
            let served = match client.list_api_group_resources(&version).await {
                Ok(list) => list.resources.iter().any(|it| it.name == *plural),
                Err(error) => match explain(&error) {
                    // No kind of the group exists.
                    it if matches!(it.reason, Reason::NotFound | Reason::KindMissing) => false,
                    it => return Err(failure("asking the API server for our kinds", it)),
                },
            };
            if !served {
                missing.push(plural.clone());
            }
        }
    }
    Ok(missing)
}

fn failure(doing: &str, explained: Explained) -> Failure {
    let exit = match explained.reason {
        Reason::NotFound => Exit::NotThere,
        Reason::Unauthorized | Reason::Forbidden | Reason::Tls => Exit::Denied,
        Reason::Unreachable | Reason::Timeout | Reason::Unavailable | Reason::TooManyRequests => {
            Exit::Unreachable
        }
        _ => Exit::Failed,
    };
    let failure = Failure::new(exit, format!("{doing}: {}", explained.message));
    match (explained.remedy, exit) {
        (Some(remedy), _) => failure.try_this(remedy),
        (None, Exit::NotThere) => failure.try_this(
            "`kubectl get elections -A` lists them: its namespace is --namespace, its name --cluster; a \
             leader makes it when it takes office",
        ),
        (None, _) => failure,
    }
}
