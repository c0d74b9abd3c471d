//! An operator: a `Website` owns a `ConfigMap` with its page, a `Deployment` that serves it and a `Service`.
//!
//! The example shows: reconciling on the elected leader, owned objects, server-side apply, conditions, events,
//! a finalizer for a resource that Kubernetes cannot clean up by itself, checks of the sites on the followers,
//! and a status server with metrics, probes and a page at <http://127.0.0.1:8080> (`BELLWETHER_LISTEN`).
//!
//! ```text
//! cargo run --example website -- crd | kubectl apply --server-side -f -     # its own custom resource
//! bellwether crds | kubectl apply --server-side -f -                        # Election: who leads
//! cargo run --example website -- run        # by your kubeconfig, in your context's namespace; no etcd
//! BELLWETHER_ETCD=http://127.0.0.1:2379 BELLWETHER_ID=0 cargo run --example website -- run   # one of several
//! ```

use std::{collections::BTreeMap, env, error::Error, sync::Arc, time::Duration};

use bellwether::{
    k8s::{
        k8s_openapi::api::{
            apps::v1::Deployment,
            core::v1::{ConfigMap, Service},
        },
        prelude::*,
    },
    node::{ClusterNode, ClusterNodeBuilder},
    store::etcd::EtcdConfig,
    telemetry::metrics,
};
use serde::{Deserialize, Serialize};
use serde_json::{from_value, json};

// README: begin
/// A page that is served.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "example.bellwether.dev",
    version = "v1",
    kind = "Website",
    namespaced,
    shortname = "site",
    status = "WebsiteStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Pods","type":"integer","jsonPath":".status.readyReplicas"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    crates(
        kube_core = "bellwether::k8s::kube::core",
        k8s_openapi = "bellwether::k8s::k8s_openapi",
        schemars = "bellwether::k8s::schemars"
    )
)]
#[schemars(crate = "bellwether::k8s::schemars")]
#[serde(rename_all = "camelCase")]
pub struct WebsiteSpec {
    /// The page, as HTML.
    #[schemars(length(max = 100_000))]
    pub html: String,
    /// How many pods serve it.
    #[schemars(range(min = 0, max = 100))]
    #[serde(default = "one")]
    pub replicas: i32,
}

fn one() -> i32 {
    1
}

/// State of the site, as the operator observed it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "bellwether::k8s::schemars")]
#[serde(rename_all = "camelCase")]
pub struct WebsiteStatus {
    /// How many pods are ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// `metadata.generation` of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: as many pods serve the page as were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions::schema")]
    pub conditions: Vec<Condition>,
}

/// Finalizer that stays until the site's line is out of the index, which no owner reference can clean up.
const FINALIZER: &str = "example.bellwether.dev/index";

/// Brings one site to the state in its spec. Runs on the leader.
pub async fn reconcile(site: Arc<Website>, ctx: Context) -> Result<Action, ReconcileError> {
    ctx.finalized(FINALIZER, site, |what| async {
        match what {
            Finalize::Apply(site) => serve(&site, &ctx).await,
            Finalize::Cleanup(site) => index(&site, None, &ctx).await,
        }
    })
    .await
}

/// Applies all objects that a site owns, at every run: so an object that a user has changed or deleted is
/// repaired.
async fn serve(site: &Website, ctx: &Context) -> Result<Action, ReconcileError> {
    let name = site.name_any();
    let app = json!({ "app": name });
    let page: ConfigMap = from_value(json!({
        "metadata": { "name": name, "labels": app },
        "data": { "index.html": site.spec.html },
    }))?;
    let pods: Deployment = from_value(json!({
        "metadata": { "name": name, "labels": app },
        "spec": {
            "replicas": site.spec.replicas,
            "selector": { "matchLabels": app },
            "template": {
                "metadata": { "labels": app },
                "spec": {
                    "containers": [{
                        "name": "web",
                        "image": "nginx:stable",
                        "ports": [{ "containerPort": 80 }],
                        "volumeMounts": [{ "name": "page", "mountPath": "/usr/share/nginx/html" }],
                    }],
                    "volumes": [{ "name": "page", "configMap": { "name": name } }],
                },
            },
        },
    }))?;
    let service: Service = from_value(json!({
        "metadata": { "name": name, "labels": app },
        "spec": { "selector": app, "ports": [{ "port": 80 }] },
    }))?;
    ctx.apply_owned(site, page).await?;
    let pods = ctx.apply_owned(site, pods).await?;
    ctx.apply_owned(site, service).await?;
    index(site, Some(address(site)), ctx).await?;
    tell(site, &pods, ctx).await
}

