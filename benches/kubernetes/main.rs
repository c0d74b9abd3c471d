//! The store on Kubernetes: time without a leader, cost of idle nodes, of many shards and of uptime checks; beside
//! real candidates of client-go and controller-runtime, in the same run on the same API server.
//!
//! ```text
//! cargo bench --bench kubernetes                       # all, in full
//! cargo bench --bench kubernetes -- --quick hand-over  # a few rounds, of one kind
//! ```
//!
//! The neighbours have the durations that both libraries have by default: the Lease lasts 15 s, and they look at it
//! every 2 s. Times of our nodes come from the nodes, by the boot clock; times of the neighbours are those at which the
//! bench reads their lines.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::large_futures,
    reason = "a measurement, not a library"
)]

mod checks;
#[path = "../common/mod.rs"]
mod common;
mod failover;
mod idle;
#[allow(dead_code, unreachable_pub, reason = "shared with the tests")]
#[path = "../../tests/support/kube.rs"]
mod kube;
mod load;
#[path = "../common/node.rs"]
mod node;
#[path = "../common/processes.rs"]
mod processes;
#[path = "../../tests/support/mod.rs"]
mod support;
mod usage;

use std::{process::ExitCode, time::Duration};

use common::Bench;

/// Bound of a state with users' data, as in `docs/operations.md`.
const STATE_BYTES: f64 = 224.0 * 1024.0;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    // The processes that the bench kills are started from this same program.
    if std::env::args().nth(1).as_deref() == Some(node::COMMAND) {
        node::run().await;
        return ExitCode::SUCCESS;
    }
    let mut bench = Bench::start("Kubernetes");
    if bench.section("kubernetes, hand-over: SIGTERM for the leader → the next leads") {
        failover::hand_overs(&mut bench).await;
    }
    if bench.section("kubernetes, crash and silence: kill -9 of the leader → the next leads") {
        failover::crashes(&mut bench).await;
    }
    if bench.section("kubernetes, thaw: SIGSTOP for longer than a Lease lasts, SIGCONT") {
        failover::thaws(&mut bench).await;
    }
    let span = Duration::from_secs(bench.rounds(60, 20) as u64);
    if bench.section(&format!("kubernetes, idle: three replicas of each kind for {span:?}")) {
        idle::measure(&mut bench, span).await;
    }
    if bench.section("kubernetes, load: 10 nodes with 256 shards") {
        load::measure(&mut bench, span).await;
    }
    // The last ones are more than fit the state.
    for (count, interval) in [(50, 30), (100, 30), (100, 10), (100, 1), (1000, 60)] {
        let name = format!("kubernetes, checks: {count} every {interval} s, three nodes");
        if bench.section(&name) {
            checks::measure(&mut bench, count, Duration::from_secs(interval)).await;
        }
    }
    bench.end()
}
