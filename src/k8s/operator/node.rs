//! Which kind of node an operator has, and why it ended.

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

/// The builder of either kind of node.
#[derive(Debug)]
pub enum NodeBuilder {
    /// A node of a cluster.
    Cluster(ClusterNodeBuilder),
    /// A cluster of one, in memory.
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
    /// What runs as long as the node leads.
    #[must_use]
    pub fn leader_task(self, task: impl LeaderTask) -> Self {
        match self {
            Self::Cluster(builder) => Self::Cluster(builder.leader_task(task)),
            Self::Standalone(builder) => Self::Standalone(builder.leader_task(task)),
        }
    }

    /// What works on the shards of a work type.
    #[must_use]
    pub fn worker(self, worker: WorkerOptions) -> Self {
        match self {
            Self::Cluster(builder) => Self::Cluster(builder.worker(worker)),
            Self::Standalone(builder) => Self::Standalone(builder.worker(worker)),
        }
    }

    /// Lets it count there, unless it was told elsewhere.
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

    /// The node.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`] names the option and what would do.
    pub fn build(self) -> Result<Arc<dyn Node>, InvalidOption> {
        Ok(match self {
            Self::Cluster(builder) => Arc::new(builder.build()?),
            Self::Standalone(builder) => Arc::new(builder.build()?),
        })
    }
}

/// Why an operator ended that was not asked to.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The node does not go together.
    #[error("setting up the node")]
    Options(#[source] InvalidOption),
    /// The registry has metrics of these names already.
    #[error("registering the operator's metrics")]
    Metrics(#[source] prometheus::Error),
    /// There is no status server; nothing was begun.
    #[error("starting the status server")]
    Serve(#[source] StatusServerError),
    /// The cluster does not let it in.
    #[error("joining the cluster")]
    Start(#[source] StartError),
    /// The node's driver has failed ([`NodeError::Broken`]): end the process, so that a supervisor can
    /// prove its death. Nothing was waited for.
    #[error("running the node")]
    Node(#[source] NodeError),
    /// It could not leave.
    #[error("leaving the cluster")]
    Stop(#[source] NodeError),
    /// A part of it ended unasked.
    #[error("{0}")]
    Task(String),
    /// The system does not let it listen for signals.
    #[error("listening for signals")]
    Signals(#[source] std::io::Error),
    /// A second signal has cut the leaving short. A program ends with its
    /// [`exit_code`](Aborted::exit_code) then.
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
