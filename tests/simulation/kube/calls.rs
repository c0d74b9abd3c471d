//! The calls of a process or a parent: what its side of the store does with them, and which events its watch delivers.

use std::{rc::Rc, time::Duration};

use bellwether::{
    engine::{BootTime, Call, LeaseId, Revision},
    k8s::store::pure::Ticket,
    store::{
        Effected, Get, StoreError,
        memory::WithPrevious,
        protocol::{self, Decoded, Request, Response},
    },
};
use jiff::Timestamp;

use super::{
    KubeBreak,
    side::{Pending, Purpose, SideId},
    wire::{KubeEvent, Want, unanswered},
};

use crate::{
    chance::{MILLIS, Time},
    host::ProcId,
    rules::Rule,
    wire::{Ask, From, InFlight, Item, raw_outcome},
    world::{Event, World, note},
};

impl World {
    /// Hands a request of an engine, a parent or the work to the replica of its process.
    pub fn ask_store(&mut self, flight: InFlight) {
        let s = match flight.from {
            From::Engine(p, _) | From::Work(p) => self.procs[p].side.expect("it has one"),
            From::Parent(slot, _) => self.parents_side(slot),
        };
        let request = match &flight.ask {
            Ask::Call(call) => {
                let mut request = protocol::transaction(&self.depot.keys, call);
                if let Some(broken) = self.broken {
                    broken.alter(&self.depot.keys, call, &mut request);
                }
                request
            }
            raw => Request::Txn(self.raw_txn(raw)),
        };
        let deadline = flight.deadline;
        let ticket = match request {
            Request::KeepAlive(lease) => {
                let renew_time = self.wall_ms(flight.slot);
                let purpose = Purpose::Renew { flight, lease };
                return self.send_api(s, Want::Renew { lease, renew_time }, purpose, deadline);
            }
            Request::Grant { lease, ttl } => {
                self.ask_replica(s, look(), Pending::Grant { flight, lease, ttl })
            }
            request => self.ask_replica(s, request, Pending::Call { flight }),
        };
        self.kube_at(deadline, KubeEvent::GiveUp(s, ticket));
        self.soon(KubeEvent::Pump(s));
    }

    /// Hands a call to the replica of a side.
    pub fn ask_replica(&mut self, s: SideId, request: Request, pending: Pending) -> Ticket {
        // Without a state, the revision is no number of the store's.
        let revision = self.depot.revision();
        let asked = (self.depot.replaced, Revision(if revision == 1 { 0 } else { revision }));
        self.side(s).ask(request, pending, asked)
    }

    pub fn on_give_up(&mut self, s: SideId, ticket: Ticket) {
        let Some(pending) = self.side(s).calls.remove(&ticket) else { return };
        self.side(s).replica.forget(ticket);
        match pending {
            Pending::Call { flight } | Pending::Grant { flight, .. } => self.give_up(flight),
            Pending::List { number, .. } => self.list_again(s, number),
            Pending::Open { number } => {
                let p = self.side(s).proc.expect("only processes watch");
                self.soon_open(p, number);
            }
            Pending::Expire { .. } => self.end_next(s),
        }
    }

    /// Sends what the replica wants to send, shows what it has learned, and answers its callers.
    pub fn pump(&mut self, s: SideId) {
        if !self.lives(s) || self.waits(s, KubeEvent::Pump) {
            return;
        }
        let slot = self.side(s).slot;
        let now = self.slots[slot].clock.at(self.now);
        let wall = Timestamp::from_millisecond(self.wall_ms(slot)).expect("a time");
        let side = self.side(s);
        let wakes = side.replica.advance(now);
        if let Some(io) = side.replica.next_io(wall) {
            let calls = side.writing();
            let deadline = self.now + self.limit(s);
            self.send_api(s, Want::Object(io, calls), Purpose::Replica, deadline);
        }
        let side = self.side(s);
        let learned = side.replica.learned();
        if side.learned.replace(learned) != Some(learned) {
            self.check_id(s);
            self.show_changes(s);
        }
        for (ticket, result) in self.side(s).replica.take_answers() {
            self.answered(s, ticket, result);
        }
        if let Some(at) = wakes.and_then(|at| self.slots[slot].clock.when(at)) {
            self.kube_at(at.max(self.now + MILLIS / 10), KubeEvent::Pump(s));
        }
    }

