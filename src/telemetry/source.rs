//! Interface of the status server to a node: its status, its probes, and its actions.

use async_trait::async_trait;

/// Source of a node's status, probes and actions for the server.
///
/// The server waits for every answer at most [`ServerConfig::answer_timeout`]: a source that hangs fails its
/// probes and the request, but does not block the server. If a source panics, the server answers with 500.
///
/// [`ServerConfig::answer_timeout`]: super::ServerConfig::answer_timeout
#[async_trait]
#[doc(hidden)]
pub trait StatusSource: Send + Sync + 'static {
    /// The JSON of `/status`: an object with the fields of `node::status::Status` and those that the caller
    /// adds (`checks`, `siblings`). The server adds a field `server` to the object.
    async fn status(&self) -> serde_json::Value;

    /// Whether the process works: the driver steps. An unreachable store does not fail this probe, since a
    /// restart would not help.
    async fn liveness(&self) -> Probe;

    /// Whether the node is ready: joined, synced, and the election is not stuck. A follower is ready too.
    async fn readiness(&self) -> Probe;

    /// The node in office, and whether it is this node.
    async fn leadership(&self) -> Leadership;

    /// Actions that the page offers for this node. The default is an empty list: then no request can change
    /// anything.
    fn actions(&self) -> Vec<Action> {
        Vec::new()
    }

    /// Executes one of [`Self::actions`] and returns a text that describes the result. `node` is the id of the
    /// node that the action is for; `None` means the leader.
    ///
    /// # Errors
    ///
    /// [`ActionError`]: the action is not offered, was refused, or failed.
    async fn act(&self, action: Action, node: Option<String>) -> Result<String, ActionError> {
        let _ = node;
        Err(ActionError::NotOffered(action))
    }

    /// Resolves at the next change that the page should show at once: a role, a term, a node, a check's state.
    /// The default never resolves; then the page refreshes at its own interval.
    ///
    /// # Cancel safety
    ///
    /// The server drops this future and calls the method again at any time. A change missed in between shows at
    /// the next refresh.
    async fn changed(&self) {
        std::future::pending::<()>().await;
    }
}

/// The answer of a probe, with the reason as text for the body of the response.
#[derive(Clone, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub enum Probe {
    /// The probe passes: status 200.
    Pass(String),
    /// The probe fails: status 503.
    Fail(String),
}

/// The node in office, as far as a node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[doc(hidden)]
pub struct Leadership {
    /// Whether this node is in office and has authority now.
    pub here: bool,
    /// The node in office, if there is one.
    pub leader: Option<Leader>,
}

/// Leader that a node knows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub struct Leader {
    /// Node id of the leader.
    pub id: String,
    /// Address of the leader, if it is known.
    pub address: Option<String>,
    /// Term of the leader.
    pub term: String,
}

/// Action that a button on the page requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[doc(hidden)]
pub enum Action {
    /// The leader ends its term and hands over.
    Resign,
    /// A node stops at once and notifies no other node, as after `kill -9`. For demonstrations.
    Kill,
}

impl Action {
    /// All actions that exist.
    pub const ALL: [Self; 2] = [Self::Resign, Self::Kill];

    /// Name of the action in `/actions/{name}` and in `/status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Resign => "resign",
            Self::Kill => "kill",
        }
    }

    /// The action with that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }
}

/// Reason why an action was not done, or failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[doc(hidden)]
pub enum ActionError {
    /// The source does not offer the action.
    #[error("this node does not offer {}", .0.name())]
    NotOffered(Action),
    /// The action is not possible now: there is no leader, or no such node.
    #[error("{0}")]
    Refused(String),
    /// The action was tried and failed; it may have taken effect.
    #[error("{0}")]
    Failed(String),
}
