//! The next request of the replica: a read that confirms, or a write of the calls that change something.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use jiff::Timestamp;

use super::{
    Flaw, Flight, Io, Known, Replica, Ticket, Waiting, Write,
    calls::{differ, evaluate, puts_only},
};
use crate::{
    engine::{
        BootTime, Revision,
        timing::{self, StoreTiming},
    },
    k8s::store::{
        ENDPOINT, neighbour,
        object::{Object, first_revision},
        state::{MAX_BYTES, State},
    },
    store::{
        StoreError,
        memory::{Contents, Model},
        protocol::Response,
    },
};

/// Part of the state that is kept free for the protocol's own keys: users' data that fills the rest must not stop the
/// leader from writing.
const RESERVED_BYTES: usize = 16 * 1024;

/// Least time between two writes that no call waits for: a write that is refused must not become a busy loop.
const OWN_WRITE_EVERY: Duration = Duration::from_secs(1);

impl Replica {
    /// Next request to send; `None` if one is in flight or none is needed.
    pub fn next_io(&mut self, now: Timestamp) -> Option<Io> {
        if self.flight.is_some() {
            return None;
        }
        self.settle();
        if self.look || self.doubted.is_some() || matches!(self.known, Known::Nothing) {
            let due = self.look || self.doubted.is_some() || !self.waiting.is_empty();
            return due.then(|| self.read());
        }
        if let Some(io) = self.write(now) {
            return Some(io);
        }
        // A call that gathers changes something, as far as is known, so no read has to confirm it.
        let must_read = self.waiting.iter().any(|call| !self.gathers(call));
        (must_read && self.flight.is_none()).then(|| self.read())
    }

    fn gathers(&self, call: &Waiting) -> bool {
        call.is_users && self.now < self.gathers_until
    }

    fn read(&mut self) -> Io {
        self.look = false;
        self.mark_sent();
        self.flight = Some(Flight::Read { learned: self.learned });
        Io::Read
    }

    fn mark_sent(&mut self) {
        self.sent_before = self.waiting.iter().map(|it| it.ticket).collect();
    }

    /// Answers what the confirmed replica can answer.
    fn settle(&mut self) {
        if matches!(self.known, Known::Nothing) || (self.is_node() && self.object().is_none()) {
            return;
        }
        let mut left = VecDeque::with_capacity(self.waiting.len());
        for call in std::mem::take(&mut self.waiting) {
            if call.confirmed || self.breaks(Flaw::AnswersUnconfirmed) {
                if let Some(refusal) = self.wrong_span() {
                    self.answers.push((call.ticket, Err(refusal)));
                    continue;
                }
                let mut model = self.model.clone();
                let result = evaluate(&call.request, &mut model);
                if !differ(&self.model, &model) {
                    self.answers.push((call.ticket, result));
                    continue;
                }
            }
            left.push_back(call);
        }
        self.waiting = left;
    }

    /// Whether this process is a node. A node creates the object before anything is read from it, so that it never
    /// meets a cluster without an id, and it keeps the neighbour's candidate key.
    pub(super) fn is_node(&self) -> bool {
        self.span_max.is_some()
    }

    /// Refusal if the nodes of the cluster have agreed on another `SPAN_MAX`. A node may change it when none lives, and
    /// no process has written for as long as the authority of a node that is gone may last.
    fn wrong_span(&self) -> Option<StoreError> {
        let own = self.span_max?;
        let state = self.object()?.state.as_ref().filter(|state| state.span_max != own)?;
        let agreed = state.span_max;
        if !state.contents.leases.is_empty() {
            return Some(StoreError::SpanDisagreement { agreed, own });
        }
        let quiet = self.quiet.is_some_and(|(writes, since)| {
            writes == state.writes && self.now.since(since) >= timing::wait(agreed)
        });
        (!quiet).then(|| StoreError::Overloaded {
            call: "txn",
            endpoint: ENDPOINT.to_owned(),
            message: format!(
                "the longest failover D of this cluster was {agreed:?}: it can become {own:?} {:?} after the \
                 last write",
                timing::wait(agreed)
            ),
        })
    }

    /// Notes since when no process has written, while another `SPAN_MAX` stands in the state.
    pub(super) fn note_quiet(&mut self, now: BootTime) -> Option<BootTime> {
        let state = self.object().and_then(|object| object.state.as_ref());
        let state = state.filter(|state| self.span_max.is_some_and(|own| own != state.span_max));
        let noted = state.map(|state| match self.quiet {
            Some((writes, since)) if writes == state.writes => (writes, since),
            _ => (state.writes, now),
        });
        let wait = state.map(|state| timing::wait(state.span_max));
        self.quiet = noted;
        Some(noted?.1 + wait?).filter(|at| now < *at)
    }

