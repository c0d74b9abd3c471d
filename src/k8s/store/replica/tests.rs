//! Random programs of several replicas over a model of the API server that loses answers, carries writes out
//! late and twice, and shows old states to watches.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

use super::*;
use crate::{
    engine::{LeaseId, timing::StoreTiming},
    store::{
        Compare, CompareOp, Effected, Get, KeyRange, KeyValue, Op, Target, Txn, keys::Keys,
        memory::WithPrevious,
    },
};

const SEEDS: u64 = 1_000;
const STEPS: usize = 150;
const REPLICAS: usize = 3;

/// The API server: one object, with all its states so far.
#[derive(Default)]
struct Server {
    version: u64,
    uid: u64,
    object: Option<Value>,
    /// Every state so far, with the number of the object.
    states: Vec<Value>,
}

impl Server {
    fn carry_out(&mut self, io: &Io) -> Reply {
        match (io, &self.object) {
            (Io::Read, Some(object)) => Reply::Object(Box::new(Object::read(object.clone()))),
            (Io::Read | Io::Replace(_), None) => Reply::Missing,
            (Io::Create(_), Some(_)) => Reply::Conflict,
            (Io::Create(body), None) => {
                self.uid += 1;
                self.put(body.clone())
            }
            (Io::Replace(body), Some(object)) => {
                let version = &body["metadata"]["resourceVersion"];
                let is_newest =
                    version.is_null() || *version == object["metadata"]["resourceVersion"];
                if is_newest && body["metadata"]["uid"] == object["metadata"]["uid"] {
                    self.put(body.clone())
                } else {
                    Reply::Conflict
                }
            }
        }
    }

    fn put(&mut self, mut body: Value) -> Reply {
        self.version += 1;
        body["metadata"]["uid"] = json!(format!("uid-{}", self.uid));
        body["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.states.push(body.clone());
        self.object = Some(body.clone());
        Reply::Object(Box::new(Object::read(body)))
    }

    /// A candidate of client-go writes the spec, and keeps the annotation.
    fn touch(&mut self, holder: Option<&str>) {
        if let Some(mut object) = self.object.clone() {
            object["spec"]["renewTime"] = json!(format!("touched at {}", self.version));
            if let Some(holder) = holder {
                object["spec"]["holderIdentity"] = json!(holder);
                object["spec"]["leaseDurationSeconds"] = json!(1);
            }
            self.put(object);
        }
    }

    fn contents(&self) -> Option<(u64, Contents)> {
        self.object.as_ref().map(contents_of)
    }
}

fn contents_of(object: &Value) -> (u64, Contents) {
    let object = Object::read(object.clone()).unwrap();
    (object.cluster(), object.state.map(|it| it.contents).unwrap_or_default())
}

/// A call and what it did.
struct Asked {
    replica: usize,
    /// Key that only this call writes, if it writes.
    mark: Option<Vec<u8>>,
    /// Cluster and revision of the server when the call came in.
    at_least: Option<(u64, Revision)>,
}

struct World {
    random: StdRng,
    now: Timestamp,
    server: Server,
    replicas: Vec<Replica>,
    /// Requests that were sent, by replica, and copies that may arrive late.
    in_flight: Vec<Option<Io>>,
    late: Vec<Io>,
    watched: Vec<usize>,
    asked: BTreeMap<Ticket, Asked>,
    /// Marks that must be there, by cluster, and marks that must never appear.
    acknowledged: BTreeSet<(u64, Vec<u8>)>,
    refused: BTreeSet<Vec<u8>>,
    /// Contents that a watcher of each replica has put together.
    watchers: Vec<Watcher>,
    answered: usize,
    told: usize,
}

#[derive(Default)]
struct Watcher {
    replacements: u64,
    next: Revision,
    keys: BTreeMap<Vec<u8>, KeyValue>,
}

fn all() -> KeyRange {
    KeyRange { from: vec![0], to: vec![0xff] }
}

impl World {
    fn new(seed: u64, flaw: Option<Flaw>) -> Self {
        let replica = |n: usize| {
            let author = Author { keys: Keys::new("shop").unwrap(), identity: None };
            let span = Some(StoreTiming::KUBERNETES.span_max).filter(|_| n != 0);
            Replica { flaw, ..Replica::new(author, Writer(n as u64 + 1), span) }
        };
        Self {
            random: StdRng::seed_from_u64(seed),
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            server: Server::default(),
            replicas: (0..REPLICAS).map(replica).collect(),
            in_flight: (0..REPLICAS).map(|_| None).collect(),
            late: Vec::new(),
            watched: vec![0; REPLICAS],
            asked: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            refused: BTreeSet::new(),
            watchers: (0..REPLICAS).map(|_| Watcher::default()).collect(),
            answered: 0,
            told: 0,
        }
    }

