//! Writes that take effect only while the writer's right to make them stands.
//!
//! A leader's write compares the mod revision of its candidate key as its TAKE left it (T7), a shard
//! owner's that of its held key (T16). So a write of a former leader fails in the store itself, however
//! late it arrives and whatever the clocks say. The data lies where only the leader, or the shard's
//! owner, writes: `store::keys` names it.

mod txn;

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

pub use self::txn::FencedTxn;
use super::{
    context::AuthorityLost,
    env::Env,
    gate::{Gate as _, LeaderGate, ShardGate},
    guarded::{self, Failed, Guard, Known, Place, Policy, Write},
};
use crate::{
    clock,
    engine::{Revision, ShardId, WorkType},
    store::{Get, StoreError, keys::InvalidName},
};

/// An answer that is on its way is looked for again after so long.
const ANSWER_SOON: Duration = Duration::from_millis(2);

/// A value with the revision it was last written at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The value.
    pub value: Vec<u8>,
    /// The revision of its last write: what [`Fenced::compare_and_set`] expects.
    pub revision: Revision,
}

/// Why a fenced call failed.
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
        /// Which key; the first one that differs.
        key: String,
        /// The revision it was last written at; zero if it does not exist.
        found: Revision,
    },
    /// The key cannot be used. Nothing changed.
    #[error("key {key:?} cannot be used")]
    Key {
        /// As it was given.
        key: String,
        /// What is wrong with it.
        source: InvalidName,
    },
    /// The store refused or could not be reached. Nothing changed.
    #[error("cannot {doing}")]
    Store {
        /// What was attempted, to which key.
        doing: String,
        /// Why it failed.
        source: StoreError,
    },
    /// The store did not answer, or the term ended before it could be asked again. The write may or may
    /// not have taken effect: read the key to find out. It cannot take effect once the term is over.
    #[error("it is unknown whether the store did {doing}")]
    Unknown {
        /// What was attempted, to which key.
        doing: String,
        /// How the answer was missed.
        source: StoreError,
    },
}

impl FencedError {
    /// Whether the right to write is over for good in this context.
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

/// What the right to write hangs on.
#[derive(Clone, Debug)]
pub(crate) enum Right {
    Leader(Arc<LeaderGate>),
    Shard { gate: Arc<ShardGate>, work: WorkType, shard: ShardId },
}

impl Right {
    /// The compare that fences; `None` if the right is over.
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
    right: Right,
    known: Arc<Known>,
}

impl Fenced {
    pub(crate) fn new(env: Env, right: Right, known: Arc<Known>) -> Self {
        Self { env, right, known }
    }

    /// Puts a key. Returns the revision of the write.
    ///
    /// # Errors
    ///
    /// [`FencedError`]. Its variants say whether anything may have changed.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the outcome is unknown.
    pub async fn put(&self, key: &str, value: impl Into<Vec<u8>>) -> Result<Revision, FencedError> {
        let write = Write::Put { value: value.into(), lease: None };
        let full = self.key(key)?;
        let known = self.known.of(&full);
        let (revision, _) = self.write("put", key, &full, known, write, Policy::Overwrite).await?;
        Ok(revision)
    }

    /// Puts a key if it was last written at `expected`; `None` = if it does not exist. Returns the
    /// revision of the write.
    ///
    /// # Errors
    ///
    /// [`FencedError::Conflict`] if it is another by now, else as for [`put`](Self::put).
    ///
    /// # Cancel safety
    ///
    /// Dropped, the outcome is unknown.
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

    /// Deletes a key. Whether there was one.
    ///
    /// # Errors
    ///
    /// As for [`put`](Self::put).
    ///
    /// # Cancel safety
    ///
    /// Dropped, the outcome is unknown.
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
    /// [`FencedError::StaleTerm`] or [`FencedError::StaleEpoch`] without authority,
    /// [`FencedError::Key`] and [`FencedError::Store`]. Nothing changes.
    pub async fn get(&self, key: &str) -> Result<Option<Versioned>, FencedError> {
        let full = self.key(key)?;
        if self.right.guard(&self.env).is_none() {
            return Err(self.right.stale(&self.env));
        }
        let (store, get) = (&self.env.store, Get::key(full.as_slice()));
        let answer = guarded::read(self.env.call_timeout, |wait| store.get(get.clone(), wait))
            .await
            .map_err(|source| FencedError::Store { doing: format!("get {key:?}"), source })?;
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
        let doing = || format!("{verb} {key:?}");
        let deadline = clock::boot_now() + self.env.call_timeout;
        let mut known = known;
        loop {
            let mut asked = Revision(0);
            let guard = || {
                let guard = self.right.guard(&self.env)?;
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
                Err(Failed::Store(source)) => {
                    return Err(FencedError::Store { doing: doing(), source });
                }
                Err(Failed::Unknown(source)) => {
                    return Err(FencedError::Unknown { doing: doing(), source });
                }
            }
        }
    }

    /// The guard is another now than was `asked`. An office is over with that. A shard may be held still
    /// (T16): another held write of this node came between, and the same is to be sent again.
    async fn after_guard_lost(&self, asked: Revision, left: Duration) -> Result<(), FencedError> {
        match &self.right {
            Right::Shard { gate, .. } if gate.is_open() && !left.is_zero() => {
                if gate.held().held() == asked {
                    // The write that changed it was committed, but its answer is not here yet.
                    sleep(ANSWER_SOON).await;
                }
                Ok(())
            }
            Right::Leader(_) | Right::Shard { .. } => Err(self.right.stale(&self.env)),
        }
    }

    fn key(&self, key: &str) -> Result<Vec<u8>, FencedError> {
        let full = match &self.right {
            Right::Leader(_) => self.env.keys.leader_data(key),
            Right::Shard { work, shard, .. } => self.env.keys.shard_data(work, *shard, key),
        };
        full.map_err(|source| FencedError::Key { key: key.to_owned(), source })
    }
}
