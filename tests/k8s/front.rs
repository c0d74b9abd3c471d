//! Proxy in front of the API server that, on request of the test, answers in its place: as an overloaded
//! server, or as one that fails. Requests that pass are sent as a user of the test's choice.

use std::{
    convert::Infallible,
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bellwether::{
    clock,
    engine::BootTime,
    k8s::kube::{Client, client::Body},
    tasks,
};
use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use http::{Method, Request, Response, Uri, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tower::BoxError;

use crate::kube::{Space, User};

/// Answer in the API server's place, and the requests that get it.
#[derive(Clone, Copy)]
pub(crate) struct Illness {
    pub(crate) code: u16,
    /// Value of `Retry-After`, in seconds.
    pub(crate) retry_after: Option<u32>,
    pub(crate) meant: fn(&Method, &Uri) -> bool,
}

/// Answer that the proxy gave in the API server's place.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub(crate) at: BootTime,
    pub(crate) method: Method,
    pub(crate) path: String,
}

struct Ward {
    client: Client,
    /// Current fault, and the number of requests that still get it.
    illness: watch::Sender<Option<(Illness, usize)>>,
    given: Mutex<Vec<Given>>,
    received: AtomicUsize,
    /// Whether watches get no events for now, as from a server that is behind.
    held: watch::Sender<bool>,
}

/// The running proxy; ends when dropped.
pub(crate) struct Front {
    address: SocketAddr,
    ward: Arc<Ward>,
    accepting: JoinHandle<()>,
}

impl Front {
    /// Proxy that passes all requests on as that user.
    pub(crate) async fn of(user: &User) -> Self {
        Self::before(user.client()).await
    }

    /// Proxy that passes all requests on through that client.
    pub(crate) async fn before(client: Client) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let illness = watch::Sender::new(None);
        let (received, held) = (AtomicUsize::new(0), watch::Sender::new(false));
        let ward = Arc::new(Ward { client, illness, given: Mutex::default(), received, held });
        let accepting = tasks::spawn("front", accept(listener, Arc::clone(&ward)));
        Self { address, ward, accepting }
    }

    /// Kubeconfig that points to this proxy.
    pub(crate) fn kubeconfig(&self, space: &Space<'_>) -> PathBuf {
        let path = space.api.folder().join(format!("{}-front.kubeconfig", space.name));
        let text = format!(
            "apiVersion: v1\n\
             kind: Config\n\
             current-context: test\n\
             clusters:\n\
             - {{name: test, cluster: {{server: \"http://{}\"}}}}\n\
             contexts:\n\
             - {{name: test, context: {{cluster: test, user: test, namespace: {:?}}}}}\n\
             users:\n\
             - {{name: test, user: {{}}}}\n",
            self.address, space.name,
        );
        fs::write(&path, text).unwrap();
        path
    }

    /// From now on the proxy answers the requests that `illness` selects, and breaks off the selected watches.
    pub(crate) fn falls_ill(&self, illness: Illness) {
        self.falls_ill_for(usize::MAX, illness);
    }

    /// As [`falls_ill`](Self::falls_ill), until that many requests have been answered.
    pub(crate) fn falls_ill_for(&self, times: usize, illness: Illness) {
        self.ward.given.lock().unwrap().clear();
        self.ward.illness.send_replace(Some((illness, times)));
    }

    /// From now on the proxy passes all requests again.
    pub(crate) fn recovers(&self) {
        self.ward.illness.send_replace(None);
    }

    /// Holds the events of all watches back, or delivers those that were held back. Other requests pass.
    pub(crate) fn holds_watches(&self, held: bool) {
        self.ward.held.send_replace(held);
    }

    /// Number of requests so far.
    pub(crate) fn received(&self) -> usize {
        self.ward.received.load(SeqCst)
    }

    /// Answers that the proxy gave in the server's place since [`falls_ill`](Self::falls_ill).
    pub(crate) fn given(&self) -> Vec<Given> {
        self.ward.given.lock().unwrap().clone()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, ward: Arc<Ward>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let ward = Arc::clone(&ward);
        let service = service_fn(move |request| {
            let ward = Arc::clone(&ward);
            async move { Ok::<_, Infallible>(ward.answer(request).await) }
        });
        drop(tasks::spawn("front connection", async move {
            let served = hyper::server::conn::http1::Builder::new();
            let _ = served.serve_connection(TokioIo::new(stream), service).await;
        }));
    }
}