    fn step(&mut self) {
        let replica = self.random.random_range(0..REPLICAS);
        self.now += jiff::SignedDuration::from_millis(70);
        match self.random.random_range(0..100) {
            0..30 => self.ask(replica),
            30..70 => self.exchange(replica),
            70..75 => self.lose(replica),
            75..80 => self.arrive_late(),
            80..93 => self.watch(replica),
            93..96 => self.server.touch(None),
            96 => {
                let holder = ["", "go-1", "go-2"][self.random.random_range(0..3)];
                self.server.touch(Some(holder));
            }
            97 if self.random.random_bool(0.3) => self.server.object = None,
            _ => {
                let ticket = self.asked.keys().next_back().copied();
                if let Some(ticket) = ticket {
                    let asked = &self.asked[&ticket];
                    self.replicas[asked.replica].forget(ticket);
                }
            }
        }
        let boot = BootTime(Duration::from_millis(self.now.as_millisecond().unsigned_abs()));
        for replica in 0..REPLICAS {
            self.replicas[replica].advance(boot);
            self.collect(replica);
            self.follow(replica);
        }
        self.check();
    }

    fn ask(&mut self, replica: usize) {
        let ticket = Ticket(self.asked.len() as u64 + 1);
        let at_least = self.server.contents().map(|(cluster, it)| (cluster, it.revision));
        let mark = format!("mark/{}", ticket.0).into_bytes();
        let counter = format!("counter/{}", self.random.random_range(0..3)).into_bytes();
        let model = self.replicas[replica].model();
        let seen = model.peek(&Get::key(counter.clone()));
        let put = |key: &[u8], value: &[u8], lease| Op::Put {
            key: key.to_vec(),
            value: value.to_vec(),
            lease,
        };
        let lease = LeaseId(self.random.random_range(1..4));
        let (request, mark) = match self.random.random_range(0..10) {
            0..4 => {
                let modified = seen.first().map_or(Revision(0), |kv| kv.modified);
                let compare = Compare {
                    range: KeyRange::key(counter.clone()),
                    op: CompareOp::Equal,
                    target: Target::Modified(modified),
                };
                let then = vec![put(&mark, b"x", None), put(&counter, &[0xff, 0xfe], None)];
                let otherwise = vec![Op::Get(Get::key(counter))];
                (Request::Txn(Txn { compares: vec![compare], then, otherwise }), Some(mark))
            }
            4 => {
                let then = vec![put(&mark, b"y", None), Op::Delete(KeyRange::key(counter))];
                (Request::Txn(Txn { then, ..Txn::default() }), Some(mark))
            }
            5 => (Request::Grant { lease, ttl: Duration::from_secs(10) }, None),
            6 => (Request::Revoke(lease), None),
            7 => {
                let then = vec![put(&counter, b"leased", Some(lease))];
                (Request::Txn(Txn { then, ..Txn::default() }), None)
            }
            _ => (Request::Get(Get::range(all())), None),
        };
        self.asked.insert(ticket, Asked { replica, mark, at_least });
        self.replicas[replica].ask(ticket, request);
    }

    fn send(&mut self, replica: usize) {
        if self.in_flight[replica].is_none() {
            self.in_flight[replica] = self.replicas[replica].next_io(self.now);
            self.collect(replica);
        }
    }

