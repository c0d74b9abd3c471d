//! The kinds that a controller can watch, and large numbers of their objects.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bellwether::{
    k8s::{
        cache::Scope,
        controller::{Action, Context, Controller, ReconcileError},
        k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret},
        kube::{
            Api, ResourceExt as _,
            api::{ApiResource, DynamicObject, PostParams},
        },
    },
    telemetry::metrics,
};
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

use super::replicas::{Cluster, SOON, config_map};
use crate::{kube::named, support::eventually};

#[tokio::test(flavor = "multi_thread")]
async fn kinds_known_at_run_time_are_kept_apart_and_reconciled_in_all_namespaces() {
    let cluster = Cluster::new("dynamic").await;
    let other = Cluster::new("dynamic-too").await;
    let (maps, secrets) = (ApiResource::erase::<ConfigMap>(&()), ApiResource::erase::<Secret>(&()));
    let seen: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let noted = Arc::clone(&seen);
    let kinds = [maps.clone(), secrets.clone()];
    let reconcile = move |object: Arc<DynamicObject>, ctx: Context| {
        let (noted, kinds) = (Arc::clone(&noted), kinds.clone());
        async move {
            for kind in kinds {
                let cache = ctx.cache_of::<DynamicObject>(&kind).expect("both are looked at");
                let kept = cache.list().into_iter().map(|it| it.types.clone().unwrap().kind);
                assert!(kept.into_iter().all(|it| it == kind.kind), "kinds are mixed up");
            }
            let of = object.namespace().unwrap();
            let kind = object.types.clone().unwrap().kind;
            noted.lock().unwrap().insert(format!("{kind} in {of}"));
            Ok::<_, ReconcileError>(Action::done())
        }
    };
    // The label limits the controllers to these two namespaces: many tests share the server.
    let label = format!("of={}", cluster.space.name);
    let of = |kind: &ApiResource, name: &str| {
        let scope = Scope::all().labels(label.clone());
        Controller::<DynamicObject>::dynamic(kind.clone(), reconcile.clone())
            .named(name)
            .scope(scope)
    };
    let replica = cluster
        .replica(0, |it| it.controller(of(&maps, "maps")).controller(of(&secrets, "secrets")))
        .await;
    let mut wanted = BTreeSet::new();
    for space in [&cluster.space, &other.space] {
        for kind in [&maps, &secrets] {
            let mut object = DynamicObject::new("a", kind);
            object.labels_mut().insert("of".into(), cluster.space.name.clone());
            let api = Api::<DynamicObject>::namespaced_with(space.client(), &space.name, kind);
            api.create(&PostParams::default(), &object).await.unwrap();
            wanted.insert(format!("{} in {}", kind.kind, space.name));
        }
    }
    eventually("all four are reconciled", SOON, async || {
        (*seen.lock().unwrap() == wanted).then_some(())
    })
    .await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_outside_of_namespaces_is_reconciled_and_written() {
    let cluster = Cluster::new("outside").await;
    let reconcile = async |seen: Arc<Namespace>, ctx: Context| {
        let mut desired = Namespace { metadata: named(&seen.name_any()), ..Namespace::default() };
        desired.annotations_mut().insert("seen".into(), "yes".into());
        ctx.writer::<Namespace>(None).apply(&desired, Some(&seen)).await?;
        Ok(Action::done())
    };
    let own = Scope::all().fields(format!("metadata.name={}", cluster.space.name));
    let controller = Controller::<Namespace>::new(reconcile).scope(own);
    let replica = cluster.replica(0, |it| it.controller(controller)).await;
    let all = Api::<Namespace>::all(cluster.space.client());
    eventually("it is written", SOON, async || {
        all.get(&cluster.space.name).await.unwrap().annotations().get("seen").cloned()
    })
    .await;
    replica.stop().await;
}

/// Sum of all series of that name.
fn sum(registry: &Registry, name: &str) -> usize {
    let text = String::from_utf8(metrics::encode(registry).unwrap()).unwrap();
    let series = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    series.map(|line| line.rsplit_once(' ').unwrap().1.parse::<usize>().unwrap()).sum()
}

async fn as_many_at_once_as(
    most: usize,
    limited: impl FnOnce(Controller<ConfigMap>) -> Controller<ConfigMap>,
) {
    const OBJECTS: usize = 6;
    let cluster = Cluster::new(&format!("at-once-{most}")).await;
    let go_on = CancellationToken::new();
    let [now, peak, done] = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
    let (go, within, highest, ended) =
        (go_on.clone(), Arc::clone(&now), Arc::clone(&peak), Arc::clone(&done));
    let controller = Controller::<ConfigMap>::new(move |_: Arc<ConfigMap>, _: Context| {
        let (go, within, ended) = (go.clone(), Arc::clone(&within), Arc::clone(&ended));
        highest.fetch_max(within.fetch_add(1, SeqCst) + 1, SeqCst);
        async move {
            go.cancelled().await;
            within.fetch_sub(1, SeqCst);
            ended.fetch_add(1, SeqCst);
            Ok(Action::done())
        }
    })
    .scope(Scope::namespace(cluster.space.name.clone()).labels("reconciled=yes"));
    let registry = Registry::new();
    let shown = registry.clone();
    let replica = cluster.replica(0, |it| it.registry(shown).controller(limited(controller))).await;
    for number in 0..OBJECTS {
        let map = config_map(&format!("map-{number}"));
        cluster.maps().create(&PostParams::default(), &map).await.unwrap();
    }
    eventually("some are worked on, and the others wait", SOON, async || {
        let waiting = sum(&registry, "workqueue_depth");
        (now.load(SeqCst) == most && waiting == OBJECTS - most).then_some(())
    })
    .await;
    assert_eq!(sum(&registry, "controller_runtime_max_concurrent_reconciles"), most);
    go_on.cancel();
    eventually("all are worked on", SOON, async || (done.load(SeqCst) == OBJECTS).then_some(()))
        .await;
    assert_eq!(peak.load(SeqCst), most);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_object_is_reconciled_at_once_unless_more_are_asked_for() {
    as_many_at_once_as(1, |it| it).await;
    as_many_at_once_as(3, |it| it.at_once(3)).await;
}
