//! Limits how many checks a node runs at once, shared fairly between all of its shards.
//!
//! Runs are admitted in the order in which they ask. Targets that hang must not delay targets that answer: a
//! check whose last run got no answer in good time, or that has not been run yet, is *unproven*, and unproven
//! runs leave a quarter of the places to proven ones. So a proven target waits only for other proven ones,
//! and a target that was never run waits for one round of the unproven ones at most.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Fraction of the places that unproven runs leave free, as a divisor.
const RESERVED: usize = 4;

/// Standing of a check's target, from its last run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// The last run was answered in good time.
    Proven,
    /// The last run was not answered in good time, or there was none.
    #[default]
    Unproven,
}

/// Places for runs of one node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pool {
    all: Arc<Semaphore>,
    unproven: Arc<Semaphore>,
}

/// A place for one run, released when dropped.
#[derive(Debug)]
pub(super) struct Place {
    _all: OwnedSemaphorePermit,
    _unproven: Option<OwnedSemaphorePermit>,
}

impl Pool {
    /// Creates a pool with this number of places, at least one.
    pub fn new(places: usize) -> Self {
        let places = places.clamp(1, Semaphore::MAX_PERMITS);
        let unproven = places - places / RESERVED;
        Self { all: Arc::new(Semaphore::new(places)), unproven: Arc::new(Semaphore::new(unproven)) }
    }

    /// Waits for a place.
    ///
    /// # Panics
    ///
    /// Never: the semaphores are never closed.
    ///
    /// # Cancel safety
    ///
    /// If dropped, the run loses its place in the queue.
    pub(super) async fn admit(&self, standing: Standing) -> Place {
        let unproven = match standing {
            Standing::Proven => None,
            Standing::Unproven => Some(one_of(&self.unproven).await),
        };
        Place { _all: one_of(&self.all).await, _unproven: unproven }
    }
}

async fn one_of(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(semaphore).acquire_owned().await.expect("it is never closed")
}
