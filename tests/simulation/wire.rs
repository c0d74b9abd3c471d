//! The network of a run: requests and answers, lists and watches, and the faults of each.

use std::{collections::VecDeque, rc::Rc, time::Duration};

use bellwether::{
    engine::{
        BootTime, Call, CallId, Change, Input, LeaseId, Office, Outcome, Revision, ShardEpoch, Term,
    },
    store::{
        Op, StoreError, Txn,
        protocol::{self, Request, Response},
        values,
    },
};

use crate::{
    breaks::Broken,
    chance::{MICROS, MILLIS, SECONDS, Time},
    host::{ProcId, Shard},
    own::OwnAsk,
    world::{Event, World, note},
};

/// A watch that is opened later than this after its list was sent may read another store (A3, restored store).
const LIST_COUNTS_FOR: Duration = Duration::from_millis(2_900);

/// An item that arrives at a process.
#[derive(Debug)]
pub enum Item {
    /// The outcome of a call.
    Answer { id: CallId, sent_at: BootTime, outcome: Outcome },
    /// The answer of a list.
    Listed { number: u64, sent_at: BootTime, revision: i64, cluster: u64, changes: Vec<Change> },
    /// The events of a revision.
    Changed { number: u64, revision: i64, changes: Rc<Vec<Change>> },
    /// A progress notice of the watch.
    Progress { number: u64, revision: i64 },
    /// The stream of the watch broke.
    WatchBroke { number: u64 },
}

/// The single watch of a process, from the side of the store and the network.
#[derive(Debug, Default)]
pub struct Watch {
    /// Number of the current list or watch; answers to earlier ones are dropped.
    pub number: u64,
    /// The next revision that the watch delivers.
    pub from: i64,
    /// Time at which the list that the watch continues was sent.
    pub listed_at: BootTime,
    /// Whether the store has opened the watch.
    pub open: bool,
    /// Until when the watch delivers nothing.
    pub stalled_until: Time,
    /// Number of times that the replica's store was replaced when the watch was opened.
    pub replacements: u64,
    /// The next revision that the replica shows to the watch.
    pub told: i64,
    /// Items on their way, in order, with the time of arrival.
    pub under_way: VecDeque<(Time, Item)>,
}

impl Watch {
    pub fn close(&mut self) {
        self.number += 1;
        self.open = false;
        self.under_way.clear();
    }
}

/// Sender of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The engine of a process.
    Engine(ProcId, CallId),
    /// The parent of a node's processes: its slot, and the number of the request.
    Parent(usize, u64),
    /// The work or the user of a process.
    Work(ProcId),
}

/// Content of a request.
#[derive(Clone, Debug)]
pub enum Ask {
    /// A transaction of the protocol.
    Call(Call),
    /// T7 (FENCED): a write by virtue of an office.
    Fenced(Office),
    /// T16 (SHARD WRITE): a write to a shard that compares the revision h of the held key.
    ShardWrite(LeaseId, Revision, Shard, ShardEpoch),
    /// T17 (OWN KEYS): a write of own state.
    Own(OwnAsk),
}

/// A request on its way.
#[derive(Clone, Debug)]
pub struct InFlight {
    pub from: From,
    pub ask: Ask,
    pub sent_at: BootTime,
    /// Time at which the caller gives the request up.
    pub deadline: Time,
    /// Slot whose links the request uses.
    pub slot: usize,
    /// Whether the caller has given up with an unknown outcome and ignores a later answer.
    pub given_up: bool,
}

/// The outcome of a request, on its way back.
#[derive(Debug)]
pub struct Answered {
    pub flight: InFlight,
    pub outcome: Outcome,
}

impl World {
    pub fn send(&mut self, p: ProcId, id: CallId, call: Call, sent_at: BootTime) {
        if let Call::Grant { lease, .. } = &call {
            self.procs[p].leases.push(*lease);
            self.owners.insert(*lease, p);
        }
        note!(self, "node {} sends {}: {call:?}", self.procs[p].id, id.0);
        self.mark(id.0, protocol::name(&call).len() as u64);
        let slot = self.procs[p].slot;
        let deadline = self.slots[slot]
            .clock
            .when(sent_at + self.scenario.call_timeout)
            .unwrap_or(Time::MAX)
            .max(self.now);
        let from = From::Engine(p, id);
        self.post(InFlight {
            from,
            ask: Ask::Call(call),
            sent_at,
            deadline,
            slot,
            given_up: false,
        });
    }

