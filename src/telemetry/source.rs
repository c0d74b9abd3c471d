//! What the server asks for: the picture of a node, its probes, and what may be done to it.

use async_trait::async_trait;

/// Tells the server about a node.
///
/// Every answer is waited for at most [`ServerConfig::answer_timeout`]: a source that hangs fails its
/// probes and costs a request, never the server. A source that panics is answered for with 500.
///
/// [`ServerConfig::answer_timeout`]: super::ServerConfig::answer_timeout
#[async_trait]
pub trait StatusSource: Send + Sync + 'static {
    /// The JSON of `/status`; an object, the shape of `node::status::Status` and what its caller adds
    /// (`checks`, `siblings`). The server adds a field `server` to it.
    async fn status(&self) -> serde_json::Value;

    /// Whether the process works: the driver steps. Not whether the store answers: a restart would
    /// not help that.
    async fn liveness(&self) -> Probe;

    /// Whether the node does its part: joined, synced, an election that moves. Not whether it leads.
    async fn readiness(&self) -> Probe;

    /// Who is in office.
    async fn leadership(&self) -> Leadership;

    /// What may be asked of this node by a button. None by default: then no request can change
    /// anything.
    fn actions(&self) -> Vec<Action> {
        Vec::new()
    }

    /// Does one of [`Self::actions`] and tells what was done, in words. `node` is the id it was asked
    /// for; none means the leader's.
    ///
    /// # Errors
    ///
    /// [`ActionError`]: why nothing was done.
    async fn act(&self, action: Action, node: Option<String>) -> Result<String, ActionError> {
        let _ = node;
        Err(ActionError::NotOffered(action))
    }

    /// Resolves at the next change worth showing at once: a role, a term, a node, a check's state. The
    /// default never does; then the page follows at its own pace.
    ///
    /// # Cancel safety
    ///
    /// It is dropped and called again at any time. A change missed in between shows a moment later.
    async fn changed(&self) {
        std::future::pending::<()>().await;
    }
}

/// The answer of a probe, with the reason in words, for whoever reads the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// All is well: 200.
    Pass(String),
    /// It is not: 503.
    Fail(String),
}

/// Who is in office, as far as a node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Whether this node is, and has authority now.
    pub here: bool,
    /// Who is, if anybody.
    pub leader: Option<Leader>,
}

/// A leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Its node id.
    pub id: String,
    /// Its address, if it is known.
    pub address: Option<String>,
    /// Its term.
    pub term: String,
}

/// What a button on the page can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The leader ends its term and hands over.
    Resign,
    /// A node stops at once and without a word, as by `kill -9`. For demonstrations.
    Kill,
}

impl Action {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Resign, Self::Kill];

    /// How it is named in `/actions/{name}` and in `/status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Resign => "resign",
            Self::Kill => "kill",
        }
    }

    /// The action of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }
}

/// Why an action was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ActionError {
    /// The source does not offer it.
    #[error("this node does not offer {}", .0.name())]
    NotOffered(Action),
    /// It cannot be done now: nobody leads, no such node.
    #[error("{0}")]
    Refused(String),
    /// It was tried and failed, and may have taken effect.
    #[error("{0}")]
    Failed(String),
}
