//! The replica of a cluster's state in one process, and the calls that wait for it. Pure: no I/O and no clock.
//!
//! One request to the API server is in flight at a time. A call that changes something is carried out by a
//! write that holds only if nobody has written since the replica was read. A call that changes nothing is
//! answered from the replica, but only after a read or a write that was sent after the call came in has
//! confirmed the replica (linearizability).
//!
//! # Writes that arrive twice
//!
//! PUT counts as idempotent, so a proxy may repeat it on a broken connection. The second copy is refused as a
//! conflict although the first took effect. So the state holds the number of each writer's last write: after
//! a conflict, a read **that is sent after the conflict came in** decides whether the write took effect.
//! Nothing here is sent twice: after a lost answer the call ends as one that may have taken effect.
//!
//! # Batches
//!
//! Calls that wait together go into one write, each as a revision of its own, if none deletes and no key is
//! written twice: then a reader can tell the revisions apart by the keys ([`Between::OneWrite`]).

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use jiff::Timestamp;
use serde_json::Value;

use super::{
    ENDPOINT,
    neighbour::{self, Neighbour},
    object::{Author, Object, Unreadable, first_revision},
    state::{State, Writer},
};
use crate::{
    engine::{BootTime, Revision, timing::StoreTiming},
    store::{
        Op, StoreError,
        keys::{Key, Keys},
        memory::{Between, Contents, Model},
        protocol::{Request, Response},
    },
};

/// Newest revisions that are kept for watches and for lists that take several pages.
const KEPT_REVISIONS: i64 = 1000;

/// How long a write of users' data waits for others, so that many small writes become one: each write is one of
/// the whole state.
const GATHER_FOR: Duration = Duration::from_millis(200);

/// All calls are evaluated at this time: leases end by the Leases of the incarnations, never by the model.
const NO_TIME: BootTime = BootTime(Duration::ZERO);

/// Number of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Ticket(pub(super) u64);

/// Request to the API server, about the object of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Io {
    /// GET without a resource version: a quorum read.
    Read,
    /// POST: the object does not exist.
    Create(Value),
    /// PUT; the body holds the resource version that must still be the newest.
    Replace(Value),
}

/// Result of a request to the API server.
#[derive(Debug)]
pub(super) enum Reply {
    /// The object, as it is after the request.
    Object(Box<Result<Object, Unreadable>>),
    /// There is no such object.
    Missing,
    /// Somebody has written since, or (for POST) the object exists.
    Conflict,
    /// The request did not take effect, and will not.
    Refused(StoreError),
    /// The request may have taken effect, or may still.
    Lost(StoreError),
}

/// Last known state of the object.
#[derive(Clone, Debug)]
enum Known {
    Nothing,
    Missing,
    Object(Box<Object>),
}

#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    request: Request,
    /// The replica was confirmed since the call came in.
    confirmed: bool,
    /// Time until which the call may wait for others to be written with.
    gathers_until: BootTime,
}

/// A write that was sent, and what it means for its calls.
#[derive(Debug)]
struct Write {
    creates: bool,
    n: u64,
    calls: Vec<(Waiting, Response)>,
    after: Model,
}

#[derive(Debug)]
enum Flight {
    /// `learned`: how often the replica was learned when the read was sent.
    Read {
        learned: u64,
    },
    Write(Write),
}

/// See the module's docs.
#[derive(Debug)]
pub(super) struct Replica {
    author: Author,
    writer: Writer,
    /// SPAN_MAX of this process as a node; `None` for a process that is not a node, which takes any.
    span_max: Option<Duration>,
    /// Number of this process's last write.
    written: u64,
    known: Known,
    model: Model,
    /// How often `known` was learned.
    learned: u64,
    now: BootTime,
    /// Candidate of client-go that holds the Lease.
    neighbour: Neighbour,
    /// A read is due, although no call may need it.
    look: bool,
    waiting: VecDeque<Waiting>,
    /// Calls that were waiting when the request in flight was sent.
    sent_before: BTreeSet<Ticket>,
    flight: Option<Flight>,
    /// Write that was refused as a conflict; the read that comes next decides.
    doubted: Option<Write>,
    answers: Vec<(Ticket, Result<Response, StoreError>)>,
}

