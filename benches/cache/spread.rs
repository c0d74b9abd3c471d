//! Objects handled per second, by number of replicas. All replicas work in this process, with one API server
//! beside it: the more replicas, the more those two are the limit.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bellwether::{
    k8s::{
        cache::Scope,
        controller::{Action, Context, Controller, Sharded},
        k8s_openapi::api::core::v1::ConfigMap,
        kube::{
            Api, ResourceExt as _,
            api::{Patch, PatchParams, PostParams},
        },
    },
    store::memory::MemoryStore,
};
use serde_json::json;

use crate::{
    common::{Bench, cpu_time_of},
    kube::named,
    replicas::{Replica, server},
};

const OBJECTS: usize = 256;
/// Time after which shards have moved and caches are listed.
pub(crate) const SETTLED_AFTER: Duration = Duration::from_secs(10);

pub(crate) struct Spread {
    pub(crate) per_second: f64,
    pub(crate) cpu: f64,
}

impl Spread {
    /// Prints the throughput, compared with `alone`, that of a single replica.
    pub(crate) fn show(&self, bench: &mut Bench, replicas: usize, alone: f64) {
        let name = |what| format!("{replicas} replicas, {what}");
        bench.value(&name("handled"), self.per_second, "per second", None);
        let times = self.per_second / alone;
        if replicas == 5 {
            bench.at_least(&name("times one"), times, "×", 4.5);
        } else {
            bench.value(&name("times one"), times, "×", None);
        }
        bench.value(&name("CPU of this process"), self.cpu, "cores", None);
    }
}

/// Seconds of CPU that this process has used.
pub(crate) fn cpu() -> f64 {
    cpu_time_of(std::process::id()).as_secs_f64()
}

pub(crate) async fn measure(replicas: usize, span: Duration) -> Spread {
    let api = server().await;
    let space = api.namespace("spread").await;
    let maps: Api<ConfigMap> = Api::default_namespaced(space.bulk_client());
    for number in 0..OBJECTS {
        let map = ConfigMap { metadata: named(&format!("map-{number}")), ..ConfigMap::default() };
        maps.create(&PostParams::default(), &map).await.unwrap();
    }
    let (store, runs) = (MemoryStore::new(), Arc::new(AtomicU64::new(0)));
    let mut started = Vec::new();
    for id in 0..replicas {
        let runs = Arc::clone(&runs);
        let controller = Controller::new(move |map: Arc<ConfigMap>, ctx: Context| {
            let runs = Arc::clone(&runs);
            async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                let count = runs.fetch_add(1, Relaxed).to_string();
                let namespace = map.namespace().unwrap_or_default();
                let maps = Api::<ConfigMap>::namespaced(ctx.unfenced_client().clone(), &namespace);
                // The patch is an event for the replica, which handles the object again.
                let patch = Patch::Merge(json!({ "data": { "handled": count } }));
                maps.patch(&map.name_any(), &PatchParams::default(), &patch).await?;
                Ok(Action::done())
            }
        })
        .named("spread")
        .scope(Scope::namespace(space.name.clone()));
        let sharded = Sharded::new(controller).as_leader();
        let client = space.bulk_client();
        started.push(Replica::start(&store, client, id as i64, |it| it.shards(sharded)).await);
    }
    tokio::time::sleep(SETTLED_AFTER).await;
    let (before, used) = (runs.load(Relaxed), cpu());
    tokio::time::sleep(span).await;
    let spread = Spread {
        per_second: (runs.load(Relaxed) - before) as f64 / span.as_secs_f64(),
        cpu: (cpu() - used) / span.as_secs_f64(),
    };
    for replica in started {
        replica.stop().await;
    }
    spread
}
