//! Leaving the cluster: T9 (STOP) when all work has been joined, then T11 (REVOKE).
//!
//! The one rule to keep: a leaving node ends its office in STOP's own transaction, or not at all. Later steps
//! only clean up, and no other node waits for them.

use std::time::Duration;

use super::{Asked, Engine};
use crate::engine::{
    call::{Answer, Call, Effect, Outcome},
    types::{BootTime, LeaseId},
};

/// Longest time that REVOKE waits for another node to take the office that STOP ended.
const GIVE_WAY: Duration = Duration::from_millis(20);

/// State of a node that is leaving.
#[derive(Debug)]
pub(super) struct Leaving {
    /// STOP is in flight.
    asked: bool,
    /// STOP is done: REVOKE is next.
    stopped: bool,
    again_at: BootTime,
    /// End of the time in which REVOKE lets the successor's TAKE go first.
    give_way_until: BootTime,
}

impl Leaving {
    /// Leaving of an incarnation that has joined: STOP, then REVOKE.
    pub(super) fn of_joined(now: BootTime) -> Self {
        Self { asked: false, stopped: false, again_at: now, give_way_until: now }
    }

    /// Leaving of an incarnation that has not joined, or is over: there is nothing to STOP.
    pub(super) fn of_unjoined(now: BootTime) -> Self {
        Self { stopped: true, ..Self::of_joined(now) }
    }

    /// Whether STOP is in flight or done. Keys that STOP removes are then no sign of a lost session.
    pub(super) fn has_begun(&self) -> bool {
        self.asked || self.stopped
    }
}

impl Engine {
    /// T9, T11: sends STOP when all work has been joined, then REVOKE.
    pub(super) fn leave_rule(&mut self) {
        let Some(leaving) = &self.session.leaving else {
            return;
        };
        if leaving.asked || self.is_working() || self.holding.is_writing() {
            return;
        }
        let (stopped, again_at, give_way_until) =
            (leaving.stopped, leaving.again_at, leaving.give_way_until);
        if !self.is_due(again_at) {
            return;
        }
        let Some(lease) = self.session.lease() else {
            return;
        };
        if stopped && !self.is_succeeded(lease) && !self.is_due(give_way_until) {
            return;
        }
        let call = if stopped { Call::Revoke { lease } } else { self.stop_call(lease) };
        self.send(Asked::Stop, call);
        if let Some(leaving) = &mut self.session.leaving {
            leaving.asked = true;
        }
    }

    /// Whether the view shows another node in office, or no other candidate.
    fn is_succeeded(&self, lease: LeaseId) -> bool {
        let seated = self.watched.seated().is_some_and(|(_, seated)| seated != lease);
        seated || self.watched.queue.values().all(|candidate| *candidate == lease)
    }

    fn stop_call(&mut self, lease: LeaseId) -> Call {
        let office = self.end_office_for_stop();
        let nonce = self.draws.draw();
        self.holding.note_nonce(nonce);
        Call::Stop { lease, held: self.holding.h, nonce, office }
    }

    pub(super) fn on_stopped(&mut self, outcome: Outcome) {
        let again_at = self.now + Duration::from_millis(100);
        let Some(leaving) = &mut self.session.leaving else {
            return;
        };
        leaving.asked = false;
        match outcome {
            Outcome::Done(answer) if !leaving.stopped => {
                leaving.stopped = true;
                // STOP deleted the candidate key, and the view may not show that yet.
                self.candidacy.view_from = self.candidacy.view_from.max(answer.revision);
                if self.candidacy.resign.take().is_some() {
                    // The successor sends its TAKE now, and the store commits one request after the other.
                    leaving.give_way_until = self.now + GIVE_WAY;
                }
            }
            Outcome::Done(_) | Outcome::LeaseNotFound => {
                self.session.granted = None;
                self.candidacy.resign = None;
                self.come_to_rest();
                self.out.push(Effect::Left { clean: true });
            }
            Outcome::Refused(answer) => {
                leaving.again_at = self.now;
                self.on_stop_refused(&answer);
            }
            Outcome::LeaseExists | Outcome::Failed | Outcome::Unknown => {
                leaving.again_at = again_at;
            }
        }
    }

    /// Handles a refused STOP: a late held write of ours committed before it, or the office was already over.
    fn on_stop_refused(&mut self, answer: &Answer) {
        let Some(lease) = self.session.lease() else {
            return;
        };
        let found = answer.view();
        let adopted = found.held.get(&lease).is_some_and(|stored| self.holding.adopt(stored));
        if let Some(resign) = &self.candidacy.resign {
            let stands = found
                .candidate(lease)
                .is_some_and(|candidate| candidate.modified == resign.office.revision);
            if !stands {
                self.candidacy.resign = None;
            }
        }
        if !adopted && let Some(leaving) = &mut self.session.leaving {
            // The held key is not as this node left it: the node only revokes, an unclean end for its shards.
            leaving.stopped = true;
        }
    }
}
