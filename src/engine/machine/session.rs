//! Session of a node: a read, T1 (GRANT), T2 (JOIN), keepalives, and the end of an incarnation. R8 (replaced
//! store), R9 (mixed cluster), R10 (lost session), R12 (one GRANT per lease id); T11 (REVOKE).
//!
//! A node whose id belongs to a live node is refused. A holder of the id that is proven dead is ended first.
//! A key of the id that hangs on no lease was written by an operator and is deleted after a second.
//!
//! The one rule to keep (R10): a new lease is registered only after the old one is confirmed gone.

use std::{
    collections::VecDeque,
    mem,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{Asked, Engine, leaving::Leaving};
use crate::engine::{
    backoff::Backoff,
    call::{
        Answer, Call, Dead, Effect, Join, JoinTick, Outcome, Refusal, SessionEnd, ShardEnd, WorkEnd,
    },
    cluster_view::ClusterView,
    timing::{RHO, margin},
    types::{BootTime, LeaseId, NodeMetadata, Revision, Role},
    view::{Member, TickPolicy},
};

/// A session that lasted this long was healthy: after its loss, the back-off starts from its first wait.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// Longest time that old work may delay the clean END of its incarnation.
const JOIN_WORK_WITHIN: Duration = Duration::from_secs(3);

/// Number of earlier leases that are remembered. The keys of an id hang on one lease at a time, and a node
/// gets a new lease only after the holder of these keys is ended (R10): only one of the last few leases can
/// still appear. A forgotten lease that a backup brings back counts as another node's: it must run out, as
/// for every life that is not proven dead, see T10 (END).
const EARLIER_MOST: usize = 64;

/// An operator's key under our id that hangs on no lease is deleted after it was seen so for this long.
const SQUATTER_AFTER: Duration = Duration::from_secs(1);

/// State of the node's life: its phase, leases and timers.
#[derive(Debug)]
pub(super) struct Session {
    phase: Phase,
    /// Lease that was granted and not yet revoked.
    granted: Option<Granted>,
    /// Last earlier leases of this process. Their incarnations may be ended, by R7 (clean end) and R10.
    earlier: VecDeque<LeaseId>,
    dead: Dead,
    start: SystemTime,
    backoff: Backoff,
    not_before: BootTime,
    squatter: Option<(Revision, Revision, BootTime)>,
    /// Node keys that a refused JOIN found when it tried to replace the cluster's tick.
    company: Option<Company>,
}

/// Granted lease, and the state of its renewals.
#[derive(Debug)]
struct Granted {
    lease: LeaseId,
    ttl: Duration,
    /// Sending time of the grant or of the last renewal that was answered.
    renewed: BootTime,
    renew_at: BootTime,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// The node has not started, was refused, or has left.
    Rest,
    /// The node reads before a JOIN; `asked` = the read is in flight.
    Reading {
        asked: bool,
    },
    Granting(JoinPlan),
    Joining {
        plan: JoinPlan,
        asked: bool,
    },
    In(Incarnation),
}

/// Result of the read before a JOIN: the ticks to join with.
#[derive(Clone, Copy, Debug)]
struct JoinPlan {
    cluster_tick: JoinTick,
    tick: Duration,
}

/// Life of the node id under one lease.
#[derive(Clone, Copy, Debug)]
struct Incarnation {
    lease: LeaseId,
    /// `c(member(id))`: the revision of JOIN.
    joined: Revision,
    since: BootTime,
    /// Whether the view contains a list that was sent after JOIN.
    listed: bool,
}

/// Node keys that a refused JOIN found, although no tick key shows a live node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Company {
    /// All node keys hang on no lease, in the read at this revision: no node lives.
    Strays(Revision),
    /// A node key hangs on a lease: a node lives.
    Alive,
}

/// Holder of the own id, by its keys in the store.
enum Holder {
    Nobody,
    /// This very lease holds the id: a JOIN whose answer was lost.
    Ourselves,
    /// An incarnation that may be ended holds the id.
    Dead(LeaseId),
    Squatter(Revision, Revision),
    Other(Refusal),
}

