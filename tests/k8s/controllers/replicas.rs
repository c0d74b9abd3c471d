//! Replicas of an operator, and a ledger of their reconciles.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use bellwether::{
    engine::{Failover, Role},
    host::HostError,
    k8s::{
        fence::ElectionRef,
        k8s_openapi::api::core::v1::ConfigMap,
        kube::{
            Api, Client, ResourceExt as _,
            api::{DeleteParams, Patch, PatchParams, PostParams},
        },
        operator::Operator,
    },
    node::{ClusterNode, Node, Stopped},
    operator,
    store::memory::MemoryStore,
};
use serde_json::json;
use tokio::{sync::OnceCell, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    kube::{ApiServer, Space, named},
    support::eventually,
};

/// Timeout against a hanging test, generous for busy machines; not a bound that a test proves.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// The shared server, with the custom resources.
pub(crate) async fn server() -> &'static ApiServer {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    let api = ApiServer::shared().await;
    INSTALLED.get_or_init(|| install(api)).await;
    api
}

/// Installs the custom resources and waits until the server serves them.
pub(crate) async fn install(api: &ApiServer) {
    api.install(&operator::definitions()).await.unwrap();
}

/// Nodes that share a store, and pods in one namespace.
pub(super) struct Cluster<'a> {
    pub(super) store: MemoryStore,
    pub(super) space: Space<'a>,
}

impl Cluster<'_> {
    pub(super) async fn new(what: &str) -> Cluster<'static> {
        Cluster { store: MemoryStore::new(), space: server().await.namespace(what).await }
    }

    /// Cluster on a server that the test has started.
    pub(super) async fn on<'b>(api: &'b ApiServer, what: &str) -> Cluster<'b> {
        install(api).await;
        Cluster { store: MemoryStore::new(), space: api.namespace(what).await }
    }

    pub(super) fn election(&self) -> ElectionRef {
        ElectionRef { namespace: self.space.name.clone(), cluster: "test".into() }
    }

    /// Starts a replica; returns when it has joined.
    pub(super) async fn replica(
        &self,
        id: i64,
        work: impl FnOnce(Operator) -> Operator,
    ) -> Replica {
        self.replica_through(self.space.client(), id, work).await
    }

    /// Starts a replica as [`Self::replica`], with that client.
    pub(super) async fn replica_through(
        &self,
        client: Client,
        id: i64,
        work: impl FnOnce(Operator) -> Operator,
    ) -> Replica {
        let node = ClusterNode::builder()
            .cluster("test")
            .id(id)
            .address(format!("10.0.0.{id}:8080"))
            .failover(Failover::DEFAULT)
            .memory(&self.store);
        let operator = Operator::new(node, client, self.election());
        Replica::start(work(operator)).await
    }

    pub(super) fn maps(&self) -> Api<ConfigMap> {
        Api::default_namespaced(self.space.client())
    }

    /// Creates a config map with the label by which it is reconciled.
    pub(super) async fn make(&self, name: &str) -> ConfigMap {
        self.maps().create(&PostParams::default(), &config_map(name)).await.unwrap()
    }

    /// Changes the data of a config map.
    pub(super) async fn change(&self, name: &str, value: &str) {
        let patch = Patch::Merge(json!({ "data": { "value": value } }));
        self.maps().patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    pub(super) async fn delete(&self, name: &str) {
        self.maps().delete(name, &DeleteParams::default()).await.unwrap();
    }
}

pub(super) fn config_map(name: &str) -> ConfigMap {
    let mut map = ConfigMap { metadata: named(name), ..ConfigMap::default() };
    map.labels_mut().insert("reconciled".into(), "yes".into());
    map.data = Some([("value".to_owned(), "1".to_owned())].into());
    map
}

/// Replica of the operator, in this process.
pub(crate) struct Replica {
    pub(crate) node: Arc<dyn Node>,
    stop: CancellationToken,
    running: JoinHandle<Result<Stopped, HostError>>,
}

