//! Paths, methods, types, headers, the event stream, shutdown.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bellwether::telemetry::{Server, ServerConfig, server::ServerMetrics};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

use super::{
    events::Reader,
    scene,
    served::{Script, Served, client, empty},
};

const SERVED: [(&str, &str); 6] = [
    ("/", "text/html; charset=utf-8"),
    ("/status", "application/json"),
    ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
    ("/livez", "text/plain; charset=utf-8"),
    ("/readyz", "text/plain; charset=utf-8"),
    ("/leader", "application/json"),
];

#[tokio::test]
async fn every_path_has_its_type_and_head_is_get_without_a_body() {
    let served = Served::new(Script::new(scene::demo())).await;
    for (path, kind) in SERVED {
        let got = client().get(served.url(path)).send().await.unwrap();
        assert_eq!(got.headers()[header::CONTENT_TYPE], kind, "{path}");
        assert_eq!(got.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff", "{path}");
        assert_eq!(got.headers()[header::CACHE_CONTROL], "no-store", "{path}");
        let head = client().head(served.url(path)).send().await.unwrap();
        assert_eq!(head.status(), got.status(), "{path}");
        assert_eq!(head.headers()[header::CONTENT_TYPE], kind, "{path}");
        assert!(head.headers().contains_key(header::CONTENT_LENGTH), "{path}");
        assert_eq!(head.bytes().await.unwrap().len(), 0, "{path}");
        assert!(!got.bytes().await.unwrap().is_empty(), "{path}");
    }
}

#[tokio::test]
async fn status_is_the_sources_picture_and_what_the_server_offers() {
    let served = Served::new(Script::new(json!({ "cluster": "demo" }))).await;
    let got = client().get(served.url("/status")).send().await.unwrap().text().await.unwrap();
    let got: Value = serde_json::from_str(&got).unwrap();
    let server = json!({
        "version": env!("CARGO_PKG_VERSION"), "actions": ["resign", "kill"], "picture_every_ms": 500,
    });
    assert_eq!(got, json!({ "cluster": "demo", "server": server }));
}

#[tokio::test]
async fn unknown_paths_name_the_known_ones_and_wrong_methods_the_right_one() {
    let served = Served::new(Script::new(empty())).await;
    let got = client().get(served.url("/metrics/")).send().await.unwrap();
    assert_eq!(got.status(), StatusCode::NOT_FOUND);
    assert_eq!(got.headers()[header::CONTENT_TYPE], "application/json");
    assert!(got.text().await.unwrap().contains("/readyz"));

    for (method, path, right) in [
        (Method::POST, "/status", "GET,HEAD"),
        (Method::DELETE, "/", "GET,HEAD"),
        (Method::GET, "/actions/resign", "POST"),
    ] {
        let got = client().request(method.clone(), served.url(path)).send().await.unwrap();
        assert_eq!(got.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        assert_eq!(got.headers()[header::ALLOW], right, "{method} {path}");
        assert!(got.text().await.unwrap().contains("does not work"), "{method} {path}");
    }
}

#[tokio::test]
async fn the_page_lets_only_its_own_script_run() {
    let served = Served::new(Script::new(empty())).await;
    let mut nonces = Vec::new();
    for _ in 0..2 {
        let got = client().get(served.url("/")).send().await.unwrap();
        let policy = got.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none'; script-src 'nonce-"), "{policy}");
        assert!(
            !policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
        let nonce = policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap().to_owned();
        assert_eq!(got.text().await.unwrap().matches(&format!("nonce=\"{nonce}\"")).count(), 2);
        nonces.push(nonce);
    }
    assert_ne!(nonces[0], nonces[1], "a nonce is used once");
}

#[tokio::test]
async fn events_bring_the_first_picture_at_once_and_a_change_when_it_happens() {
    // Pictures are sent for changes only: the period is longer than the test's timeout.
    let config =
        ServerConfig { picture_every: Duration::from_secs(3600), ..ServerConfig::default() };
    let served = Served::with(Script::new(json!({ "cluster": "one", "at": 1 })), config).await;
    let mut reader = Reader::of(&served).await;
    let first = reader.next().await;
    assert_eq!((first.name.as_str(), &first.data["cluster"]), ("status", &json!("one")));
    assert_eq!(first.data["server"]["actions"], json!(["resign", "kill"]));

    *served.script.status.lock().unwrap() = json!({ "cluster": "two", "at": 1 });
    served.script.changed.notify_one();
    let second = reader.next_change().await;
    assert_eq!(second.data, json!({ "cluster": ["two"] }), "and nothing that is as before");
    assert_eq!(reader.picture["at"], 1);
}

#[tokio::test]
async fn events_come_without_a_change_too_so_that_a_reader_knows_the_line_is_open() {
    let config =
        ServerConfig { picture_every: Duration::from_millis(150), ..ServerConfig::default() };
    let served = Served::with(Script::new(json!({ "cluster": "one" })), config).await;
    let mut reader = Reader::of(&served).await;
    reader.next().await;
    for _ in 0..3 {
        let event = reader.next().await;
        assert_eq!((event.name.as_str(), event.data), ("change", json!({})));
    }
}

#[tokio::test]
async fn a_stop_ends_open_event_streams_and_idle_connections() {
    let served = Served::new(Script::new(empty())).await;
    let kept = client();
    kept.get(served.url("/livez")).send().await.unwrap().text().await.unwrap();
    let mut stream = client().get(served.url("/events")).send().await.unwrap();
    stream.chunk().await.unwrap().expect("the first picture");
    let address = served.address;
    served.stopped().await;
    while let Ok(Some(_)) = stream.chunk().await {}
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_request_that_is_being_answered_ends_well_while_the_server_stops() {
    let served = Served::new(Script::new(empty())).await;
    let url = served.url("/status");
    *served.script.mood.lock().unwrap() = super::served::Mood::Hangs;
    let open = bellwether::tasks::spawn("request", async move { client().get(url).send().await });
    // An accepted connection may not have been read from yet, so the test waits until the request hangs.
    let hanging = || async { served.script.hanging.load(Ordering::Relaxed) };
    super::served::eventually(hanging, |hanging| *hanging == 1).await;
    served.stopped().await;
    assert_eq!(open.await.unwrap().unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_port_in_use_is_named_with_what_to_do() {
    let first = Served::new(Script::new(empty())).await;
    let listen = first.address.to_string();
    let config = ServerConfig { listen: listen.clone(), ..ServerConfig::default() };
    let error = Server::bind(config).await.unwrap_err().to_string();
    assert!(
        error.contains(&listen) && error.contains("in use") && error.contains("ss -ltnp"),
        "{error}"
    );
}

#[tokio::test]
async fn an_address_that_is_none_and_one_of_another_machine_are_named() {
    for (listen, word) in [("nonsense", "host:port"), ("192.0.2.1:0", "0.0.0.0")] {
        let config = ServerConfig { listen: listen.to_owned(), ..ServerConfig::default() };
        let error = Server::bind(config).await.unwrap_err().to_string();
        assert!(error.contains(listen) && error.contains(word), "{error}");
    }
}

#[tokio::test]
async fn a_registry_that_has_a_server_already_is_an_error() {
    let served = Served::new(Script::new(empty())).await;
    // A server that answers has registered its metrics.
    client().get(served.url("/livez")).send().await.unwrap();
    assert!(ServerMetrics::register(&served.registry).is_err());
    let config = ServerConfig { listen: "127.0.0.1:0".to_owned(), ..ServerConfig::default() };
    let second = Server::bind(config).await.unwrap();
    let source = Arc::new(Script::new(empty()));
    let result = second.serve(source, served.registry.clone(), served.stop.clone()).await;
    assert!(result.is_err());
}
