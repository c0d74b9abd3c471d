//! Bad input of a controller: in objects, in its own reconciler, and in the answers of the API server. Each
//! fault is visible; no controller spins, and none ends.
//!
//! | fault | visible in |
//! | --- | --- |
//! | an object that the type cannot read | `bellwether_cache_unreadable_objects`, the log |
//! | a kind that is not installed yet, or is removed | `bellwether_watch_restarts_total{reason="no_kind"}`, readiness |
//! | a reconciler that always fails | `controller_runtime_reconcile_errors_total`, back-off |
//! | a conflict | `controller_runtime_reconcile_total{result="requeue"}`: no error |
//! | a status that is too large | `controller_runtime_reconcile_errors_total`, back-off |
//! | 410 of a watch | `bellwether_watch_restarts_total{reason="expired"}` |
//! | 429, 5xx of lists, watches and writes | the same with `throttled`, `unavailable`; errors of reconciles |
//!
//! `badinput.rs` one level up tests what the binary does about rights, tokens and admission.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bellwether::{
    clock,
    host::HostError,
    k8s::{
        cache::Scope,
        client::{ClientOptions, connect},
        controller::{Action, Context, Controller, ReconcileError},
        k8s_openapi::{
            api::core::v1::ConfigMap,
            apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
        },
        kube::{
            Api, Client, CustomResource, CustomResourceExt as _, Resource,
            api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
        },
        operator::{CachesSynced, Operator},
        schemars::{self, JsonSchema},
    },
    node::{ClusterNode, Stopped},
};
use http::{Method, Uri};
use prometheus::{Registry, proto::MetricFamily};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::replicas::{Cluster, Ledger, SOON};
use crate::{
    front::{Front, Illness, last_still, tries_since},
    kube::named,
    support::eventually,
};

/// Operator with a client of the test's choice, and its metrics.
struct Under {
    registry: Registry,
    synced: CachesSynced,
    stop: CancellationToken,
    running: JoinHandle<Result<Stopped, HostError>>,
}

impl Under {
    fn begin(
        cluster: &Cluster<'_>,
        client: Client,
        work: impl FnOnce(Operator) -> Operator,
    ) -> Self {
        let registry = Registry::new();
        let node = ClusterNode::builder().cluster("test").id(0).memory(&cluster.store);
        let operator = Operator::new(node, client, cluster.election()).registry(registry.clone());
        let (built, synced) = work(operator).build().unwrap();
        let stop = CancellationToken::new();
        let running =
            bellwether::tasks::spawn("operator", built.run(stop.clone().cancelled_owned()));
        Self { registry, synced, stop, running }
    }

