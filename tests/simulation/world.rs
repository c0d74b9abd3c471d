//! A run: a cluster, its store, its network and its faults, as a sequence of events in time.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    time::{Duration, SystemTime},
};

use bellwether::{
    engine::{
        BootTime, Config, Dead, Held, Input, LeaseId, NodeId, Revision, ShardEpoch, StoreTiming,
        TickPolicy, WorkOffer, timing,
    },
    store::protocol::Request,
};

use crate::{
    breaks::{Break, Broken},
    chance::{Chance, Clock, MILLIS, SECONDS, Time, mix},
    depot::Depot,
    harm::GoNode,
    host::{Proc, ProcId, Shard},
    kube::{Kube, KubeBreak, KubeEvent, is_delayed},
    own::Own,
    parent::Parent,
    rules::{Rule, Violation},
    scenario::{BadLink, Scenario},
    stats::Stats,
    wire::{Answered, InFlight, Item},
};

/// Limit on the events of a run, which only an endless loop reaches.
const MOST_EVENTS: u64 = 200_000;

/// A time longer than any run.
const FOR_GOOD: Time = 3_600 * SECONDS;

/// Writes a line of the trace, if the trace is kept.
macro_rules! note {
    ($world:expr, $($what:tt)*) => {
        if $world.trace.is_some() {
            let line = format!($($what)*);
            $world.write_down(line);
        }
    };
}
pub(crate) use note;

/// An event at a time of the run.
#[derive(Debug)]
pub enum Event {
    Alarm(ProcId),
    Run(ProcId),
    Arrive(Box<InFlight>),
    Answer(Box<Answered>),
    Item(ProcId, Box<Item>),
    WatchArrive(ProcId),
    WatchOpen(ProcId, u64),
    SendList(ProcId, u64),
    ListArrive(ProcId, u64, BootTime),
    Progress,
    Act(ProcId, u64),
    ShardAct(ProcId, Box<(Shard, ShardEpoch)>),
    WorkJoined(ProcId, u64),
    ShardJoined(ProcId, Box<Shard>),
    PutState(ProcId),
    NewState(usize),
    StartAgain(ProcId),
    StopNow(ProcId),
    Fit(ProcId),
    Undrain(ProcId),
    Roll(usize),
    DeleteKey(Vec<u8>),
    Begin(usize, Proof),
    Parent(usize),
    Leases,
    Store,
    Go(usize),
    Kube(Box<KubeEvent>),
    Snapshot,
    Trouble,
    Heal,
    Judge,
}

/// Proof that a new process has of the death of the process before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// No proof, or the parent has ended the earlier process.
    None,
    /// The new process holds the lock of the same pod.
    Lock,
}

/// The place where one node's processes run: machine, links, parent.
pub struct Slot {
    pub clock: Clock,
    pub up_cut_until: Time,
    pub down_cut_until: Time,
    /// Until when its messages are slow, and by how much per direction.
    pub slow_until: Time,
    pub slow_up: Time,
    pub slow_down: Time,
    /// Until when a deposed leader of the store answers its renewals.
    pub stale_until: Time,
    /// Until when its member of the store has no quorum, and carries out nothing that needs one.
    pub minority_until: Time,
    /// The process that runs now.
    pub proc: Option<ProcId>,
    pub parent: Parent,
    /// The parent's side of the store, in a cluster in the Kubernetes API.
    pub parents_side: Option<usize>,
    /// Number of changes of the node's own state.
    pub state: u64,
}

