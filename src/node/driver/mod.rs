//! Drives one engine against a store, on a thread of its own.
//!
//! Receives answers, changes, commands and the ends of work, passes them to the engine one by one, and
//! carries out the engine's effects. The one rule to keep: the driver waits for nothing but its next event.
//! The driver reads the clock before a request leaves and after an answer came (R1: stamps of own spans),
//! and publishes authority before it cancels anything (R5: when a term closes).

mod calls;
mod group;
mod leaving;
mod picture;
mod report;
mod sabotage;
mod ticks;
mod user_work;

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    select,
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::sleep,
};

use self::{
    calls::Calls,
    picture::{Picture, Shards},
    report::{reason_label, refused, role_label, session_label},
    sabotage::Sabotage,
    ticks::UnfitBecause,
    user_work::{Ended, UserWork, WorkItem},
};
use super::{
    Node, StartError, Stopped, compaction,
    gate::HeldGate,
    options::NodeOptions,
    pod_lock::PodLock,
    session::Session,
    shared::{Command, NodeShared, abandoned_deadline},
    supervision::{Line, Parent},
};
use crate::{
    clock,
    engine::{
        BootTime, Dead, Effect, Engine, Input, LeaseId, Outcome, Refusal, Role, SessionEnd,
        Standing,
    },
    store::list_watch::{Feed, Options, Stats},
    tasks::{self, Tasks},
};

/// Longest wait for an event, so that the driver notices that the machine slept.
const IDLE: Duration = Duration::from_secs(1);
/// First delay before the driver retries a join that was refused after the session was lost.
const REJOIN_AFTER: Duration = Duration::from_secs(1);
const REJOIN_AFTER_MOST: Duration = Duration::from_secs(30);
/// Time between two attempts to join while a `start` waits for the holder of the node's id to end.
const KNOCK_EVERY: Duration = Duration::from_millis(250);
/// Fraction of the time given to `stop` that is reserved to revoke the lease.
const STOP_NOW_PART: u32 = 5;
/// The back-off of a node that was fit for this long starts from the beginning.
const FIT_FOR: Duration = Duration::from_secs(600);
const UNFIT_DOUBLINGS: u32 = 5;

/// Phase of the node between `start` and `stop`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Rest,
    /// Joining, joined, or joining again.
    Active,
    Leaving {
        stop_now_at: BootTime,
        told: bool,
        deadline: BootTime,
        /// Since when all work has ended and the store denies what the node still has to write.
        denied_since: Option<BootTime>,
    },
}

/// Driver of one node.
struct Driver {
    shared: Arc<NodeShared>,
    node: Arc<dyn Node>,
    options: NodeOptions,
    engine: Engine,
    inputs: VecDeque<Input>,
    calls: Calls,
    feed: Option<Feed>,
    /// Statistics of the feed that the metrics already contain.
    fed: Stats,
    work: UserWork,
    picture: Picture,
    /// Whether the metrics lag behind the picture, and whether those of the shards do.
    unmeasured: bool,
    shards_unmeasured: bool,
    parent: Parent,
    proven_dead: Dead,
    phase: Phase,
    /// Outcome of leaving, once the engine has left and while work is still to be joined.
    left: Option<Stopped>,
    closing: bool,
    starts: Vec<oneshot::Sender<Result<(), StartError>>>,
    stops: Vec<oneshot::Sender<Stopped>>,
    standing: Standing,
    lease: Option<LeaseId>,
    /// Tasks that the driver needs: if one panics, the driver ends.
    beside: Tasks,
    putting_back: Option<AbortHandle>,
    rejoin_at: Option<BootTime>,
    rejoin_after: Duration,
    /// Time since which a `start` waits for the holder of the node's id to end.
    knocks_since: Option<BootTime>,
    sabotage: Sabotage,
    unfit_times: u32,
    unfit_last: BootTime,
    problem: Option<String>,
    unfit: Option<Unfit>,
}

