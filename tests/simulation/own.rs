//! Own state (T17, own keys): the real [`OwnCalls`], the user who makes the calls, and the commits of the store
//! (I5).
//!
//! There are two kinds of users. The sequential user puts a newer value when the last call has ended, and gives
//! a call up when the session ends. The patient user
//! ([`Scenario::own_calls`](crate::scenario::Scenario::own_calls)) puts and deletes at any time, also during
//! other calls, waits for every answer however late it comes, and restarts a process that has left with all of
//! its own state in memory.

use std::collections::BTreeMap;

use bellwether::{
    engine::{
        LeaseId, Next, NodeId, Outcome, OwnCall, OwnCalls, OwnEffect, OwnWrite, Revision, Turn,
    },
    store::{
        Op, Txn,
        keys::Keys,
        protocol::{self, own_key},
    },
};

use crate::{
    chance::MILLIS,
    host::ProcId,
    rules::Rule,
    wire::Ask,
    world::{Event, World, note},
};

/// Name of the key, as the user passes it.
const KEY: &str = "sim";

/// The own state of a process.
#[derive(Debug, Default)]
pub struct Own {
    pub calls: OwnCalls,
    /// Lease of the session, while there is one.
    pub lease: Option<LeaseId>,
    /// Number of the store, counted by replacements, that the session is in.
    store: u32,
    /// m(marker) as last known in this session.
    marker: Revision,
    /// First puts of this session without a known outcome: m(marker) as each put compares it.
    open: BTreeMap<u64, Revision>,
    /// Calls that have not ended, by their numbers.
    pending: BTreeMap<u64, Pending>,
    /// Number of the writes that were sent.
    attempts: u64,
    /// Last change that the sequential user wants, and the last that was acknowledged to it.
    pub wanted: u64,
    pub done: u64,
    /// m(key) as a refused write of that session has read it.
    found: Option<(LeaseId, Revision)>,
    /// Calls since the process began or left, in order.
    log: Vec<Called>,
}

#[derive(Debug)]
struct Pending {
    call: OwnCall,
    /// Number of the user's change, which is also the value that it writes.
    change: u64,
    /// Number and session of the write that is under way.
    attempt: Option<(u64, LeaseId)>,
    known: Option<Revision>,
    /// Whether the write has taken effect, in an earlier session.
    took: bool,
}

#[derive(Debug)]
struct Called {
    change: u64,
    delete: bool,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Acknowledged,
    Unknown,
    Nothing,
}

/// A write of own state on its way.
#[derive(Clone, Debug)]
pub struct OwnAsk {
    pub lease: LeaseId,
    id: NodeId,
    pub change: u64,
    delete: bool,
    seen: Revision,
    /// The marker that a first put compares.
    marker: Option<Revision>,
    /// Whether this delete also writes the marker.
    settles: bool,
    attempt: u64,
}

impl OwnAsk {
    pub const fn name(&self) -> &'static str {
        if self.delete { "delete" } else { "put" }
    }

    pub fn key(&self, keys: &Keys) -> Vec<u8> {
        keys.state(KEY, self.id).expect("a valid key")
    }

    pub fn txn(&self, keys: &Keys) -> Txn {
        let (key, settled) = (self.key(keys), keys.settled(self.lease));
        let mut txn = if self.delete {
            protocol::delete_own_key(key, self.seen)
        } else {
            own_key(key, self.seen, self.change.to_string().into_bytes(), self.lease)
        };
        if let Some(marker) = self.marker {
            txn.compares.extend(own_key(settled, marker, Vec::new(), self.lease).compares);
        } else if self.settles {
            txn.then.push(Op::Put { key: settled, value: Vec::new(), lease: Some(self.lease) });
        }
        txn
    }
}

impl Own {
    pub fn new(calls: OwnCalls) -> Self {
        Self { calls, ..Self::default() }
    }

    /// Own state of a process that starts again after it has left.
    pub fn of_former(former: &mut Self) -> Self {
        let own = std::mem::take(former);
        Self { wanted: 0, done: 0, ..own }
    }

    fn fate(&mut self, change: u64, fate: Fate) {
        if let Some(called) = self.log.iter_mut().find(|called| called.change == change) {
            called.fate = fate;
        }
    }

    /// Whether a write of this session is under way.
    fn is_busy(&self) -> bool {
        self.pending.values().any(|it| it.attempt.is_some_and(|(_, of)| Some(of) == self.lease))
    }

