//! An operator: a `Website` owns a `ConfigMap` with its page, a `Deployment` that serves it and a `Service`.
//!
//! What it shows: reconciling on the elected leader, owned objects, server-side apply, conditions, events, a
//! finalizer for what Kubernetes cannot clean up by itself, and checks of the sites on the followers.
//!
//! ```text
//! cargo run --example website -- crd | kubectl apply -f -     # the custom resource
//! cargo run --example website -- run                          # the operator, by your kubeconfig, in memory
//! BELLWETHER_ETCD=http://127.0.0.1:2379 BELLWETHER_ID=0 cargo run --example website -- run    # one of several
//! ```

use std::{error::Error, sync::Arc, time::Duration};

use bellwether::{
    k8s::{
        client::{ClientOptions, connect},
        conditions::{self, Holds},
        controller::{Action, Context, Controller, ReconcileError, Sharded, generation},
        events::EventType,
        fence::ElectionRef,
        finalizer::Finalize,
        k8s_openapi::{
            api::{
                apps::v1::Deployment,
                core::v1::{ConfigMap, Service},
            },
            apimachinery::pkg::apis::meta::v1::Condition,
        },
        kube::{
            Api, Client, CustomResource, CustomResourceExt as _, Resource as _, ResourceExt as _,
            api::{Patch, PatchParams, PostParams},
        },
        operator::{NodeBuilder, Operator},
        schemars::{self, JsonSchema},
    },
    node::{ClusterNode, StandaloneNode},
    store::etcd::EtcdConfig,
};
use serde::{Deserialize, Serialize};
use serde_json::{from_value, json};

/// A page that is served.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "example.bellwether.dev",
    version = "v1",
    kind = "Website",
    namespaced,
    status = "WebsiteStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Replicas","type":"integer","jsonPath":".status.readyReplicas"}"#,
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

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "bellwether::k8s::schemars")]
#[serde(rename_all = "camelCase")]
pub struct WebsiteStatus {
    /// How many pods are ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// `metadata.generation` of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: as many pods serve the page as were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
}

fn conditions_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": { "type": "string" },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
                "observedGeneration": { "type": "integer", "format": "int64" },
                "lastTransitionTime": { "type": "string", "format": "date-time" },
                "reason": { "type": "string" },
                "message": { "type": "string" }
            }
        }
    })
}

/// Kept until the site's line is out of the index, which no owner reference can clean up.
const FINALIZER: &str = "example.bellwether.dev/index";
/// One per namespace: the sites in it.
const INDEX: &str = "websites";

/// Brings one site to what its spec says. On the leader.
pub async fn reconcile(site: Arc<Website>, ctx: Context) -> Result<Action, ReconcileError> {
    ctx.finalized(FINALIZER, site, |what| async {
        match what {
            Finalize::Apply(site) => serve(&site, &ctx).await,
            Finalize::Cleanup(site) => unlist(&site, &ctx).await,
        }
    })
    .await
}

async fn serve(site: &Website, ctx: &Context) -> Result<Action, ReconcileError> {
    let (name, namespace) = (site.name_any(), site.namespace().unwrap_or_default());
    let owned = json!({
        "name": name,
        "namespace": namespace,
        "labels": { "app": name },
        "ownerReferences": [site.controller_owner_ref(&())],
    });
    let page: ConfigMap =
        from_value(json!({ "metadata": owned, "data": { "index.html": site.spec.html } }))?;
    let pods = json!({
        "metadata": { "labels": { "app": name } },
        "spec": {
            "containers": [{
                "name": "web",
                "image": "nginx:stable",
                "ports": [{ "containerPort": 80 }],
                "volumeMounts": [{ "name": "page", "mountPath": "/usr/share/nginx/html" }],
            }],
            "volumes": [{ "name": "page", "configMap": { "name": name } }],
        },
    });
    let deployment: Deployment = from_value(json!({
        "metadata": owned,
        "spec": {
            "replicas": site.spec.replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": pods,
        },
    }))?;
    let service: Service = from_value(json!({
        "metadata": owned,
        "spec": { "selector": { "app": name }, "ports": [{ "port": 80 }] },
    }))?;
    ctx.writer::<ConfigMap>(Some(&namespace)).apply(&page, None).await?;
    let deployment = ctx.writer::<Deployment>(Some(&namespace)).apply(&deployment, None).await?;
    ctx.writer::<Service>(Some(&namespace)).apply(&service, None).await?;
    list(&namespace, &name, json!(format!("http://{name}.{namespace}.svc")), ctx).await?;
    tell(site, &deployment, ctx).await
}

