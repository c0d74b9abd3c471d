//! The whole machine of one node: session, election, office, shards, plans, own keys.
//!
//! One [`Engine`] is one node of one process. Each part has a file; all of them are rules over the
//! same state, run after every input until none has anything left to do. The one rule to keep: a rule
//! that is not due yet says when it will be ([`Engine::wake`]), so that nothing hangs on being called.

mod asked;
mod draws;
mod election;
mod ending;
mod headers;
mod health;
mod join;
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
    asked::Asked, draws::Draws, election::Candidacy, headers::Headers, health::Health,
    office::Reign, own_keys::OwnKeys, plans::Planning, session::Session, shards::Holding,
    unclaimed::Unclaimed, watched::Watched,
};
use super::{
    call::{Call, Effect, Input, Office, Outcome, SessionEnd, Standing, WorkEnd},
    cluster_view::ClusterView,
    mutant::Mutant,
    timing::{self, Failover},
    types::{BootTime, CallId, LeaseId, NodeId, Revision, Role, ShardEpoch, ShardId, WorkType},
    view::{Change, TickPolicy, WorkOffer},
};

/// What a node was configured with. Validated by the node layer.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its id.
    pub id: NodeId,
    /// Goes into its metadata.
    pub address: String,
    /// Asked of the store for its lease; whole seconds.
    pub ttl: Duration,
    /// D and H.
    pub failover: Failover,
    /// The tick it is configured with.
    pub tick: Duration,
    /// What it does if the cluster's is another.
    pub tick_policy: TickPolicy,
    /// Its pod's UID, if it runs in one.
    pub pod_uid: Option<String>,
    /// The work it can run.
    pub work: Vec<WorkOffer>,
    /// Whether it campaigns.
    pub campaigns: bool,
    /// Whether this process has created the store itself and nobody else can have used it before
    /// (memory): then the record is seeded as ended, and the first leader need not wait.
    pub own_store: bool,
    /// The rule that is left out on purpose. Ignored without the feature `mutants`.
    pub mutant: Option<Mutant>,
}

impl Config {
    /// Whether this rule is left out on purpose. Never without the feature `mutants`.
    pub(crate) fn breaks(&self, mutant: Mutant) -> bool {
        cfg!(feature = "mutants") && self.mutant == Some(mutant)
    }

    /// span(x), for own authority.
    fn span(&self, x: Duration) -> Duration {
        if self.breaks(Mutant::NoRateFactors) { x } else { timing::span(x) }
    }

    /// wait(x), for somebody else's.
    fn wait(&self, x: Duration) -> Duration {
        if self.breaks(Mutant::NoRateFactors) { x } else { timing::wait(x) }
    }
}

/// The span in which a node may act as leader, by its own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authority {
    /// In which office.
    pub office: Office,
    /// It ends here. It may have ended already.
    pub until: BootTime,
}

/// The span in which a node may act on the shards it has claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardAuthority {
    /// Names the held key.
    pub lease: LeaseId,
    /// h: what shard writes compare.
    pub held: Revision,
    /// It ends here. It may have ended already.
    pub until: BootTime,
}

/// The leader's work in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// None runs: all of it has been joined.
    Idle,
    /// Started under this number.
    Running(u64),
    /// Cancelled, not yet joined.
    Stopping(u64),
}

/// A call that has not been answered.
#[derive(Clone, Debug)]
struct Pending {
    asked: Asked,
    /// The incarnation it was sent for: answers to an earlier one are ignored.
    incarnation: u64,
}

/// One node's part in the protocol. See the module's docs.
///
/// Feed everything that happens to [`step`](Self::step) and carry out what it returns, in order; before
/// that, publish [`authority`](Self::authority) and [`shard_authority`](Self::shard_authority), since
/// closing drops authority first and cancels then (R5). Call `step` again no later than
/// [`deadline`](Self::deadline).
///
/// # Invariants
///
/// - `StartWork` and `StopWork` alternate, and a `StartWork` comes only after the `WorkEnded` of the
///   work before.
/// - `StartShard` and `StopShard` of one shard alternate, with a `ShardEnded` after each stop.
/// - No span of authority is computed from a keepalive, but to shorten one (R9).
#[derive(Debug)]
pub struct Engine {
    config: Config,
    draws: Draws,
    now: BootTime,
    out: Vec<Effect>,
    wake_at: Option<BootTime>,
    next_call: u64,
    pending: BTreeMap<CallId, Pending>,
    /// Counts incarnations, to tell late answers.
    incarnation: u64,
    watched: Watched,
    headers: Headers,
    health: Health,
    session: Session,
    candidacy: Candidacy,
    reign: Option<Reign>,
    work: Work,
    works: u64,
    /// Counts all record writes of this process (R4).
    n: u64,
    holding: Holding,
    planning: BTreeMap<WorkType, Planning>,
    unclaimed: Unclaimed,
    own: OwnKeys,
    standing: Standing,
    unfit: bool,
    drain_wish: bool,
}

