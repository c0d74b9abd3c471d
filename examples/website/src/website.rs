//! The resource `Website`, and its controllers. The leader reconciles: a site owns a `ConfigMap` with the page, a
//! `Deployment` that serves it, and a `Service`. The followers check the sites of their shards.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bellwether::k8s::{
    k8s_openapi::api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Service},
    },
    prelude::*,
};
use serde::{Deserialize, Serialize};
use serde_json::{from_value, json};
use tokio::{net::TcpStream, time::timeout};

/// A page that is served.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "example.bellwether.dev",
    version = "v1",
    kind = "Website",
    plural = "websites",
    namespaced,
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

/// Adds the controllers of this kind to an operator. Their declarations become the operator's roles.
pub fn controllers(operator: Operator) -> Operator {
    let sites = Controller::<Website>::new(reconcile)
        .owns::<ConfigMap>()
        .owns::<Deployment>()
        .owns::<Service>()
        .writes_status()
        .finalizes()
        .publishes_events()
        .at_once(4);
    let checks =
        Controller::<Website>::new(check).named("website-checks").publishes_events().at_once(16);
    operator.controller(sites).shards(Sharded::new(checks))
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

/// Time limit of a connection to a site.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// Time between two checks of a site.
const CHECK_EVERY: Duration = Duration::from_secs(30);

/// Checks one site that should answer. Runs on the node that holds the site's shard.
pub async fn check(site: Arc<Website>, ctx: Context) -> Result<Action, ReconcileError> {
    let status = site.status.clone().unwrap_or_default();
    if site.metadata.deletion_timestamp.is_some() || !conditions::holds(&status.conditions, "Ready")
    {
        return Ok(Action::done());
    }
    let address = address(&site);
    if !matches!(timeout(CONNECT_WITHIN, TcpStream::connect(&address)).await, Ok(Ok(_))) {
        let note = format!("{address} does not accept connections");
        ctx.events().warning(&*site, "Unreachable", "Check", note).await;
    }
    Ok(Action::requeue_after(CHECK_EVERY))
}

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

/// Address of the `Service` of a site, with its port.
fn address(site: &Website) -> String {
    format!("{}.{}.svc:80", site.name_any(), site.namespace().unwrap_or_default())
}
