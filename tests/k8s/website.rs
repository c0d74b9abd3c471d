//! The project that `bellwether new` copies, on two replicas, under the roles that are computed from it and no more.

use std::{
    collections::BTreeSet,
    env,
    process::{Command, ExitCode},
};

use bellwether::{
    app::App,
    engine::Failover,
    k8s::{
        cache::Scope,
        crd::{Election, tidied},
        fence::ElectionRef,
        k8s_openapi::api::{
            apps::v1::Deployment,
            core::v1::{ConfigMap, Service},
            rbac::v1::PolicyRule,
        },
        kube::{
            Api, CustomResourceExt as _, Resource, ResourceExt as _,
            api::{DeleteParams, Patch, PatchParams},
            core::NamespaceResourceScope,
        },
        operator::Operator,
    },
    node::{ClusterNode, Stopped},
    store::memory::MemoryStore,
};
use rustix::process::Signal;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{
    binary::Process,
    controllers::{Replica, SOON, get, server},
    kube::{Space, User, rights_of},
    support::{etcd::Etcd, eventually},
};

#[allow(dead_code, unreachable_pub, unused_imports, reason = "a program of its own")]
#[path = "../../examples/website/src/lib.rs"]
mod example;

use example::website::Website;

/// Name of the operator, and of its cluster.
const NAME: &str = "website-operator";

/// The operator as a program.
fn app() -> App {
    App::new(NAME, "0.1.0")
        .crds(example::definitions())
        .operator(|operator, _| example::operator(operator))
}

/// Rights of the operator in its namespace, computed from its controllers.
fn rights() -> Vec<PolicyRule> {
    let rules = app().rules();
    assert_eq!(rules.cluster, []);
    [rules.watched, rules.home].concat()
}

/// Namespace with the operator's custom resource, and an account for the operator.
struct Sites {
    space: Space<'static>,
    user: User,
    store: MemoryStore,
}

impl Sites {
    async fn new() -> Self {
        let space = server().await.namespace("website").await;
        space.api.install(&[tidied(Website::crd())]).await.unwrap();
        let user = space.user("operator", rights()).await;
        Self { space, user, store: MemoryStore::new() }
    }

    async fn replica(&self, id: i64) -> Replica {
        let node = ClusterNode::builder()
            .cluster(NAME)
            .id(id)
            .address(format!("10.0.0.{id}:8080"))
            .failover(Failover::DEFAULT)
            .memory(&self.store);
        let election = ElectionRef { namespace: self.space.name.clone(), cluster: NAME.into() };
        let operator = Operator::new(node, self.user.client(), election)
            .scope(Scope::namespace(self.space.name.clone()));
        Replica::start(example::operator(operator)).await
    }

