//! The client that feeds a cache: marks the cache as fresh each time the API server sends data, and adds the shard
//! selector to requests.
//!
//! A watcher delivers changes only. While nothing changes, bookmarks (about one a minute) and answers still prove that
//! the cache is fresh, and both pass through this client.

use std::{
    fmt::Write as _,
    sync::{Arc, PoisonError, RwLock},
};

use http::{Request, Response, Uri};
use http_body_util::BodyExt as _;
use kube::client::{Body, Client};
use tower::{BoxError, service_fn};

use super::Cache;

/// The client of one cache, created once for the life of the cache, because each `kube::Client` spawns a task.
pub(super) struct Link {
    client: Client,
    parameter: Parameter,
}

/// Parameter that is added to the query of each request.
type Parameter = Arc<RwLock<Option<String>>>;

impl Link {
    /// Creates a client whose answers mark the cache as fresh.
    pub(super) fn new<K: Send + Sync + 'static>(client: &Client, cache: &Cache<K>) -> Self {
        let parameter = Parameter::default();
        Self { client: listening(client, cache, &parameter), parameter }
    }

    /// The client. With a selector, every request from now on asks for the objects of those shards only (a server may
    /// ignore the selector), including requests of handles that were returned before.
    pub(super) fn asking(&self, shard_selector: Option<&str>) -> Client {
        let mut asked = self.parameter.write().unwrap_or_else(PoisonError::into_inner);
        *asked = shard_selector.map(parameter);
        self.client.clone()
    }
}

fn listening<K: Send + Sync + 'static>(
    client: &Client,
    cache: &Cache<K>,
    parameter: &Parameter,
) -> Client {
    let namespace = client.default_namespace().to_owned();
    let (client, cache, parameter) = (client.clone(), cache.clone(), Arc::clone(parameter));
    let service = service_fn(move |mut request: Request<Body>| {
        let (client, cache) = (client.clone(), cache.clone());
        let parameter = parameter.read().unwrap_or_else(PoisonError::into_inner).clone();
        async move {
            if let Some(parameter) = parameter {
                *request.uri_mut() = with_parameter(request.uri(), &parameter)?;
            }
            let answer = client.send(request).await?;
            if answer.status().is_success() {
                cache.heard();
            }
            let answer = answer.map(|body| {
                body.map_frame(move |frame| {
                    cache.heard();
                    frame
                })
            });
            Ok::<Response<_>, BoxError>(answer)
        }
    });
    Client::new(service, namespace)
}

/// The query parameter (KEP-5866), encoded for a URL.
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;
    use futures::StreamExt as _;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use k8s_openapi::api::core::v1::ConfigMap;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;
    use crate::k8s::authority::tests::alive_tasks;

    #[tokio::test]
    async fn a_cache_asks_for_other_shards_by_the_client_it_has() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let server = Client::new(
            service_fn(move |request: Request<Body>| {
                log.lock().unwrap().push(request.uri().to_string());
                async { Ok::<_, BoxError>(Response::new(Body::empty())) }
            }),
            "n",
        );
        let link = Link::new(&server, &Cache::<ConfigMap>::holding([]));
        let before = alive_tasks();
        for selector in [None, Some("a b"), Some("c"), None] {
            let request = Request::get("/maps?limit=1").body(Body::empty()).unwrap();
            link.asking(selector).send(request).await.unwrap();
        }
        assert_eq!(alive_tasks(), before);
        let wanted = ["", "&shardSelector=a+b", "&shardSelector=c", ""];
        assert_eq!(*asked.lock().unwrap(), wanted.map(|it| format!("/maps?limit=1{it}")));
    }

    #[tokio::test]
    async fn each_piece_of_an_answer_shows_that_the_api_server_is_heard_of() {
        let (sender, pieces) = mpsc::channel(1);
        let pieces = Mutex::new(Some(pieces));
        let server = Client::new(
            service_fn(move |_: Request<Body>| {
                let pieces = pieces.lock().unwrap().take().expect("one watch");
                let frames =
                    ReceiverStream::new(pieces).map(|it| Ok::<_, BoxError>(Frame::data(it)));
                async { Ok::<_, BoxError>(Response::new(StreamBody::new(frames))) }
            }),
            "n",
        );
        let cache = Cache::<ConfigMap>::holding([]);
        let heard = || *cache.shelf.fresh.borrow();
        let watch = Request::get("/maps?watch=true").body(Body::empty()).unwrap();
        let mut answer = Link::new(&server, &cache).asking(None).send(watch).await.unwrap();
        for _ in 0..2 {
            let before = heard();
            sender.send(Bytes::from_static(b"{}")).await.unwrap();
            answer.body_mut().frame().await.unwrap().unwrap();
            assert!(before < heard());
        }
    }
}