/// Writes the status, and an event when the site has become ready.
async fn tell(
    site: &Website,
    deployment: &Deployment,
    ctx: &Context,
) -> Result<Action, ReconcileError> {
    let before = site.status.clone().unwrap_or_default();
    let ready = deployment.status.as_ref().and_then(|it| it.ready_replicas).unwrap_or(0);
    let is_ready = ready >= site.spec.replicas;
    let generation = site.metadata.generation;
    let mut status = WebsiteStatus {
        ready_replicas: ready,
        observed_generation: generation,
        conditions: before.conditions.clone(),
    };
    let message = format!("{ready} of {} pods are ready", site.spec.replicas);
    let said = (if is_ready { "Serving" } else { "Starting" }, message.as_str());
    conditions::set(&mut status.conditions, "Ready", Holds::from(is_ready), said, generation);
    let was_ready =
        conditions::find(&before.conditions, "Ready").is_some_and(|it| it.status == "True");
    let namespace = site.namespace().unwrap_or_default();
    ctx.writer::<Website>(Some(&namespace)).status(site, &status).await?;
    if is_ready && !was_ready {
        let said = ("Serving", "Deploy");
        ctx.events().say(site, &(), EventType::Normal, said, message).await;
    }
    Ok(Action::done())
}

/// Puts the site's line into the index, or takes it out where it is null.
async fn list(
    namespace: &str,
    name: &str,
    line: serde_json::Value,
    ctx: &Context,
) -> Result<Action, ReconcileError> {
    let api: Api<ConfigMap> = Api::namespaced(ctx.client().clone(), namespace);
    let index = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": INDEX }, "data": { name: line },
    });
    match api.patch(INDEX, &PatchParams::default(), &Patch::Merge(&index)).await {
        Ok(_) => Ok(Action::done()),
        Err(bellwether::k8s::kube::Error::Api(status)) if status.code == 404 => {
            let mut index = index;
            if index["data"][name].is_null() {
                return Ok(Action::done());
            }
            index["metadata"]["namespace"] = json!(namespace);
            api.create(&PostParams::default(), &from_value(index)?).await?;
            Ok(Action::done())
        }
        Err(error) => Err(error.into()),
    }
}

async fn unlist(site: &Website, ctx: &Context) -> Result<Action, ReconcileError> {
    list(&site.namespace().unwrap_or_default(), &site.name_any(), json!(null), ctx).await
}

/// Looks whether a site answers. On the node that holds the site's shard.
pub async fn check(site: Arc<Website>, ctx: Context) -> Result<Action, ReconcileError> {
    let address = format!("{}.{}.svc:80", site.name_any(), site.namespace().unwrap_or_default());
    let connected =
        tokio::time::timeout(Duration::from_secs(2), tokio::net::TcpStream::connect(&address))
            .await;
    if !matches!(connected, Ok(Ok(_))) && site.metadata.deletion_timestamp.is_none() {
        let said = ("Unreachable", "Check");
        let note = format!("{address} does not accept connections");
        ctx.events().say(&*site, &(), EventType::Warning, said, note).await;
    }
    Ok(Action::requeue_after(Duration::from_secs(30)))
}

/// The operator, on that node.
pub fn operator(node: impl Into<NodeBuilder>, client: Client, namespace: &str) -> Operator {
    let election = ElectionRef { namespace: namespace.into(), cluster: "websites".into() };
    let sites = Controller::<Website>::new(reconcile)
        .owns::<ConfigMap>()
        .owns::<Deployment>()
        .owns::<Service>()
        .at_once(4);
    let checks =
        Controller::<Website>::new(check).named("website-checks").predicate(generation).at_once(16);
    Operator::new(node, client, election).controller(sites).shards(Sharded::new(checks))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1).as_deref() {
        Some("crd") => println!("{}", serde_json::to_string_pretty(&Website::crd())?),
        Some("run") => {
            tracing_subscriber::fmt().with_env_filter("info").init();
            let client = connect(ClientOptions::default()).await?;
            let namespace = client.default_namespace().to_owned();
            let node: NodeBuilder = match std::env::var("BELLWETHER_ETCD") {
                Ok(etcd) => ClusterNode::builder()
                    .cluster("websites")
                    .id(std::env::var("BELLWETHER_ID")?.parse()?)
                    .etcd(EtcdConfig::new([etcd]))
                    .into(),
                Err(_) => StandaloneNode::builder().cluster("websites").id(0).into(),
            };
            operator(node, client, &namespace)
                .run(async {
                    let _ = tokio::signal::ctrl_c().await;
                })
                .await?;
        }
        _ => eprintln!("usage: website crd|run"),
    }
    Ok(())
}
