use std::net::SocketAddr;

use hickory_resolver::proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{RData, Record, rdata},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    operator::uptime::{
        resource::{
            API_VERSION, DnsTarget, Expect, HttpTarget, KIND, Metadata, Method, RecordType,
            TcpTarget, UptimeCheck, UptimeCheckSpec,
        },
        value::StatusRange,
    },
    tasks::Tasks,
    tls::testing::{P521, P521_KEY},
};

fn check(target: Target, expect: Expect) -> Check {
    let spec = UptimeCheckSpec {
        target,
        interval: Span::secs(30),
        timeout: None,
        failure_threshold: 1,
        expect,
    };
    check_of(spec)
}

fn check_of(spec: UptimeCheckSpec) -> Check {
    Check::new(UptimeCheck {
        api_version: API_VERSION.into(),
        kind: KIND.into(),
        metadata: Metadata { name: "check".into(), ..Metadata::default() },
        spec,
        status: None,
    })
    .unwrap()
}

async fn probe(target: Target, expect: Expect) -> Probed {
    Prober::new().run(&check(target, expect)).await
}

fn is(probed: &Probed, verdict: Verdict, message: &str) {
    assert_eq!(probed.verdict, verdict, "{probed:?}");
    assert!(probed.message.contains(message), "{probed:?}");
}

/// A web server on a free port, which lives as long as the tasks.
async fn web(tasks: &mut Tasks) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn("web", async move {
        let mut serving = Tasks::new();
        while let Ok((stream, _)) = listener.accept().await {
            serving.spawn("connection", serve(stream));
        }
    });
    address
}

