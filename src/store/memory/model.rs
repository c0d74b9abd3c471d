//! A model of etcd as a value: revisions, transactions, leases, history. No I/O, no clock, no async; time
//! is an argument, by the store's own clock.
//!
//! The model is not a cluster. Raft, members and networks are the caller's part (for example the
//! simulation's): a call on the model is the moment at which the call commits. Only the effect that a
//! change of etcd's leader has on leases is here ([`Model::failover`], [`Deposed`]).
//!
//! The most important rule: a caller cannot distinguish the model from etcd by its answers. The
//! differential test checks that, answer by answer and event by event.
//!
//! # Invariants
//!
//! Each revision above the compacted one is one entry of the history, with at least one event. A live key
//! is in the key set of the lease it hangs on, and of no other lease.

mod contents;
mod form;
mod leases;

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use crate::{
    engine::{BootTime, LeaseId, Revision},
    store::{Compare, Event, Get, GetAnswer, KeyRange, KeyValue, Op, StoreError, Txn, TxnAnswer},
};

pub use contents::{Between, Contents};
pub use leases::Deposed;

/// Configuration of the properties in which etcd installations differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelConfig {
    /// Id of the cluster. In etcd it is a hash of peer URLs and token: a wiped or restored store has the
    /// same id (R8, replaced store).
    pub cluster: u64,
    /// etcd's election timeout: a lease lives at least 1.5 times as long, in whole seconds, and is
    /// prolonged by the timeout when the leader changes.
    pub election_timeout: Duration,
    /// Interval of the search for expired leases. More than zero.
    pub expiry_every: Duration,
}

impl Default for ModelConfig {
    /// The defaults of etcd.
    fn default() -> Self {
        Self {
            cluster: 0xb311_3e7b_e11e_7432,
            election_timeout: Duration::from_secs(1),
            expiry_every: Duration::from_millis(500),
        }
    }
}

/// Events by revision, oldest first, each revision whole.
pub type Revisions = Vec<(Revision, Vec<Event>)>;

/// A store, at one moment. A clone is a backup, which shares memory with the original where possible.
#[derive(Clone, Debug)]
pub struct Model {
    config: ModelConfig,
    now: BootTime,
    revision: Revision,
    keys: BTreeMap<Vec<u8>, Arc<KeyValue>>,
    leases: BTreeMap<LeaseId, leases::Lease>,
    /// Entries of the history, one per revision; the last is of `revision`.
    history: VecDeque<Arc<[Past]>>,
    /// Revisions below this one are forgotten.
    compacted: Revision,
    /// No lease is found expired before this time: most calls need not check all leases.
    quiet_until: BootTime,
    /// Number of times that the data was replaced.
    replacements: u64,
}

/// Event of the history.
#[derive(Clone, Debug)]
struct Past {
    kv: Arc<KeyValue>,
    deleted: bool,
    previous: Option<Arc<KeyValue>>,
}

impl Model {
    /// Creates an empty store, at revision 1, like a new etcd.
    ///
    /// # Panics
    ///
    /// If the interval of the search for expired leases is zero.
    pub fn new(config: ModelConfig) -> Self {
        assert!(!config.expiry_every.is_zero(), "a model looks for expired leases in some period");
        Self {
            config,
            now: BootTime::default(),
            revision: Revision(1),
            keys: BTreeMap::new(),
            leases: BTreeMap::new(),
            history: VecDeque::new(),
            compacted: Revision(0),
            quiet_until: BootTime::default(),
            replacements: 0,
        }
    }

    /// Revision of the last change.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Oldest revision that can still be read or watched from; zero = all.
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// Id of the cluster.
    pub fn cluster(&self) -> u64 {
        self.config.cluster
    }

