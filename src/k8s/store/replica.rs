//! The replica of a cluster's state in one process, and the calls that wait for it. Pure: no I/O and no clock.
//!
//! At most one request to the API server is in flight. A call that changes something is carried out by a
//! write that takes effect only if no process has written since the replica was read. A call that changes nothing is
//! answered from the replica, but only after a read or a write that was sent after the call came in has
//! confirmed the replica (linearizability).
//!
//! # Writes that arrive twice
//!
//! PUT counts as idempotent, so a proxy may repeat it on a broken connection. The second copy is refused, as a
//! conflict or with credentials that have expired, although the first took effect. So the state holds the number of
//! each writer's last write: after a refusal, a read **that is sent after the refusal came in** decides whether the
//! write took effect.
//! Nothing here is sent twice: after a lost answer the call ends as one that may have taken effect.
//!
//! # Batches
//!
//! Calls that wait together go into one write, each as a revision of its own, if none deletes and no key is
//! written twice: then a reader can separate the revisions by the keys ([`Between::OneWrite`]).

mod calls;
mod flaw;
mod io;
mod sending;

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use self::calls::{is_of_users, of_cluster};
pub use self::{
    flaw::Flaw,
    io::{Io, Reply},
};
use super::{
    ENDPOINT,
    neighbour::Neighbour,
    object::{Author, Object, Unreadable},
    state::Writer,
};
use crate::{
    engine::{BootTime, Revision},
    store::{
        StoreError,
        memory::{Between, Contents, Model},
        protocol::{Request, Response},
    },
};

/// Newest revisions that are kept for watches and for lists that take several pages.
const KEPT_REVISIONS: i64 = 1000;

/// Least time between two writes of users' data alone. Calls that come sooner wait and are written together: each
/// write is one of the whole state.
const GATHER_FOR: Duration = Duration::from_millis(200);

/// Number of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

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
    /// Whether the call only writes data of users.
    is_users: bool,
}

/// A write that was sent, and what it means for its calls.
#[derive(Debug)]
struct Write {
    creates: bool,
    n: u64,
    calls: Vec<(Waiting, Response)>,
    after: Model,
}

/// A write that was refused.
#[derive(Debug)]
struct Doubted {
    write: Write,
    /// Error of its calls if it did not take effect; `None`: they are carried out again.
    refusal: Option<StoreError>,
}

#[derive(Debug)]
enum Flight {
    /// `learned`: how often the replica was learned when the read was sent.
    Read {
        learned: u64,
    },
    Write(Box<Write>),
}

/// See the module's docs.
#[derive(Debug)]
pub struct Replica {
    /// Rule that is left out; none outside of tests.
    flaw: Option<Flaw>,
    author: Author,
    writer: Writer,
    /// `SPAN_MAX` of this process as a node; `None` for a process that is not a node, which takes any.
    span_max: Option<Duration>,
    /// Number of this process's last write.
    written: u64,
    known: Known,
    model: Model,
    /// How often `known` was learned.
    learned: u64,
    now: BootTime,
    /// Least time between two writes of users' data alone.
    gather_for: Duration,
    /// No write that no call waits for is sent before this time.
    own_write_at: BootTime,
    /// Until when users' data waits to be written together.
    gathers_until: BootTime,
    /// Number of the last write, and since when there was none, while another `SPAN_MAX` stands in the state.
    quiet: Option<(u64, BootTime)>,
    /// Candidate of client-go that holds the Lease.
    neighbour: Neighbour,
    /// A read is due, although no call may need it.
    look: bool,
    waiting: VecDeque<Waiting>,
    /// Calls that were waiting when the request in flight was sent.
    sent_before: BTreeSet<Ticket>,
    flight: Option<Flight>,
    /// Write that was refused; the read that comes next decides whether it took effect all the same.
    doubted: Option<Doubted>,
    answers: Vec<(Ticket, Result<Response, StoreError>)>,
}

impl Replica {
    /// The replica of a process that knows nothing yet; `span_max` as in the field.
    pub fn new(author: Author, writer: Writer, span_max: Option<Duration>) -> Self {
        Self {
            flaw: None,
            author,
            writer,
            span_max,
            written: 0,
            known: Known::Nothing,
            model: Model::from_contents(0, Contents::default()),
            learned: 0,
            now: BootTime::default(),
            gather_for: GATHER_FOR,
            own_write_at: BootTime::default(),
            gathers_until: BootTime::default(),
            quiet: None,
            neighbour: Neighbour::default(),
            look: true,
            waiting: VecDeque::new(),
            sent_before: BTreeSet::new(),
            flight: None,
            doubted: None,
            answers: Vec::new(),
        }
    }

    /// Sets the least time between two writes of users' data alone.
    #[must_use]
    pub fn gather_for(mut self, time: Duration) -> Self {
        self.gather_for = time;
        self
    }