/// Answers one HTTP/1.1 request.
async fn serve(mut stream: TcpStream) {
    let mut request = Vec::new();
    while !is_whole(&request) {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let path = request.split(' ').nth(1).unwrap_or_default();
    let (status, location, body) = match path {
        "/broken" => ("503 Service Unavailable", "", b"no".to_vec()),
        "/moved" => ("307 Temporary Redirect", "/", Vec::new()),
        "/around" => ("307 Temporary Redirect", "/around", Vec::new()),
        "/never" => std::future::pending().await,
        "/large" => ("200 OK", "", ("x".repeat(3 << 20) + "needle").into_bytes()),
        "/binary" => ("200 OK", "", b"\xff\xfa needle \xff".to_vec()),
        "/echo" => ("200 OK", "", request.clone().into_bytes()),
        _ => ("200 OK", "", b"all is well".to_vec()),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nlocation: {location}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    // The client closes the connection once it has read enough.
    let _ = stream.write_all(&[head.into_bytes(), body].concat()).await;
    let _ = stream.shutdown().await;
}

/// Whether the request has its head, and a body as long as the head declares.
fn is_whole(request: &[u8]) -> bool {
    let request = String::from_utf8_lossy(request);
    let Some((head, body)) = request.split_once("\r\n\r\n") else { return false };
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

fn http(address: SocketAddr, path: &str) -> HttpTarget {
    HttpTarget::get(format!("http://{address}{path}"))
}

/// Address without a listener for as long as the socket is held.
fn nobody() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[tokio::test]
async fn an_http_target_that_answers_is_up_with_its_latency() {
    let mut tasks = Tasks::new();
    let web = web(&mut tasks).await;
    let probed = probe(Target::Http(http(web, "/")), Expect::default()).await;
    is(&probed, Verdict::Up, "200 OK");
    assert!(probed.latency.is_some_and(|latency| latency > Duration::ZERO), "{probed:?}");
    assert_eq!(probed.certificate_expires, None);
}

#[tokio::test]
async fn an_unexpected_status_is_down_and_says_what_is_expected() {
    let mut tasks = Tasks::new();
    let web = web(&mut tasks).await;
    let probed = probe(Target::Http(http(web, "/broken")), Expect::default()).await;
    is(&probed, Verdict::Down, "status 503: 200-299 is expected");
    let expect = Expect { status: vec![StatusRange { from: 503, to: 503 }], ..Expect::default() };
    is(&probe(Target::Http(http(web, "/broken")), expect).await, Verdict::Up, "503");
}

#[tokio::test]
async fn redirects_are_followed_unless_the_manifest_says_no() {
    let mut tasks = Tasks::new();
    let web = web(&mut tasks).await;
    is(&probe(Target::Http(http(web, "/moved")), Expect::default()).await, Verdict::Up, "200");
    let stay = HttpTarget { follow_redirects: false, ..http(web, "/moved") };
    is(&probe(Target::Http(stay), Expect::default()).await, Verdict::Up, "307");
    let around = probe(Target::Http(http(web, "/around")), Expect::default()).await;
    is(&around, Verdict::Down, "redirect");
}

#[tokio::test]
async fn a_body_is_searched_for_text_and_expression() {
    let mut tasks = Tasks::new();
    let web = web(&mut tasks).await;
    let contains = |text: &str| Expect { body_contains: Some(text.into()), ..Expect::default() };
    let matches = |text: &str| Expect { body_matches: Some(text.into()), ..Expect::default() };
    is(&probe(Target::Http(http(web, "/")), contains("is well")).await, Verdict::Up, "200");
    let probed = probe(Target::Http(http(web, "/")), contains("is bad")).await;
    is(&probed, Verdict::Down, "the body does not hold `is bad`");
    is(&probe(Target::Http(http(web, "/")), matches("^all .* well$")).await, Verdict::Up, "200");
    let probed = probe(Target::Http(http(web, "/")), matches("^well")).await;
    is(&probed, Verdict::Down, "the body does not match `^well`");
    is(&probe(Target::Http(http(web, "/binary")), contains("needle")).await, Verdict::Up, "200");
}

#[tokio::test]
async fn of_a_large_body_only_the_first_part_is_read() {
    let mut tasks = Tasks::new();
    let web = web(&mut tasks).await;
    let contains = |text: &str| Expect { body_contains: Some(text.into()), ..Expect::default() };
    is(&probe(Target::Http(http(web, "/large")), contains("xxx")).await, Verdict::Up, "200");
    is(
        &probe(Target::Http(http(web, "/large")), contains("needle")).await,
        Verdict::Down,
        "the first MiB of the body does not hold `needle`",
    );
}

#[tokio::test]
async fn bodies_of_all_runs_share_one_room_and_one_that_does_not_fit_is_unknown() {
    let mut tasks = Tasks::new();
    let web = web(&mut tasks).await;
    let prober = Prober { bodies: Room::of(10_000), ..Prober::new() };
    let large = check(Target::Http(http(web, "/large")), matches("needle"));
    is(&prober.run(&large).await, Verdict::Unknown, "fill this node's memory");
    // A body that is only searched needs no memory, and the memory of the first run is returned.
    let looked_through = check(Target::Http(http(web, "/large")), contains("needle"));
    is(&prober.run(&looked_through).await, Verdict::Down, "does not hold `needle`");
    let small = check(Target::Http(http(web, "/")), matches("all .* well"));
    is(&prober.run(&small).await, Verdict::Up, "200");
}

#[tokio::test]
async fn method_headers_and_body_are_sent() {
    let mut tasks = Tasks::new();
    let web = web(&mut tasks).await;
    let target = HttpTarget {
        method: Method::Put,
        headers: [("X-Token".to_owned(), "secret".to_owned())].into(),
        body: Some("hello".into()),
        ..http(web, "/echo")
    };
    for part in ["PUT /echo HTTP/1.1\r\n", "x-token: secret\r\n", "\r\n\r\nhello"] {
        let expect = Expect { body_contains: Some(part.into()), ..Expect::default() };
        is(&probe(Target::Http(target.clone()), expect).await, Verdict::Up, "200");
    }
}

#[tokio::test]
async fn a_target_that_does_not_answer_is_down_at_its_timeout() {
    let mut tasks = Tasks::new();
    let web = web(&mut tasks).await;
    let check = check_of(UptimeCheckSpec {
        target: Target::Http(http(web, "/never")),
        interval: Span::secs(30),
        timeout: Some(Span::millis(50)),
        failure_threshold: 1,
        expect: Expect::default(),
    });
    let probed = Prober::new().run(&check).await;
    is(&probed, Verdict::Down, "no answer within 50ms");
    assert_eq!(probed.latency, None);
}

#[tokio::test]
async fn a_refused_connection_is_down_and_shows_neither_password_nor_token() {
    let (_held, address) = nobody();
    let target = HttpTarget::get(format!("http://user:secret@{address}/?token=secret"));
    let probed = probe(Target::Http(target), Expect::default()).await;
    is(&probed, Verdict::Down, "refused");
    assert!(!probed.message.contains("secret"), "{probed:?}");
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_down_in_one_line() {
    let mut tasks = Tasks::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn("not http", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"SSH-2.0\r\n\x07\r\n\r\n").await;
        }
    });
    let probed = probe(Target::Http(http(address, "/")), Expect::default()).await;
    is(&probed, Verdict::Down, "no response");
    assert!(!probed.message.contains(char::is_control), "{probed:?}");
}

#[test]
fn a_slow_answer_is_down_and_says_how_slow() {
    let expect = Expect { max_latency: Some(Span::millis(500)), ..Expect::default() };
    let check = check(Target::Http(HttpTarget::get("http://a/")), expect);
    let answer = |latency_ms| Answer {
        latency: Duration::from_millis(latency_ms),
        text: "200 OK".into(),
        wrong: None,
        certificate_expires: None,
        certificate_of: None,
    };
    is(&conclude(&check, Ok(answer(500)), UnixMs(0)), Verdict::Up, "200 OK");
    let slow = conclude(&check, Ok(answer(501)), UnixMs(0));
    is(&slow, Verdict::Down, "answered after 501 ms: at most 500ms is expected");
    assert_eq!(slow.latency, Some(Duration::from_millis(501)));
}

#[test]
fn a_message_is_one_line_of_bounded_length() {
    let line = one_line(&"a\nb\u{1b}[31m".repeat(200));
    assert_eq!(line.chars().count(), MOST_MESSAGE_CHARS + 1);
    assert!(!line.contains(char::is_control));
}

const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";

/// A server with a certificate for `localhost` that expires in so many days, and the authority to trust.
async fn tls(tasks: &mut Tasks, days: i64) -> (SocketAddr, String) {
    let (certificate, key, pem) = issued(days);
    (showing(tasks, &certificate, &key, NO_CONTENT.to_owned()).await, pem)
}

/// A certificate for `localhost` that expires in so many days, its key, and the authority to trust.
fn issued(days: i64) -> (String, String, String) {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(authority, authority_key);

    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let now = std::time::UNIX_EPOCH + Duration::from_millis(clock::unix_ms());
    params.not_before = (now - Duration::from_secs(90 * 86_400)).into();
    let ends = Duration::from_secs(days.unsigned_abs() * 86_400);
    params.not_after = if days < 0 { now - ends } else { now + ends }.into();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    (certificate.pem(), key.serialize_pem(), pem)
}

/// A server that shows this certificate, and gives this answer.
async fn showing(tasks: &mut Tasks, certificate: &str, key: &str, answer: String) -> SocketAddr {
    let config = crate::tls::testing::server(certificate, key);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn("tls", async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not trust the certificate aborts the handshake, which is tested here.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    address
}

/// Same as [`tls`], but redirects to another server.
async fn redirecting(tasks: &mut Tasks, days: i64, to: SocketAddr) -> (SocketAddr, String) {
    let (certificate, key, pem) = issued(days);
    let head = format!(
        "HTTP/1.1 301 Moved\r\nlocation: https://localhost:{}/\r\nconnection: close\r\n\r\n",
        to.port()
    );
    (showing(tasks, &certificate, &key, head).await, pem)
}

/// A server that answers every handshake with this TLS alert.
async fn alerting(tasks: &mut Tasks, alert: u8) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn("alert", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(&[21, 3, 1, 0, 2, 2, alert]).await;
            let _ = stream.shutdown().await;
        }
    });
    address
}

