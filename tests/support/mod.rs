//! What tests of several areas share: real servers, a proxy for faults, waiting without sleeping.
//!
//! Include it from `tests/<area>/main.rs` with `#[path = "../support/mod.rs"] mod support;`. Each test
//! binary uses a part of it.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

pub mod etcd;
pub mod janitor;
pub mod pki;
pub mod proxy;
pub mod tools;

use std::{future::Future, time::Duration};

/// What `poll` yields at last. It is asked every 10 ms until it says `Some`.
///
/// # Panics
///
/// After `within`, naming what was waited for. It is a limit against hanging, not a bound to prove:
/// choose it generously.
#[track_caller]
pub fn eventually<T>(
    what: &str,
    within: Duration,
    mut poll: impl AsyncFnMut() -> Option<T>,
) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let polling = async {
            loop {
                if let Some(found) = poll().await {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let found = tokio::time::timeout(within, polling).await;
        found.unwrap_or_else(|_| panic!("{what}: not within {within:?} ({caller})"))
    }
}

/// Starts the log of a test binary, once; the level is taken from `RUST_LOG`. The output shows up with
/// `--nocapture` or when a test fails.
pub fn logs() {
    // A server that comes up refuses calls at first, each of which kube calls an error.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error,kube_client=off"));
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
}
