//! A cluster under test, over any kind of store, with an operator's access to that store.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bellwether::{
    engine::{Call, Failover, LeaseId, NodeId, Revision, Role, StoreTiming},
    k8s::{
        client::ClientOptions,
        store::{KubernetesConfig, KubernetesStore},
    },
    node::{
        ClusterNode, ClusterNodeBuilder, FollowerContext, LeaderContext, Membership, Node,
        NodeMetrics, RoutineLimits, WorkerOptions,
        work::{LeaderTask, WorkError},
    },
    store::{
        Get, GetAnswer, Health, KeyRange, KeyValue, LeaseAnswer, Op, Store, StoreError, Txn,
        TxnAnswer, Watch, WatchItem, WatchRequest,
        etcd::{EtcdConfig, EtcdStore},
        keys::Keys,
        memory::MemoryStore,
        protocol,
    },
};
use prometheus::Registry;
use tokio::sync::{OnceCell, watch};

use crate::{
    kube::ApiServer,
    support::{etcd::Etcd, eventually, proxy::Proxy},
};

/// A limit against hanging, on a busy machine.
pub const SOON: Duration = Duration::from_secs(60);

/// Kind of node and store of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Memory,
    Etcd,
    Kubernetes,
    Standalone,
}

/// A single etcd for all tests of the binary: each test has its own cluster in this etcd.
static ETCD: OnceCell<Etcd> = OnceCell::const_new();

/// A cluster under test.
pub struct Rig {
    pub kind: Kind,
    pub cluster: String,
    memory: Option<MemoryStore>,
    endpoints: Vec<String>,
    kubernetes: Option<KubernetesConfig>,
    raw: Option<Arc<dyn Store>>,
}

/// Access to the namespace of all tests on Kubernetes: a cluster is a Lease there.
static KUBECONFIG: OnceCell<PathBuf> = OnceCell::const_new();

/// Clusters so far: the names of the tests are not names of Leases.
static CLUSTERS: AtomicU64 = AtomicU64::new(0);

impl Rig {
    pub async fn new(kind: Kind, name: &str) -> Self {
        let cluster = format!("{name}-{kind:?}");
        let mut rig = Self {
            kind,
            cluster,
            memory: None,
            endpoints: Vec::new(),
            kubernetes: None,
            raw: None,
        };
        match kind {
            Kind::Memory => {
                let store = MemoryStore::new();
                rig.raw = Some(Arc::new(store.clone()));
                rig.memory = Some(store);
            }
            Kind::Etcd => {
                rig.endpoints = ETCD.get_or_init(Etcd::start).await.endpoints();
                let store = EtcdStore::new(&EtcdConfig::new(&rig.endpoints)).unwrap();
                rig.raw = Some(Arc::new(store));
            }
            Kind::Kubernetes => {
                let api = ApiServer::shared().await;
                let kubeconfig = KUBECONFIG.get_or_init(async || {
                    api.bulk_kubeconfig(&api.namespace("conformance").await.name)
                });
                let client = ClientOptions::default().kubeconfig(kubeconfig.await);
                let config = KubernetesConfig::new().client(client).never_gather();
                rig.cluster = format!("cluster-{}", CLUSTERS.fetch_add(1, Ordering::Relaxed));
                let store = KubernetesStore::observer(rig.keys(), config.clone()).unwrap();
                // No node has led before: the first one need not wait.
                let seed = Call::Seed { d: store.timing().span_max, ended: true };
                let seed = protocol::transaction(&rig.keys(), &seed);
                protocol::request(&store, seed, SOON).await.unwrap();
                rig.kubernetes = Some(config);
                rig.raw = Some(Arc::new(store));
            }
            Kind::Standalone => (),
        }
        rig
    }

    /// Starts a proxy in front of the cluster's etcd.
    pub async fn proxy(&self) -> Proxy {
        Proxy::to(self.endpoints[0].trim_start_matches("http://").parse().unwrap()).await
    }

    /// Another cluster in the same store, whose name begins with this one's.
    pub fn neighbour(&self, more: &str) -> Self {
        // The name of a Lease has no slashes.
        let more =
            if self.kind == Kind::Kubernetes { more.replace('/', "-") } else { more.to_owned() };
        let cluster = format!("{}{more}", self.cluster);
        let (memory, raw) = (self.memory.clone(), self.raw.clone());
        let (kubernetes, endpoints) = (self.kubernetes.clone(), self.endpoints.clone());
        Self { kind: self.kind, cluster, memory, endpoints, kubernetes, raw }
    }

    pub fn keys(&self) -> Keys {
        Keys::new(&self.cluster).unwrap()
    }

    /// A builder for a node of this cluster that reaches the store through `link`.
    pub fn linked(&self, id: i64, link: &Arc<Link>) -> ClusterNodeBuilder {
        self.linked_by(id, link, self.endpoints.clone())
    }

