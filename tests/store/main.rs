//! The stores against real etcd servers.

#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap as the tests do")]

#[path = "../support/mod.rs"]
mod support;

mod differential;
mod etcd;
mod servers;
mod views;