    /// The store as far as this process knows it.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The object as it was last known, if it exists.
    fn object(&self) -> Option<&Object> {
        match &self.known {
            Known::Object(object) => Some(object),
            Known::Nothing | Known::Missing => None,
        }
    }

    /// Id of the cluster that the object holds.
    fn cluster_of(&self, object: &Object) -> u64 {
        if self.breaks(Flaw::SameClusterByName) { 1 } else { object.cluster() }
    }

    /// Whether an object is later than what is known, as far as their versions show.
    fn is_news(&self, object: &Object) -> bool {
        self.object().is_none_or(|known| object.is_after(known))
    }

    /// How often the replica was learned: changes with each change.
    pub fn learned(&self) -> u64 {
        self.learned
    }

    /// Bytes of the state, if there is one.
    pub fn bytes(&self) -> Option<usize> {
        self.object()?.annotation().map(str::len)
    }

    /// UID of the object, if it exists.
    pub fn uid(&self) -> Option<&str> {
        Some(&self.object()?.uid)
    }

    /// Candidate of client-go that holds the Lease, by its own name.
    pub(super) fn foreign_holder(&self) -> Option<&str> {
        Some(self.object()?.neighbour()?.0)
    }

    /// Takes in a call.
    pub fn ask(&mut self, ticket: Ticket, request: Request) {
        let is_users = is_of_users(&request, &self.author.keys);
        self.waiting.push_back(Waiting { ticket, request, confirmed: false, is_users });
    }

    /// The caller no longer waits: the call is not sent any more, if it was not sent yet.
    pub fn forget(&mut self, ticket: Ticket) {
        self.waiting.retain(|it| it.ticket != ticket);
    }

    /// Asks for a read, for instance because a watch has ended or has seen the object go.
    pub fn look_again(&mut self) {
        self.look = true;
    }

    /// Lets time pass. Returns when [`next_io`](Self::next_io) may have something to send that it has not now.
    pub fn advance(&mut self, now: BootTime) -> Option<BootTime> {
        self.now = self.now.max(now);
        let gathers = self.waiting.iter().any(|call| call.is_users);
        let gathered = gathers.then_some(self.gathers_until);
        let neighbour = self.note_neighbour(now);
        let quiet = self.note_quiet(now);
        let own_write = Some(self.own_write_at);
        let due = [gathered, own_write].into_iter().flatten().filter(|at| now < *at);
        neighbour.into_iter().chain(quiet).chain(due).min()
    }

    /// Lets time pass for a neighbour that holds the Lease. Returns when its time is over.
    fn note_neighbour(&mut self, now: BootTime) -> Option<BootTime> {
        // Not by `object`: only this field is borrowed beside the neighbour.
        let spec = match &self.known {
            Known::Object(object) => object.neighbour().map(|(_, spec)| spec),
            Known::Nothing | Known::Missing => None,
        };
        self.neighbour.note(spec.filter(|_| self.span_max.is_some()), now)
    }