fn https(address: SocketAddr, pem: &str) -> HttpTarget {
    let url = format!("https://localhost:{}/", address.port());
    HttpTarget { ca_bundle: Some(pem.to_owned()), ..HttpTarget::get(url) }
}

#[tokio::test]
async fn a_certificate_that_ends_soon_is_down_and_one_that_does_not_is_up() {
    let mut tasks = Tasks::new();
    let (address, pem) = tls(&mut tasks, 10).await;
    let expect = |days| Expect { certificate_days: Some(days), ..Expect::default() };
    let probed = probe(Target::Http(https(address, &pem)), expect(9)).await;
    is(&probed, Verdict::Up, "204");
    let ends = probed.certificate_expires.unwrap().0;
    assert!(ends.abs_diff(clock::unix_ms() + 10 * 86_400_000) < 120_000, "{probed:?}");
    let probed = probe(Target::Http(https(address, &pem)), expect(11)).await;
    is(&probed, Verdict::Down, "the certificate ends in 9 days");
    is(&probed, Verdict::Down, "at least 11 are expected");
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_or_past_its_end_is_down_unless_it_is_not_verified() {
    let mut tasks = Tasks::new();
    let (address, pem) = tls(&mut tasks, 10).await;
    let unknown = HttpTarget { ca_bundle: None, ..https(address, &pem) };
    let probed = probe(Target::Http(unknown.clone()), Expect::default()).await;
    is(&probed, Verdict::Down, "not signed by a trusted authority: give the certificate");
    let anybody = HttpTarget { insecure_skip_tls_verify: true, ..unknown };
    is(&probe(Target::Http(anybody), Expect::default()).await, Verdict::Up, "204");

    let (address, pem) = tls(&mut tasks, -3).await;
    let probed = probe(Target::Http(https(address, &pem)), Expect::default()).await;
    is(&probed, Verdict::Down, "expired");
}

#[tokio::test]
async fn a_self_signed_certificate_and_one_on_p521_are_trusted_by_themselves() {
    let mut tasks = Tasks::new();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    for (certificate, key) in [(pem.as_str(), key.serialize_pem().as_str()), (P521, P521_KEY)] {
        let address = showing(&mut tasks, certificate, key, NO_CONTENT.to_owned()).await;
        let probed = probe(Target::Http(https(address, certificate)), Expect::default()).await;
        is(&probed, Verdict::Up, "204");
        let anybody = HttpTarget {
            insecure_skip_tls_verify: true,
            ca_bundle: None,
            ..https(address, certificate)
        };
        is(&probe(Target::Http(anybody), Expect::default()).await, Verdict::Up, "204");
    }
}

#[tokio::test]
async fn old_versions_and_ciphers_of_tls_are_named_with_the_remedy() {
    let mut tasks = Tasks::new();
    let [protocol_version, handshake_failure] = [70, 40];
    for (alert, reason, remedy) in [
        (protocol_version, "the server speaks only TLS 1.1 or older", "enable TLS 1.2 or 1.3"),
        (handshake_failure, "RSA key exchange", "enable TLS 1.3"),
    ] {
        let address = alerting(&mut tasks, alert).await;
        let target =
            HttpTarget { insecure_skip_tls_verify: true, ca_bundle: None, ..https(address, "") };
        let probed = probe(Target::Http(target), Expect::default()).await;
        is(&probed, Verdict::Down, reason);
        is(&probed, Verdict::Down, remedy);
    }
}

#[tokio::test]
async fn a_tcp_target_is_up_while_somebody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tcp = |address: SocketAddr| {
        Target::Tcp(TcpTarget { host: address.ip().to_string(), port: address.port() })
    };
    let address = listener.local_addr().unwrap();
    let probed = probe(tcp(address), Expect::default()).await;
    is(&probed, Verdict::Up, &format!("connected to {address}"));
    assert!(probed.latency.is_some());
    drop(listener);
    is(&probe(tcp(address), Expect::default()).await, Verdict::Down, "refused");
}