    /// The replica has answered a call.
    pub fn answered(&mut self, s: SideId, ticket: Ticket, result: Result<Response, StoreError>) {
        let called = self.side(s).known.remove(&ticket).expect("it was asked");
        let no_effect = match &result {
            Ok(Response::Txn(answer)) => !answer.succeeded,
            Ok(_) => false,
            Err(error) => error.effected() == Effected::No,
        };
        if called.took.get() == Some(self.depot.replaced) && no_effect {
            let what = format!("{:?} took effect, and is answered {result:?}", called.request);
            return self.violate(Rule::Store, what);
        }
        let read_at = match &result {
            Ok(Response::Txn(answer)) => Some(answer.revision),
            Ok(Response::Get(answer)) => Some(answer.revision),
            Ok(Response::Lease(_)) | Err(_) => None,
        };
        let (store, revision) = called.asked;
        if store == self.depot.replaced && read_at.is_some_and(|it| it < revision) {
            let what = format!("asked at {revision}, {:?} is answered {result:?}", called.request);
            return self.violate(Rule::Store, what);
        }
        let Some(pending) = self.side(s).calls.remove(&ticket) else { return };
        match pending {
            Pending::Call { flight } => self.call_answered(s, flight, result),
            Pending::Grant { flight, lease, ttl } => {
                self.grant_looked(s, flight, lease, ttl, result);
            }
            Pending::List { number, sent_at } => {
                let p = self.side(s).proc.expect("only processes list");
                let Ok(Response::Get(answer)) = result else { return self.list_again(s, number) };
                let changes = Decoded::of_list(&self.depot.keys, &answer.kvs).changes;
                let (revision, cluster) = (answer.revision.0, answer.cluster);
                let item = Item::Listed { number, sent_at, revision, cluster, changes };
                self.at(self.now, Event::Item(p, Box::new(item)));
            }
            Pending::Open { number } => {
                let p = self.side(s).proc.expect("only processes watch");
                if result.is_err() {
                    return self.soon_open(p, number);
                }
                self.watch_opens(p, number);
            }
            Pending::Expire { lease } => {
                if result.is_ok() {
                    self.stats.kube_expired += 1;
                    note!(self, "{lease} was not renewed, and is ended");
                }
                self.end_next(s);
            }
        }
    }

    pub fn call_answered(
        &mut self,
        s: SideId,
        flight: InFlight,
        result: Result<Response, StoreError>,
    ) {
        let no_effect = result.as_ref().is_err_and(|error| error.effected() == Effected::No);
        let done = result.is_ok();
        let outcome = match &flight.ask {
            Ask::Call(call) => {
                let reads = protocol::reads(&protocol::transaction(&self.depot.keys, call));
                protocol::outcome(&self.depot.keys, &reads, result)
            }
            _ => raw_outcome(result),
        };
        match &flight.ask {
            Ask::Call(Call::Grant { lease, .. }) if no_effect => {
                self.tidy(s, *lease);
            }
            Ask::Call(Call::Revoke { lease }) if done => self.tidy(s, *lease),
            _ => (),
        }
        note!(self, "the replica of side {s} answers {:?}: {outcome:?}", flight.ask);
        self.answer_in(flight, outcome, self.now);
    }

    /// Deletes the Lease of an incarnation that is over; no caller waits for the answer.
    pub fn tidy(&mut self, s: SideId, lease: LeaseId) {
        let want = Want::Delete { lease, version: None, expires: false };
        let deadline = self.now + self.limit(s);
        self.send_api(s, want, Purpose::Tidy, deadline);
    }

    pub fn grant_looked(
        &mut self,
        s: SideId,
        flight: InFlight,
        lease: LeaseId,
        ttl: Duration,
        result: Result<Response, StoreError>,
    ) {
        let side = &self.kube_ref().sides[s];
        let mut model = side.replica.model().clone();
        let granted = model.grant(BootTime::default(), lease, ttl);
        let exists = side.replica.uid().is_some();
        let error = match (result, granted) {
            (Err(error), _) | (Ok(_), Err(error)) => Some(error),
            (Ok(_), Ok(_)) if !exists => Some(unanswered()),
            (Ok(_), Ok(_)) => None,
        };
        if let Some(error) = error {
            return self.call_answered(s, flight, Err(error));
        }
        let renew_time = self.wall_ms(flight.slot);
        let deadline = flight.deadline;
        let purpose = Purpose::Grant { flight, lease, ttl };
        let want = Want::Create { lease, ttl: ttl.as_secs(), renew_time };
        self.send_api(s, want, purpose, deadline);
    }

