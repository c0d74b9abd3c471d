//! Source of the status server for one node.
//!
//! The source uses only the trait [`Node`] and the values [`Status`] and [`Vitals`]. Probes request only the
//! vitals, which cost the node's driver nothing.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::source::{Action, ActionError, Leader, Leadership, Probe, StatusSource};
use crate::{
    clock,
    engine::{BootTime, Role, timing},
    node::{
        KNOWN_FOR, Node, NodeError,
        status::{LeaderStatus, Status, Vitals},
    },
};

#[cfg(test)]
mod tests;

/// Time without a leader after which the election counts as stuck: twice what the slowest election takes.
fn stuck_after(span_max: Duration) -> Duration {
    2 * timing::wait(span_max)
}

/// Adds fields to the JSON of `/status` that the node itself does not know.
type Extra = Box<dyn Fn(&mut Map<String, Value>) + Send + Sync>;

/// Returns the reason if another part of the process is not ready.
type NotReady = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// [`StatusSource`] of one node.
///
/// The node is live while its driver steps, or after the driver ended because the node was closed. The node is
/// ready when it has joined, hears of the store, and the election is not stuck. The page offers no action
/// without [`may_resign`](Self::may_resign).
pub struct NodeSource {
    node: Arc<dyn Node>,
    extra: Vec<Extra>,
    not_ready: Vec<NotReady>,
    actions: Vec<Action>,
    /// Time since when this process has seen no leader.
    leaderless: Mutex<Option<BootTime>>,
}

impl fmt::Debug for NodeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeSource")
            .field("node", &self.node)
            .field("actions", &self.actions)
            .finish_non_exhaustive()
    }
}

impl NodeSource {
    /// Source for a node, without actions.
    pub fn new(node: Arc<dyn Node>) -> Self {
        let (extra, not_ready, actions) = (Vec::new(), Vec::new(), Vec::new());
        Self { node, extra, not_ready, actions, leaderless: Mutex::default() }
    }

    /// Adds a function that edits the JSON of `/status`. The function must be quick.
    #[must_use]
    pub fn with(mut self, extra: impl Fn(&mut Map<String, Value>) + Send + Sync + 'static) -> Self {
        self.extra.push(Box::new(extra));
        self
    }

    /// Adds a check: the node is not ready while `not_ready` returns a reason. The check must be quick.
    #[must_use]
    pub fn unless(
        mut self,
        not_ready: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.not_ready.push(Box::new(not_ready));
        self
    }

    /// Adds a button to the page that makes the leader resign. Every client that reaches the page can use it.
    #[must_use]
    pub fn may_resign(mut self) -> Self {
        self.actions = vec![Action::Resign];
        self
    }

    /// How long there has been no leader, as far as this process knows.
    fn leaderless_for(&self, vitals: &Vitals) -> Duration {
        let now = clock::boot_now();
        let mut since = self.leaderless.lock().unwrap_or_else(PoisonError::into_inner);
        if vitals.leader.is_some() {
            *since = None;
            return Duration::ZERO;
        }
        now.since(*since.get_or_insert(now))
    }
}

/// The status of a node as JSON, or an object with the error as its `problem`.
///
/// # Panics
///
/// Never: a status has string keys.
#[doc(hidden)]
pub fn picture(status: Result<Status, NodeError>) -> Map<String, Value> {
    let value = match status {
        Ok(status) => serde_json::to_value(status).expect("a status has string keys"),
        Err(error) => serde_json::json!({ "problem": error.to_string() }),
    };
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Whether a node is ready, when there has been no leader for `leaderless`.
#[doc(hidden)]
pub fn readiness(vitals: &Vitals, leaderless: Duration) -> Probe {
    if !vitals.membership.joined {
        let why = vitals.problem.as_deref().unwrap_or("it is joining");
        return Probe::Fail(format!("not joined: {why}"));
    }
    let age = vitals.view_age;
    if age > KNOWN_FOR {
        return Probe::Fail(format!("not synced: the store was last heard {} ago", seconds(age)));
    }
    if leaderless > stuck_after(vitals.span_max) {
        return Probe::Fail(format!("no leader for {}", seconds(leaderless)));
    }
    Probe::Pass(format!("joined as {}, synced", vitals.membership.role))
}

fn seconds(span: Duration) -> String {
    format!("{:.1} s", span.as_secs_f64())
}

/// Leadership, as far as a node knows. No leader is named if the store was not heard for [`KNOWN_FOR`], or if
/// the leader does not act.
#[doc(hidden)]
pub fn leadership(vitals: &Vitals) -> Leadership {
    let here = vitals.membership.role == Role::Leader
        && vitals.authority_left.is_some_and(|left| !left.is_zero());
    let is_known = vitals.view_age <= KNOWN_FOR;
    let acts = |it: &&LeaderStatus| is_known && !it.suspended;
    let leader = vitals.leader.as_ref().filter(acts).map(|it| Leader {
        id: it.id.to_string(),
        address: it.address.clone(),
        term: it.term.to_string(),
    });
    Leadership { here, leader }
}

#[async_trait]
impl StatusSource for NodeSource {
    async fn status(&self) -> Value {
        let mut map = picture(self.node.status().await);
        for extra in &self.extra {
            extra(&mut map);
        }
        Value::Object(map)
    }

    async fn liveness(&self) -> Probe {
        match self.node.vitals().await {
            Ok(_) => Probe::Pass("the driver steps".into()),
            Err(NodeError::Closed) => Probe::Pass("the node has left".into()),
            // The driver is unresponsive or broken: only a restart helps.
            Err(error) => Probe::Fail(error.to_string()),
        }
    }

    async fn readiness(&self) -> Probe {
        if let Some(why) = self.not_ready.iter().find_map(|not_ready| not_ready()) {
            return Probe::Fail(why);
        }
        match self.node.vitals().await {
            Ok(vitals) => readiness(&vitals, self.leaderless_for(&vitals)),
            Err(error) => Probe::Fail(error.to_string()),
        }
    }

    async fn leadership(&self) -> Leadership {
        self.node.vitals().await.as_ref().map(leadership).unwrap_or_default()
    }

    fn actions(&self) -> Vec<Action> {
        self.actions.clone()
    }

    async fn act(&self, action: Action, node: Option<String>) -> Result<String, ActionError> {
        if action != Action::Resign || !self.actions.contains(&action) {
            return Err(ActionError::NotOffered(action));
        }
        let own = self.node.id().to_string();
        let leads = self.node.membership().borrow().role == Role::Leader;
        if !leads || node.is_some_and(|it| it != own) {
            return Err(ActionError::Refused(format!(
                "this is node {own}: only the leader can be asked to resign, through its own page"
            )));
        }
        let asked = self.node.resign().await;
        asked.map_err(|error| ActionError::Failed(error.to_string()))?;
        Ok(format!("node {own} resigns"))
    }

    async fn changed(&self) {
        if self.node.membership().changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