impl Default for Session {
    fn default() -> Self {
        Self {
            phase: Phase::Rest,
            granted: None,
            earlier: VecDeque::new(),
            dead: Dead::default(),
            start: UNIX_EPOCH,
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(3)),
            not_before: BootTime::default(),
            squatter: None,
            company: None,
        }
    }
}

impl Session {
    pub(super) fn is_in(&self) -> bool {
        matches!(self.phase, Phase::In(_))
    }

    pub(super) fn lease(&self) -> Option<LeaseId> {
        self.incarnation().map(|incarnation| incarnation.lease)
    }

    /// `c(member(id))` of this incarnation.
    pub(super) fn joined(&self) -> Option<Revision> {
        self.incarnation().map(|incarnation| incarnation.joined)
    }

    fn incarnation(&self) -> Option<&Incarnation> {
        match &self.phase {
            Phase::In(incarnation) => Some(incarnation),
            _ => None,
        }
    }

    /// Whether the view is of this incarnation.
    pub(super) fn is_listed(&self) -> bool {
        self.incarnation().is_some_and(|incarnation| incarnation.listed)
    }

    /// Goes back to the read before a JOIN.
    pub(super) fn restart(&mut self) {
        if !matches!(self.phase, Phase::Rest | Phase::In(_)) {
            self.phase = Phase::Reading { asked: false };
        }
    }

    /// Lease that was granted and not yet revoked.
    fn granted(&self) -> Option<LeaseId> {
        self.granted.as_ref().map(|granted| granted.lease)
    }

    /// Makes the lease an earlier one, under which this node does not join any more.
    fn spend(&mut self, lease: LeaseId) {
        self.granted = None;
        if !self.earlier.contains(&lease) {
            if EARLIER_MOST <= self.earlier.len() {
                self.earlier.pop_front();
            }
            self.earlier.push_back(lease);
        }
    }
}

impl Engine {
    pub(super) fn on_start(&mut self, start: SystemTime, dead: Dead) {
        if !matches!(self.session.phase, Phase::Rest) {
            return;
        }
        self.begin_incarnation();
        for lease in &dead.leases {
            self.endings.add_dead(*lease);
        }
        let earlier = mem::take(&mut self.session.earlier);
        let (phase, not_before) = (Phase::Reading { asked: false }, self.now);
        self.session = Session { phase, earlier, dead, start, not_before, ..Session::default() };
    }

    pub(super) fn on_stop(&mut self) {
        if self.is_leaving() {
            return;
        }
        if !self.session.is_in() {
            self.leave_unjoined();
            return;
        }
        self.leaving = Some(Leaving::of_joined(self.now));
        self.give_up(WorkEnd::Stopping);
        self.stop_shards(ShardEnd::Stopping);
    }

    /// Leaves without a session. A JOIN under a lease that was granted, or whose GRANT is in flight, may have
    /// committed or be under way, so that lease is ended. Earlier incarnations are ended too, since otherwise
    /// their keys stay until their leases run out.
    fn leave_unjoined(&mut self) {
        let granting = self.pending.values().find_map(|pending| match pending.asked {
            Asked::Grant(lease) if pending.incarnation == self.incarnation => Some(lease),
            _ => None,
        });
        let granted = self.session.granted();
        self.begin_incarnation();
        for lease in granted.into_iter().chain(granting) {
            self.session.spend(lease);
            self.endings.add_dead(lease);
        }
        if self.endings.is_empty() && !self.is_working() {
            self.come_to_rest(Effect::Left { clean: true });
            return;
        }
        self.session.phase = Phase::Reading { asked: false };
        self.leaving = Some(Leaving::of_unjoined(self.now));
    }

    pub(super) fn on_stop_now(&mut self) {
        if matches!(self.session.phase, Phase::Rest) {
            return;
        }
        self.close_term(WorkEnd::Stopping);
        self.stop_shards(ShardEnd::Stopping);
        self.abandon_granted();
        self.come_to_rest(Effect::Left { clean: false });
    }

