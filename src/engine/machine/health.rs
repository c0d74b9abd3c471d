//! Whether the store answers this node fast enough to lead or to own shards (R13, R14, R16).
//!
//! A node that gave up its office or its incarnation because answers came too late is not trusted
//! again before the store has answered one request quickly. The one rule: only a linearizable round trip
//! that was sent after the doubt arose counts, whatever the request was for.

use std::time::Duration;

use super::{Engine, session::Phase};
use crate::engine::{backoff::Backoff, types::BootTime};

/// Between two requests that measure the round trip, at first and at most.
const PROBE_AFTER: Duration = Duration::from_millis(200);
const PROBE_AFTER_MOST: Duration = Duration::from_secs(1);

/// What is known of the round trip to the store.
#[derive(Debug)]
pub(super) struct Health {
    /// When the node last proved useless; `None` while it counts as healthy.
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

    /// From now on only a quick round trip makes the node healthy again.
    pub(super) const fn doubt(&mut self, now: BootTime) {
        self.doubted = Some(now);
        self.probe_at = now;
        self.backoff.reset();
    }

    /// A linearizable request was answered. `within` is the longest round trip of a healthy node.
    fn note(&mut self, sent_at: BootTime, received_at: BootTime, within: Duration) {
        if self.doubted.is_some_and(|since| since <= sent_at)
            && received_at.since(sent_at) <= within
        {
            self.doubted = None;
        }
    }
}

impl Engine {
    /// A linearizable request was answered.
    pub(super) fn note_round_trip(&mut self, sent_at: BootTime, received_at: BootTime) {
        let within = self.config.span(self.config.failover.d()) / 2;
        self.health.note(sent_at, received_at, within);
    }

    /// Measures the round trip of a doubted node by a CHECK (T14). Outside of a session the read before a
    /// JOIN measures it.
    pub(super) fn probe_rule(&mut self) {
        let Phase::In(incarnation) = &self.session.phase else {
            return;
        };
        let lease = incarnation.lease;
        if self.health.is_good() || self.session.is_leaving() || !self.is_due(self.health.probe_at)
        {
            return;
        }
        let draw = self.draws.draw();
        self.health.probe_at = self.now + self.health.backoff.next(draw);
        self.check_now(lease);
    }
}
