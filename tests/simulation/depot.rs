//! The store of a run: the model of the real memory store, with backups, wipes and the log that watches read.

use std::{collections::VecDeque, rc::Rc, time::Duration};

use bellwether::{
    engine::{BootTime, Change, LeaseId, Revision, Term},
    store::{
        Get, KeyRange, KeyValue, Op, StoreError, Txn,
        keys::Keys,
        memory::{Between, Contents, Model, ModelConfig, WithPrevious},
        protocol::{Decoded, Request, Response},
        values,
    },
};

use crate::{
    chance::{Chance, Time},
    rules::History,
    scenario::Fault,
};

/// Everything that a backup holds.
pub type Image = (Model, History, Vec<Batch>);

/// The events of a revision, decoded once for all watches.
pub type Batch = (i64, Rc<Vec<Change>>);

/// The store, with the log and the history of its commits.
pub struct Depot {
    pub keys: Keys,
    model: Model,
    /// The last revision that is in the log.
    seen: Revision,
    /// History of commits, which the rules check against.
    pub history: History,
    /// All changes of the watched range since the store began, oldest first.
    log: Vec<Batch>,
    /// Number of batches of the log that have been published.
    published: usize,
    pub down_until: Time,
    /// When the store last came back.
    pub back_at: Time,
    pub stalled_until: Time,
    /// How the store is replaced when it comes back: wiped or restored.
    pub replacement: Option<Fault>,
    /// Number of times that the store was replaced.
    pub replaced: u32,
    backups: VecDeque<Image>,
    /// Whether the only backup has been made, after which no other is made.
    backed_up: bool,
    /// Whether leases end by time; in the Kubernetes API, nodes end them.
    timed: bool,
}

impl Depot {
    pub fn new(drawn: u64) -> Self {
        Self {
            keys: Keys::new("sim").expect("a valid name"),
            model: Model::new(ModelConfig { cluster: drawn, ..ModelConfig::default() }),
            seen: Revision(1),
            history: History::default(),
            log: Vec::new(),
            published: 0,
            down_until: 0,
            back_at: 0,
            stalled_until: 0,
            replacement: None,
            replaced: 0,
            backups: VecDeque::new(),
            backed_up: false,
            timed: true,
        }
    }

    /// Writes the record that a cluster leaves behind which ended cleanly.
    pub fn seed_ended(&mut self, now: Time) {
        let record = bellwether::engine::Record {
            term: Term(0),
            lease: None,
            node: None,
            n: 0,
            d: Duration::from_secs(3),
            ended: true,
            suspended: false,
        };
        let put =
            Op::Put { key: self.keys.record(), value: values::encode_record(&record), lease: None };
        let txn = Txn { then: vec![put], ..Txn::default() };
        self.serve(now, &Request::Txn(txn)).expect("nothing refuses it");
    }

    /// Carries out a request.
    pub fn serve(&mut self, now: Time, request: &Request) -> Result<Response, StoreError> {
        self.expire(now);
        let at = BootTime(Duration::from_nanos(if self.timed { now } else { 0 }));
        let response = match request {
            Request::Txn(txn) => self.model.txn(at, txn).map(Response::Txn),
            Request::Get(get) => self.model.get(at, get).map(Response::Get),
            Request::Grant { lease, ttl } => {
                self.model.grant(at, *lease, *ttl).map(Response::Lease)
            }
            Request::Revoke(lease) => self.model.revoke(at, *lease).map(Response::Lease),
            Request::KeepAlive(lease) => Ok(Response::Lease(self.model.keep_alive(at, *lease))),
        };
        self.collect();
        response
    }

    /// Ends the leases that have expired.
    pub fn expire(&mut self, now: Time) {
        if !self.timed || now < self.stalled_until.max(self.down_until) {
            return;
        }
        self.model.advance(BootTime(Duration::from_nanos(now)));
        self.collect();
    }

    fn collect(&mut self) {
        let from = Revision(self.seen.0 + 1);
        if self.model.revision() < from {
            return;
        }
        self.seen = self.model.revision();
        let range = self.keys.watched();
        let revisions =
            self.model.events(&range, from, WithPrevious::No).expect("never compacted that far");
        for (revision, events) in revisions {
            let changes = Decoded::of_events(&self.keys, &events).changes;
            self.log.push((revision.0, Rc::new(changes)));
        }
    }

    /// The next committed batch that is not yet published.
    pub fn next_batch(&mut self) -> Option<Batch> {
        let batch = self.log.get(self.published).cloned()?;
        self.published += 1;
        Some(batch)
    }

