//! Whether terms leave anything behind: two replicas of this process take office in turn, with runs in flight
//! at the end of each term.

use std::sync::Arc;

use bellwether::{
    engine::Role,
    k8s::{
        controller::{Action, Context, Controller},
        k8s_openapi::api::core::v1::ConfigMap,
    },
    store::memory::MemoryStore,
};
use tokio::{runtime::Handle, sync::mpsc, time::timeout};

use crate::{
    common::{Bench, LONG},
    memory::resident,
    replicas::{Replica, server},
    scripted::Objects,
};

const OBJECTS: usize = 100;
const AT_ONCE: usize = 4;
/// Terms until pools, timelines and the like have their full length.
const WARM_UP: usize = 250;

pub(crate) async fn measure(bench: &mut Bench, terms: usize) {
    let api = server().await;
    let objects = Objects::new(OBJECTS);
    let store = MemoryStore::new();
    let (begins, mut begun) = mpsc::channel(256);
    let mut replicas = Vec::new();
    for id in 0..2 {
        let begins = begins.clone();
        let controller = Controller::new(move |_: Arc<ConfigMap>, ctx: Context| {
            let begins = begins.clone();
            async move {
                begins.send(id).await?;
                ctx.cancelled().await;
                Ok(Action::done())
            }
        })
        .at_once(AT_ONCE);
        let client = objects.client(Some(api.client()));
        replicas.push(Replica::start(&store, client, id, |it| it.controller(controller)).await);
    }
    lose_office(&replicas, &mut begun, WARM_UP).await;
    let (tasks, memory) = (Handle::current().metrics().num_alive_tasks(), resident());
    lose_office(&replicas, &mut begun, terms).await;
    let more_tasks = Handle::current().metrics().num_alive_tasks() as f64 - tasks as f64;
    Bench::values();
    // The runtime may still count the task of a run that has ended.
    bench.value("more tasks", more_tasks, "", Some(AT_ONCE as f64));
    let more_memory = (resident() - memory) / 1024.0 / 1024.0;
    bench.value("more memory", more_memory, "MiB", Some(2.0));
    for replica in replicas {
        replica.stop().await;
    }
}

/// Makes the leader resign in each term, as soon as its runs are in flight.
async fn lose_office(replicas: &[Replica], begun: &mut mpsc::Receiver<i64>, terms: usize) {
    let mut former = None;
    for _ in 0..terms {
        let leader = loop {
            let id = timeout(LONG, begun.recv()).await.expect("a run in time").unwrap();
            let leads = |it: &&Replica| {
                it.node.id().get() == id && it.node.membership().borrow().role == Role::Leader
            };
            match replicas.iter().find(leads) {
                Some(leader) if former != Some(id) => break leader,
                // The report of a run that has ended since.
                _ => (),
            }
        };
        former = Some(leader.node.id().get());
        leader.node.resign().await.unwrap();
    }
}
