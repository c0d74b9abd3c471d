//! Exchange of one request and its answer, on a connection of their own.

use std::{
    future::Future,
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header, uri::PathAndQuery};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    rt::Executor,
};
use hyper_util::rt::TokioIo;
use reqwest::Url;
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, ServerName},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Ask, Failure};
use crate::{
    causes::find,
    operator::uptime::{
        probe::{connect::connect, resolve::Names},
        value::UnixMs,
    },
    tasks::Tasks,
    tls::{self, Explained, Words},
};

/// Beginning of the message when there is no answer.
const DOING: &str = "no response";

/// Names of the settings that the author of a check can change.
const WORDS: Words = Words {
    bundle: "caBundle",
    name: "use a name that is in it in the URL, or as `serverName`",
    no_client_certificate: "checks have none: do not ask for one at this URL",
    client_certificate: "the client certificate",
    client_certificate_rejected: "checks have none: do not ask for one at this URL",
};

/// Head of an answer. The body can be read as long as this value lives.
pub(super) struct Exchanged {
    pub(super) response: Response<Incoming>,
    /// Expiry of the server's certificate, with TLS.
    pub(super) certificate_expires: Option<UnixMs>,
    _connection: Closing,
}

/// Connects, sends the request and waits for the head of the answer. `within` is how long the caller waits.
///
/// # Errors
///
/// A [`Failure`] if there is no answer. The text of the failure shows nothing of the request.
///
/// # Cancel safety
///
/// If dropped, the connection is closed.
pub(super) async fn exchange(
    names: &Names,
    ask: &Ask,
    tls: &Arc<ClientConfig>,
    within: Duration,
) -> Result<Exchanged, Failure> {
    let url = &ask.url;
    let host = url.host_str().ok_or_else(|| Failure::new("the URL has no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_or_known_default().unwrap_or_default();
    let stream = connect(names, host, port, within).await?;
    // The request is small and the answer depends on it, so it is sent without delay.
    let _ = stream.set_nodelay(true);
    let closing = Closing::default();
    let connection = &closing.0;
    if url.scheme() != "https" {
        let response = over_http1(stream, ask, connection).await?;
        return Ok(Exchanged { response, certificate_expires: None, _connection: closing });
    }
    let name = ask.server_name.as_deref().unwrap_or(host).trim_end_matches('.').to_owned();
    let name = ServerName::try_from(name)
        .map_err(|_| Failure::new("the host is no name that a certificate can have"))?;
    let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await;
    let stream = stream.map_err(|error| no_response(&error))?;
    let certificate_expires = certificate_expires(&stream);
    let response = match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => over_http2(stream, ask, connection).await?,
        _ => over_http1(stream, ask, connection).await?,
    };
    Ok(Exchanged { response, certificate_expires, _connection: closing })
}

async fn over_http1(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ask: &Ask,
    connection: &Connection,
) -> Result<Response<Incoming>, Failure> {
    // As lenient as curl and browsers.
    let (mut sender, driver) = http1::Builder::new()
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .ignore_invalid_headers_in_responses(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| no_response(&error))?;
    connection.execute(async move {
        // The sender of the request gets the error of the connection.
        let _ = driver.await;
    });
    let mut request = request(ask, Uri::from(path_and_query(&ask.url)))?;
    let host = match &ask.host {
        Some(host) => host.clone(),
        None => HeaderValue::try_from(authority(&ask.url))
            .map_err(|_| Failure::new("the URL's host cannot be sent"))?,
    };
    request.headers_mut().insert(header::HOST, host);
    sender.send_request(request).await.map_err(|error| no_response(&error))
}

/// With HTTP/2 the host is in `:authority`, and there is no `Host` (RFC 9113, 8.3.1).
async fn over_http2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ask: &Ask,
    connection: &Connection,
) -> Result<Response<Incoming>, Failure> {
    let (mut sender, driver) = http2::handshake(connection.clone(), TokioIo::new(stream))
        .await
        .map_err(|error| no_response(&error))?;
    connection.execute(async move {
        let _ = driver.await;
    });
    let authority = match &ask.host {
        Some(host) => host.to_str().unwrap_or_default().to_owned(),
        None => authority(&ask.url),
    };
    let uri = Uri::builder()
        .scheme("https")
        .authority(authority)
        .path_and_query(path_and_query(&ask.url))
        .build()
        .map_err(|_| Failure::new("`Host` is no name that HTTP/2 can ask for: write a host"))?;
    let mut request = request(ask, uri)?;
    // Servers of HTTP/2 reject connection-specific headers (RFC 9113, 8.2.2).
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        request.headers_mut().remove(name);
    }
    sender.send_request(request).await.map_err(|error| no_response(&error))
}