/// A name server that knows `shop.example` and answers all other queries with NXDOMAIN.
async fn name_server(tasks: &mut Tasks) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tasks.spawn("name server", async move {
        let mut buffer = [0; 1500];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let Ok(request) = Message::from_vec(&buffer[..length]) else { continue };
            let _ = socket.send_to(&answer_to(&request).to_vec().unwrap(), peer).await;
        }
    });
    address
}

fn answer_to(request: &Message) -> Message {
    let mut answer = Message::new(request.metadata.id, MessageType::Response, OpCode::Query);
    let query = request.queries[0].clone();
    let name = query.name().clone();
    let known = name.to_ascii().eq_ignore_ascii_case("shop.example.");
    match (known, query.query_type().to_string().as_str()) {
        (true, "A") => {
            for last in [1, 2, 3, 4, 5] {
                let data = RData::A(rdata::A::new(10, 0, 0, last));
                answer.add_answer(Record::from_rdata(name.clone(), 60, data));
            }
        }
        (true, "TXT") => {
            let data = RData::TXT(rdata::TXT::new(vec!["v=spf1 -all".to_owned()]));
            answer.add_answer(Record::from_rdata(name, 60, data));
        }
        (true, _) => {}
        (false, _) => answer.metadata.response_code = ResponseCode::NXDomain,
    }
    answer.add_query(query);
    answer
}

fn dns(server: SocketAddr, name: &str, record_type: RecordType) -> Target {
    Target::Dns(DnsTarget { name: name.into(), record_type, server: Some(server.to_string()) })
}

#[tokio::test]
async fn a_name_is_resolved_by_the_server_that_is_named() {
    let mut tasks = Tasks::new();
    let server = name_server(&mut tasks).await;
    let probed = probe(dns(server, "shop.example", RecordType::A), Expect::default()).await;
    is(&probed, Verdict::Up, "10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4 and 1 more");
    is(
        &probe(dns(server, "shop.example", RecordType::Txt), Expect::default()).await,
        Verdict::Up,
        "v=spf1",
    );
}

#[tokio::test]
async fn an_answer_without_the_expected_record_is_down() {
    let mut tasks = Tasks::new();
    let server = name_server(&mut tasks).await;
    let expect = |text: &str| Expect { answer_contains: Some(text.into()), ..Expect::default() };
    let target = dns(server, "shop.example", RecordType::A);
    is(&probe(target.clone(), expect("10.0.0.5")).await, Verdict::Up, "10.0.0.1");
    is(&probe(target, expect("10.9.9.9")).await, Verdict::Down, "no record holds `10.9.9.9`");
}