    /// Sends a request of the work; the engine never sees whether its answer was lost.
    pub fn send_raw(&mut self, p: ProcId, ask: Ask) {
        let sent_at = self.local(p);
        let deadline = self.now + self.scenario.call_timeout.as_nanos() as u64;
        let slot = self.procs[p].slot;
        self.post(InFlight { from: From::Work(p), ask, sent_at, deadline, slot, given_up: false });
    }

    /// Hands a request to the network.
    pub fn post(&mut self, mut flight: InFlight) {
        if self.hold.is_some_and(|hold| hold(self, &flight)) {
            self.give_up(flight.clone());
            flight.given_up = true;
            self.held.push(flight);
            return;
        }
        if self.kube.is_some() {
            return self.ask_store(flight);
        }
        let slot = &self.slots[flight.slot];
        let mut arrives = self.now;
        let cut = slot.up_cut_until;
        if self.now < cut {
            self.stats.cut_requests += 1;
            match self.chance.below(3) {
                0 => return self.give_up(flight),
                1 => return self.answer_in(flight, Outcome::Failed, self.now + MILLIS),
                // The transport sends the request again once the link is back.
                _ => arrives = cut,
            }
        }
        if self.chance.ppm(self.lose_request_ppm()) {
            self.stats.lost_requests += 1;
            return self.give_up(flight);
        }
        if self.chance.ppm(self.late_ppm()) {
            self.stats.late_requests += 1;
            arrives += self.chance.log_between(50 * MILLIS, 12 * SECONDS);
        }
        arrives += self.latency() + self.slow_up(flight.slot);
        // R12 (one GRANT per lease id): a GRANT is never sent twice.
        let once = matches!(flight.ask, Ask::Call(Call::Grant { .. }));
        if !once && self.chance.ppm(self.duplicate_ppm()) {
            self.stats.duplicates += 1;
            let copy = InFlight { given_up: true, ..flight.clone() };
            let after = self.chance.log_between(MILLIS, 3 * SECONDS);
            self.at(arrives + after - MILLIS, Event::Arrive(Box::new(copy)));
            // The caller ignores the answer to the copy, and the copy may arrive first.
            if self.chance.percent(50) {
                arrives += after;
            }
        }
        self.wait_no_longer(&mut flight, arrives);
        self.at(arrives, Event::Arrive(Box::new(flight)));
    }

    /// If a request arrives only after its caller's deadline, the caller gets no answer, and the request may
    /// still take effect later.
    fn wait_no_longer(&mut self, flight: &mut InFlight, arrives: Time) {
        if !flight.given_up && flight.deadline < arrives {
            self.give_up(flight.clone());
            flight.given_up = true;
        }
    }

    /// Without an answer, the caller gives up at its deadline.
    pub fn give_up(&mut self, flight: InFlight) {
        let at = flight.deadline.max(self.now);
        self.answer_in(flight, Outcome::Unknown, at);
    }

    pub fn answer_in(&mut self, flight: InFlight, outcome: Outcome, at: Time) {
        if flight.given_up {
            return;
        }
        // The caller waits no longer than its deadline.
        let (at, outcome) = if flight.deadline < at {
            (flight.deadline.max(self.now), Outcome::Unknown)
        } else {
            (at, outcome)
        };
        if self.chance.ppm(self.duplicate_ppm()) {
            self.stats.duplicates += 1;
            let again = Answered { flight: flight.clone(), outcome: outcome.clone() };
            let after = self.chance.log_between(MILLIS, SECONDS);
            self.at(at + after, Event::Answer(Box::new(again)));
        }
        self.at(at, Event::Answer(Box::new(Answered { flight, outcome })));
    }

    pub fn latency(&mut self) -> Time {
        let ordinary = 100 * MICROS + self.chance.below(self.scenario.latency);
        if self.chance.ppm(self.slow_ppm()) {
            self.stats.slow_messages += 1;
            return ordinary + self.chance.log_between(20 * MILLIS, 3 * SECONDS);
        }
        ordinary
    }

    pub fn slow_up(&self, slot: usize) -> Time {
        let links = &self.slots[slot];
        if self.now < links.slow_until { links.slow_up } else { 0 }
    }

    pub fn slow_down(&self, slot: usize) -> Time {
        let links = &self.slots[slot];
        if self.now < links.slow_until { links.slow_down } else { 0 }
    }

