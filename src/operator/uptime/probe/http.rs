//! Sends an HTTP request and follows its redirects.
//!
//! The one rule to keep: the contents of a manifest are sent only to the origin of its URL. A redirect to
//! another scheme, host or port gets a bare request, and so do all redirects after it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method as Verb, Response, StatusCode, header};
use hyper::body::Incoming;
use reqwest::Url;
use rustls::ClientConfig;

use super::{Answer, Failure, Prober, expression, late, left, resolve::Names, since, trusted};
use crate::{
    clock,
    engine::BootTime,
    operator::uptime::{
        check::Check,
        resource::{HttpTarget, Method},
        value::{StatusRange, UnixMs},
    },
    tls::{self, Trust},
};

pub(super) mod body;
mod coding;
mod exchange;

const MOST_REDIRECTS: usize = 10;
const USER_AGENT: &str = concat!("bellwether/", env!("CARGO_PKG_VERSION"));

const WELL: StatusRange = StatusRange { from: 200, to: 299 };
const REDIRECTED: StatusRange = StatusRange { from: 300, to: 399 };

/// Request before it is sent.
struct Ask {
    method: Verb,
    url: Url,
    /// Headers of the manifest and the usual headers.
    headers: HeaderMap,
    /// Value of `Host` or `:authority`, if it is not the URL's host.
    host: Option<HeaderValue>,
    body: Bytes,
    /// Name in the TLS handshake, if it is not the URL's host.
    server_name: Option<String>,
}

pub(super) async fn ask(
    prober: &Prober,
    check: &Check,
    target: &HttpTarget,
    began: BootTime,
    timeout: Duration,
) -> Result<Answer, Failure> {
    let tls = Arc::new(tls_of(prober, target)?);
    let followed = follow(&prober.names, target, &tls, began, timeout);
    let followed = tokio::time::timeout(left(began, timeout), followed).await;
    let Followed { exchanged, certificate } = followed.map_err(|_| late(timeout))??;
    let latency = since(began);
    let text = status_text(exchanged.response.status());
    let wrong = match wrong_status(check, target, exchanged.response.status().as_u16()) {
        Some(wrong) => Some(wrong),
        None => wrong_body(prober, check, exchanged.response, began + timeout).await?,
    };
    let (certificate_expires, certificate_of) = certificate.unzip();
    Ok(Answer {
        latency,
        text,
        wrong,
        certificate_expires,
        certificate_of: certificate_of.flatten(),
    })
}

/// The last answer, and the first expiry of all certificates on the way: with the host that showed the
/// certificate, if that is not the last host.
struct Followed {
    exchanged: exchange::Exchanged,
    certificate: Option<(UnixMs, Option<String>)>,
}

async fn follow(
    names: &Names,
    target: &HttpTarget,
    tls: &Arc<ClientConfig>,
    began: BootTime,
    timeout: Duration,
) -> Result<Followed, Failure> {
    let mut ask = Ask::of(target)?;
    let mut seen: Vec<(UnixMs, String)> = Vec::new();
    for redirects in 0.. {
        let exchanged = exchange::exchange(names, &ask, tls, left(began, timeout)).await?;
        let host = ask.url.host_str().unwrap_or_default().to_owned();
        seen.extend(exchanged.certificate_expires.map(|ends| (ends, host.clone())));
        let next = target.follow_redirects.then(|| location(&exchanged.response)).flatten();
        let Some(location) = next else {
            let first = seen.into_iter().min_by_key(|(ends, _)| *ends);
            let certificate = first.map(|(ends, of)| (ends, Some(of).filter(|of| *of != host)));
            return Ok(Followed { exchanged, certificate });
        };
        if redirects == MOST_REDIRECTS {
            break;
        }
        ask = ask.redirected(exchanged.response.status(), location)?;
    }
    Err(Failure::new(format_args!("redirected more than {MOST_REDIRECTS} times")))
}

/// Returns the location of a redirect.
fn location(response: &Response<Incoming>) -> Option<&HeaderValue> {
    matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308)
        .then(|| response.headers().get(header::LOCATION))
        .flatten()
}

impl Ask {
    fn of(target: &HttpTarget) -> Result<Self, Failure> {
        let url = Url::parse(&target.url);
        let url = url.map_err(|error| Failure::of("the URL cannot be read", &error))?;
        let mut headers = usual_headers();
        for (name, value) in &target.headers {
            let key = HeaderName::try_from(name).map_err(|error| Failure::of(name, &error))?;
            let mut value =
                HeaderValue::try_from(value).map_err(|error| Failure::of(name, &error))?;
            value.set_sensitive(true);
            headers.insert(key, value);
        }
        let host = headers.remove(header::HOST);
        let body = target.body.clone().unwrap_or_default().into();
        let server_name = target.server_name.clone();
        Ok(Self { method: verb(target.method), url, headers, host, body, server_name })
    }

