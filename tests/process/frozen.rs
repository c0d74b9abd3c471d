//! A leader whose process is frozen for longer than its authority and its lease, and thaws.
//!
//! The node is this test binary again, since it runs a user's code: a routine that prints each of its ticks
//! before it checks its authority, and a task that writes as fast as it can.

use std::{
    env,
    io::{Read as _, stdin},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use bellwether::{
    clock::boot_now,
    node::{
        ClusterNode, LeaderContext, Node as _, RoutineLimits,
        work::{LeaderTask, WorkError},
    },
    store::etcd::EtcdConfig,
};
use rustix::process::Signal;
use tokio::sync::oneshot;

use crate::{
    binary::{LONG, Process},
    cluster::Shop,
    support::eventually,
};

/// Variable that makes this binary a node: the behaviour of the node's routine.
const MANNER: &str = "FROZEN_MANNER";
/// The process is frozen just after one tick, and so out of step with the next.
const TICK: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Calm,
    /// Other tasks keep all workers of the node's runtime busy.
    Busy,
    /// The routine's first tick blocks its thread forever.
    Wedged,
    /// Each tick of the routine panics.
    Panicking,
}

const MANNERS: [(&str, Manner); 4] = [
    ("calm", Manner::Calm),
    ("busy", Manner::Busy),
    ("wedged", Manner::Wedged),
    ("panicking", Manner::Panicking),
];

/// Not a test of its own: the other tests start it as a process.
#[test]
fn a_process_may_be_a_node() {
    let Ok(name) = env::var(MANNER) else { return };
    let manner = MANNERS.into_iter().find(|(known, _)| *known == name).unwrap().1;
    let workers = if manner == Manner::Busy { 1 } else { 2 };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .unwrap();
    if manner == Manner::Busy {
        runtime.spawn(async {
            loop {
                let until = boot_now() + Duration::from_millis(5);
                while boot_now() < until {}
                tokio::task::yield_now().await;
            }
        });
    }
    let (sender, end_of_input) = oneshot::channel();
    thread::spawn(move || {
        let _ = stdin().read_to_end(&mut Vec::new());
        let _ = sender.send(());
    });
    runtime.block_on(async {
        let node = ClusterNode::builder()
            .cluster("shop")
            .id(env::var("FROZEN_ID").unwrap().parse().unwrap())
            .address("frozen")
            .etcd(EtcdConfig::new([env::var("FROZEN_ETCD").unwrap()]))
            .tick(TICK)
            .on_leader_tick(move |ctx: LeaderContext| {
                println!("tick {} {}", ctx.term(), boot_now().0.as_nanos());
                async move {
                    match manner {
                        Manner::Calm | Manner::Busy => Ok(()),
                        Manner::Wedged => loop {
                            thread::park();
                        },
                        Manner::Panicking => panic!("as it was told to"),
                    }
                }
            })
            .leader_task(Writes)
            // The node must be frozen while in office, so no misbehaviour of the routine may cost the office.
            .limits(RoutineLimits { run: LONG * 10, panics: u32::MAX, ..RoutineLimits::default() })
            .build()
            .unwrap();
        node.start().await.unwrap();
        // The process ends with the test that started it.
        let _ = end_of_input.await;
    });
    runtime.shutdown_background();
}

struct Writes;

#[async_trait]
impl LeaderTask for Writes {
    fn name(&self) -> &'static str {
        "writes"
    }

    async fn run(&self, ctx: LeaderContext) -> Result<(), WorkError> {
        let fenced = ctx.fenced();
        // The task never checks its authority: the store itself must reject its writes.
        loop {
            let revision = fenced.put("last", ctx.term().to_string()).await?;
            println!("wrote {} {revision}", ctx.term());
        }
    }
}

fn node(shop: &Shop, id: &str, manner: &str) -> Process {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "frozen::a_process_may_be_a_node", "--nocapture"])
        .stdin(Stdio::piped())
        .env(MANNER, manner)
        .env("FROZEN_ID", id)
        .env("FROZEN_ETCD", shop.etcd.endpoint(0));
    Process::of(command)
}

/// Lines of one kind that a node has printed so far: terms, and the boot time of a tick or the revision of a
/// write.
fn told(node: &Process, what: &str) -> Vec<(i64, u64)> {
    let out = node.out();
    let lines = out.lines().filter_map(|line| {
        // The test harness may have printed text in front of the first line.
        let (_, said) = line.split_once(what)?;
        let (term, at) = said.trim().split_once(' ')?;
        Some((term.parse().ok()?, at.parse().ok()?))
    });
    lines.collect()
}

async fn tells(node: &Process, what: &str) -> (i64, u64) {
    let found = || async { told(node, what).first().copied() };
    eventually(what, LONG, found).await
}

async fn a_frozen_leader_does_nothing_of_its_term_once_it_thaws(manner: &str) {
    let shop = Shop::open().await;
    let frozen = node(&shop, "1", manner);
    tells(&frozen, "wrote ").await;
    let second = node(&shop, "2", "calm");
    shop.leader(2, Some("2")).await;
    let ticks = told(&frozen, "tick ").len();
    if manner != "wedged" {
        let one_more = || async { (ticks < told(&frozen, "tick ").len()).then_some(()) };
        eventually("the next tick", LONG, one_more).await;
    }
    frozen.signal(Signal::STOP);
    // The node stays frozen longer than its authority lasts, then longer than its lease lives: its keys vanish,
    // too.
    let (next, took_over_at) = tells(&second, "tick ").await;
    shop.leader(1, Some("1")).await;
    let (_, first_write) = tells(&second, "wrote ").await;
    frozen.signal(Signal::CONT);
    // The node has rejoined under a new lease, and has finished all handling of the old lease.
    shop.leader(2, Some("1")).await;
    let ticks = told(&frozen, "tick ");
    assert!(ticks.iter().any(|(term, _)| *term < next), "it has led: {ticks:?}");
    for (term, at) in ticks {
        assert!(next <= term || at < took_over_at, "a tick of term {term}, after {next} began");
    }
    for (term, revision) in told(&frozen, "wrote ") {
        assert!(next <= term || revision < first_write, "a write of {term} at {revision}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_leader_neither_ticks_nor_writes_when_it_thaws() {
    Box::pin(a_frozen_leader_does_nothing_of_its_term_once_it_thaws("calm")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_one_whose_workers_are_busy() {
    Box::pin(a_frozen_leader_does_nothing_of_its_term_once_it_thaws("busy")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_one_with_a_wedged_routine() {
    Box::pin(a_frozen_leader_does_nothing_of_its_term_once_it_thaws("wedged")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_one_whose_routine_panics() {
    Box::pin(a_frozen_leader_does_nothing_of_its_term_once_it_thaws("panicking")).await;
}