#[tokio::test]
async fn a_name_that_does_not_exist_and_one_without_such_records_are_told_apart() {
    let mut tasks = Tasks::new();
    let server = name_server(&mut tasks).await;
    let probed = probe(dns(server, "nothing.example", RecordType::A), Expect::default()).await;
    is(&probed, Verdict::Down, "there is no name nothing.example");
    let probed = probe(dns(server, "shop.example", RecordType::Mx), Expect::default()).await;
    is(&probed, Verdict::Down, "shop.example has no MX records");
    assert!(probed.latency.is_some());
}

#[tokio::test]
async fn localhost_is_resolved_without_a_network() {
    let target = Target::Dns(DnsTarget {
        name: "localhost".into(),
        record_type: RecordType::A,
        server: None,
    });
    let expect = Expect { answer_contains: Some("127.0.0.1".into()), ..Expect::default() };
    is(&probe(target, expect).await, Verdict::Up, "127.0.0.1");
}

/// A web server that answers each request with the closure's result, and returns all requests on a channel.
async fn scripted(
    tasks: &mut Tasks,
    answer: impl Fn(&str) -> Vec<u8> + Clone + Send + 'static,
) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, requests) = mpsc::channel(100);
    tasks.spawn("scripted", async move {
        let mut serving = Tasks::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let (seen, answer) = (seen.clone(), answer.clone());
            serving.spawn("connection", async move {
                let mut request = Vec::new();
                while !is_whole(&request) {
                    if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let request = String::from_utf8_lossy(&request).into_owned();
                let answer = answer(&request);
                let _ = seen.send(request).await;
                let _ = stream.write_all(&answer).await;
                // A body without a length ends with the connection, which the client closes.
                let _ = stream.read(&mut [0]).await;
            });
        }
    });
    (address, requests)
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

const SECRETS: [&str; 6] = [
    "HEADER-SECRET",
    "LOGIN-SECRET",
    "COOKIE-SECRET",
    "BODY-SECRET",
    "QUERY-SECRET",
    "USER-SECRET",
];

fn secret(address: SocketAddr, path: &str) -> HttpTarget {
    let headers = [
        ("X-Api-Key", "HEADER-SECRET"),
        ("Authorization", "Bearer LOGIN-SECRET"),
        ("Cookie", "COOKIE-SECRET"),
        ("Host", "shop.example"),
        ("User-Agent", "HEADER-SECRET"),
        ("Referer", "http://HEADER-SECRET/"),
    ];
    HttpTarget {
        method: Method::Post,
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        body: Some("BODY-SECRET".into()),
        ..HttpTarget::get(format!("http://u:USER-SECRET@{address}{path}?token=QUERY-SECRET"))
    }
}

#[tokio::test]
async fn nothing_that_a_manifest_holds_reaches_another_origin() {
    for status in ["301 A", "302 A", "303 A", "307 A", "308 A"] {
        let mut tasks = Tasks::new();
        let (other, mut sent_to_other) =
            scripted(&mut tasks, |_| answer("200 OK", b"all is well")).await;
        let back = std::sync::Arc::new(std::sync::OnceLock::new());
        let home = std::sync::Arc::clone(&back);
        // Another origin may redirect back to the first, to a path of its choice: that request is still a
        // bare one.
        let (between, mut sent_between) = scripted(&mut tasks, move |_| {
            let home = home.get().unwrap();
            answer(&format!("{status}\r\nlocation: http://{home}/echo"), b"")
        })
        .await;
        let (first, mut sent_first) = scripted(&mut tasks, move |request| {
            let to = if request.contains(" /echo") { other } else { between };
            answer(&format!("{status}\r\nlocation: http://{to}/elsewhere"), b"")
        })
        .await;
        back.set(first).unwrap();
        let probed = probe(Target::Http(secret(first, "/health")), Expect::default()).await;
        is(&probed, Verdict::Up, "200 OK");
        let begun = sent_first.recv().await.unwrap();
        assert!(begun.contains("HEADER-SECRET") && begun.contains("host: shop.example"), "{begun}");
        for (host, requests) in
            [(between, &mut sent_between), (first, &mut sent_first), (other, &mut sent_to_other)]
        {
            let request = requests.recv().await.unwrap();
            for secret in SECRETS {
                assert!(!request.contains(secret), "{status}: {request}");
            }
            assert!(!request.to_lowercase().contains("referer"), "{status}: {request}");
            assert!(request.contains(&format!("host: {host}")), "{status}: {request}");
            assert!(request.contains("user-agent: bellwether/"), "{status}: {request}");
        }
    }
}

