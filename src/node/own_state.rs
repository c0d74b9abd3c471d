//! The state a node keeps for itself in the cluster: what it put, at which revisions, and how it comes
//! back after a lost session (T17, R10).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use tokio::{sync::watch, time::sleep};

use super::{
    core::Session,
    env::Env,
    error::StateError,
    guarded::{self, Attempt, Failed, Late, Place, Policy, Write},
};
use crate::{
    engine::{LeaseId, NodeId, Revision},
    store::{StoreError, keys::Keys},
};

/// How many keys are put back at once.
const PUT_BACK_AT_ONCE: usize = 16;
const PUT_BACK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// One key of the node's own state.
#[derive(Clone, Debug)]
struct Entry {
    /// As it was last put, or may have been.
    value: Vec<u8>,
    /// The incarnation it was last written under; `None` if that is not known.
    lease: Option<LeaseId>,
    /// m(key), if it was written under that incarnation.
    modified: Revision,
}

/// All of them, by the user's key.
#[derive(Debug, Default)]
pub(crate) struct OwnState {
    entries: Mutex<BTreeMap<String, Entry>>,
    /// Keys that are being deleted, how many times: what is put back keeps off them.
    deleting: Mutex<BTreeMap<String, usize>>,
}

impl OwnState {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node has left: its state went with it.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    fn known(&self, key: &str, lease: LeaseId) -> Revision {
        match self.lock().get(key) {
            Some(entry) if entry.lease == Some(lease) => entry.modified,
            _ => Revision(0),
        }
    }

    /// A put took effect.
    fn learn(&self, key: &str, value: Vec<u8>, lease: LeaseId, modified: Revision) {
        let mut map = self.lock();
        match map.get_mut(key) {
            // A put of the same key that was committed later has been learnt already.
            Some(entry) if entry.lease == Some(lease) && modified <= entry.modified => (),
            _ => {
                let entry = Entry { value, lease: Some(lease), modified };
                map.insert(key.to_owned(), entry);
            }
        }
    }

    /// A put may take effect yet: it is the newest value that anybody may see, so it is what must come
    /// back (I5: own state never goes back to an older value).
    fn suspect(&self, key: &str, value: Vec<u8>) {
        let mut map = self.lock();
        if let Some(entry) = map.get_mut(key) {
            entry.value = value;
        } else {
            let entry = Entry { value, lease: None, modified: Revision(0) };
            map.insert(key.to_owned(), entry);
        }
    }

    fn forget(&self, key: &str) {
        self.lock().remove(key);
    }

    /// What is not yet put under this incarnation.
    fn missing(&self, lease: LeaseId) -> Vec<(String, Vec<u8>)> {
        let map = self.lock();
        let missing = map.iter().filter(|(_, entry)| entry.lease != Some(lease));
        missing.map(|(key, entry)| (key.clone(), entry.value.clone())).collect()
    }

    fn is_missing(&self, key: &str, lease: LeaseId) -> bool {
        self.lock().get(key).is_some_and(|entry| entry.lease != Some(lease))
    }

