//! What etcd answers, as a value: revisions, transactions, leases, history. No I/O, no clock, no
//! async; time is an argument, by the store's own clock.
//!
//! It is not: a cluster. Raft, members and networks are the caller's part (the simulation's, say): a
//! call on the model is the moment at which it commits. Only what a change of etcd's leader does to
//! leases is here ([`Model::failover`], [`Deposed`]).
//!
//! The one rule: whoever calls cannot tell it from etcd by its answers. The differential test holds it
//! to that, answer by answer and event by event.
//!
//! # Invariants
//!
//! Each revision above the compacted one is one entry of the history, with at least one event. A live
//! key is in the key set of the lease it hangs on, and of no other.

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

pub use leases::Deposed;

/// How the model behaves where etcds differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelConfig {
    /// Id of the cluster. With etcd a hash of peer URLs and token: a wiped or restored store has the
    /// same (R8).
    pub cluster: u64,
    /// etcd's election timeout: a lease lives at least 1.5 times as long, in whole seconds, and is
    /// prolonged by it when the leader changes.
    pub election_timeout: Duration,
    /// How often expired leases are looked for. More than zero.
    pub expiry_every: Duration,
}

impl Default for ModelConfig {
    /// etcd's defaults.
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

/// A store, at one moment. A clone is a backup: it shares what it can.
#[derive(Clone, Debug)]
pub struct Model {
    config: ModelConfig,
    now: BootTime,
    revision: Revision,
    keys: BTreeMap<Vec<u8>, Arc<KeyValue>>,
    leases: BTreeMap<LeaseId, leases::Lease>,
    /// One entry per revision, the last is `revision`.
    history: VecDeque<Arc<[Past]>>,
    /// Revisions below this are forgotten.
    compacted: Revision,
    /// No lease is found expired before this: spares most calls the look at all leases.
    quiet_until: BootTime,
    /// How often the data was replaced.
    replacements: u64,
}

/// One event of the history.
#[derive(Clone, Debug)]
struct Past {
    kv: Arc<KeyValue>,
    deleted: bool,
    previous: Option<Arc<KeyValue>>,
}

impl Model {
    /// An empty store, at revision 1, as a new etcd is.
    ///
    /// # Panics
    ///
    /// If expired leases are to be looked for every zero seconds.
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

    /// The revision of the last change.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The oldest revision that can still be read or watched from; zero = all.
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// Id of the cluster.
    pub fn cluster(&self) -> u64 {
        self.config.cluster
    }

    /// How many keys exist.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key exists.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The leases that live.
    pub fn leases(&self) -> impl Iterator<Item = LeaseId> + '_ {
        self.leases.keys().copied()
    }

    /// Carries out a transaction.
    ///
    /// # Errors
    ///
    /// As etcd: [`StoreError::Denied`] if it is malformed, [`StoreError::LeaseNotFound`] and
    /// [`StoreError::Compacted`] only if the list that is taken asks for it. Nothing changed then.
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
    /// [`StoreError::Compacted`] if the revision is forgotten, [`StoreError::Denied`] if it is yet to
    /// come.
    pub fn get(&mut self, now: BootTime, get: &Get) -> Result<GetAnswer, StoreError> {
        self.advance(now);
        if get.range.from.is_empty() {
            return Err(denied("get", "key is not provided"));
        }
        self.check_revision("get", get.at)?;
        let (kvs, more) = self.read(get, &[]);
        Ok(GetAnswer { revision: self.revision, cluster: self.config.cluster, kvs, more })
    }

    /// What a read would find now, without letting time pass.
    pub fn peek(&self, get: &Get) -> Vec<KeyValue> {
        self.read(get, &[]).0
    }

    /// The events of a range from a revision on, as a watch delivers them.
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

    /// The first revision from `from` on that has events in the range.
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

    /// Forgets what was before `revision`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Compacted`] if that is done already, [`StoreError::Denied`] if it is yet to come.
    pub fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        if revision <= self.compacted {
            return Err(StoreError::Compacted { asked: revision, oldest: self.compacted });
        }
        self.check_revision("compact", Some(revision))?;
        while self.first_in_history() < revision && self.history.pop_front().is_some() {}
        self.compacted = revision;
        Ok(())
    }

    /// All data is lost; the cluster id stays, as etcd's does with the same flags.
    pub fn wipe(&mut self) {
        let (now, replacements) = (self.now, self.replacements + 1);
        *self = Self { now, replacements, ..Self::new(self.config.clone()) };
    }

    /// A backup is put in place. Its leases begin anew. With a bump, revisions go on that much above the
    /// backup's, and what was before counts as compacted (`etcdutl snapshot restore --bump-revision
    /// --mark-compacted`).
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

    /// The id of the cluster changes, as when other members are configured.
    pub fn set_cluster(&mut self, cluster: u64) {
        self.config.cluster = cluster;
        self.replacements += 1;
    }

    /// How often it was wiped, restored or given another cluster id. The members of an etcd are restarted
    /// for that, so that no watch outlives it.
    pub fn replacements(&self) -> u64 {
        self.replacements
    }

    fn commit(&mut self, changes: Vec<Past>) {
        if !changes.is_empty() {
            self.revision = self.next_revision();
            self.history.push_back(changes.into());
        }
    }

    /// Writes a key in the revision that is being made.
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

    /// Deletes a key in the revision that is being made.
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

    /// What a read finds, and whether its limit cut it short. `changes` are those of the transaction it
    /// stands in, made so far.
    fn read(&self, get: &Get, changes: &[Past]) -> (Vec<KeyValue>, bool) {
        let limit = usize::try_from(get.limit).ok().filter(|limit| *limit > 0);
        let limit = limit.unwrap_or(usize::MAX);
        let show = |kv: &KeyValue| {
            if get.keys_only {
                // From etcd 3.7 on such reads are answered from the index, which has no leases.
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

    /// A range as it was: what happened since is taken back, newest first.
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

    /// What etcd looks at before it carries out the list that the compares chose.
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
        // What was before is read at the revision before: gone if that is.
        let known = previous == WithPrevious::Yes && past.kv.modified.0 > self.compacted.0;
        Event {
            kv: KeyValue::clone(&past.kv),
            deleted: past.deleted,
            previous: past.previous.as_deref().filter(|_| known).cloned(),
        }
    }

    /// The revision of the oldest entry of the history; if there is none, of the next.
    fn first_in_history(&self) -> Revision {
        Revision(self.revision.0 + 1 - self.history.len() as i64)
    }

    fn next_revision(&self) -> Revision {
        Revision(self.revision.0 + 1)
    }
}

/// Whether events carry what was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithPrevious {
    /// They do, if it is still known.
    Yes,
    /// They do not.
    No,
}

fn denied(call: &'static str, message: &str) -> StoreError {
    StoreError::Denied { call, endpoint: "memory".to_owned(), message: message.to_owned() }
}

#[cfg(test)]
mod tests;
