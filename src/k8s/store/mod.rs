//! The store over the Kubernetes API: high availability with nothing but an API server.
//!
//! Two kinds of objects, both `coordination.k8s.io/v1` Leases in one namespace:
//!
//! - **The Lease of the cluster**, named after it. The spec says who leads, in the fields that every tool knows
//!   from client-go. The annotation `bellwether.dev/state` holds all keys and leases of the store ([`state`]).
//! - **A Lease for each incarnation** of a node, named `CLUSTER-LEASE`. This object and its renewals stand for
//!   a lease of etcd ([`incarnations`]).
//!
//! Each write of the cluster's Lease names the resource version that it replaces, so that the API server carries
//! out one of two writes that compete. [`replica`] decides what is sent and what an answer means; it does no I/O.
//! [`task`] sends, [`api`] spells the requests.
//!
//! # Guarantees
//!
//! The store keeps the guarantees of [`Store`]: transactions and reads are linearizable, each change is a
//! revision, watches deliver revisions whole and in order, and a request that may have taken effect is never
//! sent again. The answers are those of etcd, because the same model computes them ([`Model`]).
//!
//! # Bounds
//!
//! All keys together must stay below 240 KiB, because the API server accepts 256 KiB of annotations. Each change
//! costs a write of the whole state: some ten to a hundred a second.

mod api;
mod incarnations;
mod neighbour;
mod object;
mod replica;
mod state;
mod task;
mod watch;

use std::{
    fmt::{self, Debug},
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::{
    api::{Api, Failure},
    object::Author,
    replica::{Replica, Ticket},
    state::Writer,
    task::{Ask, Seen},
    watch::ModelWatch,
};
use crate::{
    engine::{BootTime, LeaseId, timing::StoreTiming},
    k8s::client::ClientOptions,
    node::ClusterNodeBuilder,
    store::{
        Effected, Get, GetAnswer, Health, LeaseAnswer, StateMetrics, Store, StoreError, Txn,
        TxnAnswer, Watch, WatchRequest,
        keys::Keys,
        memory::Model,
        protocol::{Request, Response},
    },
    tasks::{self, Tasks},
};

/// Pure parts of the store, for the simulation.
#[doc(hidden)]
pub mod pure {
    pub use super::{
        incarnations::{Due, LOOK_EVERY, Notes},
        object::{ANNOTATION, Author, Object, Unreadable},
        replica::{Flaw, Io, Replica, Reply, Ticket},
        state::{Malformed, State, Writer},
    };
}

/// Longest name of a cluster: the name of an incarnation's Lease adds 17 characters, and it is a label's value.
const MAX_CLUSTER: usize = 46;

/// Calls that wait for the task to take them; it takes them at once.
const ASKS: usize = 64;

/// Beginning of the name of the store in its errors; the address of the API server follows, if it is known.
const ENDPOINT: &str = "the API server";

/// Options of a cluster that is kept in the Kubernetes API.
#[derive(Clone, Debug)]
pub struct KubernetesConfig {
    namespace: Option<String>,
    client: ClientOptions,
    identity: Option<String>,
    timing: StoreTiming,
    metrics: Option<StateMetrics>,
    gathers: bool,
}

impl Default for KubernetesConfig {
    fn default() -> Self {
        Self {
            namespace: None,
            client: ClientOptions::default(),
            identity: None,
            timing: StoreTiming::KUBERNETES,
            metrics: None,
            gathers: true,
        }
    }
}

impl KubernetesConfig {
    /// The API server that [`ClientOptions`] finds by itself, and the namespace of its credentials.
    pub fn new() -> Self {
        Self::default()
    }

    /// Namespace of the Leases. Default: the pod's, or that of the kubeconfig's context.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// API server and credentials. The store makes its own connections, and sets the deadlines and retries.
    #[must_use]
    pub fn client(mut self, client: ClientOptions) -> Self {
        self.client = client;
        self
    }

    /// Name of this process as the holder of the Lease: the pod's name. Default: `ID@ADDRESS` of the node.
    #[must_use]
    pub fn identity(mut self, name: impl Into<String>) -> Self {
        self.identity = Some(name.into());
        self
    }

    /// Writes users' data at once, however often it comes, for tests that write a lot one after another.
    #[doc(hidden)]
    #[must_use]
    pub fn never_gather(mut self) -> Self {
        self.gathers = false;
        self
    }

    /// A shorter D: a leader that falls silent is replaced after 2.2 s instead of 5.5 s. For an API server that answers
    /// within half a second, always.
    #[must_use]
    pub fn fast(mut self) -> Self {
        self.timing = StoreTiming::KUBERNETES_FAST;
        self
    }

    /// Longer durations, for fewer requests: a leader that falls silent is replaced after 16.5 s instead of
    /// 5.5 s. All nodes of the cluster must choose the same.
    #[must_use]
    pub fn calm(mut self) -> Self {
        self.timing = StoreTiming::KUBERNETES_CALM;
        self
    }
}

/// A name of a cluster that Kubernetes does not accept as a Lease's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cluster name {0:?} cannot be a Lease's name: use lower-case letters, digits, `-` and `.`, begin and end each \
     part with a letter or digit, at most {MAX_CLUSTER} characters"
)]
pub struct InvalidCluster(String);

