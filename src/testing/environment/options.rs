//! Options of an environment, its start, and the command lines of its servers.

use std::{
    env,
    path::PathBuf,
    sync::{Mutex, atomic::AtomicUsize},
};

use super::{
    Environment, EnvironmentError, Ports, Programs, assets, janitor::Janitor, pki::Pki, unwritten,
};

/// Options of the environment to start.
#[derive(Clone, Debug, Default)]
pub struct EnvironmentOptions {
    pub(super) assets: Option<PathBuf>,
    pub(super) gates: Vec<String>,
    pub(super) flags: Vec<String>,
    pub(super) tokens: Vec<String>,
    pub(super) acting: Option<String>,
    pub(super) etcd: Option<String>,
}

impl EnvironmentOptions {
    /// Folder of `kube-apiserver` and `etcd`. Default: `KUBEBUILDER_ASSETS`, else `PATH` and
    /// `/usr/local/kubebuilder/bin`.
    #[must_use]
    pub fn assets(mut self, folder: impl Into<PathBuf>) -> Self {
        self.assets = Some(folder.into());
        self
    }

    /// Turns a feature gate on that is off by default, for instance `ShardedListAndWatch`.
    #[must_use]
    pub fn gate(mut self, name: &str) -> Self {
        self.gates.push(format!("{name}=true"));
        self
    }

    /// Adds a flag to the API server's command line.
    #[must_use]
    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// Adds a token by which a user of these groups logs in.
    #[must_use]
    pub fn token(mut self, token: &str, user: &str, groups: &[&str]) -> Self {
        self.tokens.push(format!("{token},{user},{user},\"{}\"", groups.join(",")));
        self
    }

    /// Token by which users with rules of their own are impersonated. Default: the administrator's.
    #[doc(hidden)]
    #[must_use]
    pub fn acting(mut self, token: &str) -> Self {
        self.acting = Some(token.to_owned());
        self
    }

    /// Uses this etcd instead of one of its own.
    #[must_use]
    pub fn etcd(mut self, endpoint: impl Into<String>) -> Self {
        self.etcd = Some(endpoint.into());
        self
    }

    /// Starts etcd and the API server, and waits until the server is ready.
    ///
    /// # Errors
    ///
    /// [`EnvironmentError`]; both servers are ended.
    pub async fn start(self) -> Result<Environment, EnvironmentError> {
        let folder = tempfile::Builder::new().prefix("bellwether-kube-").tempdir();
        let folder = folder.map_err(|source| unwritten(&env::temp_dir(), source))?.keep();
        let janitor = Janitor::start(folder)
            .map_err(|source| EnvironmentError::Start { program: "sh".into(), source })?;
        let pki = Pki::new(&janitor.folder.join("pki"), "bellwether tests");
        let pki = pki.map_err(EnvironmentError::Pki)?;
        let apiserver =
            assets::find("kube-apiserver", self.assets.as_deref(), |name| env::var_os(name))?;
        let etcd = match &self.etcd {
            Some(_) => None,
            None => Some(assets::find("etcd", self.assets.as_deref(), |name| env::var_os(name))?),
        };
        let environment = Environment {
            servers: Mutex::default(),
            programs: Programs { apiserver, etcd },
            ports: Ports::reserve()?,
            pki,
            spaces: AtomicUsize::new(0),
            options: self,
            janitor,
        };
        environment.write_files()?;
        environment.start_again().await?;
        Ok(environment)
    }
}

impl Environment {
    pub(super) fn etcd_flags(&self) -> Vec<String> {
        let (client, peers) = (self.ports.etcd.address(), self.ports.peers.address());
        vec![
            format!("--data-dir={}", self.folder().join("etcd").join("data").display()),
            format!("--listen-client-urls=http://{client}"),
            format!("--advertise-client-urls=http://{client}"),
            format!("--listen-peer-urls=http://{peers}"),
            format!("--initial-advertise-peer-urls=http://{peers}"),
            format!("--initial-cluster=default=http://{peers}"),
            "--log-level=warn".to_owned(),
            // The data need not survive the machine.
            "--unsafe-no-fsync".to_owned(),
        ]
    }

    pub(super) fn flags(&self) -> Vec<String> {
        let at = |file: &str| self.folder().join("apiserver").join(file).display().to_string();
        let pki = |file: &str| self.folder().join("pki").join(file).display().to_string();
        let etcd = self.options.etcd.clone();
        let mut flags = vec![
            format!(
                "--etcd-servers={}",
                etcd.unwrap_or(format!("http://{}", self.ports.etcd.address()))
            ),
            format!("--secure-port={}", self.address().port()),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            // No process here serves the virtual services, and a killed server must not leave its endpoint in
            // them.
            "--endpoint-reconciler-type=none".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            format!("--cert-dir={}", at("certs")),
            format!("--tls-cert-file={}", pki("server.pem")),
            format!("--tls-private-key-file={}", pki("server.key")),
            format!("--client-ca-file={}", self.pki.ca().display()),
            format!("--token-auth-file={}", at("tokens.csv")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", at("signing.pub")),
            format!("--service-account-signing-key-file={}", at("signing.key")),
            "--authorization-mode=RBAC".to_owned(),
            "--profiling=false".to_owned(),
        ];
        if !self.options.gates.is_empty() {
            flags.push(format!("--feature-gates={}", self.options.gates.join(",")));
        }
        flags.extend(self.options.flags.iter().cloned());
        flags
    }
}