    /// R12, T11: revokes the granted lease without waiting for the answer.
    fn abandon_granted(&mut self) {
        if let Some(lease) = self.session.granted() {
            self.session.spend(lease);
            self.send(Asked::Abandon, Call::Revoke { lease });
        }
    }

    /// Starts a new incarnation number: answers to earlier calls no longer count, and their senders must ask
    /// again.
    fn begin_incarnation(&mut self) {
        self.incarnation += 1;
        self.endings.retry(self.now);
    }

    /// Ends the node's life in this cluster, for the reason that the last effect reports.
    pub(super) fn come_to_rest(&mut self, last: Effect) {
        self.begin_incarnation();
        self.session.phase = Phase::Rest;
        self.session.granted = None;
        self.leaving = None;
        self.endings.clear();
        self.forget_incarnation();
        self.out.push(last);
    }

    /// Forgets the state that belongs to one incarnation only.
    fn forget_incarnation(&mut self) {
        self.candidacy = super::Candidacy::default();
        self.resigning = None;
        self.holding.forget();
        self.plans = super::Plans::default();
        self.own = super::OwnKeys::default();
    }

    /// Ends the incarnation, by R8 (replaced store) or R10: closes the term, drops all shards, and joins
    /// again.
    pub(super) fn lose_session(&mut self, reason: SessionEnd) {
        self.end_incarnation(reason, None);
    }

    /// Ends the incarnation. With `blind` (its h), its keys are given back without waiting for answers.
    fn end_incarnation(&mut self, reason: SessionEnd, blind: Option<Revision>) {
        if reason == SessionEnd::StoreReplaced {
            self.watched = super::Watched::new(self.config.timing.span_max);
            self.headers.forget(self.now);
            self.out.push(Effect::StoreReplaced);
        }
        let Phase::In(Incarnation { lease, since, .. }) = self.session.phase else {
            if !matches!(self.session.phase, Phase::Rest) {
                self.begin_incarnation();
                self.abandon_granted();
                self.retry_join();
            }
            return;
        };
        self.close_term(WorkEnd::SessionLost);
        self.stop_shards(ShardEnd::SessionLost);
        self.begin_incarnation();
        self.session.spend(lease);
        self.out.push(Effect::SessionLost { lease, reason });
        self.session.phase = Phase::Reading { asked: false };
        self.forget_incarnation();
        if HEALTHY_AFTER <= self.now.since(since) {
            self.session.backoff.reset();
        }
        self.endings.add_own(lease, self.now + JOIN_WORK_WITHIN, blind);
        self.delay_join();
        if self.is_leaving() {
            // The old lease is ended, then the node has left.
            self.leaving = Some(Leaving::of_unjoined(self.now));
        }
    }

    fn delay_join(&mut self) {
        let draw = self.draws.draw();
        self.session.not_before = self.now + self.session.backoff.next(draw);
    }

    fn retry_join(&mut self) {
        self.session.phase = Phase::Reading { asked: false };
        self.delay_join();
    }

    pub(super) fn session_rules(&mut self) {
        match &self.session.phase {
            Phase::Rest => self.ending_rules(),
            Phase::In(_) => {
                self.keepalive_rule();
                self.useless_owner_rule();
                self.probe_rule();
                self.leave_rule();
            }
            _ => {
                self.keepalive_rule();
                self.ending_rules();
                self.join_rules();
            }
        }
    }

    fn join_rules(&mut self) {
        if !self.endings.is_empty() {
            return;
        }
        if self.is_leaving() {
            // The session was lost while the node was leaving, and its lease is gone. Work that still runs is
            // waited for until the deadline of the leaving.
            if self.is_working() {
                return;
            }
            self.abandon_granted();
            self.come_to_rest(Effect::Left { clean: true });
            return;
        }
        if !self.is_due(self.session.not_before) {
            return;
        }
        match &mut self.session.phase {
            Phase::Reading { asked: asked @ false } => {
                *asked = true;
                self.send(Asked::ReadJoin, Call::ReadJoin { id: self.config.id });
            }
            Phase::Joining { asked: asked @ false, plan } => {
                *asked = true;
                let plan = *plan;
                self.send_join(plan);
            }
            Phase::Rest
            | Phase::In(_)
            | Phase::Reading { .. }
            | Phase::Granting(_)
            | Phase::Joining { .. } => (),
        }
    }