    fn deleting(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.deleting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_being_deleted(&self, key: &str) -> bool {
        self.deleting().contains_key(key)
    }

    /// T17: puts a key on the lease of the session.
    pub(crate) async fn put(
        &self,
        env: &Env,
        id: NodeId,
        session: &watch::Receiver<Option<Session>>,
        key: &str,
        value: &[u8],
    ) -> Result<Revision, StateError> {
        let full = state_key(&env.keys, key, id)?;
        let now = session.borrow().clone().ok_or(StateError::NoLease)?;
        let lease = now.lease;
        let write = Write::Put { value: value.to_vec(), lease: Some(lease) };
        let done = self.write(env, session, &now, key, &full, &write).await;
        match done {
            Ok((revision, _)) => {
                self.learn(key, value.to_vec(), lease, revision);
                Ok(revision)
            }
            Err(error) => {
                if matches!(error, StateError::Unknown { .. }) {
                    self.suspect(key, value.to_vec());
                }
                Err(error)
            }
        }
    }

    /// T17: deletes a key. Whether there was one.
    pub(crate) async fn delete(
        &self,
        env: &Env,
        id: NodeId,
        session: &watch::Receiver<Option<Session>>,
        key: &str,
    ) -> Result<bool, StateError> {
        let full = state_key(&env.keys, key, id)?;
        let now = session.borrow().clone().ok_or(StateError::NoLease)?;
        // Before the write is made up: what is put back is then either seen by it as under way, or sees
        // this and is not sent.
        let _deleting = Deleting::begin(self, key);
        let (_, deleted) = self.write(env, session, &now, key, &full, &Write::Delete).await?;
        self.forget(key);
        Ok(deleted)
    }

    async fn write(
        &self,
        env: &Env,
        session: &watch::Receiver<Option<Session>>,
        Session { lease, marker }: &Session,
        key: &str,
        full: &[u8],
        write: &Write,
    ) -> Result<(Revision, bool), StateError> {
        let doing = || match write {
            Write::Put { .. } => format!("put {key:?}"),
            Write::Delete => format!("delete {key:?}"),
        };
        let same = || {
            let now = session.borrow().as_ref().map(|session| session.lease);
            (now == Some(*lease)).then_some(None)
        };
        let known = self.known(key, *lease);
        let (store, timeout) = (env.store.as_ref(), env.call_timeout);
        let place = Place { key: full, marker: Some(marker) };
        let done =
            guarded::write(store, same, place, known, write, Policy::Overwrite, timeout).await;
        done.map_err(|failed| match failed {
            Failed::GuardLost | Failed::Store(StoreError::LeaseNotFound) => StateError::NoLease,
            Failed::Changed(_) => unreachable!("the policy overwrites"),
            Failed::Store(source) => StateError::Store { doing: doing(), source },
            Failed::Unknown(source) => StateError::Unknown { doing: doing(), source },
        })
    }

    /// Puts back what an earlier incarnation had put, until all is back or the session is another.
    ///
    /// # Cancel safety
    ///
    /// Dropped, some keys are back; calling it again puts back the rest.
    pub(crate) async fn put_back(
        &self,
        env: &Env,
        id: NodeId,
        now: &watch::Receiver<Option<Session>>,
        session: &Session,
    ) {
        loop {
            let missing = self.missing(session.lease);
            let gone = now.borrow().as_ref().map(|now| now.lease) != Some(session.lease);
            if missing.is_empty() || gone {
                return;
            }
            let deleting: BTreeSet<String> = self.deleting().keys().cloned().collect();
            if missing.iter().all(|(key, _)| deleting.contains(key)) {
                // What their deletes leave of them is known soon.
                sleep(PUT_BACK_AGAIN_AFTER).await;
            }
            let failed = stream::iter(missing)
                .map(|(key, value)| self.put_one_back(env, id, session, key, value))
                .buffer_unordered(PUT_BACK_AT_ONCE)
                .filter_map(|result| async { result.err() })
                .collect::<Vec<_>>()
                .await;
            if let Some(error) = failed.first() {
                tracing::warn!(node = %id, error = %error, keys = failed.len(), "state not put back yet");
                sleep(PUT_BACK_AGAIN_AFTER).await;
            }
        }
    }

    async fn put_one_back(
        &self,
        env: &Env,
        id: NodeId,
        Session { lease, marker }: &Session,
        key: String,
        value: Vec<u8>,
    ) -> Result<(), StoreError> {
        let lease = *lease;
        let Ok(full) = env.keys.state(&key, id) else { return Ok(()) };
        let write = Write::Put { value: value.clone(), lease: Some(lease) };
        let (store, timeout) = (env.store.as_ref(), env.call_timeout);
        let mut known = Revision(0);
        // A put or a delete of the user's that came between has the last word.
        let place = Place { key: &full, marker: Some(marker) };
        loop {
            let late = place.late(known, &write);
            if !self.is_missing(&key, lease) || self.is_being_deleted(&key) {
                if let Late::First(put) = late {
                    put.settled();
                }
                return Ok(());
            }
            match guarded::attempt(store, None, &full, known, &write, late, timeout).await? {
                Attempt::Settled => (),
                Attempt::Done { revision, .. } => {
                    self.learn(&key, value, lease, revision);
                    return Ok(());
                }
                Attempt::Changed(Some(kv)) if kv.lease == Some(lease) => {
                    self.learn(&key, kv.value, lease, kv.modified);
                    return Ok(());
                }
                Attempt::Changed(found) => known = found.map_or(Revision(0), |kv| kv.modified),
                Attempt::GuardLost => return Ok(()),
            }
        }
    }
}

/// A delete of a key that is under way.
struct Deleting<'a> {
    own: &'a OwnState,
    key: &'a str,
}

impl<'a> Deleting<'a> {
    fn begin(own: &'a OwnState, key: &'a str) -> Self {
        *own.deleting().entry(key.to_owned()).or_default() += 1;
        Self { own, key }
    }
}

impl Drop for Deleting<'_> {
    fn drop(&mut self) {
        let mut deleting = self.own.deleting();
        if let Some(count) = deleting.get_mut(self.key) {
            *count -= 1;
            if *count == 0 {
                deleting.remove(self.key);
            }
        }
    }
}

pub(crate) fn state_key(keys: &Keys, key: &str, id: NodeId) -> Result<Vec<u8>, StateError> {
    keys.state(key, id).map_err(|source| StateError::Key { key: key.to_owned(), source })
}

#[cfg(test)]
mod tests;
