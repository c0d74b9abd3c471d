//! An API server with an etcd of its own, for tests.
//!
//! No controller manager runs: garbage is never collected, and a deleted namespace stays. No kubelet runs: no
//! Pod starts.

mod assets;
mod error;
pub mod janitor;
mod options;
pub mod pki;
mod server;
mod space;

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams},
    config::AuthInfo,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

pub use self::{
    error::EnvironmentError,
    options::EnvironmentOptions,
    space::{Space, User, rule},
};
use self::{
    janitor::{Janitor, tail},
    pki::{Pki, PkiError, Validity},
    server::Server,
};
use super::{ports::ReservedPort, waiting::polled};
use crate::k8s::explain::explain;

/// Time within which the servers must be ready. Generous, since the machine may be busy.
const READY_WITHIN: Duration = Duration::from_secs(180);

/// Time within which the API server must act on what it has accepted.
const DONE_WITHIN: Duration = Duration::from_secs(60);

/// Token of the administrator, a member of `system:masters`, for whom RBAC rules do not apply.
#[doc(hidden)]
pub const ADMIN: &str = "token-of-the-administrator";

#[derive(Debug)]
struct Programs {
    apiserver: PathBuf,
    etcd: Option<PathBuf>,
}

#[derive(Debug)]
struct Ports {
    apiserver: ReservedPort,
    etcd: ReservedPort,
    peers: ReservedPort,
}

impl Ports {
    fn reserve() -> Result<Self, EnvironmentError> {
        let port = || {
            let program = "a port of loopback".into();
            ReservedPort::new().map_err(|source| EnvironmentError::Start { program, source })
        };
        Ok(Self { apiserver: port()?, etcd: port()?, peers: port()? })
    }
}

/// The servers that run now.
#[derive(Debug, Default)]
struct Servers {
    apiserver: Option<Server>,
    etcd: Option<Server>,
}

/// A running API server with its etcd. Both end when this is dropped, and with the test process, even if that is
/// killed.
///
/// An environment serves many tests, each in a [namespace](Self::namespace) of its own. A client belongs to the
/// runtime of the test that made it: make one for each test.
///
/// ```no_run
/// use bellwether::{
///     k8s::{crd, k8s_openapi::api::core::v1::ConfigMap, prelude::*},
///     testing::Environment,
/// };
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let api = Environment::start().await?;
/// api.install(&[crd::election()]).await?;
/// let space = api.namespace("shop").await?;
/// let maps = Api::<ConfigMap>::default_namespaced(space.client());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Environment {
    options: EnvironmentOptions,
    programs: Programs,
    ports: Ports,
    pki: Pki,
    spaces: AtomicUsize,
    servers: Mutex<Servers>,
    // Ends the servers and removes the folder when this process is gone; dropped last.
    janitor: Janitor,
}

impl Environment {
    /// Starts etcd and an API server with the default options.
    ///
    /// # Errors
    ///
    /// [`EnvironmentError`]; [`EnvironmentError::Missing`] names the command that installs the programs.
    pub async fn start() -> Result<Self, EnvironmentError> {
        Self::options().start().await
    }

    /// Options of an environment: programs, feature gates, flags.
    pub fn options() -> EnvironmentOptions {
        EnvironmentOptions::default()
    }

    /// Process id of the API server; `None` while it is ended.
    pub fn pid(&self) -> Option<u32> {
        self.servers().apiserver.as_ref().map(Server::pid)
    }

    /// Address that the API server listens on.
    pub fn address(&self) -> SocketAddr {
        self.ports.apiserver.address()
    }

    /// URL of the API server.
    pub fn url(&self) -> String {
        format!("https://{}", self.address())
    }

    /// The authority that signed the server's certificate, and whose client certificates the server accepts.
    #[doc(hidden)]
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// A folder for a test's own files, removed at the end.
    pub fn folder(&self) -> &Path {
        &self.janitor.folder
    }

    /// Client configuration without credentials.
    ///
    /// # Panics
    ///
    /// If a file of the environment was removed.
    pub fn config(&self) -> Config {
        let mut config = Config::new(self.url().parse().expect("an address makes a URL"));
        let ca = CertificateDer::from_pem_file(self.pki.ca()).expect("the authority's certificate");
        config.root_cert = Some(vec![ca.to_vec()]);
        config.default_retry = false;
        config
    }

    /// Client configuration with a token, see [`EnvironmentOptions::token`].
    ///
    /// # Panics
    ///
    /// As for [`config`](Self::config).
    pub fn config_with_token(&self, token: &str) -> Config {
        let mut config = self.config();
        config.auth_info.token = Some(token.to_owned().into());
        config
    }

