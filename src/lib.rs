//! Highly available Kubernetes controllers: fenced leader election over the Kubernetes API or etcd, shard work
//! on the followers.
//!
//! The crate runs on Linux only: it reads `CLOCK_BOOTTIME`, `/proc` and abstract sockets.
//!
//! # Features
//!
//! | feature | what it adds |
//! | --- | --- |
//! | none of them | nodes: the election, shards and state of nodes, on etcd or in memory, with logs and metrics |
//! | `status` | [`host::Host`](host): a program with a node, and its status page, probes and `/metrics` over HTTP |
//! | `kubernetes`, the default | the store over the Kubernetes API; operators: controllers, caches, fenced writes, the object `Election`; with `status` |
//! | `testing` | [`testing`]: a fake API and contexts for unit tests, an API server for tests, clusters in one process |
//! | `p521` | TLS certificates and keys on the curve P-521 |
//! | `app` | [`app::App`](app): the program of an operator, with settings and a command line; with `kubernetes` |
//! | `uptime` | the reference work: uptime checks; with `kubernetes` and `p521` |
//! | `cli` | the command `bellwether`, with everything; it chooses the newest version of the Kubernetes API |

// Only the larger features use some of the shared code. A build with all features finds dead code.
#![cfg_attr(not(feature = "cli"), allow(dead_code, unused_imports))]

#[cfg(not(target_os = "linux"))]
compile_error!(
    "bellwether runs on Linux only: it reads CLOCK_BOOTTIME, /proc and abstract sockets. Build for a Linux \
     target, or in a container."
);

#[cfg(feature = "app")]
pub mod app;
mod causes;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod clock;
#[doc(hidden)]
pub mod engine;
#[doc(hidden)]
pub mod hash;
#[cfg(feature = "status")]
pub mod host;
#[cfg(feature = "kubernetes")]
pub mod k8s;
mod metrics;
pub mod node;
#[cfg(feature = "uptime")]
#[doc(hidden)]
pub mod operator;
pub mod signals;
pub mod store;
#[doc(hidden)]
pub mod tasks;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tls;

/// Waiting without sleeping, as in the tests under `tests/`.
#[cfg(test)]
pub(crate) mod eventually {
    pub(crate) use crate::testing::eventually;
}

/// Compiles the code in these files, like the code in doc comments.
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
