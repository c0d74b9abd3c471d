//! The two kinds of nodes: the same core, each over another store.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::watch;

use super::{
    Claimed, CloseError, ClusterNodeBuilder, KV, Membership, Node, NodeError, NodeOptions,
    StandaloneNodeBuilder, StartError, StateError, StateWatch, Stopped, WatchFrom,
    core::{Core, Owner},
    status::{Status, Vitals},
};
use crate::engine::{NodeId, NodeMetadata, Revision};

/// A node of a cluster that is kept in a shared store. Cheap to clone; when the last clone is dropped,
/// the node leaves in the background.
#[derive(Clone, Debug)]
pub struct ClusterNode {
    owner: Arc<Owner>,
}

impl ClusterNode {
    /// Builder with the default options.
    pub fn builder() -> ClusterNodeBuilder {
        ClusterNodeBuilder::new()
    }

    pub(crate) fn from_options(options: NodeOptions) -> Self {
        Self { owner: Arc::new(Owner(Core::new(options))) }
    }

    #[cfg(test)]
    pub(crate) fn core(&self) -> &Core {
        &self.owner.0
    }
}

/// A node that is a cluster of its own, in a memory store: it runs the leader's and the follower's
/// work itself. Cheap to clone; when the last clone is dropped, the node leaves in the background.
#[derive(Clone, Debug)]
pub struct StandaloneNode {
    owner: Arc<Owner>,
}

impl StandaloneNode {
    /// Builder with the default options.
    pub fn builder() -> StandaloneNodeBuilder {
        StandaloneNodeBuilder::new()
    }

    pub(crate) fn from_options(options: NodeOptions) -> Self {
        Self { owner: Arc::new(Owner(Core::new(options))) }
    }
}

/// Implements [`Node`] by delegation to the core; see the trait for the guarantees.
macro_rules! node_by_core {
    ($kind:ty) => {
        #[async_trait]
        impl Node for $kind {
            fn id(&self) -> NodeId {
                self.owner.0.id()
            }

            fn cluster(&self) -> &str {
                self.owner.0.cluster()
            }

            async fn start(&self) -> Result<(), StartError> {
                self.owner.0.start().await
            }

            async fn stop(&self, deadline: Duration) -> Result<Stopped, NodeError> {
                self.owner.0.stop(deadline).await
            }

            async fn close(&self) -> Result<(), CloseError> {
                self.owner.0.close().await
            }

            async fn put(&self, key: &str, value: &[u8]) -> Result<Revision, StateError> {
                self.owner.0.put(key, value).await
            }

            async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StateError> {
                self.owner.0.get(key).await
            }

            async fn get_as_node(
                &self,
                node: NodeId,
                key: &str,
            ) -> Result<Option<Vec<u8>>, StateError> {
                self.owner.0.get_as_node(node, key).await
            }

            async fn delete(&self, key: &str) -> Result<bool, StateError> {
                self.owner.0.delete(key).await
            }

            async fn get_cluster(
                &self,
                prefix: &str,
            ) -> Result<BTreeMap<NodeId, Vec<KV>>, StateError> {
                self.owner.0.get_cluster(prefix).await
            }

            async fn watch_key_cluster(
                &self,
                key: &str,
                from: WatchFrom,
            ) -> Result<StateWatch, StateError> {
                self.owner.0.watch_key_cluster(key, from).await
            }

            async fn get_nodes(&self) -> Result<Vec<NodeMetadata>, StateError> {
                self.owner.0.get_nodes().await
            }

            async fn get_leader(&self) -> Result<Option<NodeId>, StateError> {
                self.owner.0.get_leader().await
            }

            fn get_self_metadata(&self) -> NodeMetadata {
                self.owner.0.get_self_metadata()
            }

            async fn get_node_metadata(
                &self,
                node: NodeId,
            ) -> Result<Option<NodeMetadata>, StateError> {
                self.owner.0.get_node_metadata(node).await
            }

            async fn claim(&self, name: &str) -> Result<Claimed, StateError> {
                self.owner.0.claim(name).await
            }

            fn membership(&self) -> watch::Receiver<Membership> {
                self.owner.0.membership()
            }

            async fn status(&self) -> Result<Status, NodeError> {
                self.owner.0.status().await
            }

            async fn vitals(&self) -> Result<Vitals, NodeError> {
                self.owner.0.vitals().await
            }

            async fn resign(&self) -> Result<(), NodeError> {
                self.owner.0.resign().await
            }

            async fn drain(&self, draining: bool) -> Result<(), NodeError> {
                self.owner.0.drain(draining).await
            }
        }
    };
}

node_by_core!(ClusterNode);
node_by_core!(StandaloneNode);
