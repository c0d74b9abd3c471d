//! Uptime checks of three nodes: what their results cost, and how many fit the state. A probe of the bench takes the
//! place of the network, and answers as a healthy web site would.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bellwether::{
    engine::Role,
    host::{Host, HostError},
    k8s::{client::ClientOptions, store::KubernetesConfig},
    node::{ClusterNode, Node, Stopped},
    operator::uptime::{
        self, Check, Checks, Uptime, UptimeMetrics, UptimeOptions,
        probe::{Probe, Probed, Verdict},
        value::UnixMs,
    },
    tasks,
};
use prometheus::Registry;
use serde_json::{from_value, json};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    STATE_BYTES,
    common::{Bench, CLUSTER, LONG, counted},
    kube::{ApiServer, Space},
    support::eventually,
    usage::{State, Usage},
};

const NODES: i64 = 3;

/// Number of checks that fit the state, as in `docs/operations.md`.
const FIT: usize = 100;

/// A web site that answers after 20 ms.
#[derive(Debug)]
struct Answers;

#[async_trait]
impl Probe for Answers {
    async fn run(&self, _: &Check) -> Probed {
        let latency = Duration::from_millis(20);
        tokio::time::sleep(latency).await;
        Probed {
            verdict: Verdict::Up,
            latency: Some(latency),
            certificate_expires: Some(UnixMs(1_900_000_000_000)),
            message: "200 OK".to_owned(),
        }
    }
}

/// A node that runs the checks of its shards, or gathers the results.
struct Replica {
    node: Arc<dyn Node>,
    registry: Registry,
    stop: CancellationToken,
    running: JoinHandle<Result<Stopped, HostError>>,
}

impl Replica {
    fn start(id: i64, space: &Space<'_>, checks: watch::Receiver<Arc<Checks>>) -> Self {
        let kubeconfig = space.api.bulk_kubeconfig(&space.name);
        let client = ClientOptions::default().kubeconfig(kubeconfig);
        let node = ClusterNode::builder()
            .cluster(CLUSTER)
            .id(id)
            .kubernetes(KubernetesConfig::new().client(client));
        let registry = Registry::new();
        let options = UptimeOptions {
            probe: Arc::new(Answers),
            metrics: UptimeMetrics::register(&registry).unwrap(),
            ..UptimeOptions::default()
        };
        let uptime = Uptime::new(checks, options);
        let host = uptime::add(Host::new(node).registry(registry.clone()), &uptime);
        let host = host.build().unwrap();
        let (node, stop) = (Arc::clone(host.node()), CancellationToken::new());
        let running = tasks::spawn("replica", host.run(stop.clone().cancelled_owned()));
        Self { node, registry, stop, running }
    }
}

/// Sum of a counter over all replicas.
fn sum(replicas: &[Replica], name: &str) -> f64 {
    replicas.iter().map(|it| counted(&it.registry, name) as f64).sum()
}

fn check(number: usize, interval: Duration) -> Check {
    let resource = json!({
        "apiVersion": "bellwether.dev/v1alpha1",
        "kind": "UptimeCheck",
        "metadata": { "name": format!("check-{number}") },
        "spec": {
            "interval": format!("{}s", interval.as_secs()),
            "timeout": "1s",
            "target": { "http": { "url": format!("https://shop-{number}.example/health") } },
        },
    });
    Check::new(from_value(resource).unwrap()).unwrap()
}

pub(crate) async fn measure(bench: &mut Bench, count: usize, interval: Duration) {
    let api = ApiServer::shared().await;
    let space = api.namespace("checks").await;
    let (sender, checks) = watch::channel(Arc::new(Checks::default()));
    let replicas: Vec<_> =
        (0..NODES).map(|id| Replica::start(id, &space, checks.clone())).collect();
    eventually("a leader, and owners of all shards", LONG * 2, async || {
        let leads = |it: &Replica| it.node.membership().borrow().role == Role::Leader;
        let leader = replicas.iter().find(|it| leads(it))?;
        let status = leader.node.status().await.ok()?;
        let all_owned = status.work.iter().all(|it| it.unowned == 0);
        (!status.work.is_empty() && all_owned).then_some(())
    })
    .await;
    let empty = State::of(&space).await;
    sender.send_replace(Arc::new(Checks::of((0..count).map(|number| check(number, interval)))));
    // All of them are due at once at first, and then spread over the interval. The leader stores statuses in which only
    // times have changed once a minute.
    tokio::time::sleep(Duration::from_secs(70)).await;
    let runs = "bellwether_uptime_runs_total";
    let failed = "bellwether_uptime_store_failures_total";
    let missed = "bellwether_uptime_missed_total";
    let counts = |name| sum(&replicas, name);
    let before = ([runs, failed, missed].map(counts), Usage::of(api).await);
    let span = interval.max(Duration::from_secs(20));
    tokio::time::sleep(span).await;
    let usage = Usage::of(api).await;
    let after = [runs, failed, missed].map(counts);
    let full = State::of(&space).await;
    Bench::values();
    let rate = |at: usize| (after[at] - before.0[at]) / span.as_secs_f64();
    let due = count as f64 / interval.as_secs_f64();
    let fits = count <= FIT;
    bench.value("runs that are due", due, "per second", None);
    bench.value("runs", rate(0), "per second", None);
    bench.value("missed", rate(2), "per second", fits.then_some(0.0));
    bench.value("calls of the store that failed", rate(1), "per second", fits.then_some(0.0));
    bench.value("state without checks", empty.bytes, "B", None);
    full.show(bench, fits.then_some(STATE_BYTES));
    if fits {
        let each = (full.bytes - empty.bytes) / count as f64;
        bench.value("of it for each check", each, "B", None);
        bench.value("so many of that size fit", (STATE_BYTES - empty.bytes) / each, "", None);
    }
    usage.show_since(&before.1, bench, "with checks");
    for replica in &replicas {
        replica.stop.cancel();
    }
    for replica in replicas {
        let _ = tokio::time::timeout(LONG, replica.running).await.unwrap().unwrap();
    }
}