fn check_cluster(name: &str) -> Result<(), InvalidCluster> {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_label = |label: &str| {
        label.bytes().all(|c| inner(c) || c == b'-')
            && label.bytes().next().is_some_and(inner)
            && label.bytes().last().is_some_and(inner)
    };
    let sound = name.len() <= MAX_CLUSTER && name.split('.').all(is_label);
    if sound { Ok(()) } else { Err(InvalidCluster(name.to_owned())) }
}

impl ClusterNodeBuilder {
    /// Keeps the cluster in the Kubernetes API, in a Lease named after the cluster. The connections run on the
    /// driver's own runtime. Sets the node's defaults for failover and TTL to those of this store.
    #[must_use]
    pub fn kubernetes(self, config: KubernetesConfig) -> Self {
        self.stored(false, move |keys, metrics| {
            let config = KubernetesConfig { metrics: Some(metrics.state.clone()), ..config };
            Ok(Arc::new(KubernetesStore::of_node(keys.clone(), config)?))
        })
    }
}

/// The store. Closes its connections when dropped. See the module's docs.
pub struct KubernetesStore {
    api: Arc<Api>,
    timing: StoreTiming,
    caller: Caller,
    seen: tokio::sync::watch::Receiver<Seen>,
    health: Arc<Mutex<Health>>,
    holder: String,
    runtime: Handle,
    /// Cancelled when one of the tasks has ended.
    failed: CancellationToken,
    _tasks: Tasks,
}

impl Debug for KubernetesStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubernetesStore")
            .field("endpoint", &self.api.endpoint())
            .finish_non_exhaustive()
    }
}

/// Role of a process that uses the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// A node: creates the object, agrees on the durations, ends leases that are not renewed.
    Node,
    /// An observer, such as a command: only carries out calls.
    Observer,
}

impl KubernetesStore {
    /// Creates a store for a process that is not a node, such as a command; nothing is sent yet. Call it in
    /// the runtime that is to do the I/O: later calls may come from any other runtime.
    ///
    /// # Errors
    ///
    /// [`InvalidCluster`] if the cluster's name cannot be the name of a Lease.
    #[doc(hidden)]
    pub fn observer(keys: Keys, config: KubernetesConfig) -> Result<Self, InvalidCluster> {
        Self::new(keys, config, Part::Observer)
    }

    /// Creates the store of a node. See [`observer`](Self::observer).
    ///
    /// # Errors
    ///
    /// As [`observer`](Self::observer).
    #[doc(hidden)]
    pub fn of_node(keys: Keys, config: KubernetesConfig) -> Result<Self, InvalidCluster> {
        Self::new(keys, config, Part::Node)
    }

