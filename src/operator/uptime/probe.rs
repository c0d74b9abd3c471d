//! Runs one check once: sends a request to the target, and returns the result.
//!
//! Each run acts as a new client: no connection, answer or session is kept from one run to the next, and
//! proxies of the environment are not used. No answer of a target makes a run panic, and only a bounded part
//! of an answer is read.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde::{Deserialize, Serialize};

use self::{
    denied::{Denied, Network},
    http::body::Room,
    resolve::Names,
};
use super::{
    check::Check,
    resource::Target,
    value::{Span, UnixMs},
};
use crate::{
    causes::{causes, chain_after},
    clock,
    engine::BootTime,
    tls::Trust,
};

mod connect;
pub mod denied;
mod dns;
pub(super) mod expression;
mod http;
mod own;
mod race;
mod resolve;
mod tcp;

#[cfg(test)]
mod tests;

/// Result of one run of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Whether the target did all that is expected of it, if that could be found out.
    pub verdict: Verdict,
    /// Time from the start until the answer arrived: the connection for tcp, the records for dns, the head of
    /// the response for http (after redirects). `None` if there was no answer.
    pub latency: Option<Duration>,
    /// Expiry of the server's certificate, if the run saw one.
    pub certificate_expires: Option<UnixMs>,
    /// Answer or error in one line. Contains no secret of the manifest.
    pub message: String,
}

/// Verdict on whether a target meets the expectations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// The target met all expectations.
    Up,
    /// The target did not meet an expectation.
    Down,
    /// This node could not send the request or judge the answer, for a reason of its own.
    Unknown,
}

impl Verdict {
    /// Text of the verdict: `up`, `down` or `unknown`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Unknown => "unknown",
        }
    }
}

/// Interface that runs checks: [`Prober`], or a substitute.
#[async_trait]
pub trait Probe: fmt::Debug + Send + Sync {
    /// Runs the check once, within its timeout.
    async fn run(&self, check: &Check) -> Probed;
}

#[async_trait]
impl Probe for Prober {
    async fn run(&self, check: &Check) -> Probed {
        Self::run(self, check).await
    }
}

/// If a timer fires this much later, the process was suspended or got no CPU time.
const HELD_UP_FOR: Duration = Duration::from_secs(1);
/// Maximum length of a message, in characters.
const MOST_MESSAGE_CHARS: usize = 300;

/// Runs checks against their targets. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Prober {
    /// TLS configuration that verifies servers by the public authorities.
    public: Arc<ClientConfig>,
    /// Resolver of names for connections.
    names: Names,
    /// Where bodies are kept until an expression was matched.
    bodies: Room,
}

impl Default for Prober {
    fn default() -> Self {
        Self::new()
    }
}

impl Prober {
    /// A prober that trusts the public certificate authorities.
    ///
    /// # Panics
    ///
    /// Never: the list of authorities is a constant.
    pub fn new() -> Self {
        let public =
            http::verifying(Trust::public()).expect("the list of authorities is not empty");
        Self { public: Arc::new(public), names: Names::default(), bodies: Room::default() }
    }

    /// Returns a prober that never connects to an address of these networks: a check that needs one is
    /// `unknown`, with the reason. The system's name servers are still queried, even if they are in these
    /// networks.
    #[must_use]
    pub fn denying(mut self, networks: impl IntoIterator<Item = Network>) -> Self {
        self.names.denied = Denied::new(networks);
        self
    }

    /// Runs the check once, within its timeout.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes its connections. Effects of the request on the target remain.
    pub async fn run(&self, check: &Check) -> Probed {
        let began = clock::boot_now();
        let timeout = check.spec().timeout().0;
        let answer = match &check.spec().target {
            Target::Http(target) => http::ask(self, check, target, began, timeout).await,
            Target::Tcp(target) => in_time(timeout, tcp::ask(self, target, began, timeout)).await,
            Target::Dns(target) => in_time(timeout, dns::ask(self, check, target, began)).await,
        };
        let took = since(began);
        // An answer after the timeout does not count, even if the timer fired late as well.
        let answer = match answer {
            _ if took > timeout + HELD_UP_FOR => Err(Failure::own(format_args!(
                "this node was held up: the run ended {} after its timeout",
                Span(took.saturating_sub(timeout))
            ))),
            // A wrong answer stays wrong, and its message is more useful than the timeout's.
            Ok(answer) if took > timeout && answer.wrong.is_none() => Err(late(timeout)),
            answer => answer,
        };
        conclude(check, answer, UnixMs(clock::unix_ms()))
    }
}

async fn in_time(
    timeout: Duration,
    asked: impl Future<Output = Result<Answer, Failure>>,
) -> Result<Answer, Failure> {
    let answer = tokio::time::timeout(timeout, asked).await;
    answer.unwrap_or_else(|_| Err(late(timeout)))
}

fn late(timeout: Duration) -> Failure {
    Failure::new(format_args!("no answer within {}", Span(timeout)))
}

/// Answer of a target to one request.
#[derive(Debug)]
struct Answer {
    /// Time until the answer arrived.
    latency: Duration,
    /// Content of the answer, in one line.
    text: String,
    /// First violated expectation, if any.
    wrong: Option<String>,
    /// Earliest expiry of all certificates seen on the way, redirects included.
    certificate_expires: Option<UnixMs>,
    /// Host of that certificate, if that host redirected to another one.
    certificate_of: Option<String>,
}

