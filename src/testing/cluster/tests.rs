use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt as _;
use serde_json::{from_value, json};

use super::*;
use crate::{
    k8s::{
        cache::Scope,
        controller::{Action, Context, Controller, ReconcileError},
        fence::{ElectionRef, Fence},
    },
    testing::Fake,
};

/// Acts of all reconcilers, in their order: the object, and the fence of the leader that acted.
#[derive(Clone, Debug, Default)]
struct Ledger(Arc<Mutex<Vec<(String, Fence)>>>);

impl Ledger {
    fn acts(&self) -> Vec<(String, Fence)> {
        self.0.lock().unwrap().clone()
    }

    /// Waits for an act under a later fence, which only another leader has.
    async fn until_after(&self, fence: Fence) -> Fence {
        eventually("the next leader acts", WITHIN, async || {
            self.acts().into_iter().map(|(_, it)| it).find(|it| fence < *it)
        })
        .await
    }

    fn last(&self) -> Fence {
        self.acts().last().map_or(Fence::of(0), |(_, fence)| *fence)
    }
}

/// Acts on an object in several steps, each of them under authority.
async fn acts(map: Arc<ConfigMap>, ctx: Context, ledger: Ledger) -> Result<Action, ReconcileError> {
    for step in 0..5 {
        ctx.check()?;
        let fence = ctx.fence().ok_or_else(|| ReconcileError::new("no fence"))?;
        // Between the check and this line there is no await: a node is frozen before or after both.
        ledger.0.lock().unwrap().push((map.name_any(), fence));
        let state: ConfigMap = from_value(json!({
            "metadata": { "name": format!("{}-state", map.name_any()) },
            "data": { "step": step.to_string() },
        }))?;
        ctx.apply_owned(&*map, state).await?;
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    Ok(Action::requeue_after(Duration::from_millis(1)))
}

async fn cluster(fake: &Fake, ledger: &Ledger) -> Cluster {
    let (clients, ledger) = (fake.clone(), ledger.clone());
    Cluster::of(
        3,
        move || clients.client(),
        move |node, client| {
            let ledger = ledger.clone();
            let controller =
                Controller::<ConfigMap>::new(move |map: Arc<ConfigMap>, ctx: Context| {
                    acts(map, ctx, ledger.clone())
                });
            let controller = controller.scope(Scope::all().labels("watched=yes")).at_once(2);
            let controller = controller.owns::<ConfigMap>();
            let election = ElectionRef { namespace: "shop".into(), cluster: "test".into() };
            Operator::new(node, client, election).controller(controller)
        },
    )
    .await
}

fn fake() -> Fake {
    let map = |name: &str| {
        let meta = json!({ "name": name, "namespace": "shop", "labels": { "watched": "yes" } });
        from_value::<ConfigMap>(json!({ "metadata": meta })).unwrap()
    };
    Fake::new().with([map("a"), map("b")])
}

/// # Panics
///
/// If a former leader acted on an object after a later one.
fn assert_in_order(acts: &[(String, Fence)], leaders: usize) {
    let mut newest = BTreeMap::new();
    for (at, (object, fence)) in acts.iter().enumerate() {
        let before = newest.insert(object, *fence).unwrap_or(*fence);
        assert!(before <= *fence, "act {at} on {object} under {fence} came after {before}");
    }
    let fences: std::collections::BTreeSet<_> = acts.iter().map(|(_, fence)| *fence).collect();
    assert!(leaders <= fences.len(), "{fences:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_two_leaders_act_on_an_object_across_kill_freeze_and_cut() {
    let (fake, ledger) = (fake(), Ledger::default());
    let mut cluster = cluster(&fake, &ledger).await;
    let mut fence = ledger.until_after(Fence::of(0)).await;

    let killed = cluster.kill_leader().await;
    fence = ledger.until_after(fence).await;
    let second = cluster.leader().await;
    assert_ne!(second, killed);

    let frozen = cluster.freeze_leader().await;
    fence = ledger.until_after(fence).await;
    assert_ne!(cluster.leader().await, frozen);
    cluster.thaw(frozen);
    cluster.start(killed).await;

    let cut = cluster.leader().await;
    cluster.cut(cut);
    ledger.until_after(fence).await;
    cluster.heal(cut);
    let last = ledger.last();
    let count = ledger.acts().len();
    eventually("work goes on", WITHIN, async || (count + 20 < ledger.acts().len()).then_some(()))
        .await;
    assert!(last <= ledger.last());
    cluster.stop().await;
    assert_in_order(&ledger.acts(), 4);
    // The last write of an object is that of the last leader, or of the one before, which wrote the same.
    let state = fake.get::<ConfigMap>("shop", "a-state").unwrap();
    assert!(Fence::read(&state) <= Some(ledger.last()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_node_runs_nothing_until_it_is_thawed() {
    let (fake, ledger) = (fake(), Ledger::default());
    let cluster = cluster(&fake, &ledger).await;
    let fence = ledger.until_after(Fence::of(0)).await;
    for id in 0..3 {
        cluster.freeze(id).await;
    }
    let before = ledger.acts().len();
    // Longer than an authority lasts: a node that ran would act, or lose its office.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(ledger.acts().len(), before);
    for id in 0..3 {
        cluster.thaw(id);
    }
    ledger.until_after(fence).await;
    cluster.stop().await;
    assert_in_order(&ledger.acts(), 2);
}
