//! State that a node stores for itself in the cluster: writes it, and puts it back after a lost session
//! (T17: writes of own keys; R10: session lost). [`OwnCalls`] decides the order of the calls and the wanted
//! value of each key; this module sends the writes.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use tokio::{
    sync::{Notify, oneshot, watch},
    time::{sleep, timeout},
};

use super::{
    env::Env,
    error::StateError,
    guarded::{self, Attempt, Failed, Place, Policy, Write},
    session::Session,
};
use crate::{
    clock,
    engine::{LeaseId, Next, NodeId, OwnCall, OwnCalls, OwnEffect, OwnWrite, Revision, Turn},
    store::{StoreError, keys::Keys},
};

/// Number of keys that are put back at the same time.
const PUT_BACK_AT_ONCE: usize = 16;
const PUT_BACK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Keys of the node's own state, and the calls for them that are under way.
#[derive(Debug, Default)]
pub(crate) struct OwnState {
    calls: Mutex<Calls>,
    /// Notified when a key is to be put back.
    missing: Notify,
}

#[derive(Debug, Default)]
struct Calls {
    own: OwnCalls,
    /// Senders that wake the calls waiting for their turn, by the calls' numbers.
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
}

impl OwnState {
    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the node has joined under that lease. Call it before the session is published.
    pub(crate) fn joined(&self, lease: LeaseId) {
        self.lock().own.joined(lease);
    }

    /// Notes that the node has left: its state is gone, and answers to earlier calls are ignored.
    pub(crate) fn left(&self) {
        let mut calls = self.lock();
        calls.own.left();
        // Dropping the senders wakes the waiting calls.
        calls.waiting.clear();
    }

    fn call(&self, key: &str, write: OwnWrite) -> Call<'_> {
        let call = self.lock().own.call(key, write);
        Call { own: self, made: call, sent: None }
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
        let write = OwnWrite::Put(value.to_vec());
        let (revision, _) = self.change(env, session, key, &full, write).await?;
        Ok(revision)
    }

    /// T17: deletes a key. Returns whether the key existed.
    pub(crate) async fn delete(
        &self,
        env: &Env,
        id: NodeId,
        session: &watch::Receiver<Option<Session>>,
        key: &str,
    ) -> Result<bool, StateError> {
        let full = state_key(&env.keys, key, id)?;
        let (_, deleted) = self.change(env, session, key, &full, OwnWrite::Delete).await?;
        Ok(deleted)
    }

    /// Carries out one call of the user, in its turn.
    ///
    /// # Cancel safety
    ///
    /// If dropped before the call's turn, nothing changes. If dropped later, the outcome is unknown.
    async fn change(
        &self,
        env: &Env,
        session: &watch::Receiver<Option<Session>>,
        key: &str,
        full: &[u8],
        write: OwnWrite,
    ) -> Result<(Revision, bool), StateError> {
        let deadline = clock::boot_now() + env.call_timeout;
        if session.borrow().is_none() {
            return Err(StateError::NoLease);
        }
        let mut call = self.call(key, write);
        let Ok(()) = timeout(env.call_timeout, call.until_turn()).await else {
            return Err(StateError::Busy { doing: call.doing(), timeout: env.call_timeout });
        };
        let mut now = session.borrow().clone().ok_or(StateError::NoLease)?;
        // Check the turn after the session was read: the node may have left since the call was made.
        if call.turn() == Turn::Over {
            return Err(StateError::NoLease);
        }
        let awaited = self.lock().own.is_missing(key, now.lease);
        let mut done = None;
        loop {
            let left = deadline.since(clock::boot_now());
            let same = || {
                let session = session.borrow().as_ref().map(|session| session.lease);
                (session == Some(now.lease)).then_some(None)
            };
            let known = self.lock().own.known(key, now.lease);
            let place = Place { key: full, marker: Some(&now.marker) };
            let write = call.write(now.lease);
            call.sent = Some(now.lease);
            let policy = Policy::Overwrite;
            let wrote =
                guarded::write(env.store.as_ref(), same, place, known, &write, policy, left).await;
            let (revision, deleted) = match (wrote, done) {
                (Ok(wrote), _) => wrote,
                // The store acknowledged the write in an earlier session; `put_back` does the rest.
                (Err(_), Some(done)) => return Ok(done),
                (Err(failed), None) => return Err(call.failed(failed, now.lease)),
            };
            done = Some((revision, deleted || awaited));
            // The session may have been lost and regained since the write was sent.
            let next = call.note(OwnEffect::Took { lease: now.lease, revision });
            let joined = session.borrow().clone();
            match (next, joined) {
                (Next::Again(lease), Some(joined))
                    if joined.lease == lease && clock::boot_now() < deadline =>
                {
                    now = joined;
                }
                _ => return Ok((revision, deleted || awaited)),
            }
        }
    }

    /// Puts back the keys of an earlier session, until the session changes.
    ///
    /// # Cancel safety
    ///
    /// If dropped, some keys are put back; another call puts back the rest.
    pub(crate) async fn put_back(
        &self,
        env: &Env,
        id: NodeId,
        now: &watch::Receiver<Option<Session>>,
        session: &Session,
    ) {
        let mut now = now.clone();
        loop {
            let mut more = pin!(self.missing.notified());
            // Enabled before the search: a key that goes missing after it wakes this task.
            more.as_mut().enable();
            let lease = now.borrow_and_update().as_ref().map(|now| now.lease);
            if lease != Some(session.lease) {
                return;
            }
            let missing = self.lock().own.missing(session.lease);
            if missing.is_empty() {
                tokio::select! {
                    biased;
                    // Cancel safe: a change that is not received is received next time.
                    changed = now.changed() => if changed.is_err() { return },
                    // Cancel safe: each round searches all keys again.
                    () = more => (),
                }
                continue;
            }
            let failed = stream::iter(missing)
                .map(|key| self.put_one_back(env, id, session, key))
                .buffer_unordered(PUT_BACK_AT_ONCE)
                .filter_map(|result| async { result.err() })
                .collect::<Vec<_>>()
                .await;
            if let Some(error) = failed.first() {
                tracing::warn!(node = id.get(), error = %error, keys = failed.len(), "state not put back yet");
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
    ) -> Result<(), StoreError> {
        let lease = *lease;
        let full = env.keys.state(&key, id).expect("it was checked when it was put");
        // `None`: a call for the key came between, and that call decides.
        let Some(call) = self.lock().own.put_back(&key, lease) else { return Ok(()) };
        let mut call = Call { own: self, made: call, sent: None };
        let write = call.write(lease);
        let place = Place { key: &full, marker: Some(marker) };
        let mut known = Revision(0);
        loop {
            // Calls for the key wait meanwhile, for the length of a single attempt at most.
            let wait =
                guarded::attempt_timeout(clock::boot_now() + env.call_timeout, env.call_timeout);
            let late = place.late(known, &write);
            let store = env.store.as_ref();
            let revision =
                match guarded::attempt(store, None, &full, known, &write, late, wait).await? {
                    Attempt::Done { revision, .. } => revision,
                    // Written by an earlier copy, by a call whose outcome is open, or by an operator.
                    Attempt::Changed(Some(kv)) if kv.lease == Some(lease) => kv.modified,
                    Attempt::Changed(found) => {
                        known = found.map_or(Revision(0), |kv| kv.modified);
                        continue;
                    }
                    Attempt::Settled => continue,
                    Attempt::GuardLost => unreachable!("there is none"),
                };
            call.note(OwnEffect::Took { lease, revision });
            return Ok(());
        }
    }
}

/// Call for one key, from the time it is made. When it is dropped, the next call has its turn.
struct Call<'a> {
    own: &'a OwnState,
    made: OwnCall,
    /// Lease of a write that was sent and has no noted effect yet.
    sent: Option<LeaseId>,
}

