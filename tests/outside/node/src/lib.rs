//! A program that uses node and store alone, without Kubernetes and without HTTP.

use std::sync::Arc;

use bellwether::{
    node::{ClusterNode, ClusterNodeBuilder, LeaderContext},
    store::memory::MemoryStore,
};

/// A node of the cluster `shop` that does `work` at every tick while it leads.
pub fn node(
    id: i64,
    store: &MemoryStore,
    work: impl Fn() + Send + Sync + 'static,
) -> ClusterNodeBuilder {
    ClusterNode::builder()
        .cluster("shop")
        .id(id)
        .address(format!("node-{id}"))
        .store(Arc::new(store.clone()))
        .on_leader_tick(move |_: LeaderContext| {
            work();
            async { Ok(()) }
        })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bellwether::node::{Node as _, Role};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test(flavor = "multi_thread")]
    async fn the_second_node_leads_once_the_first_has_left() {
        let store = MemoryStore::new();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let mut nodes = Vec::new();
        for id in 1..=2 {
            let tell = tell.clone();
            let node = node(id, &store, move || {
                let _ = tell.send(id);
            })
            .build()
            .unwrap();
            node.start().await.unwrap();
            nodes.push(node);
        }
        assert_eq!(told.recv().await, Some(1));
        nodes[0].stop(LONG).await.unwrap();
        let mut second = nodes[1].membership();
        let leads = second.wait_for(|it| it.role == Role::Leader);
        tokio::time::timeout(LONG, leads).await.unwrap().unwrap();
        while told.recv().await != Some(2) {}
        for node in nodes {
            node.close().await.unwrap();
        }
    }
}
