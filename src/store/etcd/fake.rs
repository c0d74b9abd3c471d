//! A member of etcd for tests, on the level of connections: on each connection a script defines the
//! answers.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::StreamBody;
use hyper::{
    body::{Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpListener, task::JoinSet};

use crate::tasks::Tasks;

/// Answer to a call.
#[derive(Clone, Debug)]
pub(super) enum Say {
    /// No answer, the call hangs.
    Nothing,
    /// An empty message, valid as any type, with the status "ok".
    Well,
    /// These messages; the stream then stays open and silent.
    Messages(Vec<Vec<u8>>),
    /// This message, with the status "ok".
    One(Vec<u8>),
    /// The answer of an HTTP server that has no such page.
    NotFound,
    /// An error, with its gRPC code and its text.
    Error(u8, &'static str),
}

/// A running fake member. Ends, with its connections, when dropped.
pub(super) struct FakeMember {
    address: SocketAddr,
    _tasks: Tasks,
}

impl FakeMember {
    /// Starts a member that answers as `script` returns for the number of a connection, from 1.
    pub(super) async fn start(script: impl Fn(usize) -> Say + Send + Sync + 'static) -> Self {
        Self::start_with(move |connection, _| script(connection)).await
    }

    /// Starts a member that answers as `script` returns for a method, such as `/etcdserverpb.KV/Range`.
    pub(super) async fn of_methods(script: impl Fn(&str) -> Say + Send + Sync + 'static) -> Self {
        Self::start_with(move |_, method| script(method)).await
    }

    async fn start_with(script: impl Fn(usize, &str) -> Say + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = Tasks::new();
        tasks.spawn("fake member", accept(listener, Arc::new(script)));
        Self { address, _tasks: tasks }
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn accept(
    listener: TcpListener,
    script: Arc<impl Fn(usize, &str) -> Say + Send + Sync + 'static>,
) {
    let mut connections = JoinSet::new();
    for number in 1.. {
        let (stream, _) = listener.accept().await.unwrap();
        let script = Arc::clone(&script);
        let service = service_fn(move |request: Request<Incoming>| {
            answer(script(number, request.uri().path()))
        });
        let http = http2::Builder::new(TokioExecutor::new());
        let serving = http.serve_connection(TokioIo::new(stream), service);
        connections.spawn(async move { drop(serving.await) });
    }
}

type Frames = stream::BoxStream<'static, Result<Frame<Bytes>, Infallible>>;

async fn answer(say: Say) -> Result<Response<StreamBody<Frames>>, Infallible> {
    let frames = match say {
        Say::Nothing => std::future::pending().await,
        Say::Well => whole(&[]),
        Say::NotFound => {
            let mut response = Response::new(StreamBody::new(stream::empty().boxed()));
            *response.status_mut() = StatusCode::NOT_FOUND;
            return Ok(response);
        }
        Say::One(message) => whole(&message),
        Say::Error(code, text) => {
            stream::iter([Frame::trailers(status(code, text))]).map(Ok).boxed()
        }
        Say::Messages(messages) => {
            let messages = messages.into_iter().map(|message| framed(&message));
            stream::iter(messages).map(Ok).chain(stream::pending()).boxed()
        }
    };
    let mut response = Response::new(StreamBody::new(frames));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
    Ok(response)
}

fn whole(message: &[u8]) -> Frames {
    stream::iter([framed(message), Frame::trailers(status(0, ""))]).map(Ok).boxed()
}

fn status(code: u8, text: &'static str) -> HeaderMap {
    let name = http::HeaderName::from_static;
    HeaderMap::from_iter([
        (name("grpc-status"), HeaderValue::from(u16::from(code))),
        (name("grpc-message"), HeaderValue::from_static(text)),
    ])
}

/// A message in a gRPC frame: not compressed, the length, the message.
fn framed(message: &[u8]) -> Frame<Bytes> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    Frame::data([&[0], length.as_slice(), message].concat().into())
}
