//! Waiting for what must become true, with a deadline and without a sleep of a guessed length.

use std::{fmt::Debug, future::Future, panic::Location, time::Duration};

use kube::{Api, Resource};
use serde::de::DeserializeOwned;

/// How long [`until`] and [`gone`] wait: a limit against hanging on a busy machine.
pub const WITHIN: Duration = Duration::from_secs(60);

/// Time between two polls.
const POLLED_EVERY: Duration = Duration::from_millis(10);

/// Calls `poll` every 10 ms until it returns `Some`, and returns that value.
///
/// # Panics
///
/// Panics after `within`, and names the condition. `within` is a limit against hanging, not a bound to prove:
/// choose it generously.
#[track_caller]
pub fn eventually<T>(
    what: &str,
    within: Duration,
    poll: impl AsyncFnMut() -> Option<T>,
) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        let found = polled(within, poll).await;
        found.unwrap_or_else(|| panic!("{what}: not within {within:?} ({caller})"))
    }
}

/// Waits until an object of this name exists and `holds`, and returns it.
///
/// ```no_run
/// # use bellwether::k8s::{k8s_openapi::api::apps::v1::Deployment, prelude::*};
/// use bellwether::testing::until;
///
/// # async fn example(client: Client) {
/// let pods = Api::<Deployment>::namespaced(client, "shop");
/// let web = until(&pods, "web", |pods| pods.spec.replicas == Some(3)).await;
/// # }
/// ```
///
/// # Panics
///
/// Panics after [`WITHIN`], and shows the last state of the object, or the last error.
#[track_caller]
pub fn until<K>(api: &Api<K>, name: &str, holds: impl Fn(&K) -> bool) -> impl Future<Output = K>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let caller = Location::caller();
    async move {
        let mut last = "it was never asked for".to_owned();
        let found = polled(WITHIN, async || match api.get_opt(name).await {
            Ok(Some(object)) if holds(&object) => Some(object),
            Ok(Some(object)) => {
                last = format!("its last state: {object:#?}");
                None
            }
            Ok(None) => {
                "it does not exist".clone_into(&mut last);
                None
            }
            Err(error) => {
                last = format!("it could not be read: {error}");
                None
            }
        })
        .await;
        let path = format!("{}/{name}", api.resource_url());
        found.unwrap_or_else(|| {
            panic!("{path} is not as expected within {WITHIN:?} ({caller}); {last}")
        })
    }
}

/// Waits until no object of this name exists.
///
/// # Panics
///
/// Panics after [`WITHIN`], and shows the last state of the object.
#[track_caller]
pub fn gone<K>(api: &Api<K>, name: &str) -> impl Future<Output = ()>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let caller = Location::caller();
    async move {
        let mut last = String::new();
        let found = polled(WITHIN, async || match api.get_opt(name).await {
            Ok(None) => Some(()),
            Ok(Some(object)) => {
                last = format!("its last state: {object:#?}");
                None
            }
            Err(error) => {
                last = format!("it could not be read: {error}");
                None
            }
        })
        .await;
        let path = format!("{}/{name}", api.resource_url());
        found.unwrap_or_else(|| panic!("{path} still exists after {WITHIN:?} ({caller}); {last}"));
    }
}

/// Calls `poll` until it returns `Some`; `None` after `within`.
pub(super) async fn polled<T>(
    within: Duration,
    mut poll: impl AsyncFnMut() -> Option<T>,
) -> Option<T> {
    let polling = async {
        loop {
            if let Some(found) = poll().await {
                return found;
            }
            tokio::time::sleep(POLLED_EVERY).await;
        }
    };
    tokio::time::timeout(within, polling).await.ok()
}
