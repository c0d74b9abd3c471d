//! Work on shards: on the followers, each object on exactly one node.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bellwether::{
    engine::Role,
    k8s::{
        cache::Scope,
        controller::{Action, Context, Controller, Sharded},
        k8s_openapi::api::core::v1::ConfigMap,
    },
};

use super::replicas::{Cluster, Ledger, SOON};
use crate::support::eventually;

fn sharded(cluster: &Cluster<'_>, ledger: &Ledger, node: i64) -> Sharded<ConfigMap> {
    let ledger = ledger.clone();
    let controller = Controller::new(move |map: Arc<ConfigMap>, ctx: Context| {
        let open = ledger.begin(node, &map);
        async move {
            let _ =
                ctx.token().run_until_cancelled(tokio::time::sleep(Duration::from_millis(5))).await;
            drop(open);
            Ok(Action::requeue_after(Duration::from_millis(20)))
        }
    })
    .named("spread")
    .scope(Scope::namespace(cluster.space.name.clone()).labels("reconciled=yes"))
    .at_once(8);
    Sharded::new(controller).shards(16)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_object_is_worked_on_by_one_follower_also_while_shards_move() {
    let cluster = Cluster::new("spread").await;
    let ledger = Ledger::default();
    let names: BTreeSet<String> = (0..24).map(|number| format!("map-{number}")).collect();
    for name in &names {
        cluster.make(name).await;
    }
    let leader = cluster.replica(0, |it| it.shards(sharded(&cluster, &ledger, 0))).await;
    leader.is(Role::Leader).await;
    let all_by = async |nodes: &[i64], from: usize| {
        eventually("all are worked on, by these", SOON, async || {
            let runs = ledger.runs().split_off(from);
            let done: BTreeSet<String> = runs.iter().map(|run| run.object.clone()).collect();
            let by: BTreeSet<i64> = runs.iter().map(|run| run.node).collect();
            (done == names && by == nodes.iter().copied().collect()).then_some(())
        })
        .await;
    };
    // Without followers, the leader reconciles all objects.
    all_by(&[0], 0).await;
    let second = cluster.replica(1, |it| it.shards(sharded(&cluster, &ledger, 1))).await;
    let third = cluster.replica(2, |it| it.shards(sharded(&cluster, &ledger, 2))).await;
    let settled = async |works: &[i64]| {
        eventually("the shards have moved", SOON, async || {
            let from = ledger.count();
            tokio::time::sleep(Duration::from_millis(300)).await;
            let runs = ledger.runs().split_off(from);
            let by: BTreeSet<i64> = runs.iter().map(|run| run.node).collect();
            (by == works.iter().copied().collect()).then_some(())
        })
        .await;
    };
    settled(&[1, 2]).await;
    all_by(&[1, 2], ledger.count()).await;
    // The owner of the object's shard receives the change.
    cluster.change("map-7", "changed").await;
    ledger.until_value("map-7", "changed").await;
    second.stop().await;
    settled(&[2]).await;
    all_by(&[2], ledger.count()).await;
    ledger.assert_no_overlap();
    third.stop().await;
    leader.stop().await;
}