    /// A request and its answer, perhaps with a second copy of the request.
    fn exchange(&mut self, replica: usize) {
        self.send(replica);
        let Some(io) = self.in_flight[replica].take() else { return };
        let first = self.server.carry_out(&io);
        let is_put = matches!(io, Io::Replace(_));
        let reply = match self.random.random_range(0..10) {
            0 if is_put => self.server.carry_out(&io),
            1 if is_put => {
                self.late.push(io);
                first
            }
            _ => first,
        };
        self.replicas[replica].replied(reply);
    }

    /// A request whose answer is lost: carried out, carried out later, or never.
    fn lose(&mut self, replica: usize) {
        self.send(replica);
        let Some(io) = self.in_flight[replica].take() else { return };
        match self.random.random_range(0..3) {
            0 => drop(self.server.carry_out(&io)),
            1 => self.late.push(io),
            _ => {}
        }
        self.replicas[replica].replied(Reply::Lost(interrupted("lost".to_owned())));
    }

    fn arrive_late(&mut self) {
        if !self.late.is_empty() {
            let at = self.random.random_range(0..self.late.len());
            let io = self.late.swap_remove(at);
            // A late copy of the creation of an object is a creation.
            self.server.carry_out(&io);
        }
    }

    /// The watch delivers the next state, or skips some after it was opened again.
    fn watch(&mut self, replica: usize) {
        let skipped = if self.random.random_bool(0.1) { 3 } else { 0 };
        let at = self.watched[replica] + skipped;
        if let Some(state) = self.server.states.get(at) {
            self.watched[replica] = at + 1;
            self.replicas[replica].observe(Object::read(state.clone()));
        }
    }

    fn collect(&mut self, replica: usize) {
        for (ticket, result) in self.replicas[replica].take_answers() {
            let asked = self.asked.get_mut(&ticket).expect("asked once");
            let mark = asked.mark.take();
            self.answered += 1;
            match result {
                Ok(Response::Txn(answer)) => match (mark, answer.succeeded) {
                    (Some(mark), true) => drop(self.acknowledged.insert((answer.cluster, mark))),
                    (Some(mark), false) => drop(self.refused.insert(mark)),
                    (None, _) => {}
                },
                Ok(Response::Get(answer)) => {
                    if let Some((cluster, revision)) = asked.at_least
                        && cluster == answer.cluster
                    {
                        assert!(answer.revision >= revision, "{ticket:?} read what was old");
                    }
                    let known = self.server.states.iter().map(contents_of).any(|(cluster, it)| {
                        cluster == answer.cluster
                            && it.revision == answer.revision
                            && it.keys.values().eq(&answer.kvs)
                    });
                    assert!(known || answer.kvs.is_empty(), "{ticket:?} read what never was");
                }
                Ok(Response::Lease(_)) => {}
                Err(error) => {
                    if error.effected() == Effected::No
                        && let Some(mark) = mark
                    {
                        self.refused.insert(mark);
                    }
                }
            }
        }
    }

    /// A reader of the replica's history puts the store together from events.
    fn follow(&mut self, replica: usize) {
        let model = self.replicas[replica].model();
        let watcher = &mut self.watchers[replica];
        let relist = |watcher: &mut Watcher| {
            watcher.replacements = model.replacements();
            watcher.next = Revision(model.revision().0 + 1);
            watcher.keys = model.entries().map(|kv| (kv.key.clone(), kv.clone())).collect();
        };
        if watcher.replacements != model.replacements() {
            relist(watcher);
        }
        loop {
            match model.next_events(&all(), watcher.next, WithPrevious::Yes) {
                Err(_) => {
                    relist(watcher);
                    break;
                }
                Ok(None) => break,
                Ok(Some((revision, events))) => {
                    self.told += 1;
                    for event in events {
                        assert_eq!(event.kv.modified, revision);
                        if event.deleted {
                            assert!(watcher.keys.remove(&event.kv.key).is_some());
                        } else {
                            watcher.keys.insert(event.kv.key.clone(), event.kv);
                        }
                    }
                    watcher.next = Revision(revision.0 + 1);
                    let known = self
                        .server
                        .states
                        .iter()
                        .map(contents_of)
                        .any(|(_, it)| it.revision >= revision);
                    assert!(known, "told before it was written");
                }
            }
        }
        assert!(
            watcher.keys.values().eq(model.entries()),
            "the events of replica {replica} do not add up to its state"
        );
    }

