//! The environment of the test kit, as a user's test starts it: with an etcd of its own.

use std::{os::unix::fs::symlink, path::Path};

use bellwether::{
    k8s::{
        crd::{self, Election},
        explain::{Reason, explain},
        k8s_openapi::api::core::v1::ConfigMap,
        kube::{
            Api,
            api::{DeleteParams, Patch, PatchParams, PostParams},
        },
    },
    testing::{Environment, EnvironmentError, gone, rule, until},
};
use serde_json::json;

use crate::support::tools;

/// A folder with the programs, like the one that `setup-envtest` makes.
fn assets() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (tool, name) in [("kubernetes", "kube-apiserver"), ("etcd", "etcd")] {
        symlink(tools::program(tool, name), folder.path().join(name)).unwrap();
    }
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_of_its_own_serves_kinds_users_and_waits_and_ends_with_its_handle() {
    let assets = assets();
    let api = Environment::options().assets(assets.path()).start().await.unwrap();
    api.install(&[crd::election()]).await.unwrap();
    let space = api.namespace("own").await.unwrap();

    let rules = [rule("bellwether.dev", "elections", &["create", "get"])];
    let account = space.service_account("operator", rules).await.unwrap();
    let elections = Api::<Election>::default_namespaced(account.client());
    let election = serde_json::from_value(json!({
        "metadata": { "name": "shop" }, "spec": { "cluster": "shop" },
    }));
    elections.create(&PostParams::default(), &election.unwrap()).await.unwrap();
    let deleted = elections.delete("shop", &DeleteParams::default()).await.unwrap_err();
    assert_eq!(explain(&deleted).reason, Reason::Forbidden, "{deleted}");

    let all = Api::<Election>::default_namespaced(space.client());
    let label = Patch::Merge(json!({ "metadata": { "labels": { "a": "b" } } }));
    let (_, labelled) = tokio::join!(
        async { all.patch("shop", &PatchParams::default(), &label).await.unwrap() },
        until(&elections, "shop", |it| it.metadata.labels.is_some()),
    );
    assert_eq!(labelled.metadata.labels.unwrap()["a"], "b");
    api.restart().await.unwrap();
    until(&all, "shop", |it| it.metadata.labels.is_some()).await;
    all.delete("shop", &DeleteParams::default()).await.unwrap();
    gone(&all, "shop").await;

    let (pid, folder) = (api.pid().unwrap(), api.folder().to_owned());
    drop(api);
    assert!(!Path::new(&format!("/proc/{pid}")).exists() && !folder.exists());
}

#[tokio::test]
async fn a_missing_program_is_an_error_with_its_remedy() {
    let empty = tempfile::tempdir().unwrap();
    let error = Environment::options().assets(empty.path()).start().await.unwrap_err();
    assert!(matches!(error, EnvironmentError::Missing { program: "kube-apiserver", .. }));
    let words = error.to_string();
    for word in ["KUBEBUILDER_ASSETS", "setup-envtest use -p path"] {
        assert!(words.contains(word), "{words}");
    }
}

#[tokio::test]
async fn a_program_that_ends_early_is_an_error_with_the_end_of_its_log() {
    let assets = assets();
    let options = Environment::options().assets(assets.path()).flag("--no-such-flag");
    let error = options.start().await.unwrap_err();
    assert!(matches!(error, EnvironmentError::Ended { program: "kube-apiserver", .. }), "{error}");
    assert!(error.to_string().contains("no-such-flag"), "{error}");
}

#[tokio::test]
#[should_panic(expected = "its last state: ConfigMap")]
async fn a_wait_that_ends_without_success_shows_the_last_state() {
    let fake = bellwether::testing::Fake::new();
    let map =
        serde_json::from_value(json!({ "metadata": { "name": "a", "namespace": "default" } }));
    fake.put::<ConfigMap>(&map.unwrap());
    let maps = Api::<ConfigMap>::default_namespaced(fake.client());
    tokio::time::pause();
    until(&maps, "a", |it| it.data.is_some()).await;
}
