//! Reports of a driver about itself: the status, and labels for logs, metrics and errors.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{Driver, ticks::UnfitBecause};
use crate::{
    clock,
    engine::{
        BootTime, ClusterView, Failover, Leader, LeaseId, Refusal, Role, SessionEnd, WorkEnd,
        timing,
    },
    node::{
        Membership, NodeOptions, StartError,
        core::Core,
        status::{LeaderStatus, NodeStatus, Reign, SelfStatus, Status, StoreStatus, WorkStatus},
    },
    store::Health,
};

/// Parts of a status that only the driver knows. To copy them costs the driver's thread little more than a
/// reference count for each key of the view; the caller's thread builds the texts of the status.
#[derive(Debug)]
pub(crate) struct Known {
    view: ClusterView,
    shown: Shown,
    timeline: Vec<Reign>,
    heard_unix_ms: u64,
    lease: Option<LeaseId>,
    lease_until: BootTime,
    lease_ttl: Duration,
    shard_authority_until: Option<BootTime>,
    tick: Duration,
    failover: Failover,
    last_tick: LastTick,
    health: Health,
}

/// State that the driver publishes after each of its turns, for readers that must not wait for the driver.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown {
    /// When the driver's last turn ended.
    pub(crate) turned_at: BootTime,
    /// When the watch last delivered anything; zero if it never did.
    fresh_at: BootTime,
    /// When the leader's record, or its absence, was first received.
    record_at: BootTime,
    leader: Option<Leader>,
    leader_address: Option<String>,
    /// Lease of this node's own office, and the time until which it may act.
    authority: Option<(LeaseId, BootTime)>,
    problem: Option<String>,
    unfit: Option<UnfitBecause>,
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

    /// Reason why the node is not joined, or another problem, as text.
    pub(crate) fn problem(&self) -> Option<String> {
        let unfit = |why| format!("the leader's work cannot go on here: {why:?}");
        self.problem.clone().or_else(|| self.unfit.map(unfit))
    }
}

/// When the last successful tick of a routine ended, in Unix time. The runners of the ticks write it.
#[derive(Clone, Debug, Default)]
pub(super) struct LastTick(Arc<AtomicU64>);

impl LastTick {
    pub(super) fn set(&self, unix_ms: u64) {
        self.0.store(unix_ms, Ordering::Relaxed);
    }

    fn get(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|unix_ms| 0 < *unix_ms)
    }
}

impl Driver {
    /// Publishes the state after a turn. Of the texts, only a changed address or problem is copied.
    pub(super) fn show(&self) {
        let view = self.engine.view();
        let leader = view.leader();
        let address = leader.and_then(|leader| view.address_of(leader.id));
        let authority = self.engine.authority().map(|own| (own.office.lease, own.until));
        self.core.published.shown.send_modify(|shown| {
            shown.turned_at = clock::boot_now();
            shown.fresh_at = self.picture.fresh_at;
            shown.record_at = self.engine.record_at();
            shown.leader = leader;
            shown.authority = authority;
            shown.unfit = self.unfit.map(|unfit| unfit.because);
            if shown.leader_address.as_deref() != address {
                shown.leader_address = address.map(ToOwned::to_owned);
            }
            if shown.problem != self.problem {
                shown.problem.clone_from(&self.problem);
            }
        });
    }

    /// Parts of a status that only the driver knows, as of now.
    pub(super) fn known(&self) -> Known {
        self.show();
        Known {
            view: self.engine.view().clone(),
            shown: self.core.published.shown.borrow().clone(),
            timeline: self.picture.timeline(),
            heard_unix_ms: self.picture.heard_unix_ms(),
            lease: self.lease,
            lease_until: self.calls.lease_until(),
            lease_ttl: self.calls.granted_ttl(),
            shard_authority_until: self.engine.shard_authority().map(|shards| shards.until),
            tick: self.work.tick(),
            failover: self.options.engine.failover,
            last_tick: self.work.last_tick().clone(),
            health: self.core.env.store.health(),
        }
    }
}

