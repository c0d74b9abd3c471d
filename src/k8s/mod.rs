//! Kubernetes: the identity of this pod, the custom resources, and controllers whose reconcile loops run only
//! under authority.
//!
//! No other layer uses `kube`. This layer re-exports the crates, so that an operator uses the same versions:
//! [`kube`], [`k8s_openapi`], [`schemars`]. The program chooses the version of the Kubernetes API: it enables
//! one feature of `k8s-openapi` (`v1_34`, or `latest`). The library's feature `cli` enables one too, so it
//! must be off then.

pub mod authority;
pub mod cache;
pub mod client;
pub mod conditions;
pub mod controller;
pub mod crd;
pub mod election;
pub mod events;
pub mod explain;
pub mod fence;
pub mod finalizer;
pub mod identity;
pub mod key;
pub mod operator;
mod owners;
pub mod prelude;
#[doc(hidden)]
pub mod queue;
pub mod rbac;
#[doc(hidden)]
pub mod shard;
pub mod store;
pub mod writes;

pub use {k8s_openapi, kube, schemars};

pub use self::key::ObjectKey;