impl Replica {
    /// Starts an operator; returns when it has joined.
    pub(crate) async fn start(operator: Operator) -> Self {
        let (operator, _) = operator.stop_within(SOON).build().unwrap();
        let node = Arc::clone(operator.node());
        let stop = CancellationToken::new();
        let running =
            bellwether::tasks::spawn("replica", operator.run(stop.clone().cancelled_owned()));
        let mut membership = node.membership();
        tokio::time::timeout(SOON, membership.wait_for(|it| it.joined)).await.unwrap().unwrap();
        Self { node, stop, running }
    }

    pub(crate) async fn is(&self, role: Role) {
        let mut membership = self.node.membership();
        let reached = membership.wait_for(|it| it.role == role);
        tokio::time::timeout(SOON, reached).await.expect("the role is reached").unwrap();
    }

    /// # Panics
    ///
    /// If the replica has ended: it ends as soon as any of its tasks ends.
    pub(crate) fn assert_runs(&self) {
        assert!(!self.running.is_finished(), "the replica has ended unasked");
    }

    pub(crate) async fn stop(self) -> Stopped {
        self.stop.cancel();
        tokio::time::timeout(SOON, self.running).await.unwrap().unwrap().unwrap()
    }
}

/// Record of the reconciles of all replicas.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    runs: Vec<Run>,
    open: HashMap<String, i64>,
    overlaps: Vec<String>,
}

/// Reconcile that has begun.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Run {
    pub(super) object: String,
    pub(super) node: i64,
    pub(super) value: String,
}

/// Reconcile in progress, until this is dropped.
pub(super) struct Open {
    ledger: Ledger,
    object: String,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.ledger.0.lock().unwrap().open.remove(&self.object);
    }
}

impl Ledger {
    /// Notes that a node begins to reconcile an object.
    pub(super) fn begin(&self, node: i64, map: &ConfigMap) -> Open {
        let object = map.name_any();
        let value = map.data.as_ref().and_then(|it| it.get("value")).cloned().unwrap_or_default();
        let mut book = self.0.lock().unwrap();
        if let Some(other) = book.open.insert(object.clone(), node) {
            book.overlaps.push(format!("{object} by {node} and {other}"));
        }
        book.runs.push(Run { object: object.clone(), node, value });
        drop(book);
        Open { ledger: self.clone(), object }
    }

    pub(super) fn runs(&self) -> Vec<Run> {
        self.0.lock().unwrap().runs.clone()
    }

    pub(super) fn count(&self) -> usize {
        self.0.lock().unwrap().runs.len()
    }

    /// Value of each object at its last reconcile.
    pub(super) fn last_values(&self) -> BTreeMap<String, String> {
        self.runs().into_iter().map(|run| (run.object, run.value)).collect()
    }

    /// Number of reconciles in progress.
    pub(super) fn open(&self) -> usize {
        self.0.lock().unwrap().open.len()
    }

    /// # Panics
    ///
    /// If two reconciles of one object ever overlapped.
    pub(super) fn assert_no_overlap(&self) {
        let overlaps = self.0.lock().unwrap().overlaps.clone();
        assert!(overlaps.is_empty(), "reconciled by two at once: {overlaps:?}");
    }

    /// Waits until an object was reconciled that many times.
    pub(super) async fn until(&self, object: &str, times: usize) {
        eventually(&format!("{object} is reconciled {times} times"), SOON, async || {
            let count = self.runs().iter().filter(|run| run.object == object).count();
            (times <= count).then_some(())
        })
        .await;
    }

    /// Waits until an object was reconciled with that value.
    pub(super) async fn until_value(&self, object: &str, value: &str) {
        eventually(&format!("{object} is reconciled with {value}"), SOON, async || {
            self.runs().iter().find(|run| run.object == object && run.value == value).map(|_| ())
        })
        .await;
    }
}