    /// Number of keys that exist.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key exists.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Ids of the leases that live.
    pub fn leases(&self) -> impl Iterator<Item = LeaseId> + '_ {
        self.leases.keys().copied()
    }

    /// Carries out a transaction.
    ///
    /// # Errors
    ///
    /// As in etcd: [`StoreError::Denied`] if the transaction is malformed, [`StoreError::LeaseNotFound`]
    /// and [`StoreError::Compacted`] only if the chosen list needs the lease or the revision. On an error,
    /// nothing changed.
    pub fn txn(&mut self, now: BootTime, txn: &Txn) -> Result<TxnAnswer, StoreError> {
        self.advance(now);
        form::check_form(txn)?;
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        self.check_taken(ops)?;

        let mut answer = TxnAnswer {
            succeeded,
            revision: self.revision,
            cluster: self.config.cluster,
            reads: Vec::with_capacity(ops.len()),
            deleted: Vec::with_capacity(ops.len()),
        };
        let mut changes = Vec::new();
        for op in ops {
            let (mut read, mut deleted) = (Vec::new(), 0);
            match op {
                Op::Put { key, value, lease } => changes.push(self.put(key, value, *lease)),
                Op::Delete(range) => {
                    let gone = self.delete(range);
                    deleted = gone.len() as i64;
                    changes.extend(gone);
                }
                Op::Get(get) => read = self.read(get, &changes).0,
            }
            answer.reads.push(read);
            answer.deleted.push(deleted);
        }
        self.commit(changes);
        answer.revision = self.revision;
        Ok(answer)
    }

    /// Reads a range.
    ///
    /// # Errors
    ///
    /// [`StoreError::Compacted`] if the revision is forgotten, [`StoreError::Denied`] if it is a future
    /// revision.
    pub fn get(&mut self, now: BootTime, get: &Get) -> Result<GetAnswer, StoreError> {
        self.advance(now);
        if get.range.from.is_empty() {
            return Err(denied("get", "key is not provided"));
        }
        self.check_revision("get", get.at)?;
        let (kvs, more) = self.read(get, &[]);
        Ok(GetAnswer { revision: self.revision, cluster: self.config.cluster, kvs, more })
    }

    /// Entries that a read would find now, without letting time pass.
    pub fn peek(&self, get: &Get) -> Vec<KeyValue> {
        self.read(get, &[]).0
    }

    /// Events of a range from a revision on, as a watch delivers them.
    ///
    /// # Errors
    ///
    /// [`StoreError::Compacted`] if `from` is forgotten.
    pub fn events(
        &self,
        range: &KeyRange,
        from: Revision,
        previous: WithPrevious,
    ) -> Result<Revisions, StoreError> {
        self.check_from(from)?;
        Ok(self.revisions(range, from, previous).collect())
    }

    /// First revision from `from` on that has events in the range, with these events.
    ///
    /// # Errors
    ///
    /// [`StoreError::Compacted`] if `from` is forgotten.
    pub fn next_events(
        &self,
        range: &KeyRange,
        from: Revision,
        previous: WithPrevious,
    ) -> Result<Option<(Revision, Vec<Event>)>, StoreError> {
        self.check_from(from)?;
        Ok(self.revisions(range, from, previous).next())
    }

    fn check_from(&self, from: Revision) -> Result<(), StoreError> {
        if from < self.compacted {
            return Err(StoreError::Compacted { asked: from, oldest: self.compacted });
        }
        Ok(())
    }

    fn revisions(
        &self,
        range: &KeyRange,
        from: Revision,
        previous: WithPrevious,
    ) -> impl Iterator<Item = (Revision, Vec<Event>)> {
        let first = self.first_in_history();
        let skip = usize::try_from(from.0 - first.0).unwrap_or(0);
        self.history.iter().enumerate().skip(skip).filter_map(move |(at, entry)| {
            let events: Vec<_> = entry
                .iter()
                .filter(|past| range.contains(&past.kv.key))
                .map(|past| self.event(past, previous))
                .collect();
            (!events.is_empty()).then_some((Revision(first.0 + at as i64), events))
        })
    }

    /// Forgets the history before `revision`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Compacted`] if `revision` is compacted already, [`StoreError::Denied`] if it is a
    /// future revision.
    pub fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        if revision <= self.compacted {
            return Err(StoreError::Compacted { asked: revision, oldest: self.compacted });
        }
        self.check_revision("compact", Some(revision))?;
        while self.first_in_history() < revision && self.history.pop_front().is_some() {}
        self.compacted = revision;
        Ok(())
    }

    /// Loses all data; the cluster id stays, as in an etcd with the same flags.
    pub fn wipe(&mut self) {
        let (now, replacements) = (self.now, self.replacements + 1);
        *self = Self { now, replacements, ..Self::new(self.config.clone()) };
    }

    /// Replaces the data by a backup. Each lease of the backup gets its whole time to live again. With a
    /// bump, revisions continue that much above the backup's, and the history counts as compacted (`etcdutl
    /// snapshot restore --bump-revision --mark-compacted`).
    pub fn restore(&mut self, backup: &Self, bump: Option<u64>) {
        let (now, config, replacements) = (self.now, self.config.clone(), self.replacements + 1);
        *self = Self { config, now, replacements, ..backup.clone() };
        self.restart_leases();
        if let Some(bump) = bump {
            self.revision.0 += bump as i64;
            self.compacted = self.revision;
            self.history.clear();
        }
    }

    /// Changes the id of the cluster, as a configuration with other members does.
    pub fn set_cluster(&mut self, cluster: u64) {
        self.config.cluster = cluster;
        self.replacements += 1;
    }

    /// Number of times that the store was wiped, restored or given another cluster id. For each of these
    /// the members of an etcd restart, so that no watch outlives it.
    pub fn replacements(&self) -> u64 {
        self.replacements
    }

    fn commit(&mut self, changes: Vec<Past>) {
        if !changes.is_empty() {
            self.revision = self.next_revision();
            self.history.push_back(changes.into());
        }
    }

    /// Writes a key in the revision of the current transaction.
    fn put(&mut self, key: &[u8], value: &[u8], lease: Option<LeaseId>) -> Past {
        let modified = self.next_revision();
        let previous = self.keys.get(key).cloned();
        let kv = Arc::new(KeyValue {
            key: key.to_vec(),
            value: value.to_vec(),
            created: previous.as_ref().map_or(modified, |kv| kv.created),
            modified,
            version: previous.as_ref().map_or(1, |kv| kv.version + 1),
            lease,
        });
        let before = previous.as_ref().and_then(|kv| kv.lease);
        if before != lease {
            self.detach(before, key);
            if let Some(lease) = lease.and_then(|lease| self.leases.get_mut(&lease)) {
                lease.keys.insert(key.to_vec());
            }
        }
        self.keys.insert(key.to_vec(), Arc::clone(&kv));
        Past { kv, deleted: false, previous }
    }

    fn delete(&mut self, range: &KeyRange) -> Vec<Past> {
        if range.is_key() {
            return self.delete_key(&range.from).into_iter().collect();
        }
        let keys: Vec<_> = self.live(range).map(|kv| kv.key.clone()).collect();
        keys.iter().filter_map(|key| self.delete_key(key)).collect()
    }

    /// Deletes a key in the revision of the current transaction.
    fn delete_key(&mut self, key: &[u8]) -> Option<Past> {
        let previous = self.keys.remove(key)?;
        self.detach(previous.lease, key);
        let kv = Arc::new(KeyValue {
            key: key.to_vec(),
            value: Vec::new(),
            created: Revision(0),
            modified: self.next_revision(),
            version: 0,
            lease: None,
        });
        Some(Past { kv, deleted: true, previous: Some(previous) })
    }

    fn detach(&mut self, lease: Option<LeaseId>, key: &[u8]) {
        if let Some(lease) = lease.and_then(|lease| self.leases.get_mut(&lease)) {
            lease.keys.remove(key);
        }
    }

    fn live(&self, range: &KeyRange) -> impl Iterator<Item = &Arc<KeyValue>> {
        // An empty range would panic below.
        let to = if range.from <= range.to { &range.to } else { &range.from };
        self.keys
            .range::<[u8], _>((
                Bound::Included(range.from.as_slice()),
                Bound::Excluded(to.as_slice()),
            ))
            .map(|(_, kv)| kv)
    }

    /// Entries that a read finds, and whether its limit cut them short. `changes` are the changes so far of
    /// the transaction that contains the read.
    fn read(&self, get: &Get, changes: &[Past]) -> (Vec<KeyValue>, bool) {
        let limit = usize::try_from(get.limit).ok().filter(|limit| *limit > 0);
        let limit = limit.unwrap_or(usize::MAX);
        let show = |kv: &KeyValue| {
            if get.keys_only {
                // From etcd 3.7 on, such reads are answered from the index, which has no leases.
                return KeyValue { key: kv.key.clone(), value: Vec::new(), lease: None, ..*kv };
            }
            kv.clone()
        };
        match get.at.filter(|at| at.0 > 0 && (*at < self.revision || !changes.is_empty())) {
            None => {
                let mut found = self.live(&get.range);
                let kvs = found.by_ref().take(limit).map(|kv| show(kv)).collect();
                (kvs, found.next().is_some())
            }
            Some(at) => {
                let found = self.live_at(&get.range, at, changes);
                (found.values().take(limit).map(|kv| show(kv)).collect(), found.len() > limit)
            }
        }
    }

    /// A range as it was at `at`: later changes are undone, newest first.
    fn live_at<'a>(
        &'a self,
        range: &KeyRange,
        at: Revision,
        changes: &'a [Past],
    ) -> BTreeMap<&'a [u8], &'a KeyValue> {
        let mut found: BTreeMap<&[u8], &KeyValue> =
            self.live(range).map(|kv| (kv.key.as_slice(), kv.as_ref())).collect();
        let kept = usize::try_from(at.0 + 1 - self.first_in_history().0).unwrap_or(0);
        let since = self.history.iter().skip(kept).flat_map(|entry| entry.iter()).chain(changes);
        for past in since.rev().filter(|past| range.contains(&past.kv.key)) {
            match &past.previous {
                Some(previous) => found.insert(&previous.key, previous),
                None => found.remove(past.kv.key.as_slice()),
            };
        }
        found
    }

    fn holds(&self, compare: &Compare) -> bool {
        if compare.range.is_key() {
            return compare.holds(self.keys.get(&compare.range.from).map(Arc::as_ref));
        }
        let mut found = self.live(&compare.range).peekable();
        // An empty range compares as revision zero, like a key that does not exist.
        if found.peek().is_none() {
            compare.holds(None)
        } else {
            found.all(|kv| compare.holds(Some(kv)))
        }
    }

    /// Checks that etcd makes before it carries out the list that the compares chose.
    fn check_taken(&self, ops: &[Op]) -> Result<(), StoreError> {
        for op in ops {
            match op {
                Op::Put { lease: Some(lease), .. } if !self.leases.contains_key(lease) => {
                    return Err(StoreError::LeaseNotFound);
                }
                Op::Get(get) => self.check_revision("txn", get.at)?,
                Op::Put { .. } | Op::Delete(_) => {}
            }
        }
        Ok(())
    }

    fn check_revision(&self, call: &'static str, at: Option<Revision>) -> Result<(), StoreError> {
        match at.filter(|at| at.0 > 0) {
            Some(asked) if asked > self.revision => {
                Err(denied(call, "required revision is a future revision"))
            }
            Some(asked) if asked < self.compacted => {
                Err(StoreError::Compacted { asked, oldest: self.compacted })
            }
            _ => Ok(()),
        }
    }

    fn event(&self, past: &Past, previous: WithPrevious) -> Event {
        // etcd reads the entry before the event at the previous revision: no entry if that revision is
        // compacted.
        let known = previous == WithPrevious::Yes && past.kv.modified.0 > self.compacted.0;
        Event {
            kv: KeyValue::clone(&past.kv),
            deleted: past.deleted,
            previous: past.previous.as_deref().filter(|_| known).cloned(),
        }
    }

    /// Revision of the oldest entry of the history; if the history is empty, the next revision.
    fn first_in_history(&self) -> Revision {
        Revision(self.revision.0 + 1 - self.history.len() as i64)
    }

    fn next_revision(&self) -> Revision {
        Revision(self.revision.0 + 1)
    }
}

/// Whether events carry the entry before the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithPrevious {
    /// Events carry the entry, if it is still known.
    Yes,
    /// Events do not carry the entry.
    No,
}

fn denied(call: &'static str, message: &str) -> StoreError {
    StoreError::Denied { call, endpoint: "memory".to_owned(), message: message.to_owned() }
}

#[cfg(test)]
mod tests;
