//! Nodes of the demonstration, and the data and actions of its status page.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use prometheus::Registry;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{DemoArgs, GRACE, narrator::Narrator, per_node};
use crate::{
    app::{
        args::StoreKind,
        exit::{Exit, Failure},
        serve,
    },
    cli::run,
    engine::{Failover, Role},
    host::BuiltHost,
    node::{
        ClusterNode, Node, NodeError, NodeMetrics,
        status::{Status, Vitals},
    },
    operator::uptime::{self, Uptime, UptimeMetrics, UptimeOptions, samples::write_samples},
    store::{
        Store,
        cut::{Cut, CutStore},
        memory::MemoryStore,
    },
    tasks::Tasks,
    telemetry::{
        Action, ActionError, Leadership, Probe, StatusSource,
        node::{leadership, picture, readiness},
    },
};

/// Name of the demonstration's cluster.
const CLUSTER: &str = "demo";

/// TTL of a node's lease: after this time a killed node's id is free again.
const TTL: Duration = Duration::from_secs(2);

/// How long a killed node that comes back waits for its earlier lease to expire.
const ID_WAIT: Duration = Duration::from_secs(60);

/// Life of one node, until it leaves or is killed.
#[derive(Clone, Debug)]
struct Actor {
    node: Arc<dyn Node>,
    /// Cancelled when the node is killed.
    dead: CancellationToken,
    /// Cuts a killed node off from the store.
    cut: Cut,
}

/// Place of one node, which can be killed and comes back.
struct Place {
    id: i64,
    metrics: NodeMetrics,
    uptime: Uptime,
    /// Present life of the node; `None` while it is dead.
    actor: watch::Sender<Option<Actor>>,
}

/// Nodes, store and status source of the demonstration.
pub(super) struct Stage {
    store: Arc<dyn Store>,
    address: SocketAddr,
    failover: Failover,
    away: Duration,
    places: Vec<Place>,
    /// Folder of the bundled manifests, deleted on drop.
    _samples: Option<TempDir>,
    narrator: Narrator,
    changed: Notify,
}

impl Stage {
    /// Sets up the demonstration without starting any node.
    ///
    /// # Errors
    ///
    /// A [`Failure`] if the setup fails.
    pub(super) async fn set(
        args: &DemoArgs,
        address: SocketAddr,
        registry: &Registry,
    ) -> Result<(Self, Tasks), Failure> {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let samples = match &args.checks {
            Some(_) => None,
            None => Some(samples(address).map_err(|error| {
                let doing = "writing the bundled checks to a temporary folder";
                Failure::caused(Exit::Local, doing, &error)
            })?),
        };
        let folder = args.checks.as_deref().or(samples.as_ref().map(TempDir::path));
        let (folder, checks) = run::manifests(folder.expect("one of the two")).await?;
        let twice = |error| serve::metric_twice(&error);
        let place = |id: i64| {
            let own = per_node::registry_of(registry, id).map_err(twice)?;
            let metrics = NodeMetrics::register(&own).map_err(twice)?;
            let options = UptimeOptions {
                metrics: UptimeMetrics::register(&own).map_err(twice)?,
                ..UptimeOptions::default()
            };
            let uptime = Uptime::new(checks.clone(), options);
            Ok(Place { id, metrics, uptime, actor: watch::Sender::new(None) })
        };
        let places = (1..=i64::from(args.nodes)).map(place).collect::<Result<_, Failure>>()?;
        let mut reading = Tasks::new();
        reading.spawn("manifests", folder.run(CancellationToken::new()));
        let stage = Self {
            store,
            address,
            failover: args.profile.timing(StoreKind::Memory)?.failover,
            away: args.away,
            places,
            _samples: samples,
            narrator: Narrator::default(),
            changed: Notify::new(),
        };
        Ok((stage, reading))
    }

    /// Runs the nodes until they are asked to leave, and until they have left. `reading` are the tasks that
    /// read the manifests.
    ///
    /// # Errors
    ///
    /// First [`Failure`] of a node, or of the tasks that read the manifests.
    pub(super) async fn play(
        &self,
        leave: &CancellationToken,
        mut reading: Tasks,
    ) -> Result<(), Failure> {
        let lives = self.places.iter().map(|place| self.lives(place, leave));
        tokio::select! {
            biased;
            // Cancel safe: an ended task that was not taken is returned by the next call.
            Some(ended) = reading.join_next() => Err(Failure::new(Exit::Failed, ended.to_string())),
            // Dropped with this future, or when reading the manifests has failed.
            lived = futures::future::try_join_all(lives) => lived.map(drop),
        }
    }

    /// Runs one life of the node after the other.
    async fn lives(&self, place: &Place, leave: &CancellationToken) -> Result<(), Failure> {
        while !leave.is_cancelled() {
            let (host, actor) = self.enter(place)?;
            let ended = tokio::select! {
                biased;
                // Cancel safe: cancellation token.
                () = actor.dead.cancelled() => None,
                // Dropped when the node is killed; the node is stopped below.
                ended = host.run(leave.cancelled()) => Some(ended),
                // Only shows the node.
                never = self.show(place, &actor, leave) => match never {},
            };
            self.hide(place);
            if let Some(ended) = ended {
                return ended.map(drop).map_err(Failure::from);
            }
            let _ = actor.node.stop(Duration::ZERO).await;
            let _ = actor.node.close().await;
            let _ = tokio::time::timeout(self.away, leave.cancelled()).await;
        }
        Ok(())
    }

