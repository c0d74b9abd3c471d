//! Helpers that tests of several areas share: real servers, a proxy for faults, waiting without sleeping.
//!
//! Include this file from `tests/<area>/main.rs` with `#[path = "../support/mod.rs"] mod support;`. Each test
//! binary uses a part of it.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

pub mod etcd;
pub mod eventually;
pub mod pki;
pub mod proxy;
pub mod tools;

pub(crate) use eventually::eventually;

/// Starts the log of a test binary, once, with the level from `RUST_LOG`. The output appears with `--nocapture`
/// or when a test fails.
pub fn logs() {
    // A starting server refuses calls at first, and kube logs each refusal as an error.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error,kube_client=off"));
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
}
