//! Stands in for `store::memory::Model` until that lands.

use std::{collections::BTreeMap, time::Duration};

use bellwether::{
    engine::{LeaseId, Revision},
    store::{
        CompareOp, Event, GetAnswer, KeyRange, KeyValue, LeaseAnswer, Op, StoreError, Target, Txn,
        TxnAnswer,
        protocol::{Request, Response},
    },
};

#[derive(Clone, Debug)]
pub struct Model {
    cluster: u64,
    revision: i64,
    compacted: i64,
    keys: BTreeMap<Vec<u8>, KeyValue>,
    leases: BTreeMap<LeaseId, (Duration, Duration)>,
    events: Vec<(Revision, Vec<Event>)>,
}

impl Model {
    pub fn new(cluster: u64) -> Self {
        Self {
            cluster,
            revision: 1,
            compacted: 0,
            keys: BTreeMap::new(),
            leases: BTreeMap::new(),
            events: Vec::new(),
        }
    }
    pub fn serve(&mut self, now: Duration, request: &Request) -> Result<Response, StoreError> {
        match request {
            Request::Txn(txn) => self.txn(txn).map(Response::Txn),
            Request::Get(get) => Ok(Response::Get(GetAnswer {
                revision: Revision(self.revision),
                cluster: self.cluster,
                kvs: self.range(&get.range),
                more: false,
            })),
            Request::Grant { lease, ttl } => {
                if self.leases.contains_key(lease) {
                    return Err(StoreError::LeaseExists);
                }
                self.leases.insert(*lease, (*ttl, now + *ttl));
                Ok(Response::Lease(self.lease_answer(*ttl)))
            }
            Request::Revoke(lease) => {
                if self.leases.remove(lease).is_none() {
                    return Err(StoreError::LeaseNotFound);
                }
                self.drop_lease(*lease);
                Ok(Response::Lease(self.lease_answer(Duration::ZERO)))
            }
            Request::KeepAlive(lease) => {
                let ttl = self.leases.get_mut(lease).map_or(Duration::ZERO, |(ttl, until)| {
                    *until = now + *ttl;
                    *ttl
                });
                Ok(Response::Lease(self.lease_answer(ttl)))
            }
        }
    }
    fn lease_answer(&self, ttl: Duration) -> LeaseAnswer {
        LeaseAnswer { ttl, revision: Revision(self.revision), cluster: self.cluster }
    }
    fn drop_lease(&mut self, lease: LeaseId) {
        let keys: Vec<Vec<u8>> = self
            .keys
            .values()
            .filter(|kv| kv.lease == Some(lease))
            .map(|kv| kv.key.clone())
            .collect();
        if keys.is_empty() {
            return;
        }
        self.revision += 1;
        let mut events = Vec::new();
        for key in keys {
            events.push(self.delete(&key));
        }
        self.events.push((Revision(self.revision), events));
    }
    fn delete(&mut self, key: &[u8]) -> Event {
        self.keys.remove(key);
        Event {
            kv: KeyValue {
                key: key.to_vec(),
                value: vec![],
                created: Revision(0),
                modified: Revision(self.revision),
                version: 0,
                lease: None,
            },
            deleted: true,
            previous: None,
        }
    }
    fn txn(&mut self, txn: &Txn) -> Result<TxnAnswer, StoreError> {
        let holds = txn.compares.iter().all(|compare| {
            let of = |kv: &KeyValue| match compare.target {
                Target::Created => kv.created,
                Target::Modified => kv.modified,
            };
            let ok = |revision: Revision| match compare.op {
                CompareOp::Equal => revision == compare.revision,
                CompareOp::NotEqual => revision != compare.revision,
                CompareOp::Less => revision < compare.revision,
                CompareOp::Greater => revision > compare.revision,
            };
            if compare.range.is_key() {
                ok(self.keys.get(&compare.range.from).map_or(Revision(0), of))
            } else {
                self.range(&compare.range).iter().all(|kv| ok(of(kv)))
            }
        });
        let ops = if holds { &txn.then } else { &txn.otherwise };
        for op in ops {
            if let Op::Put { lease: Some(lease), .. } = op
                && !self.leases.contains_key(lease)
            {
                return Err(StoreError::LeaseNotFound);
            }
        }
        let mut events = Vec::new();
        let mut reads = Vec::new();
        let mut deleted = Vec::new();
        self.revision += 1;
        for op in ops {
            let mut read = vec![];
            let mut gone = 0;
            match op {
                Op::Put { key, value, lease } => {
                    let old = self.keys.get(key);
                    let kv = KeyValue {
                        key: key.clone(),
                        value: value.clone(),
                        created: old.map_or(Revision(self.revision), |old| old.created),
                        modified: Revision(self.revision),
                        version: old.map_or(1, |old| old.version + 1),
                        lease: *lease,
                    };
                    self.keys.insert(key.clone(), kv.clone());
                    events.push(Event { kv, deleted: false, previous: None });
                }
                Op::Delete(range) => {
                    for kv in self.range(range) {
                        gone += 1;
                        events.push(self.delete(&kv.key));
                    }
                }
                Op::Get(get) => read = self.range(&get.range),
            }
            reads.push(read);
            deleted.push(gone);
        }
        if events.is_empty() {
            self.revision -= 1;
        } else {
            self.events.push((Revision(self.revision), events));
        }
        Ok(TxnAnswer {
            succeeded: holds,
            revision: Revision(self.revision),
            cluster: self.cluster,
            reads,
            deleted,
        })
    }
    pub fn expire(&mut self, now: Duration) {
        let over: Vec<LeaseId> =
            self.leases.iter().filter(|(_, (_, at))| *at <= now).map(|(lease, _)| *lease).collect();
        for lease in over {
            self.leases.remove(&lease);
            self.drop_lease(lease);
        }
    }
    pub fn take_events(&mut self) -> Vec<(Revision, Vec<Event>)> {
        std::mem::take(&mut self.events)
    }
    pub fn range(&self, range: &KeyRange) -> Vec<KeyValue> {
        self.keys.range(range.from.clone()..range.to.clone()).map(|(_, kv)| kv.clone()).collect()
    }
    pub fn key(&self, key: &[u8]) -> Option<KeyValue> {
        self.keys.get(key).cloned()
    }
    pub fn leases(&self) -> Vec<LeaseId> {
        self.leases.keys().copied().collect()
    }
    pub fn revision(&self) -> Revision {
        Revision(self.revision)
    }
    pub fn cluster(&self) -> u64 {
        self.cluster
    }
    pub fn set_cluster(&mut self, cluster: u64) {
        self.cluster = cluster;
    }
    pub fn compacted(&self) -> Revision {
        Revision(self.compacted)
    }
    pub fn compact(&mut self, at: Revision) {
        self.compacted = at.0;
    }
    pub fn bump(&mut self, to: Revision) {
        self.revision = to.0;
        self.compacted = to.0;
    }
    pub fn restart_leases(&mut self, now: Duration) {
        for (ttl, until) in self.leases.values_mut() {
            *until = now + *ttl;
        }
    }
}