/// Reason why the node does not campaign, and until when.
#[derive(Clone, Copy, Debug)]
struct Unfit {
    because: UnfitBecause,
    until: BootTime,
}

/// Runs a node's driver until the node is closed or abandoned.
///
/// # Panics
///
/// If the engine, the driver, or a task that they need fails. The task that runs the driver catches the panic.
pub(super) async fn run(
    shared: Arc<NodeShared>,
    node: Arc<dyn Node>,
    options: NodeOptions,
    mut commands: mpsc::Receiver<Command>,
) {
    report::show_zeros(&options);
    let store = Arc::clone(&shared.env.store);
    let mut store_failed = pin!(store.failed());
    let mut driver = Driver::new(shared, node, options);
    while !driver.is_over() {
        select! {
            biased;
            // Cancel safe: the future is polled until it completes, and then the driver panics.
            why = &mut store_failed => panic!("the store has failed: {why}"),
            // Dropped only together with the driver.
            () = driver.turn(&mut commands) => (),
        }
    }
    driver.end().await;
}

impl Driver {
    fn new(shared: Arc<NodeShared>, node: Arc<dyn Node>, mut options: NodeOptions) -> Self {
        let mut proven_dead = Dead::default();
        if let Some(uid) = options.engine.pod_uid.clone() {
            match PodLock::take(options.env.keys.cluster(), &uid) {
                Ok(lock) => {
                    *shared.pod_lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(lock);
                    proven_dead.pod_uid = Some(uid);
                }
                Err(error) => {
                    tracing::warn!(error = %error, "another process holds this pod's lock: cannot prove the previous process dead, waiting for its lease to expire");
                    options.engine.pod_uid = None;
                }
            }
        }
        let mut beside = Tasks::new();
        // Checks that the store is compacted, if its kind needs that.
        if options.env.store.kind() == "etcd" {
            let membership = shared.published.membership.subscribe();
            let looking = compaction::watch_over(options.env.clone(), membership);
            beside.spawn("compaction", async { match looking.await {} });
        }
        let work = UserWork::new(
            options.env.clone(),
            options.work.clone(),
            options.limits,
            Arc::clone(&node),
        );
        Self {
            engine: Engine::new(options.engine.clone(), rand::random()),
            calls: Calls::new(options.env.clone(), &options.engine),
            shared,
            node,
            options,
            inputs: VecDeque::new(),
            feed: None,
            fed: Stats::default(),
            work,
            picture: Picture::default(),
            unmeasured: false,
            shards_unmeasured: false,
            parent: Parent::from_env(),
            proven_dead,
            phase: Phase::Rest,
            left: None,
            closing: false,
            starts: Vec::new(),
            stops: Vec::new(),
            standing: Standing { role: Role::Unknown, term: None },
            lease: None,
            beside,
            putting_back: None,
            rejoin_at: None,
            rejoin_after: REJOIN_AFTER,
            knocks_since: None,
            sabotage: Sabotage::from_env(),
            unfit_times: 0,
            unfit_last: BootTime::default(),
            problem: None,
            unfit: None,
        }
    }

    fn is_over(&self) -> bool {
        self.closing && self.phase == Phase::Rest && self.left.is_none()
    }

    /// Waits for one event and carries out all that follows from it.
    async fn turn(&mut self, commands: &mut mpsc::Receiver<Command>) {
        let wait = self.wait();
        let next_change = async {
            match &mut self.feed {
                Some(feed) => feed.next().await,
                None => std::future::pending().await,
            }
        };
        select! {
            biased;
            // All are cancel safe: an item that is not returned now is returned next time.
            Some(answered) = self.calls.next() => self.on_answer(answered),
            update = next_change => match update {
                Some(update) => self.on_change(update),
                None => panic!("the task that follows the store has ended"),
            },
            Some(ended) = self.beside.join_next() => on_end_beside(&ended),
            item = self.work.next() => self.on_work(item),
            Some(command) = commands.recv() => self.on_command(command),
            () = self.shared.abandoned.cancelled(), if !self.closing => {
                self.closing = true;
                self.leave(abandoned_deadline());
            }
            () = sleep(wait) => self.inputs.push_back(Input::Tick),
        }
        self.on_time();
        self.settle();
        self.show();
        if std::mem::take(&mut self.unmeasured) {
            self.measure_picture();
        }
    }

