//! Several operators in one process that share a store in memory, and what can happen to them.
//!
//! # Guarantees
//!
//! * A killed node acts no more: its work is dropped at its next await, and neither its store nor its API server
//!   hears of it again. The lease of the node lives on until it expires, as after the death of a process.
//! * A frozen node does not run at all, like a process that the kernel has stopped or a machine that is
//!   suspended: neither its beats nor its reconcilers nor its checks of authority. Threads that the operator
//!   itself has started run on.
//! * A node that is cut off reaches neither the store nor the API server, and keeps running.

use std::{
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use futures::StreamExt as _;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use kube::{Client, client::Body};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tower::{BoxError, service_fn};

use super::waiting::{WITHIN, eventually};
use crate::{
    host::HostError,
    k8s::operator::Operator,
    node::{ClusterNode, ClusterNodeBuilder, DriverHost, Membership, Role, Stopped},
    store::{
        cut::{Cut, CutStore},
        memory::MemoryStore,
    },
};

#[cfg(test)]
mod tests;

/// Makes an operator on a node, with a client.
type Build = dyn Fn(ClusterNodeBuilder, Client) -> Operator + Send + Sync;

/// Operators in one process, whose nodes form a cluster.
///
/// ```
/// use std::sync::Arc;
///
/// use bellwether::{
///     k8s::{k8s_openapi::api::core::v1::ConfigMap, prelude::*},
///     testing::{Cluster, Fake},
/// };
///
/// # #[tokio::main]
/// # async fn main() {
/// async fn reconcile(map: Arc<ConfigMap>, ctx: Context) -> Result<Action, ReconcileError> {
///     // What the operator does.
///     Ok(Action::done())
/// }
///
/// let fake = Fake::new();
/// let clients = fake.clone();
/// let mut cluster = Cluster::of(3, move || clients.client(), |node, client| {
///     let election = ElectionRef { namespace: "shop".into(), cluster: "shop".into() };
///     let maps = Controller::<ConfigMap>::new(reconcile);
///     Operator::new(node.cluster("shop"), client, election).controller(maps)
/// })
/// .await;
/// let first = cluster.kill_leader().await;
/// assert_ne!(cluster.leader().await, first);
/// cluster.stop().await;
/// # }
/// ```
pub struct Cluster {
    store: MemoryStore,
    clients: Arc<dyn Fn() -> Client + Send + Sync>,
    build: Arc<Build>,
    members: Vec<Option<Member>>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("members", &self.members).finish_non_exhaustive()
    }
}

/// An operator on threads of its own.
#[derive(Debug)]
struct Member {
    membership: watch::Receiver<Membership>,
    running: JoinHandle<Result<Stopped, HostError>>,
    stop: CancellationToken,
    cut: Cut,
    /// Holds the threads; `None` while the node runs.
    frozen: Mutex<Option<Arc<Freezer>>>,
    /// Thread of the node's driver.
    driver: DriverHost,
    /// Thread of the operator and its reconcilers.
    work: DriverHost,
}

/// Holds the threads of a node, from one freeze to the next thaw.
#[derive(Debug, Default)]
struct Freezer {
    is_thawed: Mutex<bool>,
    thawed: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Freezer {
    /// Blocks the thread until the node is thawed.
    fn hold(&self) {
        let thawed = self.thawed.wait_while(lock(&self.is_thawed), |is_thawed| !*is_thawed);
        drop(thawed.unwrap_or_else(PoisonError::into_inner));
    }

    fn thaw(&self) {
        *lock(&self.is_thawed) = true;
        self.thawed.notify_all();
    }
}

impl Member {
    fn is_frozen(&self) -> bool {
        lock(&self.frozen).is_some()
    }