    fn new(keys: Keys, config: KubernetesConfig, part: Part) -> Result<Self, InvalidCluster> {
        check_cluster(keys.cluster())?;
        let KubernetesConfig { namespace, client, identity, timing, metrics, gathers } = config;
        let cluster = keys.cluster().to_owned();
        // Several attempts fit the time in which a leader may act on its last beat.
        let limit = timing.failover.d() * 3 / 10;
        let api = Arc::new(Api::new(cluster, namespace, client, limit));
        let holder = identity.clone().unwrap_or_default();
        let span_max = (part == Part::Node).then_some(timing.span_max);
        let author = Author { keys, identity };
        let mut replica = Replica::new(author, Writer(rand::random()), span_max);
        if !gathers {
            replica = replica.gather_for(Duration::ZERO);
        }
        let (asks, asked) = mpsc::channel(ASKS);
        let caller = Caller { asks };
        let (shown, seen) = tokio::sync::watch::channel(Seen::default());
        let health = Arc::new(Mutex::new(Health {
            endpoint: api.endpoint(),
            healthy: true,
            ..Health::default()
        }));
        let failed = CancellationToken::new();
        let mut tasks = Tasks::new();
        let running = task::run(
            Arc::clone(&api),
            replica,
            asked,
            shown,
            Arc::clone(&health),
            metrics.unwrap_or_else(StateMetrics::unregistered),
        );
        tasks.spawn("kubernetes store", ends(failed.clone(), running));
        if part == Part::Node {
            let expiring = incarnations::expire(Arc::clone(&api), caller.clone(), seen.clone());
            tasks.spawn("kubernetes leases", ends(failed.clone(), expiring));
        }
        Ok(Self {
            api,
            timing,
            caller,
            seen,
            health,
            holder,
            runtime: Handle::current(),
            failed,
            _tasks: tasks,
        })
    }

    /// Runs a future on the store's own runtime, where its connections live.
    async fn at_home<T: Send + 'static>(
        &self,
        call: &'static str,
        timeout: Duration,
        doing: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let endpoint = self.api.endpoint();
        let doing = {
            let _inside = self.runtime.enter();
            AbortOnDropHandle::new(tasks::spawn("kubernetes lease", doing))
        };
        match tokio::time::timeout(timeout, doing).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(StoreError::Interrupted {
                call,
                endpoint,
                message: "the store is closed".to_owned(),
            }),
            Err(_) => Err(StoreError::Unanswered { call, endpoint, timeout }),
        }
    }
}

/// Sends calls to the task that owns the replica.
#[derive(Clone)]
struct Caller {
    asks: mpsc::Sender<Ask>,
}

impl Caller {
    async fn call(
        &self,
        call: &'static str,
        request: Request,
        timeout: Duration,
    ) -> Result<Response, StoreError> {
        let closed = || StoreError::Interrupted {
            call,
            endpoint: ENDPOINT.to_owned(),
            message: "the store is closed".to_owned(),
        };
        let (reply, answered) = oneshot::channel();
        let ticket = Ticket(rand::random());
        let asking = async {
            let ask = Ask { ticket, request, reply };
            self.asks.send(ask).await.map_err(|_| closed())?;
            answered.await.map_err(|_| closed())?
        };
        let unanswered =
            |_| StoreError::Unanswered { call, endpoint: ENDPOINT.to_owned(), timeout };
        tokio::time::timeout(timeout, asking).await.map_err(unanswered)?
    }
}

/// Ends only if the future does, which is a bug: the store then counts as failed.
async fn ends(failed: CancellationToken, running: impl Future<Output = ()>) {
    let _failed = failed.drop_guard();
    running.await;
}

