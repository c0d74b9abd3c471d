//! Every query of the dashboards and the alerts, evaluated by a real Prometheus that scrapes three real
//! nodes on a real etcd through a change of leaders.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bellwether::{
    app::monitoring,
    engine::{Role, ShardId},
    node::{
        ClusterNode, FollowerContext, LeaderContext, Node, NodeMetrics, ShardContext,
        WorkerOptions, work::WorkError,
    },
    store::etcd::EtcdConfig,
    telemetry::{Leadership, Probe, Server, ServerConfig, StatusSource, metrics},
    testing::ReservedPort,
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    alerts::alerts,
    lint,
    support::{
        etcd::{Etcd, reserved_port},
        eventually, tools,
    },
};

/// Timeout against a hanging test, far above the duration of any step here.
const LONG: Duration = Duration::from_secs(90);

/// Queries that rightly return no series here, each found by this word, with the reason.
const EMPTY_IS_WELL: [(&str, &str); 1] =
    [("result!=\"done\"", "a cluster without trouble has no calls that went wrong")];

/// Node with work of every kind, and its metrics page.
struct Replica {
    node: Arc<dyn Node>,
    address: SocketAddr,
    closed: CancellationToken,
}

/// Source that serves metrics only; the test requests no other page.
struct MetricsOnly;

#[async_trait]
impl StatusSource for MetricsOnly {
    async fn status(&self) -> Value {
        Value::Null
    }

    async fn liveness(&self) -> Probe {
        Probe::Pass("it is a test".into())
    }

    async fn readiness(&self) -> Probe {
        Probe::Pass("it is a test".into())
    }

    async fn leadership(&self) -> Leadership {
        Leadership::default()
    }
}

async fn until_cancelled(_: ShardId, ctx: ShardContext) -> Result<(), WorkError> {
    ctx.cancelled().await;
    Ok(())
}

impl Replica {
    async fn start(id: i64, etcd: &Etcd) -> Self {
        let registry = metrics::registry().unwrap();
        let server = Server::bind(ServerConfig {
            listen: "127.0.0.1:0".to_owned(),
            ..ServerConfig::default()
        });
        let server = server.await.unwrap();
        let address = server.address();
        let runs = Arc::new(AtomicU64::new(0));
        let node = ClusterNode::builder()
            .cluster("shop")
            .id(id)
            .address(address.to_string())
            .etcd(EtcdConfig::new(etcd.endpoints()))
            .metrics(NodeMetrics::register(&registry).unwrap())
            .on_leader_tick(move |_: LeaderContext| {
                let run = runs.fetch_add(1, Ordering::Relaxed);
                async move {
                    // Each fiftieth run fails, so that the queries of failures return a series.
                    if run % 50 == 49 { Err("a test's failure".into()) } else { Ok(()) }
                }
            })
            .on_follower_tick(|_: FollowerContext| async { Ok(()) })
            .worker(WorkerOptions::new("rounds", until_cancelled).shards(8))
            .build()
            .unwrap();
        let closed = CancellationToken::new();
        let told = closed.clone();
        bellwether::tasks::spawn("metrics of a test", async move {
            server.serve(Arc::new(MetricsOnly), registry, told).await.unwrap();
        });
        Self { node: Arc::new(node), address, closed }
    }

    fn leads(&self) -> bool {
        self.node.membership().borrow().role == Role::Leader
    }
}

/// Running Prometheus; killed when dropped.
struct Prometheus {
    child: Child,
    port: ReservedPort,
    folder: tempfile::TempDir,
    http: reqwest::Client,
}

