//! State machine of one node: session, election, office, shards, plans, own keys.
//!
//! An [`Engine`] is one node of one process. Each part has its own file, with rules over the same state. The
//! engine runs all rules after every input, until no rule has anything left to do. The one rule to keep: a
//! rule that is not due yet registers the time when it will be ([`Engine::wake`]), so that it does not depend
//! on another input.

mod asked;
mod draws;
mod election;
mod ending;
mod headers;
mod health;
mod leaving;
mod office;
mod own_keys;
mod plans;
mod session;
mod shards;
mod unclaimed;
mod watched;

use std::{collections::BTreeMap, mem, time::Duration};

use self::{
    asked::Asked,
    draws::Draws,
    election::Candidacy,
    ending::Endings,
    headers::Headers,
    health::Health,
    leaving::Leaving,
    office::{Reign, Resigning},
    own_keys::OwnKeys,
    plans::Plans,
    session::Session,
    shards::Holding,
    watched::Watched,
};
use super::{
    call::{Call, Effect, Input, Office, Outcome, SessionEnd, Standing, WorkEnd},
    cluster_view::ClusterView,
    mutant::Mutant,
    timing::{self, Failover, StoreTiming},
    types::{BootTime, CallId, LeaseId, NodeId, Revision, Role},
    view::{Change, TickPolicy, WorkOffer},
};

/// Configuration of a node. The node layer validates it.
#[derive(Clone, Debug)]
pub struct Config {
    /// Id of the node.
    pub id: NodeId,
    /// Address to publish in the node's metadata.
    pub address: String,
    /// TTL to ask the store for; whole seconds.
    pub ttl: Duration,
    /// Durations that the store sets.
    pub timing: StoreTiming,
    /// Failover profile: D and H.
    pub failover: Failover,
    /// Tick that the node is configured with.
    pub tick: Duration,
    /// Behaviour if the cluster has another tick.
    pub tick_policy: TickPolicy,
    /// UID of the node's pod, if the node runs in one.
    pub pod_uid: Option<String>,
    /// Work types that the node can run.
    pub work: Vec<WorkOffer>,
    /// Whether the node campaigns for office.
    pub campaigns: bool,
    /// Whether this process has created the store itself and no other process can have used it before
    /// (memory). If so, the record is seeded as ended, and the first leader does not wait.
    pub own_store: bool,
    /// Rule that is left out on purpose. Ignored without the feature `mutants`.
    pub mutant: Option<Mutant>,
}

impl Config {
    /// Whether this rule is left out on purpose. Always false without the feature `mutants`.
    pub(crate) fn breaks(&self, mutant: Mutant) -> bool {
        cfg!(feature = "mutants") && self.mutant == Some(mutant)
    }

    /// Span of own authority that `x` gives.
    fn span(&self, x: Duration) -> Duration {
        if self.breaks(Mutant::NoRateFactors) { x } else { timing::span(x) }
    }

    /// Time to wait for another node's `x` to run out.
    fn wait(&self, x: Duration) -> Duration {
        if self.breaks(Mutant::NoRateFactors) { x } else { timing::wait(x) }
    }
}

/// Span in which a node may act as leader, by its own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Office that the authority belongs to.
    pub office: Office,
    /// End of the span, which may lie in the past.
    pub until: BootTime,
}

/// Span in which a node may act on the shards that it has claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardAuthority {
    /// Lease that the held key is named after.
    pub lease: LeaseId,
    /// `h` (`m(held)`), which shard writes compare.
    pub held: Revision,
    /// End of the span, which may lie in the past.
    pub until: BootTime,
}

/// State of the leader's work in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// No work runs: all of it has been joined.
    Idle,
    /// The work with this number runs.
    Running(u64),
    /// The work with this number is cancelled and not yet joined.
    Stopping(u64),
}

/// Call that has not been answered.
#[derive(Clone, Debug)]
struct Pending {
    asked: Asked,
    /// Incarnation that sent the call. The engine ignores answers to calls of an earlier one.
    incarnation: u64,
}