    fn thaw(&self) {
        if let Some(freezer) = lock(&self.frozen).take() {
            freezer.thaw();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // A frozen thread could not end.
        self.thaw();
    }
}

impl Cluster {
    /// Starts `count` operators, with the ids 0 and up; returns when all have joined.
    ///
    /// `clients` makes a client of the API server for each of them: of a [`Fake`](super::Fake), or of a real
    /// one. `build` makes the operator, and may set more options of its node.
    ///
    /// # Panics
    ///
    /// If a node does not join in time.
    pub async fn of(
        count: usize,
        clients: impl Fn() -> Client + Send + Sync + 'static,
        build: impl Fn(ClusterNodeBuilder, Client) -> Operator + Send + Sync + 'static,
    ) -> Self {
        let mut cluster = Self {
            store: MemoryStore::new(),
            clients: Arc::new(clients),
            build: Arc::new(build),
            members: (0..count).map(|_| None).collect(),
        };
        for id in 0..count {
            cluster.start(id).await;
        }
        cluster
    }

    /// Starts a node that was killed; returns when it has joined, which its former lease can delay.
    ///
    /// # Panics
    ///
    /// If the node runs, or does not join in time.
    pub async fn start(&mut self, id: usize) {
        assert!(self.members[id].is_none(), "node {id} runs");
        let member = self.launched(id).await;
        let mut membership = member.membership.clone();
        let joined = tokio::time::timeout(WITHIN, membership.wait_for(|it| it.joined)).await;
        assert!(
            matches!(joined, Ok(Ok(_))),
            "node {id} did not join within {WITHIN:?}; the log of the operator has the reason"
        );
        self.members[id] = Some(member);
    }

    async fn launched(&self, id: usize) -> Member {
        let thread = |name: &str| DriverHost::new(&format!("{name}-{id}")).expect("a thread");
        let (driver, work) = (thread("driver"), thread("operator"));
        let (cut, stop) = (Cut::default(), CancellationToken::new());
        let store = Arc::new(CutStore::new(Arc::new(self.store.clone()), cut.clone()));
        let number = i64::try_from(id).expect("a cluster is small");
        let node = ClusterNode::builder()
            .cluster("test")
            .id(number)
            .address(format!("node {id} of the test"))
            .id_wait(WITHIN)
            .host(driver.clone())
            .stored(true, |_, _| Ok(store));
        let (clients, build) = (Arc::clone(&self.clients), Arc::clone(&self.build));
        let (link, stopped) = (cut.clone(), stop.clone());
        let (tell, shown) = oneshot::channel();
        // All tasks of the operator, those of its client among them, run on its own thread.
        let running = work.spawn(async move {
            let operator = build(node, cuttable(clients(), link)).stop_within(WITHIN);
            let (operator, _) = operator.build()?;
            // The receiver only goes away with the test.
            let _ = tell.send(operator.node().membership());
            operator.run(stopped.cancelled()).await
        });
        let Ok(membership) = shown.await else {
            match running.await {
                Ok(Err(error)) => panic!("node {id} cannot be built: {error}"),
                other => panic!("node {id} ended: {other:?}"),
            }
        };
        let frozen = Mutex::default();
        Member { membership, running, stop, cut, frozen, driver, work }
    }

    /// The store that the nodes share.
    pub fn store(&self) -> &MemoryStore {
        &self.store
    }

    fn member(&self, id: usize) -> &Member {
        let member = self.members.get(id).and_then(Option::as_ref);
        member.unwrap_or_else(|| panic!("node {id} does not run"))
    }

    /// The node that leads now, apart from nodes that are frozen or cut off. Waits until there is one.
    ///
    /// # Panics
    ///
    /// If no node leads within [`WITHIN`].
    pub async fn leader(&self) -> usize {
        eventually("a leader", WITHIN, async || {
            let leads = |member: &Member| {
                let role = member.membership.borrow().role;
                role == Role::Leader && !member.is_frozen() && !member.cut.is_on()
            };
            self.members.iter().position(|it| it.as_ref().is_some_and(leads))
        })
        .await
    }

