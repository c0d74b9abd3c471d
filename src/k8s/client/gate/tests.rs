use std::{io, net::SocketAddr, time::Duration};

use http::Uri;
use http_body::Body as _;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tower::{ServiceExt as _, service_fn};

use super::*;
use crate::{
    clock,
    engine::BootTime,
    k8s::authority::{Authority, Refused, tests::leading},
    node::Node as _,
    tasks,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Accepts one connection, answers its request once it is complete, and returns all bytes received.
async fn received(listener: TcpListener) -> String {
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut all = Vec::new();
    while socket.read_buf(&mut all).await.unwrap() > 0 {
        if all.ends_with(b"\r\n\r\n{}") {
            let answer = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    }
    String::from_utf8(all).unwrap()
}

/// Sends a write whose authority ends while the connection is made (if `ends`); returns the result and the text that
/// the server received.
async fn written(ends: bool) -> (Result<u16, BoxError>, String) {
    let (node, ctx) = leading().await;
    let (ctx, gate) = ctx.apart();
    gate.extend(BootTime(clock::boot_now().0 + HOUR));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let receiving = tasks::spawn("server", received(listener));
    let connector = service_fn(move |_: Uri| {
        let gate = Arc::clone(&gate);
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            if ends {
                gate.close();
            }
            Ok::<_, io::Error>(TokioIo::new(stream))
        })
    });
    let http = Client::builder(TokioExecutor::new()).build::<_, HeldBody>(connector);
    let gated = Gated::new(http.map_err(BoxError::from));
    let mut request =
        Request::post(format!("http://{address}/write")).body(Body::from(b"{}".to_vec())).unwrap();
    request.extensions_mut().insert(Permit::new(Authority::Leader(ctx)));
    let written = gated.oneshot(request).await.map(|answer| answer.status().as_u16());
    let received = receiving.await.unwrap();
    node.stop(HOUR).await.unwrap();
    (written, received)
}

#[tokio::test]
async fn a_write_that_has_waited_for_its_connection_is_stopped_there() {
    let (sent, received) = written(false).await;
    assert_eq!(sent.unwrap(), 200);
    assert!(received.starts_with("POST /write HTTP/1.1\r\n"), "{received}");
    assert!(received.to_lowercase().contains("content-length: 2\r\n"), "{received}");

    let (stopped, received) = written(true).await;
    let error = stopped.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(Refused::Unsent { .. })), "{error:?}");
    assert_eq!(received, "", "nothing reached the server");
}

#[tokio::test]
async fn an_attempt_without_a_body_is_not_begun_when_its_authority_is_over() {
    let (node, ctx) = leading().await;
    let (ctx, gate) = ctx.apart();
    gate.extend(BootTime(clock::boot_now().0 + HOUR));
    let inner = service_fn(|request: Request<HeldBody>| async move {
        Ok::<_, BoxError>(Response::new(request.into_body().is_end_stream()))
    });
    let permit = Permit::new(Authority::Leader(ctx));
    let send = || {
        let mut request = Request::delete("/write").body(Body::empty()).unwrap();
        request.extensions_mut().insert(permit.clone());
        Gated::new(inner).oneshot(request)
    };
    assert!(send().await.unwrap().into_body(), "it is sent, without a body");
    permit.did_nothing();
    gate.close();
    let error = send().await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(Refused::Unsent { .. })), "{error:?}");
    node.stop(HOUR).await.unwrap();
}
