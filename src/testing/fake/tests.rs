use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::{
    Api, ResourceExt as _,
    api::{
        DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, WatchEvent,
        WatchParams,
    },
    core::Status,
};
use serde_json::{from_value, json};

use super::*;
use crate::{
    k8s::{authority::is_refused, writes::WriteError},
    node::AuthorityLost,
};

fn map(name: &str, data: &[(&str, &str)]) -> ConfigMap {
    let data: BTreeMap<_, _> = data.iter().copied().collect();
    from_value(json!({ "metadata": { "name": name, "namespace": "shop" }, "data": data })).unwrap()
}

fn maps(fake: &Fake) -> Api<ConfigMap> {
    Api::default_namespaced(fake.client_in("shop"))
}

fn status<T: fmt::Debug>(result: Result<T, kube::Error>) -> (u16, String, String) {
    match result.unwrap_err() {
        kube::Error::Api(status) => {
            let Status { code, reason, message, .. } = *status;
            (code, reason, message)
        }
        other => panic!("not an answer: {other}"),
    }
}

async fn applied(
    fake: &Fake,
    manager: &str,
    data: &[(&str, &str)],
    force: bool,
) -> Result<ConfigMap, kube::Error> {
    let data: BTreeMap<_, _> = data.iter().copied().collect();
    let body = json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": data });
    let params = PatchParams::apply(manager);
    let params = if force { params.force() } else { params };
    maps(fake).patch("a", &params, &Patch::Apply(body)).await
}

