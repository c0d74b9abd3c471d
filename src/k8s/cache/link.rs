//! The client that a cache is fed by: it notices that the API server is heard of, and names the shards
//! whose objects are asked for.
//!
//! A watcher shows changes only. That nothing changed shows in bookmarks, which come about once a minute,
//! and in answers: both pass here.

use std::fmt::Write as _;

use http::{Request, Response, Uri};
use kube::client::{Body, Client};
use tower::{BoxError, service_fn};

use super::{Cache, pace::Paced};
use crate::k8s::client::Inlet;

/// The same client, by whose answers the cache learns that it is fresh. With a selector, every request asks
/// for the objects of those shards only, which a server may ignore.
pub(super) fn listening<K: Send + Sync + 'static>(
    client: &Client,
    cache: &Cache<K>,
    shard_selector: Option<&str>,
) -> Client {
    let namespace = client.default_namespace().to_owned();
    let (client, cache) = (client.clone(), cache.clone());
    let parameter = shard_selector.map(parameter);
    let service = service_fn(move |mut request: Request<Body>| {
        let (client, cache, parameter) = (client.clone(), cache.clone(), parameter.clone());
        async move {
            if let Some(parameter) = parameter {
                *request.uri_mut() = with_parameter(request.uri(), &parameter)?;
            }
            let is_watch = request.uri().query().is_some_and(|it| it.contains("watch=true"));
            let answer = client.send(request).await?;
            if answer.status().is_success() {
                cache.heard();
            }
            // A list is read at once, and whatever connection is not ours: that inlet is nobody's.
            let inlet = answer.extensions().get::<Inlet>().filter(|_| is_watch);
            let inlet = inlet.cloned().unwrap_or_default();
            Ok::<Response<_>, BoxError>(answer.map(|body| Paced::new(body, inlet, cache)))
        }
    });
    Client::new(service, namespace)
}

/// The query parameter (KEP-5866), as it stands in a URL.
fn parameter(selector: &str) -> String {
    let mut text = "shardSelector=".to_owned();
    for byte in selector.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'(' | b')' => text.push(byte.into()),
            b' ' => text.push('+'),
            _ => drop(write!(text, "%{byte:02X}")),
        }
    }
    text
}

fn with_parameter(uri: &Uri, parameter: &str) -> Result<Uri, BoxError> {
    let mut parts = uri.clone().into_parts();
    let asked = match uri.query() {
        Some(query) if !query.is_empty() => format!("{}?{query}&{parameter}", uri.path()),
        _ => format!("{}?{parameter}", uri.path()),
    };
    parts.path_and_query = Some(asked.try_into()?);
    Ok(Uri::from_parts(parts)?)
}