impl Answer {
    /// Answer that arrived after this time, with nothing else set yet.
    fn after(latency: Duration) -> Self {
        Self {
            latency,
            text: String::new(),
            wrong: None,
            certificate_expires: None,
            certificate_of: None,
        }
    }
}

/// Reason why there is no answer.
#[derive(Debug)]
struct Failure {
    text: String,
    /// Whether the reason lies in this node, so that the target's state is not known.
    is_own: bool,
}

impl Failure {
    fn new(text: impl fmt::Display) -> Self {
        Self { text: text.to_string(), is_own: false }
    }

    /// Failure for a reason that lies in this node.
    fn own(text: impl fmt::Display) -> Self {
        Self { text: text.to_string(), is_own: true }
    }

    /// Text of the error and its sources. Errors that repeat their source are shown once.
    fn of(doing: impl fmt::Display, error: &(dyn std::error::Error + 'static)) -> Self {
        if let Some(distress) = own::distress(error) {
            return Self::own(format_args!("{doing}: {distress}"));
        }
        Self::new(chain_after(doing.to_string(), error))
    }

    /// Text of what failed, with the operating system's error behind it, if there is one. Other texts of a
    /// library about a connection may repeat what was sent.
    fn of_connection(doing: impl fmt::Display, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut of_system = causes(error).filter_map(|it| it.downcast_ref::<std::io::Error>());
        match of_system.find(|it| it.raw_os_error().is_some()) {
            Some(error) => Self::of(doing, error),
            None => Self::new(doing),
        }
    }
}

/// Compares the answer with what is expected of any target.
fn conclude(check: &Check, answer: Result<Answer, Failure>, now: UnixMs) -> Probed {
    let answer = match answer {
        Ok(answer) => answer,
        Err(Failure { text, is_own }) => {
            let message = one_line(&text);
            return Probed {
                verdict: if is_own { Verdict::Unknown } else { Verdict::Down },
                latency: None,
                certificate_expires: None,
                message,
            };
        }
    };
    let wrong = answer
        .wrong
        .or_else(|| {
            let of = answer.certificate_of.as_deref();
            certificate_ends_too_soon(check, answer.certificate_expires, of, now)
        })
        .or_else(|| too_slow(check, answer.latency));
    Probed {
        verdict: if wrong.is_some() { Verdict::Down } else { Verdict::Up },
        latency: Some(answer.latency),
        certificate_expires: answer.certificate_expires,
        message: one_line(&wrong.unwrap_or(answer.text)),
    }
}

fn certificate_ends_too_soon(
    check: &Check,
    expires: Option<UnixMs>,
    of: Option<&str>,
    now: UnixMs,
) -> Option<String> {
    const DAY_MS: u64 = 24 * 60 * 60 * 1000;
    let days = check.spec().expect.certificate_days?;
    let Some(expires) = expires else {
        return Some(
            "no certificate was seen, though one is expected: the answer came without TLS"
                .to_owned(),
        );
    };
    let left = expires.0.saturating_sub(now.0) / DAY_MS;
    let least = u64::from(days);
    (expires.0 < now.0.saturating_add(least * DAY_MS)).then(|| {
        let of = of.map(|host| format!(" of {host}")).unwrap_or_default();
        format!(
            "the certificate{of} ends in {left} days, at {expires}: at least {least} are expected"
        )
    })
}

fn too_slow(check: &Check, latency: Duration) -> Option<String> {
    let most = check.spec().expect.max_latency?;
    (latency > most.0).then(|| {
        format!("answered after {} ms: at most {most} is expected", millis_rounded_up(latency))
    })
}

/// Whole milliseconds, rounded up, so that no answer takes zero time.
pub(super) fn millis_rounded_up(latency: Duration) -> u64 {
    u64::try_from(latency.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// Replaces line breaks and control characters, which a target may send, and cuts the text.
fn one_line(text: &str) -> String {
    let clean = text.chars().map(|char| if char.is_control() { ' ' } else { char });
    let mut line: String = clean.take(MOST_MESSAGE_CHARS).collect();
    if text.chars().nth(MOST_MESSAGE_CHARS).is_some() {
        line.push('…');
    }
    line
}

fn since(began: BootTime) -> Duration {
    clock::boot_now().since(began)
}

/// Remaining part of a timeout.
fn left(began: BootTime, timeout: Duration) -> Duration {
    timeout.saturating_sub(since(began))
}

/// Parses the certificates of a PEM text, as trusted roots.
///
/// # Errors
///
/// Text about what is wrong, without any part of the PEM text, which may contain a private key.
pub(super) fn trusted(pem: &str) -> Result<Trust, String> {
    const REMEDY: &str = "write certificates in PEM, from `-----BEGIN CERTIFICATE-----` on, with their line \
                          breaks";
    if pem.contains("PRIVATE KEY-----") {
        return Err(
            "holds a private key: remove it, and replace that key, since others can read it here"
                .to_owned(),
        );
    }
    let mut trust = Trust::nobody();
    for (at, certificate) in CertificateDer::pem_slice_iter(pem.as_bytes()).enumerate() {
        // The parser's own text repeats the malformed input.
        let number = at + 1;
        let certificate =
            certificate.map_err(|_| format!("certificate {number} cannot be read: {REMEDY}"))?;
        trust.add(certificate).map_err(|_| {
            format!("certificate {number} is damaged, or of a kind that is not known: {REMEDY}")
        })?;
    }
    if trust.is_empty() { Err(format!("holds no certificate: {REMEDY}")) } else { Ok(trust) }
}
