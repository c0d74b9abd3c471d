//! Faults of a cluster in the Kubernetes API, beside those of the network and the processes.

use bellwether::{engine::timing, k8s::store::pure::ANNOTATION, store::protocol::Request};
use serde_json::Value;

use super::{neighbour::Candidate, wire::KubeEvent};
use crate::{
    chance::{MILLIS, SECONDS},
    host::ProcId,
    scenario::Fault,
    world::{Event, World, note},
};

impl World {
    /// Injects a fault that is another one than with etcd. Returns whether it is one.
    pub fn inject_on_kubernetes(&mut self, fault: Fault, p: ProcId) -> bool {
        if self.kube.is_none() {
            return false;
        }
        match fault {
            Fault::WatchStall => {
                let long = self.chance.log_between(50 * MILLIS, 8 * SECONDS);
                let until = self.now + long;
                if let Some(s) = self.procs[p].side {
                    let leases = self.chance.percent(50);
                    let side = self.side(s);
                    side.objects.stalled_until = until;
                    if leases {
                        side.leases.stalled_until = until;
                    }
                }
            }
            Fault::WatchBreak | Fault::Compact => {
                if let Some(s) = self.procs[p].side {
                    self.break_feeds(s);
                }
            }
            // The API server restarts, or another one takes over.
            Fault::Failover => {
                let long = self.chance.log_between(100 * MILLIS, 3 * SECONDS);
                self.depot.stalled_until = self.now + long;
                for s in 0..self.kube_ref().sides.len() {
                    if self.chance.percent(70) {
                        self.break_feeds(s);
                    }
                }
            }
            Fault::Revoke => self.meddle_with_a_lease(),
            Fault::Overwrite => match self.chance.below(10) {
                0 => self.edit_to_junk(),
                1 => {
                    note!(self, "somebody removes the annotation");
                    self.put_annotation(None);
                }
                _ => return false,
            },
            Fault::Wipe => {
                note!(self, "somebody deletes the object");
                if self.kube_ref().server.object.is_some() {
                    self.kube_mut().server.delete();
                    self.store_is_gone();
                    self.object_gone();
                }
            }
            Fault::Restore => self.restore_etcd(),
            Fault::GoJoin => self.neighbour_joins(),
            Fault::GoLeave => {
                let releases = self.chance.percent(50);
                self.neighbour_leaves(releases);
            }
            _ => return false,
        }
        true
    }

    fn meddle_with_a_lease(&mut self) {
        let leases: Vec<_> = self.kube_ref().server.leases.keys().copied().collect();
        let Some(lease) = self.chance.pick(&leases).copied() else { return };
        match self.chance.below(3) {
            0 => {
                note!(self, "somebody deletes the Lease of {lease}");
                self.kube_mut().server.leases.remove(&lease);
                self.lease_changed(lease);
            }
            1 => {
                note!(self, "somebody renews the Lease of {lease}");
                let now = self.now;
                self.kube_mut().server.renew(now, lease, 0);
                self.lease_changed(lease);
            }
            _ => {
                note!(self, "somebody revokes {lease}");
                self.operate(&Request::Revoke(lease));
            }
        }
    }

    fn edit_to_junk(&mut self) {
        let object = self.kube_ref().server.object.clone();
        let text = object.as_ref().and_then(|it| annotation(&it.raw)).map(str::to_owned);
        let Some(text) = text.filter(|_| self.kube_ref().server.state().is_some()) else { return };
        note!(self, "somebody edits the annotation to junk");
        let Some(version) = self.kube_mut().server.put_annotation(Some("{oops".to_owned())) else {
            return;
        };
        self.object_changed(&version);
        let after = self.chance.log_between(50 * MILLIS, 8 * SECONDS);
        self.kube_at(self.now + after, KubeEvent::Repair(text));
    }

    /// The operator who made the annotation unreadable puts the text back, unless it was removed meanwhile.
    pub fn repair_annotation(&mut self, text: String) {
        let is_junk = self.kube_ref().server.object.as_ref().is_some_and(|it| it.read.is_err());
        if is_junk && let Some(version) = self.kube_mut().server.put_annotation(Some(text)) {
            note!(self, "the annotation is repaired");
            self.object_changed(&version);
        }
    }

    /// Edits or removes the annotation by hand.
    fn put_annotation(&mut self, text: Option<String>) {
        let Some(version) = self.kube_mut().server.put_annotation(text) else { return };
        self.store_is_gone();
        self.object_changed(&version);
    }

    /// The API server's etcd is restored from a backup, while it serves no client.
    fn restore_etcd(&mut self) {
        if self.now < self.depot.down_until || self.kube_ref().server.backups() == 0 {
            return;
        }
        // A3 (a restored store is not served within wait(SPAN_MAX)).
        let wait = timing::wait(self.timing().span_max).as_nanos() as u64;
        let down = wait + self.chance.log_between(MILLIS, SECONDS);
        self.depot.down_until = self.now + down;
        self.depot.replacement = Some(Fault::Restore);
        self.at(self.now + down, Event::Store);
        self.break_all_feeds();
    }

    /// The API server is back with the state of a backup.
    pub fn restored(&mut self) {
        let backups = self.kube_ref().server.backups() as u64;
        if backups == 0 {
            return;
        }
        let n = self.chance.below(backups) as usize;
        let image = self.kube_mut().server.restore(n);
        let now = self.now;
        self.depot.become_image(now, image);
        for candidate in &mut self.kube_mut().candidates {
            candidate.leads_until = candidate.leads_until.min(now);
        }
        note!(self, "the API server is back at revision {}", self.depot.revision());
        if self.healed {
            for key in self.depot.drain_requests() {
                self.at(self.now, Event::DeleteKey(key));
            }
        }
        self.break_all_feeds();
    }

    fn break_all_feeds(&mut self) {
        for s in 0..self.kube_ref().sides.len() {
            self.break_feeds(s);
        }
    }

    /// Ends the faults of the API server.
    pub fn heal_kubernetes(&mut self) {
        if self.kube.is_none() {
            return;
        }
        let now = self.now;
        for side in &mut self.kube_mut().sides {
            side.objects.hurry(now);
            side.leases.hurry(now);
        }
        for s in 0..self.kube_ref().sides.len() {
            for _ in 0..self.side(s).objects.under_way.len() {
                self.soon(KubeEvent::ObjectShown(s));
            }
            for _ in 0..self.side(s).leases.under_way.len() {
                self.soon(KubeEvent::LeaseShown(s));
            }
            self.soon(KubeEvent::OpenObjects(s));
            if self.side(s).proc.is_some() {
                self.soon(KubeEvent::OpenLeases(s));
            }
            self.soon(KubeEvent::Pump(s));
        }
        while self.kube_ref().candidates.iter().any(Candidate::lives) {
            self.neighbour_leaves(true);
        }
        let junk = self.kube_ref().server.object.as_ref().is_some_and(|it| it.read.is_err());
        if junk && let Some(version) = self.kube_mut().server.put_annotation(None) {
            self.store_is_gone();
            self.object_changed(&version);
        }
    }
}

/// Whether an event of the network arrives at once when all faults end.
pub const fn is_delayed(event: &KubeEvent) -> bool {
    matches!(event, KubeEvent::Arrive(_) | KubeEvent::OpenObjects(_) | KubeEvent::OpenLeases(_))
}

/// Text of the state as it stands in the object.
fn annotation(raw: &Value) -> Option<&str> {
    raw["metadata"]["annotations"].get(ANNOTATION)?.as_str()
}
