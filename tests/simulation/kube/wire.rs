//! The network between the processes and the API server: requests, answers, watches, and the faults of each.

use std::{rc::Rc, time::Duration};

use bellwether::{
    engine::LeaseId,
    k8s::store::pure::{Io, Reply, Ticket},
    store::{
        LeaseAnswer, StoreError,
        protocol::{Request, Response},
    },
};

use super::{
    neighbour::Decided,
    server::Written,
    side::{Called, Pending, Purpose, Side, SideId},
};
use crate::{
    chance::{MILLIS, SECONDS, Time},
    host::ProcId,
    world::{Event, World, note},
};

/// Time by the wall at which a run begins, in ms since 1970.
const BEGINS: i64 = 1_800_000_000_000;

/// An event of a cluster in the Kubernetes API.
#[derive(Debug)]
pub enum KubeEvent {
    /// A side has something to do.
    Pump(SideId),
    /// A request arrives at the API server.
    Arrive(Sent),
    /// The answer to a request of this number arrives.
    Got(SideId, u64, Got),
    /// A caller waits no longer.
    GiveUp(SideId, Ticket),
    /// An item of a watch arrives.
    ObjectShown(SideId),
    LeaseShown(SideId),
    /// A watch is opened, again.
    OpenObjects(SideId),
    OpenLeases(SideId),
    /// A side looks for leases that were not renewed.
    Look(SideId),
    /// A candidate of client-go does its next step.
    Neighbour(usize),
    NeighbourWrites(usize, Box<Decided>),
    /// The operator who made the annotation unreadable puts this text back.
    Repair(String),
}

/// Content of a request to the API server.
#[derive(Clone, Debug)]
pub enum Want {
    /// About the object of the cluster, with the calls that a write carries out.
    Object(Io, Vec<Rc<Called>>),
    Create {
        lease: LeaseId,
        ttl: u64,
        renew_time: i64,
    },
    Renew {
        lease: LeaseId,
        renew_time: i64,
    },
    Delete {
        lease: LeaseId,
        version: Option<String>,
        expires: bool,
    },
    Exists(LeaseId),
}

impl Want {
    const fn is_read(&self) -> bool {
        matches!(self, Self::Object(Io::Read, _) | Self::Exists(_))
    }

    /// POST is the one kind of request that no proxy repeats.
    const fn may_be_repeated(&self) -> bool {
        !matches!(self, Self::Object(Io::Create(_), _) | Self::Create { .. })
    }
}

/// A request on its way.
#[derive(Clone, Debug)]
pub struct Sent {
    side: SideId,
    number: u64,
    want: Want,
    era: u32,
    /// Whether the answer goes to the caller: of two copies that one, whose answer the proxy passes on.
    is_answered: bool,
}

/// Answer to a request.
#[derive(Debug)]
pub enum Got {
    Object(Reply),
    Done,
    Missing,
    Conflict,
    Refused(StoreError),
    Lost(StoreError),
}

pub fn unanswered() -> StoreError {
    let endpoint = "the API server".to_owned();
    StoreError::Unanswered { call: "sim", endpoint, timeout: Duration::ZERO }
}

fn refused() -> StoreError {
    let endpoint = "the API server".to_owned();
    StoreError::Overloaded { call: "sim", endpoint, message: "429".to_owned() }
}

impl World {
    pub fn side(&mut self, s: SideId) -> &mut Side {
        &mut self.kube_mut().sides[s]
    }

    pub fn soon(&mut self, event: KubeEvent) {
        self.at(self.now, Event::Kube(Box::new(event)));
    }

    pub fn kube_at(&mut self, at: Time, event: KubeEvent) {
        self.at(at, Event::Kube(Box::new(event)));
    }

    pub fn on_kube(&mut self, event: KubeEvent) {
        match event {
            KubeEvent::Pump(s) => self.pump(s),
            KubeEvent::Arrive(sent) => self.on_request(sent),
            KubeEvent::Got(s, number, got) => self.on_got(s, number, got),
            KubeEvent::GiveUp(s, ticket) => self.on_give_up(s, ticket),
            KubeEvent::ObjectShown(s) => self.on_object_shown(s),
            KubeEvent::LeaseShown(s) => self.on_lease_shown(s),
            KubeEvent::OpenObjects(s) => self.open_objects(s),
            KubeEvent::OpenLeases(s) => self.open_leases(s),
            KubeEvent::Look(s) => self.look_for_expired(s),
            KubeEvent::Neighbour(n) => self.on_neighbour(n),
            KubeEvent::NeighbourWrites(n, decided) => self.on_neighbour_writes(n, *decided),
            KubeEvent::Repair(text) => self.repair_annotation(text),
        }
    }

    /// Whether a side's process lives; a parent always does.
    pub fn lives(&self, s: SideId) -> bool {
        self.kube_ref().sides[s].proc.is_none_or(|p| self.procs[p].alive)
    }

    /// Until when a side does nothing.
    pub fn rests_until(&self, s: SideId) -> Time {
        let proc = self.kube_ref().sides[s].proc.map(|p| &self.procs[p]);
        proc.map_or(0, |proc| proc.frozen_until.max(proc.starved_until))
    }

