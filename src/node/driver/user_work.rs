//! All user work of a node: the tasks that run, how they are ended, and which ones are still to be joined.
//!
//! The one rule: the engine receives the end of work only after every task of that work was joined, or is a
//! routine that does not run and never will again.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::FutureExt as _;
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    task::{AbortHandle, Id, JoinSet},
};

use super::{
    group::{Group, WEDGED_AFTER},
    report::LastTick,
    ticks::{Early, Ending, Job, Keeper, Pulse, TickMetrics, Ticker, Turn, UnfitBecause},
};
use crate::{
    clock,
    engine::{BootTime, Office, ShardEnd, ShardEpoch, ShardId, Term, WorkEnd, WorkType},
    node::{
        FollowerContext, LeaderContext, Node, RoutineLimits, ShardContext,
        env::Env,
        gate::{Gate, HeldGate, LeaderGate, ShardGate},
        options::Work,
    },
    tasks::panic_message,
};

/// Time that work has to return after authority was lost: authority ends early by this margin, for a step
/// that cannot be interrupted (protocol, μ).
const LOST_GRACE: Duration = Duration::from_millis(10);
/// The driver wakes at least every second. If it did not for this long, the process was stopped or
/// suspended, or the machine is so busy that a late routine is not at fault.
const STOOD_STILL: Duration = Duration::from_millis(1250);
/// Capacity of the channel for reports: runners send few of them, and the driver always receives.
const REPORTS: usize = 64;

/// Owner of a task: the leader's work, the follower's, or a shard's.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Whose {
    Leader(u64),
    Follower,
    Shard(WorkType, ShardId),
}

/// End of work, or of a part of it, that the driver must handle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Leader {
        work: u64,
    },
    /// A task of the leader's work has panicked, and the work has not ended with it.
    LeaderPanicked,
    Shard {
        work: WorkType,
        shard: ShardId,
    },
    Follower,
}

#[derive(Debug)]
struct LeaderWork {
    work: u64,
    gate: Arc<LeaderGate>,
    pulse: Arc<Pulse>,
    silent: bool,
    /// Turn of the routine, and the task that runs the routine.
    turn: (Arc<Turn>, Id),
    group: Group,
}

#[derive(Debug)]
struct FollowerWork {
    turn: (Arc<Turn>, Id),
    group: Group,
}

#[derive(Debug)]
struct ShardWork {
    gate: Arc<ShardGate>,
    overdue: bool,
    group: Group,
}

/// User work of one node.
pub(super) struct UserWork {
    env: Env,
    work: Work,
    limits: RoutineLimits,
    node: Arc<dyn Node>,
    runtime: Option<Handle>,
    tick: watch::Sender<Duration>,
    last_tick: LastTick,
    /// Tasks of all runners. Each returns the message of its runner's panic, if the runner panicked.
    set: JoinSet<Option<String>>,
    whose: HashMap<Id, Whose>,
    /// Reports that the leader's work cannot continue on this node.
    unfit: (mpsc::Sender<UnfitBecause>, mpsc::Receiver<UnfitBecause>),
    leader: Option<LeaderWork>,
    follower: Option<FollowerWork>,
    follower_wanted: bool,
    held: Option<Arc<HeldGate>>,
    /// Time of the driver's last check, and the time since which the checks were at most [`STOOD_STILL`]
    /// apart.
    looked_at: BootTime,
    awake_since: BootTime,
    shards: BTreeMap<(WorkType, ShardId), ShardWork>,
}

impl UserWork {
    pub(super) fn new(env: Env, work: Work, limits: RoutineLimits, node: Arc<dyn Node>) -> Self {
        Self {
            env,
            work,
            limits,
            node,
            runtime: None,
            tick: watch::Sender::new(Duration::from_secs(1)),
            last_tick: LastTick::default(),
            set: JoinSet::new(),
            whose: HashMap::new(),
            unfit: mpsc::channel(REPORTS),
            leader: None,
            follower: None,
            follower_wanted: false,
            held: None,
            looked_at: clock::boot_now(),
            awake_since: BootTime::default(),
            shards: BTreeMap::new(),
        }
    }

    /// Sets the runtime on which user work runs from now on.
    pub(super) fn run_on(&mut self, runtime: Handle) {
        self.runtime = Some(runtime);
    }

    pub(super) fn set_tick(&self, tick: Duration) {
        self.env.metrics.tick_period.set(tick.as_secs_f64());
        self.tick.send_replace(tick);
    }

