//! Cost of a follower's warm cache, compared with the leader that reconciles: each replica has its own threads.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bellwether::{
    k8s::{
        client::{ClientOptions, connect},
        controller::{Action, Context, Controller},
        k8s_openapi::api::core::v1::ConfigMap,
        kube::{
            Api, ResourceExt as _,
            api::{Patch, PatchParams, PostParams},
        },
        operator::Operator,
    },
    store::memory::MemoryStore,
};
use prometheus::Registry;
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

use crate::{
    OBJECTS as ALL,
    common::{Bench, LONG, counted},
    kube::named,
    replicas::{Replica, server},
    scripted::Objects,
    support::eventually,
};

const OBJECTS: usize = 200;
const PER_SECOND: u32 = 200;
/// Interval at which the leader reconciles an object that does not change.
const LOOKED_AT: Duration = Duration::from_secs(20);

pub(crate) struct Cpu {
    pub(crate) leader: f64,
    pub(crate) follower: f64,
    pub(crate) per_second: f64,
    /// Largest observed number of events that the leader had received and the follower had not.
    pub(crate) behind: Option<u64>,
}

impl Cpu {
    pub(crate) fn show(&self, bench: &mut Bench) {
        Bench::values();
        bench.value("reconciled", self.per_second, "per second", None);
        bench.value("the leader, of one core", self.leader * 100.0, "%", None);
        bench.value("a follower, of one core", self.follower * 100.0, "%", Some(5.0));
        let ratio = self.follower / self.leader * 100.0;
        bench.value("a follower, of the leader", ratio, "%", None);
        if let Some(behind) = self.behind {
            // The aim is the number of events in a tenth of a second: a follower that lags has only postponed
            // its work.
            bench.value("a follower is behind, at most", behind as f64, "events", Some(40.0));
        }
    }
}

fn runtime(name: &str) -> Runtime {
    Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build().unwrap()
}

/// Names of the threads of the replicas' caches and controllers: the first replica leads.
const NAMES: [&str; 2] = ["bench-leader", "bench-follower"];

/// Seconds of CPU that each replica has used, on these threads and on those of its node.
fn used() -> [f64; 2] {
    [0, 1].map(|id| cpu_of(NAMES[id]) + cpu_of(&format!("bw-{id}")))
}

/// Seconds of CPU that the threads of this name have used.
fn cpu_of(name: &str) -> f64 {
    let mut nanoseconds = 0.0;
    for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
        let read = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        if read("comm").trim_end() == name {
            nanoseconds += read("schedstat").split(' ').next().unwrap().parse::<f64>().unwrap();
        }
    }
    nanoseconds / 1e9
}

/// Number of changes that the replica's cache has received.
fn taken_in(registry: &Registry) -> u64 {
    counted(registry, "bellwether_watch_events_total")
}