    /// Whether the event has to wait, because the side's process stands still: it comes again then.
    pub fn waits(&mut self, s: SideId, again: impl FnOnce(SideId) -> KubeEvent) -> bool {
        let until = self.rests_until(s);
        if until <= self.now {
            return false;
        }
        self.kube_at(until, again(s));
        true
    }

    /// Time by the wall of a node, in ms.
    pub fn wall_ms(&self, slot: usize) -> i64 {
        BEGINS + (self.now / MILLIS) as i64 + self.kube_ref().skews[slot]
    }

    /// Time within which the API server must answer one request of that side.
    pub fn limit(&self, s: SideId) -> Time {
        let d = self.scenario.nodes[self.kube_ref().sides[s].slot].d();
        (d * 3 / 10).as_nanos() as Time
    }

    /// Sends a request to the API server; its caller waits until `deadline`, and not longer than a request may take.
    pub fn send_api(&mut self, s: SideId, want: Want, purpose: Purpose, deadline: Time) {
        let number = self.side(s).wait_for(purpose);
        note!(self, "side {s} sends {number}: {}", brief(&want));
        let deadline = deadline.min(self.now + self.limit(s));
        let error =
            if want.is_read() { Got::Refused(unanswered()) } else { Got::Lost(unanswered()) };
        self.kube_at(deadline, KubeEvent::Got(s, number, error));
        let slot = self.side(s).slot;
        let mut arrives = self.now;
        let cut = self.slots[slot].up_cut_until;
        if self.now < cut {
            self.stats.cut_requests += 1;
            match self.chance.below(3) {
                0 => return,
                1 => {
                    let got = Got::Refused(refused());
                    return self.kube_at(self.now + MILLIS, KubeEvent::Got(s, number, got));
                }
                _ => arrives = cut,
            }
        }
        if self.chance.ppm(self.lose_request_ppm()) {
            self.stats.lost_requests += 1;
            return;
        }
        if self.chance.ppm(self.late_ppm()) {
            self.stats.late_requests += 1;
            arrives += self.chance.log_between(50 * MILLIS, 12 * SECONDS);
        }
        arrives += self.latency() + self.slow_up(slot);
        let era = self.kube_ref().server.era;
        let mut sent = Sent { side: s, number, want, era, is_answered: true };
        if sent.want.may_be_repeated() && self.chance.ppm(self.duplicate_ppm()) {
            self.stats.duplicates += 1;
            let first = self.chance.percent(50);
            let copy = Sent { is_answered: !first, ..sent.clone() };
            sent.is_answered = first;
            let after = self.chance.log_between(MILLIS, 3 * SECONDS);
            self.kube_at(arrives + after, KubeEvent::Arrive(copy));
        }
        self.kube_at(arrives, KubeEvent::Arrive(sent));
    }

    /// A request arrives at the API server.
    pub fn on_request(&mut self, sent: Sent) {
        if self.now < self.depot.down_until || sent.era != self.kube_ref().server.era {
            return;
        }
        if self.now < self.depot.stalled_until {
            let at = self.depot.stalled_until + self.chance.below(5 * MILLIS);
            return self.kube_at(at, KubeEvent::Arrive(sent));
        }
        let (s, number, answers) = (sent.side, sent.number, sent.is_answered);
        let slot = self.side(s).slot;
        let got = if self.chance.ppm(self.throttle_ppm()) {
            self.stats.throttled += 1;
            let read = sent.want.is_read();
            if read { Got::Refused(refused()) } else { Got::Lost(unanswered()) }
        } else {
            self.serve(&sent)
        };
        note!(self, "the API server answers request {number} of side {s}: {}", brief_got(&got));
        if !answers {
            return;
        }
        if self.chance.ppm(self.lose_answer_ppm()) {
            return;
        }
        let mut at = self.now + self.latency() + self.slow_down(slot);
        let cut = self.slots[slot].down_cut_until;
        if self.now < cut {
            if self.chance.percent(50) {
                return;
            }
            at += cut - self.now;
        }
        let got = match got {
            Got::Object(Reply::Refused(error)) => Got::Refused(error),
            Got::Object(Reply::Lost(error)) => Got::Lost(error),
            other => other,
        };
        self.kube_at(at, KubeEvent::Got(s, number, got));
    }

