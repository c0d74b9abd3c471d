//! The custom resources as an administrator uses them: applied, rejected, explained, listed.

mod agreement;
mod generated;
mod reading;

use std::time::Duration;

use bellwether::k8s::{
    crd,
    k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    kube::{
        Api, Error,
        api::{DynamicObject, Patch, PatchParams},
        core::ApiResource,
    },
};
use bellwether::operator::{self, uptime::crd::UptimeCheck};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::{
    kube::{ApiServer, Space},
    support::eventually,
};

/// The shared server with the custom resources; each test works in a namespace of its own.
pub(crate) async fn space(what: &str) -> Space<'static> {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    let api = ApiServer::shared().await;
    INSTALLED.get_or_init(|| install(api)).await;
    api.namespace(what).await
}

/// Installs the custom resources and waits until they are served.
pub(crate) async fn install(api: &ApiServer) {
    let definitions = Api::<CustomResourceDefinition>::all(api.client());
    for definition in operator::definitions() {
        let name = definition.metadata.name.clone().unwrap();
        let force = PatchParams::apply("test").force();
        definitions.patch(&name, &force, &Patch::Apply(&definition)).await.unwrap();
        let served = format!("/apis/{}/{}", crd::API_VERSION, definition.spec.names.plural);
        eventually(&format!("{name} is served"), Duration::from_secs(60), async || {
            api.text(&served).await
        })
        .await;
    }
}

/// Manifest of a check with this spec.
pub(crate) fn check(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": crd::API_VERSION, "kind": "UptimeCheck", "metadata": {"name": name}, "spec": spec,
    })
}

/// Result of a dry run of `kubectl apply --server-side --validate=strict` of this manifest: the object as the
/// server would store it, or the server's error.
pub(crate) async fn tried(space: &Space<'_>, manifest: &Value) -> Result<DynamicObject, String> {
    let kind = manifest["kind"].as_str().unwrap();
    let names = if kind == "UptimeCheck" {
        ApiResource::erase::<UptimeCheck>(&())
    } else {
        ApiResource::erase::<crd::Election>(&())
    };
    let objects = Api::<DynamicObject>::default_namespaced_with(space.client(), &names);
    let params = PatchParams { dry_run: true, ..PatchParams::apply("kubectl").validation_strict() };
    let name = manifest["metadata"]["name"].as_str().unwrap();
    match objects.patch(name, &params, &Patch::Apply(manifest)).await {
        Ok(object) => Ok(object),
        Err(Error::Api(status)) => Err(status.message.clone()),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn the_server_establishes_the_definitions_and_has_nothing_to_warn_of() {
    let space = space("definitions").await;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/crds");
    let args = ["apply", "--server-side", "--force-conflicts", "--validate=strict", "-f", folder];
    let applied = space.try_kubectl(&args, None);
    assert_eq!(String::from_utf8_lossy(&applied.stderr), "", "no warnings");
    assert!(applied.status.success());
    let definitions = Api::<CustomResourceDefinition>::all(space.client());
    for definition in operator::definitions() {
        let name = definition.metadata.name.unwrap();
        let status = definitions.get(&name).await.unwrap().status.unwrap();
        let mut conditions: Vec<_> = status.conditions.iter().flatten().collect();
        conditions.sort_by_key(|it| &it.type_);
        let told: Vec<_> =
            conditions.iter().map(|it| (it.type_.as_str(), it.status.as_str())).collect();
        assert_eq!(told, [("Established", "True"), ("NamesAccepted", "True")], "{name}");
    }
}

#[tokio::test]
async fn good_manifests_are_taken_and_their_defaults_filled_in() {
    let space = space("defaults").await;
    let http = json!({"target": {"http": {"url": "https://shop.example/"}}});
    let made = tried(&space, &check("http", &http)).await.unwrap();
    assert_eq!(
        made.data["spec"],
        json!({
            "target": {"http": {
                "url": "https://shop.example/",
                "method": "GET",
                "followRedirects": true,
                "insecureSkipTlsVerify": false,
            }},
            "interval": "30s",
            "failureThreshold": 1,
        })
    );
    let dns = json!({"target": {"dns": {"name": "shop.example"}}, "expect": {}, "interval": null});
    let made = tried(&space, &check("dns", &dns)).await.unwrap();
    assert_eq!(
        made.data["spec"],
        json!({
            "target": {"dns": {"name": "shop.example", "recordType": "A"}},
            "interval": "30s",
            "failureThreshold": 1,
            "expect": {},
        })
    );
    for file in ["down", "name", "port", "status-page"] {
        let path = format!("{}/examples/checks/{file}.yaml", env!("CARGO_MANIFEST_DIR"));
        space.kubectl_apply(&std::fs::read_to_string(path).unwrap());
    }
}

#[tokio::test]
async fn a_field_that_nobody_knows_is_refused_and_named() {
    let space = space("unknown").await;
    let spec = json!({"target": {"http": {"url": "http://a/", "methd": "GET"}}, "intervall": "1m"});
    let said = tried(&space, &check("a", &spec)).await.unwrap_err();
    assert!(said.contains(".spec.intervall: field not declared in schema"), "{said}");
    let election = json!({
        "apiVersion": crd::API_VERSION, "kind": "Election", "metadata": {"name": "a"},
        "spec": {"cluster": "a", "replicas": 3},
    });
    let said = tried(&space, &election).await.unwrap_err();
    assert!(said.contains(".spec.replicas: field not declared in schema"), "{said}");
}

#[tokio::test]
async fn the_cluster_of_an_election_cannot_be_changed_nor_be_nothing() {
    let space = space("cluster").await;
    let manifest = |cluster: &str| {
        format!(
            "{{apiVersion: {}, kind: Election, metadata: {{name: shop}}, spec: {{cluster: '{cluster}'}}}}",
            crd::API_VERSION
        )
    };
    space.kubectl_apply(&manifest("shop"));
    for (cluster, says) in [
        ("other", "spec.cluster: Invalid value: \"other\": cannot be changed: an Election belongs"),
        ("", "spec.cluster: Invalid value: \"\": spec.cluster in body should be at least 1 chars"),
    ] {
        let said = tried(&space, &serde_saphyr::from_str(&manifest(cluster)).unwrap()).await;
        let said = said.unwrap_err();
        assert!(said.contains(says), "{said}");
    }
}