pub(crate) async fn measure(span: Duration) -> Cpu {
    let api = server().await;
    let space = api.namespace("followers").await;
    let maps: Api<ConfigMap> = Api::default_namespaced(space.bulk_client());
    for number in 0..OBJECTS {
        let map = ConfigMap { metadata: named(&format!("map-{number}")), ..ConfigMap::default() };
        maps.create(&PostParams::default(), &map).await.unwrap();
    }
    let (store, runs) = (MemoryStore::new(), Arc::new(AtomicU64::new(0)));
    let runtimes = NAMES.map(runtime);
    let registries = NAMES.map(|_| Registry::new());
    let mut replicas = Vec::new();
    for (id, runtime) in runtimes.iter().enumerate() {
        let (store, runs, registry) = (store.clone(), Arc::clone(&runs), registries[id].clone());
        let options = ClientOptions::default().kubeconfig(api.bulk_kubeconfig(&space.name));
        let started = runtime.spawn(async move {
            let controller = Controller::new(move |map: Arc<ConfigMap>, ctx: Context| {
                let runs = Arc::clone(&runs);
                async move {
                    let value = map.data.as_ref().and_then(|it| it.get("value")).cloned();
                    if map.annotations().get("seen") == value.as_ref() {
                        return Ok(Action::done());
                    }
                    runs.fetch_add(1, Relaxed);
                    let namespace = map.namespace().unwrap_or_default();
                    let maps =
                        Api::<ConfigMap>::namespaced(ctx.unfenced_client().clone(), &namespace);
                    let seen = json!({ "metadata": { "annotations": { "seen": value } } });
                    let params = PatchParams::default();
                    maps.patch(&map.name_any(), &params, &Patch::Merge(seen)).await?;
                    Ok(Action::done())
                }
            })
            .at_once(4);
            let client = connect(options).await.unwrap();
            let work = |it: Operator| it.controller(controller).registry(registry);
            Replica::start(&store, client, id as i64, work).await
        });
        replicas.push(started.await.unwrap());
    }
    eventually("the first one leads, and has looked at all", LONG, async || {
        let looked_at = counted(&registries[0], "controller_runtime_reconcile_total");
        (OBJECTS as u64 <= looked_at).then_some(())
    })
    .await;
    let mut behind = 0;
    let before = (used(), runs.load(Relaxed));
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / PER_SECOND);
    let changes = (span.as_secs_f64() * f64::from(PER_SECOND)) as usize;
    for change in 0..changes {
        ticks.tick().await;
        let value = json!({ "data": { "value": change.to_string() } });
        let name = format!("map-{}", change % OBJECTS);
        maps.patch(&name, &PatchParams::default(), &Patch::Merge(value)).await.unwrap();
        if change % 50 == 0 {
            behind = behind.max(taken_in(&registries[0]).saturating_sub(taken_in(&registries[1])));
        }
    }
    let after = (used(), runs.load(Relaxed));
    let spent = |at: usize| (after.0[at] - before.0[at]) / span.as_secs_f64();
    let cpu = Cpu {
        leader: spent(0),
        follower: spent(1),
        per_second: (after.1 - before.1) as f64 / span.as_secs_f64(),
        behind: Some(behind),
    };
    // The follower must receive every event, so that postponed work is not counted as saved.
    let [leads, follows] = &registries;
    eventually("the follower has taken in all that the leader has", LONG, async || {
        let (leader, follower) = (taken_in(leads), taken_in(follows));
        (changes as u64 <= leader && leader == follower).then_some(())
    })
    .await;
    for replica in replicas {
        replica.stop().await;
    }
    for runtime in runtimes {
        runtime.shutdown_background();
    }
    cpu
}

/// Measures 100,000 objects that do not change, each reconciled by the leader every [`LOOKED_AT`], for
/// `intervals` of that length.
pub(crate) async fn unchanged(intervals: u32) -> Cpu {
    let span = intervals * LOOKED_AT;
    let api = server().await;
    let objects = Objects::new(ALL);
    let (store, runs) = (MemoryStore::new(), Arc::new(AtomicU64::new(0)));
    let runtimes = NAMES.map(runtime);
    let mut replicas = Vec::new();
    for (id, runtime) in runtimes.iter().enumerate() {
        let (store, runs, objects) = (store.clone(), Arc::clone(&runs), objects.clone());
        let config = api.config_with_token("token-for-bulk");
        let started = runtime.spawn(async move {
            let controller = Controller::new(move |_: Arc<ConfigMap>, _: Context| {
                runs.fetch_add(1, Relaxed);
                async { Ok(Action::requeue_after(LOOKED_AT)) }
            })
            .at_once(4);
            let client = objects.client(Some(config.try_into().unwrap()));
            Replica::start(&store, client, id as i64, |it| it.controller(controller)).await
        });
        replicas.push(started.await.unwrap());
    }
    // The first reconcile of each object comes at once.
    eventually("each was looked at twice", LONG, async || {
        (2 * ALL as u64 <= runs.load(Relaxed)).then_some(())
    })
    .await;
    let before = (used(), runs.load(Relaxed));
    tokio::time::sleep(span).await;
    let after = (used(), runs.load(Relaxed));
    for replica in replicas {
        replica.stop().await;
    }
    for runtime in runtimes {
        runtime.shutdown_background();
    }
    let spent = |at: usize| (after.0[at] - before.0[at]) / span.as_secs_f64();
    let per_second = (after.1 - before.1) as f64 / span.as_secs_f64();
    Cpu { leader: spent(0), follower: spent(1), per_second, behind: None }
}
