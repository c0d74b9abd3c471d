//! The events that make a controller reconcile an object, and the handling of the result.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bellwether::k8s::{
    ObjectKey,
    cache::Scope,
    controller::{Action, Context, Controller, ReconcileError, generation},
    finalizer::Finalize,
    k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap, core::v1::Secret},
    kube::{
        Api, Resource as _, ResourceExt as _,
        api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
    },
    writes::WriteError,
};
use bellwether::telemetry::metrics;
use serde_json::{from_value, json};
use tokio::sync::mpsc;

use super::replicas::{Cluster, Ledger, SOON, config_map};
use crate::{kube::named, support::eventually, webhook::Webhook};

/// Scope of the config maps to reconcile, in the cluster's namespace.
fn scope(cluster: &Cluster<'_>) -> Scope {
    Scope::namespace(cluster.space.name.clone()).labels("reconciled=yes")
}

/// Controller that notes its runs in the ledger.
fn noting(cluster: &Cluster<'_>, ledger: &Ledger, node: i64) -> Controller<ConfigMap> {
    let ledger = ledger.clone();
    Controller::new(move |map: Arc<ConfigMap>, _: Context| {
        let open = ledger.begin(node, &map);
        async move {
            drop(open);
            Ok(Action::done())
        }
    })
    .scope(scope(cluster))
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_looked_at_when_they_are_there_are_new_or_change() {
    let cluster = Cluster::new("objects").await;
    let ledger = Ledger::default();
    cluster.make("before").await;
    let replica = cluster.replica(0, |it| it.controller(noting(&cluster, &ledger, 0))).await;
    ledger.until("before", 1).await;
    cluster.make("after").await;
    ledger.until("after", 1).await;
    cluster.change("after", "2").await;
    ledger.until_value("after", "2").await;
    // An object without the label is not reconciled.
    let mut other = config_map("other");
    other.labels_mut().clear();
    cluster.maps().create(&PostParams::default(), &other).await.unwrap();
    cluster.make("last").await;
    ledger.until("last", 1).await;
    assert!(!ledger.last_values().contains_key("other"));
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owned_object_that_is_deleted_or_changed_is_put_right() {
    let cluster = Cluster::new("owned").await;
    let namespace = cluster.space.name.clone();
    let reconcile = async |map: Arc<ConfigMap>, ctx: Context| {
        let namespace = map.namespace().unwrap();
        let secret: Secret = from_value(json!({
            "metadata": {
                "name": map.name_any(),
                "namespace": namespace,
                "ownerReferences": [map.controller_owner_ref(&())],
            },
            "stringData": { "key": "right" },
        }))?;
        ctx.writer::<Secret>(Some(&namespace)).apply(&secret, None).await?;
        Ok(Action::done())
    };
    let controller = Controller::<ConfigMap>::new(reconcile)
        .scope(scope(&cluster))
        .owns_kind::<Secret>((), Scope::namespace(namespace));
    let replica = cluster.replica(0, |it| it.controller(controller)).await;
    cluster.make("a").await;
    let secrets = Api::<Secret>::default_namespaced(cluster.space.client());
    let value = async || {
        let secret = secrets.get_opt("a").await.unwrap()?;
        secret.data?.get("key").map(|it| String::from_utf8(it.0.clone()).unwrap())
    };
    let right =
        || eventually("it is right", SOON, async || value().await.filter(|it| it == "right"));
    right().await;
    secrets.delete("a", &DeleteParams::default()).await.unwrap();
    right().await;
    let wrong = Patch::Merge(json!({ "stringData": { "key": "wrong" } }));
    secrets.patch("a", &PatchParams::default(), &wrong).await.unwrap();
    right().await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_object_says_who_is_to_be_looked_at() {
    let cluster = Cluster::new("watched").await;
    let ledger = Ledger::default();
    let namespace = cluster.space.name.clone();
    let map = |secret: &Secret| {
        let name = secret.labels().get("of").cloned();
        let namespace = secret.namespace().unwrap();
        name.map(|name| ObjectKey::namespaced(namespace, name)).into_iter().collect::<Vec<_>>()
    };
    let controller =
        noting(&cluster, &ledger, 0).watches_kind((), Scope::namespace(namespace), map);
    let replica = cluster.replica(0, |it| it.controller(controller)).await;
    cluster.make("a").await;
    cluster.make("b").await;
    ledger.until("a", 1).await;
    ledger.until("b", 1).await;
    let secret: Secret =
        from_value(json!({ "metadata": { "name": "s", "labels": { "of": "a" } } })).unwrap();
    let secrets = Api::<Secret>::default_namespaced(cluster.space.client());
    secrets.create(&PostParams::default(), &secret).await.unwrap();
    ledger.until("a", 2).await;
    // Both the former and the new target of the reference are reconciled.
    let moved = Patch::Merge(json!({ "metadata": { "labels": { "of": "b" } } }));
    secrets.patch("s", &PatchParams::default(), &moved).await.unwrap();
    ledger.until("a", 3).await;
    ledger.until("b", 2).await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_status_is_no_change_of_the_spec() {
    let cluster = Cluster::new("generation").await;
    let runs: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&runs);
    let controller = Controller::<Deployment>::new(move |it: Arc<Deployment>, _: Context| {
        noted.lock().unwrap().push(it.name_any());
        async { Ok(Action::done()) }
    })
    .scope(Scope::namespace(cluster.space.name.clone()))
    .predicate(generation);
    let replica = cluster.replica(0, |it| it.controller(controller)).await;
    let deployments = Api::<Deployment>::default_namespaced(cluster.space.client());
    let make = async |name: &str| {
        let new: Deployment = from_value(json!({
            "metadata": { "name": name },
            "spec": {
                "replicas": 1,
                "selector": { "matchLabels": { "app": "a" } },
                "template": {
                    "metadata": { "labels": { "app": "a" } },
                    "spec": { "containers": [{ "name": "a", "image": "a" }] },
                },
            },
        }))
        .unwrap();
        deployments.create(&PostParams::default(), &new).await.unwrap();
    };
    let reached = |wanted: &'static [&'static str]| {
        let runs = Arc::clone(&runs);
        eventually("it is looked at", SOON, async move || {
            let runs = runs.lock().unwrap().clone();
            (wanted.len() <= runs.len()).then(|| assert_eq!(runs, wanted))
        })
    };
    make("a").await;
    reached(&["a"]).await;
    let status = Patch::Merge(json!({ "status": { "replicas": 1 } }));
    deployments.patch_status("a", &PatchParams::default(), &status).await.unwrap();
    // Events arrive in order, and runs follow one another: a run for the status would come before the run for
    // `b`.
    make("b").await;
    reached(&["a", "b"]).await;
    let spec = Patch::Merge(json!({ "spec": { "replicas": 2 } }));
    deployments.patch("a", &PatchParams::default(), &spec).await.unwrap();
    reached(&["a", "b", "a"]).await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_fails_panics_or_hangs_is_tried_again_and_counted() {
    let cluster = Cluster::new("failing").await;
    let registry = metrics::registry().unwrap();
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    let controller = Controller::<ConfigMap>::new(move |_: Arc<ConfigMap>, _: Context| {
        let run = count.fetch_add(1, SeqCst);
        async move {
            match run {
                0 => Err(ReconcileError::new("it failed")),
                1 => panic!("it panicked"),
                2 => std::future::pending().await,
                3 => Ok(Action::requeue_after(Duration::from_millis(1))),
                _ => Err(ReconcileError::terminal("there is no use")),
            }
        }
    })
    .named("failing")
    .timeout(Duration::from_millis(50))
    .scope(scope(&cluster));
    let replica =
        cluster.replica(0, |it| it.registry(registry.clone()).controller(controller)).await;
    cluster.make("a").await;
    let told = async || {
        let text = String::from_utf8(metrics::encode(&registry).unwrap()).unwrap();
        let has = |line: &str| text.lines().any(|it| it == line);
        [
            "controller_runtime_reconcile_panics_total{controller=\"failing\"} 1",
            "controller_runtime_reconcile_timeouts_total{controller=\"failing\"} 1",
            "controller_runtime_terminal_reconcile_errors_total{controller=\"failing\"} 1",
            "controller_runtime_reconcile_errors_total{controller=\"failing\"} 4",
            "controller_runtime_reconcile_total{controller=\"failing\",result=\"requeue_after\"} 1",
            "controller_runtime_active_workers{controller=\"failing\"} 0",
            "workqueue_retries_total{controller=\"failing\",name=\"failing\"} 3",
        ]
        .into_iter()
        .all(has)
        .then_some(())
    };
    eventually("all of it is counted", SOON, told).await;
    assert_eq!(runs.load(SeqCst), 5);
    // After a terminal error the object is not reconciled until it changes.
    cluster.change("a", "2").await;
    eventually("it is tried again", SOON, async || (runs.load(SeqCst) == 6).then_some(())).await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_with_a_finalizer_goes_only_after_it_was_cleaned_up() {
    let cluster = Cluster::new("finalizer").await;
    let cleaned = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&cleaned);
    let reconcile = move |map: Arc<ConfigMap>, ctx: Context| {
        let count = Arc::clone(&count);
        async move {
            ctx.finalized("test.bellwether.dev/clean", map, |what| async move {
                match what {
                    // The first cleanup fails: the finalizer must stay.
                    Finalize::Cleanup(_) if count.fetch_add(1, SeqCst) == 0 => {
                        Err(ReconcileError::new("not now"))
                    }
                    Finalize::Apply(_) | Finalize::Cleanup(_) => Ok(Action::done()),
                }
            })
            .await
        }
    };
    let controller = Controller::<ConfigMap>::new(reconcile).scope(scope(&cluster));
    let replica = cluster.replica(0, |it| it.controller(controller)).await;
    cluster.make("a").await;
    let maps = cluster.maps();
    eventually("it has its finalizer", SOON, async || {
        let map = maps.get("a").await.ok()?;
        (map.finalizers() == ["test.bellwether.dev/clean"]).then_some(())
    })
    .await;
    cluster.delete("a").await;
    eventually("it is gone", SOON, async || {
        maps.get_opt("a").await.unwrap().is_none().then_some(())
    })
    .await;
    assert_eq!(cleaned.load(SeqCst), 2);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finalizer_stays_on_an_object_that_has_come_in_the_place_of_the_one_cleaned_up() {
    const NAME: &str = "test.bellwether.dev/clean";
    let cluster = Cluster::new("replaced").await;
    let (ended, mut end) = mpsc::channel(1);
    let by_hand = cluster.maps();
    let reconcile = move |map: Arc<ConfigMap>, ctx: Context| {
        let (ended, by_hand) = (ended.clone(), by_hand.clone());
        async move {
            if map.annotations().contains_key("another") {
                return Ok(Action::done());
            }
            let is_leaving = map.metadata.deletion_timestamp.is_some();
            let work = async |what| {
                if let Finalize::Cleanup(_) = what {
                    // Another client removes the finalizer first, and then creates another object of that name.
                    let freed = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
                    by_hand.patch("a", &PatchParams::default(), &freed).await?;
                    let mut another = config_map("a");
                    another.annotations_mut().insert("another".into(), "yes".into());
                    another.finalizers_mut().push(NAME.into());
                    by_hand.create(&PostParams::default(), &another).await?;
                }
                Ok(Action::done())
            };
            let done = ctx.finalized(NAME, map, work).await;
            if is_leaving {
                let error = done.as_ref().err().map(ReconcileError::source);
                let found = error.and_then(|it| it.downcast_ref::<WriteError>());
                ended.send(matches!(found, Some(WriteError::Conflict { .. }))).await?;
            }
            done
        }
    };
    let controller = Controller::<ConfigMap>::new(reconcile).scope(scope(&cluster));
    let replica = cluster.replica(0, |it| it.controller(controller)).await;
    cluster.make("a").await;
    let maps = cluster.maps();
    eventually("it has its finalizer", SOON, async || {
        (maps.get("a").await.unwrap().finalizers() == [NAME]).then_some(())
    })
    .await;
    cluster.delete("a").await;
    let is_conflict = tokio::time::timeout(SOON, end.recv()).await.unwrap().unwrap();
    assert_eq!(maps.get("a").await.unwrap().finalizers(), [NAME]);
    assert!(is_conflict, "nothing was taken off, and nobody was told");
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finalizer_that_a_webhook_denies_as_invalid_is_not_taken_for_somebody_elses_write() {
    const NAME: &str = "test.bellwether.dev/clean";
    let cluster = Cluster::new("no-finalizers").await;
    let (name, maps) = (&cluster.space.name, cluster.maps());
    // The webhook answers as the server does to a failed test operation of a patch: 422, with no field named.
    let hook = Webhook::denying(422, "nothing stays here").await;
    let client = hook.client_config();
    cluster.space.kubectl_apply(&format!(
        "apiVersion: admissionregistration.k8s.io/v1\n\
         kind: ValidatingWebhookConfiguration\n\
         metadata: {{name: {name}}}\n\
         webhooks:\n\
         - name: guests.bellwether.test\n\
         \x20 sideEffects: None\n\
         \x20 admissionReviewVersions: [v1]\n\
         \x20 clientConfig: {client}\n\
         \x20 rules:\n\
         \x20 - {{apiGroups: [''], apiVersions: [v1], operations: [UPDATE], resources: [configmaps]}}\n\
         \x20 namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {name}}}}}\n",
    ));
    let tried = ConfigMap { metadata: named("tried"), ..ConfigMap::default() };
    maps.create(&PostParams::default(), &tried).await.unwrap();
    let changed = Patch::Merge(json!({ "data": { "value": "?" } }));
    let denied = async || maps.patch("tried", &PatchParams::default(), &changed).await.err();
    eventually("the webhook is asked", SOON, denied).await;

    let (failed, mut failures) = mpsc::channel(16);
    let reconcile = move |map: Arc<ConfigMap>, ctx: Context| {
        let failed = failed.clone();
        async move {
            let done = ctx.finalized(NAME, map, async |_| Ok(Action::done())).await;
            if let Err(error) = &done {
                let _ = failed.try_send(format!("{:?}", error.source()));
            }
            done
        }
    };
    let controller = Controller::<ConfigMap>::new(reconcile).scope(scope(&cluster));
    let replica = cluster.replica(0, |it| it.controller(controller)).await;
    cluster.make("a").await;
    let said = tokio::time::timeout(SOON, failures.recv()).await.unwrap().unwrap();
    assert!(said.starts_with("Api") && said.contains("nothing stays here"), "{said}");
    hook.allow();
    eventually("it has its finalizer", SOON, async || {
        (maps.get("a").await.unwrap().finalizers() == [NAME]).then_some(())
    })
    .await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owned_object_is_seen_whatever_else_of_its_kind_is_watched() {
    let cluster = Cluster::new("two-scopes").await;
    let (says, mut said) = mpsc::channel(1);
    let reconcile = move |map: Arc<ConfigMap>, ctx: Context| {
        let says = says.clone();
        async move {
            let secret = Secret {
                metadata: ObjectMeta { name: map.metadata.name.clone(), ..ObjectMeta::default() },
                ..Secret::default()
            };
            let made = ctx.apply_owned(&*map, secret).await?;
            if ctx.seen(&made).is_some() {
                let _ = says.try_send(());
            }
            Ok(Action::done())
        }
    };
    let space = Scope::namespace(cluster.space.name.clone());
    let controller = Controller::<ConfigMap>::new(reconcile)
        .scope(scope(&cluster))
        .owns_kind::<Secret>((), space.clone())
        .watches_kind((), space.labels("watched=yes"), |_: &Secret| []);
    let replica = cluster.replica(0, |it| it.controller(controller)).await;
    cluster.make("a").await;
    // The first run creates the object, and the second one starts when the object is in the cache.
    tokio::time::timeout(SOON, said.recv()).await.expect("it is seen").unwrap();
    replica.stop().await;
}
