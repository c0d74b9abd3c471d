//! Which API server, and as whom.

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

/// Where Kubernetes mounts a pod's service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Which API server to connect to, and how. The first of these that exists is used:
///
/// 1. the kubeconfig or context that the options name;
/// 2. the kubeconfig that `KUBECONFIG` names;
/// 3. the pod's service account;
/// 4. `~/.kube/config`.
///
/// A server that a kubeconfig leads to is reached through the proxy that the kubeconfig names (`proxy-url`), else through
/// that of the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`), as kubectl does it. From a pod with its service
/// account the server is reached directly.
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
    #[doc(hidden)]
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

    /// Where variables are looked up. Default: the environment of this process.
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

    /// The variable of that name in capitals, else in small letters.
    fn in_either_case(&self, name: &str) -> Option<String> {
        self.variable(name).or_else(|| self.variable(&name.to_lowercase()))
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
    /// A file is not a kubeconfig. The message leaves out what is wrong in it: it may hold secrets.
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
    /// The address of the proxy cannot be used. The message leaves it out: it may hold a password.
    #[error(
        "the proxy that {setting} names cannot be used: write a URL of http, https or socks5, as http://proxy.example:3128"
    )]
    Proxy {
        /// The variable, or `proxy-url`.
        setting: &'static str,
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

/// Where the options lead.
pub(super) struct Found {
    pub(super) config: Config,
    /// The proxy on the way there.
    pub(super) proxy: Option<Intercept>,
}

/// Where the options lead.
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

/// Refuses a token file with whitespace: kube sends what a file holds as it is, and each request would fail.
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
        // kube reads the file too, and reports why it cannot.
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
    // The verifier that follows the file is put in place of this one, which nobody asks.
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

/// The proxy between us and `server`: the one that the kubeconfig names, else the environment's.
///
/// kube's own rules are not used: they compare `NO_PROXY` with the address of the proxy.
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

/// Whether the server runs on this machine: no proxy of the environment leads there.
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
