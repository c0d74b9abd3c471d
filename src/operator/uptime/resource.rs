//! The `UptimeCheck` resource as it is written in a manifest, and as the Kubernetes API keeps it.
//!
//! Plain data: any value that these types can hold can be read and written. Whether a check can be run
//! is decided in [`super::check`].

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::value::{Span, StatusRange, UnixMs};

#[cfg(test)]
mod tests;

/// The API group and version of the resource.
pub const API_VERSION: &str = "bellwether.dev/v1alpha1";
/// The kind of the resource.
pub const KIND: &str = "UptimeCheck";
/// The namespace of a check whose manifest names none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// The interval of a check whose manifest names none.
pub const DEFAULT_INTERVAL: Span = Span::secs(30);
/// The timeout of a check whose manifest names none; never longer than its interval.
pub const DEFAULT_TIMEOUT: Span = Span::secs(10);

/// A check that is run at a fixed interval, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UptimeCheck {
    /// [`API_VERSION`].
    pub api_version: String,
    /// [`KIND`].
    pub kind: String,
    /// Its name and what belongs to it.
    pub metadata: Metadata,
    /// What is to be checked.
    pub spec: UptimeCheckSpec,
    /// What came of it. Written by bellwether; what a manifest says here is ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<UptimeCheckStatus>,
}

/// The part of Kubernetes' object metadata that matters here; the rest is ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// A DNS name of at most 253 characters, unique in its namespace.
    pub name: String,
    /// A DNS label of at most 63 characters. Default: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Labels, not interpreted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations, not interpreted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The API server's id of this object. A manifest in a folder has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The API server's count of changes of the spec. A manifest in a folder has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
}

/// What is to be checked, how often, and what is expected of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UptimeCheckSpec {
    /// What is checked: exactly one of `http`, `tcp` and `dns`.
    pub target: Target,
    /// Between the beginnings of two runs: `1s` to `24h`. Default: `30s`.
    #[serde(default = "default_interval")]
    pub interval: Span,
    /// How long one run may take: `10ms` up to the interval. Default: `10s`, or the interval if that is
    /// shorter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// How many runs must fail in a row before the check counts as down: 1 to 100. Default: 1.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub failure_threshold: u32,
    /// What is expected beyond an answer at all.
    #[serde(default, skip_serializing_if = "Expect::is_nothing")]
    pub expect: Expect,
}

fn default_interval() -> Span {
    DEFAULT_INTERVAL
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_one(number: &u32) -> bool {
    *number == 1
}

impl UptimeCheckSpec {
    /// The timeout, with its default.
    pub fn timeout(&self) -> Span {
        self.timeout.unwrap_or(DEFAULT_TIMEOUT.min(self.interval))
    }
}

/// What is checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// An HTTP request is answered.
    Http(HttpTarget),
    /// A TCP connection is accepted.
    Tcp(TcpTarget),
    /// A name is resolved.
    Dns(DnsTarget),
}

impl Target {
    /// Which kind of target it is: `http`, `tcp` or `dns`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Tcp(_) => "tcp",
            Self::Dns(_) => "dns",
        }
    }
}

/// For people: `GET https://shop.example/`, `tcp 10.0.0.1:5432`, `A shop.example`. Holds no secret: user,
/// password and query of a URL are left out.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(http) => write!(f, "{} {}", http.method, without_secrets(&http.url)),
            Self::Tcp(tcp) if tcp.host.contains(':') => {
                write!(f, "tcp [{}]:{}", tcp.host, tcp.port)
            }
            Self::Tcp(tcp) => write!(f, "tcp {}:{}", tcp.host, tcp.port),
            Self::Dns(dns) => {
                write!(f, "{} {}", dns.record_type, dns.name)?;
                dns.server.iter().try_for_each(|server| write!(f, " at {server}"))
            }
        }
    }
}

