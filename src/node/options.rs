//! Validated options of a node: user work and its limits; and the error for an invalid option.

use std::{collections::BTreeMap, fmt, io, sync::Arc, time::Duration};

use super::{
    env::Env,
    host::DriverHost,
    work::{FollowerRoutine, LeaderRoutine, LeaderTask, ShardWorker, WorkError},
};
use crate::{
    engine::{self, NegativeNodeId, WorkOffer, WorkType},
    store::keys::InvalidName,
};

/// Default number of shards of a work type.
const SHARDS: u32 = 256;

/// Error for an option that cannot be used.
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
        /// Name of the option.
        option: &'static str,
        /// Reason why the name is invalid.
        source: InvalidName,
    },
    /// A duration outside its bounds.
    #[error("option `{option}` is {value:?}: choose {bounds}")]
    Duration {
        /// Name of the option.
        option: &'static str,
        /// Value as the caller gave it.
        value: Duration,
        /// Values that are allowed.
        bounds: &'static str,
    },
    /// A failover profile that is slower than the store allows.
    #[error(
        "option `failover` has D {d:?}: choose a profile with a D of at most {most:?} on this store"
    )]
    Failover {
        /// D of the profile.
        d: Duration,
        /// Largest D on the store.
        most: Duration,
    },
    /// A number outside its bounds.
    #[error("option `{option}` of work type {work} is {value}: choose {bounds}")]
    Work {
        /// Name of the work type.
        work: String,
        /// Name of the option.
        option: &'static str,
        /// Value as the caller gave it.
        value: u32,
        /// Values that are allowed.
        bounds: &'static str,
    },
    /// Two workers for one work type.
    #[error("work type {0} has two workers: give it one")]
    WorkTwice(String),
    /// The store cannot be set up: an invalid endpoint, or a certificate that cannot be read.
    #[error("option `store` cannot be used")]
    Store(#[source] WorkError),
    /// The system could not create the driver's thread.
    #[error("cannot start the driver's thread")]
    Thread(#[source] io::Error),
}

/// User work that the node runs.
#[derive(Clone, Default)]
pub(crate) struct Work {
    pub(crate) leader: Option<Arc<dyn LeaderRoutine>>,
    pub(crate) follower: Option<Arc<dyn FollowerRoutine>>,
    pub(crate) tasks: Vec<Arc<dyn LeaderTask>>,
    pub(crate) workers: BTreeMap<WorkType, Arc<dyn ShardWorker>>,
    pub(crate) also_follow: bool,
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work")
            .field("leader", &self.leader.is_some())
            .field("follower", &self.follower.is_some())
            .field("tasks", &self.tasks.iter().map(|task| task.name()).collect::<Vec<_>>())
            .field("workers", &self.workers.keys().collect::<Vec<_>>())
            .field("also_follow", &self.also_follow)
            .finish()
    }
}

/// Validated options of a node.
#[derive(Clone, Debug)]
pub(crate) struct NodeOptions {
    pub(crate) engine: engine::Config,
    pub(crate) env: Env,
    pub(crate) work: Work,
    pub(crate) limits: RoutineLimits,
    /// How long `start` waits for the current holder of the id to end.
    pub(crate) id_wait: Duration,
    pub(crate) host: DriverHost,
}

/// Limits of user work, and the consequences if it takes longer or panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutineLimits {
    /// Longest run of the leader or the follower routine; then the run is cancelled. Default 10 s. Choose
    /// more than the work needs, and less than the time for which a leader that hangs may block the work.
    pub run: Duration,
    /// Time that a planned end gives the work to return by itself after it was cancelled. Default 5 s.
    pub cancel_grace: Duration,
    /// After this many panics of the leader's work in a row, without a good run between them, the node
    /// resigns. Default 3, at least 1.
    pub panics: u32,
    /// Delay after which a node that lost office because of its own work campaigns again, doubled each time
    /// up to 32 times as long. Default 2 s.
    pub unfit_after: Duration,
    /// Time that the work of a shard that moves has to end; then the work is dropped and counted. Default
    /// 30 s.
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

/// Shard worker with the node's share of the work.
pub struct WorkerOptions {
    /// Offer as the program sets it, not validated yet.
    pub(crate) offer: WorkOffer,
    pub(crate) runs: Arc<dyn ShardWorker>,
}

impl fmt::Debug for WorkerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerOptions").field("offer", &self.offer).finish_non_exhaustive()
    }
}

impl WorkerOptions {
    /// Worker for the work type of that name: 256 shards, weight 1, no limit, no shards while the node
    /// leads others.
    pub fn new(work: impl Into<String>, worker: impl ShardWorker) -> Self {
        let work = WorkType::new(work.into());
        let offer = WorkOffer { work, shards: SHARDS, weight: 1, capacity: None, as_leader: false };
        Self { offer, runs: Arc::new(worker) }
    }

    /// Number of shards of the work: 1 to 16,384. All nodes of a cluster must use the same number.
    #[must_use]
    pub fn shards(mut self, shards: u32) -> Self {
        self.offer.shards = shards;
        self
    }

    /// Share of this node relative to the others, at least 1.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.offer.weight = weight;
        self
    }

    /// Largest number of shards that this node takes.
    #[must_use]
    pub fn capacity(mut self, shards: u32) -> Self {
        self.offer.capacity = Some(shards);
        self
    }

    /// Lets the node take shards even while it leads others. A node that is alone always takes them.
    #[must_use]
    pub fn as_leader(mut self) -> Self {
        self.offer.as_leader = true;
        self
    }
}
