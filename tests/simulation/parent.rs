//! The parent of a node's processes: once its child is proven dead, the parent ends the child's incarnations
//! with T10 (END), also while the network fails.

use std::collections::VecDeque;

use bellwether::engine::{Call, Change, LeaseId, Outcome, Record, Stored, Term};

use crate::{
    breaks::Broken,
    chance::MILLIS,
    wire::{Ask, From, InFlight},
    world::{Event, Proof, World, note},
};

/// State of a parent and its requests.
#[derive(Debug, Default)]
pub struct Parent {
    /// Leases that the parent still has to end, in order.
    leases: VecDeque<LeaseId>,
    /// Number of the request that is on its way; answers to other requests are dropped.
    number: u64,
    asked: Option<Asked>,
    /// Proof that the next process begins with, once all leases are ended.
    again: Option<Proof>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Read,
    End,
    Revoke,
}

impl World {
    /// The parent of that slot has seen its child die, and ends these leases.
    pub fn parent_ends(&mut self, slot: usize, leases: Vec<LeaseId>, again: Option<Proof>) {
        let parent = &mut self.slots[slot].parent;
        parent.leases = leases.into();
        parent.number += 1;
        parent.asked = None;
        parent.again = again;
        let after = self.chance.log_between(MILLIS, 30 * MILLIS);
        self.at(self.now + after, Event::Parent(slot));
    }

    /// The parent processes the first of its leases, from the beginning.
    pub fn on_parent(&mut self, slot: usize) {
        if self.slots[slot].parent.asked.is_some() {
            return;
        }
        match self.slots[slot].parent.leases.front().copied() {
            Some(lease) => self.parent_asks(slot, Asked::Read, Call::ReadEnd { lease }),
            None => {
                if let Some(proof) = self.slots[slot].parent.again.take() {
                    let after = self.chance.log_between(MILLIS, 500 * MILLIS);
                    self.at(self.now + after, Event::Begin(slot, proof));
                }
            }
        }
    }

    fn parent_asks(&mut self, slot: usize, asked: Asked, call: Call) {
        note!(self, "the parent of node {slot} sends {call:?}");
        let parent = &mut self.slots[slot].parent;
        parent.number += 1;
        parent.asked = Some(asked);
        let flight = InFlight {
            from: From::Parent(slot, parent.number),
            ask: Ask::Call(call),
            sent_at: self.slots[slot].clock.at(self.now),
            deadline: self.now + self.scenario.call_timeout.as_nanos() as u64,
            slot,
            given_up: false,
        };
        self.post(flight);
    }

    pub fn on_parent_answer(&mut self, slot: usize, number: u64, outcome: Outcome) {
        let broken = self.broken == Some(Broken::EndOfForeignRecord);
        let parent = &mut self.slots[slot].parent;
        if parent.number != number {
            return;
        }
        let Some(asked) = parent.asked.take() else { return };
        let Some(lease) = parent.leases.front().copied() else { return };
        match (asked, outcome) {
            (Asked::Read, Outcome::Done(answer)) => {
                let nonce = self.chance.bits();
                let call = end_call(lease, &answer.changes, nonce, broken);
                self.parent_asks(slot, Asked::End, call);
            }
            (Asked::End, Outcome::Done(_) | Outcome::LeaseNotFound) => {
                self.parent_asks(slot, Asked::Revoke, Call::Revoke { lease });
            }
            (Asked::Revoke, Outcome::Done(_) | Outcome::LeaseNotFound) => {
                self.stats.ends_by_parents += 1;
                self.slots[slot].parent.leases.pop_front();
                self.on_parent(slot);
            }
            _ => {
                let after = self.chance.between(5, 50) * MILLIS;
                self.at(self.now + after, Event::Parent(slot));
            }
        }
    }
}

/// The second part of T10 (END), built from what the first part has read.
fn end_call(lease: LeaseId, changes: &[Change], nonce: u64, foreign_too: bool) -> Call {
    let mut record = None;
    let mut held = None;
    for change in changes {
        match change {
            Change::Record(Some(Stored { modified, value: Some(value), .. }))
                if (value.lease == Some(lease) || foreign_too && value.term != Term(0))
                    && !value.ended =>
            {
                record = Some((*modified, Record { ended: true, ..value.clone() }));
            }
            Change::Held(of, Some(Stored { modified, .. })) if *of == lease => {
                held = Some((*modified, nonce));
            }
            _ => (),
        }
    }
    Call::End { lease, record, held }
}