/// The URL without what may be secret in it: user, password, query and fragment.
pub(crate) fn without_secrets(url: &str) -> String {
    let parsed = reqwest::Url::parse(url).ok();
    let Some(mut url) = parsed.filter(|url| matches!(url.scheme(), "http" | "https")) else {
        return "(not a URL of the web)".to_owned();
    };
    // These fail for URLs that cannot carry a user, and the web's can.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// An HTTP request.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpTarget {
    /// Absolute, `http` or `https`.
    pub url: String,
    /// Default: `GET`.
    #[serde(default)]
    pub method: Method,
    /// Sent with the request. Never logged nor shown.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Sent with the request: at most 64 KiB. Never logged nor shown. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Whether redirects are followed, up to ten of them. Default: yes.
    #[serde(default = "yes")]
    pub follow_redirects: bool,
    /// Certificates in PEM that are trusted instead of the public authorities. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
    /// Whether any certificate is taken. Default: no.
    #[serde(default)]
    pub insecure_skip_tls_verify: bool,
}

fn yes() -> bool {
    true
}

impl HttpTarget {
    /// A GET of the URL, and else the defaults.
    pub fn get(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            method: Method::Get,
            headers: BTreeMap::new(),
            body: None,
            follow_redirects: true,
            ca_bundle: None,
            insecure_skip_tls_verify: false,
        }
    }
}

impl fmt::Debug for HttpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTarget")
            .field("url", &without_secrets(&self.url))
            .field("method", &self.method)
            .field("headers", &self.headers.keys())
            .field("body_bytes", &self.body.as_ref().map(String::len))
            .field("follow_redirects", &self.follow_redirects)
            .field("ca_bundle_bytes", &self.ca_bundle.as_ref().map(String::len))
            .field("insecure_skip_tls_verify", &self.insecure_skip_tls_verify)
            .finish()
    }
}

/// The method of an HTTP request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "HTTP's own names")]
pub enum Method {
    #[default]
    Get,
    Head,
    Options,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    /// As it is sent.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A TCP connection, which is closed as soon as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpTarget {
    /// A name or an address, IPv6 without brackets.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

/// A DNS query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DnsTarget {
    /// The name, taken as fully qualified: no search domain is tried.
    pub name: String,
    /// Which records are asked for. Default: `A`.
    #[serde(default)]
    pub record_type: RecordType,
    /// Who is asked: an address, with or without a port (53). Default: the resolvers of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
}

/// A type of DNS record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "DNS's own names")]
pub enum RecordType {
    #[default]
    A,
    Aaaa,
    Caa,
    Cname,
    Mx,
    Ns,
    Ptr,
    Soa,
    Srv,
    Txt,
}

impl RecordType {
    /// As it is written in zone files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Caa => "CAA",
            Self::Cname => "CNAME",
            Self::Mx => "MX",
            Self::Ns => "NS",
            Self::Ptr => "PTR",
            Self::Soa => "SOA",
            Self::Srv => "SRV",
            Self::Txt => "TXT",
        }
    }
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What is expected beyond an answer at all. What is left out is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expect {
    /// http: the status codes that are well: numbers, ranges (`200-299`) or classes (`2xx`). Default:
    /// `2xx`, and `3xx` too where redirects are not followed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<StatusRange>,
    /// http: a text that the first MiB of the body holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_contains: Option<String>,
    /// http: a regular expression (Rust's `regex` crate) that the first MiB of the body matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_matches: Option<String>,
    /// Any target: the answer comes within this, which is not above the timeout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_latency: Option<Span>,
    /// http with an `https` URL: the server's certificate is valid for at least so many days more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_days: Option<u32>,
    /// dns: a text that one of the records holds, as in a zone file, like `10.0.0.1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_contains: Option<String>,
}

impl Expect {
    /// Whether nothing is expected beyond an answer.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What came of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UptimeCheckStatus {
    /// Whether the target is up.
    pub state: State,
    /// How long the last run waited for an answer, in milliseconds, rounded up. None if there was no
    /// answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u64>,
    /// When `state` last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_change: Option<UnixMs>,
    /// When the last run began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run: Option<UnixMs>,
    /// The node that ran it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked_by: Option<String>,
    /// Why it is in this state, in words.
    #[serde(default)]
    pub message: String,
    /// `metadata.generation` of what was last run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How many runs have failed in a row.
    #[serde(default)]
    pub consecutive_failures: u32,
    /// When the server's certificate ends, where one was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires: Option<UnixMs>,
}

/// Whether a target is up.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// No recent result says.
    #[default]
    Unknown,
    /// The last run was well.
    Up,
    /// The last runs failed.
    Down,
}

impl State {
    /// `up`, `down` or `unknown`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