    /// A request arrives at the store.
    pub fn on_arrive(&mut self, mut flight: Box<InFlight>) {
        if self.now < self.depot.down_until {
            return self.give_up(*flight);
        }
        if self.now < self.depot.stalled_until {
            let at = self.depot.stalled_until + self.chance.below(5 * MILLIS);
            self.wait_no_longer(&mut flight, at);
            return self.at(at, Event::Arrive(flight));
        }
        let by_keepalive = self.broken == Some(Broken::ShardAuthorityFromKeepalive);
        let renewal = match flight.ask {
            Ask::Call(Call::Renew { .. }) => true,
            Ask::Call(Call::Check { .. }) => by_keepalive,
            _ => false,
        };
        if self.now < self.slots[flight.slot].minority_until && !renewal {
            return self.give_up(*flight);
        }
        let outcome = match (flight.from, &flight.ask) {
            (From::Engine(p, _), Ask::Call(Call::Check { lease })) if by_keepalive => {
                let renewal = Ask::Call(Call::Renew { lease: *lease });
                let renewed = self.carry_out_at_store(&InFlight { ask: renewal, ..*flight });
                self.checked_by_keepalive(p, *lease, &renewed)
            }
            _ => self.carry_out_at_store(&flight),
        };
        let kind = match &flight.ask {
            Ask::Call(call) => protocol::name(call),
            Ask::Fenced(_) => "fenced",
            Ask::ShardWrite(..) => "shard_write",
            Ask::Own(ask) => ask.name(),
        };
        if flight.deadline < self.now && matches!(outcome, Outcome::Done(_)) {
            self.stats.late_commits.count(kind);
        }
        if self.chance.ppm(self.lose_answer_ppm()) {
            self.stats.lost_answers.count(kind);
            return self.give_up(*flight);
        }
        let mut at = self.now + self.latency() + self.slow_down(flight.slot);
        let cut = self.slots[flight.slot].down_cut_until;
        if self.now < cut {
            self.stats.lost_answers.count(kind);
            if self.chance.percent(50) {
                return self.give_up(*flight);
            }
            at += cut - self.now;
        }
        self.answer_in(*flight, outcome, at);
    }

    fn carry_out_at_store(&mut self, flight: &InFlight) -> Outcome {
        let outcome = match &flight.ask {
            Ask::Call(Call::Renew { lease }) if self.now < self.slots[flight.slot].stale_until => {
                // A deposed leader of the store answers from memory, without a quorum.
                note!(self, "the deposed leader of the store renews {lease}");
                self.stats.stale_renewals += 1;
                Outcome::Done(bellwether::engine::Answer {
                    cluster: self.depot.cluster(),
                    ttl: Duration::from_secs(self.scenario.ttl),
                    ..Default::default()
                })
            }
            Ask::Call(call) => self.execute(call),
            raw => self.execute_raw(raw),
        };
        self.mark(self.depot.revision() as u64, 77);
        self.publish();
        outcome
    }

    /// Carries out a call of the protocol, and checks the rules at its commit.
    fn execute(&mut self, call: &Call) -> Outcome {
        let before = self.before_commit(call);
        let mut request = protocol::transaction(&self.depot.keys, call);
        if let Some(broken) = self.broken {
            broken.alter(&self.depot.keys, call, &mut request);
        }
        let result = self.depot.serve(self.now, &request);
        self.mark_request(&request);
        let reads = protocol::reads(&request);
        let outcome = protocol::outcome(&self.depot.keys, &reads, result);
        note!(self, "the store at {} carries out {call:?}: {outcome:?}", self.depot.revision());
        if let Outcome::Done(answer) = &outcome {
            let revision = answer.revision;
            self.stats.committed.count(protocol::name(call));
            self.on_commit(call, revision, before);
        } else {
            self.stats.refused.count(protocol::name(call));
        }
        outcome
    }

    /// Transaction of a request of the work.
    pub fn raw_txn(&self, ask: &Ask) -> Txn {
        let keys = &self.depot.keys;
        let mut txn = match ask {
            Ask::Fenced(office) => Txn {
                compares: vec![protocol::in_office(keys, (office.lease, office.revision))],
                then: vec![Op::Put {
                    key: keys.leader_data("sim").expect("a valid key"),
                    value: values::encode_term(office.term),
                    lease: None,
                }],
                otherwise: vec![],
            },
            Ask::ShardWrite(lease, held, (work, shard), epoch) => Txn {
                compares: vec![protocol::holds(keys, *lease, *held)],
                then: vec![Op::Put {
                    key: keys.shard_data(work, *shard, "sim").expect("a valid key"),
                    value: values::encode_term(Term(epoch.0)),
                    lease: None,
                }],
                otherwise: vec![],
            },
            Ask::Own(ask) => ask.txn(keys),
            Ask::Call(_) => unreachable!("carried out elsewhere"),
        };
        if let Some(broken) = self.broken {
            broken.alter_raw(&self.depot.keys, ask, &mut txn);
        }
        txn
    }