/// A call that is in flight once at most, and the time before which it is not sent (again).
#[derive(Clone, Copy, Debug, Default)]
struct Try {
    in_flight: bool,
    again_at: BootTime,
}

impl Try {
    /// A call that is not in flight.
    const fn at(again_at: BootTime) -> Self {
        Self { in_flight: false, again_at }
    }

    /// A call that is sent now.
    const fn sent_until(again_at: BootTime) -> Self {
        Self { in_flight: true, again_at }
    }

    const fn sent(&mut self) {
        self.in_flight = true;
    }

    const fn answered(&mut self) {
        self.in_flight = false;
    }
}

/// State machine of one node. See the module's docs.
///
/// The caller passes every event to [`step`](Self::step) and carries out the returned effects in order.
/// Before that, it publishes [`authority`](Self::authority) and [`shard_authority`](Self::shard_authority),
/// since R5 (a closed term stays closed) drops authority first and cancels then. The caller calls `step`
/// again no later than [`deadline`](Self::deadline).
///
/// # Invariants
///
/// - `StartWork` and `StopWork` alternate, and a `StartWork` comes only after the `WorkEnded` of the work
///   before.
/// - `StartShard` and `StopShard` of one shard alternate, with a `ShardEnded` after each stop.
/// - No span of authority is computed from a keepalive; R9 (mixed cluster) uses keepalives only to shorten
///   one.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    draws: Draws,
    now: BootTime,
    out: Vec<Effect>,
    wake_at: Option<BootTime>,
    next_call: u64,
    pending: BTreeMap<CallId, Pending>,
    /// Number of the present incarnation, to recognise late answers.
    incarnation: u64,
    watched: Watched,
    headers: Headers,
    health: Health,
    session: Session,
    endings: Endings,
    leaving: Option<Leaving>,
    candidacy: Candidacy,
    reign: Option<Reign>,
    resigning: Option<Resigning>,
    work: Work,
    works: u64,
    /// Counter of all record writes of this process, for R4 (what gives authority).
    n: u64,
    holding: Holding,
    plans: Plans,
    own: OwnKeys,
    standing: Standing,
    unfit: bool,
    drain_wish: bool,
}

impl Engine {
    /// Engine of a node that has not done anything yet. `seed` determines its draws (lease ids, nonces):
    /// random bits in production.
    pub fn new(config: Config, seed: u64) -> Self {
        Self {
            draws: Draws::new(seed),
            now: BootTime::default(),
            out: Vec::new(),
            wake_at: None,
            next_call: 0,
            pending: BTreeMap::new(),
            incarnation: 0,
            watched: Watched::new(config.timing.span_max),
            headers: Headers::default(),
            health: Health::default(),
            session: Session::default(),
            endings: Endings::default(),
            leaving: None,
            candidacy: Candidacy::default(),
            reign: None,
            resigning: None,
            work: Work::Idle,
            works: 0,
            n: 0,
            holding: Holding::default(),
            plans: Plans::default(),
            own: OwnKeys::default(),
            standing: Standing { role: Role::Unknown, term: None },
            unfit: false,
            drain_wish: false,
            config,
        }
    }