#[tokio::test]
async fn the_same_origin_is_sent_the_same_again_as_curl_and_browsers_do() {
    for (status, method, has_body) in [
        ("303 A", "GET", false),
        ("302 A", "GET", false),
        ("307 A", "POST", true),
        ("308 A", "POST", true),
    ] {
        let mut tasks = Tasks::new();
        let (address, mut sent) = scripted(&mut tasks, move |request| {
            if request.contains(" /next") {
                answer("200 OK", b"")
            } else {
                answer(&format!("{status}\r\nlocation: next#part"), b"")
            }
        })
        .await;
        let mut target = secret(address, "/health");
        target.headers.remove("Authorization");
        is(&probe(Target::Http(target), Expect::default()).await, Verdict::Up, "200 OK");
        let first = sent.recv().await.unwrap();
        assert!(first.starts_with("POST /health?token=QUERY-SECRET HTTP/1.1"), "{first}");
        let second = sent.recv().await.unwrap();
        assert!(second.starts_with(&format!("{method} /next HTTP/1.1")), "{second}");
        assert!(
            second.contains("HEADER-SECRET") && second.contains("authorization: Basic"),
            "{second}"
        );
        assert_eq!(second.contains("BODY-SECRET"), has_body, "{second}");
    }
}

#[tokio::test]
async fn a_redirect_to_nowhere_is_down_and_does_not_show_where_to() {
    for location in ["ftp://SECRET/", "http://SECRET:x/", "http://", "mailto:SECRET"] {
        let mut tasks = Tasks::new();
        let (address, _sent) = scripted(&mut tasks, move |_| {
            answer(&format!("302 Found\r\nlocation: {location}"), b"")
        })
        .await;
        let probed = probe(Target::Http(http(address, "/")), Expect::default()).await;
        is(&probed, Verdict::Down, "redirected to what is no URL of http or https");
        assert!(!probed.message.contains("SECRET"), "{probed:?}");
    }
}

fn contains(text: &str) -> Expect {
    Expect { body_contains: Some(text.into()), ..Expect::default() }
}

fn matches(text: &str) -> Expect {
    Expect { body_matches: Some(text.into()), ..Expect::default() }
}

#[tokio::test]
async fn a_body_is_decoded_as_its_headers_say() {
    let mut tasks = Tasks::new();
    let (address, _sent) = scripted(&mut tasks, |request| {
        let path = request.split(' ').nth(1).unwrap();
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut packed, b"all is well").unwrap();
        match path {
            "/gzip" => answer("200 OK\r\ncontent-encoding: gzip", &packed.finish().unwrap()),
            "/zstd" => answer("200 OK\r\ncontent-encoding: zstd", b"x"),
            "/latin" => {
                answer("200 OK\r\ncontent-type: text/html; charset=iso-8859-1", b"Gr\xfc\xdfe")
            }
            _ => answer("200 OK", b"\xef\xbb\xbfall is well"),
        }
    })
    .await;
    let ask = async |path: &str, expect| probe(Target::Http(http(address, path)), expect).await;
    is(&ask("/gzip", contains("is well")).await, Verdict::Up, "200");
    is(&ask("/gzip", matches("^all is well$")).await, Verdict::Up, "200");
    is(&ask("/latin", contains("Grüße")).await, Verdict::Up, "200");
    is(&ask("/mark", matches("^all")).await, Verdict::Up, "200");
    is(&ask("/zstd", contains("x")).await, Verdict::Down, "content coding that cannot be decoded");
    is(&ask("/zstd", Expect::default()).await, Verdict::Up, "200");
}

#[tokio::test]
async fn a_body_without_an_end_is_up_as_soon_as_it_holds_the_text() {
    let mut tasks = Tasks::new();
    let (address, _sent) =
        scripted(&mut tasks, |_| b"HTTP/1.1 200 OK\r\n\r\nall is well".to_vec()).await;
    // The default timeout is long: only a check that does not wait for it is up.
    is(&probe(Target::Http(http(address, "/")), contains("is well")).await, Verdict::Up, "200 OK");
    let within = |expect| {
        check_of(UptimeCheckSpec {
            target: Target::Http(http(address, "/")),
            interval: Span::secs(30),
            timeout: Some(Span::millis(500)),
            failure_threshold: 1,
            expect,
        })
    };
    let probed = Prober::new().run(&within(contains("is bad"))).await;
    is(&probed, Verdict::Down, "the part of the body that came in time does not hold `is bad`");
    assert!(probed.latency.is_some(), "the head was there: {probed:?}");
    let probed = Prober::new().run(&within(matches("well$"))).await;
    is(&probed, Verdict::Down, "the body has not ended in time, as `bodyMatches` needs it to");
}

