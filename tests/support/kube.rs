//! A real kube-apiserver on loopback with an etcd of its own, started and ended by tests.
//!
//! ```ignore
//! let api = ApiServer::shared().await;               // one for the whole test binary
//! let space = api.namespace("queue").await;          // a fresh namespace: each test its own
//! let maps = Api::<ConfigMap>::default_namespaced(space.client());            // as administrator
//! let reader = space.user("reader", [rule("", "configmaps", &["get"])]).await; // may do that and no more
//! space.kubectl(&["get", "configmaps"]);
//! space.writes();                                    // what was written here, from the audit log
//!
//! let own = ApiServer::options().gate("ShardedListAndWatch").start().await;  // to restart, or with gates
//! own.restart().await;                               // same port, same store
//! ```
//!
//! Include this file beside the rest: `#[path = "../support/kube.rs"] mod kube;`. Every server ends with its
//! [`ApiServer`], and with the test process, even if that is killed. A client belongs to the runtime of the
//! test that made it: make one per test. No controller manager runs: garbage is never collected, and a deleted
//! namespace stays.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bellwether::k8s::{
    k8s_openapi::api::{
        authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
        authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
        core::v1::{Namespace, Secret, ServiceAccount},
        rbac::v1::{
            ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
        },
    },
    kube::{Api, Client, Config, api::PostParams, config::AuthInfo, core::ObjectMeta},
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::OnceCell;

use crate::support::{
    etcd::{Etcd, free_ports, until_stopped},
    eventually,
    janitor::{Janitor, tail},
    pki::{Pki, Validity},
    tools,
};

/// Time within which a server must be ready. Generous, since the machine may be busy.
const READY_WITHIN: Duration = Duration::from_secs(180);

/// The administrator's token: a member of `system:masters`, for whom RBAC rules do not apply.
const ADMIN: &str = "token-of-the-administrator";

/// Like [`ADMIN`], but without any entry in the audit log: for filling a server with objects.
const BULK: &str = "token-for-bulk";

/// Like [`ADMIN`], but the audit log has reads too, without bodies: [`Space::used`].
const RECORDED: &str = "token-that-is-recorded";

/// The audit log gets every write with its body and its answer, before the client gets that answer.
const AUDIT_POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: None
    userGroups: ["test:bulk"]
  - level: None
    users: ["system:apiserver"]
  - level: Metadata
    userGroups: ["test:recorded"]
    verbs: [get, list, watch]
  - level: RequestResponse
    verbs: [create, update, patch, delete, deletecollection]
  - level: None
"#;

/// Options of the server to start.
#[derive(Clone, Debug, Default)]
pub struct Options {
    gates: Vec<String>,
    flags: Vec<String>,
}

impl Options {
    /// A feature gate that is off by default, for instance `ShardedListAndWatch`.
    pub fn gate(mut self, name: &str) -> Self {
        self.gates.push(format!("{name}=true"));
        self
    }

    /// Adds a flag to the server's command line.
    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// Starts etcd and the server, and waits until the server is ready.
    pub async fn start(self) -> ApiServer {
        let janitor = Janitor::start(
            tempfile::Builder::new()
                .prefix("bellwether-kube-")
                .tempdir()
                .expect("a temporary folder")
                .keep(),
        );
        let api = ApiServer {
            etcd: Etcd::start().await,
            address: free_ports(1)[0],
            pki: Pki::new(&janitor.folder.join("pki"), "bellwether tests"),
            options: self,
            spaces: AtomicUsize::new(0),
            process: Mutex::default(),
            janitor,
        };
        api.write_files();
        api.launch();
        api.wait_until_ready().await;
        api
    }
}

/// A running kube-apiserver with its etcd.
#[derive(Debug)]
pub struct ApiServer {
    options: Options,
    address: SocketAddr,
    pki: Pki,
    spaces: AtomicUsize,
    process: Mutex<Option<Child>>,
    etcd: Etcd,
    // Ends the server and removes the folder when this process is gone; dropped last.
    janitor: Janitor,
}

