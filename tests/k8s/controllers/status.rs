//! The status server of an operator: its answers before, during and after the operator's work.

use std::sync::Arc;

use bellwether::{
    engine::Failover,
    host::HostError,
    k8s::{
        cache::Scope,
        controller::{Action, Context, Controller},
        k8s_openapi::api::core::v1::ConfigMap,
        kube::{Client, client::Body},
        operator::Operator,
    },
    node::{ClusterNode, ClusterNodeBuilder, RoutineLimits, Stopped},
    tasks,
    telemetry::{metrics, prometheus::IntCounter, server::ServerMetrics},
};
use http::Request;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, service_fn};

use super::replicas::{Cluster, SOON};
use crate::support::{etcd::reserved_port, eventually};

/// Client that receives no config maps before `until` is cancelled.
fn kept_waiting(client: Client, until: &CancellationToken) -> Client {
    let (namespace, until) = (client.default_namespace().to_owned(), until.clone());
    let service = service_fn(move |request: Request<Body>| {
        let (client, until) = (client.clone(), until.clone());
        async move {
            if request.uri().path().ends_with("/configmaps") {
                until.cancelled().await;
            }
            client.send(request).await.map_err(BoxError::from)
        }
    });
    Client::new(service, namespace)
}

/// Answer of a page; `None` if no server listens.
pub(crate) async fn get(address: impl ToString, path: &str) -> Option<(u16, String)> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().timeout(SOON).no_proxy().build().unwrap();
    let answer = http.get(format!("http://{}{path}", address.to_string())).send().await.ok()?;
    Some((answer.status().as_u16(), answer.text().await.unwrap()))
}

fn node(cluster: &Cluster<'_>) -> ClusterNodeBuilder {
    ClusterNode::builder()
        .cluster("test")
        .id(0)
        .failover(Failover::DEFAULT)
        // The test holds up work, which must not be aborted for it.
        .limits(RoutineLimits { cancel_grace: SOON, ..RoutineLimits::default() })
        .memory(&cluster.store)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_server_answers_from_before_the_operator_is_ready_until_it_has_left() {
    let cluster = Cluster::new("served").await;
    cluster.make("a").await;
    let [maps, ending, end] = [(); 3].map(|()| CancellationToken::new());
    let controller = {
        let (ending, end) = (ending.clone(), end.clone());
        Controller::<ConfigMap>::new(move |_: Arc<ConfigMap>, ctx: Context| {
            let (ending, end) = (ending.clone(), end.clone());
            async move {
                ctx.token().cancelled().await;
                ending.cancel();
                end.cancelled().await;
                Ok(Action::done())
            }
        })
        .named("held")
        .scope(Scope::namespace(cluster.space.name.clone()).labels("reconciled=yes"))
    };
    let registry = metrics::registry().unwrap();
    let own = IntCounter::new("shop_orders_total", "Orders.").unwrap();
    registry.register(Box::new(own.clone())).unwrap();
    let port = reserved_port();
    let at = port.address();
    let client = kept_waiting(cluster.space.client(), &maps);
    let operator = Operator::new(node(&cluster), client, cluster.election())
        .controller(controller)
        .registry(registry)
        .serve(at)
        .stop_within(SOON);
    let stop = CancellationToken::new();
    let running = tasks::spawn("operator", operator.run(stop.clone().cancelled_owned()));

    let unready = eventually("it is not ready, and says why", SOON, async || {
        get(at, "/readyz").await.filter(|(code, _)| *code == 503)
    })
    .await;
    assert!(unready.1.contains("caches are not synced: ConfigMap"), "{unready:?}");
    assert_eq!(get(at, "/livez").await.unwrap().0, 200);

    maps.cancel();
    eventually("it is ready", SOON, async || {
        get(at, "/readyz").await.filter(|(code, _)| *code == 200)
    })
    .await;
    own.inc();
    eventually("a run is counted, and what is the user's", SOON, async || {
        let (_, text) = get(at, "/metrics").await?;
        let lines = [
            "controller_runtime_active_workers{controller=\"held\"} 1",
            "bellwether_cache_objects{kind=\"ConfigMap\"} 1",
            "workqueue_adds_total{",
            "leader_election_master_status{name=\"test\"} 1",
            "bellwether_authority_remaining_seconds",
            "process_cpu_seconds_total",
            "shop_orders_total 1",
        ];
        lines.iter().all(|line| text.contains(line)).then_some(())
    })
    .await;
    assert!(get(at, "/leader").await.unwrap().1.contains('0'));
    assert!(get(at, "/").await.unwrap().1.starts_with("<!doctype html>"));

    stop.cancel();
    tokio::time::timeout(SOON, ending.cancelled()).await.unwrap();
    assert_eq!(get(at, "/livez").await.unwrap().0, 200, "it ends after the work");
    end.cancel();
    let stopped = tokio::time::timeout(SOON, running).await.unwrap().unwrap().unwrap();
    assert_eq!(stopped, Stopped::Clean);
    assert_eq!(get(at, "/livez").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_ends_the_operator_before_its_node_joins() {
    let cluster = Cluster::new("taken").await;
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = cluster.space.client();
    let (operator, _) = Operator::new(node(&cluster), client, cluster.election())
        .serve(taken.local_addr().unwrap())
        .build()
        .unwrap();
    let membership = operator.node().membership();
    let ended = tokio::time::timeout(SOON, operator.run(std::future::pending())).await.unwrap();
    assert!(matches!(ended, Err(HostError::Serve(_))), "{ended:?}");
    assert!(!membership.borrow().joined);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_cannot_count_in_one_registry() {
    let cluster = Cluster::new("registry").await;
    let registry = metrics::registry().unwrap();
    let operator = || {
        let client = cluster.space.client();
        Operator::new(node(&cluster), client, cluster.election()).registry(registry.clone())
    };
    operator().build().unwrap();
    assert!(matches!(operator().build(), Err(HostError::Metrics(_))));

    // An operator does not run without its status server, which probes ask.
    let registry = metrics::registry().unwrap();
    ServerMetrics::register(&registry).unwrap();
    let operator = Operator::new(node(&cluster), cluster.space.client(), cluster.election());
    let running = operator.registry(registry).serve("127.0.0.1:0").run(std::future::pending());
    let ended = tokio::time::timeout(SOON, running).await.unwrap();
    assert!(matches!(ended, Err(HostError::Metrics(_))), "{ended:?}");
}