/// Writes the status, and publishes an event when the site has become ready.
async fn tell(site: &Website, pods: &Deployment, ctx: &Context) -> Result<Action, ReconcileError> {
    let before = site.status.clone().unwrap_or_default();
    let ready = pods.status.as_ref().and_then(|it| it.ready_replicas).unwrap_or(0);
    let is_ready = ready >= site.spec.replicas;
    let message = format!("{ready} of {} pods are ready", site.spec.replicas);
    let said = (if is_ready { "Serving" } else { "Starting" }, message.as_str());
    let generation = site.metadata.generation;
    let mut conditions = before.conditions.clone();
    conditions::set(&mut conditions, "Ready", Holds::from(is_ready), said, generation);
    let status =
        WebsiteStatus { ready_replicas: ready, observed_generation: generation, conditions };
    ctx.write_status(site, &status).await?;
    if is_ready && !conditions::holds(&before.conditions, "Ready") {
        ctx.events().normal(site, "Serving", "Deploy", message).await;
    }
    Ok(Action::done())
}

/// Checks whether a site that should answer does. Runs on the node that holds the site's shard.
pub async fn check(site: Arc<Website>, ctx: Context) -> Result<Action, ReconcileError> {
    let status = site.status.clone().unwrap_or_default();
    if site.metadata.deletion_timestamp.is_some() || !conditions::holds(&status.conditions, "Ready")
    {
        return Ok(Action::done());
    }
    let address = address(&site);
    let connecting = tokio::net::TcpStream::connect(&address);
    if !matches!(tokio::time::timeout(Duration::from_secs(2), connecting).await, Ok(Ok(_))) {
        let note = format!("{address} does not accept connections");
        ctx.events().warning(&*site, "Unreachable", "Check", note).await;
    }
    Ok(Action::requeue_after(Duration::from_secs(30)))
}

/// Operator for the sites of a namespace, on that node.
pub fn operator(node: impl Into<Host>, client: Client, namespace: &str) -> Operator {
    let election = ElectionRef { namespace: namespace.into(), cluster: CLUSTER.into() };
    let here = Scope::namespace(namespace);
    let sites = Controller::<Website>::new(reconcile)
        .scope(here.clone())
        .owns::<ConfigMap>()
        .owns::<Deployment>()
        .owns::<Service>()
        .at_once(4);
    let checks = Controller::<Website>::new(check).named("website-checks").scope(here).at_once(16);
    Operator::new(node, client, election).controller(sites).shards(Sharded::new(checks))
}
// README: end

/// Name of the cluster that the nodes form, and of its `Election`.
const CLUSTER: &str = "websites";
/// Index of each namespace: the addresses of its sites, a line each.
const INDEX: &str = "websites";

/// Puts a site's line into the index, or removes it. Each line has a field manager of its own, so that a line
/// that is no longer applied disappears.
async fn index(
    site: &Website,
    line: Option<String>,
    ctx: &Context,
) -> Result<Action, ReconcileError> {
    let (name, namespace) = (site.name_any(), site.namespace().unwrap_or_default());
    let lines: BTreeMap<_, _> = line.map(|line| (name.clone(), line)).into_iter().collect();
    let index: ConfigMap = from_value(json!({
        "metadata": { "name": INDEX, "namespace": namespace },
        "data": lines,
    }))?;
    let writer = ctx.writer::<ConfigMap>(Some(&namespace)).field_manager(format!("website-{name}"));
    writer.apply(&index, ctx.seen(&index).as_deref()).await?;
    Ok(Action::done())
}

fn address(site: &Website) -> String {
    format!("{}.{}.svc:80", site.name_any(), site.namespace().unwrap_or_default())
}

/// Node on etcd, if `BELLWETHER_ETCD` is set: with this pod's id, or with an id from the environment. Otherwise
/// a cluster of one, in memory.
fn node(pod: Option<&PodIdentity>) -> Result<ClusterNodeBuilder, Box<dyn Error>> {
    let Ok(etcd) = env::var("BELLWETHER_ETCD") else {
        return Ok(ClusterNode::standalone().cluster(CLUSTER).id(0));
    };
    let node = ClusterNode::builder().cluster(CLUSTER).etcd(EtcdConfig::new(etcd.split(',')));
    Ok(match pod {
        Some(pod) => pod.apply(node),
        None => node.id(env::var("BELLWETHER_ID")?.parse()?),
    })
}

/// The program: it runs until a signal ends it.
pub async fn run() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_env_filter("info").with_writer(std::io::stderr).init();
    let pod = match env::var("POD_NAME") {
        Ok(_) => Some(PodIdentity::from_env()?),
        Err(_) => None,
    };
    let registry = metrics::registry()?;
    let api = ClientOptions::default().metrics(ClientMetrics::register(&registry)?);
    let client = connect(api).await?;
    let namespace = client.default_namespace().to_owned();
    let listen = env::var("BELLWETHER_LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".to_owned());
    let operator =
        operator(node(pod.as_ref())?, client, &namespace).registry(registry).serve(listen);
    let operator = match pod {
        Some(pod) => operator.pod(pod),
        None => operator,
    };
    operator.run_until_signalled().await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    match env::args().nth(1).as_deref() {
        Some("crd") => print!("{}", crd::yaml(&[crd::tidied(Website::crd())])),
        Some("run") => run().await?,
        _ => return Err("usage: website crd|run".into()),
    }
    Ok(())
}
