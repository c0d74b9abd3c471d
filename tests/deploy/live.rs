//! Every query of the dashboards and the alerts, evaluated by a real Prometheus that scrapes three real operators on a
//! real etcd, and a program that runs uptime checks, while they have troubles of every kind.

use std::{
    collections::BTreeMap,
    env, fs,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bellwether::{
    clock,
    engine::{Role, ShardId},
    host::HostError,
    k8s::{k8s_openapi::api::core::v1::ConfigMap, prelude::*},
    node::{
        ClusterNode, FollowerContext, LeaderContext, Node, ShardContext, Stopped, WorkerOptions,
        work::WorkError,
    },
    store::etcd::EtcdConfig,
    tasks,
    telemetry::metrics,
    testing::{Fake, ReservedPort},
};
use serde_json::{Value, from_value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    alerts::alerts,
    dashboards::all_dashboards,
    lint, pictures,
    support::{
        etcd::{Etcd, reserved_port},
        eventually, tools,
    },
};

/// Timeout against a hanging test, far above the duration of any step here.
const LONG: Duration = Duration::from_secs(90);

/// Queries that rightly return no series here, each found by this word, with the reason.
const EMPTY_IS_WELL: [(&str, &str); 9] = [
    ("result!=\"done\"", "every call went well"),
    ("ALERTS{", "this Prometheus has no rules"),
    ("etcd_", "this Prometheus does not scrape etcd"),
    ("bellwether_store_switches", "etcd has one member"),
    ("bellwether_store_logins", "etcd asks for no login"),
    ("bellwether_store_certificate_reloads", "etcd is without TLS"),
    ("bellwether_store_state", "only the store on Kubernetes has its state in one object"),
    ("rest_client_", "the API server is a fake in the process"),
    (" unless count by (version, commit)", "no version is new"),
];

/// Operator with work of every kind, and its metrics page.
struct Replica {
    node: Arc<dyn Node>,
    port: ReservedPort,
    stop: CancellationToken,
    running: JoinHandle<Result<Stopped, HostError>>,
}

async fn until_cancelled(_: ShardId, ctx: ShardContext) -> Result<(), WorkError> {
    ctx.cancelled().await;
    Ok(())
}

/// Config map for the API server.
fn map(name: &str) -> ConfigMap {
    from_value(json!({ "metadata": { "name": name, "namespace": "shop" } })).unwrap()
}

/// Succeeds, fails or hangs, as the name of the object says.
async fn reconcile(map: Arc<ConfigMap>, ctx: Context) -> Result<Action, ReconcileError> {
    match map.name_any().as_str() {
        "fails" => return Err(ReconcileError::new("a failure of the test")),
        "hangs" => ctx.token().cancelled().await,
        _ => {}
    }
    Ok(Action::done())
}

impl Replica {
    fn start(id: i64, etcd: &Etcd, api: &Fake) -> Self {
        let port = reserved_port();
        let runs = Arc::new(AtomicU64::new(0));
        let node = ClusterNode::builder()
            .cluster("shop")
            .id(id)
            .address(port.address().to_string())
            .etcd(EtcdConfig::new(etcd.endpoints()))
            .on_leader_tick(move |_: LeaderContext| {
                let run = runs.fetch_add(1, Ordering::Relaxed);
                async move {
                    // Each fiftieth run fails, so that the queries of failures return a series.
                    if run % 50 == 49 { Err("a test's failure".into()) } else { Ok(()) }
                }
            })
            .on_follower_tick(|_: FollowerContext| async { Ok(()) })
            .worker(WorkerOptions::new("rounds", until_cancelled).shards(8));
        let election = ElectionRef { namespace: "shop".into(), cluster: "shop".into() };
        let maps = Controller::<ConfigMap>::new(reconcile).named("maps").at_once(2);
        let (operator, _) = Operator::new(node, api.client(), election)
            .controller(maps)
            .registry(metrics::registry().unwrap())
            .serve(port.address())
            .build()
            .unwrap();
        let (node, stop) = (operator.node().clone(), CancellationToken::new());
        let running = tasks::spawn("operator", operator.run(stop.clone().cancelled_owned()));
        Self { node, port, stop, running }
    }

    fn address(&self) -> SocketAddr {
        self.port.address()
    }

    fn leads(&self) -> bool {
        self.node.membership().borrow().role == Role::Leader
    }
}

/// The program with two uptime checks: a target that is up, and one that is down. Killed when dropped.
struct Checks {
    child: Child,
    _port: ReservedPort,
    _folder: tempfile::TempDir,
    _nobody: ReservedPort,
}

impl Checks {
    fn start(port: ReservedPort, up: SocketAddr) -> Self {
        let (nobody, folder) = (reserved_port(), tempfile::tempdir().unwrap());
        for (name, target) in [("up", up), ("down", nobody.address())] {
            let check = json!({
                "apiVersion": "bellwether.dev/v1alpha1", "kind": "UptimeCheck", "metadata": {"name": name},
                "spec": {"interval": "1s", "target": {"tcp": {"host": "127.0.0.1", "port": target.port()}}},
            });
            fs::write(folder.path().join(format!("{name}.yaml")), check.to_string()).unwrap();
        }
        let child = Command::new(env!("CARGO_BIN_EXE_bellwether"))
            .args(["run", "--standalone", "--listen", &port.address().to_string()])
            .arg("--checks")
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, _port: port, _folder: folder, _nobody: nobody }
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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
    /// Scrapes the targets of each job.
    fn start(jobs: &[(&str, Vec<SocketAddr>)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let jobs = jobs.iter().map(|(job, targets)| {
            json!({
                "job_name": job,
                "static_configs": [{"targets": targets, "labels": {"namespace": "shop"}}],
            })
        });
        let config = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": jobs.collect::<Vec<_>>(),
        });
        let file = folder.path().join("prometheus.yml");
        fs::write(&file, config.to_string()).unwrap();
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

    /// Result of a request to the API. An error of a query fails the test.
    async fn result(&self, path: &str, asked: &[(&str, &str)]) -> Option<Value> {
        let mut url: reqwest::Url =
            format!("http://{}/api/v1/{path}", self.port.address()).parse().unwrap();
        url.query_pairs_mut().extend_pairs(asked);
        let text = self.http.get(url).send().await.ok()?.text().await.ok()?;
        let mut answer: Value = serde_json::from_str(&text).ok()?;
        assert_eq!(answer["status"], "success", "{asked:?}: {answer}");
        Some(answer["data"]["result"].take())
    }

    /// Current result of a query: series by their labels.
    async fn ask(&self, query: &str) -> Option<Vec<(BTreeMap<String, String>, f64)>> {
        let result = self.result("query", &[("query", query)]).await?;
        let series = result.as_array()?.iter().map(|one| {
            let labels = from_value(one["metric"].clone()).unwrap();
            (labels, one["value"][1].as_str().unwrap().parse().unwrap())
        });
        Some(series.collect())
    }

    /// Waits until every query of a dashboard, panel by panel, has an answer.
    async fn answers_all(&self, queries: &[(String, String, String)]) {
        let begun = clock::boot_now();
        let mut left: Vec<_> = queries.iter().collect();
        while !left.is_empty() {
            assert!(clock::boot_now().since(begun) < LONG, "these have no answer: {left:#?}");
            let mut without = Vec::new();
            for asked @ (_, panel, query) in left {
                // These mark only the moments at which something happened.
                let query = match panel.as_str() {
                    "New leader" | "Resigned" | "Drained" => query
                        .replace("[1m]", "[10m]")
                        .replace(" == 1", " >= 0")
                        .replace(" > 0", " >= 0"),
                    _ => query.clone(),
                };
                let may_be_empty = EMPTY_IS_WELL.iter().any(|(word, _)| query.contains(word));
                let series = self.ask(&filled_in(&query)).await;
                if series.is_none_or(|it| it.is_empty() && !may_be_empty) {
                    without.push(asked);
                }
            }
            left = without;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Draws all dashboards into the folder, from that Unix time until now.
    async fn draw(&self, folder: &str, from: f64) {
        let to = unix_now();
        let span = [from.to_string(), to.to_string()];
        for (name, model) in all_dashboards() {
            let job = if name == "uptime" { "checks" } else { "shop" };
            let mut answers = json!({});
            for panel in lint::panels(&model) {
                for target in panel["targets"].as_array().unwrap() {
                    let query = target["expr"].as_str().unwrap();
                    let query = filled_in(&query.replace("$job", job));
                    let asked =
                        [("query", &*query), ("start", &span[0]), ("end", &span[1]), ("step", "1")];
                    let result = self.result("query_range", &asked).await.unwrap();
                    let (id, part) = (&panel["id"], target["refId"].as_str().unwrap());
                    answers[id.to_string()][part] = result;
                }
            }
            pictures::draw(folder, &name, &model, &answers, (from, to)).await;
        }
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

    /// Waits until a panel shows one value that is as it must be.
    async fn shows(&self, (query, panel): (String, &str), holds: impl Fn(f64) -> bool) {
        eventually(&format!("{panel} shows what happened: {query}"), LONG, async || {
            let series = self.ask(&query).await?;
            (series.len() == 1 && holds(series[0].1)).then_some(())
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

fn unix_now() -> f64 {
    Duration::from_millis(clock::unix_ms()).as_secs_f64()
}

/// Query with Grafana's variables filled in as if no value is selected; with the test's own, shorter, scrape
/// interval.
fn filled_in(query: &str) -> String {
    query
        .replace("$__rate_interval", "15s")
        .replace("$__range", "1m")
        .replace(":15s]", ":1s]")
        .replace("15 * count_over_time", "count_over_time")
        .replace("$cluster", ".*")
        .replace("$namespace", "shop")
        .replace("$job", "shop|checks")
        .replace("$instance", ".*")
}

async fn leader_of(replicas: &[Replica], not: Option<SocketAddr>) -> SocketAddr {
    eventually("a leader", LONG, async || {
        let mut leaders = replicas.iter().filter(|it| it.leads()).map(Replica::address);
        leaders.next().filter(|it| Some(*it) != not)
    })
    .await
}

/// Queries of all dashboards: dashboard, panel, query.
fn queries() -> Vec<(String, String, String)> {
    let of = |(name, model): (String, Value)| {
        let queries = lint::queries(&model).into_iter();
        queries.map(move |(panel, query)| (name.clone(), panel, query))
    };
    all_dashboards().into_iter().flat_map(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_has_an_answer_and_tells_what_happens() {
    let etcd = Etcd::start().await;
    let api = Fake::new().with([map("fine")]);
    let replicas: Vec<_> = (1..=3).map(|id| Replica::start(id, &etcd, &api)).collect();
    let targets: Vec<SocketAddr> = replicas.iter().map(Replica::address).collect();
    let (first_target, port) = (targets[0], reserved_port());
    let prometheus = Prometheus::start(&[("shop", targets), ("checks", vec![port.address()])]);
    // Without changes, an object that fails is reconciled less and less often.
    let (changing, changed) = (CancellationToken::new(), api.clone());
    let until = changing.clone();
    let changes = tasks::spawn("changes", async move {
        for change in 0.. {
            let wait = tokio::time::sleep(Duration::from_millis(200));
            if until.run_until_cancelled(wait).await.is_none() {
                break;
            }
            for name in ["fine", "fails"] {
                let data = [("change".to_owned(), change.to_string())].into();
                changed.change("shop", name, |it: &mut ConfigMap| it.data = Some(data));
            }
        }
    });
    let queries = queries();
    let in_job = |job: &str, dashboard: &str, panel: &str| {
        let is_meant = |it: &&(String, String, String)| (&*it.0, &*it.1) == (dashboard, panel);
        let found = queries.iter().find(is_meant);
        let query = &found.unwrap_or_else(|| panic!("{dashboard} has no panel {panel}")).2;
        filled_in(&query.replace("$job", job))
    };
    let panel = |dashboard: &str, panel: &'static str| (in_job("shop", dashboard, panel), panel);
    let leader = in_job("shop", "elections", "Leader");

    let begun = unix_now();
    let first = leader_of(&replicas, None).await;
    prometheus.names(&leader, first).await;
    eventually("the others are scraped as followers", LONG, async || {
        let series = prometheus.ask("bellwether_role{job=\"shop\"} == 2").await?;
        (series.len() == 2).then_some(())
    })
    .await;
    let owned = (in_job("shop", "shards", "Shards by owner"), "Shards by owner");
    prometheus.shows((format!("sum({})", owned.0), owned.1), |it| it == 8.0).await;
    prometheus.shows(panel("controllers", "Gates open"), |it| it == 1.0).await;
    for alert in alerts() {
        let fired = eventually(&format!("{} is answered", alert.name), LONG, async || {
            prometheus.ask(&alert.query).await
        })
        .await;
        assert!(fired.is_empty(), "{} on a cluster that is well: {fired:?}", alert.name);
    }
    // A reconcile that hangs, and one that fails.
    for name in ["fails", "hangs"] {
        api.put(&map(name));
    }
    prometheus.shows(panel("controllers", "Longest reconcile that goes on"), |it| 2.0 < it).await;
    prometheus.shows(panel("controllers", "Reconciles that fail"), |it| 0.1 < it && it < 0.9).await;
    prometheus.shows(panel("overview", "Reconciles that fail"), |it| 0.1 < it && it < 0.9).await;
    // The store answers late.
    let slow =
        in_job("shop", "elections", "Round trips: beats and renewals").replace("0.5,", "0.99,");
    etcd.freeze(0);
    tokio::time::sleep(Duration::from_millis(600)).await;
    etcd.thaw(0);
    prometheus.shows((slow, "Round trips: beats and renewals"), |it| 0.2 < it).await;
    // The drained node gives up its shards and its office, and its work of both kinds ends.
    let old = leader_of(&replicas, None).await;
    let drained = replicas.iter().find(|it| it.address() == old).unwrap();
    drained.node.drain().await.unwrap();
    let second = leader_of(&replicas, Some(old)).await;
    prometheus.names(&leader, second).await;
    prometheus
        .names(&in_job("shop", "elections", "Drained").replace("max by", "1 == max by"), old)
        .await;
    drained.node.undrain().await.unwrap();
    // The API server falls silent.
    prometheus.shows(panel("controllers", "Objects that cannot be read"), |it| it == 0.0).await;
    let age = in_job("shop", "controllers", "Age of caches")
        .replace("max by (instance, kind)", "min")
        .replace("_seconds{", "_seconds{kind=\"ConfigMap\", ");
    prometheus.shows((age.clone(), "Age of caches"), |it| it < 2.0).await;
    changing.cancel();
    changes.await.unwrap();
    prometheus.shows((age, "Age of caches"), |it| 3.0 < it).await;
    // A target that is down.
    let _checks = Checks::start(port, first_target);
    let down = in_job("checks", "uptime", "Targets down");
    prometheus.shows((down, "Targets down"), |it| it == 1.0).await;

    prometheus.answers_all(&queries).await;
    prometheus.shows(panel("elections", "Leaders"), |it| it == 1.0).await;
    prometheus.shows(panel("elections", "Nodes"), |it| it == 3.0).await;
    prometheus.shows(panel("elections", "Take-overs in 1 h"), |it| 1.0 <= it).await;
    prometheus.shows(panel("elections", "Without a leader"), |it| it == 0.0).await;
    prometheus.shows(panel("overview", "Led, of the time shown"), |it| 0.5 < it && it <= 1.0).await;
    prometheus.shows((format!("sum({})", owned.0), owned.1), |it| it == 8.0).await;

    if let Ok(folder) = env::var("BELLWETHER_PICTURES") {
        prometheus.draw(&folder, begun).await;
    }
    for replica in &replicas {
        replica.stop.cancel();
    }
    for replica in replicas {
        assert_eq!(replica.running.await.unwrap().unwrap(), Stopped::Clean);
    }
    let no_leader =
        &alerts().iter().find(|it| it.name == "BellwetherNoLeader").unwrap().query.clone();
    eventually("nobody leads, and the alert says so", LONG, async || {
        prometheus.ask(no_leader).await.filter(|it| it.len() == 1)
    })
    .await;
}
