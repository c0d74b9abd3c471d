//! Errors of the real server, and the text that a person reads about them.

use std::{fs, time::Duration};

use bellwether::k8s::{
    client::{ClientOptions, connect},
    explain::{Explained, MissingRule, Reason, explain},
    k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod},
    kube::{
        Api, Client, Error,
        api::{
            ApiResource, DeleteParams, DynamicObject, EvictParams, ListParams, Patch, PatchParams,
            PostParams, Preconditions,
        },
        core::GroupVersionKind,
    },
};
use serde_json::json;

use crate::{
    kube::{ApiServer, Space, named, rule},
    support::{
        eventually,
        pki::{Pki, Validity},
    },
};

/// Timeout against a hanging test.
const LONG: Duration = Duration::from_secs(60);

fn map(name: &str, value: impl Into<String>) -> ConfigMap {
    ConfigMap {
        metadata: named(name),
        data: Some([("key".to_owned(), value.into())].into()),
        ..ConfigMap::default()
    }
}

fn maps(client: Client) -> Api<ConfigMap> {
    Api::default_namespaced(client)
}

async fn create(maps: &Api<ConfigMap>, map: &ConfigMap) -> Result<ConfigMap, Error> {
    maps.create(&PostParams::default(), map).await
}

fn said<T>(result: Result<T, Error>) -> Explained {
    explain(&result.err().expect("the server refuses this"))
}

fn told(said: &Explained, reason: Reason, words: &[&str]) {
    let all = said.to_string();
    assert_eq!(said.reason, reason, "{all}");
    for word in words {
        assert!(all.contains(word), "{word:?} in:\n{all}");
    }
}

