use std::sync::Arc;

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Namespace, Secret},
};

use super::*;
use crate::k8s::{
    ObjectKey,
    controller::{Action, Context, Controller, ReconcileError, Sharded},
    operator::Operator,
};

async fn reconcile<K>(_: Arc<K>, _: Context) -> Result<Action, ReconcileError> {
    Ok(Action::done())
}

/// Rules as `group/resource,…: verbs`, a line each.
fn lines(rules: &[PolicyRule]) -> Vec<String> {
    let line = |rule: &PolicyRule| {
        let groups = rule.api_groups.clone().unwrap_or_default().join(",");
        let resources = rule.resources.clone().unwrap_or_default().join(",");
        format!("{groups}/{resources}: {}", rule.verbs.join(","))
    };
    rules.iter().map(line).collect()
}

fn operator() -> Operator {
    Operator::unconnected("shop")
}

#[tokio::test]
async fn rules_follow_from_what_the_controllers_declare() {
    let deployments = Controller::<Deployment>::new(reconcile)
        .owns::<ConfigMap>()
        .watches::<Secret>(|_| Vec::<ObjectKey>::new())
        .writes_status()
        .finalizes()
        .publishes_events();
    let rules = operator().controller(deployments).rules();
    assert_eq!(
        lines(&rules.watched),
        [
            "/configmaps: create,list,patch,watch",
            "/secrets: list,watch",
            "apps/deployments: list,patch,watch",
            "apps/deployments/status: patch",
            "apps/deployments/finalizers: update",
            "events.k8s.io/events: create,patch",
        ]
    );
    assert_eq!(lines(&rules.cluster), Vec::<String>::new());
}

#[tokio::test]
async fn a_controller_that_declares_nothing_may_only_read() {
    let sharded = Sharded::new(Controller::<ConfigMap>::new(reconcile));
    let rules = operator().shards(sharded).rules();
    assert_eq!(lines(&rules.watched), ["/configmaps: list,watch"]);
}

#[tokio::test]
async fn kinds_without_a_namespace_and_scopes_of_their_own_reach_the_cluster() {
    let namespaces = Controller::<Namespace>::new(reconcile).publishes_events();
    let all = Controller::<Secret>::new(reconcile).scope(Scope::all());
    let rules = operator().controller(namespaces).controller(all).rules();
    assert_eq!(lines(&rules.watched), Vec::<String>::new());
    assert_eq!(
        lines(&rules.cluster),
        ["/namespaces,secrets: list,watch", "events.k8s.io/events: create,patch"]
    );
}

#[tokio::test]
async fn needs_are_added_to_what_a_controller_declares() {
    let controller = Controller::<ConfigMap>::new(reconcile)
        .needs::<Secret>(&["get"])
        .needs_subresource::<Deployment>("scale", &["patch"]);
    let rules = operator().controller(controller).needs::<Secret>(&["delete"]).rules();
    assert_eq!(
        lines(&rules.watched),
        ["/secrets: delete,get", "/configmaps: list,watch", "apps/deployments/scale: patch",]
    );
}

#[tokio::test]
async fn manifests_name_the_cluster_and_put_the_rules_in_their_places() {
    let operator = operator().controller(Controller::<ConfigMap>::new(reconcile));
    let rules = operator.rules();
    let own = rules.manifests("shop", "market", Reach::OwnNamespace);
    assert!(!own.contains("ClusterRole"), "{own}");
    assert!(own.contains("configmaps") && !own.contains(CLUSTER), "{own}");
    let wide = rules.manifests("shop", "market", Reach::AllNamespaces);
    let (role, cluster_role) = wide.split_once("kind: ClusterRole\n").expect("a cluster role");
    assert!(cluster_role.contains("configmaps") && !role.contains("configmaps"), "{wide}");
    assert!(cluster_role.contains("market-shop"), "{wide}");
    assert!(rules.yaml().contains(CLUSTER));
}