impl Prometheus {
    fn start(targets: &[SocketAddr]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let targets: Vec<String> = targets.iter().map(|it| format!("\"{it}\"")).collect();
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n- job_name: bellwether\n  \
             static_configs:\n  - targets: [{}]\n    labels: {{namespace: shop}}\n",
            targets.join(", ")
        );
        let file = folder.path().join("prometheus.yml");
        fs::write(&file, config).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let port = reserved_port();
        let child = Command::new(tools::program("prometheus", "prometheus"))
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={}", port.address()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(LONG).no_proxy().build().unwrap();
        Self { child, port, folder, http }
    }

    /// Current result of a query: series by their labels. An error of the query fails the test.
    async fn ask(&self, query: &str) -> Option<Vec<(BTreeMap<String, String>, f64)>> {
        let mut url: reqwest::Url =
            format!("http://{}/api/v1/query", self.port.address()).parse().unwrap();
        url.query_pairs_mut().append_pair("query", query);
        let text = self.http.get(url).send().await.ok()?.text().await.ok()?;
        let answer: Value = serde_json::from_str(&text).ok()?;
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let series = answer["data"]["result"].as_array()?.iter().map(|one| {
            let labels = serde_json::from_value(one["metric"].clone()).unwrap();
            (labels, one["value"][1].as_str().unwrap().parse().unwrap())
        });
        Some(series.collect())
    }

    /// Waits until a query returns this node's series, and no other.
    async fn names(&self, query: &str, leader: SocketAddr) {
        eventually(&format!("{query} names {leader}"), LONG, async || {
            let series = self.ask(query).await?;
            let named: Vec<&String> =
                series.iter().filter_map(|(labels, _)| labels.get("instance")).collect();
            (named == [&leader.to_string()]).then_some(())
        })
        .await;
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            eprintln!("--- log of Prometheus ---\n{log}");
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Query with Grafana's variables filled in as if no value is selected; with the test's own, shorter, scrape
/// interval.
fn filled_in(query: &str) -> String {
    query
        .replace("$__rate_interval", "15s")
        .replace(":15s]", ":1s]")
        .replace("$cluster", ".*")
        .replace("$namespace", "shop")
        .replace("$job", "bellwether")
        .replace("$instance", ".*")
}

async fn leader_of(replicas: &[Replica], not: Option<SocketAddr>) -> SocketAddr {
    eventually("a leader", LONG, async || {
        let mut leaders = replicas.iter().filter(|it| it.leads()).map(|it| it.address);
        leaders.next().filter(|it| Some(*it) != not)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_has_an_answer_and_the_right_one_after_a_change_of_leaders() {
    let etcd = Etcd::start().await;
    let mut replicas = Vec::new();
    for id in 1..=3 {
        let replica = Replica::start(id, &etcd).await;
        replica.node.start().await.unwrap();
        replicas.push(replica);
    }
    let targets: Vec<SocketAddr> = replicas.iter().map(|it| it.address).collect();
    let prometheus = Prometheus::start(&targets);
    let first = leader_of(&replicas, None).await;
    let elections = monitoring::dashboards("bellwether")[0].to_json();
    let queries = lint::queries(&elections);
    let query_of = |panel: &str| {
        let found = queries.iter().find(|(title, _)| title == panel);
        filled_in(&found.unwrap_or_else(|| panic!("there is no panel {panel}")).1)
    };
    let leader = query_of("Leader");
    prometheus.names(&leader, first).await;
    eventually("the others are scraped as followers", LONG, async || {
        let series = prometheus.ask("bellwether_role == 2").await?;
        (series.len() == 2).then_some(())
    })
    .await;
    // The drained node gives up its shards and its office, and its work of both kinds ends.
    let old = replicas.iter().find(|it| it.address == first).unwrap();
    old.node.drain().await.unwrap();
    let second = leader_of(&replicas, Some(first)).await;
    prometheus.names(&leader, second).await;
    old.node.undrain().await.unwrap();

    for (title, query) in &queries {
        if EMPTY_IS_WELL.iter().any(|(word, _)| query.contains(word)) {
            assert!(prometheus.ask(&filled_in(query)).await.is_some(), "{title}: {query}");
            continue;
        }
        // This query marks only the moments at which a leader was new.
        let query =
            if title == "New leader" { query.replace("[1m]", "[10m]") } else { query.clone() };
        eventually(&format!("{title} has an answer to {query}"), LONG, async || {
            prometheus.ask(&filled_in(&query)).await.filter(|it| !it.is_empty())
        })
        .await;
    }
    for (panel, value) in
        [("Leaders", 1.0), ("Nodes", 3.0), ("Take-overs in 1 h", 1.0), ("Without a leader", 0.0)]
    {
        let query = query_of(panel);
        eventually(&format!("{panel} is {value}"), LONG, async || {
            let series = prometheus.ask(&query).await?;
            (series.len() == 1 && series[0].1 == value).then_some(())
        })
        .await;
    }
    let owned = query_of("Shards by owner");
    eventually("all eight shards have owners", LONG, async || {
        let series = prometheus.ask(&owned).await?;
        (series.iter().map(|(_, value)| value).sum::<f64>() == 8.0).then_some(())
    })
    .await;

    for alert in alerts() {
        let said = eventually(&format!("{} is answered", alert.name), LONG, async || {
            prometheus.ask(&alert.query).await
        })
        .await;
        assert!(said.is_empty(), "{} on a cluster that is well: {said:?}", alert.name);
    }
    for replica in &replicas {
        replica.node.stop(LONG).await.unwrap();
        replica.closed.cancel();
    }
    let no_leader = &alerts()[0].query;
    eventually("nobody leads, and the alert says so", LONG, async || {
        prometheus.ask(no_leader).await.filter(|it| it.len() == 1)
    })
    .await;
    for replica in replicas {
        replica.node.close().await.unwrap();
    }
}