#[async_trait]
impl Store for KubernetesStore {
    fn kind(&self) -> &'static str {
        task::KIND
    }

    fn timing(&self) -> StoreTiming {
        self.timing
    }

    async fn txn(&self, txn: Txn, timeout: Duration) -> Result<TxnAnswer, StoreError> {
        match self.caller.call("txn", Request::Txn(txn), timeout).await? {
            Response::Txn(answer) => Ok(answer),
            other => unreachable!("a transaction was answered with {other:?}"),
        }
    }

    async fn get(&self, get: Get, timeout: Duration) -> Result<GetAnswer, StoreError> {
        match self.caller.call("get", Request::Get(get), timeout).await? {
            Response::Get(answer) => Ok(answer),
            other => unreachable!("a read was answered with {other:?}"),
        }
    }

    async fn grant(
        &self,
        lease: LeaseId,
        ttl: Duration,
        timeout: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        let (api, caller, seen) = (Arc::clone(&self.api), self.caller.clone(), self.seen.clone());
        let holder = self.holder.clone();
        self.at_home("grant", timeout, async move {
            // Makes sure that the object exists, which owns the Lease.
            caller.call("grant", look(), timeout).await?;
            let Seen { model, uid, .. } = seen.borrow().clone();
            // A grant that the state would refuse creates no Lease.
            Model::clone(&model).grant(BootTime::default(), lease, ttl)?;
            let owner = uid.ok_or_else(|| StoreError::Interrupted {
                call: "grant",
                endpoint: ENDPOINT.to_owned(),
                message: "the Lease of the cluster was deleted meanwhile".to_owned(),
            })?;
            match api.create(lease, ttl, &holder, &owner).await {
                Ok(()) => {}
                Err(Failure::Conflict) => return Err(StoreError::LeaseExists),
                Err(other) => return Err(other.into_error("grant")),
            }
            let granted = caller.call("grant", Request::Grant { lease, ttl }, timeout).await;
            if granted.as_ref().is_err_and(|error| error.effected() == Effected::No)
                && let Err(failure) = api.delete(lease, None).await
            {
                // Any node deletes a Lease that did not get into the state, after its time.
                tracing::debug!(%lease, ?failure, "the Lease of a refused grant is left");
            }
            granted.map(lease_answer)
        })
        .await
    }

    async fn revoke(&self, lease: LeaseId, timeout: Duration) -> Result<LeaseAnswer, StoreError> {
        let (api, caller) = (Arc::clone(&self.api), self.caller.clone());
        self.at_home("revoke", timeout, async move {
            let answer =
                lease_answer(caller.call("revoke", Request::Revoke(lease), timeout).await?);
            // The lease is gone; what is left of it is deleted by any node after its time.
            if let Err(failure) = api.delete(lease, None).await
                && !matches!(failure, Failure::Missing(_))
            {
                tracing::debug!(%lease, ?failure, "the Lease of an ended incarnation is left");
            }
            Ok(answer)
        })
        .await
    }

    async fn keep_alive(
        &self,
        lease: LeaseId,
        timeout: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        let (api, mut seen) = (Arc::clone(&self.api), self.seen.clone());
        self.at_home("keep_alive", timeout, async move {
            let renewed = match api.renew(lease).await {
                Ok(()) => true,
                Err(Failure::Missing(_)) => false,
                Err(other) => return Err(other.into_error("keep_alive")),
            };
            let model = Arc::clone(&seen.borrow_and_update().model);
            let ttl = model.ttls().find(|(id, _)| *id == lease).map(|(_, ttl)| ttl);
            let ttl = ttl.filter(|_| renewed).unwrap_or_default();
            Ok(LeaseAnswer { ttl, revision: model.revision(), cluster: model.cluster() })
        })
        .await
    }

    async fn watch(
        &self,
        request: WatchRequest,
        timeout: Duration,
    ) -> Result<Box<dyn Watch>, StoreError> {
        // The watch begins with what this process knows; a first read makes sure that it knows something.
        self.caller.call("watch", look(), timeout).await?;
        Ok(Box::new(ModelWatch::open(self.seen.clone(), request)))
    }

    fn health(&self) -> Health {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if health.healthy {
            health.problem = self.api.refusal();
            health.healthy = health.problem.is_none();
        }
        health
    }

    fn name_of(&self, lease: LeaseId) -> Option<String> {
        self.seen.borrow().neighbour.clone().filter(|_| lease == neighbour::LEASE)
    }

    async fn failed(&self) -> String {
        self.failed.cancelled().await;
        "a task of the Kubernetes store ended, see the log above".to_owned()
    }
}

/// A read of a key that no cluster has: only confirms what is known.
fn look() -> Request {
    Request::Get(Get::key("look"))
}

fn lease_answer(response: Response) -> LeaseAnswer {
    match response {
        Response::Lease(answer) => answer,
        other => unreachable!("a call on a lease was answered with {other:?}"),
    }
}