    /// Client configuration that impersonates a user, who need not exist. [`Space::user`] grants rights to a
    /// user.
    ///
    /// # Panics
    ///
    /// As for [`config`](Self::config).
    pub fn config_as(&self, user: &str, groups: &[&str]) -> Config {
        let mut config = self.config_with_token(self.acting());
        config.auth_info = AuthInfo {
            impersonate: Some(user.to_owned()),
            impersonate_groups: Some(groups.iter().map(|&group| group.to_owned()).collect()),
            ..config.auth_info
        };
        config
    }

    fn acting(&self) -> &str {
        self.options.acting.as_deref().unwrap_or(ADMIN)
    }

    /// A client that may do everything.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn client(&self) -> Client {
        client(self.config_with_token(ADMIN))
    }

    /// A kubeconfig file of the administrator, or of the named user.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn kubeconfig(
        &self,
        namespace: &str,
        user: Option<&str>,
    ) -> Result<PathBuf, EnvironmentError> {
        let (token, name) = match user {
            Some(user) => (self.acting(), user),
            None => (ADMIN, "admin"),
        };
        self.kubeconfig_with(token, namespace, name, user)
    }

    /// A kubeconfig file with a token, which impersonates a user if one is given.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    #[doc(hidden)]
    pub fn kubeconfig_with(
        &self,
        token: &str,
        namespace: &str,
        name: &str,
        user: Option<&str>,
    ) -> Result<PathBuf, EnvironmentError> {
        let file = name.replace(|it: char| !it.is_alphanumeric(), "-");
        let path = self.folder().join(format!("{namespace}-{file}.kubeconfig"));
        let acting = user.map(|user| format!(", as: {user:?}")).unwrap_or_default();
        let text = format!(
            "apiVersion: v1\n\
             kind: Config\n\
             current-context: test\n\
             clusters:\n\
             - {{name: test, cluster: {{server: {:?}, certificate-authority: \"{}\"}}}}\n\
             contexts:\n\
             - {{name: test, context: {{cluster: test, user: test, namespace: {namespace:?}}}}}\n\
             users:\n\
             - {{name: test, user: {{token: {token:?}{acting}}}}}\n",
            self.url(),
            self.pki.ca().display(),
        );
        fs::write(&path, text).map_err(|source| unwritten(&path, source))?;
        Ok(path)
    }

    /// Applies definitions of custom resources, and returns when the server serves them.
    ///
    /// # Errors
    ///
    /// [`EnvironmentError::Api`] if the server rejects a definition, [`EnvironmentError::Late`] if it does not
    /// serve one in time.
    pub async fn install(
        &self,
        definitions: &[CustomResourceDefinition],
    ) -> Result<(), EnvironmentError> {
        let all = Api::<CustomResourceDefinition>::all(self.client());
        for definition in definitions {
            let name = definition.name_any();
            let params = PatchParams::apply("tests").force();
            let applied = all.patch(&name, &params, &Patch::Apply(definition)).await;
            applied.map_err(|source| rejected(format!("installing {name}"), source))?;
        }
        for definition in definitions {
            let name = definition.name_any();
            let is_established = async || {
                let conditions = all.get(&name).await.ok()?.status?.conditions?;
                let mut conditions = conditions.iter();
                conditions.find(|it| it.type_ == "Established" && it.status == "True").map(|_| ())
            };
            done(&format!("{name} is established"), is_established).await?;
            for version in definition.spec.versions.iter().filter(|it| it.served) {
                let names = &definition.spec.names;
                let kind =
                    GroupVersionKind::gvk(&definition.spec.group, &version.name, &names.kind);
                let kind = ApiResource::from_gvk_with_plural(&kind, &names.plural);
                let objects = Api::<DynamicObject>::all_with(self.client(), &kind);
                let is_served = async || objects.list(&ListParams::default().limit(1)).await.ok();
                done(&format!("{name} is served as {}", version.name), is_served).await?;
            }
        }
        Ok(())
    }

    /// Creates a namespace whose name begins with `what`, for a single test, with a service account `default`.
    ///
    /// # Errors
    ///
    /// [`EnvironmentError::Api`] if the server rejects it.
    pub async fn namespace(&self, what: &str) -> Result<Space<'_>, EnvironmentError> {
        let name = format!("{what}-{}", self.spaces.fetch_add(1, SeqCst));
        Space::begun(self, name).await
    }

    /// The handle of a namespace that exists.
    pub fn space(&self, name: impl Into<String>) -> Space<'_> {
        Space { environment: self, name: name.into() }
    }

    /// The answer to a GET by the administrator, if the server answers.
    pub async fn text(&self, path: &str) -> Option<String> {
        let request = http::Request::get(path).body(Vec::new()).ok()?;
        self.client().request_text(request).await.ok()
    }

    /// Kills the API server without warning (SIGKILL) and waits until it is gone. The etcd stays.
    pub fn kill(&self) {
        drop(self.servers().apiserver.take());
    }

    /// Starts the servers that do not run, on the same ports and data; returns when the API server is ready.
    ///
    /// # Errors
    ///
    /// [`EnvironmentError`].
    pub async fn start_again(&self) -> Result<(), EnvironmentError> {
        self.launch()?;
        let is_ready = async || {
            if let Err(ended) = self.still_run() {
                return Some(Err(ended));
            }
            let asking = tokio::time::timeout(Duration::from_secs(5), self.text("/readyz"));
            asking.await.ok().flatten().filter(|it| it == "ok").map(|_| Ok(()))
        };
        polled(READY_WITHIN, is_ready).await.unwrap_or_else(|| {
            let log = tail(&self.folder().join("apiserver").join("log"));
            Err(EnvironmentError::NotReady { within: READY_WITHIN, log })
        })
    }

    /// Kills the API server and starts it again.
    ///
    /// # Errors
    ///
    /// [`EnvironmentError`].
    pub async fn restart(&self) -> Result<(), EnvironmentError> {
        self.kill();
        self.start_again().await
    }

    fn servers(&self) -> MutexGuard<'_, Servers> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn launch(&self) -> Result<(), EnvironmentError> {
        let mut servers = self.servers();
        if let (None, Some(program)) = (&servers.etcd, &self.programs.etcd) {
            let folder = self.folder().join("etcd");
            servers.etcd = Some(Server::start("etcd", program, &folder, self.etcd_flags())?);
        }
        if servers.apiserver.is_none() {
            let folder = self.folder().join("apiserver");
            let (program, flags) = (&self.programs.apiserver, self.flags());
            servers.apiserver = Some(Server::start("kube-apiserver", program, &folder, flags)?);
        }
        Ok(())
    }

    /// # Errors
    ///
    /// [`EnvironmentError::Ended`] if a server has ended by itself.
    fn still_run(&self) -> Result<(), EnvironmentError> {
        let mut servers = self.servers();
        let Servers { apiserver, etcd } = &mut *servers;
        let mut running = [etcd, apiserver].into_iter();
        let ended = running.find_map(|slot| slot.as_mut()?.ended().map(|error| (slot, error)));
        match ended {
            Some((slot, error)) => {
                *slot = None;
                Err(error)
            }
            None => Ok(()),
        }
    }

    fn write_files(&self) -> Result<(), EnvironmentError> {
        let folder = self.folder().join("apiserver");
        fs::create_dir_all(&folder).map_err(|source| unwritten(&folder, source))?;
        self.pki.server(Validity::Now).map_err(EnvironmentError::Pki)?;
        let (private, public) = pki::signing_keys().map_err(EnvironmentError::Pki)?;
        let admin = format!("{ADMIN},admin,admin,\"system:masters\"");
        let tokens: Vec<_> = [admin].iter().chain(&self.options.tokens).cloned().collect();
        for (file, text) in [
            ("signing.key", private),
            ("signing.pub", public),
            ("tokens.csv", format!("{}\n", tokens.join("\n"))),
        ] {
            pki::replace(&folder.join(file), &text).map_err(|error| match error {
                PkiError::Write { path, source } => EnvironmentError::Write { path, source },
                error @ PkiError::Generate(_) => EnvironmentError::Pki(error),
            })?;
        }
        Ok(())
    }
}

/// Waits until the API server has acted on an accepted write.
async fn done<T>(what: &str, poll: impl AsyncFnMut() -> Option<T>) -> Result<T, EnvironmentError> {
    let late = || EnvironmentError::Late { what: what.to_owned(), within: DONE_WITHIN };
    polled(DONE_WITHIN, poll).await.ok_or_else(late)
}

fn client(config: Config) -> Client {
    Client::try_from(config).expect("the configuration was made here and is complete")
}

fn rejected(doing: String, source: kube::Error) -> EnvironmentError {
    let why = explain(&source).to_string();
    EnvironmentError::Api { doing, why, source: Box::new(source) }
}

fn unwritten(path: &Path, source: io::Error) -> EnvironmentError {
    EnvironmentError::Write { path: path.to_owned(), source }
}