impl Call<'_> {
    fn doing(&self) -> String {
        match self.made.write {
            OwnWrite::Put(_) | OwnWrite::PutBack(_) => format!("put {:?}", self.made.key),
            OwnWrite::Delete => format!("delete {:?}", self.made.key),
        }
    }

    fn write(&self, lease: LeaseId) -> Write {
        match &self.made.write {
            OwnWrite::Put(value) | OwnWrite::PutBack(value) => {
                Write::Put { value: value.clone(), lease: Some(lease) }
            }
            OwnWrite::Delete => Write::Delete,
        }
    }

    fn turn(&self) -> Turn {
        self.own.lock().own.turn(&self.made)
    }

    /// Waits until all earlier calls for the key have ended, or the node has left.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the next call checks the turn again.
    async fn until_turn(&self) {
        loop {
            let woken = {
                let mut calls = self.own.lock();
                if calls.own.turn(&self.made) != Turn::Waits {
                    return;
                }
                let (wake, woken) = oneshot::channel();
                calls.waiting.insert(self.made.number, wake);
                woken
            };
            // An error means that the node has left.
            let _ = woken.await;
        }
    }

    fn note(&mut self, effect: OwnEffect) -> Next {
        self.sent = None;
        self.own.lock().own.note(&self.made, effect)
    }

    /// Notes the failure of the call's write.
    fn failed(&mut self, failed: Failed, lease: LeaseId) -> StateError {
        let doing = self.doing();
        if let Failed::Unknown(source) = failed {
            self.note(OwnEffect::Unknown { lease });
            return StateError::Unknown { doing, source };
        }
        self.sent = None;
        match failed {
            Failed::GuardLost | Failed::Store(StoreError::LeaseNotFound) => StateError::NoLease,
            Failed::Store(source) => StateError::Store { doing, source },
            Failed::Changed(_) | Failed::Unknown(_) => unreachable!("the policy overwrites"),
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut calls = self.own.lock();
        if let Some(lease) = self.sent {
            calls.own.note(&self.made, OwnEffect::Unknown { lease });
        }
        let ended = calls.own.end(&self.made);
        calls.waiting.remove(&self.made.number);
        if let Some(wake) = ended.next.and_then(|next| calls.waiting.remove(&next)) {
            let _ = wake.send(());
        }
        if ended.missing {
            self.own.missing.notify_waiters();
        }
    }
}

pub(crate) fn state_key(keys: &Keys, key: &str, id: NodeId) -> Result<Vec<u8>, StateError> {
    keys.state(key, id).map_err(|source| StateError::of_key(key, source))
}

#[cfg(test)]
mod tests;