/// An HTTP/2 server that answers with the names the client sent: `:authority`, `host`, and the name of the
/// TLS handshake.
async fn http2(tasks: &mut Tasks) -> (SocketAddr, String) {
    let key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "shop.example".to_owned()];
    let pem = CertificateParams::new(names).unwrap().self_signed(&key).unwrap().pem();
    let mut config = crate::tls::testing::server(&pem, &key.serialize_pem());
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn("http2", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let name = stream.get_ref().1.server_name().unwrap_or("none").to_owned();
            let service = hyper::service::service_fn(move |request: ::http::Request<_>| {
                let _: &hyper::body::Incoming = request.body();
                let authority = request.uri().authority().map(ToString::to_string);
                let host = request.headers().get("host").cloned();
                let text = format!("{authority:?} {host:?} {name}");
                async move { Ok::<_, std::convert::Infallible>(::http::Response::new(text)) }
            });
            let executor = hyper_util::rt::TokioExecutor::new();
            let serving = hyper::server::conn::http2::Builder::new(executor);
            let _ = serving.serve_connection(hyper_util::rt::TokioIo::new(stream), service).await;
        }
    });
    (address, pem)
}

#[tokio::test]
async fn over_http2_host_is_the_authority_and_the_server_name_is_a_choice_of_its_own() {
    let mut tasks = Tasks::new();
    let (address, pem) = http2(&mut tasks).await;
    let port = address.port();
    let plain = https(address, &pem);
    let expect = contains(&format!("Some(\"localhost:{port}\") None localhost"));
    is(&probe(Target::Http(plain.clone()), expect).await, Verdict::Up, "200");

    let host = [("Host".to_owned(), "shop.example".to_owned())];
    let hosted = HttpTarget { headers: host.into(), ..plain.clone() };
    let expect = contains("Some(\"shop.example\") None localhost");
    is(&probe(Target::Http(hosted.clone()), expect).await, Verdict::Up, "200");

    // The URL has the address, the certificate has the name.
    let by_address = HttpTarget { url: format!("https://{address}/"), ..hosted };
    let probed = probe(Target::Http(by_address.clone()), Expect::default()).await;
    is(&probed, Verdict::Down, "or as `serverName`");
    let named = HttpTarget { server_name: Some("shop.example".into()), ..by_address };
    let expect = contains("Some(\"shop.example\") None shop.example");
    is(&probe(Target::Http(named), expect).await, Verdict::Up, "200");
}

#[tokio::test]
async fn the_certificate_that_ends_first_counts_of_all_servers_on_the_way() {
    let mut tasks = Tasks::new();
    let (last, last_pem) = tls(&mut tasks, 30).await;
    let (first, pem) = redirecting(&mut tasks, 3, last).await;
    let target = https(first, &format!("{pem}{last_pem}"));
    let expect = |days| Expect { certificate_days: Some(days), ..Expect::default() };
    let probed = probe(Target::Http(target.clone()), expect(14)).await;
    is(&probed, Verdict::Down, "the certificate ends in 2 days");
    let ends = probed.certificate_expires.unwrap().0;
    assert!(ends.abs_diff(clock::unix_ms() + 3 * 86_400_000) < 120_000, "{probed:?}");
    is(&probe(Target::Http(target), expect(2)).await, Verdict::Up, "204");
}

#[test]
fn a_certificate_of_another_host_on_the_way_is_named() {
    let target = Target::Http(HttpTarget::get("https://a/"));
    let check = check(target, Expect { certificate_days: Some(3), ..Expect::default() });
    let answer = Answer {
        certificate_expires: Some(UnixMs(86_400_000)),
        certificate_of: Some("a.example".into()),
        ..Answer::after(Duration::ZERO)
    };
    is(
        &conclude(&check, Ok(answer), UnixMs(0)),
        Verdict::Down,
        "the certificate of a.example ends in 1",
    );
}

#[tokio::test]
async fn an_answer_counts_as_long_as_the_timeout_lasts() {
    let mut tasks = Tasks::new();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tasks.spawn("late name server", async move {
        let mut buffer = [0; 1500];
        let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
        let answer = answer_to(&Message::from_vec(&buffer[..length]).unwrap()).to_vec().unwrap();
        // The delay is more than a third of the timeout.
        tokio::time::sleep(Duration::from_secs(4)).await;
        socket.send_to(&answer, peer).await.unwrap();
    });
    let probed = probe(dns(address, "shop.example", RecordType::A), Expect::default()).await;
    is(&probed, Verdict::Up, "10.0.0.1");
}

#[tokio::test]
async fn an_address_is_held_by_itself_alone_and_names_are_of_no_case() {
    let mut tasks = Tasks::new();
    let server = name_server(&mut tasks).await;
    let expect = |text: &str| Expect { answer_contains: Some(text.into()), ..Expect::default() };
    let a = dns(server, "shop.example", RecordType::A);
    is(&probe(a.clone(), expect("10.0.0.5")).await, Verdict::Up, "10.0.0.1");
    is(&probe(a.clone(), expect("10.0.0")).await, Verdict::Up, "10.0.0.1");
    is(&probe(a, expect("0.0.0.1")).await, Verdict::Down, "no record holds `0.0.0.1`");
    assert!(dns::holds(RecordType::Aaaa, "2001:db8::1", "2001:DB8:0::1"));
    assert!(!dns::holds(RecordType::A, "10.0.0.10", "10.0.0.1"));
    assert!(dns::holds(RecordType::Mx, "10 Mail.example.", "mail.EXAMPLE"));
    assert!(!dns::holds(RecordType::Txt, "v=spf1 -all", "V=SPF1"));
}

