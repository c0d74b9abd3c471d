//! Kubernetes: who this pod is, the custom resources, and controllers whose reconcile loops run only
//! where they may.
//!
//! The only layer that names `kube`. It hands the crates on, so that an operator written with it uses
//! the same versions: [`kube`], [`k8s_openapi`], [`schemars`].

pub mod queue;

pub use {k8s_openapi, kube, schemars};
