//! Kubernetes: who this pod is, the custom resources, and controllers whose reconcile loops run only
//! where they may.
//!
//! The only layer that names `kube`. It hands the crates on, so that an operator written with it uses
//! the same versions: [`kube`], [`k8s_openapi`], [`schemars`]. The version of the Kubernetes API is the program's choice: it
//! enables one feature of `k8s-openapi` (`v1_34`, or `latest`), and the library's feature `cli`, which does so too, is off.

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
pub mod metrics;
pub mod operator;
mod owners;
pub mod prelude;
pub mod queue;
pub mod shard;
mod signals;
pub mod writes;

pub use {k8s_openapi, kube, schemars};

pub use self::key::ObjectKey;
