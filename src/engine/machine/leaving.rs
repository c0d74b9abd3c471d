//! Leaving the cluster: T9 (STOP) when all work has been joined, then T11 (REVOKE).
//!
//! The one rule to keep: a leaving node ends its office in STOP's own transaction, or not at all. Later steps
//! only clean up, and no other node waits for them.

use std::time::Duration;

use super::{Asked, Engine, Try};
use crate::engine::{
    call::{Answer, Call, Effect, Outcome},
    types::{BootTime, LeaseId},
};

/// Longest time that REVOKE waits for another node to take the office that STOP ended.
const GIVE_WAY: Duration = Duration::from_millis(20);

/// Time to wait before a request without a definite answer is repeated.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// State of a node that is leaving.
#[derive(Debug)]
pub(super) struct Leaving {
    /// STOP, or REVOKE once STOP is done.
    call: Try,
    stopped: bool,
    /// End of the time in which REVOKE lets the successor's TAKE go first.
    give_way_until: BootTime,
}

impl Leaving {
    /// Leaving of an incarnation that has joined: STOP, then REVOKE.
    pub(super) fn of_joined(now: BootTime) -> Self {
        Self { call: Try::at(now), stopped: false, give_way_until: now }
    }

    /// Leaving of an incarnation that has not joined, or is over: there is nothing to STOP.
    pub(super) fn of_unjoined(now: BootTime) -> Self {
        Self { stopped: true, ..Self::of_joined(now) }
    }

    /// Whether STOP is in flight or done. Keys that STOP removes are then no sign of a lost session.
    pub(super) fn has_begun(&self) -> bool {
        self.call.in_flight || self.stopped
    }
}

impl Engine {
    /// T9, T11: sends STOP when all work has been joined, then REVOKE.
    pub(super) fn leave_rule(&mut self) {
        let Some(&Leaving { call, stopped, give_way_until }) = self.leaving.as_ref() else {
            return;
        };
        if self.is_working() || self.holding.is_writing() || !self.may_send(call) {
            return;
        }
        let Some(lease) = self.session.lease() else { return };
        if stopped && !self.is_succeeded(lease) && !self.is_due(give_way_until) {
            return;
        }
        let call = if stopped { Call::Revoke { lease } } else { self.stop_call(lease) };
        self.send(Asked::Stop, call);
        if let Some(leaving) = &mut self.leaving {
            leaving.call.sent();
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Whether the view shows another node in office, or no other candidate.
    fn is_succeeded(&self, lease: LeaseId) -> bool {
        let seated = self.watched.seated().is_some_and(|(_, seated)| seated != lease);
        seated || self.watched.queue.values().all(|candidate| *candidate == lease)
    }

    fn stop_call(&mut self, lease: LeaseId) -> Call {
        let office = self.end_office_for_stop();
        let nonce = self.draws.draw();
        let held = self.holding.empty_by(nonce);
        Call::Stop { lease, held, nonce, office }
    }

    pub(super) fn on_stopped(&mut self, outcome: Outcome) {
        let Some(leaving) = &mut self.leaving else { return };
        leaving.call = Try::at(self.now);
        match outcome {
            Outcome::Done(answer) if !leaving.stopped => {
                leaving.stopped = true;
                // STOP deleted the candidate key, and the view may not show that yet.
                self.candidacy.await_view(&answer);
                if self.resigning.take().is_some() {
                    // The successor sends its TAKE now, and the store commits one request after the other.
                    leaving.give_way_until = self.now + GIVE_WAY;
                }
            }
            Outcome::Done(_) | Outcome::LeaseNotFound => {
                self.come_to_rest(Effect::Left { clean: true });
            }
            Outcome::Refused(answer) => self.on_stop_refused(&answer),
            Outcome::LeaseExists | Outcome::Failed | Outcome::Unknown => {
                leaving.call = Try::at(self.now + AGAIN_AFTER);
            }
        }
    }

    /// Handles a refused STOP: a late held write of ours committed before it, or the office was already over.
    fn on_stop_refused(&mut self, answer: &Answer) {
        let Some(lease) = self.session.lease() else { return };
        let found = answer.view();
        let adopted = found.held.get(&lease).is_some_and(|stored| self.holding.adopt(stored));
        self.resigning.take_if(|end| !end.is_of(found.candidate(lease)));
        if !adopted && let Some(leaving) = &mut self.leaving {
            // The held key is not as this node left it: the node only revokes, an unclean end for its shards.
            leaving.stopped = true;
        }
    }
}
