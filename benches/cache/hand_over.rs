//! Time from the start of a leader's work to its first reconcile, and from resigning to the end of all runs.

use std::sync::Arc;

use async_trait::async_trait;
use bellwether::{
    clock::boot_now,
    engine::{BootTime, Term},
    k8s::{
        controller::{Action, Context, Controller, ReconcileError},
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
};

const AT_ONCE: usize = 16;

/// A report from a replica about a term.
#[derive(Debug)]
struct Said {
    node: i64,
    term: Term,
    at: BootTime,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Leads,
    Runs,
    Ended,
}

/// Leader task that reports when a leader's work begins.
struct Begins(i64, mpsc::Sender<Said>);

#[async_trait]
impl LeaderTask for Begins {
    fn name(&self) -> &'static str {
        "begins"
    }

    async fn run(&self, ctx: LeaderContext) -> Result<(), WorkError> {
        let said = Said { node: self.0, term: ctx.term(), at: boot_now(), what: What::Leads };
        self.1.send(said).await?;
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
    // Each leader sends one report, and each of its runs sends two.
    let (says, mut said) = mpsc::channel(256);
    let mut replicas = Vec::new();
    for id in 0..2 {
        let (says, begins) = (says.clone(), Begins(id, says.clone()));
        let controller = Controller::new(move |_: Arc<ConfigMap>, ctx: Context| {
            let says = says.clone();
            async move {
                let term = ctx.term().ok_or_else(|| ReconcileError::new("not the leader's"))?;
                let said = |what| Said { node: id, term, at: boot_now(), what };
                says.send(said(What::Runs)).await?;
                ctx.cancelled().await;
                says.send(said(What::Ended)).await?;
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
    let mut last = None;
    for _ in 0..=rounds {
        let mut of_term: Vec<Said> = Vec::new();
        let count = |of_term: &[Said], what| of_term.iter().filter(|it| it.what == what).count();
        let mut next = async || tokio::time::timeout(LONG, said.recv()).await.unwrap().unwrap();
        while count(&of_term, What::Leads) < 1 || count(&of_term, What::Runs) < AT_ONCE {
            let said = next().await;
            // Late reports of earlier terms are dropped.
            if last < Some(said.term) {
                of_term.push(said);
            }
        }
        let at = |what| of_term.iter().filter(|it| it.what == what).map(|it| it.at).min().unwrap();
        // The first term does not count: it began while the other replica was still listing, without a
        // handover.
        if last.is_some() {
            times.first.push(at(What::Runs).since(at(What::Leads)));
        }
        let (node, term) = (of_term[0].node, of_term[0].term);
        assert!(of_term.iter().all(|it| it.term == term), "two terms at once");
        last = Some(term);
        let leader = replicas.iter().find(|it| it.node.id().get() == node).unwrap();
        let began = boot_now();
        leader.node.resign().await.unwrap();
        let mut ended = 0;
        while ended < AT_ONCE {
            let said = next().await;
            if said.term == term && said.what == What::Ended {
                ended += 1;
                if ended == AT_ONCE {
                    times.closed.push(said.at.since(began));
                }
            } else if said.term > term {
                panic!("the next term runs before the last run of this one has ended: {said:?}");
            }
        }
    }
    for replica in replicas {
        replica.stop().await;
    }
    times
}
