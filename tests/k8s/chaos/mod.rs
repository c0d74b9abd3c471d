//! Three pods, and a leader that is disturbed again and again while objects are created, changed and deleted.
//!
//! A seed, which is printed, decides the kind and the time of each disturbance. `BELLWETHER_CHAOS_SEED` replays
//! the same decisions (not the same interleaving: the servers and processes are real),
//! `BELLWETHER_CHAOS_ROUNDS` sets the number of disturbances.
//!
//! # Proved properties, and how
//!
//! *Order* ([`order`]). The API server stores all objects in one etcd, and an object's
//! `metadata.resourceVersion` is the revision of the write that produced it: the resource versions in the
//! server's **answers** order all successful writes of all replicas totally, whenever they were sent or logged.
//! (The audit log is flushed before the client is answered, so no successful write is missing from it.)
//!
//! *Author*. Each replica writes as a user of its own. Each leader draws a fence by a write to the `Election`'s
//! status that only sets `fence`: so the audit log holds every draw with its author, its number and its place
//! in that order. A write belongs to the last fence that its author has drawn before it.
//!
//! *Claim*. Fence numbers grow. And for every object: once a leader has written the object, no write of an
//! earlier fence to it succeeds, because the object's resource version is no longer the one from which the late
//! write was made. A late write from an earlier term of the *same* replica counts as a write of that replica's
//! later term; its precondition fails in the same way, and a replica does not race with itself. The `Election`
//! itself is written outside of the controllers and names its term: terms never go back. The test also asserts
//! that late writes do arrive, and are refused for their precondition alone: without that precondition in
//! `Writer::status`, this test fails.
//!
//! *Aim* ([`office`]). The test reads from etcd, as it happens, which node holds office, and so checks
//! afterwards whether every blow met the node that held office at that moment.
//!
//! *Checks*. Four checks that the test never changes probe one listener each, and the listener notes when it is
//! probed: the probes themselves count, not the statuses. No check is missed for longer than its interval plus
//! the failovers that fall into it, as these were measured in etcd: from the blow until each shard is held by
//! the node that the plan names. Each failover ends within the protocol's bound, and outside of failovers no
//! check is missed.

mod blow;
mod office;
mod order;
mod scene;
mod stream;

use std::{collections::BTreeMap, env, time::Duration};

use bellwether::{engine::BootTime, tasks};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio_util::sync::CancellationToken;

use self::{
    blow::Deck,
    office::Blown,
    scene::Scene,
    stream::{Target, make, settle, stream},
};
use crate::support::etcd::reserved_port;

const LONG: Duration = Duration::from_secs(90);
/// Interval of polls of the API: these tests share two cores with the processes that they watch.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const NODES: usize = 3;
const TTL: Duration = Duration::from_secs(3);
/// Far more time than a silent leader takes to be deposed.
const DEPOSED_AFTER: Duration = Duration::from_secs(2);
/// Interval of the checks that the test never changes.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time that a machine with two busy cores may add to an interval. Measured on such a machine: 14 ms.
const BUSY: Duration = Duration::from_millis(500);
/// The bound of `docs/protocol.md`, I7 (time to recover), from the end of the fault (a leader within TTL + 0.5 s +
/// wait(`SPAN_MAX`), all shards within TTL + 0.5 s + wait(F) after that: 13.6 s), and the time to start a
/// process.
const FAILOVER_MOST: Duration = Duration::from_secs(16);

/// Results of all blows.
#[derive(Debug, Default)]
struct Tally {
    /// By name of the blow: how many were struck, and how many of these deposed the leader.
    blows: BTreeMap<String, (usize, usize)>,
    /// Blows that met a node which did not hold office (any more).
    missed: Vec<Blown>,
    met: Vec<Blown>,
}

