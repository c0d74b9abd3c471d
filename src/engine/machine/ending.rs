//! T10 (END): ends an incarnation that is over, then revokes its lease.
//!
//! END needs proof: either an own old lease whose tasks have all been joined, or a life that is proven dead.
//! Without proof the lease is only revoked, and all other nodes wait.

use std::{collections::VecDeque, time::Duration};

use super::{Asked, Engine, Try};
use crate::engine::{
    call::{Answer, Call, Outcome},
    types::{BootTime, LeaseId, Revision},
    view::Record,
};

/// Time to wait before a request without a definite answer is repeated.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Leases that must be gone before the next JOIN, in the order of their ending.
#[derive(Debug, Default)]
pub(super) struct Endings(VecDeque<Ending>);

#[derive(Debug)]
struct Ending {
    lease: LeaseId,
    /// An own incarnation whose tasks are being joined: this node waits for them until this time. `None`: no
    /// task of the incarnation runs any more.
    joined_by: Option<BootTime>,
    step: Step,
    call: Try,
    /// R14 (useless ownership), R16 (renewals without answer): h of an incarnation whose keys are given back
    /// at once, before anything is read, since the store's answers come too late.
    blind: Option<Revision>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Read,
    Revoke,
}

impl Endings {
    /// Adds an incarnation that no task works for: one that has not joined, or a life that is proven dead.
    pub(super) fn add_dead(&mut self, lease: LeaseId) {
        self.add(lease, None, None);
    }

    /// Adds an own incarnation whose tasks may still run. With `blind` (its h), STOP and REVOKE are sent before
    /// anything is read.
    pub(super) fn add_own(&mut self, lease: LeaseId, by: BootTime, blind: Option<Revision>) {
        self.add(lease, Some(by), blind);
    }

    fn add(&mut self, lease: LeaseId, joined_by: Option<BootTime>, blind: Option<Revision>) {
        let call = Try::default();
        self.0.push_back(Ending { lease, joined_by, step: Step::Read, call, blind });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Starts the first ending again from its read, since the answer that it waits for no longer counts.
    pub(super) fn retry(&mut self, now: BootTime) {
        if let Some(ending) = self.0.front_mut() {
            ending.step = Step::Read;
            ending.call = Try::at(now);
        }
    }
}

impl Engine {
    pub(super) fn ending_rules(&mut self) {
        let Some(&Ending { lease, joined_by, mut step, call, .. }) = self.endings.0.front() else {
            return;
        };
        if !self.may_send(call) {
            return;
        }
        if let Some(by) = joined_by
            && self.is_working()
        {
            if !self.is_due(by) {
                return;
            }
            // Some work of the incarnation does not end: an unclean end, and all other nodes wait.
            step = Step::Revoke;
        }
        if let Some(held) = self.endings.0.front_mut().and_then(|ending| ending.blind.take()) {
            if step == Step::Read {
                let nonce = self.draws.draw();
                self.send(Asked::Abandon, Call::Stop { lease, held, nonce, office: None });
            }
            self.send(Asked::Abandon, Call::Revoke { lease });
        }
        match step {
            Step::Read => self.send(Asked::ReadEnd(lease), Call::ReadEnd { lease }),
            Step::Revoke => self.send(Asked::RevokeEnded(lease), Call::Revoke { lease }),
        };
        if let Some(ending) = self.endings.0.front_mut() {
            ending.call.sent();
            ending.step = step;
        }
    }

    pub(super) fn on_ending(&mut self, lease: LeaseId, asked: &Asked, outcome: &Outcome) {
        let Some(ending) = self.endings.0.front_mut().filter(|ending| ending.lease == lease) else {
            return;
        };
        ending.call.answered();
        match (asked, outcome) {
            (Asked::ReadEnd(_), Outcome::Done(answer) | Outcome::Refused(answer)) => {
                self.on_end_read(lease, answer);
            }
            (Asked::End(_), Outcome::Done(_)) => ending.step = Step::Revoke,
            // A last beat or claim committed before END, or the lease was lost: read again.
            (Asked::End(_), Outcome::Refused(_) | Outcome::LeaseNotFound) => {
                ending.call = Try::at(self.now);
            }
            (Asked::RevokeEnded(_), Outcome::Done(_) | Outcome::LeaseNotFound) => {
                self.endings.0.pop_front();
            }
            _ => ending.call = Try::at(self.now + AGAIN_AFTER),
        }
    }

    fn on_end_read(&mut self, lease: LeaseId, answer: &Answer) {
        let found = answer.view();
        let record = found.record.as_ref().and_then(|stored| {
            let record = stored.value.clone()?;
            let open = record.lease == Some(lease) && !record.ended;
            open.then_some((stored.modified, Record { ended: true, ..record }))
        });
        // A held key on another lease counts as malformed: the leader waits for it and deletes it.
        let held = found.held.get(&lease).filter(|stored| stored.lease == Some(lease));
        let held = held.map(|stored| (stored.modified, self.draws.draw()));
        let Some(ending) = self.endings.0.front_mut() else { return };
        if record.is_none() && held.is_none() {
            ending.step = Step::Revoke;
            return;
        }
        ending.call.sent();
        self.send(Asked::End(lease), Call::End { lease, record, held });
    }
}
