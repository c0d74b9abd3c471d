//! The client that a cache is fed by: it notices that the API server is heard of.
//!
//! A watcher shows changes only. That nothing changed shows in bookmarks, which come about once a minute,
//! and in answers: both pass here.

use http::{Request, Response};
use http_body_util::BodyExt as _;
use kube::client::{Body, Client};
use tower::{BoxError, service_fn};

use super::Cache;

/// The same client, by whose answers the cache learns that it is fresh.
pub(super) fn listening<K: Send + Sync + 'static>(client: &Client, cache: &Cache<K>) -> Client {
    let namespace = client.default_namespace().to_owned();
    let (client, cache) = (client.clone(), cache.clone());
    let service = service_fn(move |request: Request<Body>| {
        let (client, cache) = (client.clone(), cache.clone());
        async move {
            let answer = client.send(request).await?;
            if answer.status().is_success() {
                cache.heard();
            }
            Ok::<Response<_>, BoxError>(answer.map(|body| {
                body.map_frame(move |frame| {
                    cache.heard();
                    frame
                })
            }))
        }
    });
    Client::new(service, namespace)
}