fn data_of(map: &ConfigMap) -> Vec<(&str, &str)> {
    map.data.iter().flatten().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

/// Managers of an object, each with the keys of `data` that it owns.
fn owners(map: &ConfigMap) -> Vec<(String, Vec<String>)> {
    let owned = |entry: &ManagedFieldsEntry| {
        let fields = entry.fields_v1.as_ref().map(|it| it.0.clone()).unwrap_or_default();
        let keys = fields["f:data"].as_object().into_iter().flatten().map(|(key, _)| key.clone());
        (entry.manager.clone().unwrap_or_default(), keys.collect())
    };
    map.managed_fields().iter().map(owned).collect()
}

#[tokio::test]
async fn apply_conflicts_with_other_owners_unless_it_is_forced_or_agrees() {
    let fake = Fake::new();
    applied(&fake, "one", &[("x", "1"), ("y", "1")], false).await.unwrap();
    let refused = status(applied(&fake, "two", &[("x", "2")], false).await);
    let message = "Apply failed with 1 conflict: conflict with \"one\": .data.x";
    assert_eq!(refused, (409, "Conflict".to_owned(), message.to_owned()));

    // The same value is owned by both, and stays when one of them no longer applies it.
    let shared = applied(&fake, "two", &[("y", "1")], false).await.unwrap();
    let own = |names: &[&str]| names.iter().map(|it| format!("f:{it}")).collect::<Vec<_>>();
    assert_eq!(
        owners(&shared),
        [("one".to_owned(), own(&["x", "y"])), ("two".to_owned(), own(&["y"]))]
    );
    let left = applied(&fake, "one", &[("x", "1")], false).await.unwrap();
    assert_eq!(data_of(&left), [("x", "1"), ("y", "1")]);
    // The last owner takes the field away.
    let taken = applied(&fake, "two", &[("x", "2")], true).await.unwrap();
    assert_eq!(data_of(&taken), [("x", "2")]);
    assert_eq!(owners(&taken), [("two".to_owned(), own(&["x"]))]);
}

#[tokio::test]
async fn a_write_that_changes_nothing_makes_no_version() {
    let fake = Fake::new();
    let first = applied(&fake, "one", &[("x", "1")], false).await.unwrap();
    let again = applied(&fake, "one", &[("x", "1")], false).await.unwrap();
    assert_eq!(again, first);
    let merge = Patch::Merge(json!({ "data": { "x": "1" } }));
    let merged = maps(&fake).patch("a", &PatchParams::default(), &merge).await.unwrap();
    assert_eq!(merged.resource_version(), first.resource_version());
}

#[tokio::test]
async fn lists_of_a_pod_are_merged_by_their_keys() {
    let fake = Fake::new();
    let pods = Api::<Pod>::default_namespaced(fake.client());
    let apply = async |manager: &str, containers: Value| {
        let body = json!({
            "apiVersion": "v1", "kind": "Pod", "spec": { "containers": containers },
        });
        let params = PatchParams::apply(manager).force();
        let pod = pods.patch("a", &params, &Patch::Apply(body)).await.unwrap();
        let containers = pod.spec.unwrap().containers.into_iter();
        containers.map(|it| (it.name, it.image.unwrap_or_default())).collect::<Vec<_>>()
    };
    let both = |first: &str, second: &str| {
        vec![("web".to_owned(), first.to_owned()), ("proxy".to_owned(), second.to_owned())]
    };
    let web = |image: &str| json!([{ "name": "web", "image": image }]);
    apply("one", web("1")).await;
    assert_eq!(apply("two", json!([{ "name": "proxy", "image": "p" }])).await, both("1", "p"));
    assert_eq!(apply("one", web("2")).await, both("2", "p"));
    assert_eq!(apply("two", json!([])).await, [("web".to_owned(), "2".to_owned())]);
}

#[tokio::test]
async fn stale_writes_and_preconditions_that_fail_are_conflicts() {
    let fake = Fake::new().with([map("a", &[("x", "1")])]);
    let old = maps(&fake).get("a").await.unwrap();
    fake.change::<ConfigMap>("shop", "a", |it| it.data = None).unwrap();
    let stale = status(maps(&fake).replace("a", &PostParams::default(), &old).await);
    assert_eq!((stale.0, stale.1.as_str()), (409, "Conflict"), "{}", stale.2);
    for wrong in [
        Preconditions { uid: Some("another".to_owned()), resource_version: None },
        Preconditions { uid: old.uid(), resource_version: old.resource_version() },
    ] {
        let params = DeleteParams::default().preconditions(wrong);
        let refused = status(maps(&fake).delete("a", &params).await);
        assert_eq!((refused.0, refused.1.as_str()), (409, "Conflict"), "{}", refused.2);
    }
    let exists = maps(&fake).create(&PostParams::default(), &map("a", &[])).await;
    assert_eq!(status(exists).1, "AlreadyExists");
    let unnamed = maps(&fake).create(&PostParams::default(), &map("A b", &[])).await;
    assert_eq!(status(unnamed).0, 422);
    assert_eq!(status(maps(&fake).get("b").await).0, 404);
    fake.fails(|call| call.is_write().then(|| Failure::new(503, "ServiceUnavailable", "busy")));
    assert_eq!(status(maps(&fake).delete("a", &DeleteParams::default()).await).0, 503);
    fake.works();
    maps(&fake).delete("a", &DeleteParams::default()).await.unwrap();
    let writes = fake.writes();
    assert_eq!(writes.last().unwrap(), "DELETE /api/v1/namespaces/shop/configmaps/a");
    assert_eq!(fake.calls().last().unwrap().1, 200);
}

#[tokio::test]
async fn an_object_with_finalizers_is_marked_and_goes_with_the_last_of_them() {
    let mut given = map("a", &[]);
    given.finalizers_mut().extend(["test/one".to_owned(), "test/two".to_owned()]);
    let fake = Fake::new().with([given]);
    maps(&fake).delete("a", &DeleteParams::default()).await.unwrap();
    assert!(fake.get::<ConfigMap>("shop", "a").unwrap().metadata.deletion_timestamp.is_some());
    let patch = async |finalizers: &[&str]| {
        let body = Patch::Merge(json!({ "metadata": { "finalizers": finalizers } }));
        maps(&fake).patch("a", &PatchParams::default(), &body).await
    };
    assert_eq!(status(patch(&["test/one", "test/two", "test/three"]).await).0, 422);
    patch(&["test/two"]).await.unwrap();
    patch(&[]).await.unwrap();
    assert_eq!(fake.get::<ConfigMap>("shop", "a"), None);
}

#[tokio::test]
async fn the_status_of_a_custom_resource_is_written_apart_and_counts_no_generation() {
    let fake = Fake::new();
    let elections = Api::<Election>::default_namespaced(fake.client());
    let body = json!({ "spec": { "cluster": "shop" }, "status": { "term": 7 } });
    let mut body: Election = from_value(json!({
        "apiVersion": "bellwether.dev/v1alpha1", "kind": "Election",
        "metadata": { "name": "shop" }, "spec": body["spec"], "status": body["status"],
    }))
    .unwrap();
    let made = elections.create(&PostParams::default(), &body).await.unwrap();
    assert_eq!((made.metadata.generation, made.status.clone()), (Some(1), None));
    let patch = Patch::Merge(json!({ "spec": { "cluster": "other" }, "status": { "term": 8 } }));
    let params = PatchParams::default();
    let written = elections.patch_status("shop", &params, &patch).await.unwrap();
    assert_eq!((written.metadata.generation, written.spec.clone()), (Some(1), made.spec.clone()));
    assert!(written.status.is_some());
    body.metadata = written.metadata.clone();
    body.spec.cluster = "third".into();
    body.status = None;
    let updated = elections.replace("shop", &PostParams::default(), &body).await.unwrap();
    assert_eq!((updated.metadata.generation, updated.status), (Some(2), written.status));
}

#[tokio::test]
async fn a_watch_sees_changes_by_its_selector_and_ends_when_its_past_is_forgotten() {
    let fake = Fake::new().with([map("a", &[])]);
    let labelled = WatchParams::default().labels("app in (web, proxy),!hidden");
    let since = maps(&fake).list(&ListParams::default()).await.unwrap();
    let since = since.metadata.resource_version.unwrap();
    let mut events = maps(&fake).watch(&labelled, &since).await.unwrap().boxed();
    for label in [("app", "web"), ("more", "1"), ("hidden", "yes"), ("app", "none")] {
        let change = |it: &mut ConfigMap| {
            it.labels_mut().insert(label.0.to_owned(), label.1.to_owned());
        };
        fake.change::<ConfigMap>("shop", "a", change).unwrap();
    }
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.push(match events.try_next().await.unwrap().unwrap() {
            WatchEvent::Added(_) => "added",
            WatchEvent::Modified(_) => "modified",
            WatchEvent::Deleted(_) => "deleted",
            WatchEvent::Bookmark(_) | WatchEvent::Error(_) => "other",
        });
    }
    assert_eq!(seen, ["added", "modified", "deleted"]);
    fake.compact();
    let mut events = maps(&fake).watch(&labelled, &since).await.unwrap().boxed();
    match events.try_next().await.unwrap().unwrap() {
        WatchEvent::Error(status) => assert_eq!(status.code, 410),
        other => panic!("{other:?}"),
    }
    let selected = maps(&fake).list(&ListParams::default().labels("hidden=yes")).await.unwrap();
    assert_eq!(selected.items.len(), 1);
    let wrong = maps(&fake).list(&ListParams::default().labels("a b")).await;
    assert_eq!(status(wrong).0, 400);
}

