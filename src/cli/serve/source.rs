//! What the status server tells about one node.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bellwether::{
    clock,
    engine::{BootTime, Role, timing},
    node::{Node, NodeError, status::Status},
    telemetry::{Action, ActionError, Leader, Leadership, Probe, StatusSource},
};
use serde_json::Value;

use crate::cli::{output::span, report::ms};

/// A view that was not proven fresh for that long is not synced.
const STALE_AFTER: Duration = Duration::from_secs(10);

/// Nobody in office for that long is an election that is stuck: twice what the slowest one takes.
fn stuck_after() -> Duration {
    2 * timing::wait(timing::SPAN_MAX)
}

/// Adds to the JSON of `/status` what the node itself does not know.
pub(crate) type Extra = Arc<dyn Fn(&mut serde_json::Map<String, Value>) + Send + Sync>;

/// One node's [`StatusSource`].
pub(crate) struct NodeSource {
    node: Arc<dyn Node>,
    extra: Extra,
    actions: Vec<Action>,
    /// What is not ready beside the node, in words.
    not_ready: NotReady,
    /// Since when this process has seen no leader.
    leaderless: Mutex<Option<BootTime>>,
}

/// What else must be ready, and is not.
pub(crate) type NotReady = Box<dyn Fn() -> Option<String> + Send + Sync>;

impl NodeSource {
    pub(crate) fn new(node: Arc<dyn Node>, extra: Extra, actions: Vec<Action>) -> Self {
        let (not_ready, leaderless): (NotReady, _) = (Box::new(|| None), Mutex::new(None));
        Self { node, extra, actions, not_ready, leaderless }
    }

    /// The same, which is not ready as long as this says why.
    pub(crate) fn unless(mut self, not_ready: NotReady) -> Self {
        self.not_ready = not_ready;
        self
    }

    /// How long nobody has been in office, as far as this process knows.
    fn leaderless_for(&self, status: &Status) -> Duration {
        let now = clock::boot_now();
        let mut since = self.leaderless.lock().unwrap_or_else(PoisonError::into_inner);
        if status.leader.is_some() {
            *since = None;
            return Duration::ZERO;
        }
        now.since(*since.get_or_insert(now))
    }
}

/// The picture of a node as JSON, or what it says instead.
pub(crate) fn picture(status: Result<Status, NodeError>) -> serde_json::Map<String, Value> {
    let value = match status {
        Ok(status) => serde_json::to_value(status).expect("a status has string keys"),
        Err(error) => serde_json::json!({ "problem": error.to_string() }),
    };
    match value {
        Value::Object(map) => map,
        _ => serde_json::Map::new(),
    }
}

/// Whether a node does its part.
pub(crate) fn readiness(status: &Status, leaderless: Duration) -> Probe {
    let node = &status.node;
    if !node.joined {
        let why = node.problem.as_deref().unwrap_or("it is joining");
        return Probe::Fail(format!("not joined: {why}"));
    }
    if status.store.view_age_ms > ms(STALE_AFTER) {
        let age = span(status.store.view_age_ms);
        return Probe::Fail(format!("not synced: the store was last heard {age} ago"));
    }
    if leaderless > stuck_after() {
        return Probe::Fail(format!("no leader for {}", span(ms(leaderless))));
    }
    Probe::Pass(format!("joined as {}, synced", node.role))
}

/// Who leads, as a status tells it.
pub(crate) fn leadership(status: &Status) -> Leadership {
    let here = status.node.role == Role::Leader.to_string()
        && status.node.authority_left_ms.is_some_and(|left| left > 0);
    let leader = status.leader.as_ref().map(|it| Leader {
        id: it.id.clone(),
        address: it.address.clone(),
        term: it.term.clone(),
    });
    Leadership { here, leader }
}

#[async_trait]
impl StatusSource for NodeSource {
    async fn status(&self) -> Value {
        let mut map = picture(self.node.status().await);
        (self.extra)(&mut map);
        Value::Object(map)
    }

    async fn liveness(&self) -> Probe {
        match self.node.status().await {
            Ok(_) => Probe::Pass("the driver steps".into()),
            Err(NodeError::Closed) => Probe::Pass("the node has left".into()),
            Err(error) => Probe::Fail(error.to_string()),
        }
    }

    async fn readiness(&self) -> Probe {
        if let Some(why) = (self.not_ready)() {
            return Probe::Fail(why);
        }
        match self.node.status().await {
            Ok(status) => readiness(&status, self.leaderless_for(&status)),
            Err(error) => Probe::Fail(error.to_string()),
        }
    }

    async fn leadership(&self) -> Leadership {
        self.node.status().await.as_ref().map(leadership).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use bellwether::node::status::{LeaderStatus, SelfStatus, StoreStatus};

    use super::*;

    fn joined() -> Status {
        Status {
            node: SelfStatus { joined: true, role: "Follower".into(), ..SelfStatus::default() },
            leader: Some(LeaderStatus { id: "1".into(), ..LeaderStatus::default() }),
            ..Status::default()
        }
    }

    fn passes(probe: &Probe) -> bool {
        matches!(probe, Probe::Pass(_))
    }

    #[test]
    fn a_follower_that_is_joined_and_synced_is_ready() {
        assert!(passes(&readiness(&joined(), Duration::ZERO)));
    }

    #[test]
    fn who_is_not_joined_or_not_synced_or_in_a_stuck_election_is_not_ready() {
        let mut out = joined();
        out.node.joined = false;
        out.node.problem = Some("etcd does not answer".into());
        let said = readiness(&out, Duration::ZERO);
        assert_eq!(said, Probe::Fail("not joined: etcd does not answer".into()));

        let store = StoreStatus { view_age_ms: 11_000, ..StoreStatus::default() };
        assert!(!passes(&readiness(&Status { store, ..joined() }, Duration::ZERO)));

        assert!(passes(&readiness(&joined(), Duration::from_secs(6))));
        assert!(!passes(&readiness(&joined(), Duration::from_secs(7))));
    }

    #[test]
    fn a_leader_whose_authority_has_lapsed_is_not_the_leader_here() {
        let mut status = joined();
        status.node.role = "Leader".into();
        status.node.authority_left_ms = Some(0);
        assert!(!leadership(&status).here);
        status.node.authority_left_ms = Some(1);
        assert!(leadership(&status).here);
    }
}
