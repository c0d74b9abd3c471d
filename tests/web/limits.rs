//! Clients that are slow, numerous or malicious: the server still answers a probe.

use std::time::Duration;

use bellwether::telemetry::ServerConfig;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::served::{Script, Served, client, empty, eventually};

/// Sends bytes and reads the answer until the server closes the connection.
async fn say(served: &Served, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    // The server may close the connection before it has read all bytes.
    let _ = stream.write_all(bytes).await;
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard).await;
    String::from_utf8_lossy(&heard).into_owned()
}

async fn is_alive(served: &Served) -> bool {
    client().get(served.url("/livez")).send().await.is_ok_and(|answer| answer.status().is_success())
}

fn metric(served: &Served, name: &str) -> f64 {
    let families = served.registry.gather();
    let family = families.iter().find(|family| family.name() == name).unwrap();
    let metric = &family.get_metric()[0];
    metric.get_gauge().get_value() + metric.get_counter().get_value()
}

#[tokio::test]
async fn a_client_that_never_ends_its_request_is_cut_off() {
    let config =
        ServerConfig { header_timeout: Duration::from_millis(200), ..ServerConfig::default() };
    let served = Served::with(Script::new(empty()), config).await;
    // The call returns only because the server closes the connection.
    let heard = say(&served, b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow").await;
    assert!(!heard.contains("200 OK"), "{heard}");
    let silent = say(&served, b"").await;
    assert!(!silent.contains("200 OK"), "{silent}");
    let idle = say(&served, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(idle.starts_with("HTTP/1.1 200 OK"), "answered, then closed for idling: {idle}");
    eventually(|| async { metric(&served, "bellwether_http_connections") }, |open| *open == 0.0)
        .await;
}

#[tokio::test]
async fn a_body_that_never_comes_is_not_waited_for_longer_than_an_action() {
    let config = ServerConfig {
        action_timeout: Duration::from_millis(200),
        answer_timeout: Duration::from_millis(100),
        header_timeout: Duration::from_millis(500),
        ..ServerConfig::default()
    };
    let served = Served::with(Script::new(empty()), config).await;
    let head = b"POST /actions/resign HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Bellwether-Action: 1\r\nContent-Length: 100\r\n\r\n{";
    let heard = say(&served, head).await;
    assert!(heard.starts_with("HTTP/1.1 503"), "{heard}");
    assert!(is_alive(&served).await);
}

#[tokio::test]
async fn rubbish_and_giant_heads_are_refused() {
    let served = Served::new(Script::new(empty())).await;
    for (rubbish, code) in [
        (b"\x16\x03\x01 this is not HTTP\r\n\r\n".to_vec(), "400"),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000)).into_bytes(), "4"),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(500)).into_bytes(), "431"),
    ] {
        let heard = say(&served, &rubbish).await;
        assert!(heard.is_empty() || heard.starts_with(&format!("HTTP/1.1 {code}")), "{heard}");
        assert!(is_alive(&served).await);
    }
}

#[tokio::test]
async fn a_probe_gets_in_however_many_connections_are_held_open() {
    // With this long timeout, the server closes connections only to make room for new ones.
    let header_timeout = Duration::from_secs(3600);
    let config = ServerConfig { max_connections: 8, header_timeout, ..ServerConfig::default() };
    let served = Served::with(Script::new(empty()), config).await;
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(TcpStream::connect(served.address).await.unwrap());
    }
    assert!(is_alive(&served).await);
    assert!(metric(&served, "bellwether_http_connections_evicted_total") >= 92.0);
    let open = || async { metric(&served, "bellwether_http_connections") };
    eventually(open, |open| *open <= 8.0).await;
}

#[tokio::test]
async fn one_event_stream_too_many_is_told_to_poll_and_a_closed_one_makes_room() {
    let config = ServerConfig { max_streams: 2, ..ServerConfig::default() };
    let served = Served::with(Script::new(empty()), config).await;
    let first = client().get(served.url("/events")).send().await.unwrap();
    let second = client().get(served.url("/events")).send().await.unwrap();
    let third = client().get(served.url("/events")).send().await.unwrap();
    assert_eq!((first.status().as_u16(), second.status().as_u16()), (200, 200));
    assert_eq!(third.status().as_u16(), 503);
    assert_eq!(third.headers()["retry-after"], "5");
    drop(first);
    let again =
        || async { client().get(served.url("/events")).send().await.unwrap().status().as_u16() };
    eventually(again, |code| *code == 200).await;
}

#[tokio::test]
async fn a_stream_reader_that_does_not_read_holds_nobody_up() {
    let config =
        ServerConfig { picture_every: Duration::from_millis(100), ..ServerConfig::default() };
    // Each picture differs from the last, so that changes are as large as pictures.
    let picture = |number: usize| json!({ "filler": format!("{}{number}", "x".repeat(400_000)) });
    let served = Served::with(Script::new(picture(0)), config).await;
    let mut deaf = TcpStream::connect(served.address).await.unwrap();
    deaf.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut reader = client().get(served.url("/events")).send().await.unwrap();
    // Several times more bytes than the socket buffers between client and server hold.
    let mut read = 0;
    while read < 8 << 20 {
        *served.script.status.lock().unwrap() = picture(read);
        served.script.changed.notify_one();
        read += reader.chunk().await.unwrap().expect("the stream goes on").len();
    }
    assert!(is_alive(&served).await);
}