    /// Time until the driver must act if no event comes.
    fn wait(&self) -> Duration {
        let leaving = match self.phase {
            Phase::Leaving { stop_now_at, told, deadline, .. } => {
                Some(if told { deadline } else { stop_now_at })
            }
            Phase::Rest | Phase::Active => None,
        };
        let fit_at = self.unfit.map(|unfit| unfit.until);
        let dues = [self.engine.deadline(), self.work.deadline(), self.rejoin_at, fit_at, leaving];
        let now = clock::boot_now();
        dues.into_iter().flatten().min().map_or(IDLE, |due| due.since(now).min(IDLE))
    }

    /// Passes all inputs to the engine and carries out its effects.
    fn settle(&mut self) {
        self.shared.env.metrics.driver_steps.inc();
        self.sabotage.panic_if_asked();
        loop {
            while let Some(input) = self.inputs.pop_front() {
                let effects = self.engine.step(clock::boot_now(), input);
                self.publish();
                for effect in effects {
                    self.carry_out(effect);
                }
            }
            // In the same turn: perhaps no later event wakes the driver.
            self.finish_leaving();
            if self.inputs.is_empty() {
                return;
            }
        }
    }

    fn publish(&self) {
        let office = self.engine.authority().map(|authority| (authority.office, authority.until));
        let held = self.engine.shard_authority().map(|shards| (shards.held, shards.until));
        self.work.publish(office, held);
        let metrics = &self.shared.env.metrics;
        metrics.authority_remaining.set(office.map(|(_, until)| until));
        metrics.shard_authority_remaining.set(held.map(|(_, until)| until));
    }

    fn carry_out(&mut self, effect: Effect) {
        let now = clock::boot_now();
        match effect {
            Effect::Send { id, call } => self.calls.send(id, call),
            Effect::Announce { lease } => self.parent.tell(Line::Lease(lease)),
            Effect::Relist => self.relist(),
            Effect::Joined { lease, tick, .. } => self.on_joined(lease, tick),
            Effect::SessionLost { lease, reason } => self.on_session_lost(lease, reason),
            Effect::Refused(refusal) => self.on_refused(&refusal, now),
            Effect::Left { clean } => self.on_left(clean),
            Effect::Role(standing) => self.on_role(standing, now),
            Effect::StartWork { work, office } => {
                let until = self.engine.authority().map_or(now, |authority| authority.until);
                // Before the log line, which may be slow.
                self.work.start_leader(work, office, until);
                tracing::info!(
                    node = self.node.id().get(),
                    term = office.term.0,
                    work,
                    "leader's work starts"
                );
            }
            Effect::StopWork { work, reason } => {
                let label = reason_label(reason);
                let transitions = &self.shared.env.metrics.transitions;
                transitions.with_label_values(&["work_stopped", label]).inc();
                tracing::info!(
                    node = self.node.id().get(),
                    work,
                    reason = label,
                    "leader's work stops"
                );
                self.work.stop_leader(work, reason, now);
                if self.work.leader_has_ended(work) {
                    self.inputs.push_back(Input::WorkEnded { work });
                }
            }
            Effect::TermClosed { term, reason } => {
                tracing::info!(
                    node = self.node.id().get(),
                    term = term.0,
                    reason = reason_label(reason),
                    "term closed"
                );
            }
            Effect::StartShard { work, shard, epoch } => self.work.start_shard(work, shard, epoch),
            Effect::StopShard { work, shard, reason } => {
                if !self.work.stop_shard(&work, shard, reason, now) {
                    self.inputs.push_back(Input::ShardEnded { work, shard });
                }
            }
            Effect::TickChanged(tick) => self.work.set_tick(tick),
            Effect::StoreReplaced => {
                self.shared.published.replacements.send_modify(|count| *count += 1);
            }
        }
    }