#[tokio::test]
async fn the_caches_of_a_context_follow_each_write() {
    let fake = Fake::new().with([map("a", &[("x", "1")])]);
    let ctx = fake.context().await;
    let seen = ctx.seen(&map("a", &[])).unwrap();
    assert_eq!(data_of(&seen), [("x", "1")]);
    let writer = ctx.writer::<ConfigMap>(Some("shop"));
    writer.apply(&map("a", &[("x", "2")]), Some(&*seen)).await.unwrap();
    let after = ctx.seen(&map("a", &[])).unwrap();
    assert_eq!((data_of(&after), after.managed_fields().len()), (vec![("x", "2")], 0));
    assert_eq!(Fence::read(&*after), ctx.fence());
    let stale = writer.apply(&map("a", &[("x", "3")]), Some(&*seen)).await;
    assert!(matches!(stale, Err(WriteError::Conflict { .. })), "{stale:?}");
    writer.delete(&after).await.unwrap();
    assert_eq!(ctx.cache::<ConfigMap>().unwrap().len(), 0);
}

#[tokio::test]
async fn a_lost_office_cancels_contexts_and_refuses_their_writes_and_a_successor_has_a_later_fence()
{
    let fake = Fake::new().controller("shop");
    let ctx = fake.context().await;
    assert_eq!((ctx.controller(), ctx.check(), ctx.is_cancelled()), ("shop", Ok(()), false));
    let Authority::Leader(leader) = ctx.authority() else { panic!("not a leader") };
    leader.fenced().put("note", "a").await.unwrap();
    fake.lose_office();
    assert!(ctx.is_cancelled());
    assert!(matches!(ctx.check(), Err(AuthorityLost::Office { .. })));
    let writer = ctx.writer::<ConfigMap>(Some("shop"));
    let refused = writer.create(map("a", &[])).await.unwrap_err();
    match &refused {
        WriteError::Refused { source, .. } => assert!(is_refused(source)),
        other => panic!("{other}"),
    }
    assert_eq!(fake.writes(), Vec::<String>::new());
    let next = fake.context().await;
    assert!(ctx.fence() < next.fence());
    next.writer::<ConfigMap>(Some("shop")).create(map("a", &[])).await.unwrap();
    let made = fake.get::<ConfigMap>("shop", "a").unwrap();
    assert_eq!(Fence::read(&made), next.fence());
}

