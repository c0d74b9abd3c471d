//! Work of a node in this process: alone or in Kubernetes, with checks from a folder or from the API.

use std::sync::Arc;

use bellwether::{
    k8s::operator::Begun,
    node::{ClusterNodeBuilder, Node},
    operator::uptime::{self, Uptime},
    tasks::Tasks,
    telemetry::NodeSource,
};
use prometheus::Registry;

use super::{RunArgs, wrong_node};
use crate::cli::{
    exit::{Exit, Failure},
    serve::work::{self, Manifests},
};

/// Work of a node in this process, and the tasks that run beside it.
pub(super) struct Work {
    pub(super) node: Arc<dyn Node>,
    pub(super) uptime: Option<Uptime>,
    /// Started caches and controllers, in Kubernetes.
    pub(super) begun: Option<Begun>,
    /// Tasks that run for as long as the node lives.
    pub(super) beside: Tasks,
    pub(super) _manifests: Option<Manifests>,
}

impl Work {
    /// Creates the node with checks from a folder, if one is given.
    pub(super) async fn of_folder(
        args: &RunArgs,
        mut builder: ClusterNodeBuilder,
        registry: &Registry,
    ) -> Result<Self, Failure> {
        let mut manifests = match &args.work.checks {
            Some(folder) => Some(Manifests::of(folder).await?),
            None => None,
        };
        let uptime = match &manifests {
            Some(it) => {
                Some(it.work(registry, args.work.status_file.clone(), args.work.prober())?)
            }
            None => None,
        };
        if let Some(uptime) = &uptime {
            let worker = uptime::worker_options(uptime);
            builder = builder.worker(worker).leader_task(uptime.leader_task());
        }
        let node: Arc<dyn Node> = Arc::new(builder.build().map_err(|error| wrong_node(&error))?);
        let reading = manifests.as_mut().map(|it| std::mem::take(&mut it.reading));
        let mut beside = reading.unwrap_or_default();
        if let Some(uptime) = &uptime {
            work::follow(uptime, Arc::clone(&node), &mut beside);
        }
        Ok(Self { node, uptime, begun: None, beside, _manifests: manifests })
    }

    /// Source of the status server's data.
    pub(super) fn source(&self) -> NodeSource {
        let source = match &self.begun {
            Some(begun) => begun.source(),
            None => NodeSource::new(Arc::clone(&self.node)),
        };
        match self.uptime.clone() {
            Some(uptime) => source.with(move |status| work::show(&uptime, status)),
            None => source,
        }
    }

    /// Runs the node's life, until it ends or a task beside it ends unexpectedly.
    pub(super) async fn live(
        &mut self,
        life: impl Future<Output = Result<(), Failure>>,
    ) -> Result<(), Failure> {
        let Self { begun, beside, .. } = self;
        let life = async {
            match begun {
                Some(begun) => begun.live(life).await,
                None => life.await,
            }
        };
        tokio::select! {
            biased;
            // Cancel safe: an ended task that was not taken is returned by the next call.
            Some(ended) = beside.join_next() => Err(Failure::new(Exit::Failed, ended.to_string())),
            // Dropped only together with this future.
            ended = life => ended,
        }
    }

    pub(super) async fn end(self) {
        if let Some(begun) = self.begun {
            begun.end().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use bellwether::node::ClusterNode;

    use super::*;

    #[tokio::test]
    async fn a_task_that_fails_beside_the_node_ends_its_life_and_is_told() {
        let node = ClusterNode::standalone().id(1).build().unwrap();
        let mut beside = Tasks::new();
        beside.spawn("fails", async { panic!("on purpose") });
        let mut work =
            Work { node: Arc::new(node), uptime: None, begun: None, beside, _manifests: None };
        let ended = work.live(std::future::pending()).await.unwrap_err();
        assert!(ended.what.contains("on purpose"), "{}", ended.what);
    }
}
