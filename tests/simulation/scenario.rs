//! The parameters of a run: how many nodes, which faults, how often. All are drawn from the seed.
//!
//! Each run enables only some kinds of faults, with its own weights (swarm testing, Groce et al.): a run with
//! all faults at once rarely gets far enough for anything to go wrong.

use std::time::Duration;

use bellwether::engine::{Failover, WorkType, timing::StoreTiming};

use crate::{
    chance::{Chance, MILLIS, SECONDS, Time},
    world::World,
};

/// A move of a scripted attack: tried after every event until it returns true.
pub type Move = fn(&mut World) -> bool;

/// A kind of fault that is injected at a time, not at a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A process does nothing for a while; its clock goes on.
    Freeze,
    /// Only the driver of a process stops; its work goes on.
    Starve,
    /// No request of a node arrives.
    CutUp,
    /// No answer and no event arrives at a node.
    CutDown,
    /// Neither requests of a node nor answers and events arrive.
    CutBoth,
    /// A node's link is slow, or deaf in one direction, for a while.
    BadLink,
    /// A process of a node dies.
    Kill,
    /// A node receives a request to leave.
    Stop,
    /// The leader receives a request to resign.
    Resign,
    /// A node starts to drain its shards, and later accepts shards again.
    Drain,
    /// A node's work cannot go on, and later can again.
    Wedge,
    /// A node's clock gets another rate.
    Drift,
    /// A node's watch delivers nothing for a while.
    WatchStall,
    /// The watch of a node breaks.
    WatchBreak,
    /// The store does nothing for a while; requests sent meanwhile are carried out later.
    StoreStall,
    /// The store changes its leader: requests on the wire are lost, every lease gets its full TTL again, and
    /// the deposed leader still answers keepalives.
    Failover,
    /// An operator revokes a lease.
    Revoke,
    /// An operator deletes a key.
    Delete,
    /// An operator overwrites a key.
    Overwrite,
    /// The store compacts its old revisions.
    Compact,
    /// The store comes back empty.
    Wipe,
    /// The store comes back from a backup.
    Restore,
    /// A Go node joins.
    GoJoin,
    /// A Go node dies.
    GoLeave,
    /// A second process starts under an id that is in use.
    Duplicate,
    /// The resign request key is written.
    ResignRequest,
    /// A drain request key is written, and later deleted.
    DrainRequest,
}

impl Fault {
    pub const ALL: [Self; 27] = [
        Self::Freeze,
        Self::Starve,
        Self::CutUp,
        Self::CutDown,
        Self::CutBoth,
        Self::BadLink,
        Self::Kill,
        Self::Stop,
        Self::Resign,
        Self::Drain,
        Self::Wedge,
        Self::Drift,
        Self::WatchStall,
        Self::WatchBreak,
        Self::StoreStall,
        Self::Failover,
        Self::Revoke,
        Self::Delete,
        Self::Overwrite,
        Self::Compact,
        Self::Wipe,
        Self::Restore,
        Self::GoJoin,
        Self::GoLeave,
        Self::Duplicate,
        Self::ResignRequest,
        Self::DrainRequest,
    ];

    pub fn index(self) -> usize {
        self as usize
    }
}

/// The fault of a node's link to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadLink {
    /// Requests and answers are delayed by this much, per direction.
    Slow { up: Time, down: Time },
    /// Requests arrive, answers and events do not.
    Deaf,
    /// Nothing arrives in either direction.
    Stalled,
}

impl BadLink {
    /// A drawn link: slow by a tenth to one and a half of D in one or both directions, or dead in one or both.
    pub fn drawn(chance: &mut Chance, d: Duration) -> Self {
        let d = d.as_nanos() as Time;
        let slow = chance.between(d / 10, d * 3 / 2);
        match chance.below(6) {
            0 => Self::Deaf,
            1 => Self::Stalled,
            2 => Self::Slow { up: slow, down: 0 },
            3 => Self::Slow { up: 0, down: slow },
            _ => Self::Slow { up: slow, down: slow },
        }
    }
}

/// Parameters of a cluster in the Kubernetes API.
#[derive(Clone, Copy, Debug)]
pub struct KubeScenario {
    pub timing: StoreTiming,
    /// Largest error of a node's wall clock, in ms.
    pub skew_ms: u64,
    /// Requests that the API server answers with 429, in millionths.
    pub throttle_ppm: u32,
}

