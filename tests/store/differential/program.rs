//! A random program for a store.
//!
//! Keys, leases and revisions are few, so that steps interact: half of the compares hold, puts and deletes hit
//! existing keys, reads ask for existing, compacted, or future revisions.

use std::time::Duration;

use bellwether::{
    engine::{LeaseId, Revision},
    store::{Compare, CompareOp, Get, KeyRange, KeyValue, Op, Target, Txn, WatchRequest},
};
use rand::{RngExt as _, rngs::StdRng, seq::IndexedRandom as _};

/// A call that is made to both stores.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Txn(Txn),
    Get(Get),
    Grant(LeaseId, Duration),
    Revoke(LeaseId),
    KeepAlive(LeaseId),
    Compact(Revision),
    /// Opens a watch under a name.
    Watch(u64, WatchRequest),
    /// Reads all items of the watch up to this revision, at least.
    Drain(u64, Revision),
}

pub(super) struct Program {
    rng: StdRng,
    /// Revision after the last step.
    revision: Revision,
    compacted: Revision,
    kvs: Vec<KeyValue>,
    /// Names of the open watches.
    watches: Vec<u64>,
    named: u64,
    puts: u64,
    keys: [&'static [u8]; 9],
}

const KEYS: [&[u8]; 9] = [b"a", b"a\0", b"a/1", b"a/2", b"aa", b"b", b"b/\xff", b"c", b"\xff"];
const TEXT: [&[u8]; 9] = [b"a", b"a\0", b"a/1", b"a/2", b"aa", b"b", b"b/~", b"c", b"~"];

impl Program {
    pub(super) fn new(rng: StdRng) -> Self {
        Self {
            rng,
            revision: Revision(1),
            compacted: Revision(0),
            kvs: Vec::new(),
            watches: Vec::new(),
            named: 0,
            puts: 0,
            keys: KEYS,
        }
    }

    /// Only keys that are text, and revisions from this one on.
    pub(super) fn text(self, revision: Revision) -> Self {
        Self { keys: TEXT, revision, compacted: revision, ..self }
    }

    /// Sets the present content of the store.
    pub(super) fn look(&mut self, revision: Revision, kvs: &[KeyValue]) {
        self.revision = revision;
        self.kvs = kvs.to_vec();
    }

    /// The next few steps, which belong together.
    pub(super) fn next_steps(&mut self) -> Vec<Step> {
        match self.rng.random_range(0..100) {
            0..50 => vec![Step::Txn(self.txn())],
            50..65 => vec![Step::Get(self.get())],
            65..72 => {
                // No lease expires by itself while a program runs.
                let ttl = Duration::from_secs(self.rng.random_range(1000..2000));
                let too_long = self.rng.random_range(0..20) == 0;
                let ttl = if too_long { Duration::from_secs(9_000_000_001) } else { ttl };
                vec![Step::Grant(self.lease(), ttl)]
            }
            72..77 => vec![Step::Revoke(self.lease())],
            77..81 => vec![Step::KeepAlive(self.lease())],
            81..84 => self.compact(),
            84..92 => self.watch(),
            _ => self.drain_one(),
        }
    }

    fn txn(&mut self) -> Txn {
        let compares = self.rng.random_range(0..3);
        let (then, otherwise) = (self.rng.random_range(0..5), self.rng.random_range(0..4));
        Txn {
            compares: (0..compares).map(|_| self.compare()).collect(),
            then: (0..then).map(|_| self.op()).collect(),
            otherwise: (0..otherwise).map(|_| self.op()).collect(),
        }
    }

    fn compare(&mut self) -> Compare {
        let op = [CompareOp::Equal, CompareOp::NotEqual, CompareOp::Less, CompareOp::Greater];
        let op = *op.choose(&mut self.rng).unwrap();
        let part = self.rng.random_range(0..3);
        // Mostly a compare with an existing key, by its exact value or nearly so.
        let there = self.kvs.choose(&mut self.rng).filter(|_| self.rng.random_range(0..3) > 0);
        let off = *[0, 0, 0, 0, -1, 1].choose(&mut self.rng).unwrap();
        let (range, created, modified, value) = if let Some(kv) = there {
            let beside = |revision: Revision| Revision(revision.0 + off);
            let value = if off == 0 { kv.value.clone() } else { b"m".to_vec() };
            (KeyRange::key(kv.key.clone()), beside(kv.created), beside(kv.modified), value)
        } else {
            let revision = self.some_revision();
            (self.range(), revision, revision, b"m".to_vec())
        };
        let target = match part {
            0 => Target::Created(created),
            1 => Target::Modified(modified),
            _ => Target::Value(value),
        };
        Compare { range, target, op }
    }