impl Known {
    /// Builds the status of the node.
    pub(crate) fn tell(self, core: &Core) -> Status {
        let now = clock::boot_now();
        let metadata = core.published.metadata.borrow().clone();
        let membership: Membership = *core.published.membership.borrow();
        let left = |until: BootTime| millis(until.since(now));
        let leader = self.shown.leader(now).map(|(leader, _)| LeaderStatus {
            last_beat_unix_ms: leader.d.map(|_| self.heard_unix_ms),
            ..LeaderStatus::of(&self.view, &leader)
        });
        Status {
            cluster: core.env.keys.cluster().to_owned(),
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
                last_tick_unix_ms: self.last_tick.get(),
                sessions_lost: membership.sessions_lost,
                problem: self.shown.problem(),
            },
            leader,
            nodes: NodeStatus::all(&self.view),
            timeline: self.timeline,
            work: WorkStatus::all(&self.view),
            store: StoreStatus {
                kind: core.env.store.kind().to_owned(),
                endpoint: self.health.endpoint,
                healthy: self.health.healthy,
                problem: self.health.problem,
                revision: self.view.revision(),
                view_age_ms: millis(self.shown.view_age(now)),
            },
            at_unix_ms: clock::unix_ms(),
        }
    }
}

pub(super) fn refused(options: &NodeOptions, refusal: &Refusal, waited: Duration) -> StartError {
    match refusal {
        Refusal::DuplicateId { address, holder } => StartError::DuplicateId {
            id: options.engine.id,
            address: address.clone(),
            holder: *holder,
            waited,
        },
        Refusal::TickDisagreement { cluster, own } => {
            StartError::TickDisagreement { cluster: *cluster, own: *own }
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Creates the series at zero: an alert cannot use a series that does not exist, and a counter whose first
/// sample is 1 shows no increase.
pub(super) fn show_zeros(options: &NodeOptions) {
    let metrics = &options.env.metrics;
    metrics.master.with_label_values(&[options.env.keys.cluster()]);
    for work in options.work.workers.keys() {
        let work = &[work.as_str()];
        metrics.shards_owned.with_label_values(work);
        metrics.shards_draining.with_label_values(work);
        metrics.shards_unowned.with_label_values(work);
        metrics.drains_overdue.with_label_values(work);
        for direction in ["gained", "lost"] {
            metrics.shard_moves.with_label_values(&[work[0], direction]);
        }
    }
    metrics.transitions.with_label_values(&["joined", "joined"]);
    for role in [Role::Unknown, Role::Leader, Role::Follower] {
        metrics.transitions.with_label_values(&[role_label(role), "role"]);
    }
    for end in [
        SessionEnd::LeaseLost,
        SessionEnd::MemberLost,
        SessionEnd::HeldLost,
        SessionEnd::StoreReplaced,
        SessionEnd::Unanswered,
        SessionEnd::UselessOwner,
    ] {
        metrics.sessions_lost.with_label_values(&[session_label(end)]);
    }
}

pub(super) const fn role_label(role: Role) -> &'static str {
    match role {
        Role::Unknown => "unknown",
        Role::Leader => "leader",
        Role::Follower => "follower",
    }
}

pub(super) const fn reason_label(reason: WorkEnd) -> &'static str {
    match reason {
        WorkEnd::Suspended => "suspended",
        WorkEnd::Deposed => "deposed",
        WorkEnd::KeyLost => "key_lost",
        WorkEnd::Resigned => "resigned",
        WorkEnd::Stopping => "stopping",
        WorkEnd::Unfit => "unfit",
        WorkEnd::Useless => "useless",
        WorkEnd::SessionLost => "session_lost",
    }
}

pub(super) const fn session_label(reason: SessionEnd) -> &'static str {
    match reason {
        SessionEnd::LeaseLost => "lease_lost",
        SessionEnd::MemberLost => "member_lost",
        SessionEnd::HeldLost => "held_lost",
        SessionEnd::StoreReplaced => "store_replaced",
        SessionEnd::Unanswered => "unanswered",
        SessionEnd::UselessOwner => "useless_owner",
    }
}

#[cfg(test)]
mod tests;
