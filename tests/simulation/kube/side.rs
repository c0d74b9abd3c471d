//! A side is one process's view of the store: the real replica and the real notes, the calls that wait for them,
//! and the watches that feed them.

use std::{
    cell::Cell,
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    time::Duration,
};

use bellwether::{
    engine::{BootTime, LeaseId, Revision},
    k8s::store::pure::{Author, Due, Notes, Replica, Ticket, Writer},
    store::{keys::Keys, protocol::Request},
};

use super::server::Version;
use crate::{
    chance::Time,
    host::ProcId,
    wire::{Ask, InFlight},
};

/// Index of a side, never used twice in a run.
pub type SideId = usize;

/// A call that the replica carries out, and who waits for it.
#[derive(Debug)]
pub enum Pending {
    /// A request of an engine, a parent or the work.
    Call { flight: InFlight },
    /// The look before the Lease of a new incarnation is made.
    Grant { flight: InFlight, lease: LeaseId, ttl: Duration },
    /// The list of the process's watch.
    List { number: u64, sent_at: BootTime },
    /// The look before the process's watch is opened.
    Open { number: u64 },
    /// The end of a lease that was not renewed.
    Expire { lease: LeaseId },
}

/// A call that a write carries out.
#[derive(Debug)]
pub struct Called {
    /// Content, unless the store itself makes the call.
    pub ask: Option<Ask>,
    pub request: Request,
    /// Time at which the caller gives up.
    pub deadline: Time,
    /// Number of the store, counted by replacements, when it was asked, and the revision of the store then.
    pub asked: (u32, Revision),
    /// Number of the store in which it has taken effect.
    pub took: Cell<Option<u32>>,
}

/// Receiver of the answer to a request to the API server.
#[derive(Debug)]
pub enum Purpose {
    Replica,
    Grant {
        flight: InFlight,
        lease: LeaseId,
        ttl: Duration,
    },
    Renew {
        flight: InFlight,
        lease: LeaseId,
    },
    /// The end of a lease: by deletion of its Lease.
    Expire {
        lease: LeaseId,
    },
    /// A lease of the state whose Lease was not seen.
    Unseen {
        lease: LeaseId,
    },
    /// The Lease of an incarnation that ended is deleted; no caller waits for the answer.
    Tidy,
}

/// Item of a watch of the object.
#[derive(Clone, Debug)]
pub enum Shown {
    Object(Rc<Version>),
    /// The object is gone, or something may have been missed.
    Look,
}

/// Item of a watch of the incarnations' Leases.
#[derive(Clone, Debug)]
pub enum LeaseShown {
    Listed(Vec<LeaseSeen>),
    Saw(LeaseSeen),
    Gone(LeaseId),
}

/// The Lease of an incarnation as a watch shows it.
#[derive(Clone, Copy, Debug)]
pub struct LeaseSeen {
    pub lease: LeaseId,
    pub version: u64,
    pub ttl: u64,
    pub renew_time: i64,
}

/// A watch: the items under way, in order, with the time of arrival.
#[derive(Debug)]
pub struct Feed<T> {
    pub open: bool,
    pub stalled_until: Time,
    pub under_way: VecDeque<(Time, T)>,
}

impl<T> Default for Feed<T> {
    fn default() -> Self {
        Self { open: false, stalled_until: 0, under_way: VecDeque::new() }
    }
}

impl<T> Feed<T> {
    /// Puts an item on its way, behind those before it. Returns when the item arrives, `at` the soonest.
    pub fn push(&mut self, at: Time, item: T) -> Time {
        let last = self.under_way.back().map_or(0, |(at, _)| *at);
        let at = at.max(last).max(self.stalled_until);
        self.under_way.push_back((at, item));
        at
    }

    /// Whether an item has arrived.
    pub fn has_arrived(&self, now: Time) -> bool {
        self.under_way.front().is_some_and(|(at, _)| *at <= now)
    }

    /// Delayed items arrive now, still in order.
    pub fn hurry(&mut self, now: Time) {
        self.stalled_until = self.stalled_until.min(now);
        for (at, _) in &mut self.under_way {
            *at = (*at).min(now);
        }
    }

    /// Takes the next item.
    pub fn pop(&mut self) -> Option<T> {
        Some(self.under_way.pop_front()?.1)
    }

    /// Breaks the watch; what is under way is lost.
    pub fn close(&mut self) {
        self.open = false;
        self.under_way.clear();
    }
}

/// See the module's docs.
pub struct Side {
    pub slot: usize,
    /// Process whose store this is; `None` for the parent of a node's processes.
    pub proc: Option<ProcId>,
    pub replica: Replica,
    pub notes: Notes,
    /// Calls whose caller waits for the answer.
    pub calls: BTreeMap<Ticket, Pending>,
    /// All calls that the replica may still carry out, those that were given up included.
    pub known: BTreeMap<Ticket, Rc<Called>>,
    tickets: u64,
    /// Requests to the API server without an answer.
    pub open: BTreeMap<u64, Purpose>,
    requests: u64,
    /// State of the replica that was shown last.
    pub learned: Option<u64>,
    pub objects: Feed<Shown>,
    /// Last version that the watch of the object has delivered.
    pub watched: Option<u64>,
    pub leases: Feed<LeaseShown>,
    /// Leases that are being ended, one after another.
    pub ending: VecDeque<Due>,
    pub ends: bool,
}

impl Side {
    pub fn new(slot: usize, proc: Option<ProcId>, writer: u64, span_max: Option<Duration>) -> Self {
        let identity = proc.map(|p| format!("pod-{slot}-{p}"));
        let author = Author { keys: Keys::new("sim").expect("a valid name"), identity };
        Self {
            slot,
            proc,
            replica: Replica::new(author, Writer(writer), span_max),
            notes: Notes::default(),
            calls: BTreeMap::new(),
            known: BTreeMap::new(),
            tickets: 0,
            open: BTreeMap::new(),
            requests: 0,
            learned: None,
            objects: Feed::default(),
            watched: None,
            leases: Feed::default(),
            ending: VecDeque::new(),
            ends: false,
        }
    }

    /// Hands a call to the replica.
    pub fn ask(&mut self, request: Request, pending: Pending, asked: (u32, Revision)) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let (ask, deadline) = match &pending {
            Pending::Call { flight } => (Some(flight.ask.clone()), flight.deadline),
            _ => (None, Time::MAX),
        };
        self.known.insert(
            ticket,
            Rc::new(Called {
                ask,
                request: request.clone(),
                deadline,
                asked,
                took: Cell::new(None),
            }),
        );
        self.calls.insert(ticket, pending);
        self.replica.ask(ticket, request);
        ticket
    }

    /// Records the receiver of an answer, and returns the number of the request.
    pub fn wait_for(&mut self, purpose: Purpose) -> u64 {
        self.requests += 1;
        self.open.insert(self.requests, purpose);
        self.requests
    }

    /// Calls that the write in flight carries out, in order.
    pub fn writing(&self) -> Vec<Rc<Called>> {
        self.replica.writing().map(|ticket| Rc::clone(&self.known[&ticket])).collect()
    }

    pub fn revision(&self) -> Revision {
        self.replica.model().revision()
    }
}
