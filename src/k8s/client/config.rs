//! Which API server, and as whom.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use super::{CallOptions, ClientMetrics};

/// Where Kubernetes mounts a pod's service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// To whom to connect and how. The first of these that is there is taken:
///
/// 1. the kubeconfig or context that the options name;
/// 2. the kubeconfig that `KUBECONFIG` names;
/// 3. the pod's service account;
/// 4. `~/.kube/config`.
#[derive(Clone)]
pub struct ClientOptions {
    pub(super) kubeconfig: Option<PathBuf>,
    pub(super) context: Option<String>,
    pub(super) service_account: PathBuf,
    pub(super) connect_timeout: Duration,
    pub(super) calls: CallOptions,
    pub(super) metrics: ClientMetrics,
    pub(super) agent: String,
    env: Lookup,
}

type Lookup = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions")
            .field("kubeconfig", &self.kubeconfig)
            .field("context", &self.context)
            .field("service_account", &self.service_account)
            .field("connect_timeout", &self.connect_timeout)
            .field("calls", &self.calls)
            .finish_non_exhaustive()
    }
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            context: None,
            service_account: PathBuf::from(SERVICE_ACCOUNT),
            connect_timeout: Duration::from_secs(5),
            calls: CallOptions::default(),
            metrics: ClientMetrics::unregistered(),
            agent: concat!("bellwether/", env!("CARGO_PKG_VERSION")).to_owned(),
            env: Arc::new(|name| std::env::var(name).ok().filter(|value| !value.is_empty())),
        }
    }
}

impl ClientOptions {
    /// The kubeconfig to use, whatever else is there.
    #[must_use]
    pub fn kubeconfig(mut self, file: impl Into<PathBuf>) -> Self {
        self.kubeconfig = Some(file.into());
        self
    }

    /// The kubeconfig's context to use instead of its current one.
    #[must_use]
    pub fn context(mut self, name: impl Into<String>) -> Self {
        self.context = Some(name.into());
        self
    }

    /// The folder with a service account's `token`, `ca.crt` and `namespace`. Default: where Kubernetes
    /// mounts it.
    #[must_use]
    pub fn service_account(mut self, folder: impl Into<PathBuf>) -> Self {
        self.service_account = folder.into();
        self
    }

    /// How long TCP and TLS may take to connect. Default 5 s; less than the calls' timeout.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The deadline of requests, and what is tried again.
    #[must_use]
    pub fn calls(mut self, calls: CallOptions) -> Self {
        self.calls = calls;
        self
    }

    /// Where requests are counted. Default: nobody collects it.
    #[must_use]
    pub fn metrics(mut self, metrics: ClientMetrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// What the server's logs call this client. Default `bellwether/VERSION`.
    ///
    /// # Panics
    ///
    /// If it is not visible ASCII.
    #[must_use]
    pub fn agent(mut self, agent: impl Into<String>) -> Self {
        let agent = agent.into();
        let visible = !agent.is_empty() && agent.bytes().all(|it| (0x20..0x7f).contains(&it));
        assert!(visible, "user agent {agent:?} is not visible ASCII");
        self.agent = agent;
        self
    }

    /// Who knows the environment's variables. Default: this process's.
    #[must_use]
    pub fn environment(
        mut self,
        lookup: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.env = Arc::new(lookup);
        self
    }

    fn variable(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|value| !value.is_empty())
    }
}

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nothing leads to an API server.
    #[error(
        "no API server to talk to: this is not a pod (KUBERNETES_SERVICE_HOST is not set), KUBECONFIG is not set, and there is no {}: run in a pod with a service account, or name a kubeconfig",
        .home.display()
    )]
    Nowhere {
        /// Where a kubeconfig was looked for last.
        home: PathBuf,
    },
    /// A part of the pod's service account cannot be read.
    #[error(
        "cannot read {} of the pod's service account: is `automountServiceAccountToken: false` set on the pod or its ServiceAccount?",
        .path.display()
    )]
    ServiceAccount {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What Kubernetes sets in every container is not what it should be.
    #[error(
        "KUBERNETES_SERVICE_HOST {host:?} and KUBERNETES_SERVICE_PORT {port:?} are no address: do not set them by hand"
    )]
    ServiceAddress {
        /// The host.
        host: String,
        /// The port.
        port: String,
    },
    /// A kubeconfig cannot be read.
    #[error("cannot read kubeconfig {}", .path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A kubeconfig is none. What is wrong where is not told: there are secrets in it.
    #[error("{} is not a kubeconfig (YAML with clusters, users and contexts)", .path.display())]
    NotKubeconfig {
        /// Which file.
        path: PathBuf,
    },
    /// No context was named, and the kubeconfig has no current one.
    #[error(
        "kubeconfig {file} has no current context: name one of {known:?}, or run `kubectl config use-context`"
    )]
    NoContext {
        /// Which file or files.
        file: String,
        /// The contexts it has.
        known: Vec<String>,
    },
    /// The kubeconfig has no such context.
    #[error("kubeconfig {file} has no context {context:?}: it has {known:?}")]
    UnknownContext {
        /// Which file or files.
        file: String,
        /// As it was named.
        context: String,
        /// The contexts it has.
        known: Vec<String>,
    },
    /// A part that the context needs is missing or cannot be used.
    #[error("kubeconfig {file} cannot be used")]
    Kubeconfig {
        /// Which file or files.
        file: String,
        /// What is wrong.
        source: KubeconfigError,
    },
    /// There is a proxy in the way.
    #[error(
        "the way to the API server leads through proxy {proxy}, and only direct connections are made: take `proxy-url` out of the kubeconfig, and HTTPS_PROXY out of the environment"
    )]
    Proxy {
        /// The proxy, without its credentials.
        proxy: String,
    },
    /// The certificates or keys cannot be used.
    #[error("the certificates for {endpoint} cannot be used")]
    Certificates {
        /// The API server.
        endpoint: String,
        /// What is wrong.
        source: kube::Error,
    },
    /// The credentials cannot be had: a token file that is missing, a plug-in that fails.
    #[error("no credentials for {endpoint}: {problem}")]
    Credentials {
        /// The API server.
        endpoint: String,
        /// What is wrong, without what a plug-in printed to its output.
        problem: String,
    },
}