    /// Value of the only series of that name which has these labels.
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let families = self.registry.gather();
        let found =
            families.iter().filter(|it| it.name() == name).flat_map(MetricFamily::get_metric);
        let mut values = found.filter_map(|it| {
            let has = |&(name, value): &(&str, &str)| {
                it.get_label().iter().any(|it| it.name() == name && it.value() == value)
            };
            let value = it.get_counter().get_value() + it.get_gauge().get_value();
            labels.iter().all(has).then(|| whole(value))
        });
        values.next().unwrap_or(0)
    }

    fn restarts(&self, reason: &str) -> u64 {
        self.value("bellwether_watch_restarts_total", &[("reason", reason)])
    }

    async fn until(&self, name: &str, labels: &[(&str, &str)], holds: impl Fn(u64) -> bool) {
        eventually(&format!("{name} {labels:?}"), SOON, async || {
            holds(self.value(name, labels)).then_some(())
        })
        .await;
    }

    /// Asserts that the operator still runs, stops it, and asserts that it ends without an error.
    async fn end(self) {
        assert!(!self.running.is_finished(), "it died");
        self.stop.cancel();
        tokio::time::timeout(SOON, self.running).await.unwrap().unwrap().unwrap();
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
fn whole(value: f64) -> u64 {
    value as u64
}

fn scope(cluster: &Cluster<'_>) -> Scope {
    Scope::namespace(cluster.space.name.clone()).labels("reconciled=yes")
}

fn noting(cluster: &Cluster<'_>, ledger: &Ledger) -> Controller<ConfigMap> {
    let ledger = ledger.clone();
    Controller::new(move |map: Arc<ConfigMap>, _: Context| {
        drop(ledger.begin(0, &map));
        async { Ok(Action::done()) }
    })
    .scope(scope(cluster))
}

/// Config maps, as a program declares them that knows one key only.
#[derive(Clone, Debug, Serialize, Deserialize, Resource)]
#[resource(inherit = ConfigMap)]
struct Narrow {
    metadata: ObjectMeta,
    data: Known,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    value: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_cannot_be_read_hides_none_of_the_others() {
    let cluster = Cluster::new("unreadable").await;
    let extra = async |name: &str, value: Option<&str>| {
        let patch = Patch::Merge(json!({ "data": { "from-the-future": value } }));
        cluster.maps().patch(name, &PatchParams::default(), &patch).await.unwrap();
    };
    cluster.make("good").await;
    cluster.make("bad").await;
    extra("bad", Some("?")).await;

    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&seen);
    let controller = Controller::new(move |map: Arc<Narrow>, _: Context| {
        let name = map.metadata.name.clone().unwrap();
        noted.lock().unwrap().push(format!("{name}={}", map.data.value));
        async { Ok(Action::done()) }
    });
    let under = Under::begin(&cluster, cluster.space.client(), |it| {
        it.controller(controller.scope(scope(&cluster)))
    });
    let sees = async |what: &str| {
        eventually(what, SOON, async || {
            seen.lock().unwrap().iter().any(|it| it == what).then_some(())
        })
        .await;
    };
    let counts = async |kept: u64, unreadable: u64| {
        let kind = [("kind", "ConfigMap")];
        under.until("bellwether_cache_objects", &kind, |it| it == kept).await;
        under.until("bellwether_cache_unreadable_objects", &kind, |it| it == unreadable).await;
    };
    // The first list contains an unreadable object,
    sees("good=1").await;
    counts(1, 1).await;
    // a change makes a readable object unreadable,
    extra("good", Some("?")).await;
    counts(0, 2).await;
    cluster.make("later").await;
    sees("later=1").await;
    // a change makes an object readable again,
    extra("bad", None).await;
    sees("bad=1").await;
    counts(2, 1).await;
    // and an object is deleted.
    cluster.delete("good").await;
    counts(2, 0).await;
    assert_eq!(under.restarts("unavailable"), 0, "no watch was begun anew for it");
    under.end().await;
}

/// Custom resource for one test only: the test installs and removes it without an effect on other tests.
macro_rules! kind_of_its_own {
    ($kind:tt, $spec:ident { $($field:ident: $type:ty)? }) => {
        #[derive(Clone, Debug, Serialize, Deserialize, CustomResource, JsonSchema)]
        #[kube(
            group = "late.bellwether.dev",
            version = "v1",
            kind = $kind,
            namespaced,
            status = "LateStatus",
            crates(
                kube_core = "bellwether::k8s::kube::core",
                k8s_openapi = "bellwether::k8s::k8s_openapi",
                schemars = "bellwether::k8s::schemars"
            )
        )]
        struct $spec { $($field: $type)? }
    };
}

