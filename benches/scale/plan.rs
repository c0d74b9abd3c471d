//! The planner, and the number of shards that it moves compared with the least possible.

use bellwether::{
    clock::boot_now,
    engine::{
        LeaseId,
        planner::{Worker, assign},
    },
};

use crate::common::Samples;

const SHARDS: usize = 1024;
const NODES: usize = 100;

type Owners = Vec<Option<LeaseId>>;

/// Times of each case; the number of moved shards is asserted.
pub(crate) fn measure(rounds: usize) -> [(&'static str, Samples); 3] {
    let workers: Vec<Worker> = (0..=NODES).map(worker).collect();
    let settled = assign(&vec![None; SHARDS], &workers[..NODES]);
    let most = SHARDS.div_ceil(NODES);
    let afresh = time(rounds, &vec![None; SHARDS], &workers[..NODES], SHARDS);
    // The new node gets its share, rounded down, and no other shard moves.
    let joined = time(rounds, &settled, &workers, SHARDS / (NODES + 1));
    // The shards of the lost node go to other nodes, and no other shard moves.
    let lost = settled.iter().filter(|owner| **owner == Some(workers[0].lease)).count();
    assert!(lost <= most);
    let left = time(rounds, &settled, &workers[1..NODES], lost);
    [("from nothing", afresh), ("one node more", joined), ("one node less", left)]
}

fn worker(at: usize) -> Worker {
    Worker { lease: LeaseId(1 + at as i64), weight: 1, capacity: None }
}

fn time(rounds: usize, current: &Owners, workers: &[Worker], moves: usize) -> Samples {
    let mut samples = Samples::default();
    for _ in 0..rounds {
        let began = boot_now();
        let wanted = std::hint::black_box(assign(std::hint::black_box(current), workers));
        samples.push(boot_now().since(began));
        let moved = wanted.iter().zip(current).filter(|(wanted, now)| wanted != now).count();
        assert_eq!(moved, moves, "the least that can be moved");
    }
    samples
}