    /// All values that the key may hold now.
    fn allowed(&self) -> Vec<Option<u64>> {
        let mut allowed = vec![None];
        for called in &self.log {
            let value = (!called.delete).then_some(called.change);
            match called.fate {
                Fate::Acknowledged => allowed = vec![value],
                Fate::Open | Fate::Unknown => allowed.push(value),
                Fate::Nothing => (),
            }
        }
        allowed
    }
}

impl World {
    /// The process that now holds the own state of `p`.
    fn heir(&self, mut p: ProcId) -> ProcId {
        while let Some(heir) = self.procs[p].heir {
            p = heir;
        }
        p
    }

    pub fn own_joined(&mut self, p: ProcId, lease: LeaseId) {
        let patient = self.scenario.own_calls;
        let own = &mut self.procs[p].own;
        own.calls.joined(lease);
        own.lease = Some(lease);
        own.store = self.depot.replaced;
        own.marker = Revision(0);
        own.open.clear();
        if patient {
            self.own_goes_on(p);
            return self.own_puts_back(p);
        }
        // The sequential user does not wait for answers of an earlier session.
        for number in own.pending.keys().copied().collect::<Vec<_>>() {
            let lost = self.procs[p].own.pending[&number].attempt;
            if let Some((_, lease)) = lost {
                self.own_note(p, number, OwnEffect::Unknown { lease });
            }
            self.own_ended(p, number, Fate::Unknown);
        }
        self.put_state(p);
    }

    pub fn own_left(&mut self, p: ProcId) {
        let own = &mut self.procs[p].own;
        own.calls.left();
        own.lease = None;
        own.log.clear();
    }

    /// The user makes a new change.
    pub fn new_state(&mut self, slot: usize) {
        self.slots[slot].state += 1;
        let change = self.slots[slot].state;
        if let Some(p) = self.slots[slot].proc
            && self.procs[p].alive
        {
            if self.scenario.own_calls {
                self.check_own_of(p);
                self.own_call(p, change);
            } else {
                self.procs[p].own.wanted = change;
                self.put_state(p);
            }
        }
        if !self.healed {
            let most = if self.scenario.own_calls { 400 } else { 2_000 };
            let after = self.chance.between(50, most) * MILLIS;
            self.at(self.now + after, Event::NewState(slot));
        }
    }

    /// The patient user puts or deletes, also during other calls.
    fn own_call(&mut self, p: ProcId, change: u64) {
        if self.procs[p].own.lease.is_none() {
            return;
        }
        let delete = self.chance.percent(30);
        self.own_begin(p, change, delete);
        self.own_goes_on(p);
    }

    fn own_begin(&mut self, p: ProcId, change: u64, delete: bool) -> u64 {
        let own = &mut self.procs[p].own;
        let write =
            if delete { OwnWrite::Delete } else { OwnWrite::Put(change.to_string().into_bytes()) };
        let call = own.calls.call(KEY, write);
        let number = call.number;
        own.log.retain(|called| called.change != change);
        own.log.push(Called { change, delete, fate: Fate::Open });
        let it = Pending { call, change, attempt: None, known: None, took: false };
        own.pending.insert(number, it);
        self.stats.own_calls += 1;
        note!(self, "node {} is asked for change {change}, delete: {delete}", self.procs[p].id);
        number
    }

    /// The sequential user puts its newest value, or its last value is put back in a new session.
    pub fn put_state(&mut self, p: ProcId) {
        if self.scenario.own_calls {
            self.own_goes_on(p);
            return self.own_puts_back(p);
        }
        let proc = &mut self.procs[p];
        if !proc.alive || proc.own.lease.is_none() || proc.own.is_busy() {
            return;
        }
        let (wanted, done) = (proc.own.wanted, proc.own.done);
        if wanted == done {
            return self.own_puts_back(p);
        }
        let number = self.own_begin(p, wanted, false);
        self.own_send(p, number);
    }

