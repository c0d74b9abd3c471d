//! Writes that take effect only while the writer has the right to make them.
//!
//! A leader's write compares the mod revision of its candidate key with the one that its TAKE wrote (T7:
//! fenced write of a leader), a shard owner's write that of its held key (T16: shard write). So the store
//! itself rejects a write of a former leader, no matter how late the write arrives and what the clocks
//! show. Only the leader, or the shard's owner, writes the keys of this data: `store::keys` names them.

mod txn;

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

pub use self::txn::FencedTxn;
use super::{
    context::AuthorityLost,
    env::Env,
    error::StateError,
    gate::{Gate as _, LeaderGate, ShardGate},
    guarded::{self, Failed, Guard, Known, Place, Policy, Write},
};
use crate::{
    clock,
    engine::{Revision, ShardId, WorkType},
    store::Get,
};

/// Delay before the held revision is read again while the answer of a held write is still on its way.
const ANSWER_SOON: Duration = Duration::from_millis(2);

/// Value with the revision of its last write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// Value of the key.
    pub value: Vec<u8>,
    /// Revision of the last write, for [`Fenced::compare_and_set`].
    pub revision: Revision,
}

/// Reason why a fenced call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FencedError {
    /// The term is over, or authority has lapsed. Nothing changed.
    #[error("the term is over: the write was refused")]
    StaleTerm,
    /// The shard is not this node's any more, or authority over it has lapsed. Nothing changed.
    #[error("the shard is not held any more: the write was refused")]
    StaleEpoch,
    /// The key is not as it was expected. Nothing changed.
    #[error("{key:?} is not as it was expected: it was last written at revision {found}")]
    Conflict {
        /// First key that differs.
        key: String,
        /// Revision of the key's last write; zero if the key does not exist.
        found: Revision,
    },
    /// The call itself failed: with [`StateError::Key`], [`StateError::Store`], or [`StateError::Unknown`], also if
    /// the term ended before the call could be retried. After the last one, read the key to find out: the
    /// write cannot take effect any more once the term is over.
    #[error(transparent)]
    Call(#[from] StateError),
}

impl FencedError {
    /// Whether the right to write is permanently over in this context.
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::StaleTerm | Self::StaleEpoch)
    }
}

impl From<AuthorityLost> for FencedError {
    fn from(lost: AuthorityLost) -> Self {
        match lost {
            AuthorityLost::Office { .. } => Self::StaleTerm,
            AuthorityLost::Shard { .. } => Self::StaleEpoch,
        }
    }
}

/// Owner of the data that is written, with the gate that its authority opens.
#[derive(Clone, Debug)]
pub(crate) enum Owner {
    Leader(Arc<LeaderGate>),
    Shard { gate: Arc<ShardGate>, work: WorkType, shard: ShardId },
}

impl Owner {
    /// Compare that fences the write; `None` if authority is over.
    fn guard(&self, env: &Env) -> Option<Guard> {
        match self {
            Self::Leader(gate) => gate.is_open().then(|| Guard::of_office(&env.keys, gate)),
            Self::Shard { gate, .. } => gate.is_open().then(|| {
                let held = gate.held();
                Guard::new(env.keys.held(held.lease()), held.held())
            }),
        }
    }

    fn stale(&self, env: &Env) -> FencedError {
        env.metrics.stale_rejections.inc();
        match self {
            Self::Leader(_) => FencedError::StaleTerm,
            Self::Shard { .. } => FencedError::StaleEpoch,
        }
    }
}

/// Fenced access to the store: of the leader to the leader's data, of a shard's owner to the shard's.
#[derive(Clone, Debug)]
pub struct Fenced {
    env: Env,
    owner: Owner,
    known: Arc<Known>,
}

impl Fenced {
    pub(crate) fn new(env: Env, owner: Owner, known: Arc<Known>) -> Self {
        Self { env, owner, known }
    }

    /// Puts a key. Returns the revision of the write.
    ///
    /// # Errors
    ///
    /// [`FencedError`]. Each variant documents whether anything may have changed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the outcome is unknown.
    pub async fn put(&self, key: &str, value: impl Into<Vec<u8>>) -> Result<Revision, FencedError> {
        let write = Write::Put { value: value.into(), lease: None };
        let full = self.key(key)?;
        let known = self.known.of(&full);
        let (revision, _) = self.write("put", key, &full, known, write, Policy::Overwrite).await?;
        Ok(revision)
    }

