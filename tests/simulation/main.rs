//! Whole clusters in virtual time: the real engine, the real transactions, the real memory store, and every
//! fault that the protocol claims to withstand. See `world` for how a run goes, `rules` for the invariants,
//! `scenario` for the faults, `attacks` for scripted faults.
//!
//! `BELLWETHER_SIM_SEEDS` and `BELLWETHER_SIM_FROM` select the seeds; a failure prints the last lines of its
//! trace (`BELLWETHER_SIM_LINES`) and how to run that seed alone.

#![allow(unreachable_pub, reason = "everything in a test binary is out of reach")]
#![cfg_attr(
    not(feature = "mutants"),
    allow(dead_code, reason = "some rules are left out by the mutants' search alone")
)]

mod attacks;
mod breaks;
mod chance;
mod depot;
mod harm;
mod host;
mod kube;
#[cfg(feature = "mutants")]
mod mutants;
mod own;
mod parent;
mod rules;
mod scenario;
mod stats;
mod views;
mod wire;
mod world;

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use breaks::Break;
use scenario::Scenario;
use stats::Stats;
use world::{Report, Trace, run};

/// Reads a number from the environment.
fn env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

/// Runs seeds on all cores until one breaks a rule; returns the sum of the statistics, or the first seed that
/// broke a rule.
fn search(
    seeds: std::ops::Range<u64>,
    broken: Option<Break>,
    scenario: impl Fn(u64) -> Scenario + Sync,
) -> Result<Stats, Box<(u64, Report)>> {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let sum = Mutex::new(Stats::default());
    let found: Mutex<Option<(u64, Report)>> = Mutex::new(None);
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                let mut own = Stats::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seeds.end <= seed || stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let report = run(scenario(seed), broken, Trace::Hash);
                    own.add(&report.stats);
                    if report.violation.is_some() {
                        stop.store(true, Ordering::Relaxed);
                        let mut found = found.lock().expect("nobody panics");
                        if found.as_ref().is_none_or(|(other, _)| seed < *other) {
                            *found = Some((seed, report));
                        }
                    }
                }
                sum.lock().expect("nobody panics").add(&own);
            });
        }
    });
    match found.into_inner().expect("nobody panics") {
        Some(found) => Err(Box::new(found)),
        None => Ok(sum.into_inner().expect("nobody panics")),
    }
}

/// Describes a failed run, with the command that repeats it.
fn tell(seed: u64, scenario: Scenario, broken: Option<Break>) -> String {
    let lines = env("BELLWETHER_SIM_LINES", 200) as usize;
    let nodes = scenario.nodes.len();
    let report = run(scenario, broken, Trace::Lines);
    let from = report.trace.len().saturating_sub(lines);
    let violation = report.violation.expect("the same seed breaks the same rule");
    format!(
        "{}\nseed {seed}, {nodes} nodes: {:?} is broken at {:.6} s: {}\nreplay: \
         BELLWETHER_SIM_FROM={seed} BELLWETHER_SIM_SEEDS=1 cargo test --features mutants --test \
         simulation seeds",
        report.trace[from..].join("\n"),
        violation.rule,
        violation.at as f64 / 1e9,
        violation.what,
    )
}

#[test]
fn the_invariants_hold_over_all_seeds() {
    let from = env("BELLWETHER_SIM_FROM", 0);
    let count = env("BELLWETHER_SIM_SEEDS", 20_000);
    let begun = bellwether::clock::boot_now();
    match search(from..from + count, None, Scenario::of) {
        Err(found) => panic!("{}", tell(found.0, Scenario::of(found.0), None)),
        Ok(stats) => {
            println!("{count} seeds in {:?}", bellwether::clock::boot_now().since(begun));
            stats.print();
            if 2_000 <= count {
                assert_something_happened(&stats);
            }
        }
    }
}

#[test]
fn the_invariants_hold_in_the_kubernetes_api() {
    let from = env("BELLWETHER_SIM_FROM", 0);
    let count = env("BELLWETHER_SIM_SEEDS", 20_000) / 20;
    let begun = bellwether::clock::boot_now();
    let scenario = |seed| Scenario::of(seed).on_kubernetes();
    match search(from..from + count.max(1), None, scenario) {
        Err(found) => panic!("{}", tell(found.0, scenario(found.0), None)),
        Ok(stats) => {
            println!("{count} seeds in {:?}", bellwether::clock::boot_now().since(begun));
            stats.print();
            assert!(stats.runs < stats.terms && stats.runs < stats.moves);
            assert!(stats.runs < stats.fenced && stats.runs < stats.views_compared);
            if 500 <= count {
                assert!(0 < stats.kube_conflicts && 0 < stats.kube_gaps && 0 < stats.throttled);
                assert!(0 < stats.kube_expired && 0 < stats.kube_neighbours);
            }
        }
    }
}

