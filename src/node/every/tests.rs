use tokio::sync::mpsc;

use super::*;
use crate::{
    eventually::eventually,
    node::{ClusterNode, Node as _},
    tasks::Tasks,
};

/// Leader task that sends its context to the test.
struct Lends(mpsc::Sender<LeaderContext>);

#[async_trait]
impl LeaderTask for Lends {
    fn name(&self) -> &'static str {
        "lends"
    }

    async fn run(&self, ctx: LeaderContext) -> Result<(), WorkError> {
        let _ = self.0.send(ctx.clone()).await;
        ctx.cancelled().await;
        Ok(())
    }
}

#[tokio::test]
async fn a_period_counts_from_now_on_if_the_last_run_was_noted_by_a_clock_that_was_ahead() {
    let (lends, mut lent) = mpsc::channel(1);
    let node = ClusterNode::standalone().cluster("test").id(1).leader_task(Lends(lends));
    let node = node.build().unwrap();
    node.start().await.unwrap();
    let ctx = lent.recv().await.unwrap();
    let key = ctx.env().keys.last_run("nightly").unwrap();
    let hour = Duration::from_secs(3600);
    let wrong = clock::unix_ms() + 48 * millis(hour);
    enter(&ctx, &key, Revision(0), wrong).await.unwrap();
    let job = every("nightly", hour, |_: LeaderContext| async { Ok(()) });
    let (mut tasks, of) = (Tasks::new(), ctx.clone());
    tasks.spawn("nightly", async move { job.run(of).await.unwrap() });
    // Also for the leaders after this one.
    eventually("the store says so", Duration::from_secs(30), async || {
        let (last, _) = last_run(&ctx, &key).await.unwrap();
        last.filter(|last| *last <= clock::unix_ms())
    })
    .await;
    tasks.abort_all().await;
    node.close().await.unwrap();
}
