//! Reference operator: its work shows how much a cluster can carry, and is useful by itself.

pub mod uptime;

use crate::k8s::{
    crd::{self, CustomResourceDefinition},
    prelude::CustomResourceExt as _,
};

/// Custom resource definitions of the reference operator, sorted by name.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    // Sorted by name: `elections…`, `uptimechecks…`.
    vec![crd::election(), crd::tidied(uptime::crd::UptimeCheck::crd())]
}