    pub(super) fn on_read_join(&mut self, outcome: Outcome) {
        if !matches!(self.session.phase, Phase::Reading { .. }) {
            return;
        }
        let (Outcome::Done(answer) | Outcome::Refused(answer)) = outcome else {
            self.retry_join();
            return;
        };
        if !self.health.is_good() {
            // R14 (useless ownership), R16 (renewals without answer): this read measures the round trip, and
            // was too slow.
            self.retry_join();
            return;
        }
        let holder = self.holder(&answer);
        self.on_holder(holder, &answer);
    }

    /// Finds the holder of the own id in a read of `node(id)` and `member(id)`.
    fn holder(&self, answer: &Answer) -> Holder {
        let found = answer.view();
        let node = found.nodes.get(&self.config.id);
        let member = found.members.get(&self.config.id);
        let on = [node.map(|node| node.lease), member.map(|member| member.lease)];
        let granted = self.session.granted();
        if granted.is_some() && member.is_some_and(|member| member.lease == granted) {
            return Holder::Ourselves;
        }
        let pod_uid = member
            .and_then(|member| member.value.as_ref())
            .and_then(|member| member.pod_uid.as_deref());
        let same_pod = self.session.dead.pod_uid.as_deref().is_some_and(|uid| pod_uid == Some(uid));
        let proven = |lease: &LeaseId| {
            let of_pod = same_pod && member.is_some_and(|member| member.lease == Some(*lease));
            of_pod
                || self.session.earlier.contains(lease)
                || self.session.dead.leases.contains(lease)
        };
        let leases: Vec<LeaseId> = on.into_iter().flatten().flatten().collect();
        if let Some(living) = leases.iter().find(|lease| !proven(lease)) {
            let address = node.and_then(|node| node.value.as_ref()).map(|node| &node.address);
            let address = address.cloned().unwrap_or_default();
            return Holder::Other(Refusal::DuplicateId { address, holder: Some(*living) });
        }
        if let Some(dead) = leases.first() {
            return Holder::Dead(*dead);
        }
        if node.is_none() && member.is_none() {
            return Holder::Nobody;
        }
        let modified = |m: Option<Revision>| m.unwrap_or(Revision(0));
        Holder::Squatter(
            modified(node.map(|node| node.modified)),
            modified(member.map(|member| member.modified)),
        )
    }

    fn on_holder(&mut self, holder: Holder, answer: &Answer) {
        match holder {
            Holder::Nobody => match self.judge_tick(answer) {
                Ok(plan) => self.go_on_joining(plan),
                Err(refusal) => self.refuse(refusal),
            },
            Holder::Ourselves => {
                let found = answer.view();
                let own = found.tick_keys.get(&self.config.id);
                let tick = own.and_then(|stored| stored.value).unwrap_or(self.config.tick);
                self.enter_found(tick, &found);
            }
            Holder::Dead(lease) => {
                self.endings.add_dead(lease);
                self.session.restart();
            }
            Holder::Squatter(node, member) => self.on_squatter(node, member),
            Holder::Other(refusal) => self.refuse(refusal),
        }
    }