    /// Runs the example as a process of its own.
    fn program(&self, id: i64, etcd: &Etcd) -> Process {
        let mut command = Command::new(env::current_exe().unwrap());
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("BELLWETHER_") {
                command.env_remove(name);
            }
        }
        let kubeconfig = self.space.api.kubeconfig(&self.space.name, Some(&self.user.name));
        command
            .args(["--exact", "website::a_process_may_be_the_example", "--nocapture"])
            .env(AS_PROGRAM, "yes")
            .env("NO_COLOR", "1")
            .env("BELLWETHER_KUBECONFIG", kubeconfig)
            .env("BELLWETHER_ETCD", etcd.endpoint(0))
            .env("BELLWETHER_ID", id.to_string())
            .env("BELLWETHER_LISTEN", "127.0.0.1:0");
        Process::of(command)
    }

    fn make_home(&self) {
        self.space.kubectl_apply(
            "apiVersion: example.bellwether.dev/v1\nkind: Website\nmetadata: {name: home}\n\
             spec: {html: <h1>hello</h1>, replicas: 2}\n",
        );
    }

    /// Node that the `Election` names, when it is another node than `not`.
    async fn leader(&self, not: Option<i64>) -> i64 {
        let elections = Api::<Election>::default_namespaced(self.space.client());
        eventually(&format!("a leader other than {not:?}"), SOON, async || {
            let status = elections.get_opt(NAME).await.unwrap()?.status?;
            Some(status.leader?.node).filter(|node| Some(*node) != not)
        })
        .await
    }

    fn sites(&self) -> Api<Website> {
        Api::default_namespaced(self.space.client())
    }

    fn maps(&self) -> Api<ConfigMap> {
        Api::default_namespaced(self.space.client())
    }

    fn pods(&self) -> Api<Deployment> {
        Api::default_namespaced(self.space.client())
    }

    async fn page_is(&self, html: &str) {
        eventually(&format!("the page is {html}"), SOON, async || {
            let page = self.maps().get_opt("home").await.unwrap()?;
            (page.data?.get("index.html")? == html).then_some(())
        })
        .await;
    }

    /// The operator recreates an object of the site that is deleted. The test deletes more than once: a run
    /// that happens for another reason could recreate it once.
    async fn comes_back<C>(&self)
    where
        C: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        C: Clone + std::fmt::Debug + DeserializeOwned,
    {
        let api = Api::<C>::default_namespaced(self.space.client());
        for _ in 0..5 {
            let uid = api.get("home").await.unwrap().uid();
            api.delete("home", &DeleteParams::default()).await.unwrap();
            eventually(&format!("the {} is back", C::kind(&())), SOON, async || {
                api.get_opt("home").await.unwrap().filter(|it| it.uid() != uid)
            })
            .await;
        }
    }

    async fn until(&self, what: &str, is: impl Fn(&Website) -> bool) -> Website {
        eventually(what, SOON, async || self.sites().get_opt("home").await.unwrap().filter(&is))
            .await
    }

    /// Waits until the index holds this line for the site.
    async fn indexed(&self, wanted: Option<&str>) {
        eventually(&format!("the index says {wanted:?}"), SOON, async || {
            let index = self.maps().get_opt("websites").await.unwrap();
            let said = index.and_then(|it| it.data?.remove("home"));
            (said.as_deref() == wanted).then_some(())
        })
        .await;
    }

    /// Writes the status that the deployment controller would write.
    async fn report_ready(&self, ready: i32) {
        let status = json!({ "status": { "replicas": 2, "readyReplicas": ready } });
        let params = PatchParams::default();
        self.pods().patch_status("home", &params, &Patch::Merge(&status)).await.unwrap();
    }

    async fn told(&self, reason: &str) -> String {
        eventually(&format!("{reason} is told"), SOON, async || {
            let events = self.space.kubectl(&["events", "--for", "website/home"]);
            events.lines().find(|line| line.contains(reason)).map(str::to_owned)
        })
        .await
    }
}