    fn execute_raw(&mut self, ask: &Ask) -> Outcome {
        let txn = self.raw_txn(ask);
        let existed = match ask {
            Ask::Own(ask) => self.depot.get(&ask.key(&self.depot.keys)).is_some(),
            _ => false,
        };
        let request = Request::Txn(txn);
        let result = self.depot.serve(self.now, &request);
        self.mark_request(&request);
        let outcome = raw_outcome(result);
        note!(self, "the store at {} carries out {ask:?}: {outcome:?}", self.depot.revision());
        match &outcome {
            Outcome::Done(answer) => {
                let revision = answer.revision;
                self.on_raw_commit(ask, revision, existed);
            }
            _ => self.stats.refused_raw += 1,
        }
        outcome
    }

    /// An answer arrives at its caller.
    pub fn on_answer(&mut self, answered: Answered) {
        let Answered { flight, mut outcome } = answered;
        match flight.from {
            From::Engine(p, id) => {
                if self.procs[p].alive {
                    let mut sent_at = flight.sent_at;
                    if let Ask::Call(call) = &flight.ask {
                        self.break_answer(p, call, &mut sent_at, &mut outcome);
                    }
                    self.deliver(p, Item::Answer { id, sent_at, outcome });
                }
            }
            From::Parent(slot, number) => self.on_parent_answer(slot, number, outcome),
            From::Work(p) => match flight.ask {
                Ask::Fenced(office)
                    if self.procs[p].alive && matches!(outcome, Outcome::Refused(_)) =>
                {
                    self.ask(p, Input::OfficeOver { term: office.term });
                }
                Ask::Own(ask) => self.on_own(p, &ask, &outcome),
                _ => (),
            },
        }
    }

    /// Sends all new commits to all watches.
    pub fn publish(&mut self) {
        while let Some((revision, changes)) = self.depot.next_batch() {
            self.note_gone(&changes);
            if self.kube.is_some() {
                continue;
            }
            for p in 0..self.procs.len() {
                if self.procs[p].alive && self.procs[p].watch.open {
                    let number = self.procs[p].watch.number;
                    if revision < self.procs[p].watch.from {
                        continue;
                    }
                    let changes = Rc::clone(&changes);
                    self.push_watch(p, Item::Changed { number, revision, changes });
                }
            }
        }
    }

    fn push_watch(&mut self, p: ProcId, item: Item) {
        let lag = self.latency() + self.chance.below(self.scenario.lag + 1);
        let lag = lag + self.slow_down(self.procs[p].slot);
        let slot = &self.slots[self.procs[p].slot];
        let watch = &mut self.procs[p].watch;
        let last = watch.under_way.back().map_or(0, |(at, _)| *at);
        let at = (self.now + lag).max(last).max(watch.stalled_until).max(slot.down_cut_until);
        watch.under_way.push_back((at, item));
        self.at(at, Event::WatchArrive(p));
    }

    /// The next item of a watch arrives.
    pub fn on_watch_arrive(&mut self, p: ProcId) {
        let until = self.slots[self.procs[p].slot].down_cut_until;
        let watch = &mut self.procs[p].watch;
        let until = until.max(watch.stalled_until);
        match watch.under_way.front() {
            Some((at, _)) if *at <= self.now => {
                if self.now < until {
                    // The link was cut meanwhile: all items arrive later, still in order.
                    return self.at(until, Event::WatchArrive(p));
                }
                let (_, item) = watch.under_way.pop_front().expect("it has a front");
                self.deliver(p, item);
            }
            _ => (),
        }
    }

    /// Closes the watch and lists again.
    pub fn list(&mut self, p: ProcId) {
        self.procs[p].watch.close();
        let number = self.procs[p].watch.number;
        self.send_list(p, number);
    }

    pub fn send_list(&mut self, p: ProcId, number: u64) {
        let proc = &self.procs[p];
        if !proc.alive || proc.watch.number != number {
            return;
        }
        let until = proc.frozen_until.max(proc.starved_until);
        if self.now < until {
            return self.at(until, Event::SendList(p, number));
        }
        self.stats.lists += 1;
        if self.kube.is_some() {
            return self.list_by_replica(p, number);
        }
        let sent_at = self.local(p);
        let cut = self.now < self.slots[proc.slot].up_cut_until;
        if cut || self.chance.ppm(self.lose_request_ppm()) {
            let again = self.now + self.scenario.call_timeout.as_nanos() as u64;
            return self.at(again, Event::SendList(p, number));
        }
        let slow = self.slow_up(self.procs[p].slot);
        let at = self.now + self.latency() + slow;
        self.at(at, Event::ListArrive(p, number, sent_at));
    }

