//! Watches of the API server's objects: what each side is shown, when, and what is lost when a watch breaks.

use std::{rc::Rc, time::Duration};

use bellwether::engine::LeaseId;

use super::{
    KubeBreak,
    server::Version,
    side::{LeaseSeen, LeaseShown, Shown, SideId},
    wire::KubeEvent,
};

use crate::{
    chance::{MILLIS, SECONDS, Time},
    world::World,
};

impl World {
    /// The object was written: all watches of it see that.
    pub fn object_changed(&mut self, version: &Rc<Version>) {
        for s in 0..self.kube_ref().sides.len() {
            if self.lives(s) && self.side(s).objects.open {
                self.push_object(s, Shown::Object(Rc::clone(version)));
            }
        }
    }

    /// The object is gone.
    pub fn object_gone(&mut self) {
        for s in 0..self.kube_ref().sides.len() {
            if self.lives(s) && self.side(s).objects.open {
                self.push_object(s, Shown::Look);
            }
        }
    }

    pub fn arrival(&mut self, s: SideId) -> Time {
        let slot = self.side(s).slot;
        let lag = self.latency() + self.chance.below(self.scenario.lag + 1);
        (self.now + lag + self.slow_down(slot)).max(self.slots[slot].down_cut_until)
    }

    pub fn push_object(&mut self, s: SideId, shown: Shown) {
        let at = self.arrival(s);
        let at = self.side(s).objects.push(at, shown);
        self.kube_at(at, KubeEvent::ObjectShown(s));
    }

    pub fn push_lease(&mut self, s: SideId, shown: LeaseShown) {
        let at = self.arrival(s);
        let at = self.side(s).leases.push(at, shown);
        self.kube_at(at, KubeEvent::LeaseShown(s));
    }

    /// Whether an item of a watch can be delivered now; if not, when to look again.
    pub fn held_back(&self, s: SideId, stalled_until: Time) -> Option<Time> {
        let slot = self.kube_ref().sides[s].slot;
        let until = self.slots[slot].down_cut_until.max(stalled_until).max(self.rests_until(s));
        (self.now < until).then_some(until)
    }

    pub fn on_object_shown(&mut self, s: SideId) {
        let feed = &self.kube_ref().sides[s].objects;
        if !self.lives(s) || !feed.has_arrived(self.now) {
            return;
        }
        if let Some(until) = self.held_back(s, feed.stalled_until) {
            return self.kube_at(until, KubeEvent::ObjectShown(s));
        }
        let Some(shown) = self.side(s).objects.pop() else { return };
        let side = self.side(s);
        match shown {
            Shown::Object(version) => {
                if version.read.is_ok() {
                    side.watched = Some(version.number);
                }
                side.replica.observe(version.read.clone());
            }
            Shown::Look => side.replica.look_again(),
        }
        self.pump(s);
    }

    pub fn on_lease_shown(&mut self, s: SideId) {
        let feed = &self.kube_ref().sides[s].leases;
        if !self.lives(s) || !feed.has_arrived(self.now) {
            return;
        }
        if let Some(until) = self.held_back(s, feed.stalled_until) {
            return self.kube_at(until, KubeEvent::LeaseShown(s));
        }
        let Some(shown) = self.side(s).leases.pop() else { return };
        match shown {
            LeaseShown::Listed(all) => {
                for seen in &all {
                    self.saw_lease(s, *seen);
                }
                let all = all.iter().map(|seen| seen.lease).collect();
                self.side(s).notes.listed(&all);
            }
            LeaseShown::Saw(seen) => self.saw_lease(s, seen),
            LeaseShown::Gone(lease) => self.side(s).notes.is_gone(lease),
        }
    }

