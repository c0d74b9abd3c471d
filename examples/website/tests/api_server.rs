//! The operator against a real API server. The programs of the server are those of `KUBEBUILDER_ASSETS`:
//! `make test` fetches them.

use bellwether::{
    app::App,
    k8s::{
        cache::Scope,
        crd,
        k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap},
        kube::api::{DeleteParams, PostParams},
        prelude::*,
    },
    testing::{Cluster, Environment, gone, until},
};
use website_operator::website::{Website, WebsiteSpec};

fn app() -> App {
    App::new("website-operator", env!("CARGO_PKG_VERSION"))
        .crds(website_operator::definitions())
        .operator(|operator, _| website_operator::operator(operator))
}

/// A site comes up, is repaired and is cleaned up by operators that have the computed rights and no more, while
/// the leader dies.
#[tokio::test(flavor = "multi_thread")]
async fn sites_live_under_the_computed_roles() {
    let api = Environment::start().await.expect("the servers of KUBEBUILDER_ASSETS start");
    api.install(&app().definitions()).await.expect("the definitions are valid");
    let space = api.namespace("shop").await.expect("a namespace");
    let rules = app().rules();
    assert_eq!(rules.cluster, [], "the operator needs no rights outside of its namespace");
    let rights = [rules.watched, rules.home].concat();
    let user = space.user("operator", rights).await.expect("a user");
    let (config, namespace) = (user.clone(), space.name.clone());
    let mut cluster = Cluster::of(
        2,
        move || config.client(),
        move |node, client| {
            let election =
                ElectionRef { namespace: namespace.clone(), cluster: "website-operator".into() };
            let operator = Operator::new(node.cluster("website-operator"), client, election);
            website_operator::operator(operator.scope(Scope::namespace(namespace.clone())))
        },
    )
    .await;

    let sites = Api::<Website>::default_namespaced(space.client());
    let pods = Api::<Deployment>::default_namespaced(space.client());
    let pages = Api::<ConfigMap>::default_namespaced(space.client());
    let spec = WebsiteSpec { html: "<h1>hello</h1>".to_owned(), replicas: 2 };
    let site = Website::new("home", spec);
    sites.create(&PostParams::default(), &site).await.expect("the site is valid");
    until(&pods, "home", |pods| pods.spec.replicas == Some(2)).await;

    cluster.kill_leader().await;
    pages.delete("home", &DeleteParams::default()).await.expect("the page exists");
    until(&pages, "home", |it| it.data.as_ref().is_some_and(|it| it.contains_key("index.html")))
        .await;

    sites.delete("home", &DeleteParams::default()).await.expect("the site exists");
    gone(&sites, "home").await;
    cluster.stop().await;
}

#[test]
fn the_definitions_include_the_election() {
    let names: Vec<_> = app().definitions().into_iter().map(|it| it.spec.names.kind).collect();
    assert!(names.contains(&crd::election().spec.names.kind), "{names:?}");
}
