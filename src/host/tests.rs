use super::*;
use crate::{
    node::ClusterNode,
    store::memory::{MemoryStore, Seen},
};

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_whose_nodes_driver_fails_ends_at_once_and_says_so() {
    for joins in [true, false] {
        let store = MemoryStore::new();
        let node = ClusterNode::builder().id(1).cluster("C").store(Arc::new(store.clone()));
        let host = Host::new(node);
        // A node whose program waits, say for its caches, has not started to join.
        let host = host.before_joining(move |_| async move {
            if joins { Ok(()) } else { std::future::pending().await }
        });
        let host = host.stop_within(LONG).build().unwrap();
        let node = Arc::clone(host.node());
        let life = host.run(std::future::pending());
        let breaking = async {
            if joins {
                node.membership().wait_for(|it| it.joined).await.unwrap();
            }
            store.faults().break_on(|seen| matches!(seen, Seen::Health));
            assert!(node.status().await.is_err());
        };
        let both = async { tokio::join!(life, breaking).0 };
        let ended = tokio::time::timeout(LONG, both).await.expect("it ends");
        assert!(matches!(ended, Err(HostError::Node(NodeError::Broken))), "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_fails_beside_the_node_ends_its_life_and_is_told() {
    let host = Host::new(ClusterNode::standalone().id(1));
    let host = host.task("fails", |_| async { panic!("on purpose") });
    let ended = host.run(std::future::pending()).await;
    assert!(matches!(&ended, Err(HostError::Task(it)) if it.contains("on purpose")), "{ended:?}");
}