    fn check(&self) {
        let Some(state) = self.server.states.last() else { return };
        let (cluster, contents) = contents_of(state);
        for (key, kv) in &contents.keys {
            assert!(!self.refused.contains(key), "{} was refused", String::from_utf8_lossy(key));
            if key.starts_with(b"mark/") {
                assert_eq!(kv.version, 1, "{} was written twice", String::from_utf8_lossy(key));
            }
            assert!(kv.lease.is_none_or(|lease| contents.leases.contains_key(&lease)));
        }
        for (of, mark) in &self.acknowledged {
            assert!(
                *of != cluster || contents.keys.contains_key(mark),
                "{} was acknowledged and is not there",
                String::from_utf8_lossy(mark)
            );
        }
    }
}

/// Runs a program. Returns how many calls were answered, and how many revisions a watch delivered.
fn run(seed: u64, flaw: Option<Flaw>) -> std::thread::Result<(usize, usize)> {
    std::panic::catch_unwind(|| {
        let mut world = World::new(seed, flaw);
        for _ in 0..STEPS {
            world.step();
        }
        (world.answered, world.told)
    })
}

#[test]
fn whatever_the_network_does_the_answers_are_those_of_one_store() {
    let (mut answered, mut told) = (0, 0);
    for seed in 0..SEEDS {
        match run(seed, None) {
            Ok((a, t)) => (answered, told) = (answered + a, told + t),
            Err(panic) => {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    // The programs must reach what they are about.
    assert!(answered as u64 > SEEDS * 15 && told as u64 > SEEDS * 10, "{answered} {told}");
}

#[test]
fn a_replica_without_one_of_its_rules_is_found_out() {
    for flaw in
        [Flaw::AnswersUnconfirmed, Flaw::RefusalIsFinal, Flaw::SentAgain, Flaw::Unconditional]
    {
        let found = (0..SEEDS).find(|seed| run(*seed, Some(flaw)).is_err());
        println!("{flaw:?}: found with seed {found:?}");
        assert!(found.is_some(), "{flaw:?} goes unnoticed");
    }
}

fn replica_with(user: &[u8]) -> Replica {
    let author = Author { keys: Keys::new("shop").unwrap(), identity: None };
    let mut replica = Replica::new(author, Writer(1), None);
    let mut server = Server::default();
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let put = |key: &[u8]| {
        let put = Op::Put { key: key.to_vec(), value: b"1".to_vec(), lease: None };
        Request::Txn(Txn { then: vec![put], ..Txn::default() })
    };
    replica.advance(BootTime(Duration::from_secs(100)));
    replica.ask(Ticket(1), put(user));
    while let Some(io) = replica.next_io(now) {
        let reply = server.carry_out(&io);
        replica.replied(reply);
    }
    assert_eq!(replica.take_answers().len(), 1, "the first write is made at once");
    for ticket in 2..12 {
        replica.ask(Ticket(ticket), put(format!("/shop/state-data/k{ticket}/1").as_bytes()));
    }
    replica
}

#[test]
fn data_of_users_is_gathered_into_few_writes() {
    let now = Timestamp::from_second(1_800_000_001).unwrap();
    let mut replica = replica_with(b"/shop/state-data/k/1");
    assert_eq!(replica.next_io(now), None, "it waits");
    let due = replica.advance(BootTime(Duration::from_secs(100))).unwrap();
    assert_eq!(due, BootTime(Duration::from_secs(100) + GATHER_FOR));
    replica.advance(due);
    assert!(matches!(replica.next_io(now), Some(Io::Replace(_))));
    assert!(replica.waiting.is_empty(), "all ten are in one write");

    // A write of the protocol takes them along.
    let mut replica = replica_with(b"/shop/state-data/k/1");
    let put = Op::Put { key: b"/shop/bellwether/tick".to_vec(), value: b"1".to_vec(), lease: None };
    replica.ask(Ticket(20), Request::Txn(Txn { then: vec![put], ..Txn::default() }));
    assert!(matches!(replica.next_io(now), Some(Io::Replace(_))));
    assert!(replica.waiting.is_empty(), "all eleven are in one write");
}

#[test]
fn a_node_that_may_not_write_asks_seldom() {
    let author = Author { keys: Keys::new("shop").unwrap(), identity: None };
    let mut replica = Replica::new(author, Writer(1), Some(StoreTiming::KUBERNETES.span_max));
    let denied = || StoreError::Denied {
        call: "txn",
        endpoint: ENDPOINT.to_owned(),
        message: "no".to_owned(),
    };
    let (mut requests, mut now) = (0, Timestamp::from_second(1_800_000_000).unwrap());
    for millisecond in 0..10_000 {
        now += jiff::SignedDuration::from_millis(1);
        replica.advance(BootTime(Duration::from_millis(millisecond)));
        if let Some(io) = replica.next_io(now) {
            requests += 1;
            let missing = io == Io::Read;
            replica.replied(if missing { Reply::Missing } else { Reply::Refused(denied()) });
        }
    }
    assert!((2..=25).contains(&requests), "{requests} requests in ten seconds");
    // A call is answered at once all the same.
    replica.ask(Ticket(1), Request::Get(Get::key("a")));
    while let Some(io) = replica.next_io(now) {
        let missing = io == Io::Read;
        replica.replied(if missing { Reply::Missing } else { Reply::Refused(denied()) });
    }
    let answers = replica.take_answers();
    assert!(matches!(&answers[..], [(Ticket(1), Err(StoreError::Denied { .. }))]), "{answers:?}");
}

#[test]
fn another_span_max_is_taken_on_when_nobody_lives_and_its_time_is_over() {
    let mut server = Server::default();
    let start = Timestamp::from_second(1_800_000_000).unwrap();
    let replica = |writer, timing: StoreTiming| {
        let author = Author { keys: Keys::new("shop").unwrap(), identity: None };
        Replica::new(author, Writer(writer), Some(timing.span_max))
    };
    let mut ask = |replica: &mut Replica, at: u64, request: Request| {
        replica.advance(BootTime(Duration::from_secs(at)));
        replica.ask(Ticket(at), request);
        loop {
            replica.advance(BootTime(Duration::from_secs(at)));
            let Some(io) = replica.next_io(start) else { break };
            let reply = server.carry_out(&io);
            replica.replied(reply);
        }
        replica.take_answers().pop().expect("one call, one answer").1
    };
    let get = || Request::Get(Get::key("a"));
    let lease = LeaseId(1);
    let mut calm = replica(1, StoreTiming::KUBERNETES_CALM);
    ask(&mut calm, 1, Request::Grant { lease, ttl: Duration::from_secs(30) }).unwrap();
    let mut other = replica(2, StoreTiming::KUBERNETES);
    assert!(matches!(ask(&mut other, 2, get()), Err(StoreError::SpanDisagreement { .. })));
    ask(&mut calm, 3, Request::Revoke(lease)).unwrap();
    // 16.5 s from when the last write was seen.
    assert!(matches!(ask(&mut other, 4, get()), Err(StoreError::Overloaded { .. })));
    assert!(matches!(ask(&mut other, 20, get()), Err(StoreError::Overloaded { .. })));
    ask(&mut other, 21, get()).unwrap();
    ask(&mut other, 22, Request::Grant { lease, ttl: Duration::from_secs(10) }).unwrap();
    assert!(matches!(ask(&mut calm, 23, get()), Err(StoreError::SpanDisagreement { .. })));
}
