//! Options of the client: the API server to connect to, and the credentials.

use std::{
    fmt, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use super::{CallOptions, ClientMetrics};

/// Folder where Kubernetes mounts a pod's service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// API server to connect to, and how to connect. The client uses the first of these that exists:
///
/// 1. the kubeconfig or context that the options name;
/// 2. the kubeconfig that `KUBECONFIG` names;
/// 3. the pod's service account;
/// 4. `~/.kube/config`.
///
/// A server that a kubeconfig names is reached through the proxy that the kubeconfig names (`proxy-url`), else through
/// that of the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`), as with kubectl. A pod that uses its service
/// account reaches the server directly.
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
    /// Kubeconfig to use, before all other sources of [`ClientOptions`].
    #[must_use]
    pub fn kubeconfig(mut self, file: impl Into<PathBuf>) -> Self {
        self.kubeconfig = Some(file.into());
        self
    }

    /// Context of the kubeconfig to use instead of its current context.
    #[must_use]
    pub fn context(mut self, name: impl Into<String>) -> Self {
        self.context = Some(name.into());
        self
    }

    /// Folder with a service account's `token`, `ca.crt` and `namespace`. Default: the folder where Kubernetes
    /// mounts it.
    #[doc(hidden)]
    #[must_use]
    pub fn service_account(mut self, folder: impl Into<PathBuf>) -> Self {
        self.service_account = folder.into();
        self
    }

    /// Time limit to connect by TCP and TLS. Default 5 s; less than [`CallOptions::timeout`].
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Deadline of requests, and which answers are retried.
    #[must_use]
    pub fn calls(mut self, calls: CallOptions) -> Self {
        self.calls = calls;
        self
    }

    /// Metrics that count the requests. Default: metrics that are not registered.
    #[must_use]
    pub fn metrics(mut self, metrics: ClientMetrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// User agent of this client, as it appears in the server's logs. Default `bellwether/VERSION`.
    ///
    /// # Panics
    ///
    /// If the user agent is not visible ASCII.
    #[must_use]
    pub fn agent(mut self, agent: impl Into<String>) -> Self {
        let agent = agent.into();
        let visible = !agent.is_empty() && agent.bytes().all(|it| (0x20..0x7f).contains(&it));
        assert!(visible, "user agent {agent:?} is not visible ASCII");
        self.agent = agent;
        self
    }

    /// Lookup of environment variables. Default: the environment of this process.
    #[doc(hidden)]
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

    /// The variable `name` (in capitals), else the variable of that name in small letters.
    fn in_either_case(&self, name: &str) -> Option<String> {
        self.variable(name).or_else(|| self.variable(&name.to_lowercase()))
    }
}

/// Reason that no client could be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No kubeconfig and no service account exists.
    #[error(
        "no API server to talk to: this is not a pod (KUBERNETES_SERVICE_HOST is not set), KUBECONFIG is not set, and there is no {}: run in a pod with a service account, or name a kubeconfig",
        .home.display()
    )]
    Nowhere {
        /// Path of the kubeconfig that was looked for last.
        home: PathBuf,
    },
    /// A file of the pod's service account cannot be read.
    #[error(
        "cannot read {} of the pod's service account: is `automountServiceAccountToken: false` set on the pod or its ServiceAccount?",
        .path.display()
    )]
    ServiceAccount {
        /// File that cannot be read.
        path: PathBuf,
        /// Error of the read.
        source: io::Error,
    },
    /// The variables that Kubernetes sets in every container hold no address.
    #[error(
        "KUBERNETES_SERVICE_HOST {host:?} and KUBERNETES_SERVICE_PORT {port:?} are no address: do not set them by hand"
    )]
    ServiceAddress {
        /// Value of the variable `KUBERNETES_SERVICE_HOST`.
        host: String,
        /// Value of the variable `KUBERNETES_SERVICE_PORT`.
        port: String,
    },
    /// A kubeconfig cannot be read.
    #[error("cannot read kubeconfig {}", .path.display())]
    Unreadable {
        /// File that cannot be read.
        path: PathBuf,
        /// Error of the read.
        source: io::Error,
    },
    /// A file is not a kubeconfig. The message leaves out the parser's error, which may quote secrets.
    #[error("{} is not a kubeconfig (YAML with clusters, users and contexts)", .path.display())]
    NotKubeconfig {
        /// File that is not a kubeconfig.
        path: PathBuf,
    },
    /// No context was named, and the kubeconfig has no current context.
    #[error(
        "kubeconfig {file} has no current context: name one of {known:?}, or run `kubectl config use-context`"
    )]
    NoContext {
        /// Kubeconfig file or files.
        file: String,
        /// Contexts of the kubeconfig.
        known: Vec<String>,
    },
    /// The kubeconfig does not contain the named context.
    #[error("kubeconfig {file} has no context {context:?}: it has {known:?}")]
    UnknownContext {
        /// Kubeconfig file or files.
        file: String,
        /// Context that was named.
        context: String,
        /// Contexts of the kubeconfig.
        known: Vec<String>,
    },
    /// A part that the context needs is missing or cannot be used.
    #[error("kubeconfig {file} cannot be used")]
    Kubeconfig {
        /// Kubeconfig file or files.
        file: String,
        /// Error of the kubeconfig.
        source: KubeconfigError,
    },
    /// The address of the proxy cannot be used. The message leaves out the address, which may hold a password.
    #[error(
        "the proxy that {setting} names cannot be used: write a URL of http, https or socks5, as http://proxy.example:3128"
    )]
    Proxy {
        /// Environment variable that names the proxy, or `proxy-url`.
        setting: &'static str,
    },
    /// The certificates or keys cannot be used.
    #[error("the certificates for {endpoint} cannot be used")]
    Certificates {
        /// Address of the API server.
        endpoint: String,
        /// Error of the certificates or keys.
        source: kube::Error,
    },
    /// The client gets no credentials: a token file is missing, or a plug-in fails.
    #[error("no credentials for {endpoint}: {problem}")]
    Credentials {
        /// Address of the API server.
        endpoint: String,
        /// Description of the problem, without the standard output of a plug-in.
        problem: String,
    },
}