    fn on_squatter(&mut self, node: Revision, member: Revision) {
        let seen = self.session.squatter.filter(|seen| (seen.0, seen.1) == (node, member));
        let since = seen.map_or(self.now, |seen| seen.2);
        self.session.squatter = Some((node, member, since));
        if SQUATTER_AFTER <= self.now.since(since) {
            self.session.squatter = None;
            let id = self.config.id;
            self.send(Asked::Squatter, Call::DeleteSquatter { id, node, member });
        } else {
            self.session.restart();
            self.session.not_before = since + SQUATTER_AFTER;
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.abandon_granted();
        self.come_to_rest(Effect::Refused(refusal));
    }

    /// Decides by T2 (JOIN) with which ticks this node joins, from the ticks of the cluster and of the live
    /// nodes. A node with a tick key on a lease counts as live, even if its node key is gone: it may go on
    /// without that key, as a Go node does.
    fn judge_tick(&mut self, answer: &Answer) -> Result<JoinPlan, Refusal> {
        let found = answer.view();
        let own = self.config.tick;
        let others: Vec<Duration> = found
            .tick_keys
            .iter()
            .filter(|(id, stored)| **id != self.config.id && stored.lease.is_some())
            .filter_map(|(_, stored)| stored.value)
            .collect();
        let company = self.session.company.take();
        let disagreement = |cluster| Refusal::TickDisagreement { cluster, own };
        let adopts = self.config.tick_policy == TickPolicy::Adopt;
        let modified = found.tick.as_ref().map_or(Revision(0), |stored| stored.modified);
        let Some(cluster) = found.tick() else {
            // Without a readable tick of the cluster, the live nodes' tick keys decide.
            let cluster_tick = JoinTick::Create { read: answer.revision, modified };
            return match others.iter().find(|other| **other != own) {
                None => Ok(JoinPlan { cluster_tick, tick: own }),
                // The cluster's tick is missing, so only Go nodes can live here.
                Some(other) if adopts && others.iter().all(|one| one == other) => {
                    Ok(JoinPlan { cluster_tick, tick: *other })
                }
                Some(other) => Err(disagreement(*other)),
            };
        };
        let keep = JoinTick::Keep { modified };
        if cluster == own {
            Ok(JoinPlan { cluster_tick: keep, tick: own })
        } else if others.is_empty() && company != Some(Company::Alive) {
            let strays = company.and_then(|company| match company {
                Company::Strays(read) => Some(read),
                Company::Alive => None,
            });
            Ok(JoinPlan { cluster_tick: JoinTick::Replace { modified, strays }, tick: own })
        } else if adopts {
            Ok(JoinPlan { cluster_tick: keep, tick: cluster })
        } else {
            Err(disagreement(cluster))
        }
    }

    fn go_on_joining(&mut self, plan: JoinPlan) {
        if self.session.granted.is_some() {
            self.session.phase = Phase::Joining { plan, asked: false };
            return;
        }
        let lease = self.draws.lease();
        self.session.phase = Phase::Granting(plan);
        self.out.push(Effect::Announce { lease });
        self.send(Asked::Grant(lease), Call::Grant { lease, ttl: self.config.ttl });
    }

    pub(super) fn on_granted(&mut self, lease: LeaseId, sent: BootTime, outcome: &Outcome) {
        let Phase::Granting(plan) = self.session.phase else {
            self.send(Asked::Abandon, Call::Revoke { lease });
            return;
        };
        let Outcome::Done(Answer { ttl, .. }) = *outcome else {
            // R12: GRANT is not repeated. If its lease may exist, it is revoked. A lease id that exists
            // already belongs to another client and is left alone.
            if !matches!(outcome, Outcome::LeaseExists | Outcome::Failed) {
                self.send(Asked::Abandon, Call::Revoke { lease });
            }
            self.retry_join();
            return;
        };
        let renew_at = sent + ttl / 3;
        self.session.granted = Some(Granted { lease, ttl, renewed: sent, renew_at });
        self.session.phase = Phase::Joining { plan, asked: false };
    }

    fn send_join(&mut self, JoinPlan { cluster_tick, tick }: JoinPlan) {
        let Some(lease) = self.session.granted() else { return };
        let candidate = self.wants_office();
        let join = Join {
            lease,
            metadata: self.metadata(Role::Follower),
            tick,
            member: self.member_record(lease),
            candidate,
            nonce: self.draws.draw(),
            cluster_tick,
        };
        self.own.joining(&join);
        self.send(Asked::Join(lease), Call::Join(Box::new(join)));
    }

    /// Value of `node(id)` in that role.
    pub(super) fn metadata(&self, role: Role) -> NodeMetadata {
        let (id, address) = (self.config.id, self.config.address.clone());
        NodeMetadata { id, address, start: self.session.start, role }
    }

    /// Value of `member(id)` in this incarnation.
    pub(super) fn member_record(&self, lease: LeaseId) -> Member {
        Member {
            lease,
            d: self.config.failover.d(),
            f: self.config.timing.f,
            tick: self.config.tick,
            policy: self.config.tick_policy,
            pod_uid: self.config.pod_uid.clone(),
            work: self.config.work.clone(),
            draining: self.drain_wish,
            campaigns: self.config.campaigns,
        }
    }

    pub(super) fn on_join(&mut self, lease: LeaseId, outcome: Outcome) {
        let Phase::Joining { plan, asked } = &mut self.session.phase else { return };
        *asked = false;
        let plan = *plan;
        match outcome {
            Outcome::Done(answer) => self.enter(lease, answer.revision, plan.tick),
            Outcome::Refused(answer) => self.on_join_refused(lease, plan, &answer),
            Outcome::LeaseNotFound | Outcome::LeaseExists => {
                self.session.spend(lease);
                self.retry_join();
            }
            // The same JOIN is sent again. If the first one took effect, the second is refused and shows the
            // own keys.
            Outcome::Unknown | Outcome::Failed => self.delay_join(),
        }
    }

    fn on_join_refused(&mut self, lease: LeaseId, plan: JoinPlan, answer: &Answer) {
        let found = answer.view();
        if matches!(plan.cluster_tick, JoinTick::Replace { .. }) {
            let lives = found.nodes.values().any(|stored| stored.lease.is_some());
            let strays = Company::Strays(answer.revision);
            self.session.company = Some(if lives { Company::Alive } else { strays });
        }
        let holder = self.holder(answer);
        if matches!(holder, Holder::Ourselves) {
            self.enter_found(plan.tick, &found);
            return;
        }
        if found.held.contains_key(&lease) {
            // A second JOIN after another client deleted the keys of the first: this lease cannot join any
            // more.
            self.session.spend(lease);
            self.endings.add_dead(lease);
            self.retry_join();
            return;
        }
        match holder {
            // The cluster's tick has changed, or a key was deleted meanwhile: read again.
            Holder::Nobody | Holder::Ourselves => self.retry_join(),
            other => self.on_holder(other, answer),
        }
    }

    /// Enters the session after an earlier JOIN under the same lease, which may have put another member record.
    fn enter_found(&mut self, tick: Duration, found: &ClusterView) {
        let member = found.members.get(&self.config.id);
        if let Some((lease, member)) = self.session.granted().zip(member) {
            self.enter(lease, member.created, tick);
            self.own.found_member(member.value.clone());
        }
    }

    /// Enters the session after a committed JOIN.
    fn enter(&mut self, lease: LeaseId, joined: Revision, tick: Duration) {
        self.session.phase =
            Phase::In(Incarnation { lease, joined, since: self.now, listed: false });
        self.session.squatter = None;
        self.own.joined(joined, tick);
        self.holding.joined(joined);
        self.out.push(Effect::Joined { lease, revision: joined, tick });
        self.out.push(Effect::Relist);
    }

    /// Notes that a list has replaced the view.
    pub(super) fn on_list_of_session(&mut self, sent_at: BootTime) {
        let Phase::In(incarnation) = &mut self.session.phase else { return };
        if !incarnation.listed && sent_at < incarnation.since {
            // The list was sent before JOIN was answered: it may be older than the own keys.
            if self.watched.revision < incarnation.joined {
                return;
            }
        }
        incarnation.listed = true;
    }

    /// Checks the own keys in the view, by R10 and R9.
    pub(super) fn check_session_in_view(&mut self) {
        let Some(incarnation) = self.session.incarnation() else { return };
        if !incarnation.listed || self.watched.revision < incarnation.joined {
            return;
        }
        // STOP deletes the own keys, and their events may come before its answer, which decides.
        if self.leaving.as_ref().is_some_and(Leaving::has_begun) {
            return;
        }
        let (lease, joined) = (incarnation.lease, incarnation.joined);
        let member = self.watched.members.get(&self.config.id);
        if member.is_none_or(|member| member.lease != Some(lease) || member.created != joined) {
            self.lose_session(SessionEnd::MemberLost);
            return;
        }
        let foreign = self
            .watched
            .nodes
            .get(&self.config.id)
            .filter(|node| node.lease.is_some() && node.lease != Some(lease));
        if let Some(node) = foreign {
            // R9: a Go node with our id overwrote the key.
            let address = node.value.as_ref().map(|value| value.address.clone());
            let refusal =
                Refusal::DuplicateId { address: address.unwrap_or_default(), holder: node.lease };
            self.lose_session(SessionEnd::MemberLost);
            // A node that is leaving continues to leave.
            if !self.is_leaving() {
                self.session.phase = Phase::Rest;
                self.out.push(Effect::Refused(refusal));
            }
        }
    }

    fn keepalive_rule(&mut self) {
        let Some(granted) = &mut self.session.granted else { return };
        let (lease, renew_at) = (granted.lease, granted.renew_at);
        if renew_at <= self.now {
            // The next renewal comes soon if there is no answer; an answer sets it to a third of the TTL.
            granted.renew_at = self.now + (granted.ttl / 6).max(Duration::from_millis(100));
            self.send(Asked::Renew(lease), Call::Renew { lease });
        }
        let Some(granted) = &self.session.granted else { return };
        let (renew_at, over_at) = (granted.renew_at, granted.renewed + granted.ttl);
        self.wake(renew_at);
        if !self.is_leaving() && self.is_due(over_at) {
            self.on_unanswered(lease);
        }
    }

    /// R16 (renewals without answer): gives up a lease whose renewals have not been answered for its TTL,
    /// even if they arrive. Requests without answers must keep no lease alive.
    fn on_unanswered(&mut self, lease: LeaseId) {
        if self.session.is_in() {
            self.give_up_incarnation(SessionEnd::Unanswered);
            return;
        }
        self.health.doubt(self.now);
        // A JOIN under this lease may have committed: it is over only when the store shows so (R10).
        self.abandon_granted();
        self.endings.add_dead(lease);
        self.begin_incarnation();
        self.retry_join();
    }

    /// Gives up an incarnation that is of no use to the cluster, by R14 (useless ownership) or R16. Once its
    /// work has been joined, its keys are given back without waiting for answers. The node joins again only
    /// when healthy.
    pub(super) fn give_up_incarnation(&mut self, reason: SessionEnd) {
        self.health.doubt(self.now);
        self.end_incarnation(reason, Some(self.holding.h()));
    }

    pub(super) fn on_renewed(&mut self, lease: LeaseId, sent: BootTime, outcome: &Outcome) {
        let granted = self.session.granted.as_mut().filter(|granted| granted.lease == lease);
        let Some(granted) = granted else { return };
        match outcome {
            Outcome::Done(answer) if !answer.ttl.is_zero() => {
                granted.ttl = answer.ttl;
                granted.renewed = granted.renewed.max(sent);
                granted.renew_at = granted.renewed + answer.ttl / 3;
            }
            Outcome::Done(_) | Outcome::LeaseNotFound => self.on_lease_lost(lease),
            Outcome::Refused(_) | Outcome::LeaseExists | Outcome::Failed | Outcome::Unknown => (),
        }
    }

    /// Handles a lease that the store does not know.
    fn on_lease_lost(&mut self, lease: LeaseId) {
        if self.session.lease() == Some(lease) {
            self.lose_session(SessionEnd::LeaseLost);
        } else if self.session.granted() == Some(lease) {
            self.session.spend(lease);
            self.retry_join();
        }
    }

    /// R9: end of the lease, which bounds authority while any candidate is not ours, since a Go successor
    /// waits for nothing.
    pub(super) fn mixed_bound(&self) -> Option<BootTime> {
        let watched = &self.watched;
        if watched.candidates.keys().all(|lease| watched.is_ours(*lease)) {
            return None;
        }
        let granted = self.session.granted.as_ref()?;
        let ttl =
            granted.ttl.mul_f64((1.0 - RHO) / (1.0 + RHO)).saturating_sub(margin(granted.ttl));
        Some(granted.renewed + ttl)
    }
}
