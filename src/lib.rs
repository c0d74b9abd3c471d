//! Highly available Kubernetes controllers: fenced leader election over etcd, shard work on the
//! followers.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "bellwether runs on Linux only: it reads CLOCK_BOOTTIME, /proc and abstract sockets. Build for a Linux \
     target, or in a container."
);

pub mod clock;
pub mod engine;
mod hash;
pub mod k8s;
pub mod node;
pub mod operator;
pub mod signals;
pub mod store;
pub mod tasks;
pub mod telemetry;
pub mod tls;

/// Waiting without sleeping, as in the tests under `tests/`.
#[cfg(test)]
#[path = "../tests/support/eventually.rs"]
pub(crate) mod eventually;

/// The code in these files is compiled as that in doc comments is.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/reconcilers.md")]
    struct Reconcilers;
    #[doc = include_str!("../docs/sharding.md")]
    struct Sharding;
    #[doc = include_str!("../docs/testing.md")]
    struct Testing;
}