    /// Sends the list of a process to its replica.
    pub fn list_by_replica(&mut self, p: ProcId, number: u64) {
        let s = self.procs[p].side.expect("it has one");
        let sent_at = self.local(p);
        let request = Request::Get(Get::range(self.depot.keys.watched()));
        let ticket = self.ask_replica(s, request, Pending::List { number, sent_at });
        let deadline = self.now + self.scenario.call_timeout.as_nanos() as Time;
        self.kube_at(deadline, KubeEvent::GiveUp(s, ticket));
        self.soon(KubeEvent::Pump(s));
    }

    pub fn list_again(&mut self, s: SideId, number: u64) {
        let p = self.side(s).proc.expect("only processes list");
        self.at(self.now + 100 * MILLIS, Event::SendList(p, number));
    }

    pub fn soon_open(&mut self, p: ProcId, number: u64) {
        self.at(self.now + 100 * MILLIS, Event::WatchOpen(p, number));
    }

    /// Opens the watch of a process on its replica, which is looked at first.
    pub fn open_on_replica(&mut self, p: ProcId, number: u64) {
        let s = self.procs[p].side.expect("it has one");
        let ticket = self.ask_replica(s, look(), Pending::Open { number });
        let deadline = self.now + self.scenario.call_timeout.as_nanos() as Time;
        self.kube_at(deadline, KubeEvent::GiveUp(s, ticket));
        self.soon(KubeEvent::Pump(s));
    }

    pub fn watch_opens(&mut self, p: ProcId, number: u64) {
        let s = self.procs[p].side.expect("it has one");
        let replacements = self.side(s).replica.model().replacements();
        let watch = &mut self.procs[p].watch;
        if watch.number != number || watch.open {
            return;
        }
        watch.open = true;
        watch.told = watch.from;
        watch.replacements = replacements;
        self.show_changes(s);
    }

    /// Shows what the replica has learned to the watch of its process, as the store's watch does.
    pub fn show_changes(&mut self, s: SideId) {
        let Some(p) = self.side(s).proc.filter(|p| self.procs[*p].watch.open) else { return };
        let model = self.kube_ref().sides[s].replica.model();
        let watch = &self.procs[p].watch;
        if model.replacements() != watch.replacements {
            return self.break_watch(p);
        }
        let (number, from) = (watch.number, Revision(watch.told));
        let range = self.depot.keys.watched();
        match model.events(&range, from, WithPrevious::No) {
            Ok(revisions) => {
                let newest = model.revision().0;
                for (revision, events) in revisions {
                    let changes = Rc::new(Decoded::of_events(&self.depot.keys, &events).changes);
                    let item = Item::Changed { number, revision: revision.0, changes };
                    self.push_at_once(p, item);
                }
                let watch = &mut self.procs[p].watch;
                watch.told = watch.told.max(newest + 1);
            }
            Err(_) if self.kube_breaks(KubeBreak::GapNotTold) => {
                let next = model.revision().0 + 1;
                self.procs[p].watch.told = next;
            }
            Err(_) => {
                self.stats.compacted_watches += 1;
                self.break_watch(p);
            }
        }
    }

    pub fn push_at_once(&mut self, p: ProcId, item: Item) {
        self.procs[p].watch.under_way.push_back((self.now, item));
        self.at(self.now, Event::WatchArrive(p));
    }

    /// Sends a progress notice to a watch that has delivered all events.
    pub fn progress_of_replica(&mut self, p: ProcId) {
        let s = self.procs[p].side.expect("it has one");
        let revision = self.side(s).revision().0;
        let watch = &self.procs[p].watch;
        if self.rests_until(s) <= self.now && watch.told == revision + 1 {
            let number = watch.number;
            self.push_at_once(p, Item::Progress { number, revision });
        }
    }
}

/// A read of a key that no cluster has.
fn look() -> Request {
    Request::Get(Get::key("look"))
}
