//! Grants to work on objects, and the runs under each grant.
//!
//! # Invariants
//!
//! * A run starts only under a current grant. [`Closed::joined`] returns when all of its runs have been
//!   joined; dropping it, or the [`Hold`], aborts them.
//! * Runs under a later grant of the same lane start when those of the earlier grant have ended, even if that
//!   grant was aborted: code without an await cannot be aborted, and the later grant waits for it.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{sync::RwLock, task::JoinSet};

use super::Context;
use crate::engine::ShardId;

/// The objects that a grant covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Every object, for the leader.
    All,
    /// The objects of a shard.
    Shard(ShardId),
}

/// A grant to work on the objects of a lane.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) context: Context,
    /// `None` once the grant has ended.
    runs: Mutex<Option<JoinSet<()>>>,
    /// Every run holds a read lock; the next grant takes the write lock for a moment.
    alive: Arc<RwLock<()>>,
}

impl Grant {
    /// Starts a run, unless the grant has ended.
    pub(crate) fn spawn(&self, run: impl Future<Output = ()> + Send + 'static) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(runs) = runs.as_mut() else { return };
        while runs.try_join_next().is_some() {}
        // The next grant takes the write lock only after this one has ended, and then no run may start.
        let Ok(alive) = Arc::clone(&self.alive).try_read_owned() else { return };
        runs.spawn(async move {
            let _alive = alive;
            run.await;
        });
    }
}

/// The current grants of a controller.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    standing: Mutex<HashMap<Lane, Arc<Grant>>>,
    alive: Mutex<HashMap<Lane, Arc<RwLock<()>>>>,
}

impl Grants {
    /// The current grant of a lane.
    pub(crate) fn of(&self, lane: Lane) -> Option<Arc<Grant>> {
        let standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        standing.get(&lane).cloned()
    }

    /// Whether the lane has a current grant.
    pub(crate) fn has(&self, lane: Lane) -> bool {
        self.of(lane).is_some()
    }

    /// Grants a lane to the controller, once no run of an earlier grant is left.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it returns, no grant is made.
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

/// A current grant, until this is closed or dropped. Dropping it aborts the runs.
#[derive(Debug)]
pub(crate) struct Hold {
    grants: Arc<Grants>,
    lane: Lane,
    grant: Arc<Grant>,
}

impl Hold {
    /// Ends the grant: no run starts from now on.
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
        // Dropping the set aborts its runs.
        drop(self.take());
    }
}

/// The runs of a grant that has ended. Dropping this aborts them.
#[derive(Debug)]
pub(crate) struct Closed(Option<JoinSet<()>>);

impl Closed {
    /// Returns when all of the runs have ended.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the remaining runs are aborted.
    pub(crate) async fn joined(mut self) {
        let Some(runs) = self.0.as_mut() else { return };
        while runs.join_next().await.is_some() {}
    }
}