    /// Processes an input and returns the effects to carry out. `now` must not go backwards, and must be read
    /// after the event that `input` reports, by R1 (when clocks are read).
    pub fn step(&mut self, now: BootTime, input: Input) -> Vec<Effect> {
        self.stand_still(now);
        self.now = self.now.max(now);
        self.lapse();
        match input {
            // Silence proves nothing: the view stays as it was.
            Input::Tick | Input::WatchLost => (),
            Input::Start { start, dead } => self.on_start(start, dead),
            Input::Stop => self.on_stop(),
            Input::StopNow => self.on_stop_now(),
            Input::Listed { sent_at, received_at, revision, cluster, changes } => {
                self.on_listed(sent_at, received_at, (revision, cluster), changes);
            }
            Input::Changed { received_at, revision, changes } => {
                self.headers.saw(received_at, revision);
                self.watched.apply(received_at, revision, changes);
                self.on_view();
            }
            Input::Progress { revision } => self.watched.advance(revision),
            Input::Answered { id, sent_at, received_at, outcome } => {
                self.on_answered(id, sent_at, received_at, outcome);
            }
            Input::WorkEnded { work } => self.on_work_ended(work),
            Input::OfficeOver { term } => self.on_office_over(term),
            Input::Unfit => self.on_unfit(),
            Input::Fit => self.unfit = false,
            Input::Resign => self.give_up(WorkEnd::Resigned),
            Input::Drain(wish) => self.drain_wish = wish,
            Input::ShardEnded { work, shard } => self.on_shard_ended(&(work, shard)),
        }
        self.settle();
        mem::take(&mut self.out)
    }

    /// Runs all rules until no rule has anything left to do.
    fn settle(&mut self) {
        // A pass may enable a rule that has already run. More than a few passes are an endless loop, our own
        // bug.
        for pass in 0.. {
            assert!(pass < 64, "the rules do not come to rest");
            let before = (self.out.len(), self.next_call);
            self.wake_at = None;
            self.session_rules();
            if self.session.is_in() {
                self.office_rules();
                self.election_rules();
                self.shard_rules();
                self.plan_rules();
                self.own_key_rules();
            }
            self.work_rules();
            if before == (self.out.len(), self.next_call) {
                break;
            }
        }
    }

    /// Discounts a pause of the whole process. A process that stood still past its deadline sent nothing, so
    /// nothing could be answered: R13 (useless office) and R14 (useless ownership) do not count that time.
    fn stand_still(&mut self, now: BootTime) {
        let Some(still) = self.wake_at.map(|at| now.since(at)) else { return };
        if still < self.config.failover.h() {
            return;
        }
        if let Some(reign) = &mut self.reign {
            reign.stand_still(still, now);
        }
        self.holding.stand_still(still, now);
    }

    /// Latest time of the next call of [`step`](Self::step) if no event comes before; `None` at rest.
    pub fn deadline(&self) -> Option<BootTime> {
        self.wake_at
    }

    /// Present role of this node.
    pub fn role(&self) -> Role {
        self.standing.role
    }

    /// Lease of the present incarnation, once it has joined.
    pub fn joined(&self) -> Option<LeaseId> {
        self.session.lease()
    }

    /// The cluster as the last list and the watch show it.
    pub fn view(&self) -> &ClusterView {
        &self.watched
    }

    /// Time at which the record as it is in the view, or its absence, was first received (R3).
    pub fn record_at(&self) -> BootTime {
        self.watched.record_at
    }

    /// Registers a rule that is not due before `at`.
    fn wake(&mut self, at: BootTime) {
        assert!(self.now < at, "a rule that is due acts, or names another time");
        self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
    }

    fn is_due(&mut self, at: BootTime) -> bool {
        let due = at <= self.now;
        if !due {
            self.wake(at);
        }
        due
    }

    /// Whether this call may be sent now.
    fn may_send(&mut self, call: Try) -> bool {
        !call.in_flight && self.is_due(call.again_at)
    }

    fn send(&mut self, asked: Asked, call: Call) -> CallId {
        let id = CallId(self.next_call);
        self.next_call += 1;
        self.pending.insert(id, Pending { asked, incarnation: self.incarnation });
        self.out.push(Effect::Send { id, call });
        id
    }

    fn on_listed(
        &mut self,
        sent_at: BootTime,
        received_at: BootTime,
        (revision, cluster): (Revision, u64),
        changes: Vec<Change>,
    ) {
        if !self.is_same_store(sent_at, received_at, (revision, cluster), false) {
            self.lose_session(SessionEnd::StoreReplaced);
            return;
        }
        // The list replaces the view even if the view is ahead: such a view comes from a watch of a store
        // that is gone.
        self.watched.replace(received_at, revision, changes);
        self.on_list_of_session(sent_at);
        self.on_view();
    }