impl Tally {
    fn deposed(&self) -> usize {
        self.blows.values().map(|(_, deposed)| deposed).sum()
    }
}

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |it| it.parse().expect("a whole number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn however_the_leader_is_disturbed_nobody_writes_late_and_all_ends_right() {
    let seed = number("BELLWETHER_CHAOS_SEED", rand::random_range(0..1_000_000));
    let rounds = usize::try_from(number("BELLWETHER_CHAOS_ROUNDS", 50)).unwrap();
    println!("BELLWETHER_CHAOS_SEED={seed} BELLWETHER_CHAOS_ROUNDS={rounds}");
    let mut scene = Box::pin(Scene::new()).await;
    scene.whole().await;

    let mut steady = Vec::new();
    for at in 0..4 {
        let target = Target::open().await;
        make(&scene.checks(), &format!("steady-{at}"), target.port).await;
        steady.push(target);
    }
    let (open, nobody) = (Target::open().await, reserved_port());
    let closed = nobody.address().port();
    let stop = CancellationToken::new();
    let streaming = stream(scene.checks(), seed, (open.port, closed), stop.clone());
    let streaming = tasks::spawn("stream", streaming);

    let tally = blows(&mut scene, seed, rounds).await;
    stop.cancel();
    let (expected, changes) = streaming.await.unwrap();
    settle(&scene.checks(), &expected).await;
    scene.the_leader_is_told().await;

    let order = match order::of(&scene.space.writes(), &scene.users()) {
        Ok(order) => order,
        Err(wrong) => panic!("{wrong}"),
    };
    println!("{changes} changes; {order:?}; {:?}; {} missed", tally.blows, tally.missed.len());
    assert_no_check_is_missed(&steady, &scene.office.failovers(&tally.met));
    // Every blow that counts has met the node in office, and few blows had to be struck again.
    assert_eq!(tally.met.len(), rounds);
    assert!(tally.missed.len() * 10 <= rounds, "{:?}", tally.missed);
    // The disturbances had an effect.
    let deposed = tally.deposed();
    assert!(rounds * 7 / 10 <= deposed, "{deposed} of {rounds} blows cost the office");
    assert!(deposed * 4 / 5 <= order.draws, "{} fences for {deposed} blows", order.draws);
    assert!(rounds < order.writes, "{order:?}");
    let held = tally.blows.get("Late").map_or(0, |(struck, _)| *struck);
    assert!(held <= 2 * order.refused_late, "{held} times writes were held: {order:?}");
}

/// Strikes the leader `rounds` times; a blow that meets another node is struck again.
async fn blows(scene: &mut Scene, seed: u64, rounds: usize) -> Tally {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut deck, mut tally) = (Deck::default(), Tally::default());
    for round in 0..rounds {
        let blow = deck.draw(&mut rng);
        let blown = loop {
            let blown = scene.disturb(blow).await;
            if scene.office.holder_at(blown.at) == Some(blown.meant) {
                break blown;
            }
            println!("{round}: {blow:?} has missed: {blown:?}");
            tally.missed.push(blown);
        };
        let (node, term) = blown.meant;
        let took = blown.whole_again.since(blown.at);
        println!(
            "{round}: {blow:?} of {node}; whole after {took:?}; term {term}, then {}",
            blown.term
        );
        let (struck, deposed) = tally.blows.entry(blow.name()).or_default();
        *struck += 1;
        *deposed += usize::from(term < blown.term);
        tally.met.push(blown);
        // Every third round leaves time for every check: no silence spans many failovers.
        let calm = if round % 3 == 2 { INTERVAL } else { Duration::ZERO };
        let pause = calm + Duration::from_millis(rng.random_range(0..400));
        tokio::time::sleep(pause).await;
    }
    tally
}

/// # Panics
///
/// If a target was not probed for longer than the interval, not counting the failovers in that time.
fn assert_no_check_is_missed(steady: &[Target], failovers: &[(BootTime, BootTime)]) {
    let (mut longest, mut most) = (Duration::ZERO, Duration::ZERO);
    for target in steady {
        for silence in target.silences() {
            let met: Vec<_> =
                failovers.iter().filter(|span| !silence.within(**span).is_zero()).collect();
            let lost: Duration = met.iter().map(|span| silence.within(**span)).sum();
            let beyond = silence.lasted().saturating_sub(INTERVAL + lost);
            (longest, most) = (longest.max(silence.lasted()), most.max(beyond));
            assert!(
                beyond < BUSY,
                "a check was missed for {:?}, {beyond:?} more than its interval and the failovers of \
                 {lost:?}: {silence:?}, {met:?}",
                silence.lasted()
            );
        }
    }
    let lasted = failovers.iter().map(|span| span.1.since(span.0)).max().unwrap_or_default();
    println!(
        "longest silence of a check {longest:?}, at most {most:?} beyond interval and failovers; longest \
         failover {lasted:?}"
    );
}