impl Replica {
    pub(super) fn new(author: Author, writer: Writer, span_max: Option<Duration>) -> Self {
        Self {
            author,
            writer,
            span_max,
            written: 0,
            known: Known::Nothing,
            model: Model::from_contents(0, Contents::default()),
            learned: 0,
            now: BootTime::default(),
            neighbour: Neighbour::default(),
            look: true,
            waiting: VecDeque::new(),
            sent_before: BTreeSet::new(),
            flight: None,
            doubted: None,
            answers: Vec::new(),
        }
    }

    /// The store as far as this process knows it.
    pub(super) fn model(&self) -> &Model {
        &self.model
    }

    fn exists(&self) -> bool {
        matches!(self.known, Known::Object(_))
    }

    /// How often the replica was learned: changes with each change.
    pub(super) fn learned(&self) -> u64 {
        self.learned
    }

    /// UID of the object, if it exists.
    pub(super) fn uid(&self) -> Option<&str> {
        match &self.known {
            Known::Object(object) => Some(&object.uid),
            Known::Nothing | Known::Missing => None,
        }
    }

    /// Takes in a call.
    pub(super) fn ask(&mut self, ticket: Ticket, request: Request, now: BootTime) {
        let gathers = is_of_users(&request, &self.author.keys);
        let gathers_until = if gathers { now + GATHER_FOR } else { now };
        self.waiting.push_back(Waiting { ticket, request, confirmed: false, gathers_until });
    }

    /// The caller no longer waits: the call is not sent any more, if it was not sent yet.
    pub(super) fn forget(&mut self, ticket: Ticket) {
        self.waiting.retain(|it| it.ticket != ticket);
    }

    /// Asks for a read, for instance because a watch has ended or has seen the object go.
    pub(super) fn look_again(&mut self) {
        self.look = true;
    }

    /// Lets time pass. Returns when [`next_io`](Self::next_io) may have something to send that it has not now.
    pub(super) fn advance(&mut self, now: BootTime) -> Option<BootTime> {
        self.now = self.now.max(now);
        let gathered = self.waiting.iter().map(|call| call.gathers_until).min();
        let neighbour = self.note_neighbour(now);
        neighbour.into_iter().chain(gathered.filter(|at| now < *at)).min()
    }

    /// Lets time pass for a neighbour that holds the Lease. Returns when its time is over.
    fn note_neighbour(&mut self, now: BootTime) -> Option<BootTime> {
        let spec = match &self.known {
            Known::Object(object) => object.neighbour().map(|(_, spec)| spec),
            Known::Nothing | Known::Missing => None,
        };
        self.neighbour.note(spec.filter(|_| self.is_node()), now)
    }

