//! Joining the cluster: a read, T1 (GRANT) and T2 (JOIN), by R12 (one GRANT per lease id).
//!
//! A node whose id belongs to a live node is refused. A holder of the id that is proven dead is ended first.
//! A key of the id that hangs on no lease was written by an operator and is deleted after a second.

use std::time::Duration;

use super::{
    Asked, Engine,
    ending::Ending,
    session::{Granted, Incarnation, Phase},
};
use crate::engine::{
    call::{Answer, Call, Effect, Join, JoinTick, Outcome, Refusal},
    timing::F,
    types::{BootTime, LeaseId, NodeMetadata, Revision, Role},
    view::{Member, TickPolicy},
};

/// An operator's key under our id that hangs on no lease is deleted after it was seen so for this long.
const SQUATTER_AFTER: Duration = Duration::from_secs(1);

/// Node keys that a refused JOIN found, although no tick key shows a live node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Company {
    /// All node keys hang on no lease, in the read at this revision: no node lives.
    Strays(Revision),
    /// A node key hangs on a lease: a node lives.
    Alive,
}

/// Result of the read before a JOIN: the ticks to join with.
#[derive(Debug)]
pub(super) struct JoinPlan {
    pub(super) cluster_tick: JoinTick,
    pub(super) tick: Duration,
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

impl Engine {
    pub(super) fn join_rules(&mut self) {
        if !self.session.ending.is_empty() {
            return;
        }
        if self.session.leaving.is_some() {
            // The session was lost while the node was leaving, and its lease is gone. Work that still runs is
            // waited for until the deadline of the leaving.
            if self.is_working() {
                return;
            }
            self.abandon_granted();
            self.come_to_rest();
            self.out.push(Effect::Left { clean: true });
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
            Phase::Joining { asked: asked @ false, join } => {
                *asked = true;
                let (cluster_tick, tick) = (join.cluster_tick, join.tick);
                self.send_join(cluster_tick, tick);
            }
            Phase::Rest
            | Phase::In(_)
            | Phase::Reading { .. }
            | Phase::Granting { .. }
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
        let granted = self.session.granted.as_ref().map(|granted| granted.lease);
        if granted.is_some() && member.is_some_and(|member| member.lease == granted) {
            return Holder::Ourselves;
        }
        let pod_uid = member
            .and_then(|member| member.value.as_ref())
            .and_then(|member| member.pod_uid.as_deref());
        let same_pod = self.session.dead.pod_uid.as_deref().is_some_and(|uid| pod_uid == Some(uid));
        let proven = |lease: &LeaseId| {
            let of_pod = same_pod && member.is_some_and(|member| member.lease == Some(*lease));
            of_pod || self.session.own.contains(*lease) || self.session.dead.leases.contains(lease)
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
                Ok(join) => self.go_on_joining(join),
                Err(refusal) => self.refuse(refusal),
            },
            Holder::Ourselves => {
                let found = answer.view();
                let lease = self.session.granted.as_ref().map(|granted| granted.lease);
                if let (Some(lease), Some(member)) = (lease, found.members.get(&self.config.id)) {
                    let own = found.tick_keys.get(&self.config.id);
                    let tick = own.and_then(|stored| stored.value).unwrap_or(self.config.tick);
                    let joined = member.created;
                    let found = member.value.clone();
                    self.enter(lease, joined, tick);
                    self.own.found_member(found);
                }
            }
            Holder::Dead(lease) => {
                self.session.ending.push_back(Ending::proven(lease));
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
        self.come_to_rest();
        self.out.push(Effect::Refused(refusal));
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

    fn go_on_joining(&mut self, join: JoinPlan) {
        let join = Box::new(join);
        if self.session.granted.is_some() {
            self.session.phase = Phase::Joining { join, asked: false };
            return;
        }
        let lease = self.draws.lease();
        self.session.phase = Phase::Granting { join };
        self.out.push(Effect::Announce { lease });
        self.send(Asked::Grant(lease), Call::Grant { lease, ttl: self.config.ttl });
    }

    pub(super) fn on_granted(&mut self, lease: LeaseId, sent: BootTime, outcome: &Outcome) {
        if !matches!(self.session.phase, Phase::Granting { .. }) {
            self.send(Asked::Abandon, Call::Revoke { lease });
            return;
        }
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
        if let Phase::Granting { join } =
            std::mem::replace(&mut self.session.phase, Phase::Reading { asked: false })
        {
            self.session.phase = Phase::Joining { join, asked: false };
        }
    }

    fn send_join(&mut self, cluster_tick: JoinTick, tick: Duration) {
        let Some(lease) = self.session.granted.as_ref().map(|granted| granted.lease) else {
            return;
        };
        let candidate = self.wants_office();
        let join = Join {
            lease,
            metadata: NodeMetadata {
                id: self.config.id,
                address: self.config.address.clone(),
                start: self.session.start,
                role: Role::Follower,
            },
            tick,
            member: self.member_record(lease),
            candidate,
            nonce: self.draws.draw(),
            cluster_tick,
        };
        self.own.joining(&join);
        self.send(Asked::Join(lease), Call::Join(Box::new(join)));
    }

    /// Value of `member(id)` in this incarnation.
    pub(super) fn member_record(&self, lease: LeaseId) -> Member {
        Member {
            lease,
            d: self.config.failover.d(),
            f: F,
            tick: self.config.tick,
            policy: self.config.tick_policy,
            pod_uid: self.config.pod_uid.clone(),
            work: self.config.work.clone(),
            draining: self.drain_wish,
            campaigns: self.config.campaigns,
        }
    }

    pub(super) fn on_join(&mut self, lease: LeaseId, outcome: Outcome) {
        let Phase::Joining { join, asked } = &mut self.session.phase else {
            return;
        };
        *asked = false;
        let tick = join.tick;
        let replaces = matches!(join.cluster_tick, JoinTick::Replace { .. });
        if let Outcome::Refused(answer) = &outcome
            && replaces
        {
            self.note_company(answer);
        }
        match outcome {
            Outcome::Done(answer) => self.enter(lease, answer.revision, tick),
            Outcome::Refused(answer) => self.on_join_refused(lease, tick, &answer),
            Outcome::LeaseNotFound | Outcome::LeaseExists => {
                self.session.granted = None;
                self.session.own.insert(lease);
                self.retry_join();
            }
            // The same JOIN is sent again. If the first one took effect, the second is refused and shows the
            // own keys.
            Outcome::Unknown | Outcome::Failed => self.delay_join(),
        }
    }

    fn on_join_refused(&mut self, lease: LeaseId, tick: Duration, answer: &Answer) {
        let found = answer.view();
        let holder = self.holder(answer);
        if let (Holder::Ourselves, Some(member)) = (&holder, found.members.get(&self.config.id)) {
            let (joined, found) = (member.created, member.value.clone());
            self.enter(lease, joined, tick);
            self.own.found_member(found);
            return;
        }
        if found.held.contains_key(&lease) {
            // A second JOIN after another client deleted the keys of the first: this lease cannot join any
            // more.
            self.session.granted = None;
            self.session.own.insert(lease);
            self.session.ending.push_back(Ending::proven(lease));
            self.retry_join();
            return;
        }
        match holder {
            // The cluster's tick has changed, or a key was deleted meanwhile: read again.
            Holder::Nobody | Holder::Ourselves => self.retry_join(),
            other => self.on_holder(other, answer),
        }
    }

    /// Notes whether the node keys that a JOIN to replace the cluster's tick found belong to live nodes.
    fn note_company(&mut self, answer: &Answer) {
        let lives = answer.view().nodes.values().any(|stored| stored.lease.is_some());
        self.session.company =
            Some(if lives { Company::Alive } else { Company::Strays(answer.revision) });
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
}
