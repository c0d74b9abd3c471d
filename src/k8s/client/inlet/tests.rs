use std::{
    fs,
    sync::{Arc, Mutex},
    task::Wake,
    time::Duration,
};

use http::Request;
use http_body_util::BodyExt as _;
use kube::client::Body;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::*;
use crate::k8s::client::{ClientOptions, Connection};

const LONG: Duration = Duration::from_secs(30);
/// What is not read is not read however long one waits.
const A_WHILE: Duration = Duration::from_millis(100);

/// A connection, and its other end.
async fn pair() -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    (Socket::new(client.unwrap()), server.unwrap().0)
}

/// The next byte.
async fn next(socket: &mut Socket) -> u8 {
    timeout(LONG, socket.read_u8()).await.expect("it is read").unwrap()
}

/// Polls for the next byte until there is none.
async fn read_up(socket: &mut Socket) {
    assert!(timeout(A_WHILE, socket.read_u8()).await.is_err(), "nothing is left");
}

#[tokio::test]
async fn what_has_come_is_read_and_what_comes_then_waits_until_it_is_resumed() {
    let (mut socket, mut server) = pair().await;
    let inlet = socket.inlet.clone();
    server.write_all(b"ab").await.unwrap();
    assert_eq!(next(&mut socket).await, b'a');
    inlet.rest();
    assert_eq!(next(&mut socket).await, b'b', "what has come is read up");
    read_up(&mut socket).await;
    socket.flush().await.unwrap();
    let Stream::Resting(stream) = &socket.stream else { panic!("{socket:?}") };
    let resting = stream.try_clone().unwrap();
    server.write_all(b"c").await.unwrap();
    // It is there.
    let arrived = async {
        while resting.peek(&mut [0]).is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, arrived).await.unwrap();
    read_up(&mut socket).await;
    let (byte, ()) = tokio::join!(next(&mut socket), async { inlet.resume() });
    assert_eq!(byte, b'c');
    server.write_all(b"d").await.unwrap();
    assert_eq!(next(&mut socket).await, b'd', "it is polled again");
}

/// Counts how often it is woken.
#[derive(Default)]
struct Wakes(Mutex<u32>);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        *self.0.lock().unwrap() += 1;
    }
}

#[tokio::test]
async fn a_resting_connection_wakes_nobody_until_it_is_resumed() {
    let (mut socket, mut server) = pair().await;
    let inlet = socket.inlet.clone();
    let wakes = Arc::new(Wakes::default());
    let waker = wakes.clone().into();
    let poll = |socket: &mut Socket| {
        let mut buffer = [0; 8];
        let mut buffer = ReadBuf::new(&mut buffer);
        let read = Pin::new(socket).poll_read(&mut Context::from_waker(&waker), &mut buffer);
        read.is_ready()
    };
    inlet.rest();
    assert!(!poll(&mut socket));
    for _ in 0..3 {
        server.write_all(b"a").await.unwrap();
        tokio::time::sleep(A_WHILE / 10).await;
    }
    assert_eq!(*wakes.0.lock().unwrap(), 0);
    inlet.resume();
    assert_eq!(*wakes.0.lock().unwrap(), 1);
    inlet.resume();
    assert_eq!(*wakes.0.lock().unwrap(), 1, "it is read already");
    // The runtime has to look at it once.
    while !poll(&mut socket) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_resting_connection_is_written_to_and_its_end_is_noticed_when_it_is_resumed() {
    let (mut socket, mut server) = pair().await;
    let inlet = socket.inlet.clone();
    inlet.rest();
    read_up(&mut socket).await;
    socket.write_all(b"z").await.unwrap();
    assert_eq!(timeout(LONG, server.read_u8()).await.unwrap().unwrap(), b'z');
    read_up(&mut socket).await;
    assert!(matches!(socket.stream, Stream::Resting(_)), "{socket:?}");
    drop(server);
    read_up(&mut socket).await;
    inlet.resume();
    assert!(timeout(LONG, socket.read_u8()).await.unwrap().is_err(), "it has ended");
}

#[tokio::test]
async fn who_waits_to_write_is_woken_although_it_rests() {
    let (mut socket, mut server) = pair().await;
    socket.inlet.rest();
    let wakes = Arc::new(Wakes::default());
    let waker = wakes.clone().into();
    let mut cx = Context::from_waker(&waker);
    let mut wrote = 0;
    while let Poll::Ready(bytes) = Pin::new(&mut socket).poll_write(&mut cx, &[7; 4096]) {
        wrote += bytes.unwrap();
    }
    let mut byte = [0];
    assert!(Pin::new(&mut socket).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending());
    assert_eq!(*wakes.0.lock().unwrap(), 0);
    server.read_exact(&mut vec![0; wrote]).await.unwrap();
    let woken = async {
        while *wakes.0.lock().unwrap() == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, woken).await.expect("there is room again");
}

#[tokio::test]
async fn an_answer_brings_the_inlet_of_its_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kubeconfig");
    let text = format!(
        "{{apiVersion: v1, kind: Config, current-context: c, users: [],
          contexts: [{{name: c, context: {{cluster: c, user: ''}}}}],
          clusters: [{{name: c, cluster: {{server: 'http://{}'}}}}]}}",
        listener.local_addr().unwrap()
    );
    fs::write(&file, text).unwrap();
    let options = ClientOptions::default().kubeconfig(&file);
    let client = Connection::open(options).await.unwrap().client();
    let serves = async {
        let mut server = listener.accept().await.unwrap().0;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(server.read_u8().await.unwrap());
        }
        let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n";
        server.write_all(answer.as_bytes()).await.unwrap();
        server
    };
    let request = Request::get("/api?watch=true").body(Body::empty()).unwrap();
    let (answer, mut server) = tokio::join!(client.send(request), serves);
    let answer = answer.unwrap();
    let inlet = answer.extensions().get::<Inlet>().expect("it comes with the answer").clone();
    let mut body = answer.into_body();
    let mut next = async || body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(timeout(LONG, next()).await.unwrap(), "a");
    inlet.rest();
    assert!(timeout(A_WHILE, next()).await.is_err());
    server.write_all(b"1\r\nb\r\n").await.unwrap();
    assert!(timeout(A_WHILE, next()).await.is_err());
    inlet.resume();
    assert_eq!(timeout(LONG, next()).await.unwrap(), "b");
}