/// The configuration that the options lead to.
pub(super) async fn find(options: &ClientOptions) -> Result<Config, ConnectError> {
    let home = PathBuf::from(options.variable("HOME").unwrap_or_default()).join(".kube/config");
    let listed = options.variable("KUBECONFIG").map(|list| {
        std::env::split_paths(&list).filter(|it| !it.as_os_str().is_empty()).collect::<Vec<_>>()
    });
    let service = options.variable("KUBERNETES_SERVICE_HOST");
    let files = match (&options.kubeconfig, listed, service) {
        (Some(file), ..) => vec![file.clone()],
        (None, Some(files), _) if !files.is_empty() => files,
        (None, _, Some(host)) if options.context.is_none() => return in_cluster(options, host),
        _ if home.exists() => vec![home],
        _ => return Err(ConnectError::Nowhere { home }),
    };
    of_kubeconfig(options, &files).await
}

fn in_cluster(options: &ClientOptions, host: String) -> Result<Config, ConnectError> {
    let port = options.variable("KUBERNETES_SERVICE_PORT").unwrap_or_default();
    let address = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let url = port
        .parse::<u16>()
        .ok()
        .and_then(|port| format!("https://{address}:{port}").parse::<http::Uri>().ok());
    let Some(url) = url else { return Err(ConnectError::ServiceAddress { host, port }) };
    let at = |file: &str| options.service_account.join(file);
    let read = |file: &str| {
        let path = at(file);
        fs::read_to_string(&path).map_err(|source| ConnectError::ServiceAccount { path, source })
    };
    let mut config = Config::new(url);
    read("token")?;
    read("ca.crt")?;
    read("namespace")?.trim().clone_into(&mut config.default_namespace);
    config.root_cert_file = Some(at("ca.crt"));
    // The verifier that follows the file is put in place of this one, which nobody asks.
    config.root_cert = Some(Vec::new());
    config.auth_info.token_file = Some(at("token").display().to_string());
    Ok(config)
}

async fn of_kubeconfig(options: &ClientOptions, files: &[PathBuf]) -> Result<Config, ConnectError> {
    let file = files.iter().map(|it| it.display().to_string()).collect::<Vec<_>>().join(", ");
    let mut kubeconfig = Kubeconfig::default();
    let mut missing = None;
    let mut found = 0;
    for path in files {
        match read(path) {
            Ok(next) => {
                found += 1;
                kubeconfig = kubeconfig
                    .merge(next)
                    .map_err(|source| ConnectError::Kubeconfig { file: file.clone(), source })?;
            }
            // As kubectl has it: a list may name files that are not there, if one is.
            Err(ConnectError::Unreadable { path, source })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                missing.get_or_insert(ConnectError::Unreadable { path, source });
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(missing) = missing.filter(|_| found == 0) {
        return Err(missing);
    }
    let known = kubeconfig.contexts.iter().map(|it| it.name.clone()).collect();
    let which = KubeConfigOptions { context: options.context.clone(), ..Default::default() };
    let config = Config::from_custom_kubeconfig(kubeconfig, &which).await;
    let config = config.map_err(|source| match source {
        KubeconfigError::CurrentContextNotSet => ConnectError::NoContext { file, known },
        KubeconfigError::LoadContext(context) => {
            ConnectError::UnknownContext { file, context, known }
        }
        source => ConnectError::Kubeconfig { file, source },
    })?;
    if let Some(proxy) = &config.proxy_url {
        let proxy = proxy.host().unwrap_or_default().to_owned();
        return Err(ConnectError::Proxy { proxy });
    }
    Ok(config)
}

fn read(path: &Path) -> Result<Kubeconfig, ConnectError> {
    Kubeconfig::read_from(path).map_err(|error| {
        let path = path.to_owned();
        match error {
            KubeconfigError::ReadConfig(source, _) => ConnectError::Unreadable { path, source },
            _ => ConnectError::NotKubeconfig { path },
        }
    })
}