type Pieces = StreamBody<BoxStream<'static, Result<Frame<Bytes>, BoxError>>>;

fn whole(text: String) -> Pieces {
    StreamBody::new(futures::stream::iter([Ok(Frame::data(Bytes::from(text)))]).boxed())
}

impl Ward {
    async fn answer(&self, request: Request<Incoming>) -> Response<Pieces> {
        self.received.fetch_add(1, SeqCst);
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let mut illness = self.illness.subscribe();
        let path = uri.path().to_owned();
        let is_watch = uri.query().is_some_and(|query| query.contains("watch="));
        let given = Given { at: clock::boot_now(), method: method.clone(), path };
        let is_meant = move |ill: &Option<(Illness, usize)>| {
            ill.map(|(ill, _)| ill).filter(|it| (it.meant)(&method, &uri))
        };
        let mut present = None;
        self.illness.send_if_modified(|ill| {
            present = is_meant(ill);
            let Some((_, left)) = ill.as_mut().filter(|_| present.is_some()) else { return false };
            *left -= 1;
            let recovers = *left == 0;
            if recovers {
                *ill = None;
            }
            recovers
        });
        if let Some(ill) = present {
            self.given.lock().unwrap().push(given);
            return ill.answer();
        }
        match self.pass(request).await {
            Ok(answer) => answer.map(|body| {
                let until = async move {
                    if !is_watch {
                        // An answer that is not a watch is complete: its object was written or read while the
                        // server was well.
                        std::future::pending::<()>().await;
                    }
                    let _ = illness.wait_for(|it| is_meant(it).is_some()).await;
                };
                let held = self.held.subscribe();
                let pieces = BodyStream::new(body).map(|it| it.map_err(BoxError::from));
                let in_time = pieces.then(move |piece| {
                    let mut held = held.clone();
                    async move {
                        if is_watch {
                            let _ = held.wait_for(|held| !held).await;
                        }
                        piece
                    }
                });
                StreamBody::new(in_time.take_until(until).boxed())
            }),
            Err(error) => Response::builder().status(502).body(whole(error.to_string())).unwrap(),
        }
    }

    async fn pass(&self, request: Request<Incoming>) -> Result<Response<Body>, BoxError> {
        let (mut parts, body) = request.into_parts();
        for name in
            [header::HOST, header::CONNECTION, header::ACCEPT_ENCODING, header::CONTENT_LENGTH]
        {
            parts.headers.remove(name);
        }
        let body = body.collect().await?.to_bytes();
        let mut answer =
            self.client.send(Request::from_parts(parts, Body::from(body.to_vec()))).await?;
        // The body may break off, so the answer is sent without the server's length.
        for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION] {
            answer.headers_mut().remove(name);
        }
        *answer.version_mut() = http::Version::HTTP_11;
        Ok(answer)
    }
}

impl Illness {
    fn answer(self) -> Response<Pieces> {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": self.code,
            "reason": match self.code {
                410 => "Expired",
                429 => "TooManyRequests",
                503 => "ServiceUnavailable",
                _ => "InternalError",
            },
            "message": "the server is ill",
        });
        let mut answer =
            Response::builder().status(self.code).header("content-type", "application/json");
        if let Some(seconds) = self.retry_after {
            answer = answer.header("retry-after", seconds);
        }
        answer.body(whole(status.to_string())).unwrap()
    }
}

/// Largest possible number of attempts since `begun` at something that is retried after `first`, then after
/// twice as long each time, up to `longest`.
pub(crate) fn tries_since(begun: BootTime, first: Duration, longest: Duration) -> usize {
    let passed = clock::boot_now().since(begun);
    let (mut tries, mut wait, mut at) = (1, first, first);
    while at <= passed {
        tries += 1;
        wait = (wait * 2).min(longest);
        at += wait;
    }
    tries
}

/// Time at which a count was last seen at `before`; waits until the count grows.
pub(crate) async fn last_still(before: usize, count: impl Fn() -> usize) -> BootTime {
    let begun = clock::boot_now();
    let mut still = begun;
    loop {
        let now = clock::boot_now();
        if count() != before {
            return still;
        }
        still = now;
        assert!(now.since(begun) < Duration::from_secs(120), "nothing is counted");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