fn request(ask: &Ask, uri: Uri) -> Result<Request<Full<Bytes>>, Failure> {
    let mut request = Request::new(Full::new(ask.body.clone()));
    *request.method_mut() = ask.method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = ask.headers.clone();
    if let Some(credentials) = credentials(&ask.url)?
        && !request.headers().contains_key(header::AUTHORIZATION)
    {
        request.headers_mut().insert(header::AUTHORIZATION, credentials);
    }
    Ok(request)
}

/// Returns user and password of the URL as the value of `Authorization`.
fn credentials(url: &Url) -> Result<Option<HeaderValue>, Failure> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let decoded = |text: &str| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
    let user = decoded(url.username());
    let password = decoded(url.password().unwrap_or_default());
    let pair = [user.as_slice(), b":", password.as_slice()].concat();
    let value = format!("Basic {}", data_encoding::BASE64.encode(&pair));
    let mut value = HeaderValue::try_from(value)
        .map_err(|_| Failure::new("user and password of the URL cannot be sent"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn path_and_query(url: &Url) -> PathAndQuery {
    let text = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    // A parsed URL contains only characters that a request line may have.
    PathAndQuery::try_from(text).unwrap_or_else(|_| PathAndQuery::from_static("/"))
}

/// Returns the host, and the port unless it is the default port of the scheme.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn certificate_expires<T>(stream: &TlsStream<T>) -> Option<UnixMs> {
    let shown: &[CertificateDer<'_>] = stream.get_ref().1.peer_certificates()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(shown.first()?).ok()?;
    let ends = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    Some(UnixMs(Duration::from_secs(ends).as_millis().try_into().unwrap_or(u64::MAX)))
}

/// Explains in our own words why there was no response.
fn no_response(error: &(dyn std::error::Error + 'static)) -> Failure {
    let tls = find(error);
    if let Some(Explained { reason, remedy }) = tls.and_then(|tls| tls::explain(tls, &WORDS)) {
        return Failure::new(format_args!("{DOING}: {reason}: {remedy}"));
    }
    if let Some(rustls::Error::InvalidMessage(_)) = tls {
        return Failure::new(format_args!(
            "{DOING}: what the server sent is no TLS: is it `http` at this port?"
        ));
    }
    match error.downcast_ref::<hyper::Error>() {
        Some(error) if error.is_parse() => {
            Failure::new(format_args!("{DOING}: what the server sent is no HTTP"))
        }
        Some(error) if error.is_incomplete_message() => Failure::new(format_args!(
            "{DOING}: the server closed the connection before its answer was complete"
        )),
        Some(error) => Failure::of_connection("no response: the connection broke off", error),
        // Errors of the TLS handshake contain nothing of the request.
        None => Failure::of(DOING, error),
    }
}

/// Tasks that drive one connection.
#[derive(Clone, Default)]
struct Connection(Arc<Mutex<Tasks>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Connection {
    fn execute(&self, future: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).spawn("http connection", future);
    }
}

/// Aborts the tasks of a connection when dropped. The tasks hold the connection too, so it would not end
/// itself.
#[derive(Default)]
struct Closing(Connection);

impl Drop for Closing {
    fn drop(&mut self) {
        let tasks = mem::take(&mut *self.0.0.lock().unwrap_or_else(PoisonError::into_inner));
        drop(tasks);
    }
}