    /// Builds a write of the calls that wait and change something.
    fn write(&mut self, now: Timestamp) -> Option<Io> {
        if self.wrong_span().is_some() {
            return None;
        }
        let base = match &self.known {
            Known::Object(object) => {
                let neighbour = self.neighbour_of(Some(object));
                if self.waiting.is_empty()
                    && neighbour::is_settled(&self.model, &self.author.keys, neighbour)
                {
                    return None;
                }
                Some(object.as_ref().clone())
            }
            Known::Missing => None,
            Known::Nothing => return None,
        };
        let mut most = usize::MAX;
        loop {
            let neighbour = self.neighbour_of(base.as_ref());
            let mut after = self.store_at(base.as_ref(), now);
            // The neighbour's key comes first, by a write of its own: it deletes.
            let settles = neighbour::settle(&mut after, &self.author.keys, neighbour);
            let batch = if settles { Vec::new() } else { self.batch(&mut after, most) };
            let may_write = self.own_write_at <= self.now || !self.waiting.is_empty();
            let is_due = (base.is_none() || settles) && self.is_node() && may_write;
            let gathers = |ticket: &Ticket| {
                self.waiting.iter().any(|call| call.ticket == *ticket && self.gathers(call))
            };
            if !is_due && !settles && batch.iter().all(|(ticket, _)| gathers(ticket)) {
                return None;
            }
            if batch.is_empty() && !is_due && !(settles && self.changes_something(&after)) {
                return None;
            }
            let n = self.written + 1;
            let state =
                self.state_before(base.as_ref(), now).written(self.writer, n, after.contents());
            let is_users = |(ticket, _): &(Ticket, Response)| {
                self.waiting.iter().any(|it| it.ticket == *ticket && it.is_users)
            };
            let bound =
                if batch.iter().any(is_users) { MAX_BYTES - RESERVED_BYTES } else { MAX_BYTES };
            match self.author.body(base.as_ref(), state, neighbour, bound, now) {
                Ok(mut body) => {
                    if self.breaks(Flaw::Unconditional) {
                        body["metadata"]["resourceVersion"] = serde_json::Value::Null;
                    }
                    self.written = n;
                    self.mark_sent();
                    if batch.is_empty() {
                        self.own_write_at = self.now + OWN_WRITE_EVERY;
                    }
                    let calls = self.take(batch);
                    if calls.iter().any(|(call, _)| call.is_users) {
                        self.gathers_until = self.now + self.gather_for;
                    }
                    let creates = base.is_none();
                    self.flight = Some(Flight::Write(Box::new(Write { creates, n, calls, after })));
                    return Some(if creates { Io::Create(body) } else { Io::Replace(body) });
                }
                Err(_) if batch.len() > 1 => most = 1,
                Err(message) => {
                    for (call, _) in self.take(batch) {
                        let endpoint = ENDPOINT.to_owned();
                        let message = message.clone();
                        let refusal = StoreError::Denied { call: "txn", endpoint, message };
                        self.answers.push((call.ticket, Err(refusal)));
                    }
                    if is_due || settles {
                        return None;
                    }
                }
            }
        }
    }

    fn state_before(&self, base: Option<&Object>, now: Timestamp) -> State {
        let span_max = self.span_max;
        match base {
            Some(Object { state: Some(state), .. }) => State {
                // Only while no node lives: `wrong_span` refuses otherwise.
                span_max: span_max.unwrap_or(state.span_max),
                ..state.clone()
            },
            _ => State::new(
                base.map(|object| object.version.clone()).unwrap_or_default(),
                span_max.unwrap_or(StoreTiming::KUBERNETES.span_max),
                first_revision(now),
            ),
        }
    }

    /// The store that the next write begins with.
    fn store_at(&self, base: Option<&Object>, now: Timestamp) -> Model {
        match base {
            Some(Object { state: Some(_), .. }) => self.model.clone(),
            Some(object) => empty(self.cluster_of(object), first_revision(now)),
            None => empty(0, first_revision(now)),
        }
    }

    /// Whether any call that waits would change this store.
    fn changes_something(&self, store: &Model) -> bool {
        self.waiting.iter().any(|call| {
            let mut after = store.clone();
            evaluate(&call.request, &mut after).is_ok() && differ(store, &after)
        })
    }

    /// Calls that go into the next write, with their answers. Carries them out on `after`. Calls of the
    /// protocol come before users' data: a leader that writes much data of its own must not hold up its own beats.
    fn batch(&self, after: &mut Model, most: usize) -> Vec<(Ticket, Response)> {
        let mut batch = Vec::new();
        let mut written = BTreeSet::new();
        let in_turn = self.breaks(Flaw::UsersInTurn);
        let mut calls: Vec<_> = self.waiting.iter().collect();
        if !in_turn {
            calls.sort_by_key(|call| call.is_users);
        }
        for call in calls {
            if batch.len() == most {
                break;
            }
            let mut next = after.clone();
            let Ok(response) = evaluate(&call.request, &mut next) else { continue };
            if !differ(after, &next) {
                continue;
            }
            let puts = puts_only(&call.request, &response);
            let joins = match &puts {
                Some(keys) => keys.iter().all(|key| !written.contains(key)),
                None => false,
            };
            if !batch.is_empty() && !joins {
                if in_turn {
                    break;
                }
                continue;
            }
            batch.push((call.ticket, response));
            *after = next;
            match puts {
                Some(keys) => written.extend(keys),
                None => break,
            }
        }
        batch
    }

    fn take(&mut self, batch: Vec<(Ticket, Response)>) -> Vec<(Waiting, Response)> {
        let taken = batch.into_iter().filter_map(|(ticket, response)| {
            let at = self.waiting.iter().position(|it| it.ticket == ticket)?;
            Some((self.waiting.remove(at)?, response))
        });
        taken.collect()
    }
}

fn empty(cluster: u64, revision: Revision) -> Model {
    Model::from_contents(cluster, Contents { revision, ..Contents::default() })
}
