//! Session of a node: one lease, one JOIN, keepalives, and the end of an incarnation. R8 (replaced store), R9
//! (mixed cluster), R10 (lost session), R12 (one GRANT per lease id); T1 (GRANT), T2 (JOIN), T9 (STOP), T11
//! (REVOKE).
//!
//! The one rule to keep (R10): a new lease is registered only after the old one is confirmed gone.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    Asked, Engine,
    ending::Ending,
    join::{Company, JoinPlan},
    leaving::Leaving,
};
use crate::engine::{
    backoff::Backoff,
    call::{Call, Dead, Effect, Outcome, Refusal, SessionEnd, ShardEnd, WorkEnd},
    mutant::Mutant,
    timing::{F, RHO, margin},
    types::{BootTime, LeaseId, Revision},
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

/// Last earlier leases of this process. Their incarnations may be ended, by R7 (clean end) and R10.
#[derive(Debug, Default)]
pub(super) struct Earlier(VecDeque<LeaseId>);

impl Earlier {
    pub(super) fn insert(&mut self, lease: LeaseId) {
        if self.contains(lease) {
            return;
        }
        if EARLIER_MOST <= self.0.len() {
            self.0.pop_front();
        }
        self.0.push_back(lease);
    }

    pub(super) fn contains(&self, lease: LeaseId) -> bool {
        self.0.contains(&lease)
    }
}

/// State of the node's life: its phase, leases and timers.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) phase: Phase,
    /// Lease that was granted and not yet revoked.
    pub(super) granted: Option<Granted>,
    /// Leases that must be gone before a JOIN, in the order of their ending.
    pub(super) ending: VecDeque<Ending>,
    pub(super) own: Earlier,
    pub(super) dead: Dead,
    pub(super) start: SystemTime,
    pub(super) backoff: Backoff,
    pub(super) not_before: BootTime,
    pub(super) squatter: Option<(Revision, Revision, BootTime)>,
    /// Node keys that a refused JOIN found when it tried to replace the cluster's tick.
    pub(super) company: Option<Company>,
    pub(super) leaving: Option<Leaving>,
}

/// Granted lease, and the state of its renewals.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) lease: LeaseId,
    pub(super) ttl: Duration,
    /// Sending time of the grant or of the last renewal that was answered.
    pub(super) renewed: BootTime,
    pub(super) renew_at: BootTime,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// The node has not started, was refused, or has left.
    Rest,
    /// The node reads before a JOIN; `asked` = the read is in flight.
    Reading {
        asked: bool,
    },
    Granting {
        join: Box<JoinPlan>,
    },
    Joining {
        join: Box<JoinPlan>,
        asked: bool,
    },
    In(Incarnation),
}

/// Life of the node id under one lease.
#[derive(Debug)]
pub(super) struct Incarnation {
    pub(super) lease: LeaseId,
    /// `c(member(id))`: the revision of JOIN.
    pub(super) joined: Revision,
    pub(super) since: BootTime,
    /// Whether the view contains a list that was sent after JOIN.
    pub(super) listed: bool,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            phase: Phase::Rest,
            granted: None,
            ending: VecDeque::new(),
            own: Earlier::default(),
            dead: Dead::default(),
            start: UNIX_EPOCH,
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(3)),
            not_before: BootTime::default(),
            squatter: None,
            company: None,
            leaving: None,
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

    pub(super) fn incarnation(&self) -> Option<&Incarnation> {
        match &self.phase {
            Phase::In(incarnation) => Some(incarnation),
            _ => None,
        }
    }

    /// Whether the view is of this incarnation.
    pub(super) fn is_listed(&self) -> bool {
        self.incarnation().is_some_and(|incarnation| incarnation.listed)
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    pub(super) fn start(&self) -> SystemTime {
        self.start
    }

    /// Goes back to the read before a JOIN.
    pub(super) fn restart(&mut self) {
        if !matches!(self.phase, Phase::Rest | Phase::In(_)) {
            self.phase = Phase::Reading { asked: false };
        }
    }
}

impl Engine {
    pub(super) fn on_start(&mut self, start: SystemTime, dead: Dead) {
        if !matches!(self.session.phase, Phase::Rest) {
            return;
        }
        self.begin_incarnation();
        self.session.start = start;
        self.session.dead = dead;
        self.session.leaving = None;
        self.session.backoff.reset();
        self.session.not_before = self.now;
        self.session.squatter = None;
        self.session.company = None;
        self.session.phase = Phase::Reading { asked: false };
        for lease in self.session.dead.leases.clone() {
            self.session.ending.push_back(Ending::proven(lease));
        }
    }

    pub(super) fn on_stop(&mut self) {
        if self.session.leaving.is_some() {
            return;
        }
        if !self.session.is_in() {
            self.leave_unjoined();
            return;
        }
        self.session.leaving = Some(Leaving::of_joined(self.now));
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
        let granted = self.session.granted.take().map(|granted| granted.lease);
        self.begin_incarnation();
        for lease in granted.into_iter().chain(granting) {
            self.session.own.insert(lease);
            self.session.ending.push_back(Ending::proven(lease));
        }
        if self.session.ending.is_empty() && !self.is_working() {
            self.come_to_rest();
            self.out.push(Effect::Left { clean: true });
            return;
        }
        self.session.phase = Phase::Reading { asked: false };
        self.session.leaving = Some(Leaving::of_unjoined(self.now));
    }

    pub(super) fn on_stop_now(&mut self) {
        if matches!(self.session.phase, Phase::Rest) {
            return;
        }
        self.close_term(WorkEnd::Stopping);
        self.stop_shards(ShardEnd::Stopping);
        self.abandon_granted();
        self.come_to_rest();
        self.out.push(Effect::Left { clean: false });
    }

