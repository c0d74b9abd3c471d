//! What a driver tells of itself: the status, and words for logs, metrics and errors.

use std::time::Duration;

use super::{Driver, picture};
use crate::{
    clock,
    engine::{BootTime, Refusal, Role, SessionEnd, WorkEnd},
    node::{
        NodeOptions, StartError,
        status::{SelfStatus, Status, StoreStatus},
    },
};

impl Driver {
    pub(super) fn status(&self) -> Status {
        let env = &self.core.env;
        let metadata = self.core.published.metadata.borrow().clone();
        let membership = *self.core.published.membership.borrow();
        let now = clock::boot_now();
        let left = |until: BootTime| Some(millis(until.since(now)));
        let config = &self.options.engine;
        let health = env.store.health();
        let view = self.engine.view();
        let last_tick = env.metrics.last_tick.with_label_values(&["leader"]).get();
        let last_tick = last_tick.max(env.metrics.last_tick.with_label_values(&["follower"]).get());
        let mut leader = self.picture.leader(view, self.engine.record_at());
        // A leader that is cut off learns of its own suspension from its clock alone.
        if let (Some(leader), Some(own)) = (&mut leader, self.engine.authority())
            && leader.id == metadata.id.to_string()
        {
            leader.suspended = own.until <= now;
        }
        Status {
            cluster: env.keys.cluster().to_owned(),
            node: SelfStatus {
                id: metadata.id.to_string(),
                address: metadata.address,
                role: membership.role.to_string(),
                joined: membership.joined,
                term: membership.term.map(|term| term.to_string()),
                incarnation: self.lease.map(|lease| lease.to_string()),
                authority_left_ms: self.engine.authority().and_then(|one| left(one.until)),
                shard_authority_left_ms: self
                    .engine
                    .shard_authority()
                    .and_then(|one| left(one.until)),
                lease_left_ms: self.lease.map(|_| millis(env.metrics.lease_remaining.left())),
                lease_ttl_ms: millis(self.calls.granted_ttl()),
                tick_ms: self.work.tick().as_secs_f64() * 1000.0,
                failover_d_ms: millis(config.failover.d()),
                failover_h_ms: millis(config.failover.h()),
                last_tick_unix_ms: (0.0 < last_tick).then_some((last_tick * 1000.0) as u64),
                sessions_lost: membership.sessions_lost,
                problem: self.problem.clone().or_else(|| {
                    let because = self.unfit?.because;
                    Some(format!("the leader's work cannot go on here: {because:?}"))
                }),
            },
            leader,
            nodes: picture::nodes(view),
            timeline: self.picture.timeline(),
            work: picture::work(view),
            store: StoreStatus {
                kind: env.store.kind().to_owned(),
                endpoint: health.endpoint,
                healthy: health.healthy,
                problem: health.problem,
                revision: view.revision().to_string(),
                view_age_ms: millis(env.metrics.view_age.age()),
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

/// Series that are not there cannot be alerted on, and a counter that begins at 1 has not grown.
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