/// API server and proxy that the options lead to.
pub(super) struct Found {
    pub(super) config: Config,
    /// Proxy between the client and the API server.
    pub(super) proxy: Option<Intercept>,
}

/// Finds the API server and proxy that the options lead to.
pub(super) async fn find(options: &ClientOptions) -> Result<Found, ConnectError> {
    let home = PathBuf::from(options.variable("HOME").unwrap_or_default()).join(".kube/config");
    let listed = options.variable("KUBECONFIG").map(|list| {
        std::env::split_paths(&list).filter(|it| !it.as_os_str().is_empty()).collect::<Vec<_>>()
    });
    let service = options.variable("KUBERNETES_SERVICE_HOST");
    let files = match (&options.kubeconfig, listed, service) {
        (Some(file), ..) => vec![file.clone()],
        (None, Some(files), _) if !files.is_empty() => files,
        (None, _, Some(host)) if options.context.is_none() => {
            return Ok(Found { config: in_cluster(options, host)?, proxy: None });
        }
        _ if home.exists() => vec![home],
        _ => return Err(ConnectError::Nowhere { home }),
    };
    let found = of_kubeconfig(options, &files).await?;
    check_token_file(&found.config)?;
    Ok(found)
}

/// Rejects a token file with whitespace: kube sends the content of the file unchanged, and each request would fail.
fn check_token_file(config: &Config) -> Result<(), ConnectError> {
    let Some(file) = &config.auth_info.token_file else { return Ok(()) };
    match fs::read_to_string(file) {
        Ok(token) if token.is_empty() || token.contains(char::is_whitespace) => {
            Err(ConnectError::Credentials {
                endpoint: config.cluster_url.to_string(),
                problem: format!(
                    "token file {file} is empty, or holds whitespace beside the token: write it without a \
                     newline at its end (printf %s)"
                ),
            })
        }
        // kube reads the file too, and returns the error if it cannot.
        _ => Ok(()),
    }
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
    // Empty and never used: the verifier that reloads `root_cert_file` replaces kube's verifier.
    config.root_cert = Some(Vec::new());
    config.auth_info.token_file = Some(at("token").display().to_string());
    Ok(config)
}

async fn of_kubeconfig(options: &ClientOptions, files: &[PathBuf]) -> Result<Found, ConnectError> {
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
            // As in kubectl, a list may name missing files if at least one file exists.
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
    let named = proxy_url(&kubeconfig, options.context.as_deref());
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
    let proxy = proxy(options, named, &config.cluster_url)?;
    Ok(Found { config, proxy })
}

/// The `proxy-url` of the context's cluster.
fn proxy_url(kubeconfig: &Kubeconfig, context: Option<&str>) -> Option<String> {
    let name = context.or(kubeconfig.current_context.as_deref())?;
    let context = kubeconfig.contexts.iter().find(|it| it.name == name)?.context.as_ref()?;
    let cluster = kubeconfig.clusters.iter().find(|it| it.name == context.cluster)?;
    cluster.cluster.as_ref()?.proxy_url.clone().filter(|it| !it.is_empty())
}

/// The proxy between this process and `server`: the proxy that the kubeconfig names, else the environment's.
///
/// kube's own rules are not used, because they compare `NO_PROXY` with the address of the proxy.
fn proxy(
    options: &ClientOptions,
    named: Option<String>,
    server: &Uri,
) -> Result<Option<Intercept>, ConnectError> {
    let (setting, url, exempt) = if let Some(url) = named {
        ("proxy-url", url, None)
    } else {
        let is_plain = server.scheme_str() == Some("http");
        let setting = if is_plain { "HTTP_PROXY" } else { "HTTPS_PROXY" };
        match options.in_either_case(setting) {
            Some(url) if !is_loopback(server) => (setting, url, options.in_either_case("NO_PROXY")),
            _ => return Ok(None),
        }
    };
    let anywhere = Matcher::builder().all(url.clone()).build();
    let found = anywhere.intercept(&Uri::from_static("https://kubernetes"));
    if found.is_none_or(|it| it.uri().scheme_str().is_some_and(|it| it.starts_with("socks4"))) {
        return Err(ConnectError::Proxy { setting });
    }
    let matcher = Matcher::builder().all(url).no(exempt.unwrap_or_default()).build();
    Ok(matcher.intercept(server))
}

/// Whether the server runs on this machine. The environment's proxy is not used for such a server.
fn is_loopback(server: &Uri) -> bool {
    let host = server.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|it| it.is_loopback())
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
