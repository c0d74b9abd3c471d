//! A whole program without Kubernetes: a [`Host`] with ticks of the leader, work on shards and the status page, over
//! real HTTP, until its end.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bellwether::{
    host::{Host, HostError},
    node::{
        ClusterNode, ClusterNodeBuilder, LeaderContext, Node as _, NodeId, Role, RoutineLimits,
        ShardContext, ShardId, Stopped, WorkerOptions,
    },
    store::memory::MemoryStore,
    telemetry::{ServerConfig, StatusServer},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::served::{LONG, client, eventually};

const SHARDS: u32 = 4;

/// A program of one node, as its work and its users see it.
struct Program {
    store: MemoryStore,
    address: SocketAddr,
    work: Arc<Work>,
    /// Cancelled by the test: the work of the shards returns only after that.
    may_return: CancellationToken,
}

/// Counts of the program's work.
#[derive(Default)]
struct Work {
    ticks: AtomicU64,
    /// Shards whose work runs.
    running: AtomicU64,
    /// Shards whose work has been asked to end.
    asked: AtomicU64,
}

impl Program {
    async fn new() -> (Self, Host) {
        let config = ServerConfig { listen: "127.0.0.1:0".to_owned(), ..ServerConfig::default() };
        let server = StatusServer::bind(config).await.unwrap();
        let program = Self {
            store: MemoryStore::new(),
            address: server.address(),
            work: Arc::default(),
            may_return: CancellationToken::new(),
        };
        let host = Host::new(program.node()).serve_on(server).stop_within(LONG);
        (program, host)
    }

    fn node(&self) -> ClusterNodeBuilder {
        let work = Arc::clone(&self.work);
        let tick = move |ctx: LeaderContext| {
            let work = Arc::clone(&work);
            async move {
                ctx.fenced().put("last-pass", ctx.term().to_string()).await?;
                work.ticks.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        };
        let (work, may_return) = (Arc::clone(&self.work), self.may_return.clone());
        let rounds = move |_: ShardId, ctx: ShardContext| {
            let (work, may_return) = (Arc::clone(&work), may_return.clone());
            async move {
                work.running.fetch_add(1, Ordering::Relaxed);
                ctx.cancelled().await;
                work.asked.fetch_add(1, Ordering::Relaxed);
                may_return.cancelled().await;
                work.running.fetch_sub(1, Ordering::Relaxed);
                Ok(())
            }
        };
        another(&self.store, 1)
            .address("10.0.0.1:8080")
            .limits(RoutineLimits { cancel_grace: LONG, ..RoutineLimits::default() })
            .on_leader_tick(tick)
            .worker(WorkerOptions::new("rounds", rounds).shards(SHARDS).as_leader())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let answer = client().get(format!("http://{}{path}", self.address)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn status(&self) -> Value {
        let (code, status) = self.get("/status").await;
        assert_eq!(code, 200, "{status}");
        serde_json::from_str(&status).unwrap()
    }

    /// Waits until the node leads and works on all shards.
    async fn works(&self) {
        let owns = |it: &Value| it["work"][0]["unowned"] == 0 && it["leader"]["id"] == "1";
        eventually(|| self.status(), owns).await;
        let counts = async || {
            let Work { ticks, running, .. } = &*self.work;
            (ticks.load(Ordering::Relaxed), running.load(Ordering::Relaxed))
        };
        eventually(counts, |counts| 0 < counts.0 && counts.1 == u64::from(SHARDS)).await;
    }

    async fn is_asked_to_end(&self) {
        let asked = async || self.work.asked.load(Ordering::Relaxed);
        eventually(asked, |asked| *asked == u64::from(SHARDS)).await;
    }

    /// Asserts that nothing of the program runs or is in the store any more.
    async fn assert_gone(&self) {
        assert_eq!(self.work.running.load(Ordering::Relaxed), 0, "all work was awaited");
        let answer = client().get(format!("http://{}/livez", self.address)).send().await;
        assert!(answer.is_err_and(|it| it.is_connect()), "the server has ended");
        let observer = another(&self.store, 9).build().unwrap();
        let nodes = observer.get_nodes().await.unwrap();
        assert!(nodes.iter().all(|it| it.id.get() != 1), "{nodes:?}");
        observer.close().await.unwrap();
    }
}

/// Builder of a node of the same cluster.
fn another(store: &MemoryStore, id: i64) -> ClusterNodeBuilder {
    ClusterNode::builder().id(id).cluster("shop").memory(store)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_without_kubernetes_works_shows_itself_and_leaves() {
    let (program, host) = Program::new().await;
    let leave = CancellationToken::new();
    let life = host.run(leave.clone().cancelled_owned());
    let watched = async {
        program.works().await;
        let (code, ready) = program.get("/readyz").await;
        assert_eq!((code, ready.as_str()), (200, "ok: joined as Leader, synced\n"));
        assert_eq!(program.get("/leader").await.0, 200);
        let status = program.status().await;
        let node = &status["node"];
        assert_eq!((&status["cluster"], &node["role"]), (&json!("shop"), &json!("Leader")));
        assert_eq!(status["work"][0]["held_by"], json!(["1", "1", "1", "1"]));
        let lines = [
            "leader_election_master_status{name=\"shop\"} 1",
            "bellwether_members 1",
            "bellwether_shards_owned{work=\"rounds\"} 4",
            "bellwether_ticks_total{result=\"ok\",routine=\"leader\"} ",
            "bellwether_http_requests_total{code=\"200\",path=\"/readyz\"} 1",
            "process_resident_memory_bytes ",
        ];
        let metrics = async || program.get("/metrics").await.1;
        eventually(metrics, |text| lines.iter().all(|line| text.contains(line))).await;

        leave.cancel();
        program.is_asked_to_end().await;
        // The server ends last: it shows what the leave waits for.
        assert_eq!(program.get("/livez").await.0, 200);
        assert_eq!(program.status().await["work"][0]["unowned"], 0);
        program.may_return.cancel();
    };
    let both = async { tokio::join!(life, watched).0 };
    let stopped = tokio::time::timeout(2 * LONG, both).await.expect("it ends");
    assert_eq!(stopped.unwrap(), Stopped::Clean);
    program.assert_gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_beside_that_ends_unasked_ends_the_program_which_hands_over_and_names_the_task() {
    let (program, host) = Program::new().await;
    let importer_ends = CancellationToken::new();
    let importing = importer_ends.clone();
    let host = host.task("importer", move |_| importing.cancelled_owned());
    let life = host.run(std::future::pending());
    let successor = another(&program.store, 2).build().unwrap();
    let watched = async {
        program.works().await;
        successor.start().await.unwrap();
        assert_eq!(successor.get_leader().await.unwrap(), NodeId::new(1).ok());
        importer_ends.cancel();
        program.is_asked_to_end().await;
        program.may_return.cancel();
    };
    let both = async { tokio::join!(life, watched).0 };
    let ended = tokio::time::timeout(2 * LONG, both).await.expect("it ends");
    let unasked = |it: &str| it == "task `importer` ended unasked";
    assert!(matches!(&ended, Err(HostError::Task(it)) if unasked(it)), "{ended:?}");
    program.assert_gone().await;
    let leads = async || successor.membership().borrow().role;
    eventually(leads, |role| *role == Role::Leader).await;
    successor.close().await.unwrap();
}
