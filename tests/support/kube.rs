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
    ops::Deref,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

#[allow(unused_imports, reason = "only some test binaries use it")]
pub use bellwether::testing::{User, rule};
use bellwether::{
    k8s::{
        k8s_openapi::api::{
            authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
            core::v1::{Secret, ServiceAccount},
            rbac::v1::PolicyRule,
        },
        kube::{Api, Client, Config, api::PostParams, core::ObjectMeta},
    },
    testing::{Environment, EnvironmentOptions, environment::ADMIN},
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::OnceCell;

use crate::support::{
    etcd::{Etcd, until_stopped},
    tools,
};

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
pub struct Options(EnvironmentOptions);

impl Options {
    /// A feature gate that is off by default, for instance `ShardedListAndWatch`.
    pub fn gate(self, name: &str) -> Self {
        Self(self.0.gate(name))
    }

    /// Adds a flag to the server's command line.
    pub fn flag(self, flag: impl Into<String>) -> Self {
        Self(self.0.flag(flag))
    }

    /// Starts etcd and the server, and waits until the server is ready.
    pub async fn start(self) -> ApiServer {
        let etcd = Etcd::start().await;
        let folder = etcd.folder().join("audit");
        fs::create_dir_all(&folder).expect("the folder can be made");
        let (policy, log) = (folder.join("policy.yaml"), folder.join("audit.log"));
        fs::write(&policy, AUDIT_POLICY).expect("written");
        let program = tools::program("kubernetes", "kube-apiserver");
        let options = self
            .0
            .assets(program.parent().expect("a folder"))
            .etcd(etcd.endpoints().join(","))
            .token(BULK, "bulk", &["system:masters", "test:bulk"])
            .token(RECORDED, "recorded", &["system:masters", "test:recorded"])
            .acting(RECORDED)
            .flag(format!("--audit-policy-file={}", policy.display()))
            .flag(format!("--audit-log-path={}", log.display()))
            .flag("--audit-log-mode=blocking")
            .flag("--audit-log-maxsize=4096");
        let environment = options.start().await.expect("the server starts");
        ApiServer { environment, log, etcd }
    }
}

/// A running kube-apiserver of the library's test kit, with an audit log and an etcd that tests can damage.
#[derive(Debug)]
pub struct ApiServer {
    environment: Environment,
    log: PathBuf,
    // Ends after the server.
    etcd: Etcd,
}

impl Deref for ApiServer {
    type Target = Environment;

    fn deref(&self) -> &Environment {
        &self.environment
    }
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
        self.environment.pid().expect("the server runs")
    }

    /// The etcd that is the server's store.
    pub fn etcd(&self) -> &Etcd {
        &self.etcd
    }

    /// A client that may do everything and leaves no entry in the audit log.
    pub fn bulk_client(&self) -> Client {
        client(self.config_with_token(BULK))
    }

    /// A kubeconfig file of the administrator, or of the named user.
    pub fn kubeconfig(&self, namespace: &str, user: Option<&str>) -> PathBuf {
        self.environment.kubeconfig(namespace, user).expect("the kubeconfig is written")
    }

    /// A kubeconfig file of a user who may do everything and leaves no entry in the audit log.
    pub fn bulk_kubeconfig(&self, namespace: &str) -> PathBuf {
        let file = self.environment.kubeconfig_with(BULK, namespace, "bulk", None);
        file.expect("the kubeconfig is written")
    }

    /// Creates a namespace for a single test, with a service account `default`.
    pub async fn namespace(&self, what: &str) -> Space<'_> {
        let space = self.environment.namespace(what).await.expect("the namespace is created");
        Space { api: self, name: space.name }
    }

    /// All writes, in the order of the answers.
    pub fn writes(&self) -> Vec<Written> {
        let mut all = self.requests();
        all.retain(|it| !matches!(it.verb.as_str(), "get" | "list" | "watch"));
        all
    }

    /// All writes, and the reads of users with their own rules.
    fn requests(&self) -> Vec<Written> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        // The server may still be writing the last line.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(Written::from_line).collect()
    }

    /// Starts an ended server on the same port and store; waits until it is ready.
    pub async fn start_again(&self) {
        self.environment.start_again().await.expect("the server starts");
    }

    /// Kills the server and starts it again.
    pub async fn restart(&self) {
        self.environment.restart().await.expect("the server starts");
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

    fn here(&self, config: Config) -> Config {
        self.in_kit().here(config)
    }

    /// A user who may do in this namespace what the rules allow, and nothing else. Returns once the server
    /// applies the rules.
    pub async fn user(&self, name: &str, rules: impl IntoIterator<Item = PolicyRule>) -> User {
        self.in_kit().user(name, rules).await.expect("the server applies the rules")
    }

    /// Grants a user more rights in this namespace. Returns once the server applies them.
    pub async fn grant(
        &self,
        user: &User,
        role: &str,
        rules: impl IntoIterator<Item = PolicyRule>,
    ) {
        self.in_kit().grant(user, role, rules).await.expect("the server applies the rules");
    }

    /// Like [`Self::user`], with rules for all namespaces and for cluster-wide resources.
    pub async fn cluster_user(
        &self,
        name: &str,
        rules: impl IntoIterator<Item = PolicyRule>,
    ) -> User {
        self.in_kit().cluster_user(name, rules).await.expect("the server applies the rules")
    }

    /// The same namespace in the library's test kit.
    fn in_kit(&self) -> bellwether::testing::Space<'_> {
        self.api.space(&self.name)
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

/// Metadata with only a name.
pub fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

fn client(config: Config) -> Client {
    Client::try_from(config).expect("the configuration is good")
}
