//! The reference operator: work that shows what a cluster can carry, and is useful by itself.

pub mod monitoring;
pub mod uptime;

use kube::CustomResourceExt as _;

use crate::k8s::crd::{self, CustomResourceDefinition};

/// The definitions of the reference operator's resources, by name.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    // In this order by name: `elections…`, `uptimechecks…`.
    vec![crd::election(), crd::tidied(uptime::crd::UptimeCheck::crd())]
}