    /// Carries out a request at the API server.
    pub fn serve(&mut self, sent: &Sent) -> Got {
        let now = self.now;
        match &sent.want {
            Want::Object(Io::Read, _) => Got::Object(self.kube_ref().server.read()),
            Want::Object(io, calls) => {
                let had_state = self.kube_ref().server.state().is_some();
                match self.kube_mut().server.write(io) {
                    Written::Refused(reply) => {
                        self.stats.kube_conflicts += u64::from(matches!(reply, Reply::Conflict));
                        Got::Object(reply)
                    }
                    Written::Accepted(version) => {
                        self.stats.kube_writes += 1;
                        self.judge_write(calls, &version, had_state);
                        self.object_changed(&version);
                        Got::Object(Reply::Object(Box::new(version.read.clone())))
                    }
                }
            }
            Want::Create { lease, ttl, renew_time } => {
                if !self.kube_mut().server.create_lease(now, *lease, *ttl, *renew_time) {
                    return Got::Conflict;
                }
                self.lease_changed(*lease);
                Got::Done
            }
            Want::Renew { lease, renew_time } => {
                if !self.kube_mut().server.renew(now, *lease, *renew_time) {
                    return Got::Missing;
                }
                self.lease_changed(*lease);
                Got::Done
            }
            Want::Delete { lease, version, expires } => {
                let Some(found) = self.kube_ref().server.leases.get(lease).copied() else {
                    return Got::Missing;
                };
                if version.as_ref().is_some_and(|it| *it != found.version.to_string()) {
                    return Got::Conflict;
                }
                if *expires {
                    self.check_expiry(*lease);
                }
                self.kube_mut().server.leases.remove(lease);
                self.lease_changed(*lease);
                Got::Done
            }
            Want::Exists(lease) => {
                let exists = self.kube_ref().server.leases.contains_key(lease);
                if exists { Got::Done } else { Got::Missing }
            }
        }
    }

    /// The answer to a request arrives, or its caller waits no longer.
    pub fn on_got(&mut self, s: SideId, number: u64, got: Got) {
        if !self.lives(s) || !self.side(s).open.contains_key(&number) {
            return;
        }
        let until = self.rests_until(s);
        if self.now < until {
            return self.kube_at(until, KubeEvent::Got(s, number, got));
        }
        let Some(purpose) = self.side(s).open.remove(&number) else { return };
        match purpose {
            Purpose::Replica => {
                let reply = match got {
                    Got::Object(reply) => reply,
                    Got::Refused(error) => Reply::Refused(error),
                    Got::Lost(error) => Reply::Lost(error),
                    Got::Missing => Reply::Missing,
                    Got::Conflict | Got::Done => Reply::Conflict,
                };
                self.side(s).replica.replied(reply);
                self.pump(s);
            }
            Purpose::Grant { flight, lease, ttl } => match got {
                Got::Done => {
                    let deadline = flight.deadline;
                    let request = Request::Grant { lease, ttl };
                    let ticket = self.ask_replica(s, request, Pending::Call { flight });
                    self.kube_at(deadline, KubeEvent::GiveUp(s, ticket));
                    self.pump(s);
                }
                Got::Conflict => self.call_answered(s, flight, Err(StoreError::LeaseExists)),
                Got::Refused(error) | Got::Lost(error) => self.call_answered(s, flight, Err(error)),
                Got::Missing | Got::Object(_) => self.call_answered(s, flight, Err(unanswered())),
            },
            Purpose::Renew { flight, lease } => {
                let model = self.kube_ref().sides[s].replica.model();
                let ttl = model.ttls().find(|(id, _)| *id == lease).map(|(_, ttl)| ttl);
                let (revision, cluster) = (model.revision(), model.cluster());
                let answer = |ttl| Ok(Response::Lease(LeaseAnswer { ttl, revision, cluster }));
                let result = match got {
                    Got::Done => answer(ttl.unwrap_or_default()),
                    Got::Missing => answer(Duration::ZERO),
                    Got::Refused(error) | Got::Lost(error) => Err(error),
                    Got::Conflict | Got::Object(_) => Err(unanswered()),
                };
                self.call_answered(s, flight, result);
            }
            Purpose::Expire { lease } => match got {
                Got::Done | Got::Missing => self.revoke_expired(s, lease),
                _ => self.end_next(s),
            },
            Purpose::Unseen { lease } => match got {
                Got::Missing => self.revoke_expired(s, lease),
                _ => self.end_next(s),
            },
            Purpose::Tidy => (),
        }
    }

    /// Revision that the replica of a process knows, in a cluster in the Kubernetes API.
    pub fn replica_revision(&self, p: ProcId) -> Option<i64> {
        let s = self.procs[p].side?;
        Some(self.kube_ref().sides[s].revision().0)
    }

    fn throttle_ppm(&self) -> u32 {
        let kube = self.scenario.kube.as_ref();
        kube.filter(|_| !self.healed).map_or(0, |kube| kube.throttle_ppm)
    }
}

fn brief(want: &Want) -> String {
    match want {
        Want::Object(Io::Read, _) => "GET".to_owned(),
        Want::Object(io, calls) => {
            let body = match io {
                Io::Create(body) | Io::Replace(body) => body,
                Io::Read => unreachable!("matched above"),
            };
            let calls: Vec<_> = calls.iter().map(|call| &call.request).collect();
            format!("PUT over {}: {calls:?}", body["metadata"]["resourceVersion"])
        }
        other => format!("{other:?}"),
    }
}

fn brief_got(got: &Got) -> String {
    match got {
        Got::Object(Reply::Object(read)) => match read.as_ref() {
            Ok(object) => format!("the object at version {}", object.version),
            Err(unreadable) => format!("an unreadable object: {unreadable}"),
        },
        other => format!("{other:?}"),
    }
}