#[test]
fn what_this_node_is_short_of_makes_no_target_down() {
    let check =
        check(Target::Tcp(TcpTarget { host: "127.0.0.1".into(), port: 1 }), Expect::default());
    let of = |errno: rustix::io::Errno| {
        let error = std::io::Error::from_raw_os_error(errno.raw_os_error());
        conclude(&check, Err(Failure::of("cannot connect", &error)), UnixMs(0))
    };
    is(&of(rustix::io::Errno::MFILE), Verdict::Unknown, "`ulimit -n`");
    is(&of(rustix::io::Errno::CONNREFUSED), Verdict::Down, "cannot connect");
}

/// Blocks the thread while the answer arrives, so that both the answer and the timeout are ready afterwards.
async fn probed_on_a_thread_that_stands_still(for_ms: u64) -> Probed {
    let mut tasks = Tasks::new();
    let address = web(&mut tasks).await;
    let target = TcpTarget { host: address.ip().to_string(), port: address.port() };
    let spec = UptimeCheckSpec {
        target: Target::Tcp(target),
        interval: Span::secs(30),
        timeout: Some(Span::millis(100)),
        failure_threshold: 1,
        expect: Expect::default(),
    };
    let (prober, check) = (Prober::new(), check_of(spec));
    let stands_still = async { std::thread::sleep(Duration::from_millis(for_ms)) };
    tokio::join!(prober.run(&check), stands_still).0
}

#[tokio::test]
async fn an_answer_that_comes_after_the_timeout_is_none() {
    let probed = probed_on_a_thread_that_stands_still(300).await;
    assert_ne!(probed.verdict, Verdict::Up, "{probed:?}");
}

#[tokio::test]
async fn a_process_that_stood_still_knows_nothing_of_the_target() {
    let probed = probed_on_a_thread_that_stands_still(1200).await;
    is(&probed, Verdict::Unknown, "this node was held up");
}

#[tokio::test]
async fn what_is_denied_is_asked_by_no_kind_of_check_and_after_no_redirect() {
    let mut tasks = Tasks::new();
    let (there, server) = (web(&mut tasks).await, name_server(&mut tasks).await);
    let elsewhere = TcpListener::bind("[::1]:0").await.unwrap();
    let to = elsewhere.local_addr().unwrap();
    let redirect =
        move |_: &str| answer(&format!("307 Temporary Redirect\r\nlocation: http://{to}/"), b"");
    let (moved, _requests) = scripted(&mut tasks, redirect).await;
    let denied = ["127.0.0.0/8", "::1"].map(|network| network.parse().unwrap());
    let tcp = |host: &str| Target::Tcp(TcpTarget { host: host.into(), port: there.port() });
    for target in
        [Target::Http(http(there, "/")), tcp("localhost"), dns(server, "up.example", RecordType::A)]
    {
        let prober = Prober::new().denying(denied);
        is(
            &prober.run(&check(target, Expect::default())).await,
            Verdict::Unknown,
            "--deny-network",
        );
    }
    let prober = Prober::new().denying(["::1".parse().unwrap()]);
    let redirected = check(Target::Http(http(moved, "/")), Expect::default());
    is(&prober.run(&redirected).await, Verdict::Unknown, "--deny-network");
}

#[tokio::test]
async fn a_name_is_looked_up_and_an_unknown_one_is_named() {
    let mut tasks = Tasks::new();
    let address = web(&mut tasks).await;
    let port = address.port();
    let tcp = Target::Tcp(TcpTarget { host: "localhost".into(), port });
    is(&probe(tcp, Expect::default()).await, Verdict::Up, "connected to 127.0.0.1");
    let url = format!("http://localhost:{port}/");
    is(&probe(Target::Http(HttpTarget::get(url)), Expect::default()).await, Verdict::Up, "200 OK");
}

#[tokio::test]
async fn a_body_is_matched_by_an_expression() {
    let mut tasks = Tasks::new();
    let address = web(&mut tasks).await;
    let matching =
        |pattern: &str| Expect { body_matches: Some(pattern.into()), ..Expect::default() };
    let target = || Target::Http(http(address, "/"));
    is(&probe(target(), matching("^all .* well$")).await, Verdict::Up, "200 OK");
    is(&probe(target(), matching("ill$")).await, Verdict::Down, "the body does not match `ill$`");
}
