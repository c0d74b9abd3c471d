//! Waiting without sleeping. The library's own tests include this file too.

use std::{future::Future, time::Duration};

/// Calls `poll` every 10 ms until it returns `Some`, and returns that value.
///
/// # Panics
///
/// Panics after `within`, and names the condition. `within` is a limit against hanging, not a bound to prove:
/// choose it generously.
#[track_caller]
pub(crate) fn eventually<T>(
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
