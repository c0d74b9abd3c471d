//! Cost of many nodes, and of one idle node; punctuality of ticks; time to make a plan.
//!
//! ```text
//! cargo bench --bench scale                    # 1,000 nodes in this process, on one etcd
//! cargo bench --bench scale -- --quick plan    # the planner only
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::large_futures,
    reason = "a measurement, not a library"
)]

#[path = "../common/mod.rs"]
mod common;
mod cycles;
mod few;
mod many;
mod plan;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::{process::ExitCode, time::Duration};

use common::{Aim, Bench};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let mut bench = Bench::start("Scale");
    // This section comes first: memory that other sections have allocated and freed would reduce the figure.
    // `BELLWETHER_NODES=500` sets another number of nodes.
    let asked = std::env::var("BELLWETHER_NODES").ok().map(|nodes| nodes.parse().unwrap());
    let count = asked.unwrap_or(bench.rounds(1000, 200));
    if bench.section(&format!("many: {count} nodes in one process, on one etcd")) {
        many::measure(&mut bench, count).await;
    }
    let cycles = bench.rounds(1000, 100);
    if bench
        .section(&format!("cycles: {cycles} starts and stops, {cycles} sessions lost and regained"))
    {
        cycles::measure(&mut bench, cycles).await;
    }
    if bench.section("peers: put → event at all of 10 peers") {
        let rounds = bench.rounds(2000, 400);
        let few::PutToEvent { ours, plain_watch, all_plain } = few::put_to_event(rounds).await;
        Bench::times();
        let aims = &[Aim::Ratio(1.1)];
        bench.row(
            "a node's put → all have it, plain: a watch",
            ours.clone(),
            Some(plain_watch),
            aims,
        );
        bench.row("the same, plain: put and watch", ours, Some(all_plain), &[]);
    }
    if bench.section("ticks: how late a routine runs, every 50 ms") {
        let rounds = bench.rounds(1200, 160);
        let (leader, follower, plain) = few::ticks(rounds).await;
        Bench::times();
        bench.row("leader's routine", leader, Some(plain.clone()), &[Aim::P99(1.0)]);
        bench.row("follower's routine", follower, Some(plain), &[Aim::P99(1.0)]);
    }
    if bench.section("idle: what nodes cost that have nothing to do, ticking every 50 ms") {
        let span = Duration::from_secs(bench.rounds(20, 5) as u64);
        let idle = few::idle(span).await;
        Bench::values();
        bench.value("a leader, of one core", idle.leader * 100.0, "%", Some(1.0));
        bench.value("each of 10 followers, of one core", idle.follower * 100.0, "%", Some(1.0));
        bench.value("writes of the leader", idle.leader_writes, "per second", Some(5.5));
        bench.value("writes of 10 followers", idle.follower_writes, "per second", Some(0.0));
    }
    if bench.section("plan: 1,024 shards for 100 nodes") {
        let rounds = bench.rounds(1000, 200);
        Bench::times();
        for (what, times) in plan::measure(rounds) {
            bench.row(what, times, None, &[Aim::P99(10.0)]);
        }
    }
    bench.end()
}