#[tokio::test]
async fn the_rule_that_is_named_is_the_one_that_was_missing() {
    let space = ApiServer::shared().await.namespace("rule").await;
    let user = space.user("poor", []).await;
    let refused = said(maps(user.client()).list(&ListParams::default()).await);
    let missing = MissingRule {
        user: user.name.clone(),
        verb: "list".into(),
        group: String::new(),
        resource: "configmaps".into(),
        namespace: Some(space.name.clone()),
    };
    assert_eq!(refused.rule.as_ref(), Some(&missing));
    let line = format!("user {} may not list configmaps in namespace {}", user.name, space.name);
    told(&refused, Reason::Forbidden, &[&line, "add to a Role in namespace", r#"verbs: ["list"]"#]);

    // The printed rule, applied as it is, grants the missing right.
    space.kubectl_apply(&format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: poor}}\nrules:\n{}\n",
        missing.yaml()
    ));
    eventually("the rule is gone by", LONG, async || {
        maps(user.client()).list(&ListParams::default()).await.ok()
    })
    .await;

    let everywhere = said(Api::<ConfigMap>::all(user.client()).list(&ListParams::default()).await);
    told(&everywhere, Reason::Forbidden, &["configmaps in all namespaces", "ClusterRoleBinding"]);
    assert_eq!(everywhere.rule.unwrap().namespace, None);
    let pods = Api::<Pod>::default_namespaced(user.client());
    let status = Patch::Merge(json!({"status": {"phase": "Running"}}));
    let status = said(pods.patch_status("web-0", &PatchParams::default(), &status).await);
    told(&status, Reason::Forbidden, &[r#"resources: ["pods/status"]"#, r#"verbs: ["patch"]"#]);
    let path = http::Request::get("/metrics").body(Vec::new()).unwrap();
    let path = said(user.client().request_text(path).await);
    told(&path, Reason::Forbidden, &[r#"nonResourceURLs: ["/metrics"]"#]);
    let election = kind(user.client(), "bellwether.dev", "Election", Some(&space.name));
    let election = said(election.list(&ListParams::default()).await);
    told(&election, Reason::Forbidden, &["elections of API group bellwether.dev"]);
}

fn kind(client: Client, group: &str, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1alpha1", kind));
    match namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    }
}

#[tokio::test]
async fn a_kind_that_is_not_installed_is_told_from_an_object_that_is_not_there() {
    let space = ApiServer::shared().await.namespace("missing").await;
    let kinds = kind(space.client(), "nobody.example.com", "Nothing", None);
    told(
        &said(kinds.list(&ListParams::default()).await),
        Reason::KindMissing,
        &["bellwether crds | kubectl apply --server-side -f -"],
    );
    // For an unknown kind in an existing group the server answers differently.
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", "Nothing"));
    let kinds = Api::<DynamicObject>::default_namespaced_with(space.client(), &resource);
    told(
        &said(kinds.get("a").await),
        Reason::KindMissing,
        &["could not find the requested resource"],
    );
    let object = said(maps(space.client()).get("nobody").await);
    told(&object, Reason::NotFound, &[r#"there is no configmaps "nobody""#]);
    assert_eq!(object.remedy, None);
    let nowhere = Api::<ConfigMap>::namespaced(space.client(), "nowhere");
    told(
        &said(create(&nowhere, &map("a", "")).await),
        Reason::NotFound,
        &[r#"there is no namespaces "nowhere""#, "kubectl create namespace nowhere"],
    );
}

#[tokio::test]
async fn a_token_nobody_gave_is_not_known() {
    let api = ApiServer::shared().await;
    let client = Client::try_from(api.config_with_token("made-up-token")).unwrap();
    let refused = said(client.list_api_groups().await);
    told(&refused, Reason::Unauthorized, &["token has expired", "kubectl auth whoami"]);
    assert!(!refused.to_string().contains("made-up"));
}

#[tokio::test]
async fn an_object_that_is_not_valid_is_told_field_by_field() {
    let space = ApiServer::shared().await.namespace("invalid").await;
    let maps = maps(space.client());
    let name = said(create(&maps, &map("Not_A_Name", "")).await);
    told(&name, Reason::Invalid, &["is invalid: metadata.name: ", "kubectl explain"]);

    let strict = http::Request::post(format!(
        "/api/v1/namespaces/{}/configmaps?fieldValidation=Strict",
        space.name
    ));
    let body =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "datta": {}});
    let request = strict
        .header("content-type", "application/json")
        .body(serde_json::to_vec(&body).unwrap())
        .unwrap();
    let unknown = said(space.client().request_text(request).await);
    told(&unknown, Reason::Invalid, &[r#"unknown field "datta""#, "CustomResourceDefinition"]);
}

#[tokio::test]
async fn conflicts_tell_who_was_there_before() {
    let space = ApiServer::shared().await.namespace("conflict").await;
    let maps = maps(space.client());
    let first = create(&maps, &map("a", "one")).await.unwrap();
    told(&said(create(&maps, &map("a", "two")).await), Reason::AlreadyExists, &["already exists"]);
    let mut second = first.clone();
    second.data = map("a", "two").data;
    maps.replace("a", &PostParams::default(), &second).await.unwrap();
    let stale = said(maps.replace("a", &PostParams::default(), &first).await);
    told(&stale, Reason::Conflict, &["read it again"]);

    let ours = |value: &str| {
        Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"own": value}}))
    };
    maps.patch("a", &PatchParams::apply("one"), &ours("one")).await.unwrap();
    let theirs = said(maps.patch("a", &PatchParams::apply("other"), &ours("other")).await);
    told(&theirs, Reason::Conflict, &[".data.own (conflict with \"one\")", "apply by force"]);

    let other = Preconditions { uid: Some("3f2a9c1e".into()), resource_version: None };
    let another = DeleteParams { preconditions: Some(other), ..DeleteParams::default() };
    told(&said(maps.delete("a", &another).await), Reason::Conflict, &["UID"]);
}

#[tokio::test]
async fn what_is_too_large_is_told_whichever_limit_it_meets() {
    let space = ApiServer::shared().await.namespace("large").await;
    let maps = maps(space.client());
    for mebibytes in [1.1, 3.5] {
        let size = (mebibytes * 1024.0 * 1024.0) as usize;
        let refused = said(create(&maps, &map("a", "x".repeat(size))).await);
        told(&refused, Reason::TooLarge, &["fewer entries in its status"]);
        assert!(refused.message.len() < 500, "the object is not told back");
    }
    // etcd rejects values above 1.5 MiB; only custom kinds may be that large.
    space.kubectl_apply(BIG_KIND);
    let resource =
        ApiResource::from_gvk(&GroupVersionKind::gvk("test.bellwether.dev", "v1alpha1", "Big"));
    let bigs = Api::<DynamicObject>::default_namespaced_with(space.client(), &resource);
    let big = DynamicObject::new("a", &resource).data(json!({"text": "x".repeat(1_700_000)}));
    let refused = eventually("the kind is served", LONG, async || {
        let error = explain(&bigs.create(&PostParams::default(), &big).await.err()?);
        Some(error).filter(|it| it.reason != Reason::KindMissing)
    })
    .await;
    told(&refused, Reason::TooLarge, &["etcd"]);
}

const BIG_KIND: &str = r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: bigs.test.bellwether.dev}
spec:
  group: test.bellwether.dev
  scope: Namespaced
  names: {kind: Big, plural: bigs, singular: big}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {text: {type: string}}}}
";

fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "web"}]},
    }))
    .unwrap()
}

#[tokio::test]
async fn a_disruption_budget_is_not_a_busy_server() {
    let space = ApiServer::shared().await.namespace("budget").await;
    space.kubectl_apply(
        "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: web}\n\
         spec: {minAvailable: 1, selector: {matchLabels: {app: web}}}\n",
    );
    let pods = Api::<Pod>::default_namespaced(space.client());
    pods.create(&PostParams::default(), &pod("web-0")).await.unwrap();
    // The server protects only running pods; no kubelet runs pods here.
    let running = Patch::Merge(json!({"status": {"phase": "Running"}}));
    pods.patch_status("web-0", &PatchParams::default(), &running).await.unwrap();
    let kept = said(pods.evict("web-0", &EvictParams::default()).await);
    told(&kept, Reason::TooManyRequests, &["PodDisruptionBudget"]);
}