impl ApiServer {
    /// The server that all tests of this binary share, which stays up. Each test works in a namespace of its
    /// own, and names cluster-wide objects after that namespace.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<ApiServer> = OnceCell::const_new();
        SHARED.get_or_init(|| Self::options().start()).await
    }

    /// The shared server that filters lists and watches by shard (KEP-5866), started at the first call.
    pub async fn sharded() -> &'static Self {
        static SHARDED: OnceCell<ApiServer> = OnceCell::const_new();
        SHARDED.get_or_init(|| Self::options().gate("ShardedListAndWatch").start()).await
    }

    /// Options for a server of its own.
    pub fn options() -> Options {
        Options::default()
    }

    /// Process id of the server.
    pub fn pid(&self) -> u32 {
        self.process().as_ref().expect("the server runs").id()
    }

    /// Address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// URL of the server.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The authority that signed the server's certificate, and whose client certificates the server accepts.
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// The etcd that is the server's store.
    pub fn etcd(&self) -> &Etcd {
        &self.etcd
    }

    /// A folder for a test's own files, removed at the end.
    pub fn folder(&self) -> &Path {
        &self.janitor.folder
    }

    /// Client configuration without credentials.
    pub fn config(&self) -> Config {
        let mut config = Config::new(self.url().parse().expect("a URL"));
        let ca = fs::read(&self.pki.ca).expect("the CA was written");
        let ca = rustls_pem(&ca);
        config.root_cert = Some(vec![ca]);
        config.default_retry = false;
        config
    }

    /// Client configuration with a token.
    pub fn config_with_token(&self, token: &str) -> Config {
        let mut config = self.config();
        config.auth_info.token = Some(token.to_owned().into());
        config
    }

    /// A client that may do everything.
    pub fn client(&self) -> Client {
        client(self.config_with_token(ADMIN))
    }

    /// A client that may do everything and leaves no entry in the audit log.
    pub fn bulk_client(&self) -> Client {
        client(self.config_with_token(BULK))
    }

    /// Client configuration that impersonates a user, who need not exist. [`Space::user`] grants rights to a
    /// user.
    pub fn config_as(&self, user: &str, groups: &[&str]) -> Config {
        let mut config = self.config_with_token(RECORDED);
        config.auth_info = AuthInfo {
            impersonate: Some(user.to_owned()),
            impersonate_groups: Some(groups.iter().map(|&group| group.to_owned()).collect()),
            ..config.auth_info
        };
        config
    }

    /// A kubeconfig file of the administrator, or of the named user.
    pub fn kubeconfig(&self, namespace: &str, user: Option<&str>) -> PathBuf {
        match user {
            Some(user) => {
                self.kubeconfig_with(RECORDED, namespace, user, &format!(", as: {user:?}"))
            }
            // Reads of the administrator need no entry in the audit log.
            None => self.kubeconfig_with(ADMIN, namespace, "admin", ""),
        }
    }

    /// A kubeconfig file of a user who may do everything and leaves no entry in the audit log.
    pub fn bulk_kubeconfig(&self, namespace: &str) -> PathBuf {
        self.kubeconfig_with(BULK, namespace, "bulk", "")
    }

    fn kubeconfig_with(&self, token: &str, namespace: &str, who: &str, acting: &str) -> PathBuf {
        let file = who.replace(|it: char| !it.is_alphanumeric(), "-");
        let path = self.folder().join(format!("{namespace}-{file}.kubeconfig"));
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
            self.pki.ca.display(),
        );
        fs::write(&path, text).expect("the kubeconfig is written");
        path
    }

    /// Creates a namespace for a single test, with a service account `default`.
    pub async fn namespace(&self, what: &str) -> Space<'_> {
        let name = format!("{what}-{}", self.spaces.fetch_add(1, SeqCst));
        let namespace = Namespace { metadata: named(&name), ..Namespace::default() };
        let all = Api::<Namespace>::all(self.client());
        all.create(&PostParams::default(), &namespace).await.expect("the namespace is created");
        let space = Space { api: self, name };
        let account = ServiceAccount { metadata: named("default"), ..ServiceAccount::default() };
        Api::<ServiceAccount>::default_namespaced(space.client())
            .create(&PostParams::default(), &account)
            .await
            .expect("its service account is created");
        space
    }

    /// All writes, in the order of the answers.
    pub fn writes(&self) -> Vec<Written> {
        let mut all = self.requests();
        all.retain(|it| !matches!(it.verb.as_str(), "get" | "list" | "watch"));
        all
    }

    /// All writes, and the reads of users with their own rules.
    fn requests(&self) -> Vec<Written> {
        let text = fs::read_to_string(self.audit_log()).unwrap_or_default();
        // The server may still be writing the last line.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(Written::from_line).collect()
    }

    fn audit_log(&self) -> PathBuf {
        self.folder().join("audit.log")
    }

    /// Kills the server without warning (SIGKILL) and waits until it is gone.
    pub fn kill(&self) {
        if let Some(mut process) = self.process().take() {
            let _ = process.kill();
            let _ = process.wait();
            let _ = fs::remove_file(self.server_folder().join("pid"));
        }
    }

    /// Starts an ended server on the same port and store; waits until it is ready.
    pub async fn start_again(&self) {
        self.launch();
        self.wait_until_ready().await;
    }

    /// Kills the server and starts it again.
    pub async fn restart(&self) {
        self.kill();
        self.start_again().await;
    }

    /// Freezes the server (SIGSTOP): its connections stay open and silent.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        until_stopped(self.pid());
    }

    /// Continues the frozen server (SIGCONT).
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid")).expect("not zero");
        kill_process(pid, signal).expect("the server runs");
    }

    fn process(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn server_folder(&self) -> PathBuf {
        self.folder().join("server")
    }

    fn write_files(&self) {
        let folder = self.server_folder();
        fs::create_dir_all(&folder).expect("the folder can be made");
        self.pki.server(Validity::Now);
        let signing = rcgen::KeyPair::generate().expect("a key");
        let tokens = format!(
            "{ADMIN},admin,admin,\"system:masters\"\n\
             {BULK},bulk,bulk,\"system:masters,test:bulk\"\n\
             {RECORDED},recorded,recorded,\"system:masters,test:recorded\"\n"
        );
        for (file, text) in [
            ("signing.key", signing.serialize_pem()),
            ("signing.pub", signing.public_key_pem()),
            ("audit-policy.yaml", AUDIT_POLICY.to_owned()),
            ("tokens.csv", tokens),
        ] {
            fs::write(folder.join(file), text).expect("written");
        }
    }

    fn launch(&self) {
        let folder = self.server_folder();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(folder.join("log"))
            .expect("the log can be opened");
        let child = Command::new(tools::program("kubernetes", "kube-apiserver"))
            .args(self.flags())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("kube-apiserver can be started");
        fs::write(folder.join("pid"), child.id().to_string()).expect("the pid is written");
        *self.process() = Some(child);
    }

    fn flags(&self) -> Vec<String> {
        let at = |file: &str| self.server_folder().join(file).display().to_string();
        let pki = |file: &str| self.folder().join("pki").join(file).display().to_string();
        let mut flags = vec![
            format!("--etcd-servers={}", self.etcd.endpoints().join(",")),
            format!("--secure-port={}", self.address.port()),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            // No process here serves the virtual services, and a killed server must not leave its endpoint in
            // them.
            "--endpoint-reconciler-type=none".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            format!("--cert-dir={}", at("certs")),
            format!("--tls-cert-file={}", pki("server.pem")),
            format!("--tls-private-key-file={}", pki("server.key")),
            format!("--client-ca-file={}", self.pki.ca.display()),
            format!("--token-auth-file={}", at("tokens.csv")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", at("signing.pub")),
            format!("--service-account-signing-key-file={}", at("signing.key")),
            "--authorization-mode=RBAC".to_owned(),
            format!("--audit-policy-file={}", at("audit-policy.yaml")),
            format!("--audit-log-path={}", self.audit_log().display()),
            "--audit-log-mode=blocking".to_owned(),
            "--audit-log-maxsize=4096".to_owned(),
            "--profiling=false".to_owned(),
        ];
        if !self.options.gates.is_empty() {
            flags.push(format!("--feature-gates={}", self.options.gates.join(",")));
        }
        flags.extend(self.options.flags.iter().cloned());
        flags
    }

    /// The server is ready if `/readyz` answers "ok", which covers its caches and the built-in roles.
    async fn wait_until_ready(&self) {
        eventually("kube-apiserver is ready", READY_WITHIN, async || {
            self.assert_runs();
            let asking = self.text("/readyz");
            tokio::time::timeout(Duration::from_secs(5), asking).await.ok()?.filter(|it| it == "ok")
        })
        .await;
    }

    /// The answer to a GET by the administrator, if the server answers.
    pub async fn text(&self, path: &str) -> Option<String> {
        let request = http::Request::get(path).body(Vec::new()).expect("a request");
        self.client().request_text(request).await.ok()
    }

    fn assert_runs(&self) {
        let ended = self.process().as_mut().and_then(|it| it.try_wait().expect("our child"));
        assert!(
            ended.is_none(),
            "kube-apiserver ended ({ended:?}); the end of its log:\n{}",
            tail(&self.server_folder().join("log"))
        );
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A namespace for a single test.
#[derive(Clone, Debug)]
pub struct Space<'a> {
    pub api: &'a ApiServer,
    pub name: String,
}

impl Space<'_> {
    /// A client that may do everything; its default namespace is this one.
    pub fn client(&self) -> Client {
        client(self.here(self.api.config_with_token(ADMIN)))
    }

    /// Like [`Self::client`], without an entry in the audit log.
    pub fn bulk_client(&self) -> Client {
        client(self.here(self.api.config_with_token(BULK)))
    }

    fn here(&self, mut config: Config) -> Config {
        config.default_namespace.clone_from(&self.name);
        config
    }

    /// A user who may do in this namespace what the rules allow, and nothing else. Returns once the server
    /// applies the rules.
    pub async fn user(&self, name: &str, rules: impl IntoIterator<Item = PolicyRule>) -> User {
        let user = format!("{}-{name}", self.name);
        let config = self.here(self.api.config_as(&user, &["system:authenticated"]));
        let user = User { config, name: user };
        self.grant(&user, name, rules).await;
        user
    }

    /// Grants a user more rights in this namespace. Returns once the server applies them.
    pub async fn grant(
        &self,
        user: &User,
        role: &str,
        rules: impl IntoIterator<Item = PolicyRule>,
    ) {
        let rules: Vec<_> = rules.into_iter().collect();
        let made = Role { metadata: named(role), rules: Some(rules.clone()) };
        let roles = Api::<Role>::default_namespaced(self.client());
        roles.create(&PostParams::default(), &made).await.expect("the role is created");
        let binding = RoleBinding {
            metadata: named(role),
            role_ref: role_ref("Role", role),
            subjects: Some(vec![subject(&user.name)]),
        };
        let bindings = Api::<RoleBinding>::default_namespaced(self.client());
        bindings.create(&PostParams::default(), &binding).await.expect("the role is bound");
        self.until_allowed(&user.name, &rules, Some(&self.name)).await;
    }

    /// Like [`Self::user`], with rules for all namespaces and for cluster-wide resources.
    pub async fn cluster_user(
        &self,
        name: &str,
        rules: impl IntoIterator<Item = PolicyRule>,
    ) -> User {
        let rules: Vec<_> = rules.into_iter().collect();
        let user = format!("{}-{name}", self.name);
        let role = ClusterRole {
            metadata: named(&user),
            rules: Some(rules.clone()),
            aggregation_rule: None,
        };
        let roles = Api::<ClusterRole>::all(self.api.client());
        roles.create(&PostParams::default(), &role).await.expect("the role is created");
        let binding = ClusterRoleBinding {
            metadata: named(&user),
            role_ref: role_ref("ClusterRole", &user),
            subjects: Some(vec![subject(&user)]),
        };
        let bindings = Api::<ClusterRoleBinding>::all(self.api.client());
        bindings.create(&PostParams::default(), &binding).await.expect("the role is bound");
        self.until_allowed(&user, &rules, None).await;
        User { config: self.here(self.api.config_as(&user, &["system:authenticated"])), name: user }
    }

    async fn until_allowed(&self, user: &str, rules: &[PolicyRule], namespace: Option<&str>) {
        let first = |list: Option<&Vec<String>>| list.and_then(|it| it.first()).cloned();
        for rule in rules {
            let resource = first(rule.resources.as_ref()).unwrap_or_default();
            let (resource, subresource) =
                resource.split_once('/').map_or((resource.as_str(), None), |(a, b)| (a, Some(b)));
            let review = SubjectAccessReview {
                spec: SubjectAccessReviewSpec {
                    user: Some(user.to_owned()),
                    resource_attributes: Some(ResourceAttributes {
                        namespace: namespace.map(str::to_owned),
                        verb: rule.verbs.first().cloned(),
                        group: first(rule.api_groups.as_ref()),
                        resource: Some(resource.to_owned()),
                        subresource: subresource.map(str::to_owned),
                        name: first(rule.resource_names.as_ref()),
                        ..ResourceAttributes::default()
                    }),
                    ..SubjectAccessReviewSpec::default()
                },
                ..SubjectAccessReview::default()
            };
            let reviews = Api::<SubjectAccessReview>::all(self.api.client());
            eventually("the server goes by the rules", Duration::from_secs(60), async || {
                let answer = reviews.create(&PostParams::default(), &review).await;
                answer.expect("reviewed").status.filter(|it| it.allowed).map(|_| ())
            })
            .await;
        }
    }

    /// A token of the service account `default`, valid until the object that the token is bound to (a Secret of
    /// that name) is deleted.
    pub async fn bound_token(&self, name: &str) -> String {
        let secret = Secret { metadata: named(name), ..Secret::default() };
        Api::<Secret>::default_namespaced(self.client())
            .create(&PostParams::default(), &secret)
            .await
            .expect("the secret is created");
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Secret".to_owned()),
                    name: Some(name.to_owned()),
                    uid: None,
                }),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        Api::<ServiceAccount>::default_namespaced(self.client())
            .create_token_request("default", &PostParams::default(), &request)
            .await
            .expect("a token is issued")
            .status
            .and_then(|it| it.token)
            .expect("the token")
    }

    /// Runs kubectl as administrator in this namespace, and returns its output.
    ///
    /// # Panics
    ///
    /// Panics with the error output if kubectl fails.
    pub fn kubectl(&self, args: &[&str]) -> String {
        let output = self.try_kubectl(args, None);
        assert!(
            output.status.success(),
            "kubectl {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs kubectl in this namespace with `yaml` on its standard input.
    pub fn kubectl_apply(&self, yaml: &str) -> String {
        use std::io::Write as _;
        let mut child = self
            .kubectl_command(None)
            .args(["apply", "--server-side", "--force-conflicts", "--validate=strict", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl runs");
        child.stdin.take().expect("piped").write_all(yaml.as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("kubectl ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs kubectl as `user`, or as administrator.
    pub fn try_kubectl(&self, args: &[&str], user: Option<&str>) -> Output {
        self.kubectl_command(user).args(args).stdin(Stdio::null()).output().expect("kubectl runs")
    }

    fn kubectl_command(&self, user: Option<&str>) -> Command {
        let mut command = Command::new(tools::program("kubernetes", "kubectl"));
        command
            .env("KUBECONFIG", self.api.kubeconfig(&self.name, user))
            // The kubectl cache of one server is of no use for another server.
            .env("KUBECACHEDIR", self.api.folder().join("kubectl-cache"))
            .env("HOME", self.api.folder());
        command
    }

    /// All writes in this namespace, in the order of the answers.
    pub fn writes(&self) -> Vec<Written> {
        let mut all = self.api.writes();
        all.retain(|it| it.namespace == self.name);
        all
    }

    /// All writes in this namespace and the reads of users with their own rules, in the order of the answers.
    pub fn requests(&self) -> Vec<Written> {
        let mut all = self.api.requests();
        all.retain(|it| it.namespace == self.name);
        all
    }

    /// Rights that a user has used, in any namespace: verb, API group and resource of each request that was
    /// allowed.
    pub fn used(&self, user: &User) -> BTreeSet<Right> {
        let mut all = self.api.requests();
        all.retain(|it| it.user == user.name && it.code != 403 && !it.resource.is_empty());
        all.into_iter().map(|it| (it.group, it.resource, it.verb)).collect()
    }

    /// Requests of a user with rules of its own, reads among them, in the order of the answers.
    pub fn asked(&self, user: &User) -> Vec<Written> {
        let mut all = self.api.requests();
        all.retain(|it| it.user == user.name);
        all
    }

    /// Rights of the requests of a user that the server refused.
    pub fn refused(&self, user: &User) -> BTreeSet<Right> {
        let mut all = self.api.requests();
        all.retain(|it| it.user == user.name && it.code == 403 && !it.resource.is_empty());
        all.into_iter().map(|it| (it.group, it.resource, it.verb)).collect()
    }
}

/// API group (`""` is the core), resource and verb.
pub type Right = (String, String, String);

/// The rights that the rules grant.
pub fn rights_of(rules: &[PolicyRule]) -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for rule in rules {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                let right = |verb: &String| (group.clone(), resource.clone(), verb.clone());
                rights.extend(rule.verbs.iter().map(right));
            }
        }
    }
    rights
}

/// A user with rules of their own.
#[derive(Clone, Debug)]
pub struct User {
    pub name: String,
    pub config: Config,
}

impl User {
    pub fn client(&self) -> Client {
        client(self.config.clone())
    }
}

/// A request in the audit log, mostly a write.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: String,
    /// User on whose behalf the request was made.
    pub user: String,
    /// User agent of the client.
    pub agent: String,
    /// API group of the resource; empty is the core.
    pub group: String,
    /// Plural name of the resource, with the subresource if any: `pods`, `pods/status`.
    pub resource: String,
    pub namespace: String,
    pub name: String,
    /// The status code of the answer.
    pub code: u16,
    /// When the server received it: RFC 3339 with microseconds, so that text sorts as time.
    pub received: String,
    /// Time at which the server answered, in the same format.
    pub answered: String,
    /// Object in the request; null if none.
    pub request: serde_json::Value,
    /// Object in the response.
    pub response: serde_json::Value,
}

impl Written {
    fn from_line(line: &str) -> Self {
        let event: serde_json::Value = serde_json::from_str(line).expect("an audit event");
        let text = |pointer: &str| {
            event.pointer(pointer).and_then(|it| it.as_str()).unwrap_or_default().to_owned()
        };
        let mut resource = text("/objectRef/resource");
        let part = text("/objectRef/subresource");
        if !part.is_empty() {
            let _ = write!(resource, "/{part}");
        }
        let acting = text("/impersonatedUser/username");
        let code = event.pointer("/responseStatus/code").and_then(serde_json::Value::as_u64);
        Self {
            verb: text("/verb"),
            user: if acting.is_empty() { text("/user/username") } else { acting },
            agent: text("/userAgent"),
            group: text("/objectRef/apiGroup"),
            resource,
            namespace: text("/objectRef/namespace"),
            name: text("/objectRef/name"),
            code: code.and_then(|it| u16::try_from(it).ok()).unwrap_or_default(),
            received: text("/requestReceivedTimestamp"),
            answered: text("/stageTimestamp"),
            request: event["requestObject"].clone(),
            response: event["responseObject"].clone(),
        }
    }
}

/// A rule for one resource of one API group (`""` is the core).
pub fn rule(group: &str, resource: &str, verbs: &[&str]) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        verbs: verbs.iter().map(|&verb| verb.to_owned()).collect(),
        ..PolicyRule::default()
    }
}

/// Metadata with only a name.
pub fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

fn role_ref(kind: &str, name: &str) -> RoleRef {
    RoleRef {
        api_group: Some("rbac.authorization.k8s.io".to_owned()),
        kind: kind.to_owned(),
        name: name.to_owned(),
    }
}

fn subject(user: &str) -> Subject {
    Subject {
        kind: "User".to_owned(),
        name: user.to_owned(),
        api_group: Some("rbac.authorization.k8s.io".to_owned()),
        namespace: None,
    }
}

fn client(config: Config) -> Client {
    Client::try_from(config).expect("the configuration is good")
}

/// The only certificate of a PEM file, in DER.
fn rustls_pem(pem: &[u8]) -> Vec<u8> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    CertificateDer::from_pem_slice(pem).expect("a certificate").to_vec()
}
