//! Replicas of an operator, all in this process.

use std::sync::Arc;

use bellwether::{
    engine::Failover,
    host::HostError,
    k8s::{
        crd,
        fence::ElectionRef,
        k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
        kube::{
            Api, Client, ResourceExt as _,
            api::{ListParams, Patch, PatchParams},
        },
        operator::Operator,
    },
    node::{ClusterNode, ClusterNodeBuilder, Node, Stopped},
    operator,
    store::memory::MemoryStore,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{common::LONG, kube::ApiServer, support::eventually};

/// Starts an API server with the custom resources.
pub(crate) async fn server() -> ApiServer {
    let api = ApiServer::options().start().await;
    let crds = Api::<CustomResourceDefinition>::all(api.client());
    for definition in operator::definitions() {
        let apply = PatchParams::apply("bench").force();
        crds.patch(&definition.name_any(), &apply, &Patch::Apply(&definition)).await.unwrap();
    }
    let elections = Api::<crd::Election>::all(api.client());
    eventually("elections are served", LONG, async || {
        elections.list(&ListParams::default()).await.ok()
    })
    .await;
    api
}

/// A builder of a node that has no store yet.
pub(crate) fn node(id: i64) -> ClusterNodeBuilder {
    ClusterNode::builder()
        .cluster("bench")
        .id(id)
        .address(format!("10.0.0.{id}:8080"))
        .failover(Failover::STABLE)
}

pub(crate) struct Replica {
    pub(crate) node: Arc<dyn Node>,
    stop: CancellationToken,
    running: JoinHandle<Result<Stopped, HostError>>,
}

impl Replica {
    /// Starts a replica on a store in memory; returns when its node has joined.
    pub(crate) async fn start(
        store: &MemoryStore,
        client: Client,
        id: i64,
        work: impl FnOnce(Operator) -> Operator,
    ) -> Self {
        Self::start_as(node(id).memory(store), client, work).await
    }

    /// Starts a replica with this [`node`]; returns when the node has joined.
    pub(crate) async fn start_as(
        node: ClusterNodeBuilder,
        client: Client,
        work: impl FnOnce(Operator) -> Operator,
    ) -> Self {
        let election = ElectionRef { namespace: "default".into(), cluster: "bench".into() };
        let (operator, _) = work(Operator::new(node, client, election)).build().unwrap();
        let node = Arc::clone(operator.node());
        let stop = CancellationToken::new();
        let running =
            bellwether::tasks::spawn("replica", operator.run(stop.clone().cancelled_owned()));
        let mut membership = node.membership();
        // The replica lists 100,000 objects first.
        tokio::time::timeout(LONG * 5, membership.wait_for(|it| it.joined)).await.unwrap().unwrap();
        Self { node, stop, running }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(LONG, self.running).await.unwrap().unwrap().unwrap();
    }
}
