//! The node of an operator, and the errors that an operator ends with.

use std::sync::Arc;

use prometheus::Registry;

use crate::{
    node::{
        ClusterNodeBuilder, InvalidOption, Node, NodeError, NodeMetrics, StandaloneNodeBuilder,
        StartError, WorkerOptions, work::LeaderTask,
    },
    signals::Aborted,
    telemetry::StatusServerError,
};

/// Builder of a cluster node or a standalone node.
#[derive(Debug)]
pub enum NodeBuilder {
    /// Builder of a node of a cluster.
    Cluster(ClusterNodeBuilder),
    /// Builder of a standalone node: a cluster of one, in memory.
    Standalone(StandaloneNodeBuilder),
}

impl From<ClusterNodeBuilder> for NodeBuilder {
    fn from(builder: ClusterNodeBuilder) -> Self {
        Self::Cluster(builder)
    }
}

impl From<StandaloneNodeBuilder> for NodeBuilder {
    fn from(builder: StandaloneNodeBuilder) -> Self {
        Self::Standalone(builder)
    }
}

impl NodeBuilder {
    /// Adds a task that runs while the node leads.
    #[must_use]
    pub fn leader_task(self, task: impl LeaderTask) -> Self {
        match self {
            Self::Cluster(builder) => Self::Cluster(builder.leader_task(task)),
            Self::Standalone(builder) => Self::Standalone(builder.leader_task(task)),
        }
    }

    /// Adds a worker for the shards of a work type.
    #[must_use]
    pub fn worker(self, worker: WorkerOptions) -> Self {
        match self {
            Self::Cluster(builder) => Self::Cluster(builder.worker(worker)),
            Self::Standalone(builder) => Self::Standalone(builder.worker(worker)),
        }
    }

    /// Registers the node's metrics, unless the builder has metrics already.
    pub(super) fn counted(self, registry: &Registry) -> prometheus::Result<Self> {
        let counts = match &self {
            Self::Cluster(builder) => builder.counts(),
            Self::Standalone(builder) => builder.counts(),
        };
        if counts {
            return Ok(self);
        }
        let metrics = NodeMetrics::register(registry)?;
        Ok(match self {
            Self::Cluster(builder) => Self::Cluster(builder.metrics(metrics)),
            Self::Standalone(builder) => Self::Standalone(builder.metrics(metrics)),
        })
    }

    /// Builds the node.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`] names the option and describes a valid value.
    pub fn build(self) -> Result<Arc<dyn Node>, InvalidOption> {
        Ok(match self {
            Self::Cluster(builder) => Arc::new(builder.build()?),
            Self::Standalone(builder) => Arc::new(builder.build()?),
        })
    }
}

/// Reason why an operator could not start, run or leave.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The options of the node are invalid or contradict each other.
    #[error("setting up the node")]
    Options(#[source] InvalidOption),
    /// The registry has metrics of these names already.
    #[error("registering the operator's metrics")]
    Metrics(#[source] prometheus::Error),
    /// The status server could not start; no other part was started.
    #[error("starting the status server")]
    Serve(#[source] StatusServerError),
    /// The node could not join the cluster.
    #[error("joining the cluster")]
    Start(#[source] StartError),
    /// The node's driver has failed ([`NodeError::Broken`]): end the process, so that a supervisor can prove
    /// its death. The operator did not wait for any work.
    #[error("running the node")]
    Node(#[source] NodeError),
    /// The node could not leave the cluster.
    #[error("leaving the cluster")]
    Stop(#[source] NodeError),
    /// A task of the operator ended unexpectedly.
    #[error("{0}")]
    Task(String),
    /// The system rejected the signal handlers.
    #[error("listening for signals")]
    Signals(#[source] std::io::Error),
    /// A second signal has aborted the leaving. A program should then exit with its
    /// [`exit_code`](Aborted::exit_code).
    #[error(transparent)]
    Aborted(Aborted),
}

impl From<StartError> for OperatorError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Broken => Self::Node(NodeError::Broken),
            error => Self::Start(error),
        }
    }
}