    fn op(&mut self) -> Op {
        match self.rng.random_range(0..10) {
            0..5 => {
                self.puts += 1;
                let lease = (self.rng.random_range(0..3) == 0).then(|| self.lease());
                Op::Put { key: self.key(), value: self.puts.to_string().into_bytes(), lease }
            }
            5..7 => Op::Delete(self.range()),
            _ => Op::Get(self.get()),
        }
    }

    fn get(&mut self) -> Get {
        Get {
            range: self.range(),
            keys_only: self.rng.random_range(0..4) == 0,
            limit: if self.rng.random() { 0 } else { self.rng.random_range(1..4) },
            at: (self.rng.random_range(0..3) == 0).then(|| self.some_revision()),
        }
    }

    fn key(&mut self) -> Vec<u8> {
        // Rarely an empty key, which is not allowed.
        if self.rng.random_range(0..60) == 0 {
            return Vec::new();
        }
        self.keys.choose(&mut self.rng).unwrap().to_vec()
    }

    fn range(&mut self) -> KeyRange {
        match self.rng.random_range(0..6) {
            0..3 => KeyRange::key(self.key()),
            3 => KeyRange::prefix("a/"),
            4 => KeyRange::prefix("a"),
            // Empty or inverted now and then.
            _ => {
                let (from, to) = (self.keys.choose(&mut self.rng), self.keys.choose(&mut self.rng));
                KeyRange { from: from.unwrap().to_vec(), to: to.unwrap().to_vec() }
            }
        }
    }

    fn lease(&mut self) -> LeaseId {
        LeaseId(self.rng.random_range(1..=4))
    }

    /// A revision that is mostly valid to ask for.
    fn some_revision(&mut self) -> Revision {
        match self.rng.random_range(0..10) {
            0 => Revision(0),
            1 => Revision(self.revision.0 + self.rng.random_range(1..3)),
            2 => Revision(self.rng.random_range(1..=self.revision.0)),
            _ => {
                let oldest = self.compacted.0.max(self.revision.0 - 12).max(1);
                Revision(self.rng.random_range(oldest..=self.revision.0))
            }
        }
    }

    /// Before a compaction, all watches are drained: the events that a watch still delivers after it depend on
    /// how quick the watch was.
    fn compact(&mut self) -> Vec<Step> {
        let mut steps = self.drain_all();
        // Revision zero compacts nothing, and no client asks for it.
        let revision = Revision(self.some_revision().0.max(1));
        if self.compacted < revision && revision <= self.revision {
            self.compacted = revision;
        }
        steps.push(Step::Compact(revision));
        steps
    }

    fn watch(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.watches.len() == 4 {
            steps = self.drain_all();
            self.watches.remove(0);
        }
        self.named += 1;
        self.watches.push(self.named);
        // Zero would mean "from now on".
        let from = Revision(self.some_revision().0.max(1));
        let range = match self.rng.random_range(0..4) {
            0 => KeyRange::key(self.keys.choose(&mut self.rng).unwrap().to_vec()),
            1 => KeyRange::prefix("a"),
            _ => KeyRange { from: b"a".to_vec(), to: vec![0xff; 2] },
        };
        let request = WatchRequest { range, from, previous: self.rng.random() };
        steps.push(Step::Watch(self.named, request));
        steps
    }

    fn drain_one(&mut self) -> Vec<Step> {
        let one = self.watches.choose(&mut self.rng).copied();
        one.map(|name| Step::Drain(name, self.revision)).into_iter().collect()
    }

    fn drain_all(&self) -> Vec<Step> {
        self.watches.iter().map(|name| Step::Drain(*name, self.revision)).collect()
    }
}