    /// Holder of the Lease that is a neighbour and lives.
    fn neighbour_of<'a>(&self, object: Option<&'a Object>) -> Option<&'a str> {
        let (holder, spec) =
            object?.neighbour().filter(|_| !self.breaks(Flaw::NeighbourIgnored))?;
        (!self.neighbour.is_gone(spec, self.now)).then_some(holder)
    }

    /// Answers since the last time.
    pub fn take_answers(&mut self) -> Vec<(Ticket, Result<Response, StoreError>)> {
        std::mem::take(&mut self.answers)
    }

    /// Calls that the write in flight carries out, in order.
    pub fn writing(&self) -> impl Iterator<Item = Ticket> + '_ {
        let write = match &self.flight {
            Some(Flight::Write(write)) => Some(write),
            Some(Flight::Read { .. }) | None => None,
        };
        write.into_iter().flat_map(|write| &write.calls).map(|(call, _)| call.ticket)
    }

    /// Takes in the result of the request in flight.
    pub fn replied(&mut self, reply: Reply) {
        let sent_before = std::mem::take(&mut self.sent_before);
        match self.flight.take() {
            None => {}
            Some(Flight::Read { learned }) => self.on_read(learned, reply, &sent_before),
            Some(Flight::Write(write)) => self.on_written(*write, reply, &sent_before),
        }
    }

    fn on_read(&mut self, learned: u64, reply: Reply, sent_before: &BTreeSet<Ticket>) {
        let read = match reply {
            Reply::Object(read) => match *read {
                Ok(object) => {
                    self.decide(Some(&object));
                    Ok(self.learn_from_read(learned, object))
                }
                Err(unreadable) => Err(StoreError::Denied {
                    call: "get",
                    endpoint: ENDPOINT.to_owned(),
                    message: unreadable.to_string().replace("NAME", self.author.keys.cluster()),
                }),
            },
            Reply::Missing => {
                self.decide(None);
                let is_newest = learned == self.learned;
                if is_newest {
                    self.learn_missing();
                }
                Ok(is_newest)
            }
            Reply::Conflict => Err(StoreError::Interrupted {
                call: "get",
                endpoint: ENDPOINT.to_owned(),
                message: "the API server answers a read with a conflict".to_owned(),
            }),
            Reply::Refused(error) | Reply::Lost(error) => Err(error),
        };
        let error = match read {
            Ok(is_newest) if is_newest || self.breaks(Flaw::ConfirmedByAnything) => {
                return self.confirm(sent_before);
            }
            // A watch and the read disagree about which object there is.
            Ok(_) => return self.look_again(),
            Err(error) => error,
        };
        if let Some(Doubted { write, refusal }) = self.doubted.take() {
            let cause = refusal.as_ref().unwrap_or(&error);
            let message = format!("it may have been written twice, and reading failed: {cause}");
            self.fail(write.calls, &interrupted(message));
        }
        self.fail_waiting(sent_before, &error);
    }

    /// A read that was sent after a refusal: whether the doubted write took effect all the same.
    fn decide(&mut self, object: Option<&Object>) {
        let Some(Doubted { write, refusal }) = self.doubted.take() else { return };
        let state = object.and_then(|it| it.state.as_ref());
        if let Some(object) = object
            && state.and_then(|it| it.last_of(self.writer)) == Some(write.n)
            && !self.breaks(Flaw::RefusalIsFinal)
        {
            self.answer(write.calls, self.cluster_of(object));
            return;
        }
        if let Some(refusal) = refusal {
            if write.calls.is_empty() || (write.creates && object.is_none()) {
                // The other calls wait for this write as well.
                let all = self.waiting.iter().map(|call| call.ticket).collect();
                self.fail_waiting(&all, &refusal);
            }
            self.fail(write.calls, &refusal);
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

    /// Takes in the object that a read has found. Returns whether the replica is at least as new as that object.
    fn learn_from_read(&mut self, learned: u64, object: Object) -> bool {
        if learned == self.learned || self.is_news(&object) {
            self.learn(object);
            return true;
        }
        self.object().is_some_and(|it| it.uid == object.uid && object.number() <= it.number())
    }

    fn on_written(&mut self, write: Write, reply: Reply, sent_before: &BTreeSet<Ticket>) {
        match reply {
            Reply::Object(written) => match *written {
                Ok(object) => {
                    self.answer(write.calls, self.cluster_of(&object));
                    if self.is_news(&object) {
                        self.learn_own(object, write.after);
                    }
                    self.confirm(sent_before);
                }
                Err(unreadable) => {
                    self.look = true;
                    self.fail(write.calls, &interrupted(unreadable.to_string()));
                }
            },
            Reply::Conflict => self.doubted = Some(Doubted { write, refusal: None }),
            Reply::Missing => {
                // The object went away. Nothing was written, unless this is the answer to a second copy.
                self.look = true;
                let message = "the Lease of the cluster was deleted meanwhile".to_owned();
                self.fail(write.calls, &interrupted(message));
            }
            // The refusal may be the answer to a second copy.
            Reply::Refused(error) => self.doubted = Some(Doubted { write, refusal: Some(error) }),
            Reply::Lost(_) if self.breaks(Flaw::SentAgain) => {
                self.look = true;
                self.waiting.extend(write.calls.into_iter().map(|(call, _)| call));
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
    pub fn observe(&mut self, seen: Result<Object, Unreadable>) {
        let Ok(object) = seen else {
            self.look = true;
            return;
        };
        if self.uid() != Some(&object.uid) {
            self.look = true;
        } else if self.is_news(&object) {
            self.learn(object);
        }
    }

    fn learn(&mut self, object: Object) {
        let cluster = self.cluster_of(&object);
        let writes = |it: &Object| it.state.as_ref().map_or(0, |state| state.writes);
        let contents = object.state.as_ref().map(|it| it.contents.clone()).unwrap_or_default();
        let known = self.object().filter(|it| self.cluster_of(it) == cluster);
        match known.filter(|_| contents.revision >= self.model.revision()) {
            Some(known) if known.state == object.state => {}
            Some(known) => {
                let one = writes(&object) == writes(known) + 1;
                let between = if one { Between::OneWrite } else { Between::Several };
                self.model.follow(contents, between);
            }
            None => self.model.replace(cluster, contents),
        }
        self.known_is(Known::Object(Box::new(object)));
    }

    fn learn_own(&mut self, object: Object, after: Model) {
        let kept = object.state.as_ref().is_some_and(|state| state.contents == after.contents());
        let continues = after.replacements() == self.model.replacements()
            && after.cluster() == self.cluster_of(&object);
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

#[cfg(test)]
mod tests;