    /// Runs the checks that follow any change of the view.
    fn on_view(&mut self) {
        self.check_session_in_view();
        if self.session.is_in() {
            self.check_office_in_view();
        }
    }

    fn on_answered(
        &mut self,
        id: CallId,
        sent_at: BootTime,
        received_at: BootTime,
        outcome: Outcome,
    ) {
        let Some(Pending { asked, incarnation }) = self.pending.remove(&id) else { return };
        if let Outcome::Done(answer) | Outcome::Refused(answer) = &outcome
            && asked.is_linearizable()
            && !self.is_same_store(
                sent_at,
                received_at,
                (answer.revision, answer.cluster),
                matches!(outcome, Outcome::Done(_)) && asked.writes(),
            )
        {
            self.lose_session(SessionEnd::StoreReplaced);
            return;
        }
        if matches!(outcome, Outcome::Done(_) | Outcome::Refused(_)) && asked.is_linearizable() {
            self.note_round_trip(sent_at, received_at);
        }
        if incarnation != self.incarnation && !matches!(asked, Asked::Abandon) {
            self.on_late_answer(&asked, &outcome);
            return;
        }
        match asked {
            Asked::Abandon => (),
            Asked::ReadJoin => self.on_read_join(outcome),
            Asked::Grant(lease) => self.on_granted(lease, sent_at, &outcome),
            Asked::Join(lease) => self.on_join(lease, outcome),
            Asked::Renew(lease) => self.on_renewed(lease, sent_at, &outcome),
            Asked::ReadEnd(lease) | Asked::End(lease) | Asked::RevokeEnded(lease) => {
                self.on_ending(lease, &asked, &outcome);
            }
            Asked::Squatter => self.session.restart(),
            Asked::Stop => self.on_stopped(outcome),
            Asked::Seed => self.on_seeded(),
            Asked::Enrol => self.on_enrolled(&outcome),
            Asked::Withdraw(lease) => self.on_withdrawn(lease, &outcome),
            Asked::Take(n) => self.on_taken(n, sent_at, &outcome),
            Asked::Beat(n) => self.on_beaten(n, sent_at, &outcome),
            Asked::Resign => self.on_resigned(&outcome),
            Asked::Held(nonce) => self.on_held_written(nonce, sent_at, outcome),
            Asked::Check => self.on_checked(sent_at, outcome),
            Asked::Plan(work) => self.on_planned(&work, &outcome),
            Asked::DeleteHeld(_) => self.check_office_by(&outcome),
            Asked::WriteNode | Asked::WriteMember | Asked::WriteTickKey => {
                self.on_own_key(&asked, &outcome);
            }
            Asked::SwitchTick => self.on_tick_switched(),
        }
    }

    /// Handles an answer to an earlier incarnation: it changes nothing, but a lease that it granted, or may
    /// have granted, is revoked.
    fn on_late_answer(&mut self, asked: &Asked, outcome: &Outcome) {
        if let (Asked::Grant(lease), Outcome::Done(_) | Outcome::Unknown) = (asked, outcome) {
            self.send(Asked::Abandon, Call::Revoke { lease: *lease });
        }
    }

    /// Whether an answer can come from the store that answered before, by R8 (replaced store).
    fn is_same_store(
        &mut self,
        sent_at: BootTime,
        received_at: BootTime,
        header: (Revision, u64),
        written: bool,
    ) -> bool {
        let same = self.headers.note(sent_at, received_at, header, written);
        same || self.config.breaks(Mutant::ReplacedStoreUnnoticed)
    }
}

#[cfg(test)]
impl Engine {
    /// Whether the call makes a revision of its own when it is done.
    fn writes(&self, id: CallId) -> bool {
        self.pending.get(&id).is_some_and(|pending| pending.asked.writes())
    }
}

#[cfg(test)]
mod tests;
