//! T10 (END): ends an incarnation that is over, then revokes its lease.
//!
//! END needs proof: either an own old lease whose tasks have all been joined, or a life that is proven dead.
//! Without proof the lease is only revoked, and all other nodes wait.

use std::time::Duration;

use super::{Asked, Engine};
use crate::engine::{
    call::{Answer, Call, Outcome},
    types::{BootTime, LeaseId, Revision},
    view::Record,
};

/// Time to wait before a request without a definite answer is repeated.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Lease that must be gone before the next JOIN.
#[derive(Debug)]
pub(super) struct Ending {
    lease: LeaseId,
    proof: Proof,
    step: Step,
    asked: bool,
    again_at: BootTime,
    /// R14 (useless ownership), R16 (renewals without answer): h of an incarnation whose keys are given back
    /// at once, before anything is read.
    blind: Option<Revision>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    /// No task of the incarnation runs any more.
    Proven,
    /// An own incarnation whose tasks are being joined. This node waits for them until this time.
    JoinedBy(BootTime),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Read,
    Revoke,
}

impl Ending {
    /// Ending of a life that is proven dead.
    pub(super) const fn proven(lease: LeaseId) -> Self {
        let again_at = BootTime(Duration::ZERO);
        Self { lease, proof: Proof::Proven, step: Step::Read, asked: false, again_at, blind: None }
    }

    /// Ending of an own incarnation whose tasks may still run.
    pub(super) const fn own(lease: LeaseId, by: BootTime) -> Self {
        Self { proof: Proof::JoinedBy(by), ..Self::proven(lease) }
    }

    /// Makes this ending send STOP and REVOKE before it reads anything, since the store's answers come too
    /// late.
    pub(super) const fn give_back_blindly(&mut self, held: Revision) {
        self.blind = Some(held);
    }
}

impl Engine {
    pub(super) fn ending_rules(&mut self) {
        let Some(ending) = self.session.ending.front() else {
            return;
        };
        if ending.asked {
            return;
        }
        let (lease, proof, step, again_at) =
            (ending.lease, ending.proof, ending.step, ending.again_at);
        if !self.is_due(again_at) {
            return;
        }
        let mut step = step;
        if let Proof::JoinedBy(by) = proof
            && self.is_working()
        {
            if !self.is_due(by) {
                return;
            }
            // Some work of the incarnation does not end: an unclean end, and all other nodes wait.
            step = Step::Revoke;
        }
        if let Some(held) = self.session.ending.front_mut().and_then(|ending| ending.blind.take()) {
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
        if let Some(ending) = self.session.ending.front_mut() {
            ending.asked = true;
            ending.step = step;
        }
    }

    pub(super) fn on_ending(&mut self, lease: LeaseId, asked: &Asked, outcome: &Outcome) {
        let again_at = self.now + AGAIN_AFTER;
        let Some(ending) = self.session.ending.front_mut() else {
            return;
        };
        if ending.lease != lease {
            return;
        }
        ending.asked = false;
        match (asked, outcome) {
            (Asked::ReadEnd(_), Outcome::Done(answer) | Outcome::Refused(answer)) => {
                self.on_end_read(lease, answer);
            }
            (Asked::End(_), Outcome::Done(_)) => ending.step = Step::Revoke,
            // A last beat or claim committed before END, or the lease was lost: read again.
            (Asked::End(_), Outcome::Refused(_) | Outcome::LeaseNotFound) => {
                ending.again_at = self.now;
            }
            (Asked::RevokeEnded(_), Outcome::Done(_) | Outcome::LeaseNotFound) => {
                self.session.ending.pop_front();
            }
            _ => ending.again_at = again_at,
        }
    }

    /// Starts the first ending again from its read, since the answer that it waits for no longer counts.
    pub(super) fn retry_ending(&mut self) {
        if let Some(ending) = self.session.ending.front_mut() {
            *ending = Ending { step: Step::Read, asked: false, again_at: self.now, ..*ending };
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
        let held = held.map(|stored| stored.modified);
        if record.is_none() && held.is_none() {
            if let Some(ending) = self.session.ending.front_mut() {
                ending.step = Step::Revoke;
            }
            return;
        }
        let held = held.map(|modified| (modified, self.draws.draw()));
        self.send(Asked::End(lease), Call::End { lease, record, held });
        if let Some(ending) = self.session.ending.front_mut() {
            ending.asked = true;
        }
    }
}