/// Parameters of one run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Seed that all draws of the run derive from.
    pub seed: u64,
    /// D and H of each node.
    pub nodes: Vec<Failover>,
    /// Time to live of the leases, in seconds.
    pub ttl: u64,
    /// Work types with their numbers of shards.
    pub works: Vec<(WorkType, u32)>,
    /// New tick of a rolling update, and when the update begins.
    pub new_tick: Option<(Duration, Time)>,
    /// Whether a cluster of that name had ended cleanly before: then no node waits at first.
    pub used_before: bool,
    /// Length of the time in which faults are injected.
    pub faults_for: Time,
    /// Average time between two faults.
    pub fault_every: Time,
    /// Weight of each kind of fault.
    pub weights: [u32; Fault::ALL.len()],
    /// Requests that never arrive, in millionths.
    pub lose_request_ppm: u32,
    /// Answers that never arrive, in millionths.
    pub lose_answer_ppm: u32,
    /// Requests that arrive long after, in millionths.
    pub late_ppm: u32,
    /// Messages that arrive twice, in millionths.
    pub duplicate_ppm: u32,
    /// Messages that are slow, in millionths.
    pub slow_ppm: u32,
    /// Steps of a process that are followed by a pause, in millionths.
    pub pause_ppm: u32,
    /// Upper bound of the ordinary latency of a message.
    pub latency: Time,
    /// Upper bound of the additional delay of an event.
    pub lag: Time,
    /// Upper bound of each clock's drift.
    pub drift_ppm: u64,
    /// Timeout of a call.
    pub call_timeout: Duration,
    /// Percentage of processes with a parent that ends their incarnation.
    pub supervised_percent: u32,
    /// Percentage of endings of work that take seconds.
    pub slow_join_percent: u32,
    /// Node whose link stays bad after all other faults have ended (I8: the other nodes lead and work).
    pub bad_for_good: Option<(usize, BadLink)>,
    /// Whether users put and delete own state at any time, also during other calls (I5, own state).
    pub own_calls: bool,
    /// How the cluster is kept in the Kubernetes API, if it is.
    pub kube: Option<KubeScenario>,
    /// Moves of a scripted attack, in order.
    pub script: &'static [Move],
}

impl Scenario {
    /// The scenario of that seed.
    pub fn of(seed: u64) -> Self {
        let chance = &mut Chance::new(seed ^ 0x05ce_2a41_0000_0000);
        let nodes = match chance.below(1_000) {
            0..700 => 3,
            700..780 => 2,
            780..990 => chance.between(4, 6),
            990..995 => chance.between(7, 15),
            _ => chance.between(16, 50),
        };
        Self::with_nodes(seed, nodes as usize, chance)
    }

    /// A scenario of that seed with this many nodes.
    pub fn with_nodes(seed: u64, nodes: usize, chance: &mut Chance) -> Self {
        let profiles = [Failover::FAST, Failover::DEFAULT, Failover::STABLE];
        let same = chance.pick(&profiles).copied().unwrap_or_default();
        let mixed = chance.percent(30);
        let works = if chance.percent(25) { 2 } else { 1 };
        let mut weights = [0; Fault::ALL.len()];
        for fault in Fault::ALL.into_iter().filter(|fault| *fault != Fault::BadLink) {
            let percent = match fault {
                Fault::Wipe | Fault::Restore => 12,
                Fault::GoJoin | Fault::GoLeave => 20,
                _ => 35,
            };
            if chance.percent(percent) {
                weights[fault.index()] = chance.between(1, 10) as u32;
            }
        }
        // Links draw from a separate stream, so that the seeds recorded for other mutants keep their runs.
        let links = &mut Chance::new(seed ^ 0xbad1_0001_0000);
        if links.percent(35) {
            weights[Fault::BadLink.index()] = links.between(1, 10) as u32;
        }
        let drift_ppm = [0, 1_000, 100_000, 100_000][chance.below(4) as usize];
        Self {
            seed,
            nodes: (0..nodes)
                .map(|_| if mixed { *chance.pick(&profiles).unwrap_or(&same) } else { same })
                .collect(),
            ttl: chance.between(2, 5),
            works: (0..works)
                .map(|n| {
                    let shards = if chance.percent(90) { 4 } else { 24 };
                    (WorkType::new(["checks", "sites"][n]), chance.between(1, shards) as u32)
                })
                .collect(),
            used_before: chance.percent(80),
            faults_for: chance.between(4, 12) * SECONDS,
            fault_every: chance.log_between(60 * MILLIS, 1_500 * MILLIS),
            weights,
            lose_request_ppm: some(chance, 40, 100, 50_000),
            lose_answer_ppm: some(chance, 50, 100, 100_000),
            late_ppm: some(chance, 40, 100, 30_000),
            slow_ppm: some(chance, 40, 100, 50_000),
            pause_ppm: some(chance, 40, 50, 5_000),
            latency: chance.log_between(MILLIS, 20 * MILLIS),
            lag: chance.log_between(MILLIS, 60 * MILLIS),
            drift_ppm,
            call_timeout: Duration::from_millis(chance.between(200, 1_500)),
            supervised_percent: [0, 50, 100][chance.below(3) as usize],
            slow_join_percent: some(chance, 30, 1, 30),
            duplicate_ppm: some(chance, 40, 100, 50_000),
            new_tick: chance
                .percent(10)
                .then(|| (Duration::from_millis(80), chance.between(500, 4_000) * MILLIS)),
            bad_for_good: None,
            own_calls: false,
            kube: None,
            script: &[],
        }
    }

