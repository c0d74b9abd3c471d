//! The errors that an operator ends with.

use crate::{
    node::{InvalidOption, NodeError, StartError},
    signals::Aborted,
    telemetry::StatusServerError,
};

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