struct Entry {
    at: Time,
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// A whole simulated cluster.
pub struct World {
    pub now: Time,
    pub scenario: Scenario,
    pub chance: Chance,
    pub depot: Depot,
    pub slots: Vec<Slot>,
    pub procs: Vec<Proc>,
    pub go: Vec<GoNode>,
    /// The API server, if the cluster is kept there.
    pub kube: Option<Kube>,
    pub kube_break: Option<KubeBreak>,
    /// The process that drew each lease.
    pub owners: BTreeMap<LeaseId, ProcId>,
    /// Every office that was ever taken, in any history: lease, and m(cand) as its TAKE wrote it.
    pub taken: BTreeSet<(LeaseId, i64)>,
    /// The processes that run tasks of each shard.
    pub runners: BTreeMap<Shard, Vec<ProcId>>,
    pub stats: Stats,
    pub violation: Option<Violation>,
    pub trace: Option<Vec<String>>,
    pub healed: bool,
    /// Number of moves of the script that were made.
    moves: usize,
    /// Processes, shard, time and revision that the moves of a script refer to.
    pub cast: Vec<ProcId>,
    pub prop: Option<Shard>,
    pub since: Time,
    pub mark: i64,
    /// Predicate for the requests that the network holds back, and the requests that it has held back.
    pub hold: Option<fn(&Self, &InFlight) -> bool>,
    pub held: Vec<InFlight>,
    /// Whether the next restored backup has its revisions bumped; drawn if `None`.
    pub restored_bumped: Option<bool>,
    /// Revision at which each held key was last written by its own node.
    pub held_written: BTreeMap<LeaseId, Revision>,
    /// Held keys that are gone, with the time of the loss and the last content.
    pub gone: BTreeMap<LeaseId, (Time, Held)>,
    pub broken: Option<Broken>,
    engine_break: Option<Break>,
    queue: BinaryHeap<Reverse<Entry>>,
    entries: u64,
    hash: u64,
    /// Time since when the cluster has been settled.
    settled_since: Option<Time>,
    led_since: Option<Time>,
    /// Last time with exactly one leader, and last time with all shards worked on.
    led_at: Time,
    owned_at: Time,
    done: bool,
}

/// Result of a run.
#[derive(Clone, Debug)]
pub struct Report {
    pub hash: u64,
    pub stats: Stats,
    pub violation: Option<Violation>,
    pub trace: Vec<String>,
    /// Number of moves of the script that were made.
    pub moves: usize,
}

/// Whether the trace keeps its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    Hash,
    Lines,
}

/// Runs a scenario to its end.
pub fn run(scenario: Scenario, broken: Option<Break>, trace: Trace) -> Report {
    let mut world = World::new(scenario, broken, trace);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.play()));
    if let Err(panic) = outcome {
        let what = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap_or_default();
        world.violation = Some(Violation { rule: Rule::Panic, at: world.now, what });
    }
    if std::env::var_os("BELLWETHER_SIM_STATE").is_some() {
        for p in 0..world.procs.len() {
            if world.procs[p].alive {
                note!(world, "{:?}", world.procs[p].engine);
            }
        }
    }
    world.stats.traces = world.hash;
    Report {
        hash: world.hash,
        moves: world.moves,
        stats: world.stats,
        violation: world.violation,
        trace: world.trace.unwrap_or_default(),
    }
}

impl World {
    pub fn new(scenario: Scenario, broken: Option<Break>, trace: Trace) -> Self {
        let mut chance = Chance::new(scenario.seed);
        let depot = Depot::new(chance.bits());
        let slots = (0..scenario.nodes.len())
            .map(|_| {
                let error = drift(&mut chance, scenario.drift_ppm);
                Slot {
                    clock: Clock::new(chance.below(1_000_000) * SECONDS, error),
                    up_cut_until: 0,
                    down_cut_until: 0,
                    slow_until: 0,
                    slow_up: 0,
                    slow_down: 0,
                    stale_until: 0,
                    minority_until: 0,
                    proc: None,
                    parent: Parent::default(),
                    parents_side: None,
                    state: 0,
                }
            })
            .collect();
        let kube_break = match broken {
            Some(Break::Kube(broken)) => Some(broken),
            _ => None,
        };
        let (broken, engine_break) = match broken {
            Some(Break::Harness(broken)) => (Some(broken), None),
            other => (None, other),
        };
        Self {
            now: 0,
            scenario,
            chance,
            depot,
            slots,
            procs: Vec::new(),
            go: Vec::new(),
            kube: None,
            kube_break,
            owners: BTreeMap::new(),
            taken: BTreeSet::new(),
            runners: BTreeMap::new(),
            stats: Stats::default(),
            violation: None,
            trace: (trace == Trace::Lines).then(Vec::new),
            healed: false,
            moves: 0,
            cast: Vec::new(),
            prop: None,
            since: 0,
            mark: 0,
            hold: None,
            held: Vec::new(),
            restored_bumped: None,
            held_written: BTreeMap::new(),
            gone: BTreeMap::new(),
            broken,
            engine_break,
            queue: BinaryHeap::new(),
            entries: 0,
            hash: 0,
            settled_since: None,
            led_since: None,
            led_at: 0,
            owned_at: 0,
            done: false,
        }
    }

