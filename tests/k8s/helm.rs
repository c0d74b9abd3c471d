//! `helm test` as Helm runs it, on a real API server. No kubelet runs: the test itself runs the command of the
//! pod's container, with the pod's own variables and the token of its account.

use std::{fs, process::Command};

use bellwether::k8s::{
    k8s_openapi::api::{
        authentication::v1::TokenRequest,
        core::v1::{Pod, ServiceAccount},
        rbac::v1::{Role, RoleBinding},
    },
    kube::{
        Api,
        api::{Patch, PatchParams, PostParams},
    },
};
use serde_json::{Value, json};

use crate::{
    binary::{Process, Ran, bellwether, ended},
    controllers::{SOON, server},
    kube::Space,
    matrix::MATRIX,
    processes::Pods,
    support::{eventually, tools},
};

/// Name of the test's pod, and of its account, its role and the binding of both.
const NAME: &str = "bw-bellwether-check";

fn helm(space: &Space<'_>, args: &[&str]) -> Command {
    let home = space.api.folder().join("helm");
    let mut command = Command::new(tools::program("helm", "helm"));
    command
        .arg("--kubeconfig")
        .arg(space.api.kubeconfig(&space.name, None))
        .args(["--namespace", &space.name])
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("HELM_CACHE_HOME", &home)
        .env("HELM_CONFIG_HOME", &home)
        .env("HELM_DATA_HOME", &home);
    command
}

/// Waits for the pod that Helm creates.
async fn pod(space: &Space<'_>) -> Pod {
    let pods = Api::<Pod>::default_namespaced(space.client());
    eventually("the pod of the test", SOON, async || pods.get_opt(NAME).await.unwrap()).await
}

/// Runs the command of the pod's container.
async fn container(space: &Space<'_>, pod: &Pod) -> Ran {
    let spec = pod.spec.as_ref().unwrap();
    let container = &spec.containers[0];
    let (program, args) = container.command.as_ref().unwrap().split_first().unwrap();
    assert_eq!(program, "bellwether");
    let account = spec.service_account_name.as_ref().unwrap();
    let token = Api::<ServiceAccount>::default_namespaced(space.client())
        .create_token_request(account, &PostParams::default(), &TokenRequest::default())
        .await
        .unwrap();
    // The administrator's kubeconfig, with the pod's token in place of the administrator's.
    let file = space.api.folder().join(format!("{}-helm-test", space.name));
    let admin = fs::read_to_string(space.api.kubeconfig(&space.name, None)).unwrap();
    let user =
        format!("- {{name: test, user: {{token: {:?}}}}}\n", token.status.unwrap().token.unwrap());
    fs::write(&file, format!("{}users:\n{user}", admin.split("users:").next().unwrap())).unwrap();
    let mut command = bellwether(args);
    for variable in container.env.iter().flatten() {
        command.env(&variable.name, variable.value.as_ref().unwrap());
    }
    ended({
        command.env("BELLWETHER_KUBECONFIG", file);
        command
    })
}

