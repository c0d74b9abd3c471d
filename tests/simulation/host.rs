//! A process: the engine, its driver, and the work that it starts and stops.
//!
//! The driver is modelled in small steps (take from the transport, stamp, step, carry out one effect, stamp,
//! hand to the transport), and a pause may come between any two of them: R1 (stamps) protects against such
//! pauses.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bellwether::engine::{
    BootTime, Call, CallId, Config, Effect, Engine, Input, LeaseId, NodeId, Office, Outcome,
    Revision, ShardEnd, ShardEpoch, ShardId, WorkType,
};

use crate::{
    breaks::Broken,
    chance::{MICROS, MILLIS, SECONDS, Time},
    own::Own,
    rules::Rule,
    wire::{Ask, Item, Watch},
    world::{Event, Proof, World, note},
};

/// Index of a process, never used twice in a run.
pub type ProcId = usize;

/// A shard with its work type.
pub type Shard = (WorkType, ShardId);

/// A process and all that it runs.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Proc {
    pub id: NodeId,
    /// Slot whose clock and links the process uses.
    pub slot: usize,
    pub engine: Engine,
    /// Whether the process runs: false once it has died or left.
    pub alive: bool,
    /// Until when the process is frozen, its work included.
    pub frozen_until: Time,
    /// Until when only its driver is stopped.
    pub starved_until: Time,
    /// Steps that its driver has yet to do, in order.
    pub steps: VecDeque<Step>,
    /// Time for which the engine has set its alarm.
    alarm: Option<Time>,
    pub watch: Watch,
    /// Side of the store that the process has, in a cluster in the Kubernetes API.
    pub side: Option<usize>,
    /// The leader's work, from start to the end of its last task.
    pub work: Option<Work>,
    /// The shards' work, from start to the end of the last task of each.
    pub shards: BTreeMap<Shard, ShardWork>,
    /// The lease of every GRANT that the process has sent, oldest first.
    pub leases: Vec<LeaseId>,
    /// The leases that the process has announced to its parent.
    pub announced: Vec<LeaseId>,
    /// Own state of the node (T17, own keys).
    pub own: Own,
    /// The last change of the own state before the process began.
    pub own_floor: u64,
    /// Whether the process has left, and the process that takes its own state over.
    pub left: bool,
    pub heir: Option<ProcId>,
    /// Until when the process is inside leader authority, in true time.
    pub authority_until: Time,
    /// Until when the process is inside shard authority, in true time.
    pub shard_until: Time,
    /// Number of its last TAKE or BEAT, for [`Broken::EchoForLastAttempt`].
    pub last_n: u64,
    /// Until when [`Broken::DropAfterResigning`] keeps authority.
    pub kept_until: Time,
    /// Tick that the process is configured with, and the tick that it runs at.
    pub offers: Duration,
    pub tick: Duration,
    pub unfit: bool,
    pub draining: bool,
    pub stopping: bool,
    /// Whether the process was refused and waits to be started again.
    pub refused: bool,
    /// When its driver last finished all its steps.
    idle_since: Time,
    /// Start of the current burst of steps without time passing, and its number of steps.
    spin: (Time, u32),
}

/// Work of the leader in a term.
#[derive(Debug)]
pub struct Work {
    pub number: u64,
    pub office: Office,
    pub stopping: bool,
}

/// The work of one shard.
#[derive(Debug)]
pub struct ShardWork {
    pub epoch: ShardEpoch,
    pub stopping: bool,
}

/// An uninterruptible step of a driver.
pub enum Step {
    /// An item from the transport, to be stamped.
    Take(Item),
    /// A stamped item, to be handed to the engine.
    Stamped(Item, BootTime),
    /// An input of another kind, such as a tick of the alarm or a request of the user.
    Input(Input),
    /// An effect to be carried out.
    Effect(Effect),
    /// A stamped call, to be handed to the transport.
    Send(CallId, Call, BootTime),
}

impl Proc {
    pub fn new(slot: usize, config: Config, seed: u64) -> Self {
        #[cfg(feature = "mutants")]
        let calls = bellwether::engine::OwnCalls::with_mutant(config.mutant);
        #[cfg(not(feature = "mutants"))]
        let calls = bellwether::engine::OwnCalls::default();
        Self {
            id: config.id,
            slot,
            engine: Engine::new(config, seed),
            alive: true,
            frozen_until: 0,
            starved_until: 0,
            steps: VecDeque::new(),
            alarm: None,
            watch: Watch::default(),
            side: None,
            work: None,
            shards: BTreeMap::new(),
            leases: Vec::new(),
            announced: Vec::new(),
            own: Own::new(calls),
            own_floor: 0,
            left: false,
            heir: None,
            authority_until: 0,
            shard_until: 0,
            last_n: 0,
            kept_until: 0,
            offers: Duration::ZERO,
            tick: Duration::ZERO,
            unfit: false,
            draining: false,
            stopping: false,
            refused: false,
            idle_since: 0,
            spin: (0, 0),
        }
    }
}

