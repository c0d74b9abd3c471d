//! State that a driver publishes about its node, and its answer to a request for the status.

use std::time::Duration;

use super::{
    Membership,
    env::Env,
    status::{LeaderStatus, NodeStatus, Reign, SelfStatus, Status, StoreStatus, WorkStatus},
};
use crate::{
    clock::{self, millis},
    engine::{BootTime, ClusterView, Failover, Leader, LeaseId, NodeMetadata, timing},
    store::Health,
};

/// Parts of a status that only the driver knows. To copy them costs the driver's thread little more than a
/// reference count for each key of the view; the caller's thread builds the texts of the status.
#[derive(Debug)]
pub(crate) struct Known {
    pub(super) view: ClusterView,
    pub(super) shown: Shown,
    pub(super) timeline: Vec<Reign>,
    pub(super) heard_unix_ms: u64,
    pub(super) lease: Option<LeaseId>,
    pub(super) lease_until: BootTime,
    pub(super) lease_ttl: Duration,
    pub(super) shard_authority_until: Option<BootTime>,
    pub(super) tick: Duration,
    pub(super) failover: Failover,
    pub(super) last_tick_unix_ms: Option<u64>,
    pub(super) health: Health,
}

/// State that the driver publishes after each of its turns, for readers that must not wait for the driver.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown {
    /// When the driver's last turn ended.
    pub(super) turned_at: BootTime,
    /// When the watch last delivered anything; zero if it never did.
    pub(super) fresh_at: BootTime,
    /// When the leader's record, or its absence, was first received.
    pub(super) record_at: BootTime,
    pub(super) leader: Option<Leader>,
    pub(super) leader_address: Option<String>,
    /// Lease of this node's own office, and the time until which it may act.
    pub(super) authority: Option<(LeaseId, BootTime)>,
    /// Reason why the node is not joined, or another problem, as text.
    pub(super) problem: Option<String>,
}

impl Shown {
    /// Time since the watch last delivered anything; zero if it never did.
    pub(crate) fn view_age(&self, now: BootTime) -> Duration {
        if self.fresh_at == BootTime::default() { Duration::ZERO } else { now.since(self.fresh_at) }
    }

    /// Time left of the node's authority as leader.
    pub(crate) fn authority_left(&self, now: BootTime) -> Option<Duration> {
        self.authority.map(|(_, until)| until.since(now))
    }

    /// The node in office, with its address and whether it acts.
    pub(crate) fn leader(&self, now: BootTime) -> Option<(Leader, Option<&str>)> {
        let mut leader = self.leader?;
        leader.suspended = self.is_suspended(&leader);
        // A leader that is cut off can detect its own suspension only by its clock.
        if let Some((_, until)) = self.authority.filter(|(own, _)| *own == leader.lease) {
            leader.suspended = until <= now;
        }
        Some((leader, self.leader_address.as_deref()))
    }

    /// Whether a leader is in office and does not act, as far as the view shows it.
    pub(crate) fn is_leader_suspended(&self) -> bool {
        self.leader.is_some_and(|leader| self.is_suspended(&leader))
    }

    /// Whether a leader does not act. Silence of the leader counts only while the watch delivers other
    /// changes: a node that is cut off itself cannot detect that the leader is silent.
    fn is_suspended(&self, leader: &Leader) -> bool {
        let is_silent = |d| self.record_at + timing::wait(d) < self.fresh_at;
        leader.suspended || leader.d.is_some_and(is_silent)
    }
}

impl Known {
    /// Builds the status of the node.
    pub(crate) fn tell(self, env: &Env, metadata: NodeMetadata, membership: &Membership) -> Status {
        let now = clock::boot_now();
        let view_age_ms = millis(self.shown.view_age(now));
        let left = |until: BootTime| millis(until.since(now));
        let leader = self.shown.leader(now).map(|(leader, _)| {
            let known = LeaderStatus::of(&self.view, &leader);
            LeaderStatus {
                last_beat_unix_ms: leader.d.map(|_| self.heard_unix_ms),
                address: env.store.name_of(leader.lease).or(known.address),
                ..known
            }
        });
        Status {
            cluster: env.keys.cluster().to_owned(),
            node: SelfStatus {
                id: metadata.id,
                address: metadata.address,
                role: membership.role,
                joined: membership.joined,
                term: membership.term,
                incarnation: self.lease,
                authority_left_ms: self.shown.authority_left(now).map(millis),
                shard_authority_left_ms: self.shard_authority_until.map(left),
                lease_left_ms: self.lease.map(|_| left(self.lease_until)),
                lease_ttl_ms: millis(self.lease_ttl),
                tick_ms: self.tick.as_secs_f64() * 1000.0,
                failover_d_ms: millis(self.failover.d()),
                failover_h_ms: millis(self.failover.h()),
                last_tick_unix_ms: self.last_tick_unix_ms,
                sessions_lost: membership.sessions_lost,
                problem: self.shown.problem,
            },
            leader,
            nodes: NodeStatus::all(&self.view),
            timeline: self.timeline,
            work: WorkStatus::all(&self.view),
            store: StoreStatus {
                kind: env.store.kind().to_owned(),
                endpoint: self.health.endpoint,
                healthy: self.health.healthy,
                problem: self.health.problem,
                revision: self.view.revision(),
                view_age_ms,
            },
            at_unix_ms: clock::unix_ms(),
        }
    }
}

#[cfg(test)]
mod tests;
