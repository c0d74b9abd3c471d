//! Gates: whether a node may still act, readable from any thread without a request to the driver or the
//! store.
//!
//! The driver writes the time until which authority lasts; a gate reads it and reads the clock itself, at
//! the check (R1: authority is counted from readings taken before the request). So a driver that is stuck
//! extends no authority. A gate belongs to one span of work (the number of a `StartWork`, or a shard's
//! claim). A closed gate stays closed, also if a later time is stored into it.

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicI64, Ordering},
    time::Duration,
};

use tokio::sync::Notify;

use crate::{
    clock::{self, AtomicTime},
    engine::{BootTime, LeaseId, Office, Revision},
};

/// Check before each start of user work.
pub(crate) trait Gate: fmt::Debug + Send + Sync {
    /// Whether the work may act now, by the current boot clock.
    fn is_open(&self) -> bool;
}

/// Authority of one office, for one span of work.
#[derive(Debug)]
pub(crate) struct LeaderGate {
    office: Office,
    until: AtomicTime,
    closed: AtomicBool,
    refusal: Notify,
}

impl LeaderGate {
    pub(crate) fn new(office: Office) -> Self {
        Self {
            office,
            until: AtomicTime::default(),
            closed: AtomicBool::new(false),
            refusal: Notify::new(),
        }
    }

    pub(crate) const fn office(&self) -> Office {
        self.office
    }

    pub(crate) fn extend(&self, until: BootTime) {
        self.until.store(until);
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// T7 (fenced write of a leader): the store refused a write of this office. Closes the gate at once,
    /// before the driver learns of the refusal.
    pub(crate) fn refuse(&self) {
        self.close();
        self.refusal.notify_one();
    }

    /// Waits until the store has [refused](Self::refuse) a write of this office since this method last
    /// returned.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: `Notify` keeps a notification that was not received.
    pub(crate) async fn refused(&self) {
        self.refusal.notified().await;
    }

    /// Time until authority ends; zero if it is over.
    pub(crate) fn left(&self) -> Duration {
        if self.closed.load(Ordering::Acquire) {
            return Duration::ZERO;
        }
        self.until.load().since(clock::boot_now())
    }
}

impl Gate for LeaderGate {
    fn is_open(&self) -> bool {
        !self.left().is_zero()
    }
}

/// Authority over the shards of one incarnation.
#[derive(Debug)]
pub(crate) struct HeldGate {
    lease: LeaseId,
    held: AtomicI64,
    until: AtomicTime,
    closed: AtomicBool,
}

impl HeldGate {
    pub(crate) fn new(lease: LeaseId) -> Self {
        Self {
            lease,
            held: AtomicI64::new(0),
            until: AtomicTime::default(),
            closed: AtomicBool::new(false),
        }
    }

    pub(crate) const fn lease(&self) -> LeaseId {
        self.lease
    }

    /// Revision h that shard writes compare. Readable also after `until`: with a stale h a write only fails
    /// its compare.
    pub(crate) fn held(&self) -> Revision {
        Revision(self.held.load(Ordering::Acquire))
    }

    pub(crate) fn extend(&self, held: Revision, until: BootTime) {
        self.held.store(held.0, Ordering::Release);
        self.until.store(until);
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(crate) fn left(&self) -> Duration {
        if self.closed.load(Ordering::Acquire) {
            return Duration::ZERO;
        }
        self.until.load().since(clock::boot_now())
    }
}

/// Authority over one shard: the authority of its incarnation, while the shard's work has not been stopped.
#[derive(Debug)]
pub(crate) struct ShardGate {
    held: std::sync::Arc<HeldGate>,
    closed: AtomicBool,
}

impl ShardGate {
    pub(crate) fn new(held: std::sync::Arc<HeldGate>) -> Self {
        Self { held, closed: AtomicBool::new(false) }
    }

    pub(crate) fn held(&self) -> &HeldGate {
        &self.held
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(crate) fn left(&self) -> Duration {
        if self.closed.load(Ordering::Acquire) { Duration::ZERO } else { self.held.left() }
    }
}

impl Gate for ShardGate {
    fn is_open(&self) -> bool {
        !self.left().is_zero()
    }
}

#[cfg(test)]
mod tests;