impl World {
    /// Delivers an item from outside to a process and lets it work.
    pub fn deliver(&mut self, p: ProcId, item: Item) {
        self.procs[p].steps.push_back(Step::Take(item));
        self.run(p);
    }

    /// Hands an input to the engine of a process.
    pub fn ask(&mut self, p: ProcId, input: Input) {
        note!(self, "node {} is told {input:?}", self.procs[p].id);
        self.procs[p].steps.push_back(Step::Input(input));
        self.run(p);
    }

    pub fn on_alarm(&mut self, p: ProcId) {
        let proc = &mut self.procs[p];
        if !proc.alive || proc.alarm.is_none_or(|at| self.now < at) {
            return;
        }
        proc.alarm = None;
        proc.steps.push_back(Step::Input(Input::Tick));
        self.run(p);
    }

    /// Lets a process carry out its steps, up to its next pause.
    pub fn run(&mut self, p: ProcId) {
        loop {
            let proc = &mut self.procs[p];
            if !proc.alive || self.now < proc.frozen_until.max(proc.starved_until) {
                return;
            }
            let Some(step) = proc.steps.pop_front() else { break };
            self.do_step(p, step);
            if self.violation.is_some() {
                return;
            }
            if !self.procs[p].steps.is_empty() && self.chance.ppm(self.pause_ppm()) {
                self.pause(p);
            }
        }
        self.procs[p].idle_since = self.now;
        self.set_alarm(p);
    }

    fn pause(&mut self, p: ProcId) {
        let long = self.chance.log_between(MILLIS, 6 * SECONDS);
        self.stats.pauses += 1;
        note!(self, "node {} pauses for {:?}", self.procs[p].id, Duration::from_nanos(long));
        self.procs[p].frozen_until = self.now + long;
        self.at(self.now + long, Event::Run(p));
    }

    fn set_alarm(&mut self, p: ProcId) {
        let proc = &mut self.procs[p];
        if !proc.alive {
            return;
        }
        let Some(deadline) = proc.engine.deadline() else { return };
        let Some(at) = self.slots[proc.slot].clock.when(deadline) else { return };
        if at <= self.now + MICROS {
            let same = self.now < proc.spin.0 + MILLIS;
            proc.spin = if same { (proc.spin.0, proc.spin.1 + 1) } else { (self.now, 1) };
            if proc.spin.1 > 200 {
                let what = format!("node {} asks to be woken at once, again and again", proc.id);
                self.violate(Rule::Contract, what);
                return;
            }
        }
        let at = at.max(self.now);
        if proc.alarm.is_none_or(|alarm| at < alarm) {
            proc.alarm = Some(at);
            self.at(at, Event::Alarm(p));
        }
    }

    fn do_step(&mut self, p: ProcId, step: Step) {
        let local = self.local(p);
        match step {
            Step::Take(item) => {
                // R1 (stamps): the stamp is read after the receive. The mutant uses a stamp from before it
                // waited.
                let stamp = if self.broken == Some(Broken::StampBeforeReceive) {
                    self.slots[self.procs[p].slot].clock.at(self.procs[p].idle_since)
                } else {
                    local
                };
                self.procs[p].steps.push_front(Step::Stamped(item, stamp));
            }
            Step::Stamped(item, received_at) => self.on_item(p, item, received_at),
            Step::Input(input) => self.step(p, input),
            Step::Effect(effect) => self.carry_out(p, effect),
            Step::Send(id, call, sent_at) => self.send(p, id, call, sent_at),
        }
    }

    fn on_item(&mut self, p: ProcId, item: Item, received_at: BootTime) {
        let watch = &mut self.procs[p].watch;
        let input = match item {
            Item::Answer { id, sent_at, outcome } => {
                Input::Answered { id, sent_at, received_at, outcome }
            }
            Item::Listed { number, sent_at, revision, cluster, changes } => {
                if watch.number != number {
                    return;
                }
                watch.from = revision + 1;
                watch.listed_at = sent_at;
                self.open_watch(p);
                let revision = Revision(revision);
                Input::Listed { sent_at, received_at, revision, cluster, changes }
            }
            Item::Changed { number, revision, changes } => {
                if watch.number != number {
                    return;
                }
                watch.from = revision + 1;
                let changes = Vec::clone(&changes);
                Input::Changed { received_at, revision: Revision(revision), changes }
            }
            Item::Progress { number, revision } => {
                if watch.number != number {
                    return;
                }
                watch.from = watch.from.max(revision + 1);
                Input::Progress { revision: Revision(revision) }
            }
            Item::WatchBroke { number } => {
                if watch.number != number {
                    return;
                }
                // The driver never resumes a watch: a store that was restored from a backup may have overtaken
                // the revision of this node, and no revision would show that.
                self.list(p);
                Input::WatchLost
            }
        };
        self.step(p, input);
    }

