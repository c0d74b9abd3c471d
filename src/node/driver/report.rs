//! Reports of a driver about itself: what it publishes, and labels for logs, metrics and errors.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{Driver, Unfit};
use crate::{
    clock,
    engine::{Refusal, Role, SessionEnd, WorkEnd},
    node::{StartError, options::NodeOptions, shown::Known},
};

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
        let problem = self.problem();
        self.shared.published.shown.send_modify(|shown| {
            shown.turned_at = clock::boot_now();
            shown.fresh_at = self.picture.fresh_at;
            shown.record_at = self.engine.record_at();
            shown.leader = leader;
            shown.authority = authority;
            if shown.leader_address.as_deref() != address {
                shown.leader_address = address.map(ToOwned::to_owned);
            }
            if shown.problem.as_deref() != problem.as_deref() {
                shown.problem = problem.map(Cow::into_owned);
            }
        });
    }

    /// Reason why the node is not joined, or another problem, as text.
    fn problem(&self) -> Option<Cow<'_, str>> {
        let unfit = |unfit: Unfit| {
            Cow::Owned(format!("the leader's work cannot go on here: {:?}", unfit.because))
        };
        self.problem.as_deref().map(Cow::Borrowed).or_else(|| self.unfit.map(unfit))
    }

    /// Parts of a status that only the driver knows, as of now.
    pub(super) fn known(&self) -> Known {
        self.show();
        Known {
            view: self.engine.view().clone(),
            shown: self.shared.published.shown.borrow().clone(),
            timeline: self.picture.timeline(),
            heard_unix_ms: self.picture.heard_unix_ms(),
            lease: self.lease,
            lease_until: self.calls.lease_until(),
            lease_ttl: self.calls.granted_ttl(),
            shard_authority_until: self.engine.shard_authority().map(|shards| shards.until),
            tick: self.work.tick(),
            failover: self.options.engine.failover,
            last_tick_unix_ms: self.work.last_tick().get(),
            health: self.shared.env.store.health(),
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
