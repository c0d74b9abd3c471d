//! Assignments of objects to this node, and the runs under each assignment.
//!
//! # Invariants
//!
//! * A run starts only under a current assignment. The set that [`Assigned::close`] returns has all of its runs;
//!   dropping that set, or the [`Assigned`], aborts them.
//! * Runs under a later assignment of the same objects start when those of the earlier one have ended, even if
//!   that one was aborted: code without an await cannot be aborted, and the later assignment waits for it.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::RwLock, task::JoinSet};

use super::Context;
use crate::engine::ShardId;

/// The objects that an assignment covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Selection {
    /// Every object, for the leader.
    All,
    /// The objects of a shard.
    Shard(ShardId),
}

/// An assignment of the objects of a selection to this node.
pub(super) struct Assignment {
    pub(super) context: Context,
    /// `None` once the assignment has ended.
    runs: Mutex<Option<JoinSet<()>>>,
    /// Every run holds a read lock; the next assignment takes the write lock for a moment.
    alive: Arc<RwLock<()>>,
}

impl Assignment {
    /// Starts a run, unless the assignment has ended.
    pub(super) fn spawn(&self, run: impl Future<Output = ()> + Send + 'static) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(runs) = runs.as_mut() else { return };
        while runs.try_join_next().is_some() {}
        // The next assignment takes the write lock only after this one has ended, and then no run may start.
        let Ok(alive) = Arc::clone(&self.alive).try_read_owned() else { return };
        runs.spawn(async move {
            let _alive = alive;
            run.await;
        });
    }
}

/// The assignments of a controller, by selection.
#[derive(Default)]
pub(super) struct Assignments(Mutex<HashMap<Selection, Slot>>);

/// The current assignment of a selection, and the lock that its runs share with those of earlier ones.
#[derive(Default)]
struct Slot {
    current: Option<Arc<Assignment>>,
    alive: Arc<RwLock<()>>,
}

impl Assignments {
    /// The current assignment of a selection.
    pub(super) fn of(&self, selection: Selection) -> Option<Arc<Assignment>> {
        self.lock().get(&selection)?.current.clone()
    }

    /// Assigns a selection to this node, once no run of an earlier assignment is left.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it returns, nothing is assigned.
    pub(super) async fn assign(&self, selection: Selection, context: Context) -> Assigned<'_> {
        let alive = Arc::clone(&self.lock().entry(selection).or_default().alive);
        drop(alive.write().await);
        let runs = Mutex::new(Some(JoinSet::new()));
        let assignment = Arc::new(Assignment { context, runs, alive });
        self.lock().entry(selection).or_default().current = Some(Arc::clone(&assignment));
        Assigned { all: self, selection, assignment }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Selection, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A current assignment, until this is ended or dropped. Dropping it aborts the runs.
pub(super) struct Assigned<'a> {
    all: &'a Assignments,
    selection: Selection,
    assignment: Arc<Assignment>,
}

impl Assigned<'_> {
    /// Ends the assignment: no run starts from now on. Dropping the returned set aborts its runs.
    pub(super) fn close(&self) -> JoinSet<()> {
        if let Some(slot) = self.all.lock().get_mut(&self.selection)
            && slot.current.as_ref().is_some_and(|it| Arc::ptr_eq(it, &self.assignment))
        {
            slot.current = None;
        }
        let mut runs = self.assignment.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.take().unwrap_or_default()
    }
}

impl Drop for Assigned<'_> {
    fn drop(&mut self) {
        drop(self.close());
    }
}