impl Engine {
    /// A node that has not done anything yet. `seed` is where its draws (lease ids, nonces) come from:
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
            watched: Watched::default(),
            headers: Headers::default(),
            health: Health::default(),
            session: Session::default(),
            candidacy: Candidacy::default(),
            reign: None,
            work: Work::Idle,
            works: 0,
            n: 0,
            holding: Holding::default(),
            planning: BTreeMap::new(),
            unclaimed: Unclaimed::default(),
            own: OwnKeys::default(),
            standing: Standing { role: Role::Unknown, term: None },
            unfit: false,
            drain_wish: false,
            config,
        }
    }

    /// Takes in what happened and says what to do about it. `now` must not go backwards and must have
    /// been read after whatever `input` reports (R1).
    pub fn step(&mut self, now: BootTime, input: Input) -> Vec<Effect> {
        self.stand_still(now);
        self.now = self.now.max(now);
        self.lapse();
        match input {
            // From silence nothing is concluded: what was seen stays as it was.
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

    /// Runs all rules until none has anything left to do.
    fn settle(&mut self) {
        // Each pass may enable a rule that stands above; more than a few would be a loop of our own.
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

    /// A process that stood still past its deadline sent nothing meanwhile, and nothing could be answered:
    /// that time counts neither against its office (R13) nor against its shards (R14).
    fn stand_still(&mut self, now: BootTime) {
        let Some(still) = self.wake_at.map(|at| now.since(at)) else { return };
        if still < self.config.failover.h() {
            return;
        }
        if let Some(reign) = &mut self.reign {
            reign.sound_at = (reign.sound_at + still).min(now);
        }
        self.holding.sound_at = (self.holding.sound_at + still).min(now);
    }

    /// When [`step`](Self::step) must be called next if nothing happens before; `None` at rest.
    pub fn deadline(&self) -> Option<BootTime> {
        self.wake_at
    }

    /// The authority of the office this node is in, if it is in one.
    pub fn authority(&self) -> Option<Authority> {
        let reign = self.reign.as_ref()?;
        let until = match self.mixed_bound() {
            Some(bound) => reign.until.min(bound),
            None => reign.until,
        };
        Some(Authority { office: reign.office, until })
    }

    /// The authority over the shards this node holds, if it is joined.
    pub fn shard_authority(&self) -> Option<ShardAuthority> {
        let lease = self.joined()?;
        Some(ShardAuthority { lease, held: self.holding.h, until: self.holding.until })
    }

    /// The shards it holds now, by its own last settled write.
    pub fn shards(&self) -> BTreeMap<(WorkType, ShardId), ShardEpoch> {
        let mut shards = self.unclaimed();
        shards.extend(self.holding.content.clone());
        shards
    }

    /// Its role.
    pub fn role(&self) -> Role {
        self.standing.role
    }

    /// The lease of the present incarnation, once it has joined.
    pub fn joined(&self) -> Option<LeaseId> {
        self.session.lease()
    }

    /// The cluster, by the last list and what the watch has delivered since.
    pub fn view(&self) -> &ClusterView {
        &self.watched
    }

    /// When the record as it is in the view, or its absence, was first received (R3).
    pub fn record_at(&self) -> BootTime {
        self.watched.record_at
    }

    /// A rule that is not due before `at`.
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
        // Even if the view is ahead of it: then the view has moved on with a watch of a store that is gone.
        self.watched.replace(received_at, revision, changes);
        self.on_list_of_session(sent_at);
        self.on_view();
    }

    /// After any change of the view.
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
        let Some(Pending { asked, incarnation }) = self.pending.remove(&id) else {
            return;
        };
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
        let sent =
            if self.config.breaks(Mutant::AuthorityFromReceipt) { received_at } else { sent_at };
        match asked {
            Asked::Abandon => (),
            Asked::ReadJoin => self.on_read_join(outcome),
            Asked::Grant(lease) => self.on_granted(lease, sent, &outcome),
            Asked::Join(lease) => self.on_join(lease, outcome),
            Asked::Renew(lease) => self.on_renewed(lease, sent, &outcome),
            Asked::ReadEnd(lease) | Asked::End(lease) | Asked::RevokeEnded(lease) => {
                self.on_ending(lease, &asked, &outcome);
            }
            Asked::Squatter => self.session.restart(),
            Asked::Stop => self.on_stopped(outcome),
            Asked::Seed => self.candidacy.seeding = false,
            Asked::Enrol => self.on_enrolled(&outcome),
            Asked::Withdraw(lease) => self.on_withdrawn(lease, &outcome),
            Asked::Take(n) => self.on_taken(n, sent, &outcome),
            Asked::Beat(n) => self.on_beaten(n, sent, &outcome),
            Asked::Resign => self.on_resigned(&outcome),
            Asked::Held(nonce) => self.on_held_written(nonce, sent, outcome),
            Asked::Check => self.on_checked(sent, outcome),
            Asked::Plan(work) => self.on_planned(&work, &outcome),
            Asked::DeleteHeld(_) => self.on_held_deleted(&outcome),
            Asked::WriteNode | Asked::WriteMember | Asked::WriteTickKey => {
                self.on_own_key(&asked, &outcome);
            }
            Asked::SwitchTick => self.on_tick_switched(&outcome),
        }
    }

    /// An answer to an earlier incarnation changes nothing, but a lease that nobody waits for any more is
    /// given back.
    fn on_late_answer(&mut self, asked: &Asked, outcome: &Outcome) {
        if let (Asked::Grant(lease), Outcome::Done(_) | Outcome::Unknown) = (asked, outcome) {
            self.send(Asked::Abandon, Call::Revoke { lease: *lease });
        }
    }

    /// R8: whether an answer can come from the store that answered before.
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
    /// Whether what was asked makes a revision of its own when it is done.
    fn writes(&self, id: CallId) -> bool {
        self.pending.get(&id).is_some_and(|pending| pending.asked.writes())
    }
}

#[cfg(test)]
mod tests;
