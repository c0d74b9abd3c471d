//! Names that an operator's source uses often: `use bellwether::k8s::prelude::*`.

#[doc(no_inline)]
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
#[doc(no_inline)]
pub use kube::{Api, Client, CustomResource, CustomResourceExt, Resource, ResourceExt};
#[doc(no_inline)]
pub use schemars::JsonSchema;

#[doc(no_inline)]
pub use super::{
    ObjectKey,
    cache::Scope,
    client::{ClientMetrics, ClientOptions, connect},
    conditions::{self, Holds},
    controller::{Action, Context, Controller, ReconcileError, Reconciler, Sharded},
    crd,
    events::EventType,
    fence::ElectionRef,
    finalizer::Finalize,
    identity::PodIdentity,
    k8s_openapi, kube,
    operator::Operator,
    schemars,
    writes::WriteError,
};
#[doc(no_inline)]
pub use crate::host::Host;
