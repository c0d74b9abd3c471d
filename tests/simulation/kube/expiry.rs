//! The end of leases that are not renewed, as each node's store does it.

use bellwether::{
    engine::LeaseId,
    k8s::store::pure::{Due, LOOK_EVERY},
    store::protocol::Request,
};

use super::{
    KubeBreak,
    side::{Pending, Purpose, SideId},
    wire::{KubeEvent, Want},
};

use crate::{
    chance::{SECONDS, Time},
    world::World,
};

/// Deadline of the write that takes an expired lease out of the state.
const REVOKE_WITHIN: Time = 5 * SECONDS;

impl World {
    pub fn revoke_expired(&mut self, s: SideId, lease: LeaseId) {
        if self.kube_breaks(KubeBreak::EntryKept) {
            return self.end_next(s);
        }
        let ticket = self.ask_replica(s, Request::Revoke(lease), Pending::Expire { lease });
        self.kube_at(self.now + REVOKE_WITHIN, KubeEvent::GiveUp(s, ticket));
        self.pump(s);
    }

    /// Looks for leases that were not renewed, as each node does.
    pub fn look_for_expired(&mut self, s: SideId) {
        if !self.lives(s) || self.waits(s, KubeEvent::Look) {
            return;
        }
        let slot = self.side(s).slot;
        let now = self.slots[slot].clock.at(self.now);
        let side = self.side(s);
        if !side.ends {
            let in_state = side.replica.model().leases().collect();
            for due in side.notes.due(&in_state, now) {
                side.notes.postpone(due.lease(), now);
                side.ending.push_back(due);
            }
            side.ends = true;
            self.end_next(s);
        }
        let every = LOOK_EVERY.as_nanos() as Time;
        self.kube_at(self.now + every, KubeEvent::Look(s));
    }

    /// Goes on with the next lease that is to be ended.
    pub fn end_next(&mut self, s: SideId) {
        let Some(due) = self.side(s).ending.pop_front() else {
            self.side(s).ends = false;
            return;
        };
        let deadline = self.now + self.limit(s);
        match due {
            Due::Expire { lease, version } => {
                let unconditional = self.kube_breaks(KubeBreak::ExpiryWithoutPrecondition);
                let version = Some(version).filter(|_| !unconditional);
                let want = Want::Delete { lease, version, expires: true };
                self.send_api(s, want, Purpose::Expire { lease }, deadline);
            }
            Due::Unseen { lease } => {
                self.send_api(s, Want::Exists(lease), Purpose::Unseen { lease }, deadline);
            }
        }
    }
}
