//! Whether the store answers this node fast enough to lead or to own shards, for R13 (useless office), R14
//! (useless ownership) and R16 (renewals without answer).
//!
//! A node that gave up its office or its incarnation because answers came too late counts as healthy again
//! once the store has answered one request quickly. The one rule: only a linearizable round trip that was
//! sent after the doubt arose counts; the kind of request does not matter.

use std::time::Duration;

use super::Engine;
use crate::engine::{backoff::Backoff, types::BootTime};

/// Interval between two requests that measure the round trip: first and longest.
const PROBE_AFTER: Duration = Duration::from_millis(200);
const PROBE_AFTER_MOST: Duration = Duration::from_secs(1);

/// Knowledge about the round trip to the store.
#[derive(Debug)]
pub(super) struct Health {
    /// Time when the node last proved useless; `None` while it counts as healthy.
    doubted: Option<BootTime>,
    probe_at: BootTime,
    backoff: Backoff,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            doubted: None,
            probe_at: BootTime::default(),
            backoff: Backoff::new(PROBE_AFTER, PROBE_AFTER_MOST),
        }
    }
}

impl Health {
    pub(super) const fn is_good(&self) -> bool {
        self.doubted.is_none()
    }

    /// Doubts the node's health: from now on only a quick round trip makes it healthy again.
    pub(super) const fn doubt(&mut self, now: BootTime) {
        self.doubted = Some(now);
        self.probe_at = now;
        self.backoff.reset();
    }

    /// Notes that a linearizable request was answered. `within` is the longest round trip of a healthy node.
    fn note(&mut self, sent_at: BootTime, received_at: BootTime, within: Duration) {
        if self.doubted.is_some_and(|since| since <= sent_at)
            && received_at.since(sent_at) <= within
        {
            self.doubted = None;
        }
    }
}

impl Engine {
    /// Notes that a linearizable request was answered.
    pub(super) fn note_round_trip(&mut self, sent_at: BootTime, received_at: BootTime) {
        let within = self.config.span(self.config.failover.d()) / 2;
        self.health.note(sent_at, received_at, within);
    }

    /// Measures the round trip of a doubted node by T14 (CHECK of the held key). Outside of a session, the
    /// read before a JOIN measures it.
    pub(super) fn probe_rule(&mut self) {
        let Some(lease) = self.session.lease() else { return };
        if self.health.is_good() || self.is_leaving() || !self.is_due(self.health.probe_at) {
            return;
        }
        let draw = self.draws.draw();
        self.health.probe_at = self.now + self.health.backoff.next(draw);
        self.check_now(lease);
    }
}