    fn linked_by(&self, id: i64, link: &Arc<Link>, endpoints: Vec<String>) -> ClusterNodeBuilder {
        let builder = ClusterNode::builder().cluster(&self.cluster).id(id);
        let builder = builder.address(format!("address-of-{id}"));
        let link = Arc::clone(link);
        if let Some(store) = &self.memory {
            let inner: Arc<dyn Store> = Arc::new(store.clone());
            return builder.stored(store.is_own(), |_, _| Ok(Arc::new(Linked { inner, link })));
        }
        if let Some(config) = self.kubernetes.clone() {
            return builder.stored(false, move |keys, _| {
                let inner = Arc::new(KubernetesStore::of_node(keys.clone(), config)?);
                Ok(Arc::new(Linked { inner, link }))
            });
        }
        builder.store_from(move || {
            let inner = Arc::new(EtcdStore::new(&EtcdConfig::new(endpoints))?);
            Ok(Arc::new(Linked { inner, link }))
        })
    }

    pub fn builder(&self, id: i64) -> ClusterNodeBuilder {
        self.linked(id, &Arc::default())
    }

    /// Builds a node of this rig's kind.
    pub fn build(&self, spec: Spec) -> Running {
        let probe = Arc::new(Probe::default());
        let registry = Registry::new();
        let metrics = NodeMetrics::register(&registry).unwrap();
        let builder = match self.kind {
            Kind::Standalone => {
                let builder = ClusterNode::standalone().id(spec.id).cluster(&self.cluster);
                builder.address(format!("address-of-{}", spec.id))
            }
            Kind::Memory | Kind::Etcd | Kind::Kubernetes => {
                let endpoints = spec.endpoint.clone().map_or(self.endpoints.clone(), |at| vec![at]);
                self.linked_by(spec.id, &spec.link, endpoints).failover(spec.failover)
            }
        };
        let node = configured(builder.metrics(metrics), spec, &probe).build().unwrap();
        Running { node: Arc::new(node), probe, registry }
    }

    /// Starts a node whose routines count their runs.
    pub async fn start(&self, id: i64) -> Running {
        self.start_with(Spec::new(id)).await
    }

    pub async fn start_with(&self, spec: Spec) -> Running {
        let running = self.build(spec);
        running.start().await.unwrap();
        running
    }

    /// Reads a key as an operator.
    pub async fn at(&self, key: impl Into<Vec<u8>>) -> Option<KeyValue> {
        let answer = self.raw().get(Get::key(key), SOON).await.unwrap();
        answer.kvs.into_iter().next()
    }

    pub async fn all(&self) -> (Revision, Vec<KeyValue>) {
        let answer = self.raw().get(Get::range(self.keys().all()), SOON).await.unwrap();
        (answer.revision, answer.kvs)
    }

    pub async fn put(&self, key: Vec<u8>, value: &[u8]) {
        self.write(vec![Op::Put { key, value: value.to_vec(), lease: None }]).await;
    }

    pub async fn delete(&self, key: Vec<u8>) {
        self.write(vec![Op::Delete(KeyRange::key(key))]).await;
    }

    /// Applies all operations in a single revision.
    pub async fn write(&self, then: Vec<Op>) {
        self.raw().txn(Txn { then, ..Txn::default() }, SOON).await.unwrap();
    }

    pub fn raw(&self) -> &dyn Store {
        self.raw.as_deref().expect("a standalone node keeps its store to itself")
    }

    pub async fn lease_of(&self, id: i64) -> LeaseId {
        let key = self.keys().node(NodeId::new(id).unwrap());
        eventually("the node key", SOON, async || self.at(key.as_slice()).await?.lease).await
    }
}