    /// The same scenario, with one node's link bad after all other faults have ended.
    pub fn with_bad_link(mut self) -> Self {
        let chance = &mut Chance::new(self.seed ^ 0xbad1_0000_0000);
        let slot = chance.below(self.nodes.len() as u64) as usize;
        self.bad_for_good = Some((slot, BadLink::drawn(chance, self.nodes[slot].d())));
        // Long enough that late answers still arrive before the timeout.
        self.call_timeout = Duration::from_millis(chance.between(1_000, 3_000));
        self.weights[Fault::BadLink.index()] = 5;
        self
    }

    /// The same scenario, with users that put and delete at any time. No operator deletes or overwrites single
    /// keys, since the marker of T17 (own keys) may be one of them.
    pub fn with_own_calls(mut self) -> Self {
        self.own_calls = true;
        self.weights[Fault::Delete.index()] = 0;
        self.weights[Fault::Overwrite.index()] = 0;
        self
    }

    /// The same scenario, in the Kubernetes API. A fault of an etcd stands for one of the API server, and a node of
    /// the Go package for a candidate of client-go.
    pub fn on_kubernetes(mut self) -> Self {
        let chance = &mut Chance::new(self.seed ^ 0x6b75_6265_0000);
        let calm = chance.percent(4);
        let timing = if calm { StoreTiming::KUBERNETES_CALM } else { StoreTiming::KUBERNETES };
        let profiles = [
            StoreTiming::KUBERNETES.failover,
            StoreTiming::KUBERNETES_FAST.failover,
            Failover::DEFAULT,
        ];
        let same = *chance.pick(&profiles).expect("there are some");
        let mixed = chance.percent(30);
        for node in &mut self.nodes {
            *node = match (calm, mixed) {
                (true, _) => timing.failover,
                (false, true) => *chance.pick(&profiles).expect("there are some"),
                (false, false) => same,
            };
        }
        self.nodes.truncate(12);
        self.ttl = chance.between(4, 10);
        self.faults_for += chance.between(0, 8) * SECONDS;
        self.call_timeout = Duration::from_millis(chance.between(500, 3_000));
        self.kube = Some(KubeScenario {
            timing,
            skew_ms: [0, 500, 60_000][chance.below(3) as usize],
            throttle_ppm: some(chance, 30, 100, 50_000),
        });
        self
    }

    /// A scenario without any faults.
    pub fn quiet(seed: u64, nodes: usize) -> Self {
        Self {
            weights: [0; Fault::ALL.len()],
            lose_request_ppm: 0,
            lose_answer_ppm: 0,
            late_ppm: 0,
            duplicate_ppm: 0,
            new_tick: None,
            slow_ppm: 0,
            pause_ppm: 0,
            slow_join_percent: 0,
            latency: 2 * MILLIS,
            lag: MILLIS,
            ..Self::with_nodes(seed, nodes, &mut Chance::new(seed))
        }
    }

    /// Restricts the faults to these, with these weights.
    pub fn only(mut self, weights: &[(Fault, u32)]) -> Self {
        self.weights = [0; Fault::ALL.len()];
        for (fault, weight) in weights {
            self.weights[fault.index()] = *weight;
        }
        self
    }
}

/// Zero, or, with this probability in percent, a number between `low` and `high`.
fn some(chance: &mut Chance, percent: u32, low: u64, high: u64) -> u32 {
    if chance.percent(percent) { chance.log_between(low, high) as u32 } else { 0 }
}