#[test]
fn a_node_whose_link_stays_bad_makes_room_for_another() {
    let from = env("BELLWETHER_SIM_FROM", 0);
    let count = env("BELLWETHER_SIM_SEEDS", 20_000) / 4;
    let scenario = |seed| Scenario::of(seed).with_bad_link();
    match search(from..from + count, None, scenario) {
        Err(found) => panic!("{}", tell(found.0, scenario(found.0), None)),
        Ok(stats) => assert!(stats.runs < stats.terms, "more than one term a run"),
    }
}

#[test]
fn own_state_is_as_the_last_call_left_it() {
    let from = env("BELLWETHER_SIM_FROM", 0);
    let count = env("BELLWETHER_SIM_SEEDS", 20_000) / 4;
    let scenario = |seed| Scenario::of(seed).with_own_calls();
    match search(from..from + count, None, scenario) {
        Err(found) => panic!("{}", tell(found.0, scenario(found.0), None)),
        Ok(stats) => {
            stats.print();
            assert!(stats.runs < stats.own_checked, "more than one node's state a run");
            if 500 <= count {
                assert!(0 < stats.deletes && 0 < stats.own_put_back);
                assert!(0 < stats.late_commits.of("put") && 0 < stats.late_commits.of("delete"));
            }
        }
    }
}

/// The failure of each seed is explained in a comment of the engine, at the rule that fixed it.
#[test]
fn seeds_that_once_broke_a_rule_break_none() {
    for (seed, what) in [
        (1268, "node keys on no lease forbade the switch of the tick for ever"),
        (17_890, "a deleted tick stayed lost, and a joiner was refused for ever"),
        (4190, "a node said that it had left cleanly while work of a lost session ran"),
        (1191, "a backup brought back a held key with a shard that its node had let go of"),
        (8364, "an operator hit the very revision of an office of the lost history"),
        (14_939, "a backup brought back a drain request after all faults had ended"),
        (15_674, "a wiped store counted to the term of a frozen leader again"),
    ] {
        let report = run(Scenario::of(seed), None, Trace::Hash);
        assert!(report.violation.is_none(), "{what}: {}", tell(seed, Scenario::of(seed), None));
    }
}

/// As [`seeds_that_once_broke_a_rule_break_none`], in the Kubernetes API.
#[test]
fn seeds_that_once_broke_a_rule_in_the_kubernetes_api_break_none() {
    let what = "the holder left the Lease with a record that an operator had made unreadable, and client-go took it";
    let scenario = Scenario::of(1387).on_kubernetes();
    let report = run(scenario.clone(), None, Trace::Hash);
    assert!(report.violation.is_none(), "{what}: {}", tell(1387, scenario, None));
}

/// The run had every kind of fault, faults at every transaction, and a cluster that worked through them.
fn assert_something_happened(stats: &Stats) {
    assert!(stats.runs < stats.terms, "more than one term a run");
    assert!(stats.runs < stats.moves, "more than one move of a shard a run");
    assert!(stats.runs < stats.fenced && stats.runs < stats.shard_writes);
    assert!(stats.runs < stats.views_compared, "more than one view a run");
    assert!(0 < stats.big_runs && 0 < stats.duplicates);
    assert!(0 < stats.compacted_watches && 0 < stats.stale_renewals && 0 < stats.ends_by_parents);
    for (fault, count) in scenario::Fault::ALL.iter().zip(&stats.faults) {
        assert!(0 < *count, "{fault:?} never happened");
    }
    for call in [
        "read_join",
        "join",
        "seed",
        "enrol",
        "withdraw",
        "take",
        "beat",
        "resign",
        "stop",
        "read_end",
        "end",
        "revoke",
        "write_held",
        "check",
        "init_plan",
        "plan",
        "delete_held",
        "delete_squatter",
        "write_node",
        "write_member",
        "write_tick_key",
        "switch_tick",
        "grant",
        "renew",
    ] {
        assert!(0 < stats.committed.of(call), "{call} never took effect");
        assert!(0 < stats.lost_answers.of(call), "no answer to {call} was lost");
        assert!(0 < stats.late_commits.of(call), "{call} never took effect late");
    }
}

#[test]
fn a_quiet_cluster_settles_and_stays_settled() {
    for (seed, nodes) in [(1, 1), (2, 2), (3, 3), (4, 7)] {
        let report = run(Scenario::quiet(seed, nodes), None, Trace::Hash);
        assert!(report.violation.is_none(), "{}", tell(seed, Scenario::quiet(seed, nodes), None));
        assert_eq!(report.stats.terms, 1);
        assert_eq!(report.stats.sessions_lost, 0);
        report.stats.print();
    }
}

#[test]
fn the_same_seed_twice_is_the_same_trace() {
    for seed in 0..40 {
        let first = run(Scenario::of(seed), None, Trace::Lines);
        let second = run(Scenario::of(seed), None, Trace::Lines);
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert!(first.trace == second.trace, "seed {seed}");
        assert_eq!(first.stats, second.stats, "seed {seed}");
    }
}