    fn relist(&mut self) {
        let env = &self.shared.env;
        if let Some(feed) = &self.feed {
            feed.relist();
        } else {
            let (store, keys) = (Arc::clone(&env.store), env.keys.clone());
            self.feed =
                Some(Feed::start(store, keys, Options::view(self.options.engine.failover.h())));
        }
    }

    fn on_answer(&mut self, input: Input) {
        if let (Some(feed), Input::Answered { outcome: Outcome::Done(answer), .. }) =
            (&self.feed, &input)
        {
            // If the watch does not reach this revision, the feed switches to another member.
            feed.expect(answer.revision);
        }
        self.inputs.push_back(input);
    }

    fn on_change(&mut self, input: Input) {
        let mut shards = Shards::AsBefore;
        match &input {
            Input::Listed { received_at, changes, .. } => {
                shards = self.picture.on_list(self.engine.view(), *received_at, changes);
                self.calls.on_changes(*received_at, changes);
            }
            Input::Changed { received_at, changes, .. } => {
                shards = self.picture.apply(self.engine.view(), *received_at, changes);
                self.calls.on_changes(*received_at, changes);
            }
            Input::Progress { .. } => self.picture.fresh_at = clock::boot_now(),
            _ => (),
        }
        self.unmeasured = true;
        self.shards_unmeasured |= shards == Shards::Changed;
        self.inputs.push_back(input);
    }

    /// Updates the metrics of the picture. Called after the engine has processed the changes, so that a
    /// handoff does not wait for the metrics.
    fn measure_picture(&mut self) {
        let metrics = &self.shared.env.metrics;
        if let Some(stats) = self.feed.as_ref().map(Feed::stats) {
            // The first list is no resync.
            let before = self.fed.lists.max(1);
            metrics.watch_resyncs.inc_by(stats.lists.saturating_sub(before));
            metrics.foreign_keys.inc_by(stats.foreign.saturating_sub(self.fed.foreign));
            self.fed = stats;
        }
        metrics.view_age.set(self.picture.fresh_at);
        let view = self.engine.view();
        metrics.members.set(view.nodes().len() as i64);
        metrics.term.set(view.record().map_or(0, |record| record.term.0));
        let shown = self.shared.published.shown.borrow();
        metrics.leader_suspended.set(i64::from(shown.is_leader_suspended()));
        metrics.drained.set(i64::from(view.is_drained(self.options.engine.id)));
        if std::mem::take(&mut self.shards_unmeasured) {
            for (work, _) in view.plans() {
                let unowned = metrics.shards_unowned.with_label_values(&[work.as_str()]);
                unowned.set(view.unowned(work) as i64);
            }
        }
    }

    fn on_joined(&mut self, lease: LeaseId, tick: Duration) {
        tracing::info!(node = self.node.id().get(), lease = %lease, "joined the cluster");
        self.lease = Some(lease);
        self.problem = None;
        self.rejoin_after = REJOIN_AFTER;
        self.work.set_tick(tick);
        self.work.begin_holding(HeldGate::new(lease));
        self.publish();
        self.shared.own.joined(lease);
        let published = &self.shared.published;
        let session = Session::new(&self.shared.env.keys, lease);
        published.session.send_replace(Some(session.clone()));
        published.membership.send_modify(|membership| membership.joined = true);
        self.shared.env.metrics.transitions.with_label_values(&["joined", "joined"]).inc();
        if let Some(before) = self.putting_back.take() {
            before.abort();
        }
        let shared = Arc::clone(&self.shared);
        self.putting_back = Some(self.beside.spawn("put-back", async move {
            let now = shared.published.session.subscribe();
            shared.own.put_back(&shared.env, shared.id, &now, &session).await;
        }));
        self.knocks_since = None;
        for start in self.starts.drain(..) {
            let _ = start.send(Ok(()));
        }
    }

