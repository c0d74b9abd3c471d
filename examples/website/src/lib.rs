//! Operator for the kind [`Website`]: a reconciler on the elected leader, and checks on the followers.

pub mod checks;
pub mod website;

use bellwether::k8s::{
    k8s_openapi::api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Service},
    },
    prelude::*,
};

pub use self::website::{Website, WebsiteSpec, WebsiteStatus};

/// Adds the controllers to an operator. What they declare here becomes the operator's roles.
pub fn operator(operator: Operator) -> Operator {
    let sites = Controller::<Website>::new(website::reconcile)
        .owns::<ConfigMap>()
        .owns::<Deployment>()
        .owns::<Service>()
        .writes_status()
        .finalizes()
        .publishes_events()
        .at_once(4);
    let checks = Controller::<Website>::new(checks::check)
        .named("website-checks")
        .publishes_events()
        .at_once(16);
    operator.controller(sites).shards(Sharded::new(checks))
}
