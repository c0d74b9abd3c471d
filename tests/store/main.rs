//! The stores against real etcd servers.

#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap as the tests do")]

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code, unreachable_pub, reason = "shared with other test binaries")]
#[path = "../support/kube.rs"]
mod kube;

mod differential;
mod etcd;
mod servers;
mod views;
