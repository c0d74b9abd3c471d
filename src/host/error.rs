//! Errors that a host ends with.

use std::time::Duration;

use crate::{
    node::{CloseError, InvalidOption, NodeError, StartError, work::WorkError},
    signals::Aborted,
    telemetry::StatusServerError,
};

/// Reason why a host or an operator could not start, run or leave.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The options of the node are invalid or contradict each other.
    #[error("setting up the node")]
    Options(#[source] InvalidOption),
    /// The registry has metrics of these names already.
    #[error("registering metrics")]
    Metrics(#[source] prometheus::Error),
    /// The status server could not start; no other part was started.
    #[error("starting the status server")]
    Serve(#[source] StatusServerError),
    /// A step before joining has failed.
    #[error("preparing to join")]
    Prepare(#[source] WorkError),
    /// The node could not join the cluster.
    #[error("joining the cluster")]
    Start(#[source] StartError),
    /// The node did not join within the limit of [`Host::start_within`](super::Host::start_within).
    #[error("not joined within {within:?}{}", .problem.as_ref().map(|it| format!(": {it}")).unwrap_or_default())]
    NotJoined {
        /// Limit that has passed.
        within: Duration,
        /// Reason, as far as the node knows.
        problem: Option<String>,
    },
    /// The node's driver has failed ([`NodeError::Broken`]): end the process, so that a supervisor can prove
    /// its death. The host did not wait for any work.
    #[error("running the node")]
    Node(#[source] NodeError),
    /// The node could not leave the cluster.
    #[error("leaving the cluster")]
    Stop(#[source] NodeError),
    /// The node has left the cluster, but did not close.
    #[error("closing the node")]
    Close(#[source] CloseError),
    /// A task of the host ended unexpectedly.
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

impl From<StartError> for HostError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Broken => Self::Node(NodeError::Broken),
            error => Self::Start(error),
        }
    }
}