    fn on_session_lost(&mut self, lease: LeaseId, reason: SessionEnd) {
        let label = session_label(reason);
        tracing::warn!(node = self.node.id().get(), lease = %lease, reason = label, "session lost");
        self.shared.env.metrics.sessions_lost.with_label_values(&[label]).inc();
        self.end_session();
        self.shared.published.membership.send_modify(|membership| membership.sessions_lost += 1);
        self.problem = Some(format!("the session was lost ({label}); joining again"));
    }

    fn end_session(&mut self) {
        self.lease = None;
        self.work.end_holding();
        let published = &self.shared.published;
        published.session.send_replace(None);
        published.membership.send_modify(|membership| membership.joined = false);
        self.shared.env.metrics.lease_remaining.set(None);
    }

    fn on_refused(&mut self, refusal: &Refusal, now: BootTime) {
        tracing::warn!(node = self.node.id().get(), refusal = ?refusal, "join refused");
        self.problem = Some(refused(&self.options, refusal, Duration::ZERO).to_string());
        if self.lease.is_some() {
            self.end_session();
        }
        self.starts.retain(|start| !start.is_closed());
        if self.starts.is_empty() {
            // No `start` waits for an answer (any more): the node retries by itself.
            self.rejoin_at = Some(now + self.rejoin_after);
            self.rejoin_after = (self.rejoin_after * 2).min(REJOIN_AFTER_MOST);
            self.knocks_since = None;
            return;
        }
        let waited = match refusal {
            Refusal::DuplicateId { .. } => now.since(*self.knocks_since.get_or_insert(now)),
            Refusal::TickDisagreement { .. } => Duration::ZERO,
        };
        if matches!(refusal, Refusal::DuplicateId { .. }) && waited < self.options.id_wait {
            self.wait_for_id(refusal, waited, now);
            return;
        }
        self.phase = Phase::Rest;
        self.knocks_since = None;
        for start in self.starts.drain(..) {
            let _ = start.send(Err(refused(&self.options, refusal, waited)));
        }
    }

    /// Retries after a short delay: the holder may be an earlier process of this node, whose lease will
    /// expire.
    fn wait_for_id(&mut self, refusal: &Refusal, waited: Duration, now: BootTime) {
        let id_wait = self.options.id_wait;
        let error = refused(&self.options, refusal, Duration::ZERO);
        if waited.is_zero() {
            tracing::warn!(node = self.node.id().get(), %error, id_wait_ms = id_wait.as_millis() as u64, "waiting for the holder of the id to end");
        }
        self.problem = Some(format!("waiting up to {id_wait:?} for the id: {error}"));
        self.rejoin_at = Some(now + KNOCK_EVERY.min(id_wait.saturating_sub(waited)));
    }

    fn on_role(&mut self, standing: Standing, now: BootTime) {
        tracing::info!(node = self.node.id().get(), role = %standing.role, term = standing.term.map(|term| term.0), "role");
        self.standing = standing;
        let (metrics, role) = (&self.shared.env.metrics, standing.role);
        metrics.role.set(role as i64);
        let leads = role == Role::Leader;
        metrics.master.with_label_values(&[self.node.cluster()]).set(i64::from(leads));
        metrics.transitions.with_label_values(&[role_label(role), "role"]).inc();
        let published = &self.shared.published;
        published.metadata.send_modify(|metadata| metadata.role = role);
        published.membership.send_modify(|membership| {
            membership.role = role;
            membership.term = standing.term;
        });
        self.follow(now);
    }

    /// Starts or ends the follower routine, according to the role.
    fn follow(&mut self, now: BootTime) {
        let wanted = match self.standing.role {
            Role::Unknown => false,
            Role::Leader => self.work.follows_while_leading(),
            Role::Follower => true,
        };
        let active = self.phase == Phase::Active;
        self.work.want_follower(wanted && active, now);
    }