    /// Holder of the Lease that is a neighbour and lives.
    fn neighbour_of<'a>(&self, object: Option<&'a Object>) -> Option<&'a str> {
        let (holder, spec) = object?.neighbour()?;
        (!self.neighbour.is_gone(spec)).then_some(holder)
    }

    /// Answers since the last time.
    pub(super) fn take_answers(&mut self) -> Vec<(Ticket, Result<Response, StoreError>)> {
        std::mem::take(&mut self.answers)
    }

    /// Next request to send; `None` if one is in flight or none is needed.
    pub(super) fn next_io(&mut self, now: Timestamp) -> Option<Io> {
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
        // What gathers changes something, as far as is known: it need not be confirmed.
        let must_read = self.waiting.iter().any(|call| !self.gathers(call));
        (must_read && self.flight.is_none()).then(|| self.read())
    }

    fn gathers(&self, call: &Waiting) -> bool {
        self.now < call.gathers_until
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
        if matches!(self.known, Known::Nothing) || (self.is_node() && !self.exists()) {
            return;
        }
        let mut left = VecDeque::with_capacity(self.waiting.len());
        for call in std::mem::take(&mut self.waiting) {
            if call.confirmed {
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
    fn is_node(&self) -> bool {
        self.span_max.is_some()
    }

    /// Refusal if living nodes of the cluster have agreed on another SPAN_MAX.
    fn wrong_span(&self) -> Option<StoreError> {
        let (Known::Object(object), Some(own)) = (&self.known, self.span_max) else {
            return None;
        };
        let state = object.state.as_ref()?;
        let agreed = state.span_max == own || state.contents.leases.is_empty();
        (!agreed).then(|| StoreError::Denied {
            call: "txn",
            endpoint: ENDPOINT.to_owned(),
            message: format!(
                "the nodes of this cluster have agreed on a longest failover D of {:?}, and this node is \
                 configured with {own:?}: give all nodes the same profile; to change it, stop all nodes first",
                state.span_max
            ),
        })
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
            let is_due = (base.is_none() || settles) && self.is_node();
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
            match self.author.body(base.as_ref(), state, neighbour, now) {
                Ok(body) => {
                    self.written = n;
                    self.mark_sent();
                    let calls = self.take(batch);
                    let creates = base.is_none();
                    self.flight = Some(Flight::Write(Write { creates, n, calls, after }));
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
            Some(Object { version, .. }) => {
                let span_max = span_max.unwrap_or(StoreTiming::KUBERNETES.span_max);
                State::new(version.clone(), span_max, first_revision(now))
            }
            None => {
                let span_max = span_max.unwrap_or(StoreTiming::KUBERNETES.span_max);
                State::new(String::new(), span_max, first_revision(now))
            }
        }
    }

    /// The store that the next write begins with.
    fn store_at(&self, base: Option<&Object>, now: Timestamp) -> Model {
        match base {
            Some(Object { state: Some(_), .. }) => self.model.clone(),
            Some(object) => empty(object.cluster(), first_revision(now)),
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

    /// Calls that go into the next write, with their answers. Carries them out on `after`.
    fn batch(&self, after: &mut Model, most: usize) -> Vec<(Ticket, Response)> {
        let mut batch = Vec::new();
        let mut written = BTreeSet::new();
        for call in &self.waiting {
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
                break;
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

    /// Takes in the result of the request in flight.
    pub(super) fn replied(&mut self, reply: Reply) {
        let sent_before = std::mem::take(&mut self.sent_before);
        match self.flight.take() {
            None => {}
            Some(Flight::Read { learned }) => self.on_read(learned, reply, &sent_before),
            Some(Flight::Write(write)) => self.on_written(write, reply, &sent_before),
        }
    }

    fn on_read(&mut self, learned: u64, reply: Reply, sent_before: &BTreeSet<Ticket>) {
        let failed = match reply {
            Reply::Object(read) => match *read {
                Ok(object) => {
                    self.decide(Some(&object));
                    self.learn_from_read(learned, object);
                    None
                }
                Err(unreadable) => Some(StoreError::Denied {
                    call: "get",
                    endpoint: ENDPOINT.to_owned(),
                    message: unreadable.to_string().replace("NAME", self.author.keys.cluster()),
                }),
            },
            Reply::Missing => {
                self.decide(None);
                if learned == self.learned {
                    self.learn_missing();
                } else {
                    self.look = true;
                }
                None
            }
            Reply::Conflict => Some(StoreError::Interrupted {
                call: "get",
                endpoint: ENDPOINT.to_owned(),
                message: "the API server answers a read with a conflict".to_owned(),
            }),
            Reply::Refused(error) | Reply::Lost(error) => Some(error),
        };
        let Some(error) = failed else {
            self.confirm(sent_before);
            return;
        };
        if let Some(write) = self.doubted.take() {
            let message = format!("it may have been written twice, and reading failed: {error}");
            for (call, _) in write.calls {
                self.answers.push((call.ticket, Err(interrupted(message.clone()))));
            }
        }
        self.fail_waiting(sent_before, &error);
    }

    /// A read that was sent after a conflict: whether the doubted write took effect all the same.
    fn decide(&mut self, object: Option<&Object>) {
        let Some(write) = self.doubted.take() else { return };
        let state = object.and_then(|it| it.state.as_ref());
        if let Some(object) = object
            && state.and_then(|it| it.last_of(self.writer)) == Some(write.n)
        {
            self.answer(write.calls, object.cluster());
            return;
        }
        for (call, _) in write.calls.into_iter().rev() {
            self.waiting.push_front(call);
        }
    }

    fn answer(&mut self, calls: Vec<(Waiting, Response)>, cluster: u64) {
        for (call, response) in calls {
            self.answers.push((call.ticket, Ok(of_cluster(response, cluster))));
        }
    }

    fn learn_from_read(&mut self, learned: u64, object: Object) {
        let newer = match &self.known {
            Known::Object(known) => object.is_after(known),
            Known::Nothing | Known::Missing => true,
        };
        if learned == self.learned || newer {
            self.learn(object);
        } else if self.uid() != Some(&object.uid) {
            // A watch and the read disagree about which object there is.
            self.look = true;
        }
    }

    fn on_written(&mut self, write: Write, reply: Reply, sent_before: &BTreeSet<Ticket>) {
        match reply {
            Reply::Object(written) => match *written {
                Ok(object) => {
                    let newer = match &self.known {
                        Known::Object(known) => object.is_after(known),
                        Known::Nothing | Known::Missing => true,
                    };
                    self.answer(write.calls, object.cluster());
                    if newer {
                        self.learn_own(object, write.after);
                    }
                    self.confirm(sent_before);
                }
                Err(unreadable) => {
                    self.look = true;
                    self.fail(write.calls, &interrupted(unreadable.to_string()));
                }
            },
            Reply::Conflict => self.doubted = Some(write),
            Reply::Missing => {
                // The object went away. Nothing was written, unless this is the answer to a second copy.
                self.look = true;
                let message = "the Lease of the cluster was deleted meanwhile".to_owned();
                self.fail(write.calls, &interrupted(message));
            }
            Reply::Refused(error) => {
                self.fail(write.calls, &error);
                // Calls that only read wait for the object as well.
                if write.creates {
                    self.fail_waiting(sent_before, &error);
                }
            }
            Reply::Lost(error) => {
                self.look = true;
                self.fail(write.calls, &error);
            }
        }
    }

    fn fail_waiting(&mut self, calls: &BTreeSet<Ticket>, error: &StoreError) {
        let waiting = std::mem::take(&mut self.waiting);
        for call in waiting {
            if calls.contains(&call.ticket) {
                self.answers.push((call.ticket, Err(error.clone())));
            } else {
                self.waiting.push_back(call);
            }
        }
    }

    fn fail(&mut self, calls: Vec<(Waiting, Response)>, error: &StoreError) {
        self.answers.extend(calls.into_iter().map(|(call, _)| (call.ticket, Err(error.clone()))));
    }

    /// The replica was confirmed after these calls came in.
    fn confirm(&mut self, calls: &BTreeSet<Ticket>) {
        for call in &mut self.waiting {
            call.confirmed |= calls.contains(&call.ticket);
        }
    }

    /// Takes in an event of the watch.
    pub(super) fn observe(&mut self, seen: Result<Object, Unreadable>) {
        let Ok(object) = seen else {
            self.look = true;
            return;
        };
        match &self.known {
            Known::Object(known) if known.uid == object.uid => {
                if object.is_after(known) {
                    self.learn(object);
                }
            }
            _ => self.look = true,
        }
    }

    fn learn(&mut self, object: Object) {
        let cluster = object.cluster();
        let known = match &self.known {
            Known::Object(known) => Some(known.as_ref()),
            Known::Nothing | Known::Missing => None,
        };
        let writes = |it: &Object| it.state.as_ref().map_or(0, |state| state.writes);
        let contents = object.state.as_ref().map(|it| it.contents.clone()).unwrap_or_default();
        match known {
            Some(known)
                if known.cluster() == cluster && contents.revision >= self.model.revision() =>
            {
                if known.state != object.state {
                    let one = writes(&object) == writes(known) + 1;
                    let between = if one { Between::OneWrite } else { Between::Several };
                    self.model.follow(contents, between);
                }
            }
            _ => self.model.replace(cluster, contents),
        }
        self.known_is(Known::Object(Box::new(object)));
    }

    fn learn_own(&mut self, object: Object, after: Model) {
        let kept = object.state.as_ref().is_some_and(|state| state.contents == after.contents());
        let continues = after.replacements() == self.model.replacements()
            && after.cluster() == object.cluster();
        if kept && continues {
            self.model = after;
            self.known_is(Known::Object(Box::new(object)));
        } else {
            self.learn(object);
        }
    }

    fn learn_missing(&mut self) {
        if !matches!(self.known, Known::Missing) {
            self.model.replace(0, Contents { revision: Revision(1), ..Contents::default() });
        }
        self.known_is(Known::Missing);
    }

    fn known_is(&mut self, known: Known) {
        self.known = known;
        self.learned += 1;
        let revision = self.model.revision();
        if revision.0 - self.model.compacted().0 > 2 * KEPT_REVISIONS {
            let oldest = Revision(revision.0 - KEPT_REVISIONS);
            self.model.compact(oldest).expect("between what is compacted and what is");
        }
    }
}

fn interrupted(message: String) -> StoreError {
    StoreError::Interrupted { call: "txn", endpoint: ENDPOINT.to_owned(), message }
}

fn empty(cluster: u64, revision: Revision) -> Model {
    Model::from_contents(cluster, Contents { revision, ..Contents::default() })
}

/// Carries out a call on a model.
fn evaluate(request: &Request, model: &mut Model) -> Result<Response, StoreError> {
    match request {
        Request::Txn(txn) => model.txn(NO_TIME, txn).map(Response::Txn),
        Request::Get(get) => model.get(NO_TIME, get).map(Response::Get),
        Request::Grant { lease, ttl } => model.grant(NO_TIME, *lease, *ttl).map(Response::Lease),
        Request::Revoke(lease) => model.revoke(NO_TIME, *lease).map(Response::Lease),
        Request::KeepAlive(lease) => Ok(Response::Lease(model.keep_alive(NO_TIME, *lease))),
    }
}

/// Whether a call only writes data of users, which no rule of the protocol waits for.
fn is_of_users(request: &Request, keys: &Keys) -> bool {
    let Request::Txn(txn) = request else { return false };
    let mut written = txn.then.iter().chain(&txn.otherwise).filter_map(|op| match op {
        Op::Put { key, .. } => Some(key),
        Op::Delete(range) => Some(&range.from),
        Op::Get(_) => None,
    });
    let is_data = |key: &Vec<u8>| matches!(keys.parse(key), Some(Key::State { .. } | Key::Data(_)));
    txn.then.iter().any(|op| !matches!(op, Op::Get(_))) && written.all(is_data)
}

/// Whether a call has changed the model: each change raises the revision or changes the set of leases.
fn differ(before: &Model, after: &Model) -> bool {
    before.revision() != after.revision() || !before.leases().eq(after.leases())
}

/// Keys that a call put; `None` if the call may have deleted something.
fn puts_only(request: &Request, response: &Response) -> Option<BTreeSet<Vec<u8>>> {
    match (request, response) {
        (Request::Txn(txn), Response::Txn(answer)) => {
            let ops = if answer.succeeded { &txn.then } else { &txn.otherwise };
            let puts = ops.iter().map(|op| match op {
                Op::Put { key, .. } => Some(Some(key.clone())),
                Op::Get(_) => Some(None),
                Op::Delete(_) => None,
            });
            puts.collect::<Option<Vec<_>>>().map(|keys| keys.into_iter().flatten().collect())
        }
        (Request::Grant { .. }, _) => Some(BTreeSet::new()),
        _ => None,
    }
}

/// The answer with the id of the cluster, which is known only after the object was created.
fn of_cluster(mut response: Response, cluster: u64) -> Response {
    match &mut response {
        Response::Txn(answer) => answer.cluster = cluster,
        Response::Get(answer) => answer.cluster = cluster,
        Response::Lease(answer) => answer.cluster = cluster,
    }
    response
}

#[cfg(test)]
mod tests;