    /// Sends every call whose turn has come.
    fn own_goes_on(&mut self, p: ProcId) {
        let own = &self.procs[p].own;
        let waiting = own.pending.iter().filter(|(_, it)| it.attempt.is_none());
        for number in waiting.map(|(number, _)| *number).collect::<Vec<_>>() {
            let own = &self.procs[p].own;
            let Some(it) = own.pending.get(&number) else { continue };
            match (own.calls.turn(&it.call), own.lease) {
                (Turn::Waits, _) => (),
                (Turn::Has, Some(_)) if self.procs[p].alive => self.own_send(p, number),
                (Turn::Has | Turn::Over, _) => {
                    let fate = if it.took { Fate::Acknowledged } else { Fate::Nothing };
                    self.own_ended(p, number, fate);
                }
            }
        }
    }

    fn own_puts_back(&mut self, p: ProcId) {
        let proc = &mut self.procs[p];
        let Some(lease) = proc.own.lease.filter(|_| proc.alive) else { return };
        for key in proc.own.calls.missing(lease) {
            let own = &mut self.procs[p].own;
            let Some(call) = own.calls.put_back(&key, lease) else { continue };
            let OwnWrite::PutBack(value) = &call.write else { continue };
            let change = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
            let change = change.expect("only numbers are put");
            let number = call.number;
            let it = Pending { call, change, attempt: None, known: None, took: false };
            own.pending.insert(number, it);
            self.stats.own_put_back += 1;
            self.own_send(p, number);
        }
    }

    fn own_send(&mut self, p: ProcId, number: u64) {
        let id = self.procs[p].id;
        let own = &mut self.procs[p].own;
        let (Some(lease), Some(it)) = (own.lease, own.pending.get_mut(&number)) else { return };
        own.attempts += 1;
        it.attempt = Some((own.attempts, lease));
        let found = own.found.filter(|(of, _)| *of == lease).map(|(_, found)| found);
        let known = it.known.take().or(found);
        let seen = known.unwrap_or_else(|| own.calls.known(KEY, lease));
        let delete = it.call.write == OwnWrite::Delete;
        let first = !delete && seen == Revision(0);
        if first {
            own.open.insert(own.attempts, own.marker);
        }
        let ask = OwnAsk {
            lease,
            id,
            change: it.change,
            delete,
            seen,
            marker: first.then_some(own.marker),
            settles: delete && !own.open.is_empty(),
            attempt: own.attempts,
        };
        self.send_raw(p, Ask::Own(ask));
    }

    /// Handles the answer to a write, or its timeout.
    pub fn on_own(&mut self, p: ProcId, ask: &OwnAsk, outcome: &Outcome) {
        let p = self.heir(p);
        let marker = self.depot.get(&self.depot.keys.settled(ask.lease)).map(|kv| kv.modified);
        let own = &mut self.procs[p].own;
        let current = own.lease == Some(ask.lease);
        if current {
            // If messages may be duplicated, an answer settles only one of the two copies.
            if self.scenario.duplicate_ppm == 0 && !matches!(outcome, Outcome::Unknown) {
                own.open.remove(&ask.attempt);
            }
            match outcome {
                Outcome::Done(answer) if ask.settles => {
                    own.marker = answer.revision;
                    own.open.retain(|_, compared| answer.revision <= *compared);
                }
                // The refused write has read both the key and the marker.
                Outcome::Refused(_) => own.marker = marker.unwrap_or_default(),
                _ => (),
            }
        }
        let patient = self.scenario.own_calls;
        let is_answered = |it: &Pending| match it.attempt {
            Some((attempt, _)) if patient => attempt == ask.attempt,
            // The sequential user accepts an answer to an earlier attempt of the same write in the same
            // session.
            Some((_, lease)) => lease == ask.lease && it.change == ask.change,
            None => false,
        };
        let Some((&number, it)) = own.pending.iter_mut().find(|(_, it)| is_answered(it)) else {
            return;
        };
        it.attempt = None;
        let back = matches!(it.call.write, OwnWrite::PutBack(_));
        let twice = 0 < self.scenario.duplicate_ppm;
        let (took, over) = (it.took, own.calls.turn(&it.call) == Turn::Over);
        let lease = ask.lease;
        match outcome {
            Outcome::Done(answer) => {
                let revision = answer.revision;
                it.took = true;
                own.found = None;
                let next = self.own_note(p, number, OwnEffect::Took { lease, revision });
                if matches!(next, Next::Again(_)) && !back && patient {
                    return self.own_goes_on(p);
                }
                if !back && !over {
                    self.procs[p].own.done = ask.change;
                }
                self.own_ended(p, number, Fate::Acknowledged);
            }
            Outcome::Refused(answer) if patient && current => {
                it.known = Some(answer.revision);
                return self.own_goes_on(p);
            }
            // If the message was duplicated, the other copy may have taken effect.
            Outcome::Refused(_) | Outcome::LeaseNotFound if !(patient && twice) => {
                if let Outcome::Refused(answer) = outcome {
                    own.found = Some((lease, answer.revision));
                }
                let fate = if took { Fate::Acknowledged } else { Fate::Nothing };
                self.own_ended(p, number, fate);
            }
            _ => {
                if !took {
                    self.own_note(p, number, OwnEffect::Unknown { lease });
                }
                let fate = if took { Fate::Acknowledged } else { Fate::Unknown };
                self.own_ended(p, number, fate);
            }
        }
        if patient {
            self.own_goes_on(p);
            let after = self.chance.between(1, 50) * MILLIS;
            return self.at(self.now + after, Event::PutState(p));
        }
        if current && self.procs[p].alive && !matches!(outcome, Outcome::LeaseNotFound) {
            let after = self.chance.between(1, 50) * MILLIS;
            self.at(self.now + after, Event::PutState(p));
        }
    }