    /// Puts a key if its last write has the revision `expected`, or, with `None`, if the key does not
    /// exist. Returns the revision of the write.
    ///
    /// # Errors
    ///
    /// [`FencedError::Conflict`] if the key has another revision by now, else as for [`put`](Self::put).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the outcome is unknown.
    pub async fn compare_and_set(
        &self,
        key: &str,
        expected: Option<Revision>,
        value: impl Into<Vec<u8>>,
    ) -> Result<Revision, FencedError> {
        let write = Write::Put { value: value.into(), lease: None };
        let full = self.key(key)?;
        let known = expected.unwrap_or_default();
        let (revision, _) = self.write("set", key, &full, known, write, Policy::Expect).await?;
        Ok(revision)
    }

    /// Deletes a key. Returns whether the key existed.
    ///
    /// # Errors
    ///
    /// As for [`put`](Self::put).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the outcome is unknown.
    pub async fn delete(&self, key: &str) -> Result<bool, FencedError> {
        let full = self.key(key)?;
        let known = self.known.of(&full);
        let done = self.write("delete", key, &full, known, Write::Delete, Policy::Overwrite).await;
        let (_, deleted) = done?;
        self.known.forget(&full);
        Ok(deleted)
    }

    /// Reads a key, linearizable.
    ///
    /// # Errors
    ///
    /// [`FencedError::StaleTerm`] or [`FencedError::StaleEpoch`] without authority, [`FencedError::Call`] with
    /// [`StateError::Key`] or [`StateError::Store`]. Nothing changes.
    pub async fn get(&self, key: &str) -> Result<Option<Versioned>, FencedError> {
        let full = self.key(key)?;
        if self.owner.guard(&self.env).is_none() {
            return Err(self.owner.stale(&self.env));
        }
        let (store, get) = (&self.env.store, Get::key(full.as_slice()));
        let answer = guarded::read(self.env.call_timeout, |wait| store.get(get.clone(), wait))
            .await
            .map_err(|source| StateError::Store { doing: format!("get {key:?}"), source })?;
        let found = answer.kvs.into_iter().next();
        if let Some(kv) = &found {
            self.known.learn(&full, kv.modified);
        }
        Ok(found.map(|kv| Versioned { value: kv.value, revision: kv.modified }))
    }

    async fn write(
        &self,
        verb: &'static str,
        key: &str,
        full: &[u8],
        known: Revision,
        write: Write,
        policy: Policy,
    ) -> Result<(Revision, bool), FencedError> {
        let deadline = clock::boot_now() + self.env.call_timeout;
        let mut known = known;
        loop {
            let mut asked = Revision(0);
            let guard = || {
                let guard = self.owner.guard(&self.env)?;
                asked = guard.modified;
                Some(Some(guard))
            };
            let left = deadline.since(clock::boot_now());
            let store = self.env.store.as_ref();
            let place = Place { key: full, marker: Some(&self.known.marker) };
            let done = guarded::write(store, guard, place, known, &write, policy, left).await;
            match done {
                Ok((revision, deleted)) => {
                    self.known.learn(full, revision);
                    return Ok((revision, deleted));
                }
                Err(Failed::GuardLost) => {
                    self.after_guard_lost(asked, left).await?;
                    if policy == Policy::Overwrite {
                        known = self.known.of(full);
                    }
                }
                Err(Failed::Changed(found)) => {
                    let found = found.map_or(Revision(0), |kv| kv.modified);
                    return Err(FencedError::Conflict { key: key.to_owned(), found });
                }
                Err(Failed::Store(source) | Failed::Unknown(source)) => {
                    return Err(StateError::of_write(format!("{verb} {key:?}"), source).into());
                }
            }
        }
    }

    /// Called when the guard's revision is not `asked` any more. An office is over then. A shard may still
    /// be held (T16): another held write of this node came between, and the caller sends the same write
    /// again.
    async fn after_guard_lost(&self, asked: Revision, left: Duration) -> Result<(), FencedError> {
        match &self.owner {
            Owner::Shard { gate, .. } if gate.is_open() && !left.is_zero() => {
                if gate.held().held() == asked {
                    // The write that changed the held key was committed, but its answer has not arrived
                    // yet.
                    sleep(ANSWER_SOON).await;
                }
                Ok(())
            }
            Owner::Leader(_) | Owner::Shard { .. } => Err(self.owner.stale(&self.env)),
        }
    }

    fn key(&self, key: &str) -> Result<Vec<u8>, FencedError> {
        let full = match &self.owner {
            Owner::Leader(_) => self.env.keys.leader_data(key),
            Owner::Shard { work, shard, .. } => self.env.keys.shard_data(work, *shard, key),
        };
        Ok(full.map_err(|source| StateError::of_key(key, source))?)
    }
}