    /// R12, T11: revokes the granted lease without waiting for the answer.
    pub(super) fn abandon_granted(&mut self) {
        if let Some(Granted { lease, .. }) = self.session.granted.take() {
            self.session.own.insert(lease);
            self.send(Asked::Abandon, Call::Revoke { lease });
        }
    }

    /// Starts a new incarnation number: answers to earlier calls no longer count, and their senders must ask
    /// again.
    fn begin_incarnation(&mut self) {
        self.incarnation += 1;
        self.retry_ending();
    }

    pub(super) fn come_to_rest(&mut self) {
        self.begin_incarnation();
        self.session.phase = Phase::Rest;
        self.session.leaving = None;
        self.session.ending.clear();
        self.forget_incarnation();
    }

    /// Forgets the state that belongs to one incarnation only.
    fn forget_incarnation(&mut self) {
        self.candidacy.forget();
        self.holding.forget(self.config.breaks(Mutant::NewIncarnationKeepsShards));
        self.planning.clear();
        self.unclaimed = super::Unclaimed::default();
        self.own.forget();
    }

    /// Ends the incarnation, by R8 (replaced store) or R10: closes the term, drops all shards, and joins
    /// again.
    pub(super) fn lose_session(&mut self, reason: SessionEnd) {
        if reason == SessionEnd::StoreReplaced {
            self.watched = super::Watched::default();
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
        self.session.granted = None;
        self.session.own.insert(lease);
        self.out.push(Effect::SessionLost { lease, reason });
        self.session.phase = Phase::Reading { asked: false };
        self.forget_incarnation();
        if HEALTHY_AFTER <= self.now.since(since) {
            self.session.backoff.reset();
        }
        self.session.ending.push_back(Ending::own(lease, self.now + JOIN_WORK_WITHIN));
        self.delay_join();
        if self.session.leaving.is_some() {
            // The old lease is ended, then the node has left.
            self.session.leaving = Some(Leaving::of_unjoined(self.now));
        }
    }

    pub(super) fn delay_join(&mut self) {
        let draw = self.draws.draw();
        self.session.not_before = self.now + self.session.backoff.next(draw);
    }

    pub(super) fn retry_join(&mut self) {
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

    /// Notes that a list has replaced the view.
    pub(super) fn on_list_of_session(&mut self, sent_at: BootTime) {
        let Phase::In(incarnation) = &mut self.session.phase else {
            return;
        };
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
        let Some(incarnation) = self.session.incarnation() else {
            return;
        };
        if !incarnation.listed || self.watched.revision < incarnation.joined {
            return;
        }
        // STOP deletes the own keys, and their events may come before its answer, which decides.
        let leaving = self.session.leaving.as_ref();
        if leaving.is_some_and(Leaving::has_begun) {
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
            if self.session.leaving.is_none() {
                self.session.phase = Phase::Rest;
                self.out.push(Effect::Refused(refusal));
            }
        }
    }

    fn keepalive_rule(&mut self) {
        let Some(granted) = &mut self.session.granted else {
            return;
        };
        let (lease, renew_at) = (granted.lease, granted.renew_at);
        if renew_at <= self.now {
            // The next renewal comes soon if there is no answer; an answer sets it to a third of the TTL.
            granted.renew_at = self.now + (granted.ttl / 6).max(Duration::from_millis(100));
            self.send(Asked::Renew(lease), Call::Renew { lease });
        }
        let Some(granted) = &self.session.granted else { return };
        let (renew_at, over_at) = (granted.renew_at, granted.renewed + granted.ttl);
        self.wake(renew_at);
        if !self.session.is_leaving()
            && !self.config.breaks(Mutant::UnansweredRenewalsKept)
            && self.is_due(over_at)
        {
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
        self.session.ending.push_back(Ending::proven(lease));
        self.begin_incarnation();
        self.retry_join();
    }

    /// Gives up an incarnation that is of no use to the cluster, by R14 (useless ownership) or R16. Once its
    /// work has been joined, its keys are given back without waiting for answers. The node joins again only
    /// when healthy.
    pub(super) fn give_up_incarnation(&mut self, reason: SessionEnd) {
        self.health.doubt(self.now);
        let held = self.holding.h;
        self.lose_session(reason);
        if let Some(ending) = self.session.ending.back_mut() {
            ending.give_back_blindly(held);
        }
    }

    pub(super) fn on_renewed(&mut self, lease: LeaseId, sent: BootTime, outcome: &Outcome) {
        let current = self.session.granted.as_ref().is_some_and(|granted| granted.lease == lease);
        if !current {
            return;
        }
        match outcome {
            Outcome::Done(answer) if !answer.ttl.is_zero() => {
                if let Some(granted) = &mut self.session.granted {
                    granted.ttl = answer.ttl;
                    granted.renewed = granted.renewed.max(sent);
                    granted.renew_at = granted.renewed + answer.ttl / 3;
                }
                if self.config.breaks(Mutant::ShardAuthorityFromKeepalive) {
                    self.holding.until = self.holding.until.max(sent + self.config.span(F));
                }
            }
            Outcome::Done(_) | Outcome::LeaseNotFound => self.on_lease_lost(lease),
            Outcome::Refused(_) | Outcome::LeaseExists | Outcome::Failed | Outcome::Unknown => (),
        }
    }

    /// Handles a lease that the store does not know.
    pub(super) fn on_lease_lost(&mut self, lease: LeaseId) {
        if self.session.lease() == Some(lease) {
            self.lose_session(SessionEnd::LeaseLost);
        } else if self.session.granted.as_ref().is_some_and(|granted| granted.lease == lease) {
            self.session.granted = None;
            self.session.own.insert(lease);
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
