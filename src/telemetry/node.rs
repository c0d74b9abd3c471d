//! What the status server tells about one node.
//!
//! All that it knows of a node is the trait [`Node`] and the values [`Status`] and [`Vitals`]. Probes ask for
//! the vitals only: they cost the node's driver nothing.

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

/// Nobody in office for that long is an election that is stuck: twice what the slowest one takes.
fn stuck_after() -> Duration {
    2 * timing::wait(timing::SPAN_MAX)
}

/// Adds to the JSON of `/status` what the node itself does not know.
type Extra = Box<dyn Fn(&mut Map<String, Value>) + Send + Sync>;

/// Says what else must be ready, and is not.
type NotReady = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// One node's [`StatusSource`].
///
/// Live as long as the node's driver steps, or has ended because the node was closed; ready when it has joined, hears of the store, and the election
/// is not stuck. Nothing can be asked of the node by a button unless [`may_resign`](Self::may_resign).
pub struct NodeSource {
    node: Arc<dyn Node>,
    extra: Vec<Extra>,
    not_ready: Vec<NotReady>,
    actions: Vec<Action>,
    /// Since when this process has seen no leader.
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
    /// That of a node.
    pub fn new(node: Arc<dyn Node>) -> Self {
        let (extra, not_ready, actions) = (Vec::new(), Vec::new(), Vec::new());
        Self { node, extra, not_ready, actions, leaderless: Mutex::default() }
    }

    /// The same, and its JSON is what this makes of it. It must be quick.
    #[must_use]
    pub fn with(mut self, extra: impl Fn(&mut Map<String, Value>) + Send + Sync + 'static) -> Self {
        self.extra.push(Box::new(extra));
        self
    }

    /// The same, which is not ready as long as this says why. It must be quick.
    #[must_use]
    pub fn unless(
        mut self,
        not_ready: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.not_ready.push(Box::new(not_ready));
        self
    }

    /// The same, with a button on its page that lets the leader resign. For whoever reaches the page.
    #[must_use]
    pub fn may_resign(mut self) -> Self {
        self.actions = vec![Action::Resign];
        self
    }

    /// How long nobody has been in office, as far as this process knows.
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

/// The picture of a node as JSON, or what it says instead.
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

/// Whether a node does its part, when nobody has been in office for `leaderless`.
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
    if leaderless > stuck_after() {
        return Probe::Fail(format!("no leader for {}", seconds(leaderless)));
    }
    Probe::Pass(format!("joined as {}, synced", vitals.membership.role))
}

fn seconds(span: Duration) -> String {
    format!("{:.1} s", span.as_secs_f64())
}

/// Who leads, as far as a node knows; nobody while the store was not heard for [`KNOWN_FOR`], or the leader does not act.
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
            // Unresponsive or broken: only a restart helps.
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