    pub fn at(&mut self, at: Time, event: Event) {
        self.entries += 1;
        self.queue.push(Reverse(Entry { at: at.max(self.now), number: self.entries, event }));
    }

    /// Time on a node's clock now.
    pub fn local(&self, p: ProcId) -> BootTime {
        self.slots[self.procs[p].slot].clock.at(self.now)
    }

    /// Adds two values to the hash of the trace.
    pub fn mark(&mut self, a: u64, b: u64) {
        self.hash = mix(self.hash ^ a.wrapping_mul(31).wrapping_add(b) ^ self.now);
    }

    pub fn mark_request(&mut self, request: &Request) {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut eat = |bytes: &[u8]| {
            for byte in bytes {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
            }
        };
        if let Request::Txn(txn) = request {
            for compare in &txn.compares {
                eat(&compare.range.from);
                eat(format!("{:?}", compare.target).as_bytes());
            }
            for op in &txn.then {
                if let bellwether::store::Op::Put { key, value, .. } = op {
                    eat(key);
                    eat(value);
                }
            }
        }
        self.mark(hash, 1);
    }

    pub fn write_down(&mut self, mut line: String) {
        for name in ["LeaseId", "Revision", "WorkType", "ShardId", "ShardEpoch", "NodeId", "Term"] {
            line = line.replace(&format!("{name}("), "(");
        }
        let at = Duration::from_nanos(self.now);
        if let Some(lines) = &mut self.trace {
            lines.push(format!("{:>12.6} {line}", at.as_secs_f64()));
        }
    }

    // Faults of messages and pauses end when the cluster is healed.
    pub fn pause_ppm(&self) -> u32 {
        if self.healed { 0 } else { self.scenario.pause_ppm }
    }
    pub fn lose_request_ppm(&self) -> u32 {
        if self.healed { 0 } else { self.scenario.lose_request_ppm }
    }
    pub fn lose_answer_ppm(&self) -> u32 {
        if self.healed { 0 } else { self.scenario.lose_answer_ppm }
    }
    pub fn duplicate_ppm(&self) -> u32 {
        if self.healed { 0 } else { self.scenario.duplicate_ppm }
    }
    pub fn late_ppm(&self) -> u32 {
        if self.healed { 0 } else { self.scenario.late_ppm }
    }
    pub fn slow_ppm(&self) -> u32 {
        if self.healed { 0 } else { self.scenario.slow_ppm }
    }

    /// Runs until the cluster has settled after all faults, or a rule is broken.
    pub fn play(&mut self) {
        self.set_up();
        while let Some(Reverse(entry)) = self.queue.pop() {
            self.now = entry.at;
            self.handle(entry.event);
            self.play_script();
            let most = if self.kube.is_some() { 3 * MOST_EVENTS } else { MOST_EVENTS };
            if most < self.entries {
                let what = format!("{} events, and no end", self.entries);
                self.violate(Rule::Contract, what);
            }
            if self.violation.is_some() || self.done {
                return;
            }
        }
    }

    /// Makes the moves of the script whose conditions hold.
    fn play_script(&mut self) {
        while let Some(step) = self.scenario.script.get(self.moves)
            && self.violation.is_none()
            && step(self)
        {
            self.moves += 1;
            note!(self, "MOVE {} is made", self.moves);
        }
    }