async fn tell(space: &Space<'_>, ran: &Ran) {
    let phase = if ran.code == 0 { "Succeeded" } else { "Failed" };
    let status = Patch::Merge(json!({ "status": { "phase": phase } }));
    let pods = Api::<Pod>::default_namespaced(space.client());
    pods.patch_status(NAME, &PatchParams::default(), &status).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn helm_test_looks_at_kubernetes_with_rights_that_are_gone_afterwards() {
    let pods = Pods::new("helm-test").await;
    let space = &pods.space;
    let etcd = format!("etcd.endpoints={{{}}}", pods.etcd.endpoint(0));
    let values = ["--set", &etcd, "--set", "clusterName=shop", "--set", "crds.enabled=false"];
    let installed =
        ended(helm(space, &[&["install", "bw", "charts/bellwether"], &values[..]].concat()));
    assert_eq!(installed.code, 0, "{}", installed.err);

    // No node leads yet.
    let mut test = Process::of(helm(space, &["test", "bw", "--timeout", "60s"]));
    let first = pod(space).await;
    // The server may know a new account a moment later than a container would start.
    let ran = eventually("the check finds what is wrong", SOON, async || {
        Some(container(space, &first).await).filter(|ran| ran.code == 8)
    })
    .await;
    assert!(ran.err.contains("election") && ran.err.contains("leader"), "{}", ran.err);
    tell(space, &ran).await;
    assert!(!test.status().await.success(), "{}", test.out());

    let _node = pods.start(0).await;
    pods.leader(None).await;
    let failed = pod(space).await.metadata.uid;
    let mut test = Process::of(helm(space, &["test", "bw", "--timeout", "60s"]));
    let next = eventually("another pod", SOON, async || {
        Some(pod(space).await).filter(|pod| pod.metadata.uid != failed)
    })
    .await;
    let ran = eventually("all is well", SOON, async || {
        Some(container(space, &next).await).filter(|ran| ran.code == 0)
    })
    .await;
    for what in ["etcd", "apiserver", "crds", "election", "leader", "nodes"] {
        let line = ran.out.lines().find(|line| line.starts_with(what)).unwrap_or_default();
        assert_eq!(line.split_whitespace().nth(1), Some("ok"), "{what} in\n{}", ran.out);
    }
    tell(space, &ran).await;
    assert!(test.status().await.success(), "{}{}", test.out(), test.err());
    let client = || space.client();
    assert!(Api::<Pod>::default_namespaced(client()).get_opt(NAME).await.unwrap().is_none());
    let accounts = Api::<ServiceAccount>::default_namespaced(client());
    assert!(accounts.get_opt(NAME).await.unwrap().is_none());
    assert!(Api::<Role>::default_namespaced(client()).get_opt(NAME).await.unwrap().is_none());
    assert!(
        Api::<RoleBinding>::default_namespaced(client()).get_opt(NAME).await.unwrap().is_none()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_to_another_store_is_refused_while_pods_of_the_present_one_run() {
    let space = server().await.namespace("helm-store").await;
    let own = ["bw", "charts/bellwether", "--set", "crds.enabled=false"];
    let helm = |command: &str, values: &[&str]| {
        let values = values.iter().flat_map(|it| ["--set", it]);
        let args: Vec<&str> = [command].into_iter().chain(own).chain(values).collect();
        ended(helm(&space, &args))
    };
    let replicas = || {
        let path = "jsonpath={.spec.replicas}";
        space.kubectl(&["get", "statefulset", "bw-bellwether", "-o", path])
    };
    let etcd = "etcd.endpoints={http://etcd:2379}";
    let delete = format!(
        "kubectl delete statefulset bw-bellwether --namespace {} --cascade=foreground",
        space.name
    );
    assert_eq!(helm("install", &[etcd]).code, 0);
    let refused = helm("upgrade", &[]);
    assert_ne!(refused.code, 0, "{}", refused.out);
    let words = "keep the cluster in etcd, and are to keep it in kubernetes";
    assert!(refused.err.contains(words) && refused.err.contains(&delete), "{}", refused.err);
    assert_eq!(helm("upgrade", &[etcd, "node.profile=fast"]).code, 0, "the store stays");

    // No controller runs here that would count the pods of a StatefulSet: none are counted.
    space.kubectl(&["delete", "statefulset", "bw-bellwether"]);
    let moved = helm("upgrade", &[]);
    assert_eq!(moved.code, 0, "{}", moved.err);
    assert_eq!(replicas(), "3");
    assert!(moved.out.contains("kept in Kubernetes"), "{}", moved.out);
    let refused = helm("upgrade", &[etcd]);
    let words = "keep the cluster in kubernetes, and are to keep it in etcd";
    assert!(refused.code != 0 && refused.err.contains(words), "{}", refused.err);

    // All nodes of a cluster in Kubernetes are calm, or none.
    let refused = helm("upgrade", &["node.profile=calm"]);
    let words = "run with the profile default, and are to run with calm";
    assert!(refused.code != 0 && refused.err.contains(words), "{}", refused.err);
    assert!(refused.err.contains(&delete), "{}", refused.err);
    assert_eq!(helm("upgrade", &["node.profile=fast"]).code, 0, "of the same kind");

    // After a release is scaled to zero, no pods run that could be mixed.
    assert_eq!(helm("upgrade", &["node.profile=fast", "replicaCount=0"]).code, 0);
    assert_eq!(replicas(), "0");
    let back = helm("upgrade", &[etcd]);
    assert_eq!(back.code, 0, "{}", back.err);
    assert_eq!(replicas(), "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chart_is_installed_after_kubectl_beside_another_release_and_after_one_of_another_name()
{
    // This test needs a server of its own: definitions exist once per server.
    let api = crate::kube::ApiServer::options().start().await;
    let space = api.namespace("shop").await;
    let install = |name: &str, more: &[&str]| {
        ended(helm(&space, &[&["install", name, "charts/bellwether"], more].concat()))
    };
    let crds = ended(bellwether(["crds"])).out;
    space.kubectl_apply(&crds);

    let first = install("first", &[]);
    assert_eq!(first.code, 0, "{}", first.err);
    let left = "uptimechecks.bellwether.dev was there before (made by kubectl)";
    assert!(first.out.contains(left), "{}", first.out);
    assert!(!first.out.contains("NOT that of this version"), "{}", first.out);
    let second = install("second", &[]);
    assert_eq!(second.code, 0, "{}", second.err);

    // After the take-over the definitions belong to the release, and stay when the release is removed.
    let adopted = ["upgrade", "first", "charts/bellwether", "--reuse-values", "--take-ownership"];
    let adopted = ended(helm(&space, &[&adopted[..], &["--set", "crds.adopt=true"]].concat()));
    assert_eq!(adopted.code, 0, "{}", adopted.err);
    let removed = ended(helm(&space, &["uninstall", "first"]));
    assert_eq!(removed.code, 0, "{}", removed.err);
    let third = install("third", &[]);
    assert_eq!(third.code, 0, "{}", third.err);
    let left = format!("(of the release first in the namespace {})", space.name);
    assert!(third.out.contains(&left), "{}", third.out);

    // For definitions of another version, the error names the command to type.
    let patch = r#"[{"op": "remove", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/term"}]"#;
    space.kubectl(&["patch", "crd", "elections.bellwether.dev", "--type=json", "--patch", patch]);
    let fourth = install("fourth", &[]);
    assert_eq!(fourth.code, 0, "{}", fourth.err);
    assert!(fourth.out.contains("elections.bellwether.dev was there before"), "{}", fourth.out);
    let type_this = "NOT that of this version. Type:\n  bellwether crds | kubectl apply";
    assert!(fourth.out.contains(type_this), "{}", fourth.out);
    assert_eq!(fourth.out.matches("NOT that of this version").count(), 1, "{}", fourth.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_with_a_chart_of_its_own_is_installed_beside_ours() {
    // This test needs a server of its own: definitions exist once per server.
    let api = crate::kube::ApiServer::options().start().await;
    let space = api.namespace("sales").await;
    let ours = ended(helm(&space, &["install", "bw", "charts/bellwether"]));
    assert_eq!(ours.code, 0, "{}", ours.err);
    let shop = ["till", "tests/deploy/shop", "--set", "watch.allNamespaces=true"];
    let helm = |args: &[&str]| ended(helm(&space, args));
    let installed = helm(&[&["install"], &shop[..]].concat());
    assert_eq!(installed.code, 0, "{}", installed.err);
    let left = format!(
        "elections.bellwether.dev was there before (of the release bw in the namespace {})",
        space.name
    );
    assert!(installed.out.contains(&left), "{}", installed.out);
    assert!(!installed.out.contains("orders.shop.example was there"), "{}", installed.out);

    let all = "statefulsets,services,serviceaccounts,roles,rolebindings,configmaps,pdb";
    let of = |release: &str| {
        let label = format!("app.kubernetes.io/instance={release}");
        space.kubectl(&["get", all, "--selector", &label, "--output", "name"])
    };
    let (shop_has, ours_has) = (of("till"), of("bw"));
    assert_eq!(shop_has.lines().count(), ours_has.lines().count() + 1, "and its settings");
    assert!(shop_has.lines().all(|it| it.contains("till-shop")), "{shop_has}");

    let upgraded = helm(&[&["upgrade"], &shop[..], &["--set", "replicaCount=1"]].concat());
    assert_eq!(upgraded.code, 0, "{}", upgraded.err);
    let refused = helm(&[&["upgrade"], &shop[..], &["--set", "node.profile=calm"]].concat());
    let words = "node.profile: the pods of this release run with the profile fast";
    assert!(refused.code != 0 && refused.err.contains(words), "{}", refused.err);
    assert_eq!(helm(&["uninstall", "bw"]).code, 0);
    assert_eq!(of("till"), shop_has, "no object of the other one is removed");
    let upgraded = helm(&[&["upgrade"], &shop[..]].concat());
    assert_eq!(upgraded.code, 0, "{}", upgraded.err);
}

/// Objects as one list, in JSON.
fn list_of(objects: &[Value]) -> String {
    json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_accepts_the_objects_of_every_release_of_the_matrix() {
    // This test needs a server of its own: definitions and runtime classes belong to the whole server.
    let api = crate::kube::ApiServer::options().start().await;
    let space = api.namespace("matrix").await;
    // Objects that the values name.
    space.kubectl(&["create", "namespace", "monitoring"]);
    space.kubectl(&["create", "serviceaccount", "mine"]);
    space.kubectl_apply(
        "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: gvisor}\nhandler: runsc\n",
    );
    let restricted = "pod-security.kubernetes.io/enforce=restricted";
    space.kubectl(&["label", "namespace", &space.name, restricted]);
    let file = api.folder().join("matrix.json");
    let path = file.to_str().unwrap();
    let try_out = [
        "apply",
        "--server-side",
        "--force-conflicts",
        "--validate=strict",
        "--dry-run=server",
        "--filename",
        path,
    ];
    for (name, values) in MATRIX {
        let sets = values.iter().flat_map(|it| ["--set", it]);
        let args: Vec<&str> =
            ["template", "shop", "charts/bellwether"].into_iter().chain(sets).collect();
        let rendered = ended(helm(&space, &args));
        assert_eq!(rendered.code, 0, "{name}: {}", rendered.err);
        let documents = rendered.out.split("\n---").map(|it| it.trim_start_matches("---"));
        let mut objects: Vec<Value> =
            documents.map(|it| serde_saphyr::from_str(it).unwrap()).collect();
        // The kinds of the Prometheus operator are not installed.
        objects.retain(|it| !it.is_null() && it["apiVersion"] != "monitoring.coreos.com/v1");
        assert!(objects.len() > 5, "{name}: {} objects", objects.len());
        // The server refuses a pod whose account does not exist, also in a dry run.
        let accounts: Vec<Value> =
            objects.iter().filter(|it| it["kind"] == "ServiceAccount").cloned().collect();
        if !accounts.is_empty() {
            space.kubectl_apply(&list_of(&accounts));
        }
        fs::write(&file, list_of(&objects)).unwrap();
        let output = space.try_kubectl(&try_out, None);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {errors}");
        let accepted = String::from_utf8_lossy(&output.stdout).lines().count();
        assert_eq!(accepted, objects.len(), "{name}: {errors}");
    }
    // A value of the wrong type is found.
    let wrong = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": "wrong" },
        "spec": { "ports": [{ "port": 8080, "ports": "http" }] },
    });
    fs::write(&file, list_of(&[wrong])).unwrap();
    assert!(!space.try_kubectl(&try_out, None).status.success());
}
