//! How many checks a node runs at once, shared fairly between all of its shards.
//!
//! Runs are admitted in the order in which they ask. Targets that hang must not hold up those that answer:
//! a check whose last run got no answer in good time, or that has not been run yet, is *unproven*, and
//! unproven runs leave a quarter of the places to the others. So a target that answers waits for nothing
//! but its equals, and one that was never run waits for one round of the unproven at most.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The part of the places that unproven runs leave free.
const RESERVED: usize = 4;

/// What is known of a check's target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// The last run was answered in good time.
    Proven,
    /// The last run was not, or there was none.
    #[default]
    Unproven,
}

/// The places for runs of one node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pool {
    all: Arc<Semaphore>,
    unproven: Arc<Semaphore>,
}

/// A place for one run, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _all: OwnedSemaphorePermit,
    _unproven: Option<OwnedSemaphorePermit>,
}

impl Pool {
    /// A pool of so many places; of at least one.
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
    /// Dropped, the place in the queue is lost.
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