    fn set_up(&mut self) {
        self.set_up_kubernetes();
        if self.scenario.used_before && self.kube.is_none() {
            self.depot.seed_ended(self.now);
        }
        for slot in 0..self.slots.len() {
            let after = self.chance.log_between(MILLIS, 300 * MILLIS);
            self.at(after, Event::Begin(slot, Proof::None));
            let after = self.chance.between(50, 400) * MILLIS;
            self.at(after, Event::NewState(slot));
            if let Some((_, from)) = self.scenario.new_tick {
                self.at(from + slot as u64 * SECONDS / 2, Event::Roll(slot));
            }
        }
        self.at(250 * MILLIS, Event::Progress);
        self.at(100 * MILLIS, Event::Leases);
        self.at(500 * MILLIS, Event::Snapshot);
        let first = self.chance.between(0, 3_000) * MILLIS;
        self.at(first, Event::Trouble);
        self.at(self.scenario.faults_for, Event::Heal);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Alarm(p) => self.on_alarm(p),
            Event::Run(p) => self.run(p),
            Event::Arrive(flight) => self.on_arrive(flight),
            Event::Answer(answered) => self.on_answer(*answered),
            Event::Item(p, item) => {
                if self.procs[p].alive {
                    self.deliver(p, *item);
                }
            }
            Event::WatchArrive(p) => {
                if self.procs[p].alive {
                    self.on_watch_arrive(p);
                }
            }
            Event::WatchOpen(p, number) => self.on_watch_open(p, number),
            Event::SendList(p, number) => self.send_list(p, number),
            Event::ListArrive(p, number, sent_at) => self.on_list_arrive(p, number, sent_at),
            Event::Progress => self.send_progress(),
            Event::Act(p, work) => self.on_act(p, work),
            Event::ShardAct(p, what) => self.on_shard_act(p, what.0, what.1),
            Event::WorkJoined(p, work) => self.on_work_joined(p, work),
            Event::ShardJoined(p, shard) => self.on_shard_joined(p, *shard),
            Event::PutState(p) => self.put_state(p),
            Event::NewState(slot) => self.new_state(slot),
            Event::StartAgain(p) => self.start_again(p),
            Event::StopNow(p) => {
                if self.procs[p].alive {
                    self.ask(p, Input::StopNow);
                }
            }
            Event::Fit(p) => self.on_fit(p),
            Event::Undrain(p) => self.on_undrain(p),
            Event::Roll(slot) => self.roll(slot),
            Event::DeleteKey(key) => self.delete_key(&key),
            Event::Begin(slot, proof) => self.begin(slot, proof),
            Event::Parent(slot) => self.on_parent(slot),
            Event::Leases => {
                self.depot.expire(self.now);
                self.publish();
                self.at(self.now + 100 * MILLIS, Event::Leases);
            }
            Event::Store => self.on_store(),
            Event::Go(n) => self.on_go(n),
            Event::Kube(event) => self.on_kube(*event),
            Event::Snapshot => {
                if let Some(kube) = &mut self.kube {
                    kube.server.back_up(self.depot.image());
                } else {
                    self.depot.snapshot();
                }
                self.at(self.now + 700 * MILLIS, Event::Snapshot);
            }
            Event::Trouble => self.trouble(),
            Event::Heal => self.heal(),
            Event::Judge => self.judge(),
        }
    }

    /// A process of that node starts.
    pub fn begin(&mut self, slot: usize, proof: Proof) {
        if self.slots[slot].proc.is_some_and(|p| self.procs[p].alive) {
            return;
        }
        let p = self.spawn(slot, pod(slot));
        if let Some(former) = self.slots[slot].proc.replace(p)
            && self.procs[former].left
        {
            self.procs[p].own = Own::of_former(&mut self.procs[former].own);
            self.procs[former].heir = Some(p);
        }
        let pod_uid = (proof == Proof::Lock).then(|| pod(slot));
        self.start(p, Dead { leases: Vec::new(), pod_uid });
    }

    pub fn start(&mut self, p: ProcId, dead: Dead) {
        let start = SystemTime::UNIX_EPOCH + Duration::from_nanos(self.now);
        self.ask(p, Input::Start { start, dead });
    }

    pub fn spawn(&mut self, slot: usize, pod: String) -> ProcId {
        let config = self.config(slot, pod);
        let seed = self.chance.bits();
        self.procs.push(Proc::new(slot, config, seed));
        self.stats.lives += 1;
        let p = self.procs.len() - 1;
        if self.kube.is_some() {
            self.procs[p].side = Some(self.new_side(slot, Some(p)));
        }
        self.procs[p].offers = self.offered_tick();
        self.procs[p].own_floor = self.slots[slot].state;
        p
    }

    fn config(&self, slot: usize, pod: String) -> Config {
        let offers = self.scenario.works.iter().map(|(work, shards)| WorkOffer {
            work: work.clone(),
            shards: *shards,
            weight: 1,
            capacity: None,
            as_leader: false,
        });
        Config {
            id: NodeId::new(slot as i64).expect("not negative"),
            address: format!("10.0.0.{slot}:80"),
            ttl: Duration::from_secs(self.scenario.ttl),
            timing: self.timing(),
            failover: self.scenario.nodes[slot],
            tick: self.offered_tick(),
            tick_policy: self.scenario.new_tick.map_or(TickPolicy::Strict, |_| TickPolicy::Adopt),
            pod_uid: Some(pod),
            work: offers.collect(),
            campaigns: true,
            own_store: false,
            mutant: match self.engine_break {
                Some(Break::Engine(mutant)) => Some(mutant),
                _ => None,
            },
        }
    }

    /// Durations of the store.
    pub fn timing(&self) -> StoreTiming {
        self.scenario.kube.map_or(StoreTiming::ETCD, |kube| kube.timing)
    }

    /// Tick that a process which starts now is configured with.
    pub fn offered_tick(&self) -> Duration {
        let new = self.scenario.new_tick.filter(|(_, from)| *from <= self.now);
        new.map_or(Duration::from_millis(50), |(tick, _)| tick)
    }

    fn start_again(&mut self, p: ProcId) {
        let proc = &mut self.procs[p];
        if proc.alive && proc.refused && !proc.stopping {
            proc.refused = false;
            self.start(p, Dead::default());
        }
    }

    /// Ends all faults of the run.
    fn heal(&mut self) {
        note!(self, "all faults end");
        self.healed = true;
        self.scenario.lag = self.scenario.lag.min(10 * MILLIS);
        self.depot.stalled_until = self.depot.stalled_until.min(self.now);
        for slot in 0..self.slots.len() {
            let links = &mut self.slots[slot];
            links.up_cut_until = links.up_cut_until.min(self.now);
            links.down_cut_until = links.down_cut_until.min(self.now);
            links.slow_until = links.slow_until.min(self.now);
            links.stale_until = links.stale_until.min(self.now);
            links.minority_until = links.minority_until.min(self.now);
        }
        if let Some((slot, link)) = self.scenario.bad_for_good {
            self.spoil_link(slot, link, self.now + FOR_GOOD);
        }
        for p in 0..self.procs.len() {
            if self.slots[self.procs[p].slot].proc != Some(p) && self.procs[p].alive {
                self.end_proc(p);
            }
            let proc = &mut self.procs[p];
            proc.frozen_until = proc.frozen_until.min(self.now);
            proc.starved_until = proc.starved_until.min(self.now);
            proc.watch.stalled_until = proc.watch.stalled_until.min(self.now);
            for (at, _) in &mut proc.watch.under_way {
                *at = (*at).min(self.now + 20 * MILLIS);
            }
            for _ in 0..proc.watch.under_way.len() {
                self.at(self.now + 20 * MILLIS, Event::WatchArrive(p));
            }
            self.at(self.now, Event::Run(p));
            self.at(self.now, Event::Fit(p));
            self.at(self.now, Event::Undrain(p));
        }
        for n in 0..self.go.len() {
            self.go[n].alive = false;
        }
        for key in self.depot.drain_requests() {
            self.at(self.now, Event::DeleteKey(key));
        }
        // Delayed events arrive now: late commits would make the bounds longer.
        let late = self.now + 50 * MILLIS;
        let entries = std::mem::take(&mut self.queue).into_vec();
        for Reverse(mut entry) in entries {
            if late < entry.at
                && (matches!(
                    entry.event,
                    Event::Arrive(_)
                        | Event::Item(..)
                        | Event::SendList(..)
                        | Event::WatchOpen(..)
                        | Event::WorkJoined(..)
                        | Event::ShardJoined(..)
                ) || matches!(&entry.event, Event::Kube(event) if is_delayed(event)))
            {
                entry.at = late;
            }
            self.queue.push(Reverse(entry));
        }
        self.heal_kubernetes();
        // At least one node that can lead runs.
        let first_well = usize::from(self.scenario.bad_for_good.is_some_and(|(bad, _)| bad == 0));
        for slot in 0..self.slots.len() {
            let dead = self.slots[slot].proc.is_none_or(|p| !self.procs[p].alive);
            if dead && (slot == first_well || self.chance.percent(70)) {
                self.at(self.now, Event::Begin(slot, Proof::None));
            }
        }
        self.at(self.now + 100 * MILLIS, Event::Judge);
    }

    /// Checks I7 (one leader and every shard owned, within bounds).
    fn judge(&mut self) {
        let since = self.now - self.scenario.faults_for.max(self.depot.back_at);
        let ttl = self.scenario.ttl * SECONDS;
        let slack = 2_500 * MILLIS + 40 * MILLIS * self.slots.len() as u64;
        // In the Kubernetes API, nodes end leases: after wait(TTL), a random time, and perhaps a second attempt.
        let (ttl, slack) = if self.kube.is_some() {
            (ttl * 12 / 10 + 6 * SECONDS, slack + 3 * SECONDS)
        } else {
            (ttl + SECONDS / 2, slack)
        };
        let wait = timing::wait(self.timing().span_max).as_nanos() as Time;
        let to_lead = (ttl + wait) * 112 / 100 + slack;
        let to_own = to_lead + (ttl + wait) * 112 / 100 + slack;
        let (extra_lead, extra_own) = self.bad_link_bounds();
        let (to_lead, to_own) = (to_lead + extra_lead, to_own + extra_lead + extra_own);
        let (leader, shards) = (self.leader_problem(), self.shard_problem());
        let well = leader.is_none() && shards.is_none();
        if leader.is_none() {
            self.led_at = self.now;
        }
        if shards.is_none() {
            self.owned_at = self.now;
        }
        let problem = leader.filter(|_| self.led_at + self.hiccup() < self.now);
        if problem.is_none() {
            self.led_since.get_or_insert(self.now);
        } else if to_lead < since {
            return self.violate(self.liveness(), problem.unwrap_or_default());
        }
        let shards = shards.filter(|_| self.owned_at + self.hiccup() < self.now);
        let problem = problem.or(shards);
        match (problem, self.settled_since) {
            (None, None) => {
                note!(self, "settled");
                self.settled_since = Some(self.now);
            }
            (None, Some(at)) if at + self.settles_for() < self.now && well => {
                self.stats.settled_ms += (at - self.scenario.faults_for) / MILLIS;
                self.finish();
                return;
            }
            // Shards may move once more after the cluster has settled for the first time.
            (Some(_), Some(_)) if since < to_own => self.settled_since = None,
            (Some(problem), _) if to_own < since => return self.violate(self.liveness(), problem),
            _ => (),
        }
        self.at(self.now + 100 * MILLIS, Event::Judge);
    }

    /// R16 (renewals without answer): no lease stays alive by renewals whose answers do not reach the node.
    fn check_deaf_leases(&mut self) {
        let Some((bad, BadLink::Deaf)) = self.scenario.bad_for_good else { return };
        let since = self.now - self.scenario.faults_for.max(self.depot.back_at);
        if since <= self.scenario.ttl * SECONDS * 112 / 100 + 1_500 * MILLIS {
            return;
        }
        let living = self.depot.leases();
        let kept = self.procs.iter().filter(|proc| proc.alive && proc.slot == bad);
        let kept = kept.flat_map(|proc| &proc.leases).find(|lease| living.contains(lease));
        if let Some(lease) = kept.copied() {
            let what = format!("lease {lease} of deaf node {bad} lives on");
            self.violate(Rule::I8, what);
        }
    }

    /// How long a useful node may be without authority: with a slow link, each beat gives authority only for a
    /// moment.
    fn hiccup(&self) -> Time {
        if self.scenario.bad_for_good.is_some() { 1_500 * MILLIS } else { 0 }
    }

    const fn liveness(&self) -> Rule {
        if self.scenario.bad_for_good.is_some() { Rule::I8 } else { Rule::I7 }
    }

    /// How long the cluster must stay settled: a node with a bad link that leads again shows only later (I8).
    fn settles_for(&self) -> Time {
        if self.scenario.bad_for_good.is_some() { 8 * SECONDS } else { 1_500 * MILLIS }
    }

    /// I8: additional delay of a leader, and of the shards, because of a link that stays bad.
    fn bad_link_bounds(&self) -> (Time, Time) {
        if self.scenario.bad_for_good.is_none() {
            return (0, 0);
        }
        let d = self.scenario.nodes.iter().map(|node| node.d()).max().unwrap_or_default();
        let d = d.as_nanos() as Time;
        let office = (2 * d).max(SECONDS) + d * 11 / 10 + SECONDS;
        let shards = (6 * SECONDS).max(self.scenario.ttl * SECONDS) + 3_300 * MILLIS + SECONDS;
        // A lost list is sent again only after the timeout of a call.
        let office = office + self.scenario.call_timeout.as_nanos() as Time;
        (office * 112 / 100 + self.hiccup(), shards * 112 / 100 + self.hiccup())
    }

    fn finish(&mut self) {
        self.done = true;
        self.check_views();
        self.check_ticks();
        self.check_deaf_leases();
        self.check_own_kept();
        self.stats.runs += 1;
        self.stats.big_runs += u64::from(16 <= self.slots.len());
        self.stats.true_seconds += self.now / SECONDS;
        self.stats.events += self.entries;
        self.mark(self.entries, self.depot.revision() as u64);
    }

    /// Describes why the cluster does not have exactly one leader with all other nodes joined.
    pub fn leader_problem(&self) -> Option<String> {
        let living = || self.procs.iter().filter(|proc| proc.alive);
        let bad = self.scenario.bad_for_good.map(|(slot, _)| slot);
        let well = |proc: &&Proc| Some(proc.slot) != bad;
        if let Some(proc) = living().filter(well).find(|proc| proc.engine.joined().is_none()) {
            return Some(format!("node {} has not joined", proc.id));
        }
        let leads = |proc: &&Proc| proc.work.is_some() && self.now < proc.authority_until;
        match living().filter(leads).count() {
            1 => None,
            n => Some(format!("{n} nodes lead")),
        }
    }

    /// Describes why not every shard is worked on by exactly one node.
    pub fn shard_problem(&self) -> Option<String> {
        for (work, shards) in &self.scenario.works {
            for number in 0..*shards {
                let shard = (work.clone(), bellwether::engine::ShardId(number));
                let running = self.runners.get(&shard).map_or(&[][..], Vec::as_slice);
                let runs = running.iter().filter(|p| self.may_act_on(**p, &shard)).count();
                if runs != 1 || running.len() != 1 {
                    return Some(format!("{runs} nodes work on {shard:?}"));
                }
            }
        }
        None
    }
}

/// Error of a clock: often at the bound itself, where the rules have no margin.
pub fn drift(chance: &mut Chance, most_ppm: u64) -> i64 {
    let most = most_ppm as i64;
    match chance.below(4) {
        0 => most,
        1 => -most,
        _ => chance.between(0, 2 * most_ppm) as i64 - most,
    }
}

pub fn pod(slot: usize) -> String {
    format!("pod-{slot}")
}