    #[cfg(test)]
    pub(super) fn shorten_runs(&mut self, run: Duration) {
        self.limits.run = run;
    }

    pub(super) fn tick(&self) -> Duration {
        *self.tick.borrow()
    }

    pub(super) const fn last_tick(&self) -> &LastTick {
        &self.last_tick
    }

    /// Whether no work runs any more.
    pub(super) fn is_idle(&self) -> bool {
        self.leader.is_none() && self.follower.is_none() && self.shards.is_empty()
    }

    pub(super) fn follows_while_leading(&self) -> bool {
        self.work.also_follow
    }

    /// Publishes authority to the gates of the work that runs.
    pub(super) fn publish(
        &self,
        authority: Option<(Office, BootTime)>,
        shards: Option<(crate::engine::Revision, BootTime)>,
    ) {
        if let Some(leader) = &self.leader {
            match authority {
                Some((office, until)) if office == leader.gate.office() => {
                    leader.gate.extend(until);
                }
                _ => leader.gate.close(),
            }
        }
        if let (Some(held), Some((revision, until))) = (&self.held, shards) {
            held.extend(revision, until);
        }
    }

    fn spawn(
        &mut self,
        whose: Whose,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> AbortHandle {
        let runtime = self.runtime.as_ref().expect("the node was started from a runtime");
        // The runners catch panics of runs. A panic that is caught here comes from the drop of a run that
        // was cut, or from a bug of the runner.
        let task = std::panic::AssertUnwindSafe(task).catch_unwind();
        let task = task.map(|ended| ended.err().map(|panic| panic_message(panic.as_ref())));
        let abort = self.set.spawn_on(task, runtime);
        self.whose.insert(abort.id(), whose);
        abort
    }

    /// Starts the leader's work for this office.
    pub(super) fn start_leader(&mut self, work: u64, office: Office, until: BootTime) {
        assert!(self.leader.is_none(), "work ends before it starts anew");
        let gate = Arc::new(LeaderGate::new(office));
        gate.extend(until);
        let mut group = Group::default();
        let cancel = group.ending.cancel.clone();
        let context =
            LeaderContext::new(Arc::clone(&gate), Arc::clone(&self.node), self.env.clone(), cancel);
        let ticker = self.leader_ticker(&context, &group.ending);
        let (pulse, turn) = (Arc::clone(&ticker.pulse), Arc::clone(&ticker.turn));
        let mut aborts = vec![self.spawn(Whose::Leader(work), ticker.run())];
        let turn = (turn, aborts[0].id());
        for task in self.work.tasks.clone() {
            let (name, context) = (task.name(), context.clone());
            let keeper = Keeper {
                name,
                job: Box::new(move |token| {
                    let (task, context) = (Arc::clone(&task), context.with_token(token));
                    async move { task.run(context).await }.boxed()
                }),
                gate: Arc::clone(&gate) as Arc<dyn Gate>,
                ending: group.ending.clone(),
                early: Early::Done,
                metrics: self.env.metrics.clone(),
                unfit: Some((self.unfit.0.clone(), self.limits.panics.max(1))),
            };
            aborts.push(self.spawn(Whose::Leader(work), keeper.run()));
        }
        group.tasks = aborts.len();
        group.aborts = aborts;
        self.leader = Some(LeaderWork { work, gate, pulse, silent: false, turn, group });
    }

    fn leader_ticker(&self, context: &LeaderContext, ending: &Ending) -> Ticker {
        let (routine, context) = (self.work.leader.clone(), context.clone());
        let gate = Arc::clone(context.gate()) as Arc<dyn Gate>;
        // Without a routine the ticker still shows that the runtime gets processor time.
        let job: Job = Box::new(move |token| {
            let Some(routine) = routine.clone() else { return async { Ok(()) }.boxed() };
            let context = context.with_token(token);
            async move { routine.tick(context).await }.boxed()
        });
        Ticker {
            job,
            gate: Some(gate),
            tick: self.tick.subscribe(),
            ending: ending.clone(),
            limits: self.limits,
            pulse: Arc::default(),
            turn: Arc::default(),
            metrics: TickMetrics::new(&self.env.metrics, "leader", &self.last_tick),
            unfit: Some(self.unfit.0.clone()),
        }
    }

    /// Cancels the leader's work. A routine that does not run right now has ended by that.
    pub(super) fn stop_leader(&mut self, work: u64, reason: WorkEnd, now: BootTime) {
        let grace = self.limits.cancel_grace;
        let Some(leader) = self.leader.as_mut().filter(|leader| leader.work == work) else {
            return;
        };
        match reason {
            WorkEnd::Resigned | WorkEnd::Stopping | WorkEnd::Unfit => {
                leader.group.cancel(now, grace);
            }
            WorkEnd::Suspended
            | WorkEnd::Deposed
            | WorkEnd::KeyLost
            | WorkEnd::SessionLost
            | WorkEnd::Useless => {
                leader.gate.close();
                leader.group.cancel(now, LOST_GRACE);
            }
        }
        let (turn, ticker) = &leader.turn;
        if turn.close() && self.whose.remove(ticker).is_some() {
            leader.group.tasks -= 1;
        }
    }

    /// Sets whether the follower routine should run. A routine that is between two runs ends at once.
    pub(super) fn want_follower(&mut self, wanted: bool, now: BootTime) {
        self.follower_wanted = wanted && self.work.follower.is_some();
        match &mut self.follower {
            Some(follower) if !self.follower_wanted => {
                follower.group.cancel(now, self.limits.cancel_grace);
                let (turn, ticker) = &follower.turn;
                if turn.close() && self.whose.remove(ticker).is_some() {
                    self.follower = None;
                }
            }
            None if self.follower_wanted => self.start_follower(),
            Some(_) | None => (),
        }
    }

    fn start_follower(&mut self) {
        let Some(routine) = self.work.follower.clone() else { return };
        let mut group = Group::default();
        let node = Arc::clone(&self.node);
        let job: Job = Box::new(move |token| {
            let context = FollowerContext::new(Arc::clone(&node), token);
            let routine = Arc::clone(&routine);
            async move { routine.tick(context).await }.boxed()
        });
        let ticker = Ticker {
            job,
            gate: None,
            tick: self.tick.subscribe(),
            ending: group.ending.clone(),
            limits: self.limits,
            pulse: Arc::default(),
            turn: Arc::default(),
            metrics: TickMetrics::new(&self.env.metrics, "follower", &self.last_tick),
            unfit: None,
        };
        let turn = Arc::clone(&ticker.turn);
        group.aborts = vec![self.spawn(Whose::Follower, ticker.run())];
        group.tasks = 1;
        let turn = (turn, group.aborts[0].id());
        self.follower = Some(FollowerWork { turn, group });
    }

    /// Begins a new incarnation, whose shards are claimed under this gate.
    pub(super) fn begin_holding(&mut self, held: HeldGate) {
        self.held = Some(Arc::new(held));
    }

    /// Ends the incarnation: no shard is held under its gate any more.
    pub(super) fn end_holding(&mut self) {
        if let Some(held) = self.held.take() {
            held.close();
        }
    }

    pub(super) fn start_shard(&mut self, work: WorkType, shard: ShardId, epoch: ShardEpoch) {
        let worker = self.work.workers.get(&work).cloned();
        let (Some(worker), Some(held)) = (worker, self.held.clone()) else {
            // Never: the leader assigns only work types that this node offers, and only while the node is
            // joined.
            tracing::error!(work = %work, shard = %shard, "a shard without a worker");
            return;
        };
        let gate = Arc::new(ShardGate::new(held));
        let mut group = Group::default();
        let context = ShardContext::new(
            Arc::clone(&gate),
            (work.clone(), shard, epoch),
            Arc::clone(&self.node),
            self.env.clone(),
            group.ending.cancel.clone(),
        );
        let keeper = Keeper {
            name: "shard",
            job: Box::new(move |token| {
                let (worker, context) = (Arc::clone(&worker), context.with_token(token));
                async move { worker.run(shard, context).await }.boxed()
            }),
            gate: Arc::clone(&gate) as Arc<dyn Gate>,
            ending: group.ending.clone(),
            early: Early::Again,
            metrics: self.env.metrics.clone(),
            unfit: None,
        };
        group.aborts = vec![self.spawn(Whose::Shard(work.clone(), shard), keeper.run())];
        group.tasks = 1;
        let metrics = &self.env.metrics;
        metrics.shards_owned.with_label_values(&[work.as_str()]).inc();
        metrics.shard_moves.with_label_values(&[work.as_str(), "gained"]).inc();
        self.shards.insert((work, shard), ShardWork { gate, overdue: false, group });
    }

    pub(super) fn stop_shard(
        &mut self,
        work: &WorkType,
        shard: ShardId,
        reason: ShardEnd,
        now: BootTime,
    ) -> bool {
        let limits = self.limits;
        let Some(running) = self.shards.get_mut(&(work.clone(), shard)) else { return false };
        if running.group.cancelled_at.is_none() {
            self.env.metrics.shards_draining.with_label_values(&[work.as_str()]).inc();
        }
        match reason {
            ShardEnd::Moved => running.group.cancel(now, limits.drain),
            ShardEnd::Stopping => running.group.cancel(now, limits.cancel_grace),
            ShardEnd::Lapsed | ShardEnd::SessionLost => {
                running.gate.close();
                running.group.cancel(now, LOST_GRACE);
            }
        }
        true
    }

    /// Cuts all work that still runs, when its part of the time to leave is over.
    pub(super) fn cut_all(&mut self, now: BootTime) {
        for group in self.groups() {
            group.cancel(now, Duration::ZERO);
        }
        self.on_time(now);
    }

    fn groups(&mut self) -> impl Iterator<Item = &mut Group> {
        let leader = self.leader.as_mut().map(|leader| &mut leader.group);
        let shards = self.shards.values_mut().map(|shard| &mut shard.group);
        let follower = self.follower.as_mut().map(|follower| &mut follower.group);
        leader.into_iter().chain(follower).chain(shards)
    }

    /// Cuts the work whose time is over, and detects a runner that does not report.
    pub(super) fn on_time(&mut self, now: BootTime) -> Option<UnfitBecause> {
        if STOOD_STILL < now.since(self.looked_at) {
            self.awake_since = now;
        }
        self.looked_at = now;
        for ((work, shard), running) in &mut self.shards {
            if running.group.on_time(now) && !running.overdue {
                running.overdue = true;
                self.env.metrics.drains_overdue.with_label_values(&[work.as_str()]).inc();
                tracing::error!(work = %work, shard = %shard, "the work of a shard does not end: it cannot be given away");
            }
        }
        if let Some(follower) = &mut self.follower
            && follower.group.on_time(now)
        {
            tracing::error!("the follower routine does not end");
        }
        let due = self.pulse_due();
        let leader = self.leader.as_mut()?;
        if leader.group.on_time(now) {
            tracing::error!(work = leader.work, "the leader's work does not end");
        }
        // Authority ran out during a planned end: the work must not continue.
        if leader.group.cancelled_at.is_some() && !leader.gate.is_open() {
            leader.group.cancel(now, LOST_GRACE);
        }
        if due.is_some_and(|due| due < now) {
            leader.silent = true;
            leader.group.aborts.iter().for_each(AbortHandle::abort);
            return Some(UnfitBecause::Silent);
        }
        None
    }

    /// Time by which the leader's routine must report. If the whole process stood still, no routine could
    /// report, and the routine is not at fault: it gets its full time again.
    pub(super) fn pulse_due(&self) -> Option<BootTime> {
        let leader = self.leader.as_ref().filter(|leader| !leader.silent)?;
        let due = leader.pulse.due();
        let after_sleep = self.awake_since + Pulse::patience(self.limits.run);
        (BootTime::default() < due).then(|| due.max(after_sleep))
    }

    /// Time at which [`on_time`](Self::on_time) must be called next.
    pub(super) fn deadline(&self) -> Option<BootTime> {
        let leader = self.leader.iter().flat_map(|leader| {
            let lapse =
                leader.group.cancelled_at.is_some().then(|| clock::boot_now() + leader.gate.left());
            let lapse = lapse.filter(|_| leader.gate.is_open());
            [leader.group.deadline(), self.pulse_due(), lapse].into_iter().flatten()
        });
        let follower = self.follower.iter().filter_map(|follower| follower.group.deadline());
        let shards = self.shards.values().filter_map(|shard| shard.group.deadline());
        leader.chain(follower).chain(shards).min()
    }

    /// Waits for the next event of running work.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: an item that was not returned is returned next time.
    pub(super) async fn next(&mut self) -> WorkItem {
        let refused = async {
            match &self.leader {
                Some(leader) => {
                    leader.gate.refused().await;
                    leader.gate.office().term
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // All are cancel safe: an item that is not received stays where it is.
            term = refused => WorkItem::Refused(term),
            Some(why) = self.unfit.1.recv() => WorkItem::Unfit(why),
            Some(joined) = self.set.join_next_with_id() => {
                WorkItem::Joined(match joined {
                    Ok((id, panic)) => Joined { id, panic },
                    Err(error) => Joined { id: error.id(), panic: None },
                })
            }
            else => std::future::pending().await,
        }
    }

    /// Handles the join of a task. Returns the work that has ended with it, if any.
    pub(super) fn on_joined(
        &mut self,
        Joined { id, panic }: &Joined,
        now: BootTime,
    ) -> Option<Ended> {
        let whose = self.whose.remove(id)?;
        if let Some(panic) = panic {
            tracing::error!(work = ?whose, panic, "a task that runs work panicked");
        }
        match whose {
            Whose::Leader(work) => {
                let leader = self.leader.as_mut().filter(|leader| leader.work == work)?;
                leader.group.tasks -= 1;
                if leader.group.tasks == 0 && leader.group.cancelled_at.is_some() {
                    // A context that outlives its work must not act: the driver sends RESIGN next.
                    leader.gate.close();
                    self.leader = None;
                    return Some(Ended::Leader { work });
                }
                panic.is_some().then_some(Ended::LeaderPanicked)
            }
            Whose::Follower => {
                let ended = self.follower.take();
                // A follower that was not cancelled has panicked, or its runtime has shut down. In the
                // second case it cannot be started again.
                let asked = ended.is_some_and(|follower| follower.group.cancelled_at.is_some());
                if self.follower_wanted && (asked || panic.is_some()) {
                    self.start_follower();
                    return None;
                }
                Some(Ended::Follower)
            }
            Whose::Shard(work, shard) => {
                let running = self.shards.remove(&(work.clone(), shard))?;
                running.gate.close();
                self.measure_end(&work, &running, now);
                Some(Ended::Shard { work, shard })
            }
        }
    }

    fn measure_end(&self, work: &WorkType, running: &ShardWork, now: BootTime) {
        let (metrics, label) = (&self.env.metrics, &[work.as_str()]);
        metrics.shards_owned.with_label_values(label).dec();
        metrics.shard_moves.with_label_values(&[work.as_str(), "lost"]).inc();
        if let Some(at) = running.group.cancelled_at {
            metrics.shards_draining.with_label_values(label).dec();
            metrics.drain_seconds.with_label_values(label).observe(now.since(at).as_secs_f64());
        }
        if running.overdue {
            metrics.drains_overdue.with_label_values(label).dec();
        }
    }

    /// Drops all work that runs, for a node that is closed. Returns whether all of it is known to have
    /// ended.
    pub(super) async fn abort_all(&mut self) -> bool {
        self.set.abort_all();
        // Work that blocks its thread never ends, so the wait is bounded.
        let joined = async { while self.set.join_next().await.is_some() {} };
        let is_joined = tokio::time::timeout(WEDGED_AFTER, joined).await.is_ok();
        if !is_joined {
            tracing::error!("some work of a closed node does not end");
            self.set.detach_all();
        }
        is_joined
    }

    /// Whether the leader's work with this number was stopped and has no task left to join.
    pub(super) fn leader_has_ended(&mut self, work: u64) -> bool {
        let over = self.leader.as_ref().is_some_and(|leader| {
            leader.work == work && leader.group.tasks == 0 && leader.group.cancelled_at.is_some()
        });
        if over && let Some(leader) = self.leader.take() {
            leader.gate.close();
        }
        over
    }
}

/// Runs however the driver ends, also after a panic. Without a driver authority is neither extended nor
/// ended, so all authority ends here, and the work that had it is cancelled. Tasks that still run are
/// aborted with the set.
impl Drop for UserWork {
    fn drop(&mut self) {
        // First of all (R5, when a term closes: authority is over before anything else happens).
        if let Some(leader) = &self.leader {
            leader.gate.close();
        }
        self.end_holding();
        for shard in self.shards.values() {
            shard.gate.close();
        }
        let now = clock::boot_now();
        for ((work, _), running) in &self.shards {
            self.measure_end(work, running, now);
        }
        self.cut_all(now);
    }
}

/// Ended task of user work.
#[derive(Debug)]
pub(super) struct Joined {
    id: Id,
    /// Message of the task's panic, if the task panicked.
    panic: Option<String>,
}

/// Event of running work.
#[derive(Debug)]
pub(super) enum WorkItem {
    /// T7 (fenced write of a leader): the store refused a write of this term.
    Refused(Term),
    /// The leader's work panicked too often, or overran and was dropped.
    Unfit(UnfitBecause),
    Joined(Joined),
}