fn condition(site: &Website) -> Option<(&str, &str)> {
    let ready = site.status.as_ref()?.conditions.iter().find(|it| it.type_ == "Ready")?;
    Some((&ready.status, &ready.message))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readmes_operator_serves_sites_through_damage_and_failover_and_cleans_up() {
    let it = Sites::new().await;
    let (first, second) = (it.replica(0).await, it.replica(1).await);
    it.make_home();

    // The objects of the site exist, belong to it, and are repaired.
    it.page_is("<h1>hello</h1>").await;
    it.indexed(Some(&format!("home.{}.svc:80", it.space.name))).await;
    let site = it
        .until("it is starting", |site| condition(site) == Some(("False", "0 of 2 pods are ready")))
        .await;
    let pods = it.pods().get("home").await.unwrap();
    let owner = &pods.owner_references()[0];
    assert_eq!((owner.kind.as_str(), Some(&owner.uid)), ("Website", site.uid().as_ref()));
    it.comes_back::<ConfigMap>().await;
    it.comes_back::<Deployment>().await;
    it.comes_back::<Service>().await;
    let damage = Patch::Merge(json!({ "data": { "index.html": "hacked" } }));
    it.maps().patch("home", &PatchParams::default(), &damage).await.unwrap();
    it.page_is("<h1>hello</h1>").await;

    // The site's status follows, and an event reports it; the followers check the site's address.
    it.report_ready(2).await;
    it.until("it is ready", |site| condition(site) == Some(("True", "2 of 2 pods are ready")))
        .await;
    let table = it.space.kubectl(&["get", "websites"]);
    let columns: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(columns[0], ["NAME", "READY", "PODS", "AGE"], "{table}");
    assert_eq!(columns[1][..3], ["home", "True", "2"], "{table}");
    assert!(it.told("Serving").await.contains("2 of 2 pods are ready"));
    assert!(it.told("Unreachable").await.contains("does not accept connections"));
    let election = it.space.kubectl(&["get", "elections"]);
    assert!(election.contains(NAME), "{election}");

    // The leader stops; its successor serves the changes.
    let (leader, left) = match first.node.membership().borrow().role {
        bellwether::engine::Role::Leader => (first, second),
        _ => (second, first),
    };
    assert_eq!(leader.stop().await, Stopped::Clean);
    let change = Patch::Merge(json!({ "spec": { "html": "<h1>again</h1>", "replicas": 3 } }));
    it.sites().patch("home", &PatchParams::default(), &change).await.unwrap();
    it.page_is("<h1>again</h1>").await;
    let site = it
        .until("it is starting again", |site| {
            condition(site) == Some(("False", "2 of 3 pods are ready"))
        })
        .await;
    assert_eq!(site.status.as_ref().unwrap().observed_generation, site.metadata.generation);

    // The site is deleted only when its line is out of the index.
    assert_eq!(site.finalizers(), ["example.bellwether.dev/index"]);
    it.sites().delete("home", &DeleteParams::default()).await.unwrap();
    eventually("the site is gone", SOON, async || {
        it.sites().get_opt("home").await.unwrap().is_none().then_some(())
    })
    .await;
    it.indexed(None).await;
    assert_eq!(left.stop().await, Stopped::Clean);

    // The operator tried no call without the right to it, and has no right that it does not use. (The audit log
    // records an apply that creates an object as a patch; a server that streams lists receives no list calls;
    // an event is patched if it repeats.)
    assert_eq!(it.space.refused(&it.user), BTreeSet::new());
    let used = it.space.used(&it.user);
    let mut idle = rights_of(&rights());
    idle.retain(|right| !used.contains(right) && !matches!(right.2.as_str(), "list" | "create"));
    // The nodes of this test run in no pods, and this API server does not check owner references.
    idle.retain(|right| !["events", "pods", "websites/finalizers"].contains(&right.1.as_str()));
    assert_eq!(idle, BTreeSet::new());
}

/// Variable in the environment of a process that runs the example.
const AS_PROGRAM: &str = "WEBSITE_AS_PROGRAM";

/// [`Sites::program`] starts this test as a process: so the example is always the one compiled into these
/// tests.
#[test]
fn a_process_may_be_the_example() {
    if env::var_os(AS_PROGRAM).is_some() {
        let code = app().main_with([NAME, "run"].map(Into::into));
        assert_eq!(code, ExitCode::SUCCESS);
    }
}

/// Address where a process serves its status, when it is ready.
async fn page(process: &Process) -> String {
    let line = process.says("status server listens").await;
    let address = line.rsplit_once("address=").expect("an address").1.trim().to_owned();
    eventually("it is ready", SOON, async || {
        get(&address, "/readyz").await.filter(|(code, _)| *code == 200)
    })
    .await;
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_hands_the_office_over_and_ends_the_process_with_success() {
    let it = Sites::new().await;
    let etcd = Etcd::start().await;
    let mut first = it.program(0, &etcd);
    let address = page(&first).await;
    assert_eq!(it.leader(None).await, 0);
    let second = it.program(1, &etcd);
    page(&second).await;
    it.make_home();
    it.page_is("<h1>hello</h1>").await;
    let (_, metrics) = get(&address, "/metrics").await.unwrap();
    for line in
        ["controller_runtime_reconcile_total{controller=\"website\"", "rest_client_requests_total{"]
    {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }

    first.signal(Signal::TERM);
    let ended = first.status().await;
    assert!(ended.success(), "{ended}: {}", first.err());
    assert_eq!(it.leader(Some(0)).await, 1);
    let events = eventually("the take-over is told", SOON, async || {
        let events = it.space.kubectl(&["events", "--for", &format!("election/{NAME}")]);
        events.contains("node 1 took office").then_some(events)
    })
    .await;
    assert!(events.contains("node 0 had ended term"), "not a clean end: {events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_ends_the_process_however_the_leaving_stands() {
    let it = Sites::new().await;
    let etcd = Etcd::start().await;
    let mut process = it.program(0, &etcd);
    page(&process).await;
    // The process cannot leave while etcd is frozen.
    etcd.freeze(0);
    process.signal(Signal::TERM);
    process.says("a second signal ends at once").await;
    process.signal(Signal::TERM);
    let ended = process.status().await;
    assert!(
        !ended.success() && process.err().contains("ended at once: the lease has to run out"),
        "{ended}: {}",
        process.err()
    );
}
