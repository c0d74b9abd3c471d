//! Options that have parts: limits of user work, shard workers, and what can be wrong with any.

use std::{fmt, io, sync::Arc, time::Duration};

use super::work::{ShardWorker, WorkError};
use crate::{engine::NegativeNodeId, store::keys::InvalidName};

/// Into how many shards work is cut.
const SHARDS: u32 = 256;

/// An option that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidOption {
    /// An option without a default was not given.
    #[error("option `{0}` is missing: set it on the builder")]
    Missing(&'static str),
    /// A node id below zero.
    #[error("option `id` cannot be used")]
    Id(#[source] NegativeNodeId),
    /// A name that cannot be part of a key.
    #[error("option `{option}` cannot be used")]
    Name {
        /// Which option.
        option: &'static str,
        /// What is wrong.
        source: InvalidName,
    },
    /// A span out of its bounds.
    #[error("option `{option}` is {value:?}: choose {bounds}")]
    Duration {
        /// Which option.
        option: &'static str,
        /// As it was given.
        value: Duration,
        /// What would do.
        bounds: &'static str,
    },
    /// A number out of its bounds.
    #[error("option `{option}` of work type {work} is {value}: choose {bounds}")]
    Work {
        /// Which work type.
        work: String,
        /// Which option.
        option: &'static str,
        /// As it was given.
        value: u32,
        /// What would do.
        bounds: &'static str,
    },
    /// Two workers for one work type.
    #[error("work type {0} has two workers: give it one")]
    WorkTwice(String),
    /// The store cannot be set up: an endpoint that is none, a certificate that cannot be read.
    #[error("option `store` cannot be used")]
    Store(#[source] WorkError),
    /// The system gave no thread for the driver.
    #[error("cannot start the driver's thread")]
    Thread(#[source] io::Error),
}

/// How long user work may take, and what it costs if it takes longer or panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutineLimits {
    /// A run of the leader or the follower routine may take this long, then it is cancelled. Default
    /// 10 s; more than the work needs, less than what a hanging leader may cost.
    pub run: Duration,
    /// What planned ends give the work to return by itself after it was cancelled. Default 5 s.
    pub cancel_grace: Duration,
    /// So many panics of the leader's work in a row, without a good run between, cost the leadership.
    /// Default 3, at least 1.
    pub panics: u32,
    /// A node that lost office by its own work campaigns again after this long, doubled each time up
    /// to 32 times as long. Default 2 s.
    pub unfit_after: Duration,
    /// The work of a shard that moves may take this long to end, then it is dropped and counted.
    /// Default 30 s.
    pub drain: Duration,
}

impl Default for RoutineLimits {
    fn default() -> Self {
        Self {
            run: Duration::from_secs(10),
            cancel_grace: Duration::from_secs(5),
            panics: 3,
            unfit_after: Duration::from_secs(2),
            drain: Duration::from_secs(30),
        }
    }
}

/// A work type that the node can run, and its share of it.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) name: String,
    pub(crate) shards: u32,
    pub(crate) weight: u32,
    pub(crate) capacity: Option<u32>,
    pub(crate) as_leader: bool,
    pub(crate) runs: Arc<dyn ShardWorker>,
}

/// A shard worker with its share of the work.
pub struct WorkerOptions(pub(crate) Worker);

impl fmt::Debug for WorkerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerOptions")
            .field("work", &self.0.name)
            .field("shards", &self.0.shards)
            .field("weight", &self.0.weight)
            .field("capacity", &self.0.capacity)
            .field("as_leader", &self.0.as_leader)
            .finish_non_exhaustive()
    }
}

impl WorkerOptions {
    /// A worker for the work type of that name: 256 shards, weight 1, no limit, not while leader of
    /// others.
    pub fn new(work: impl Into<String>, worker: impl ShardWorker) -> Self {
        Self(Worker {
            name: work.into(),
            shards: SHARDS,
            weight: 1,
            capacity: None,
            as_leader: false,
            runs: Arc::new(worker),
        })
    }

    /// Into how many shards the work is cut: 1 to 65,536. All nodes of a cluster must agree.
    #[must_use]
    pub fn shards(mut self, shards: u32) -> Self {
        self.0.shards = shards;
        self
    }

    /// The share this node wants relative to the others, at least 1.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.0.weight = weight;
        self
    }

    /// At most this many shards.
    #[must_use]
    pub fn capacity(mut self, shards: u32) -> Self {
        self.0.capacity = Some(shards);
        self
    }

    /// Whether the node takes shards even while it leads others. When it is alone it always does.
    #[must_use]
    pub fn as_leader(mut self, yes: bool) -> Self {
        self.0.as_leader = yes;
        self
    }
}
