//! From the begin of a leader's work to its first reconcile, and from resigning to the end of all runs.

use std::sync::Arc;

use async_trait::async_trait;
use bellwether::{
    clock::boot_now,
    engine::BootTime,
    k8s::{
        controller::{Action, Context, Controller},
        k8s_openapi::api::core::v1::ConfigMap,
    },
    node::{
        LeaderContext,
        work::{LeaderTask, WorkError},
    },
    store::memory::MemoryStore,
};
use tokio::sync::mpsc;

use crate::{
    OBJECTS,
    common::{LONG, Samples},
    replicas::{Replica, server},
    scripted::Objects,
    support::eventually,
};

const AT_ONCE: usize = 16;

#[derive(Debug)]
enum Said {
    Leads(BootTime),
    Runs(BootTime),
}

/// Says when a leader's work begins.
struct Begins(mpsc::Sender<Said>);

#[async_trait]
impl LeaderTask for Begins {
    fn name(&self) -> &'static str {
        "begins"
    }

    async fn run(&self, ctx: LeaderContext) -> Result<(), WorkError> {
        self.0.send(Said::Leads(boot_now())).await?;
        ctx.token().cancelled().await;
        Ok(())
    }
}

#[derive(Default)]
pub(crate) struct Times {
    pub(crate) first: Samples,
    pub(crate) closed: Samples,
}

pub(crate) async fn measure(rounds: usize) -> Times {
    let api = server().await;
    let objects = Objects::new(OBJECTS);
    let store = MemoryStore::new();
    // Each leader says one, and each of its runs one.
    let (says, mut said) = mpsc::channel(64);
    let mut replicas = Vec::new();
    for id in 0..2 {
        let (says, begins) = (says.clone(), Begins(says.clone()));
        let controller = Controller::new(move |_: Arc<ConfigMap>, ctx: Context| {
            let says = says.clone();
            async move {
                says.send(Said::Runs(boot_now())).await?;
                ctx.cancelled().await;
                Ok(Action::done())
            }
        })
        .at_once(AT_ONCE);
        let client = objects.client(Some(api.client()));
        replicas.push(
            Replica::start(&store, client, id, |it| it.controller(controller).leader_task(begins))
                .await,
        );
    }
    let mut times = Times::default();
    for _ in 0..=rounds {
        let (mut leads, mut first, mut runs) = (None, None, 0);
        while leads.is_none() || runs < AT_ONCE {
            match tokio::time::timeout(LONG, said.recv()).await.unwrap().unwrap() {
                Said::Leads(at) => leads = Some(at),
                Said::Runs(at) => {
                    runs += 1;
                    first.get_or_insert(at);
                }
            }
        }
        times.first.push(first.unwrap().since(leads.unwrap()));
        let leader =
            eventually("one leads", LONG, async || replicas.iter().find(|it| it.leads())).await;
        let began = boot_now();
        leader.node.resign().await.unwrap();
        times.closed.push(boot_now().since(began));
    }
    for replica in replicas {
        replica.stop().await;
    }
    times
}