/// Applies the settings that nodes of all kinds share.
fn configured(builder: ClusterNodeBuilder, spec: Spec, probe: &Arc<Probe>) -> ClusterNodeBuilder {
    let mut builder = builder.tick(spec.tick).limits(spec.limits);
    let (led, followed) = (Arc::clone(probe), Arc::clone(probe));
    let routine = spec.routine;
    builder = builder.on_leader_tick(move |ctx: LeaderContext| {
        let (probe, routine) = (Arc::clone(&led), routine.clone());
        async move {
            ctx.check()?;
            if let Some(routine) = routine {
                routine(ctx).await?;
            }
            probe.led.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    });
    builder = builder.on_follower_tick(move |_: FollowerContext| {
        let probe = Arc::clone(&followed);
        async move {
            probe.followed.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    });
    for task in spec.tasks {
        builder = builder.leader_task(task);
    }
    for worker in spec.workers {
        builder = builder.worker(worker);
    }
    builder
}

type Routine = Arc<
    dyn Fn(LeaderContext) -> futures::future::BoxFuture<'static, Result<(), WorkError>>
        + Send
        + Sync,
>;

/// A leader task that can be boxed.
pub struct BoxedTask(pub Box<dyn LeaderTask>);

#[async_trait]
impl LeaderTask for BoxedTask {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    async fn run(&self, ctx: LeaderContext) -> Result<(), WorkError> {
        self.0.run(ctx).await
    }
}

/// Settings that differ from node to node.
pub struct Spec {
    pub id: i64,
    pub tick: Duration,
    pub limits: RoutineLimits,
    pub link: Arc<Link>,
    /// Endpoint of etcd for this node, if other than the cluster's.
    pub endpoint: Option<String>,
    pub failover: Failover,
    pub routine: Option<Routine>,
    pub tasks: Vec<BoxedTask>,
    pub workers: Vec<WorkerOptions>,
}

impl Spec {
    pub fn new(id: i64) -> Self {
        Self {
            id,
            tick: Duration::from_millis(20),
            limits: RoutineLimits {
                unfit_after: Duration::from_millis(200),
                ..RoutineLimits::default()
            },
            link: Arc::default(),
            endpoint: None,
            failover: Failover::DEFAULT,
            routine: None,
            tasks: Vec::new(),
            workers: Vec::new(),
        }
    }

    pub fn routine<F, Fut>(mut self, routine: F) -> Self
    where
        F: Fn(LeaderContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), WorkError>> + Send + 'static,
    {
        self.routine = Some(Arc::new(move |ctx| Box::pin(routine(ctx))));
        self
    }

    pub fn task(mut self, task: impl LeaderTask) -> Self {
        self.tasks.push(BoxedTask(Box::new(task)));
        self
    }

    pub fn worker(mut self, worker: WorkerOptions) -> Self {
        self.workers.push(worker);
        self
    }

    pub fn link(mut self, link: &Arc<Link>) -> Self {
        self.link = Arc::clone(link);
        self
    }

    /// Makes the node reach etcd through `proxy` only.
    pub fn through(mut self, proxy: &Proxy) -> Self {
        self.endpoint = Some(format!("http://{}", proxy.address()));
        self
    }

    pub fn failover(mut self, failover: Failover) -> Self {
        self.failover = failover;
        self
    }

    pub fn tick(mut self, tick: Duration) -> Self {
        self.tick = tick;
        self
    }
}

/// Counts the runs of the routines.
#[derive(Debug, Default)]
pub struct Probe {
    pub led: AtomicU64,
    pub followed: AtomicU64,
}

/// A node under test.
pub struct Running {
    pub node: Arc<dyn Node>,
    pub probe: Arc<Probe>,
    pub registry: Registry,
}

impl std::ops::Deref for Running {
    type Target = dyn Node;

    fn deref(&self) -> &Self::Target {
        self.node.as_ref()
    }
}

impl Running {
    pub fn led(&self) -> u64 {
        self.probe.led.load(Ordering::Relaxed)
    }

    pub fn followed(&self) -> u64 {
        self.probe.followed.load(Ordering::Relaxed)
    }

    pub fn role(&self) -> Role {
        self.membership().borrow().role
    }

    pub async fn until(&self, what: &str, holds: impl Fn(&Membership) -> bool) -> Membership {
        let mut membership = self.membership();
        let waited = tokio::time::timeout(SOON, membership.wait_for(holds)).await;
        *waited.unwrap_or_else(|_| panic!("{what}: not within {SOON:?}")).unwrap()
    }

    pub async fn until_leader(&self) {
        self.until("the node leads", |now| now.role == Role::Leader).await;
    }

    pub async fn until_led(&self) {
        let before = self.led();
        eventually("a leader's tick", SOON, async || (before < self.led()).then_some(())).await;
    }

    /// The sum of a metric over its labels.
    pub fn metric(&self, name: &str) -> f64 {
        self.sum(name, |_| true)
    }

    /// The sum of the metric's series that have this value in any label.
    pub fn metric_of(&self, name: &str, value: &str) -> f64 {
        self.sum(name, |one| one.get_label().iter().any(|label| label.value() == value))
    }

    fn sum(&self, name: &str, of: impl Fn(&prometheus::proto::Metric) -> bool) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metrics = family.map(prometheus::proto::MetricFamily::get_metric).unwrap_or_default();
        let metrics = metrics.iter().filter(|one| of(one));
        metrics.map(|one| one.get_counter().get_value() + one.get_gauge().get_value()).sum()
    }
}

/// Index of the only node that leads.
pub async fn leader_of(nodes: &[Running]) -> usize {
    eventually("one leads", SOON, async || {
        nodes.iter().position(|node| node.role() == Role::Leader)
    })
    .await
}

/// The link from a node to the store.
#[derive(Debug)]
pub struct Link {
    cut: watch::Sender<bool>,
    delay_ms: AtomicU64,
    /// Counter whose change breaks the open watches.
    breaks: watch::Sender<u64>,
    calls: Mutex<BTreeMap<&'static str, u64>>,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            cut: watch::Sender::new(false),
            delay_ms: AtomicU64::new(0),
            breaks: watch::Sender::new(0),
            calls: Mutex::default(),
        }
    }
}

