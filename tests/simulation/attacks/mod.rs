//! The attacks of the protocol's table, each played as the table describes it: a script makes its moves one
//! after another, each as soon as its condition holds. The engine must withstand every attack. Without the rule
//! that protects against the attack, at least one seed must fail: an invariant breaks, or the cluster never
//! reaches the last move.
//!
//! `tests/repo/protocol.rs` lists and checks which test covers which row of the table.

mod cast;
mod ends;
mod moves;
mod operators;
mod reigns;
mod stores;

use bellwether::engine::{
    Call, Failover, WorkType,
    mutant::Mutant::{self, *},
};

use crate::{
    breaks::{Break, Broken},
    chance::{MILLIS, SECONDS},
    env,
    host::ProcId,
    scenario::{Move, Scenario},
    tell,
    wire::{Ask, From, InFlight},
    world::{Trace, World, run},
};

/// Number of seeds for each attack: latencies, clocks and the first leader differ.
const SEEDS: u64 = 12;

fn engine(mutant: Mutant) -> Break {
    Break::Engine(mutant)
}

fn around(broken: Broken) -> Break {
    Break::Harness(broken)
}

fn stage(seed: u64, script: &'static [Move], tune: fn(&mut Scenario)) -> Scenario {
    let mut scenario = Scenario::quiet(seed, 3);
    scenario.nodes = vec![Failover::DEFAULT; 3];
    scenario.works = vec![(WorkType::new("checks"), 6)];
    scenario.used_before = true;
    scenario.ttl = 5;
    scenario.faults_for = 25 * SECONDS;
    scenario.call_timeout = std::time::Duration::from_millis(300);
    scenario.script = script;
    tune(&mut scenario);
    scenario
}

/// Plays an attack against the engine, and against the engine without each of `rules`.
fn attack(script: &'static [Move], rules: &[Break], tune: fn(&mut Scenario)) {
    for seed in 0..SEEDS {
        let report = run(stage(seed, script, tune), None, Trace::Hash);
        assert!(report.violation.is_none(), "{}", tell(seed, stage(seed, script, tune), None));
        if report.moves != script.len() {
            let trace = run(stage(seed, script, tune), None, Trace::Lines).trace;
            let made = trace.iter().rposition(|line| line.contains("MOVE ")).unwrap_or(0);
            let lines =
                &trace[made..trace.len().min(made + env("BELLWETHER_SIM_LINES", 200) as usize)];
            panic!("seed {seed}: move {} was never made\n{}", report.moves + 1, lines.join("\n"));
        }
    }
    for rule in rules {
        if matches!(rule, Break::Engine(_)) && !cfg!(feature = "mutants") {
            continue;
        }
        let played = |seed| run(stage(seed, script, tune), Some(*rule), Trace::Hash);
        let broken = |seed| {
            let violation = played(seed).violation?;
            Some((seed, format!("{:?}: {}", violation.rule, violation.what)))
        };
        let hangs = |seed| {
            let moves = played(seed).moves;
            (moves < script.len()).then(|| (seed, format!("it never came to move {}", moves + 1)))
        };
        let found = (0..SEEDS).find_map(broken).or_else(|| (0..SEEDS).find_map(hangs));
        match found {
            Some((seed, what)) => println!("{rule:?}: by seed {seed}: {what}"),
            None => panic!("{rule:?} withstands the attack in {SEEDS} seeds"),
        }
    }
}

fn plain(_: &mut Scenario) {}

fn work_ends_slowly(scenario: &mut Scenario) {
    scenario.slow_join_percent = 100;
}

fn parents_watch(scenario: &mut Scenario) {
    scenario.supervised_percent = 100;
}

fn first_is_patient(scenario: &mut Scenario) {
    scenario.nodes = vec![Failover::STABLE, Failover::FAST, Failover::FAST];
}

// Moves that several scripts share.

const ANOTHER_LEADS: Move = |world| world.another_leads();
const ANOTHER_ACTS: Move = |world| world.another_acts(world.cast[1]);

/// The network delivers all requests that it has held back.
const LET_GO: Move = |world| {
    world.hold = None;
    world.release(|_| true);
    true
};

// Predicates for requests on the wire.

fn by(flight: &InFlight) -> Option<ProcId> {
    match flight.from {
        From::Engine(p, _) | From::Work(p) => Some(p),
        From::Parent(..) => None,
    }
}

fn is_beat(flight: &InFlight) -> bool {
    matches!(flight.ask, Ask::Call(Call::Beat { .. }))
}

fn is_take(flight: &InFlight) -> bool {
    matches!(flight.ask, Ask::Call(Call::Take(_)))
}

fn is_resign(flight: &InFlight) -> bool {
    matches!(flight.ask, Ask::Call(Call::Resign { .. }))
}

fn is_withdraw(flight: &InFlight) -> bool {
    matches!(flight.ask, Ask::Call(Call::Withdraw { .. }))
}

fn is_plan(flight: &InFlight) -> bool {
    matches!(flight.ask, Ask::Call(Call::Plan { .. }))
}

/// Whether the request is a claim or a release.
fn is_claim(flight: &InFlight) -> bool {
    matches!(flight.ask, Ask::Call(Call::WriteHeld { .. }))
}

fn is_put(flight: &InFlight) -> bool {
    matches!(&flight.ask, Ask::Own(ask) if ask.name() == "put")
}

fn is_fenced(flight: &InFlight) -> bool {
    matches!(flight.ask, Ask::Fenced(_))
}

fn is_shard_write(flight: &InFlight) -> bool {
    matches!(flight.ask, Ask::ShardWrite(..))
}

/// Whether the process in this role of the cast (0, 1 or 2) sent the request.
fn of(world: &World, role: usize, flight: &InFlight) -> bool {
    by(flight) == world.cast.get(role).copied()
}
