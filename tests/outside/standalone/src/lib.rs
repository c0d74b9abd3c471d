//! A program that runs the work of a leader alone, without any store.

use bellwether::node::{LeaderContext, StandaloneNode};

/// A node that always leads and does `work` at every tick.
pub fn node(work: impl Fn() + Send + Sync + 'static) -> StandaloneNode {
    let builder = StandaloneNode::standalone().id(0).cluster("shop");
    let builder = builder.on_leader_tick(move |_: LeaderContext| {
        work();
        async { Ok(()) }
    });
    builder.build().expect("the options are complete")
}

#[cfg(test)]
mod tests {
    use bellwether::node::Node as _;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn it_leads_at_once() {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let node = node(move || {
            let _ = tell.send(());
        });
        node.start().await.unwrap();
        for _ in 0..3 {
            told.recv().await.unwrap();
        }
        node.close().await.unwrap();
    }
}
