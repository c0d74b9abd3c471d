//! Cost of caches and controllers: memory per object, time until work begins and ends with many objects cached,
//! cost of a follower's warm cache compared with the leader, and scaling of work on shards.
//!
//! ```text
//! cargo bench --bench cache                       # all, in full
//! cargo bench --bench cache -- --quick hand-over  # fewer rounds, one section only
//! ```
//!
//! A scripted API serves the 100,000 objects, since a real API server would need minutes to store them. A real
//! kube-apiserver answers all other requests, and takes all writes. The nodes share a store in memory: the
//! bench `handoff` measures the cost of etcd.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::large_futures,
    reason = "a measurement, not a library"
)]

mod checks;
#[path = "../common/mod.rs"]
mod common;
mod followers;
mod hand_over;
#[allow(dead_code, unreachable_pub, reason = "shared with the tests")]
#[path = "../../tests/support/kube.rs"]
mod kube;
mod memory;
mod replicas;
mod scripted;
mod spread;
#[path = "../../tests/support/mod.rs"]
mod support;
mod terms;

use std::{process::ExitCode, time::Duration};

use common::{Aim, Bench};

const OBJECTS: usize = 100_000;

fn main() -> ExitCode {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let Some(what) = memory::asked() {
        runtime.block_on(memory::measure(&what));
        return ExitCode::SUCCESS;
    }
    let ended = runtime.block_on(measure());
    runtime.shutdown_timeout(Duration::from_secs(5));
    ended
}

async fn measure() -> ExitCode {
    let mut bench = Bench::start("Caches and controllers");
    if bench.section("memory: resident bytes per cached object, a process each") {
        let [ours, plain] = ["ours", "reflector"].map(memory::in_a_process);
        Bench::values();
        bench.value("kube-runtime's reflector, 100,000 config maps", plain, "B", None);
        bench.value("ours, 100,000 config maps", ours, "B", Some(plain));
    }
    if bench.section("memory of a replica that holds half of the shards") {
        let modes = ["ours", "filtered-by-server", "filtered-here"].map(memory::in_a_process);
        let [all, sent, kept] = modes.map(|each| each * OBJECTS as f64 / 1024.0 / 1024.0);
        Bench::values();
        bench.value("all of 100,000 config maps cached", all, "MiB", None);
        bench.value("half of the shards, the server filters", sent, "MiB", Some(all * 0.6));
        bench.value("half of the shards, filtered here", kept, "MiB", Some(all * 0.6));
    }
    if bench.section("hand-over: two replicas, each with 100,000 objects cached") {
        let rounds = bench.rounds(20, 5);
        let times = hand_over::measure(rounds).await;
        Bench::times();
        bench.row("leader's work begins → first reconcile", times.first, None, &[Aim::P99(100.0)]);
        bench.row("resign → 16 runs joined, office given up", times.closed, None, &[]);
    }
    if bench.section("followers: 200 changes per second, each answered by a write of the leader") {
        let span = Duration::from_secs(bench.rounds(20, 5) as u64);
        let cpu = followers::measure(span).await;
        cpu.show(&mut bench);
    }
    if bench.section("followers: 100,000 objects, each looked at by the leader every 20 s") {
        // Whole intervals, since all reconciles of an interval come at once, as the first ones did.
        let cpu = followers::unchanged(bench.rounds(2, 1) as u32).await;
        cpu.show(&mut bench);
    }
    let terms = bench.rounds(500, 50);
    if bench.section(&format!("terms: office lost and regained {terms} times, runs in flight")) {
        terms::measure(&mut bench, terms).await;
    }
    let span = Duration::from_secs(bench.rounds(10, 4) as u64);
    if bench.section("spread: uptime checks of a target that takes 100 ms, 8 at once each") {
        spread_over(&mut bench, |replicas| checks::measure(replicas, span)).await;
    }
    if bench.section("spread: work on shards that waits 5 ms and writes, one object at once each") {
        spread_over(&mut bench, |replicas| spread::measure(replicas, span)).await;
    }
    bench.end()
}

/// Measures the throughput of more and more replicas.
async fn spread_over<F: Future<Output = spread::Spread>>(
    bench: &mut Bench,
    measure: impl Fn(usize) -> F,
) {
    Bench::values();
    let mut alone = None;
    for replicas in [1, 2, 3, 5] {
        let handled = measure(replicas).await;
        handled.show(bench, replicas, *alone.get_or_insert(handled.per_second));
    }
}