    fn step(&mut self, p: ProcId, mut input: Input) {
        let now = self.local(p);
        note!(self, "node {} at {:?}: {}", self.procs[p].id, now.0, brief(&input));
        self.mark(p as u64, u64::from(discriminant(&input)));
        self.break_input(p, &mut input);
        let mut effects = self.procs[p].engine.step(now, input);
        self.break_effects(p, &mut effects);
        self.stats.steps += 1;
        self.mark(now.0.as_nanos() as u64, effects.len() as u64);
        self.look_at(p, &effects);
        for effect in effects.into_iter().rev() {
            self.procs[p].steps.push_front(Step::Effect(effect));
        }
    }

    fn carry_out(&mut self, p: ProcId, effect: Effect) {
        if !matches!(effect, Effect::Send { .. }) {
            note!(self, "node {} says {effect:?}", self.procs[p].id);
        }
        match effect {
            Effect::Send { id, call } => {
                let sent_at = self.local(p);
                let engine = &self.procs[p].engine;
                if self.broken.is_some_and(|broken| broken.holds_back(engine, &call)) {
                    let item = Item::Answer { id, sent_at, outcome: Outcome::Failed };
                    return self.procs[p].steps.push_front(Step::Stamped(item, sent_at));
                }
                if self.broken == Some(Broken::ActWithoutClaim)
                    && let Call::WriteHeld { content, .. } = &call
                {
                    self.start_early_tasks(p, content);
                }
                self.procs[p].steps.push_front(Step::Send(id, call, sent_at));
            }
            Effect::Announce { lease } => self.procs[p].announced.push(lease),
            Effect::Relist => self.list(p),
            Effect::Joined { lease, tick, .. } => {
                self.stats.joins += 1;
                self.procs[p].tick = tick;
                self.own_joined(p, lease);
            }
            Effect::SessionLost { lease, reason } => {
                self.stats.sessions_lost += 1;
                self.check_lost(p, lease, reason);
                self.procs[p].own.lease = None;
            }
            Effect::Refused(_) => {
                self.stats.refusals += 1;
                self.procs[p].refused = true;
                let after = self.chance.between(100, 700) * MILLIS;
                self.at(self.now + after, Event::StartAgain(p));
            }
            Effect::Left { clean } => self.on_left(p, clean),
            Effect::TickChanged(tick) => self.procs[p].tick = tick,
            // The simulation has no watches of users, which list again here.
            Effect::Role(_) | Effect::TermClosed { .. } | Effect::StoreReplaced => (),
            Effect::StartWork { work, .. } => {
                self.stats.works += 1;
                let after = self.act_after();
                self.at(self.now + after, Event::Act(p, work));
            }
            Effect::StopWork { work, .. } => {
                let after = self.join_after();
                self.at(self.now + after, Event::WorkJoined(p, work));
            }
            Effect::StartShard { work, shard, epoch } => {
                self.stats.shard_starts += 1;
                let after = self.act_after();
                self.at(self.now + after, Event::ShardAct(p, Box::new(((work, shard), epoch))));
            }
            Effect::StopShard { work, shard, reason } => {
                if self.broken == Some(Broken::NewIncarnationKeepsShards)
                    && reason == ShardEnd::SessionLost
                {
                    return;
                }
                let after = self.join_after();
                self.at(self.now + after, Event::ShardJoined(p, Box::new((work, shard))));
            }
        }
    }

    fn act_after(&mut self) -> Time {
        self.chance.between(1, 300) * MILLIS
    }

    /// Time from the cancellation until the last task has ended.
    fn join_after(&mut self) -> Time {
        if !self.healed && self.chance.percent(self.scenario.slow_join_percent) {
            self.stats.slow_joins += 1;
            self.chance.between(300, 5_000) * MILLIS
        } else {
            self.chance.log_between(MILLIS / 10, 30 * MILLIS)
        }
    }

    fn on_left(&mut self, p: ProcId, clean: bool) {
        self.stats.left += 1;
        if clean {
            self.stats.left_clean += 1;
            self.check_left(p);
        }
        self.end_proc(p);
        self.procs[p].left = true;
        self.own_left(p);
        if self.healed && self.slots[self.procs[p].slot].proc == Some(p) {
            // The node was asked to leave before all faults ended: the bounds count from its restart.
            self.depot.back_at = self.now;
            self.at(self.now + MILLIS, Event::Begin(self.procs[p].slot, Proof::None));
        }
    }