    fn enter(&self, place: &Place) -> Result<(BuiltHost, Actor), Failure> {
        let dead = CancellationToken::new();
        let cut = Cut::default();
        let store = Arc::new(CutStore::new(Arc::clone(&self.store), cut.clone()));
        let node = ClusterNode::builder()
            .id(place.id)
            .address(format!("{} (node {} of this process)", self.address, place.id))
            .cluster(CLUSTER)
            .ttl(TTL)
            .id_wait(ID_WAIT)
            .failover(self.failover)
            .metrics(place.metrics.clone())
            // The first leader does not wait: this process has just created the store.
            .stored(true, |_, _| Ok(store));
        let host = uptime::add(node.into(), &place.uptime).stop_within(GRACE).build()?;
        let node = Arc::clone(host.node());
        Ok((host, Actor { node, dead, cut }))
    }

    /// Shows a node and logs changes of its role, from when it has joined until it is asked to leave.
    async fn show(&self, place: &Place, actor: &Actor, leave: &CancellationToken) -> Infallible {
        let shown = async {
            let mut membership = actor.node.membership();
            if membership.wait_for(|it| it.joined).await.is_err() {
                return;
            }
            place.actor.send_replace(Some(actor.clone()));
            self.narrator.joined(place.id);
            loop {
                let now = *membership.borrow_and_update();
                self.narrator.stands(place.id, now);
                self.changed.notify_waiters();
                if membership.changed().await.is_err() {
                    return;
                }
            }
        };
        leave.run_until_cancelled(shown).await;
        self.hide(place);
        std::future::pending().await
    }

    fn hide(&self, place: &Place) {
        place.actor.send_replace(None);
        self.changed.notify_waiters();
    }

    fn actors(&self) -> Vec<Actor> {
        self.places.iter().filter_map(|it| it.actor.borrow().clone()).collect()
    }

    /// Statuses of all living nodes.
    async fn statuses(&self) -> Vec<Status> {
        let actors = self.actors();
        let asked = futures::future::join_all(actors.iter().map(|it| it.node.status())).await;
        asked.into_iter().flatten().collect()
    }

    /// Vital signs of all living nodes, for the probes.
    async fn vitals(&self) -> Vec<Vitals> {
        let actors = self.actors();
        let asked = futures::future::join_all(actors.iter().map(|it| it.node.vitals())).await;
        asked.into_iter().flatten().collect()
    }

    /// Returns the node with this id, or the leader if there is no id.
    fn meant(&self, id: Option<&str>) -> Result<Actor, ActionError> {
        let actors = self.actors();
        let of_id = |it: &&Actor| id.is_some_and(|id| it.node.id().to_string() == id);
        let found = match id {
            Some(_) => actors.iter().find(of_id),
            None => actors.iter().find(|it| leads(it)),
        };
        found.cloned().ok_or_else(|| {
            ActionError::Refused(match id {
                Some(id) => format!("no node {id} lives just now"),
                None => "nobody leads just now: an election is under way".into(),
            })
        })
    }
}

/// Writes the bundled manifests, which mainly check the status page at that address.
fn samples(page: SocketAddr) -> io::Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("bellwether-checks-").tempdir()?;
    write_samples(folder.path(), &page.to_string())?;
    Ok(folder)
}

fn leads(actor: &Actor) -> bool {
    actor.node.membership().borrow().role == Role::Leader
}

#[async_trait]
impl StatusSource for Stage {
    async fn status(&self) -> Value {
        let statuses = self.statuses().await;
        // The node with the longest timeline provides the status.
        let teller = statuses.iter().rev().max_by_key(|it| it.timeline.len()).cloned();
        let Some(teller) = teller else {
            return serde_json::json!({ "cluster": CLUSTER, "problem": "no node lives just now" });
        };
        let place = self.places.iter().find(|it| it.id == teller.node.id.get());
        let mut map = picture(Ok(teller));
        if let Some(place) = place {
            place.uptime.show_in(&mut map);
        }
        let siblings = serde_json::to_value(&statuses).expect("a status has string keys");
        map.insert("siblings".into(), siblings);
        Value::Object(map)
    }

    async fn liveness(&self) -> Probe {
        let broken = self.actors().into_iter().find(|it| it.node.membership().borrow().broken);
        match broken {
            Some(actor) => Probe::Fail(format!("node {}: {}", actor.node.id(), NodeError::Broken)),
            None => Probe::Pass("the demonstration runs".into()),
        }
    }

    async fn readiness(&self) -> Probe {
        match self.vitals().await.first() {
            Some(vitals) => readiness(vitals, Duration::ZERO),
            None => Probe::Fail("no node lives just now".into()),
        }
    }

    async fn leadership(&self) -> Leadership {
        let vitals = self.vitals().await;
        let all = vitals.iter().map(leadership);
        all.reduce(|a, b| if a.here { a } else { b }).unwrap_or_default()
    }

    fn actions(&self) -> Vec<Action> {
        Action::ALL.to_vec()
    }

    async fn act(&self, action: Action, node: Option<String>) -> Result<String, ActionError> {
        let actor = self.meant(node.as_deref())?;
        let id = actor.node.id();
        match action {
            Action::Resign if leads(&actor) => {
                self.narrator.asked_to_resign(id.get());
                let asked = actor.node.resign().await;
                asked.map_err(|error| ActionError::Failed(error.to_string()))?;
                Ok(format!("node {id} resigns"))
            }
            Action::Resign => {
                Err(ActionError::Refused(format!("node {id} does not lead: it cannot resign")))
            }
            Action::Kill => {
                self.narrator.killed(id.get());
                actor.cut.begin();
                actor.dead.cancel();
                Ok(format!("node {id} is killed; it comes back after {:?}", self.away))
            }
        }
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }
}
