//! The rig itself: the server has the pinned version, and behaves as the tests rely on.

use std::time::Duration;

use bellwether::k8s::{
    explain::{Reason, explain, explain_status},
    k8s_openapi::api::core::v1::ConfigMap,
    kube::{
        Api, Client, Error,
        api::{
            DeleteParams, ListParams, ObjectList, Patch, PatchParams, PostParams, WatchEvent,
            WatchParams,
        },
    },
};
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::json;

use crate::{
    kube::{ApiServer, Written, named, rule},
    support::eventually,
};

fn config_map(name: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: named(name),
        data: Some([("key".to_owned(), value.to_owned())].into()),
        ..ConfigMap::default()
    }
}

#[tokio::test]
async fn server_and_kubectl_are_the_pinned_version() {
    let api = ApiServer::shared().await;
    assert_eq!(api.client().apiserver_version().await.unwrap().git_version, "v1.37.2");
    let space = api.namespace("version").await;
    let said = space.kubectl(&["version", "--output=json"]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["clientVersion"]["gitVersion"], "v1.37.2");
    assert_eq!(said["serverVersion"]["gitVersion"], "v1.37.2");
}

#[tokio::test]
async fn an_object_is_created_watched_changed_applied_and_deleted() {
    let space = ApiServer::shared().await.namespace("crud").await;
    let maps = Api::<ConfigMap>::default_namespaced(space.client());
    let made = maps.create(&PostParams::default(), &config_map("a", "one")).await.unwrap();
    let since = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut events = maps.watch(&WatchParams::default(), &since).await.unwrap().boxed();

    let change = Patch::Merge(json!({"data": {"key": "two"}}));
    maps.patch("a", &PatchParams::default(), &change).await.unwrap();
    let applied = Patch::Apply(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"more": "three"},
    }));
    let applied = maps.patch("a", &PatchParams::apply("test"), &applied).await.unwrap();
    assert_eq!(applied.data.unwrap()["key"], "two", "what another one owns stays");
    let stale = maps.replace("a", &PostParams::default(), &made).await.unwrap_err();
    assert!(matches!(stale, Error::Api(status) if status.is_conflict()));
    maps.delete("a", &DeleteParams::default()).await.unwrap();

    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.push(match events.try_next().await.unwrap().unwrap() {
            WatchEvent::Modified(_) => "modified",
            WatchEvent::Deleted(_) => "deleted",
            _ => "other",
        });
    }
    assert_eq!(seen, ["modified", "modified", "deleted"]);
    assert!(maps.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn a_user_may_do_what_its_rules_say_and_nothing_else() {
    let space = ApiServer::shared().await.namespace("rights").await;
    let reader = space.user("reader", [rule("", "configmaps", &["get", "list"])]).await;
    let maps = Api::<ConfigMap>::default_namespaced(reader.client());
    assert!(maps.get_opt("a").await.unwrap().is_none());
    let refused = maps.create(&PostParams::default(), &config_map("a", "one")).await.unwrap_err();
    assert!(matches!(refused, Error::Api(status) if status.is_forbidden()));
    let elsewhere = Api::<ConfigMap>::namespaced(reader.client(), "default");
    assert!(elsewhere.get_opt("a").await.is_err());

    let said = space.try_kubectl(&["delete", "configmap", "a"], Some(&reader.name));
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains(&reader.name) && said.contains("forbidden"), "{said}");
}

#[tokio::test]
async fn the_audit_log_tells_every_write_with_its_author_and_what_was_sent() {
    let space = ApiServer::shared().await.namespace("audit").await;
    let writer = space.user("writer", [rule("", "configmaps", &["create"])]).await;
    let maps = Api::<ConfigMap>::default_namespaced(writer.client());
    maps.create(&PostParams::default(), &config_map("a", "one")).await.unwrap();
    maps.delete("a", &DeleteParams::default()).await.unwrap_err();
    Api::<ConfigMap>::default_namespaced(space.bulk_client())
        .create(&PostParams::default(), &config_map("b", "one"))
        .await
        .unwrap();

    let writes: Vec<Written> =
        space.writes().into_iter().filter(|it| it.resource == "configmaps").collect();
    let told: Vec<_> = writes
        .iter()
        .map(|it| (it.verb.as_str(), it.user.as_str(), it.name.as_str(), it.code))
        .collect();
    let user = writer.name.as_str();
    assert_eq!(told, [("create", user, "a", 201), ("delete", user, "a", 403)]);
    assert_eq!(writes[0].request["data"]["key"], "one");
    assert!(writes[0].received <= writes[0].answered && writes[0].answered < writes[1].received);
}

/// The filter that the server reports for a list.
async fn filtered_by(client: &Client, namespace: &str) -> Option<String> {
    let path = format!(
        "/api/v1/namespaces/{namespace}/configmaps?\
         shardSelector=shardRange(object.metadata.uid,'0x0000000000000000','0x8000000000000000')"
    );
    let request = http::Request::get(path.replace('\'', "%27")).body(Vec::new()).unwrap();
    let list: serde_json::Value = client.request(request).await.unwrap();
    list.pointer("/metadata/shardInfo/selector").and_then(|it| it.as_str()).map(str::to_owned)
}

#[tokio::test]
async fn a_server_of_its_own_has_its_gates_and_survives_a_restart_with_its_objects() {
    let shared = ApiServer::shared().await;
    assert_eq!(filtered_by(&shared.client(), "default").await, None);

    let own = ApiServer::options().gate("ShardedListAndWatch").start().await;
    let space = own.namespace("own").await;
    assert!(filtered_by(&space.client(), &space.name).await.is_some());
    let maps = Api::<ConfigMap>::default_namespaced(space.client());
    let made = maps.create(&PostParams::default(), &config_map("a", "one")).await.unwrap();
    // The server's restart must come after this write in the order of revisions.
    maps.create(&PostParams::default(), &config_map("b", "one")).await.unwrap();
    let address = own.address();
    own.kill();
    maps.get("a").await.unwrap_err();
    own.start_again().await;
    assert_eq!(own.address(), address);
    // The same client reconnects.
    let found = eventually("the client is connected again", Duration::from_secs(60), async || {
        maps.get("a").await.ok()
    })
    .await;
    assert_eq!(found.data.unwrap()["key"], "one");
    let all: ObjectList<ConfigMap> = maps.list(&ListParams::default()).await.unwrap();
    assert_eq!(all.items.len(), 2);

    // The restarted server cannot resume a watch from before its start.
    let before = made.metadata.resource_version.unwrap();
    let mut events = maps.watch(&WatchParams::default(), &before).await.unwrap().boxed();
    let gone = match events.try_next().await {
        Ok(Some(WatchEvent::Error(status))) => explain_status(&status),
        other => explain(&other.unwrap_err()),
    };
    assert_eq!(gone.reason, Reason::Gone, "{gone}");
}
