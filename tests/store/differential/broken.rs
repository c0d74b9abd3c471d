//! Memory stores with one deliberate flaw each, which the comparison must find.

use std::time::Duration;

use async_trait::async_trait;
use bellwether::{
    engine::{LeaseId, Revision, StoreTiming},
    store::{
        Get, GetAnswer, Health, LeaseAnswer, Op, Store, StoreError, Txn, TxnAnswer, Watch,
        WatchRequest, memory::MemoryStore,
    },
};

/// The flaw of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// Every compare of an empty range holds, with any value.
    EmptyRangeHolds,
    /// A compare of a range checks only the first key.
    RangeByFirstKey,
    /// A put without a lease keeps the key on its earlier lease.
    PutKeepsLease,
    /// A put on a lease that does not exist is carried out without a lease.
    UnknownLeaseIgnored,
    /// The limit of a read is ignored.
    LimitIgnored,
    /// The revision of a read is ignored.
    OldReadsNew,
    /// A transaction raises the revision even if it changes nothing.
    EmptyTxnCounts,
    /// Events do not carry the previous value.
    NoPrevious,
    /// A watch begins one revision late.
    WatchLate,
    /// A transaction may put the same key twice, and the last put wins.
    DuplicatesAllowed,
    /// A revoke leaves the keys of the lease.
    RevokeKeepsKeys,
    /// A compaction keeps old revisions readable.
    CompactedStillRead,
}

impl Flaw {
    pub(super) const ALL: [Self; 12] = [
        Self::EmptyRangeHolds,
        Self::RangeByFirstKey,
        Self::PutKeepsLease,
        Self::UnknownLeaseIgnored,
        Self::LimitIgnored,
        Self::OldReadsNew,
        Self::EmptyTxnCounts,
        Self::NoPrevious,
        Self::WatchLate,
        Self::DuplicatesAllowed,
        Self::RevokeKeepsKeys,
        Self::CompactedStillRead,
    ];
}

#[derive(Debug)]
pub(super) struct Broken {
    store: MemoryStore,
    flaw: Flaw,
}

impl Broken {
    pub(super) fn new(store: MemoryStore, flaw: Flaw) -> Self {
        Self { store, flaw }
    }

    async fn mend(&self, mut txn: Txn, timeout: Duration) -> Txn {
        match self.flaw {
            Flaw::EmptyRangeHolds | Flaw::RangeByFirstKey => {
                let mut kept = Vec::new();
                for mut compare in txn.compares {
                    let found = self.store.get(Get::range(compare.range.clone()), timeout).await;
                    let kvs = found.map(|answer| answer.kvs).unwrap_or_default();
                    let range = !compare.range.is_key();
                    if self.flaw == Flaw::EmptyRangeHolds && range && kvs.is_empty() {
                        continue;
                    }
                    if self.flaw == Flaw::RangeByFirstKey && range && !kvs.is_empty() {
                        compare.range = bellwether::store::KeyRange::key(kvs[0].key.clone());
                    }
                    kept.push(compare);
                }
                txn.compares = kept;
            }
            Flaw::PutKeepsLease | Flaw::UnknownLeaseIgnored => {
                for op in txn.then.iter_mut().chain(&mut txn.otherwise) {
                    let Op::Put { key, lease, .. } = op else { continue };
                    if self.flaw == Flaw::PutKeepsLease && lease.is_none() {
                        let was = self.store.get(Get::key(key.clone()), timeout).await;
                        *lease = was.ok().and_then(|was| was.kvs.first()?.lease);
                    }
                    let live: Vec<_> = self.store.with_model(|model| model.leases().collect());
                    if self.flaw == Flaw::UnknownLeaseIgnored {
                        *lease = lease.filter(|lease| live.contains(lease));
                    }
                }
            }
            Flaw::DuplicatesAllowed => {
                for ops in [&mut txn.then, &mut txn.otherwise] {
                    let later: Vec<_> = ops.clone();
                    let mut at = 0;
                    ops.retain(|op| {
                        at += 1;
                        let Op::Put { key, .. } = op else { return true };
                        !later[at..].iter().any(|l| matches!(l, Op::Put { key: k, .. } if k == key))
                    });
                }
            }
            Flaw::LimitIgnored | Flaw::OldReadsNew | Flaw::CompactedStillRead => {
                for op in txn.then.iter_mut().chain(&mut txn.otherwise) {
                    if let Op::Get(get) = op {
                        *get = self.mend_get(get.clone());
                    }
                }
            }
            _ => {}
        }
        txn
    }

    fn mend_get(&self, mut get: Get) -> Get {
        let (revision, compacted) =
            self.store.with_model(|model| (model.revision(), model.compacted()));
        match self.flaw {
            Flaw::LimitIgnored => get.limit = 0,
            Flaw::OldReadsNew => get.at = get.at.filter(|at| compacted > *at || *at > revision),
            Flaw::CompactedStillRead => {
                get.at = get.at.map(|at| if at < compacted { compacted } else { at });
            }
            _ => {}
        }
        get
    }
}

#[async_trait]
impl Store for Broken {
    fn kind(&self) -> &'static str {
        "broken"
    }

    fn timing(&self) -> StoreTiming {
        StoreTiming::ETCD
    }

    async fn txn(&self, txn: Txn, timeout: Duration) -> Result<TxnAnswer, StoreError> {
        let before = self.store.with_model(|model| model.revision());
        let txn = self.mend(txn, timeout).await;
        let mut answer = self.store.txn(txn, timeout).await?;
        if self.flaw == Flaw::EmptyTxnCounts && answer.revision == before {
            answer.revision.0 += 1;
        }
        Ok(answer)
    }

    async fn get(&self, get: Get, timeout: Duration) -> Result<GetAnswer, StoreError> {
        self.store.get(self.mend_get(get), timeout).await
    }

    async fn grant(
        &self,
        lease: LeaseId,
        ttl: Duration,
        timeout: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        self.store.grant(lease, ttl, timeout).await
    }

    async fn revoke(&self, lease: LeaseId, timeout: Duration) -> Result<LeaseAnswer, StoreError> {
        if self.flaw == Flaw::RevokeKeepsKeys {
            let all = bellwether::store::KeyRange { from: vec![0], to: vec![0xff; 3] };
            for kv in self.store.get(Get::range(all), timeout).await?.kvs {
                if kv.lease == Some(lease) {
                    let put = Op::Put { key: kv.key, value: kv.value, lease: None };
                    let txn = Txn { then: vec![put], ..Txn::default() };
                    self.store.txn(txn, timeout).await?;
                }
            }
        }
        self.store.revoke(lease, timeout).await
    }

    async fn keep_alive(
        &self,
        lease: LeaseId,
        timeout: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        self.store.keep_alive(lease, timeout).await
    }

    async fn watch(
        &self,
        mut request: WatchRequest,
        timeout: Duration,
    ) -> Result<Box<dyn Watch>, StoreError> {
        match self.flaw {
            Flaw::NoPrevious => request.previous = false,
            Flaw::WatchLate => request.from = Revision(request.from.0 + 1),
            _ => {}
        }
        self.store.watch(request, timeout).await
    }

    fn health(&self) -> Health {
        self.store.health()
    }
}