    pub fn on_list_arrive(&mut self, p: ProcId, number: u64, sent_at: BootTime) {
        let again = self.now + self.scenario.call_timeout.as_nanos() as u64;
        if self.now < self.depot.down_until {
            return self.at(again, Event::SendList(p, number));
        }
        if self.now < self.depot.stalled_until {
            let at = self.depot.stalled_until;
            return self.at(at, Event::ListArrive(p, number, sent_at));
        }
        let links = &self.slots[self.procs[p].slot];
        let cut = self.now < links.down_cut_until.max(links.minority_until);
        if cut || self.chance.ppm(self.lose_answer_ppm()) {
            return self.at(again, Event::SendList(p, number));
        }
        let (revision, changes) = self.depot.list(self.now);
        let cluster = self.depot.cluster();
        let slow = self.slow_down(self.procs[p].slot);
        let at = self.now + self.latency() + slow;
        let item = Item::Listed { number, sent_at, revision, cluster, changes };
        self.at(at, Event::Item(p, Box::new(item)));
    }

    /// Opens the watch from its next revision.
    pub fn open_watch(&mut self, p: ProcId) {
        let number = self.procs[p].watch.number;
        let at = self.now + self.latency();
        self.at(at, Event::WatchOpen(p, number));
    }

    pub fn on_watch_open(&mut self, p: ProcId, number: u64) {
        let proc = &self.procs[p];
        if !proc.alive || proc.watch.number != number || proc.watch.open {
            return;
        }
        if self.kube.is_some() {
            if LIST_COUNTS_FOR < self.local(p).since(proc.watch.listed_at) {
                self.stats.late_watches += 1;
                return self.list(p);
            }
            return self.open_on_replica(p, number);
        }
        let links = &self.slots[proc.slot];
        let until = links.up_cut_until.max(links.down_cut_until).max(links.minority_until);
        let until = until.max(self.depot.down_until).max(self.depot.stalled_until);
        if self.now < until {
            let at = until + self.chance.below(200 * MILLIS);
            return self.at(at, Event::WatchOpen(p, number));
        }
        let from = proc.watch.from;
        if from <= self.depot.compacted() {
            self.stats.compacted_watches += 1;
            note!(self, "the watch of node {} is compacted: it lists again", proc.id);
            return self.list(p);
        }
        if LIST_COUNTS_FOR < self.local(p).since(proc.watch.listed_at) {
            // A3 (restored store): the watch may read another store by now.
            self.stats.late_watches += 1;
            note!(self, "the watch of node {} comes long after its list: it lists again", proc.id);
            return self.list(p);
        }
        self.procs[p].watch.open = true;
        note!(self, "node {} watches from {from}", self.procs[p].id);
        for (revision, changes) in self.depot.batches_from(from) {
            self.push_watch(p, Item::Changed { number, revision, changes });
        }
    }

    /// The stream of a watch breaks: items under way are lost, and the process lists again.
    pub fn break_watch(&mut self, p: ProcId) {
        let watch = &mut self.procs[p].watch;
        if watch.open {
            watch.open = false;
            watch.under_way.clear();
            let number = watch.number;
            let at = self.now + self.latency();
            self.at(at, Event::Item(p, Box::new(Item::WatchBroke { number })));
        }
    }

    /// Sends a progress notice to all watches.
    pub fn send_progress(&mut self) {
        // Events are published first, so that a notice never overtakes them.
        self.publish();
        let revision = self.depot.revision();
        for p in 0..self.procs.len() {
            if self.procs[p].alive && self.procs[p].watch.open {
                if self.kube.is_some() {
                    self.progress_of_replica(p);
                    continue;
                }
                let number = self.procs[p].watch.number;
                self.push_watch(p, Item::Progress { number, revision });
            }
        }
        let after = self.chance.between(200, 400) * MILLIS;
        self.at(self.now + after, Event::Progress);
    }
}

pub fn raw_outcome(result: Result<Response, StoreError>) -> Outcome {
    match result {
        Ok(Response::Txn(answer)) => {
            // The first read is the key, and the next one is the marker.
            let found = answer.reads.first().and_then(|read| read.first());
            let revision = if answer.succeeded {
                answer.revision
            } else {
                found.map_or(Revision(0), |kv| kv.modified)
            };
            let succeeded = answer.succeeded;
            let answer = bellwether::engine::Answer { revision, ..Default::default() };
            if succeeded { Outcome::Done(answer) } else { Outcome::Refused(answer) }
        }
        Err(StoreError::LeaseNotFound) => Outcome::LeaseNotFound,
        _ => Outcome::Unknown,
    }
}