#[tokio::test]
async fn a_policy_that_denies_is_told_in_its_own_words() {
    let space = ApiServer::shared().await.namespace("policy").await;
    let name = &space.name;
    space.kubectl_apply(&format!(
        r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {{name: {name}}}
spec:
  matchConstraints:
    resourceRules: [{{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}}]
  validations: [{{expression: "'key' in object.data && object.data.key != 'bad'", message: "no bad keys here"}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {{name: {name}}}
spec:
  policyName: {name}
  validationActions: [Deny]
  matchResources: {{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {name}}}}}}}
"#
    ));
    let maps = maps(space.client());
    let denied = eventually("the policy is gone by", LONG, async || {
        let refused = create(&maps, &map("a", "bad")).await;
        if refused.is_ok() {
            maps.delete("a", &DeleteParams::default()).await.unwrap();
        }
        refused.err()
    })
    .await;
    let line = format!("policy {name} denied it: no bad keys here");
    told(&explain(&denied), Reason::Denied, &[&line, "kubectl describe validatingadmissionpolicy"]);
    create(&maps, &map("b", "good")).await.unwrap();
}

async fn change_namespace(space: &Space<'_>, change: serde_json::Value) {
    Api::<Namespace>::all(space.client())
        .patch(&space.name, &PatchParams::default(), &Patch::Merge(change))
        .await
        .unwrap();
}

#[tokio::test]
async fn pod_security_quotas_and_dying_namespaces_are_told_apart() {
    let space = ApiServer::shared().await.namespace("admission").await;
    let restricted =
        json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    change_namespace(&space, restricted).await;
    let pods = Api::<Pod>::default_namespaced(space.client());
    let unsafe_pod = eventually("the label is gone by", LONG, async || {
        let refused = pods.create(&PostParams::default(), &pod("web-0")).await;
        if refused.is_ok() {
            pods.delete("web-0", &DeleteParams::default().grace_period(0)).await.unwrap();
        }
        refused.err()
    })
    .await;
    told(&explain(&unsafe_pod), Reason::Denied, &["violates PodSecurity", "securityContext"]);

    space.kubectl_apply(
        "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: none}\nspec: {hard: {count/configmaps: '0'}}\n",
    );
    // The status that the controller manager would compute.
    let status = r#"{"status":{"hard":{"count/configmaps":"0"},"used":{"count/configmaps":"0"}}}"#;
    space.kubectl(&[
        "patch",
        "quota",
        "none",
        "--subresource=status",
        "--type=merge",
        "-p",
        status,
    ]);
    let maps = maps(space.client());
    let full = eventually("the quota is gone by", LONG, async || {
        let error = create(&maps, &map("a", "")).await.err()?;
        Some(explain(&error)).filter(|it| it.reason == Reason::QuotaExceeded)
    })
    .await;
    told(&full, Reason::QuotaExceeded, &["exceeded quota: none", "raise the ResourceQuota"]);

    Api::<Namespace>::all(space.client())
        .delete(&space.name, &DeleteParams::default())
        .await
        .unwrap();
    let dying = eventually("the namespace is dying", LONG, async || {
        let error = create(&maps, &map("a", "")).await.err()?;
        Some(explain(&error)).filter(|it| it.reason != Reason::QuotaExceeded)
    })
    .await;
    told(&dying, Reason::Terminating, &["stop creating"]);
}

#[tokio::test]
async fn a_server_that_is_not_there_and_one_that_is_not_trusted_are_named() {
    let api = ApiServer::shared().await;
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(api.kubeconfig("default", None)).unwrap();
    let changed = |name: &str, from: &str, to: &str| {
        let file = folder.path().join(name);
        assert!(text.contains(from));
        fs::write(&file, text.replace(from, to)).unwrap();
        ClientOptions::default().environment(|_| None).kubeconfig(file)
    };
    let nobody = crate::support::etcd::reserved_port();
    let free = nobody.address().to_string();
    let gone = connect(changed("gone", &api.address().to_string(), &free)).await.unwrap();
    let gone = said(gone.apiserver_version().await);
    told(&gone, Reason::Unreachable, &[&format!("https://{free}"), "refused", "/readyz"]);
    assert!(gone.reason.is_transient());

    let other = Pki::new(&folder.path().join("pki"), "somebody else");
    other.server(Validity::Now);
    let ca = other.ca.display().to_string();
    let other = changed("other", &api.pki().ca().display().to_string(), &ca);
    let other = said(connect(other).await.unwrap().apiserver_version().await);
    told(&other, Reason::Tls, &[&api.address().to_string(), "certificate-authority"]);
    assert!(!other.reason.is_transient());
}

#[tokio::test]
async fn an_answer_of_another_shape_is_not_the_servers_fault() {
    let space = ApiServer::shared().await.namespace("shape").await;
    let viewer = space.cluster_user("viewer", [rule("", "nodes", &["list"])]).await;
    Api::<Node>::all(viewer.client()).list(&ListParams::default()).await.unwrap();
    let request = http::Request::get("/api/v1/nodes").body(Vec::new()).unwrap();
    let wrong: Result<Vec<String>, Error> = viewer.client().request(request).await;
    told(&said(wrong), Reason::BadAnswer, &["CustomResourceDefinition"]);
}