    /// Kills the leader, and returns its id. [`start`](Self::start) starts it again.
    ///
    /// # Panics
    ///
    /// As for [`leader`](Self::leader).
    pub async fn kill_leader(&mut self) -> usize {
        let leader = self.leader().await;
        self.kill(leader);
        leader
    }

    /// Kills a node, as by SIGKILL.
    ///
    /// # Panics
    ///
    /// If the node does not run.
    pub fn kill(&mut self, id: usize) {
        self.member(id).cut.begin();
        // With the thread of the work, all its tasks go.
        self.members[id] = None;
    }

    /// Freezes the leader, and returns its id.
    ///
    /// # Panics
    ///
    /// As for [`leader`](Self::leader).
    pub async fn freeze_leader(&self) -> usize {
        let leader = self.leader().await;
        self.freeze(leader).await;
        leader
    }

    /// Freezes a node, as by SIGSTOP; returns when it does not run any more.
    ///
    /// # Panics
    ///
    /// If the node does not run.
    pub async fn freeze(&self, id: usize) {
        let member = self.member(id);
        let freezer = Arc::<Freezer>::default();
        // A node that is frozen already stays frozen.
        if let Some(before) = lock(&member.frozen).replace(Arc::clone(&freezer)) {
            before.thaw();
        }
        for thread in [&member.work, &member.driver] {
            let (holds, held) = oneshot::channel();
            let freezer = Arc::clone(&freezer);
            let holding = thread.spawn(async move {
                // The receiver waits below.
                let _ = holds.send(());
                freezer.hold();
            });
            held.await.unwrap_or_else(|_| panic!("node {id} has ended"));
            drop(holding);
        }
    }

    /// Continues a frozen node, as by SIGCONT.
    ///
    /// # Panics
    ///
    /// If the node does not run.
    pub fn thaw(&self, id: usize) {
        self.member(id).thaw();
    }

    /// Cuts a node off from the store and the API server.
    ///
    /// # Panics
    ///
    /// If the node does not run.
    pub fn cut(&self, id: usize) {
        self.member(id).cut.begin();
    }

    /// Connects a node again that was cut off.
    ///
    /// # Panics
    ///
    /// If the node does not run.
    pub fn heal(&self, id: usize) {
        self.member(id).cut.end();
    }

    /// Stops all nodes, and returns when they have left.
    ///
    /// # Panics
    ///
    /// If an operator has ended with an error, or does not end in time.
    pub async fn stop(mut self) {
        let members: Vec<_> = self.members.iter_mut().map(Option::take).collect();
        for member in members.iter().flatten() {
            member.thaw();
            member.cut.end();
            member.stop.cancel();
        }
        for (id, member) in members.into_iter().enumerate() {
            let Some(mut member) = member else { continue };
            let ended = tokio::time::timeout(WITHIN, &mut member.running).await;
            match ended {
                Ok(Ok(Ok(_))) => {}
                Ok(Ok(Err(error))) => panic!("node {id} failed: {error}"),
                other => panic!("node {id} did not end in good order: {other:?}"),
            }
        }
    }
}

/// A client whose requests fail and whose streams end while it is cut off.
fn cuttable(client: Client, cut: Cut) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = service_fn(move |request: Request<Body>| {
        let (client, cut) = (client.clone(), cut.clone());
        async move {
            let refused = || BoxError::from("cut off from the API server by the test");
            let answer = tokio::select! {
                biased;
                // Cancel safe: only waits.
                () = cut.begun() => return Err(refused()),
                // Dropped only by a cut: then the outcome is unknown, as with a connection that broke.
                answer = client.send(request) => answer?,
            };
            let (parts, body) = answer.into_parts();
            let end = async move { cut.begun().await };
            let data = body.into_data_stream().take_until(Box::pin(end));
            let frames = data.map(|piece| piece.map(Frame::data));
            Ok::<_, BoxError>(Response::from_parts(parts, StreamBody::new(frames)))
        }
    });
    Client::new(service, namespace)
}
