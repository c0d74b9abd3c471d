//! The state a node keeps for itself in the cluster: what it put, at which revisions, and how it comes
//! back after a lost session (T17, R10).

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use tokio::{sync::watch, time::sleep};

use super::{
    core::Session,
    env::Env,
    error::StateError,
    guarded::{self, Attempt, Failed, Policy, Write},
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
pub(crate) struct OwnState(Mutex<BTreeMap<String, Entry>>);

impl OwnState {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let lease = session.borrow().ok_or(StateError::NoLease)?.lease;
        let write = Write::Put { value: value.to_vec(), lease: Some(lease) };
        let done = self.write(env, session, lease, key, &full, &write).await;
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
        let lease = session.borrow().ok_or(StateError::NoLease)?.lease;
        let (_, deleted) = self.write(env, session, lease, key, &full, &Write::Delete).await?;
        self.forget(key);
        Ok(deleted)
    }

    async fn write(
        &self,
        env: &Env,
        session: &watch::Receiver<Option<Session>>,
        lease: LeaseId,
        key: &str,
        full: &[u8],
        write: &Write,
    ) -> Result<(Revision, bool), StateError> {
        let doing = || match write {
            Write::Put { .. } => format!("put {key:?}"),
            Write::Delete => format!("delete {key:?}"),
        };
        let same = || {
            let now = session.borrow().map(|session| session.lease);
            (now == Some(lease)).then_some(None)
        };
        let known = self.known(key, lease);
        let (store, timeout) = (env.store.as_ref(), env.call_timeout);
        let done =
            guarded::write(store, same, full, known, write, Policy::Overwrite, timeout).await;
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
        session: &watch::Receiver<Option<Session>>,
        lease: LeaseId,
    ) {
        loop {
            let missing = self.missing(lease);
            let gone = session.borrow().map(|session| session.lease) != Some(lease);
            if missing.is_empty() || gone {
                return;
            }
            let failed = stream::iter(missing)
                .map(|(key, value)| self.put_one_back(env, id, lease, key, value))
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
        lease: LeaseId,
        key: String,
        value: Vec<u8>,
    ) -> Result<(), StoreError> {
        let Ok(full) = env.keys.state(&key, id) else { return Ok(()) };
        let write = Write::Put { value: value.clone(), lease: Some(lease) };
        let (store, timeout) = (env.store.as_ref(), env.call_timeout);
        let mut known = Revision(0);
        // A put or a delete of the user's that came between has the last word.
        while self.is_missing(&key, lease) {
            match guarded::attempt(store, None, &full, known, &write, timeout).await? {
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
        Ok(())
    }
}

pub(crate) fn state_key(keys: &Keys, key: &str, id: NodeId) -> Result<Vec<u8>, StateError> {
    keys.state(key, id).map_err(|source| StateError::Key { key: key.to_owned(), source })
}
