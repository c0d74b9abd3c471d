//! Time that a cluster is without a leader: after a clean end, a crash, and silence.
//!
//! ```text
//! cargo bench --bench handoff                       # 200 handoffs on tmpfs and on disk, crashes, silences
//! cargo bench --bench handoff -- --quick graceful   # a few, of one kind
//! ```
//!
//! Each time runs from the end of the leader to the first tick of its successor's leader routine, by the boot
//! clock, which all processes share. The plain figure is two commits and the watch event between them.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::large_futures,
    reason = "a measurement, not a library"
)]

mod blackhole;
#[path = "../common/mod.rs"]
mod common;
mod ends;
mod graceful;
#[path = "../common/node.rs"]
mod node;
#[path = "../common/processes.rs"]
mod processes;
mod stages;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::process::ExitCode;

use bellwether::engine::Failover;
use common::{Aim, Bench};
use support::etcd::Medium;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    // The processes that the bench kills are started from this same program.
    if std::env::args().nth(1).as_deref() == Some(node::COMMAND) {
        node::run().await;
        return ExitCode::SUCCESS;
    }
    stages::listen();
    let mut bench = Bench::start("Handoff");
    for (medium, p50) in [(Medium::Memory, 1.5), (Medium::Disk, 4.0)] {
        let name = format!("graceful stop, {}", common::named(medium));
        if bench.section(&name) {
            let rounds = bench.rounds(200, 30);
            let handoffs = graceful::measure(medium, rounds).await;
            graceful::report(&mut bench, handoffs, &[Aim::P50(p50), Aim::P99(15.0)]);
        }
        let name = format!("SIGTERM under `bellwether supervise`, {}", common::named(medium));
        if bench.section(&name) {
            let rounds = bench.rounds(60, 10);
            let (ours, plain) = ends::ends(medium, rounds).await;
            Bench::times();
            let aims = [Aim::P50(p50), Aim::P99(15.0)];
            bench.row("SIGTERM → first tick", ours, Some(plain), &aims);
        }
    }
    if bench.section("crash: kill -9 under `bellwether supervise`") {
        let rounds = bench.rounds(60, 10);
        let (ours, plain) = ends::crashes(rounds).await;
        Bench::times();
        bench.row("SIGKILL → first tick", ours, Some(plain), &[Aim::P50(20.0)]);
    }
    let profiles = [("default", Failover::DEFAULT, 1100.0), ("fast", Failover::FAST, 450.0)];
    let rounds = bench.rounds(20, 4);
    if bench.section("silence: SIGSTOP of supervisor and node") {
        Bench::times();
        for (profile, failover, most) in profiles {
            let ours = ends::silences(failover, rounds).await;
            bench.row(&format!("SIGSTOP → first tick, `{profile}`"), ours, None, &[Aim::P50(most)]);
        }
    }
    if bench.section("silence: the leader's link to etcd swallows all") {
        Bench::times();
        for (profile, failover, most) in profiles {
            let ours = blackhole::measure(failover, rounds).await;
            bench.row(&format!("cut → first tick, `{profile}`"), ours, None, &[Aim::P50(most)]);
        }
    }
    bench.end()
}