    /// Ends the process with all its work.
    pub fn end_proc(&mut self, p: ProcId) {
        let proc = &mut self.procs[p];
        proc.alive = false;
        proc.work = None;
        proc.steps.clear();
        proc.watch.close();
        for (shard, _) in std::mem::take(&mut proc.shards) {
            self.forget_runner(p, &shard);
        }
    }

    /// A leader's task makes a fenced write, if its gate is open.
    pub fn on_act(&mut self, p: ProcId, number: u64) {
        let proc = &self.procs[p];
        let Some(work) = proc.work.as_ref().filter(|work| work.number == number) else { return };
        if !proc.alive {
            return;
        }
        if self.now < proc.frozen_until {
            let until = proc.frozen_until;
            self.at(until, Event::Act(p, number));
            return;
        }
        let office = work.office;
        if proc.engine.authority().is_some_and(|authority| self.local(p) < authority.until) {
            self.stats.acts += 1;
            self.send_raw(p, Ask::Fenced(office));
        }
        let after = self.act_after();
        self.at(self.now + after, Event::Act(p, number));
    }

    /// A shard's task makes a shard write, if its gate is open.
    pub fn on_shard_act(&mut self, p: ProcId, shard: Shard, epoch: ShardEpoch) {
        let again = Event::ShardAct(p, Box::new((shard.clone(), epoch)));
        let proc = &self.procs[p];
        if !proc.alive || proc.shards.get(&shard).is_none_or(|work| work.epoch != epoch) {
            return;
        }
        if self.now < proc.frozen_until {
            let until = proc.frozen_until;
            self.at(until, again);
            return;
        }
        if self.may_act_on(p, &shard)
            && let Some(authority) = proc.engine.shard_authority()
        {
            self.stats.shard_acts += 1;
            self.send_raw(p, Ask::ShardWrite(authority.lease, authority.held, shard, epoch));
        }
        let after = self.act_after();
        self.at(self.now + after, again);
    }

    pub fn on_work_joined(&mut self, p: ProcId, number: u64) {
        let proc = &mut self.procs[p];
        if proc.alive && proc.work.as_ref().is_some_and(|work| work.number == number) {
            if self.now < proc.frozen_until {
                let until = proc.frozen_until;
                self.at(until, Event::WorkJoined(p, number));
                return;
            }
            proc.work = None;
            proc.steps.push_back(Step::Input(Input::WorkEnded { work: number }));
            self.run(p);
        }
    }

    pub fn on_shard_joined(&mut self, p: ProcId, shard: Shard) {
        let proc = &mut self.procs[p];
        if proc.alive && proc.shards.contains_key(&shard) {
            if self.now < proc.frozen_until {
                let until = proc.frozen_until;
                self.at(until, Event::ShardJoined(p, Box::new(shard)));
                return;
            }
            proc.shards.remove(&shard);
            let (work, number) = shard.clone();
            proc.steps.push_back(Step::Input(Input::ShardEnded { work, shard: number }));
            self.forget_runner(p, &shard);
            self.run(p);
        }
    }
}

fn discriminant(input: &Input) -> u8 {
    match input {
        Input::Tick => 0,
        Input::Start { .. } => 1,
        Input::Stop => 2,
        Input::StopNow => 3,
        Input::Listed { .. } => 4,
        Input::Changed { .. } => 5,
        Input::Progress { .. } => 6,
        Input::WatchLost => 7,
        Input::Answered { outcome, .. } => match outcome {
            Outcome::Done(_) => 8,
            Outcome::Refused(_) => 9,
            Outcome::LeaseNotFound => 10,
            Outcome::LeaseExists => 11,
            Outcome::Failed => 12,
            Outcome::Unknown => 13,
        },
        Input::WorkEnded { .. } => 14,
        Input::Unfit => 15,
        Input::Fit => 16,
        Input::Resign => 17,
        Input::Drain(_) => 18,
        Input::ShardEnded { .. } => 19,
        Input::OfficeOver { .. } => 20,
    }
}

/// The input as the trace shows it.
fn brief(input: &Input) -> String {
    match input {
        Input::Listed { revision, changes, .. } => {
            format!("listed at {revision}: {changes:?}")
        }
        Input::Changed { revision, changes, .. } => {
            format!("changed at {revision}: {changes:?}")
        }
        Input::Answered { id, sent_at, outcome, .. } => {
            format!("call {} sent at {:?} answered {outcome:?}", id.0, sent_at.0)
        }
        other => format!("{other:?}"),
    }
}