    pub fn saw_lease(&mut self, s: SideId, seen: LeaseSeen) {
        let slot = self.side(s).slot;
        let mut now = self.slots[slot].clock.at(self.now);
        if self.kube_breaks(KubeBreak::ExpiryByWallClock) {
            let age = self.wall_ms(slot).saturating_sub(seen.renew_time).max(0).unsigned_abs();
            now.0 = now.0.saturating_sub(Duration::from_millis(age));
        }
        let draw = self.chance.below(1_000) as f64 / 1_000.0;
        let ttl = Duration::from_secs(seen.ttl);
        self.side(s).notes.saw(seen.lease, seen.version.to_string(), ttl, now, draw);
    }

    /// The Lease of an incarnation was written or deleted.
    pub fn lease_changed(&mut self, lease: LeaseId) {
        let shown = match self.seen_lease(lease) {
            Some(seen) => LeaseShown::Saw(seen),
            None => LeaseShown::Gone(lease),
        };
        for s in 0..self.kube_ref().sides.len() {
            if self.lives(s) && self.side(s).leases.open {
                self.push_lease(s, shown.clone());
            }
        }
    }

    pub fn seen_lease(&self, lease: LeaseId) -> Option<LeaseSeen> {
        let object = self.kube_ref().server.leases.get(&lease)?;
        let (version, ttl, renew_time) = (object.version, object.ttl, object.renew_time);
        Some(LeaseSeen { lease, version, ttl, renew_time })
    }

    /// Time at which a watch of that side can be opened, if not now.
    pub fn opens_at(&mut self, s: SideId) -> Option<Time> {
        let links = &self.slots[self.kube_ref().sides[s].slot];
        let until = links.up_cut_until.max(links.down_cut_until);
        let until = until.max(self.depot.down_until).max(self.depot.stalled_until);
        let until = until.max(self.rests_until(s));
        (self.now < until).then(|| until + self.chance.below(200 * MILLIS))
    }

    /// The watch of the object is opened: from where it ended, if the API server still has that.
    pub fn open_objects(&mut self, s: SideId) {
        if !self.lives(s) || self.side(s).objects.open {
            return;
        }
        if let Some(at) = self.opens_at(s) {
            return self.kube_at(at, KubeEvent::OpenObjects(s));
        }
        self.side(s).objects.open = true;
        let gap = self.chance.percent(30);
        let watched = self.side(s).watched.filter(|_| !gap);
        let since = watched.and_then(|number| self.kube_ref().server.since(number));
        let versions = if let Some(versions) = since {
            versions
        } else {
            self.stats.kube_gaps += 1;
            self.push_object(s, Shown::Look);
            // A watch without a place to continue from may begin with an older state.
            let older = self.chance.below(4);
            let object = self.kube_ref().server.object.clone();
            let newest = object.as_ref().map_or(0, |it| it.number);
            let since = self.kube_ref().server.since(newest.saturating_sub(older + 1));
            since.unwrap_or_else(|| object.into_iter().collect())
        };
        for version in versions {
            self.push_object(s, Shown::Object(version));
        }
    }

    /// The Leases are listed, and watched from there.
    pub fn open_leases(&mut self, s: SideId) {
        if !self.lives(s) || self.side(s).leases.open {
            return;
        }
        if let Some(at) = self.opens_at(s) {
            return self.kube_at(at, KubeEvent::OpenLeases(s));
        }
        self.side(s).leases.open = true;
        let leases: Vec<_> = self.kube_ref().server.leases.keys().copied().collect();
        let all = leases.into_iter().filter_map(|lease| self.seen_lease(lease)).collect();
        self.push_lease(s, LeaseShown::Listed(all));
    }

    /// The watches of a side break: what is under way is lost.
    pub fn break_feeds(&mut self, s: SideId) {
        if !self.lives(s) {
            return;
        }
        self.side(s).objects.close();
        self.side(s).leases.close();
        let pause = if self.healed {
            self.chance.between(50, 200) * MILLIS
        } else {
            self.chance.log_between(100 * MILLIS, 5 * SECONDS)
        };
        self.kube_at(self.now + pause, KubeEvent::OpenObjects(s));
        if self.side(s).proc.is_some() {
            self.kube_at(self.now + pause, KubeEvent::OpenLeases(s));
        }
    }
}