    fn on_work(&mut self, item: WorkItem) {
        let now = clock::boot_now();
        match item {
            WorkItem::Refused(term) => self.inputs.push_back(Input::OfficeOver { term }),
            WorkItem::Unfit(why) => self.on_unfit(why, now),
            WorkItem::Joined(joined) => match self.work.on_joined(&joined, now) {
                Some(Ended::LeaderPanicked) => self.on_unfit(UnfitBecause::Panics, now),
                Some(Ended::Leader { work }) => self.inputs.push_back(Input::WorkEnded { work }),
                Some(Ended::Shard { work, shard }) => {
                    self.inputs.push_back(Input::ShardEnded { work, shard });
                }
                Some(Ended::Follower) | None => (),
            },
        }
    }

    fn on_unfit(&mut self, why: UnfitBecause, now: BootTime) {
        if self.unfit.is_some() {
            return;
        }
        if FIT_FOR < now.since(self.unfit_last) {
            self.unfit_times = 0;
        }
        let after = self.options.limits.unfit_after * (1 << self.unfit_times);
        self.unfit_times = (self.unfit_times + 1).min(UNFIT_DOUBLINGS);
        self.unfit_last = now;
        self.unfit = Some(Unfit { because: why, until: now + after });
        tracing::error!(node = self.node.id().get(), why = ?why, campaigns_again_after_ms = after.as_millis() as u64, "the leader's work cannot go on here");
        self.inputs.push_back(Input::Unfit);
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Start { runtime, reply } => self.on_start(runtime, reply),
            Command::Stop { deadline, reply } => self.on_stop(deadline, reply),
            Command::Close { deadline, reply } => {
                self.closing = true;
                for start in self.starts.drain(..) {
                    let _ = start.send(Err(StartError::Closed));
                }
                self.on_stop(deadline, reply);
            }
            Command::Resign => self.inputs.push_back(Input::Resign),
            Command::Drain(draining) => self.inputs.push_back(Input::Drain(draining)),
            Command::Status { reply } => drop(reply.send(self.known())),
        }
    }

    fn on_start(&mut self, runtime: Handle, reply: oneshot::Sender<Result<(), StartError>>) {
        if self.closing {
            let _ = reply.send(Err(StartError::Closed));
            return;
        }
        if self.lease.is_some() && self.phase == Phase::Active {
            let _ = reply.send(Ok(()));
            return;
        }
        self.work.run_on(runtime);
        self.starts.retain(|start| !start.is_closed());
        if self.starts.is_empty() {
            self.knocks_since = None;
        }
        self.starts.push(reply);
        let resting = self.phase == Phase::Rest && self.left.is_none();
        if resting || self.rejoin_at.is_some() {
            self.begin();
        }
    }

    fn begin(&mut self) {
        self.phase = Phase::Active;
        self.rejoin_at = None;
        let (start, dead) = (clock::wall_now(), self.proven_dead.clone());
        // The same start time as the engine will write.
        self.shared.published.metadata.send_modify(|metadata| metadata.start = start);
        self.inputs.push_back(Input::Start { start, dead });
    }

    fn on_time(&mut self) {
        let now = clock::boot_now();
        if let Some(why) = self.work.on_time(now) {
            self.on_unfit(why, now);
        }
        if self.unfit.is_some_and(|unfit| unfit.until <= now) {
            self.unfit = None;
            self.inputs.push_back(Input::Fit);
        }
        if self.rejoin_at.is_some_and(|at| at <= now) {
            self.begin();
        }
        self.leave_in_time(now);
    }

    /// Ends all tasks and work that still run, for a node that is closed.
    async fn end(mut self) {
        self.beside.abort_all().await;
        let is_joined = self.work.abort_all().await;
        self.shared.published.session.send_replace(None);
        // Work that still runs may act for this process of the pod: its handles of the node keep the lock.
        if is_joined {
            self.shared.pod_lock.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

/// Called when a task that the driver needs has ended: panics if the task panicked. A task that returned or
/// was aborted was asked to end.
fn on_end_beside(ended: &tasks::Ended) {
    assert!(!matches!(ended, tasks::Ended::Panicked { .. }), "{ended}");
}

#[cfg(test)]
mod tests;