    /// Returns the request that follows a redirect. Another origin gets nothing of this request.
    fn redirected(mut self, status: StatusCode, location: &HeaderValue) -> Result<Self, Failure> {
        // The location is not shown, because it may repeat what was sent.
        const NOWHERE: &str = "redirected to what is no URL of http or https";
        let nowhere = || Failure::new(NOWHERE);
        let location = std::str::from_utf8(location.as_bytes()).map_err(|_| nowhere())?;
        let mut url = self.url.join(location).map_err(|_| nowhere())?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(nowhere());
        }
        let becomes_get = match status.as_u16() {
            303 => self.method != Verb::HEAD,
            301 | 302 => self.method == Verb::POST,
            _ => false,
        };
        if becomes_get {
            self.method = Verb::GET;
            self.drop_body();
        }
        if url.origin() == self.url.origin() {
            // As in curl, credentials of the URL stay valid within the origin.
            if url.username().is_empty() && url.password().is_none() {
                let _ = url.set_username(self.url.username());
                let _ = url.set_password(self.url.password());
            }
            return Ok(Self { url, ..self });
        }
        self.drop_body();
        let headers = usual_headers();
        Ok(Self { url, headers, host: None, server_name: None, ..self })
    }

    fn drop_body(&mut self) {
        self.body = Bytes::new();
        let of_body = [
            header::CONTENT_ENCODING,
            header::CONTENT_LANGUAGE,
            header::CONTENT_LENGTH,
            header::CONTENT_LOCATION,
            header::CONTENT_TYPE,
            header::EXPECT,
            header::TRANSFER_ENCODING,
        ];
        for name in of_body {
            self.headers.remove(name);
        }
    }
}

/// Headers that every request carries.
fn usual_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers
}

fn verb(of: Method) -> Verb {
    match of {
        Method::Get => Verb::GET,
        Method::Head => Verb::HEAD,
        Method::Options => Verb::OPTIONS,
        Method::Post => Verb::POST,
        Method::Put => Verb::PUT,
        Method::Patch => Verb::PATCH,
        Method::Delete => Verb::DELETE,
    }
}

fn status_text(status: StatusCode) -> String {
    let text = format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or(""));
    text.trim_end().to_owned()
}

fn wrong_status(check: &Check, target: &HttpTarget, code: u16) -> Option<String> {
    let expected = &check.spec().expect.status;
    let well = if expected.is_empty() {
        WELL.contains(code) || (!target.follow_redirects && REDIRECTED.contains(code))
    } else {
        expected.iter().any(|range| range.contains(code))
    };
    if well {
        return None;
    }
    let expected = match (expected.as_slice(), target.follow_redirects) {
        ([], true) => WELL.to_string(),
        ([], false) => format!("{WELL} or {REDIRECTED}"),
        (ranges, _) => ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "),
    };
    Some(format!("status {code}: {expected} is expected"))
}

/// Returns what is not as expected in the body. Reads only as much of the body as needed.
async fn wrong_body(
    prober: &Prober,
    check: &Check,
    response: Response<Incoming>,
    ends_by: BootTime,
) -> Result<Option<String>, Failure> {
    let contains = check.spec().expect.body_contains.as_deref();
    let matches = check.spec().expect.body_matches.as_deref();
    if contains.is_none() && matches.is_none() {
        return Ok(None);
    }
    // An expression may match at the end of the text, so the whole text is needed.
    let enough = contains.filter(|_| matches.is_none());
    let left = ends_by.since(clock::boot_now());
    let body::Read { text, ended, room: _room } =
        body::read(response, enough, left, &prober.bodies).await?;
    if ended == body::Ended::Enough {
        return Ok(None);
    }
    let part = match ended {
        body::Ended::Cut => "the first MiB of the body",
        body::Ended::Late => "the part of the body that came in time",
        body::Ended::Whole | body::Ended::Enough => "the body",
    };
    if let Some(expected) = contains.filter(|expected| enough.is_some() || !text.contains(expected))
    {
        return Ok(Some(format!("{part} does not hold `{expected}`")));
    }
    let Some(pattern) = matches else { return Ok(None) };
    if ended == body::Ended::Late {
        let remedy = "give it a longer timeout, or expect `bodyContains`, which needs no end";
        return Ok(Some(format!(
            "the body has not ended in time, as `bodyMatches` needs it to: {remedy}"
        )));
    }
    let is_match = expression::is_match(pattern, text, ends_by).await?;
    Ok((!is_match).then(|| format!("{part} does not match `{pattern}`")))
}

fn tls_of(prober: &Prober, target: &HttpTarget) -> Result<ClientConfig, Failure> {
    match &target.ca_bundle {
        _ if target.insecure_skip_tls_verify => {
            Ok(with_alpn(tls::trusting_anybody().with_no_client_auth()))
        }
        Some(pem) => verifying(trusted(pem).map_err(Failure::new)?)
            .map_err(|error| Failure::of("cannot use caBundle", &error)),
        None => Ok(ClientConfig::clone(&prober.public)),
    }
}

/// TLS configuration that verifies servers by these certificates.
pub(super) fn verifying(trust: Trust) -> Result<ClientConfig, rustls::Error> {
    Ok(with_alpn(tls::trusting(trust)?.with_no_client_auth()))
}

fn with_alpn(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}