#[tokio::test]
async fn the_context_of_a_shard_writes_without_a_fence_until_the_shard_is_lost() {
    let fake = Fake::new();
    let ctx = fake.shard_context(7).await;
    assert_eq!((ctx.term(), ctx.fence(), ctx.check()), (None, None, Ok(())));
    let writer = ctx.writer::<ConfigMap>(Some("shop"));
    let made = writer.create(map("a", &[])).await.unwrap();
    assert_eq!(Fence::read(&made), None);
    fake.lose_office();
    assert!(matches!(ctx.check(), Err(AuthorityLost::Shard { .. })));
    let refused = writer.delete(&made).await;
    assert!(matches!(refused, Err(WriteError::Refused { .. })), "{refused:?}");
}

#[tokio::test]
async fn finalizers_events_and_secrets_work_as_a_reconciler_uses_them() {
    let fake = Fake::new().with([map("a", &[])]);
    let ctx = fake.context().await;
    let object = || Arc::new(fake.get::<ConfigMap>("shop", "a").unwrap());
    let run = async |object| {
        use crate::k8s::{controller::Action, finalizer::Finalize};
        ctx.finalized("test/one", object, |what| async move {
            Ok(Action::requeue_after(match what {
                Finalize::Apply(_) => std::time::Duration::from_secs(1),
                Finalize::Cleanup(_) => std::time::Duration::from_secs(2),
            }))
        })
        .await
        .unwrap()
        .delay()
        .map(|it| it.as_secs())
    };
    assert_eq!(run(object()).await, None);
    assert_eq!(object().finalizers(), ["test/one"]);
    assert_eq!(run(object()).await, Some(1));
    maps(&fake).delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(run(object()).await, Some(2));
    assert_eq!(fake.get::<ConfigMap>("shop", "a"), None);

    ctx.events().normal(&map("a", &[]), "Made", "Make", "a note").await;
    let events = fake.list::<Event>();
    assert_eq!(events[0].note.as_deref(), Some("a note"));
    let secret: Secret = from_value(json!({
        "metadata": { "name": "a" }, "stringData": { "password": "hunter2" },
    }))
    .unwrap();
    let secrets = Api::<Secret>::default_namespaced(fake.client());
    let made = secrets.create(&PostParams::default(), &secret).await.unwrap();
    assert_eq!(made.data.unwrap()["password"].0, b"hunter2");
}