    fn own_note(&mut self, p: ProcId, number: u64, effect: OwnEffect) -> Next {
        let own = &mut self.procs[p].own;
        let Some(it) = own.pending.get(&number) else { return Next::Done };
        own.calls.note(&it.call, effect)
    }

    fn own_ended(&mut self, p: ProcId, number: u64, fate: Fate) {
        let own = &mut self.procs[p].own;
        let Some(it) = own.pending.remove(&number) else { return };
        if !matches!(it.call.write, OwnWrite::PutBack(_)) && own.calls.turn(&it.call) != Turn::Over
        {
            own.fate(it.change, fate);
        }
        own.calls.end(&it.call);
    }

    /// Checks I5 (own state never goes back) when a write of own state has committed.
    pub fn check_own(&mut self, ask: &OwnAsk, revision: Revision, existed: bool) {
        self.stats.puts += u64::from(!ask.delete);
        self.stats.deletes += u64::from(ask.delete);
        let newest = self.depot.history.state.entry(ask.id).or_default();
        let last = *newest;
        *newest = ask.change.max(last);
        if ask.change < last && (existed || !ask.delete) {
            let what = format!("{} {} of node {}, after {last}", ask.name(), ask.change, ask.id);
            return self.violate(Rule::I5, what);
        }
        let Some(p) = self.owners.get(&ask.lease) else { return };
        if !ask.delete && ask.change <= self.procs[*p].own_floor {
            let what =
                format!("node {} had {} before it left: again at {revision}", ask.id, ask.change);
            self.violate(Rule::I5, what);
        }
    }

    /// Checks I5 for all nodes.
    pub fn check_own_kept(&mut self) {
        for slot in 0..self.slots.len() {
            let Some(p) = self.slots[slot].proc else { continue };
            if !self.procs[p].own.calls.is_settled() && self.is_own_sure(p) {
                let proc = &self.procs[p];
                let what = format!("own state of node {} is not put back: {:?}", proc.id, proc.own);
                return self.violate(Rule::I5, what);
            }
            self.check_own_of(p);
        }
    }

    /// Whether a node's session exists, in the store too, and no call is under way in it.
    fn is_own_sure(&self, p: ProcId) -> bool {
        let proc = &self.procs[p];
        let lease = proc.own.lease.filter(|lease| self.depot.leases().contains(lease));
        proc.alive
            && lease.is_some()
            && proc.own.pending.is_empty()
            && proc.own.store == self.depot.replaced
    }

    /// The store holds the last value that was acknowledged, or one of a later call without a known outcome.
    fn check_own_of(&mut self, p: ProcId) {
        let proc = &self.procs[p];
        if !self.is_own_sure(p) || !proc.own.calls.is_settled() {
            return;
        }
        let key = self.depot.keys.state(KEY, proc.id).expect("a valid key");
        let value = self.depot.get(&key).and_then(|kv| String::from_utf8(kv.value).ok());
        let found = value.and_then(|value| value.parse::<u64>().ok());
        let allowed = proc.own.allowed();
        self.stats.own_checked += 1;
        if !allowed.contains(&found) {
            let what = format!("state of node {} is {found:?}, not {allowed:?}", proc.id);
            self.violate(Rule::I5, what);
        }
    }
}
