//! Uptime checks per second, by number of replicas. Each replica runs a limited number of checks at once, and a
//! target takes a while to answer. More checks are due than all replicas can run, so the figure is the capacity
//! of the replicas. All replicas work in this process, beside the API server and etcd: the more replicas, the
//! more those are the limit.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bellwether::{
    k8s::{
        cache::Scope,
        client::{ClientOptions, connect},
        kube::{Api, api::PostParams},
        operator::Operator,
    },
    operator::uptime::{
        CutBy, Uptime, UptimeOptions,
        api::{self, ApiChecks},
        crd::UptimeCheck,
    },
    store::etcd::EtcdConfig,
    tasks,
};
use serde_json::{from_value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    common::etcd_with_cluster,
    replicas::{Replica, node, server},
    spread::{SETTLED_AFTER, Spread, cpu},
    support::etcd::Medium,
};

/// Number of checks, each due once a second.
const CHECKS: usize = 640;
const AT_ONCE: usize = 8;
const ANSWERS_AFTER: Duration = Duration::from_millis(100);

/// A target of checks, with the number of its answers.
struct Target {
    url: String,
    answered: Arc<AtomicU64>,
    _task: AbortOnDropHandle<()>,
}

impl Target {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let answered = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&answered);
        let task = tasks::spawn("target", async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tasks::spawn("answers", answer(stream, Arc::clone(&counted)));
            }
        });
        Self { url, answered, _task: AbortOnDropHandle::new(task) }
    }
}

async fn answer(stream: TcpStream, answered: Arc<AtomicU64>) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await.is_ok_and(|read| 0 < read) {
        if line == "\r\n" {
            tokio::time::sleep(ANSWERS_AFTER).await;
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            if stream.write_all(answer.as_bytes()).await.is_ok() {
                answered.fetch_add(1, Relaxed);
            }
        }
        line.clear();
    }
}

pub(crate) async fn measure(replicas: usize, span: Duration) -> Spread {
    let (api, etcd, target) =
        (server().await, etcd_with_cluster(Medium::Memory).await, Target::start().await);
    let space = api.namespace("checks").await;
    let all: Api<UptimeCheck> = Api::default_namespaced(space.bulk_client());
    for number in 0..CHECKS {
        let check = from_value(json!({
            "apiVersion": "bellwether.dev/v1alpha1",
            "kind": "UptimeCheck",
            "metadata": { "name": format!("check-{number}") },
            "spec": { "interval": "1s", "timeout": "1s", "target": { "http": { "url": target.url } } },
        }));
        all.create(&PostParams::default(), &check.unwrap()).await.unwrap();
    }
    let mut started = Vec::new();
    for id in 0..replicas {
        let scope = Scope::namespace(space.name.clone());
        let work = |operator: Operator| {
            let mut operator = operator.scope(scope);
            let checks = ApiChecks::of(&mut operator);
            let options = UptimeOptions {
                cut_by: CutBy::Uids,
                most_at_once: AT_ONCE,
                as_leader: true,
                ..UptimeOptions::default()
            };
            let uptime = Uptime::new(checks.checks(), options);
            api::add(operator, checks, &uptime)
        };
        let options = ClientOptions::default().kubeconfig(api.bulk_kubeconfig(&space.name));
        let client = connect(options).await.unwrap();
        let node = node(id as i64).etcd(EtcdConfig::new(etcd.endpoints()));
        started.push(Replica::start_as(node, client, work).await);
    }
    tokio::time::sleep(SETTLED_AFTER).await;
    let (before, used) = (target.answered.load(Relaxed), cpu());
    tokio::time::sleep(span).await;
    let spread = Spread {
        per_second: (target.answered.load(Relaxed) - before) as f64 / span.as_secs_f64(),
        cpu: (cpu() - used) / span.as_secs_f64(),
    };
    for replica in started {
        replica.stop().await;
    }
    spread
}
