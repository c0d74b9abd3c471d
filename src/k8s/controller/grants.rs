//! For which objects a controller of this process may work now, and the runs that it works with.
//!
//! # Invariants
//!
//! * A run is begun only under a grant that stands; [`Closed::joined`] returns when all of its runs have
//!   been joined, and dropping it, or the [`Hold`], aborts them.
//! * Runs under a later grant of the same lane begin when those of the earlier one have ended, however that
//!   one ended: code that does not await cannot be aborted, and is waited for.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{sync::RwLock, task::JoinSet};

use super::Context;
use crate::engine::ShardId;

/// What a grant is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Every object: the leader's.
    All,
    /// The objects of a shard.
    Shard(ShardId),
}

/// The right to work on the objects of a lane.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) context: Context,
    /// None once it has ended.
    runs: Mutex<Option<JoinSet<()>>>,
    /// Held by every run to read; by the next grant, for a moment, to write.
    alive: Arc<RwLock<()>>,
}

impl Grant {
    /// Begins a run, unless the grant has ended.
    pub(crate) fn spawn(&self, run: impl Future<Output = ()> + Send + 'static) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(runs) = runs.as_mut() else { return };
        while runs.try_join_next().is_some() {}
        // The next grant waits for it only after this one has ended, and then nothing is begun.
        let Ok(alive) = Arc::clone(&self.alive).try_read_owned() else { return };
        runs.spawn(async move {
            let _alive = alive;
            run.await;
        });
    }
}

/// The grants that stand.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    standing: Mutex<HashMap<Lane, Arc<Grant>>>,
    alive: Mutex<HashMap<Lane, Arc<RwLock<()>>>>,
}

impl Grants {
    /// The grant of a lane.
    pub(crate) fn of(&self, lane: Lane) -> Option<Arc<Grant>> {
        let standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        standing.get(&lane).cloned()
    }

    /// Whether there is a grant for that lane.
    pub(crate) fn has(&self, lane: Lane) -> bool {
        self.of(lane).is_some()
    }

    /// Lets the controller work on a lane, once no run of an earlier grant is left.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, nothing is granted.
    pub(crate) async fn hold(self: &Arc<Self>, lane: Lane, context: Context) -> Hold {
        let alive = {
            let mut alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(alive.entry(lane).or_default())
        };
        drop(alive.write().await);
        let grant = Arc::new(Grant { context, runs: Mutex::new(Some(JoinSet::new())), alive });
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        standing.insert(lane, Arc::clone(&grant));
        Hold { grants: Arc::clone(self), lane, grant }
    }
}

/// A grant that stands until this is closed or dropped. Dropped, what still runs is aborted.
#[derive(Debug)]
pub(crate) struct Hold {
    grants: Arc<Grants>,
    lane: Lane,
    grant: Arc<Grant>,
}

impl Hold {
    /// No run is begun any more from now on.
    pub(crate) fn close(self) -> Closed {
        Closed(self.take())
    }

    fn take(&self) -> Option<JoinSet<()>> {
        {
            let mut standing = self.grants.standing.lock().unwrap_or_else(PoisonError::into_inner);
            if standing.get(&self.lane).is_some_and(|it| Arc::ptr_eq(it, &self.grant)) {
                standing.remove(&self.lane);
            }
        }
        self.grant.runs.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Dropping the set aborts what is in it.
        drop(self.take());
    }
}

/// The runs of a grant that has ended. Dropped, they are aborted.
#[derive(Debug)]
pub(crate) struct Closed(Option<JoinSet<()>>);

impl Closed {
    /// Returns when all of them have.
    ///
    /// # Cancel safety
    ///
    /// Dropped, what still runs is aborted.
    pub(crate) async fn joined(mut self) {
        let Some(runs) = self.0.as_mut() else { return };
        while runs.join_next().await.is_some() {}
    }
}