impl Link {
    /// Cuts the link in both directions.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    pub fn mend(&self) {
        self.cut.send_replace(false);
    }

    /// Delays each call by this much.
    pub fn delay(&self, delay: Duration) {
        self.delay_ms.store(delay.as_millis() as u64, Ordering::Relaxed);
    }

    pub fn break_watches(&self) {
        self.breaks.send_modify(|breaks| *breaks += 1);
    }

    /// Number of times that these methods of the [`Store`] were called.
    pub fn calls(&self, names: &[&str]) -> u64 {
        let calls = self.calls.lock().unwrap();
        names.iter().filter_map(|name| calls.get(name)).sum()
    }

    fn is_cut(&self) -> bool {
        *self.cut.borrow()
    }

    async fn pass(&self) {
        let delay = self.delay_ms.load(Ordering::Relaxed);
        if 0 < delay {
            tokio::time::sleep(Duration::from_millis(delay / 2)).await;
        }
    }

    /// Makes a call over this link: a cut link gives no answer.
    async fn call<T>(
        &self,
        call: &'static str,
        timeout: Duration,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        *self.calls.lock().unwrap().entry(call).or_default() += 1;
        let unanswered = || StoreError::Unanswered { call, endpoint: "link".to_owned(), timeout };
        let through = async {
            if self.is_cut() {
                std::future::pending::<()>().await;
            }
            self.pass().await;
            let answer = answer.await;
            self.pass().await;
            if self.is_cut() {
                std::future::pending::<()>().await;
            }
            answer
        };
        tokio::time::timeout(timeout, through).await.unwrap_or_else(|_| Err(unanswered()))
    }
}

/// A store that is reached over a link.
struct Linked {
    inner: Arc<dyn Store>,
    link: Arc<Link>,
}

impl Debug for Linked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Store for Linked {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn timing(&self) -> StoreTiming {
        self.inner.timing()
    }

    async fn txn(&self, txn: Txn, timeout: Duration) -> Result<TxnAnswer, StoreError> {
        self.link.call("txn", timeout, self.inner.txn(txn, timeout)).await
    }

    async fn get(&self, get: Get, timeout: Duration) -> Result<GetAnswer, StoreError> {
        self.link.call("get", timeout, self.inner.get(get, timeout)).await
    }

    async fn grant(
        &self,
        lease: LeaseId,
        ttl: Duration,
        timeout: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        self.link.call("grant", timeout, self.inner.grant(lease, ttl, timeout)).await
    }

    async fn revoke(&self, lease: LeaseId, timeout: Duration) -> Result<LeaseAnswer, StoreError> {
        self.link.call("revoke", timeout, self.inner.revoke(lease, timeout)).await
    }

    async fn keep_alive(
        &self,
        lease: LeaseId,
        timeout: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        self.link.call("keep_alive", timeout, self.inner.keep_alive(lease, timeout)).await
    }

    async fn watch(
        &self,
        request: WatchRequest,
        timeout: Duration,
    ) -> Result<Box<dyn Watch>, StoreError> {
        let inner = self.link.call("watch", timeout, self.inner.watch(request, timeout)).await?;
        let breaks = self.link.breaks.subscribe();
        Ok(Box::new(LinkedWatch { inner, link: Arc::clone(&self.link), breaks }))
    }

    fn health(&self) -> Health {
        self.inner.health()
    }

    fn avoid_current(&self) {
        self.inner.avoid_current();
    }
}

struct LinkedWatch {
    inner: Box<dyn Watch>,
    link: Arc<Link>,
    breaks: watch::Receiver<u64>,
}

#[async_trait]
impl Watch for LinkedWatch {
    async fn next(&mut self) -> Result<WatchItem, StoreError> {
        let mut cut = self.link.cut.subscribe();
        loop {
            if *cut.borrow_and_update() {
                // Events sent during a cut are not received; once the link works again, the watch is lost.
                let _ = cut.wait_for(|cut| !cut).await;
                return Err(broken());
            }
            tokio::select! {
                biased;
                _ = cut.changed() => (),
                _ = self.breaks.changed() => return Err(broken()),
                item = self.inner.next() => return item,
            }
        }
    }

    async fn request_progress(&mut self) -> Result<(), StoreError> {
        self.inner.request_progress().await
    }
}

fn broken() -> StoreError {
    StoreError::Broken { endpoint: "link".to_owned(), message: "cut".to_owned() }
}
