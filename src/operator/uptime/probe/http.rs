//! Sends an HTTP request.

use std::time::Duration;

use reqwest::{
    Client, Response, header::HeaderMap, header::HeaderName, header::HeaderValue, redirect,
    tls::TlsInfo,
};
use rustls::ClientConfig;

use super::{Answer, Failure, Prober, expression, since, trusted};
use crate::{
    engine::BootTime,
    operator::uptime::{
        check::Check,
        resource::{HttpTarget, Method},
        value::{StatusRange, UnixMs},
    },
    tls::{self, Explained, Trust, Words},
};

/// How much of a body is looked at.
const MOST_BODY_BYTES: usize = 1 << 20;
const MOST_REDIRECTS: usize = 10;
const USER_AGENT: &str = concat!("bellwether/", env!("CARGO_PKG_VERSION"));

const WELL: StatusRange = StatusRange { from: 200, to: 299 };
const REDIRECTED: StatusRange = StatusRange { from: 300, to: 399 };

pub(super) async fn ask(
    prober: &Prober,
    check: &Check,
    target: &HttpTarget,
    began: BootTime,
) -> Result<Answer, Failure> {
    let client = client(prober, target)?;
    let mut request = client.request(method(target.method), &target.url).headers(headers(target)?);
    if let Some(body) = &target.body {
        request = request.body(body.clone());
    }
    // The URL may hold a password or a token: it is never part of what is said.
    let sent = request.send().await.map_err(reqwest::Error::without_url);
    let response = sent.map_err(|error| no_response(&error))?;
    let latency = since(began);
    let certificate_expires = certificate_expires(&response);
    let text = format!(
        "{} {}",
        response.status().as_u16(),
        response.status().canonical_reason().unwrap_or("")
    )
    .trim_end()
    .to_owned();
    let wrong = match wrong_status(check, target, response.status().as_u16()) {
        Some(wrong) => Some(wrong),
        None => wrong_body(check, response, began + check.spec().timeout().0).await?,
    };
    Ok(Answer { latency, text, wrong, certificate_expires })
}

fn client(prober: &Prober, target: &HttpTarget) -> Result<Client, Failure> {
    let tls = match &target.ca_bundle {
        _ if target.insecure_skip_tls_verify => {
            with_alpn(tls::trusting_anybody().with_no_client_auth())
        }
        Some(pem) => verifying(trusted(pem).map_err(Failure::new)?)
            .map_err(|error| Failure::of("cannot use caBundle", &error))?,
        None => ClientConfig::clone(&prober.public),
    };
    let follow = redirect::Policy::limited(MOST_REDIRECTS);
    Client::builder()
        .tls_backend_preconfigured(tls)
        .tls_info(true)
        .no_proxy()
        .dns_resolver(prober.names.clone())
        .redirect(if target.follow_redirects { follow } else { redirect::Policy::none() })
        .pool_max_idle_per_host(0)
        .user_agent(USER_AGENT)
        .build()
        .map_err(|error| Failure::of("cannot set up a client", &error))
}

fn headers(target: &HttpTarget) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    for (name, value) in &target.headers {
        let key = HeaderName::try_from(name).map_err(|error| Failure::of(name, &error))?;
        let mut value = HeaderValue::try_from(value).map_err(|error| Failure::of(name, &error))?;
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    Ok(headers)
}

fn method(of: Method) -> reqwest::Method {
    match of {
        Method::Get => reqwest::Method::GET,
        Method::Head => reqwest::Method::HEAD,
        Method::Options => reqwest::Method::OPTIONS,
        Method::Post => reqwest::Method::POST,
        Method::Put => reqwest::Method::PUT,
        Method::Patch => reqwest::Method::PATCH,
        Method::Delete => reqwest::Method::DELETE,
    }
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

async fn wrong_body(
    check: &Check,
    response: Response,
    ends_by: BootTime,
) -> Result<Option<String>, Failure> {
    let contains = check.spec().expect.body_contains.as_deref();
    let matches = check.spec().expect.body_matches.as_deref();
    if contains.is_none() && matches.is_none() {
        return Ok(None);
    }
    let body = body(response).await?;
    if let Some(text) = contains.filter(|text| !body.contains(text)) {
        return Ok(Some(format!("the body does not hold `{text}`")));
    }
    let Some(pattern) = matches else { return Ok(None) };
    let is_match = expression::is_match(pattern, body, ends_by).await?;
    Ok((!is_match).then(|| format!("the body does not match `{pattern}`")))
}

/// The first part of the body. What is no UTF-8 is replaced, so that text in it is still found.
async fn body(mut response: Response) -> Result<String, Failure> {
    let mut body = Vec::new();
    loop {
        let chunk = response.chunk().await.map_err(reqwest::Error::without_url);
        let Some(chunk) = chunk.map_err(|error| Failure::of("the body broke off", &error))? else {
            break;
        };
        let room = MOST_BODY_BYTES - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == MOST_BODY_BYTES {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}

fn certificate_expires(response: &Response) -> Option<UnixMs> {
    let tls: &TlsInfo = response.extensions().get()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(tls.peer_certificate()?).ok()?;
    let ends = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    Some(UnixMs(Duration::from_secs(ends).as_millis().try_into().unwrap_or(u64::MAX)))
}

/// Verifies servers by these certificates.
pub(super) fn verifying(trust: Trust) -> Result<ClientConfig, rustls::Error> {
    Ok(with_alpn(tls::trusting(trust)?.with_no_client_auth()))
}

fn with_alpn(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

/// Names of what the author of a check can set.
const WORDS: Words = Words {
    bundle: "caBundle",
    name: "use a name that is in it in the URL",
    no_client_certificate: "checks have none: do not ask for one at this URL",
    client_certificate: "the client certificate",
    client_certificate_rejected: "checks have none: do not ask for one at this URL",
};

/// Why there was no response. TLS is explained; all else is said with its causes.
fn no_response(error: &reqwest::Error) -> Failure {
    const DOING: &str = "no response";
    match tls::cause(error).and_then(|error| tls::explain(error, &WORDS)) {
        Some(Explained { reason, remedy }) => {
            Failure::new(format_args!("{DOING}: {reason}: {remedy}"))
        }
        None => Failure::of(DOING, error),
    }
}