kind_of_its_own!("Late", LateSpec { size: usize });
kind_of_its_own!("Fleeting", FleetingSpec {});

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
struct LateStatus {
    text: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_is_installed_later_is_worked_on_then_and_a_status_that_is_too_large_stops_nobody()
 {
    let cluster = Cluster::new("late-kind").await;
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let namespace = cluster.space.name.clone();
    let reconciler = move |late: Arc<Late>, ctx: Context| {
        if late.metadata.name.as_deref() == Some("large") {
            counted.fetch_add(1, SeqCst);
        }
        async move {
            let writer = ctx.writer::<Late>(late.metadata.namespace.as_deref());
            writer.status(&*late, &LateStatus { text: "x".repeat(late.spec.size) }).await?;
            Ok::<_, ReconcileError>(Action::done())
        }
    };
    let controller = Controller::new(reconciler).scope(Scope::namespace(namespace));
    let under = Under::begin(&cluster, cluster.space.client(), |it| it.controller(controller));
    let restarts = "bellwether_watch_restarts_total";
    under.until(restarts, &[("kind", "Late"), ("reason", "no_kind")], |it| it > 2).await;
    assert_eq!(under.synced.missing(), ["Late"]);

    let crds = Api::<CustomResourceDefinition>::all(cluster.space.client());
    crds.create(&PostParams::default(), &Late::crd()).await.unwrap();
    let lates = Api::<Late>::default_namespaced(cluster.space.client());
    let make = async |name: &str, size: usize| {
        let late = Late::new(name, LateSpec { size });
        eventually("the kind is served", SOON, async || {
            lates.create(&PostParams::default(), &late).await.ok()
        })
        .await;
    };
    let begun = clock::boot_now();
    make("large", 3 << 20).await;
    make("small", 10).await;
    eventually("the small one has its status", SOON, async || {
        lates.get("small").await.unwrap().status.filter(|it| it.text.len() == 10)
    })
    .await;
    let failed = "controller_runtime_reconcile_errors_total";
    under.until(failed, &[("controller", "late")], |it| it >= 5).await;
    assert_few(runs.load(SeqCst), begun);
    assert!(lates.get("large").await.unwrap().status.is_none());
    // The repaired object gets its status.
    let smaller = Patch::Merge(json!({ "spec": { "size": 20 } }));
    lates.patch("large", &PatchParams::default(), &smaller).await.unwrap();
    eventually("the large one has its status", SOON, async || {
        lates.get("large").await.unwrap().status
    })
    .await;
    under.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_is_removed_is_asked_for_ever_less_often_and_worked_on_when_it_is_back() {
    let cluster = Cluster::new("fleeting").await;
    let crds = Api::<CustomResourceDefinition>::all(cluster.space.client());
    let fleeting = Api::<Fleeting>::default_namespaced(cluster.space.client());
    let install = async || {
        crds.create(&PostParams::default(), &Fleeting::crd()).await.unwrap();
    };
    let is_worked_on = async |name: &str| {
        eventually("the kind is served", SOON, async || {
            fleeting
                .create(&PostParams::default(), &Fleeting::new(name, FleetingSpec {}))
                .await
                .ok()
        })
        .await;
        eventually(&format!("{name} has its status"), SOON, async || {
            fleeting.get(name).await.unwrap().status
        })
        .await;
    };
    let reconciler = |object: Arc<Fleeting>, ctx: Context| async move {
        let writer = ctx.writer::<Fleeting>(object.metadata.namespace.as_deref());
        writer.status(&*object, &LateStatus { text: "seen".to_owned() }).await?;
        Ok::<_, ReconcileError>(Action::done())
    };
    install().await;
    let namespace = Scope::namespace(cluster.space.name.clone());
    let under = Under::begin(&cluster, cluster.space.client(), |it| {
        it.controller(Controller::new(reconciler).scope(namespace))
    });
    is_worked_on("before").await;

    let gone = [("kind", "Fleeting"), ("reason", "no_kind")];
    let times =
        || usize::try_from(under.value("bellwether_watch_restarts_total", &gone)).expect("a count");
    let before = times();
    crds.delete("fleetings.late.bellwether.dev", &DeleteParams::default()).await.unwrap();
    let begun = last_still(before, times).await;
    eventually("it is asked for again", SOON, async || (before + 6 <= times()).then_some(())).await;
    let again = times() - before;
    let most = tries_since(begun, Duration::from_millis(100), Duration::from_secs(5));
    assert!(again <= most, "{again} watches, at most {most} by the back-off");
    eventually("the kind is gone", SOON, async || {
        let found = crds.get_opt("fleetings.late.bellwether.dev").await.unwrap();
        found.is_none().then_some(())
    })
    .await;

    install().await;
    is_worked_on("after").await;
    // The cache drops the objects of a removed kind.
    under.until("bellwether_cache_objects", &[("kind", "Fleeting")], |it| it == 1).await;
    under.end().await;
}

/// # Panics
///
/// If an object was retried more often since `begun` than its back-off allows: 5 ms, then twice as long each
/// time, plus two runs for its changes. A busy machine only makes fewer runs.
fn assert_few(runs: usize, begun: bellwether::engine::BootTime) {
    let passed = clock::boot_now().since(begun);
    let waits = |n: u32| Duration::from_millis(5) * ((1 << n) - 1);
    let most = (1..20).take_while(|n| waits(*n) <= passed).count() + 3;
    assert!(runs <= most, "{runs} runs within {passed:?}, at most {most} by the back-off");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconciler_that_always_fails_is_tried_ever_less_often_and_others_go_on() {
    let cluster = Cluster::new("failing").await;
    let ledger = Ledger::default();
    let noted = ledger.clone();
    let controller = Controller::new(move |map: Arc<ConfigMap>, _: Context| {
        drop(noted.begin(0, &map));
        let fails = map.metadata.name.as_deref() == Some("failing");
        async move {
            if fails { Err(ReconcileError::new("it cannot be done")) } else { Ok(Action::done()) }
        }
    });
    let begun = clock::boot_now();
    let under = Under::begin(&cluster, cluster.space.client(), |it| {
        it.controller(controller.scope(scope(&cluster)))
    });
    cluster.make("failing").await;
    ledger.until("failing", 9).await;
    cluster.make("fine").await;
    ledger.until("fine", 1).await;
    let times = ledger.runs().iter().filter(|it| it.object == "failing").count();
    assert_few(times, begun);
    let failed = [("controller", "configmap")];
    under.until("controller_runtime_reconcile_errors_total", &failed, |it| it >= 8).await;
    under.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_tried_again_with_what_is_there_and_is_no_error() {
    let cluster = Cluster::new("conflict").await;
    let disturbed = Arc::new(AtomicUsize::new(0));
    let maps = cluster.maps();
    let reconciler = move |map: Arc<ConfigMap>, ctx: Context| {
        let (disturbed, maps) = (Arc::clone(&disturbed), maps.clone());
        async move {
            // Another client writes first, three times.
            let at = disturbed.fetch_add(1, SeqCst);
            if at < 3 {
                let patch = Patch::Merge(json!({ "data": { "of-another": at.to_string() } }));
                maps.patch("a", &PatchParams::default(), &patch).await?;
            }
            let desired = ConfigMap {
                metadata: named("a"),
                data: Some([("ours".to_owned(), "y".to_owned())].into()),
                ..ConfigMap::default()
            };
            let writer = ctx.writer::<ConfigMap>(map.metadata.namespace.as_deref());
            writer.apply(&desired, Some(&map)).await?;
            Ok::<_, ReconcileError>(Action::done())
        }
    };
    let controller = Controller::new(reconciler).scope(scope(&cluster));
    cluster.make("a").await;
    let under = Under::begin(&cluster, cluster.space.client(), |it| it.controller(controller));
    let data = eventually("it is written", SOON, async || {
        cluster.maps().get("a").await.unwrap().data.filter(|it| it.contains_key("ours"))
    })
    .await;
    assert_eq!(data["of-another"], "2", "what the other wrote stays");
    let ended = "controller_runtime_reconcile_total";
    under.until(ended, &[("result", "requeue")], |it| it >= 3).await;
    assert_eq!(under.value(ended, &[("result", "error")]), 0);
    under.end().await;
}

/// API server that answers so many of those requests with an error, and a client of it.
async fn sick(
    cluster: &Cluster<'_>,
    times: usize,
    (code, meant): (u16, fn(&Method, &Uri) -> bool),
) -> (Front, Client) {
    let front = Front::before(cluster.space.client()).await;
    front.falls_ill_for(times, Illness { code, retry_after: (code == 429).then_some(1), meant });
    let options = ClientOptions::default().environment(|_| None);
    let client = connect(options.kubeconfig(front.kubeconfig(&cluster.space))).await.unwrap();
    (front, client)
}

fn is_of_maps(method: &Method, uri: &Uri) -> bool {
    method == Method::GET && uri.path().ends_with("/configmaps")
}

fn is_write_of_maps(method: &Method, uri: &Uri) -> bool {
    method == Method::PATCH && uri.path().contains("/configmaps/")
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_watches_that_are_answered_badly_are_begun_anew_and_miss_nothing() {
    for (code, reason) in [(410, "expired"), (429, "throttled"), (500, "unavailable")] {
        let cluster = Cluster::new(reason).await;
        let ledger = Ledger::default();
        cluster.make("a").await;
        // The server fails more often than the client retries one request.
        let (front, client) = sick(&cluster, 8, (code, is_of_maps)).await;
        let under = Under::begin(&cluster, client, |it| it.controller(noting(&cluster, &ledger)));
        ledger.until("a", 1).await;
        assert_eq!(front.given().len(), 8, "{reason}");
        assert!(under.restarts(reason) >= 1, "{reason}");
        cluster.change("a", "2").await;
        ledger.until_value("a", "2").await;
        under.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_held_back_after_429_as_long_as_asked_and_tried_by_the_queue_after_500() {
    for (code, times) in [(429, 2), (500, 6)] {
        let cluster = Cluster::new(&format!("answered-{code}")).await;
        let reconciler = move |map: Arc<ConfigMap>, ctx: Context| async move {
            let desired = ConfigMap {
                metadata: named("a"),
                data: Some([("ours".to_owned(), "y".to_owned())].into()),
                ..ConfigMap::default()
            };
            let writer = ctx.writer::<ConfigMap>(map.metadata.namespace.as_deref());
            writer.apply(&desired, Some(&map)).await?;
            Ok::<_, ReconcileError>(Action::done())
        };
        let controller = Controller::new(reconciler).scope(scope(&cluster));
        let (front, client) = sick(&cluster, times, (code, is_write_of_maps)).await;
        cluster.make("a").await;
        let under = Under::begin(&cluster, client, |it| it.controller(controller));
        eventually("it is written", SOON, async || {
            cluster.maps().get("a").await.unwrap().data.filter(|it| it.contains_key("ours"))
        })
        .await;
        let errors = under
            .value("controller_runtime_reconcile_errors_total", &[("controller", "configmap")]);
        let given = front.given();
        assert_eq!(given.len(), times);
        if code == 429 {
            // The client itself has waited and retried: no run has failed.
            assert_eq!(errors, 0);
            assert!(given[1].at.since(given[0].at) >= Duration::from_secs(1), "sooner than asked");
        } else {
            assert!(errors >= 6, "{errors}");
        }
        under.end().await;
    }
}