    /// Whether all commits have been published to the watches.
    pub fn is_published(&self) -> bool {
        self.published == self.log.len() && self.seen == self.model.revision()
    }

    pub fn batches_from(&self, from: i64) -> Vec<Batch> {
        let first = self.log.partition_point(|batch| batch.0 < from);
        self.log[first.min(self.published)..self.published].to_vec()
    }

    pub fn list(&mut self, now: Time) -> (i64, Vec<Change>) {
        self.expire(now);
        let kvs = self.range(self.keys.watched());
        (self.revision(), Decoded::of_list(&self.keys, &kvs).changes)
    }

    fn range(&self, range: KeyRange) -> Vec<KeyValue> {
        self.model.peek(&Get::range(range))
    }

    pub fn get(&self, key: &[u8]) -> Option<KeyValue> {
        self.model.peek(&Get::key(key)).pop()
    }

    /// All keys of the watched range.
    pub fn all(&self) -> Vec<KeyValue> {
        self.range(self.keys.watched())
    }

    pub fn drain_requests(&self) -> Vec<Vec<u8>> {
        self.range(self.keys.drain_requests()).into_iter().map(|kv| kv.key).collect()
    }

    pub fn leases(&self) -> Vec<LeaseId> {
        self.model.leases().collect()
    }

    pub fn revision(&self) -> i64 {
        self.model.revision().0
    }

    pub fn cluster(&self) -> u64 {
        self.model.cluster()
    }

    pub fn compacted(&self) -> i64 {
        self.model.compacted().0
    }

    pub fn compact(&mut self) {
        self.collect();
        let _ = self.model.compact(self.model.revision());
    }

    /// A failover of the store: the new leader of the store restarts the TTL of every lease.
    pub fn restart_leases(&mut self, now: Time) {
        let _ = self.model.failover(BootTime(Duration::from_nanos(now)));
        self.collect();
    }

    /// Leases end only when they are revoked.
    pub fn untimed(&mut self) {
        self.timed = false;
    }

    pub fn contents(&self) -> Contents {
        self.model.contents()
    }

    /// Starts an empty store with this cluster id and this revision.
    pub fn begin(&mut self, now: Time, cluster: u64, revision: Revision) {
        let contents = Contents { revision, ..Contents::default() };
        self.hold(now, (Model::from_contents(cluster, contents), History::default(), Vec::new()));
    }

    /// Takes in contents that another program than the protocol has written.
    pub fn follow(&mut self, contents: Contents) {
        self.model.follow(contents, Between::OneWrite);
        self.collect();
    }

    pub fn image(&self) -> Image {
        (self.model.clone(), self.history.clone(), self.log.clone())
    }

    /// The store is replaced by this one.
    pub fn become_image(&mut self, now: Time, image: Image) {
        self.replaced += 1;
        self.hold(now, image);
    }

    fn hold(&mut self, now: Time, (model, history, log): Image) {
        self.back_at = now;
        self.seen = model.revision();
        self.published = log.len();
        (self.model, self.history, self.log) = (model, history, log);
    }

    /// Makes the only backup, which every later restore uses.
    pub fn only_backup(&mut self) {
        self.backups.clear();
        self.snapshot();
        self.backed_up = true;
    }

    pub fn snapshot(&mut self) {
        if self.backed_up {
            return;
        }
        self.backups.push_back(self.image());
        if 8 < self.backups.len() {
            self.backups.pop_front();
        }
    }

    /// Replaces the store by an empty one, or by one from a backup.
    pub fn replace(&mut self, now: Time, fault: Fault, bumped: bool, drawn: u64) {
        let chance = &mut Chance::new(drawn);
        self.replaced += 1;
        self.back_at = now;
        let same_id = chance.percent(70);
        let cluster = if same_id { self.cluster() } else { chance.bits() };
        let backup = (!self.backups.is_empty() && fault == Fault::Restore)
            .then(|| chance.below(self.backups.len() as u64) as usize)
            .and_then(|n| self.backups.get(n));
        let newest = self.revision();
        if let Some((model, history, log)) = backup {
            let ahead = (newest - model.revision().0).unsigned_abs() + 1_000;
            self.model.restore(model, bumped.then_some(ahead));
            self.history = history.clone();
            self.log = log.clone();
        } else {
            self.model.wipe();
            self.history = History::default();
            self.log = Vec::new();
        }
        self.model.set_cluster(cluster);
        self.seen = self.model.revision();
        self.published = self.log.len();
        self.backups.clear();
        self.restart_leases(now);
    }
}
