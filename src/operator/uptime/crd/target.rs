//! Targets of a check: an HTTP request, a TCP connection, a DNS query.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{
    forms::{
        MOST_BODY_CHARS, MOST_CA_CHARS, MOST_HEADER_CHARS, MOST_HEADERS, MOST_HOST_CHARS,
        MOST_NAME_CHARS, MOST_SERVER_NAME_CHARS, MOST_URL_CHARS,
    },
    rules,
};

/// Target of a check, exactly one of three kinds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// The target must answer an HTTP request.
    Http(HttpTarget),
    /// The target must accept a TCP connection.
    Tcp(TcpTarget),
    /// The name must resolve to records.
    Dns(DnsTarget),
}

impl Target {
    /// Kind of the target: `http`, `tcp` or `dns`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Tcp(_) => "tcp",
            Self::Dns(_) => "dns",
        }
    }
}

/// The schema of a [`Target`]. Without `oneOf`: the message of a rule is clearer.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", extend("x-kubernetes-validations" = rules::of_target()))]
#[expect(dead_code, reason = "only its schema is used")]
struct Targets {
    /// An HTTP request is answered.
    http: Option<HttpTarget>,
    /// A TCP connection is accepted. The check closes the connection at once.
    tcp: Option<TcpTarget>,
    /// A name is resolved.
    dns: Option<DnsTarget>,
}

impl JsonSchema for Target {
    fn schema_name() -> Cow<'static, str> {
        "Target".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Targets::json_schema(generator)
    }
}

/// Readable form: `GET https://shop.example/`, `tcp 10.0.0.1:5432`, `A shop.example`. Contains no secret:
/// user, password and query of a URL are left out.
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

/// Returns the URL without the parts that may be secret: user, password, query and fragment.
pub(crate) fn without_secrets(url: &str) -> String {
    let parsed = reqwest::Url::parse(url).ok();
    let Some(mut url) = parsed.filter(|url| matches!(url.scheme(), "http" | "https")) else {
        return "(not a URL of the web)".to_owned();
    };
    // These calls fail only for URLs that cannot carry a user; http and https URLs can.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// An HTTP request and its connection.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpTarget {
    /// Absolute, `http` or `https`, like `https://shop.example/health`. The user, the password
    /// and the query of a URL are not shown anywhere else.
    #[schemars(
        length(max = MOST_URL_CHARS),
        extend("x-kubernetes-validations" = rules::of_url())
    )]
    pub url: String,
    /// The method of the request.
    #[serde(default)]
    pub method: Method,
    /// Sent with the request, and to no other origin that it is redirected to. Never logged nor shown.
    /// `Host` is what the server is asked for, also over HTTP/2.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "headers")]
    pub headers: BTreeMap<String, String>,
    /// Sent with the request, and to no other origin: at most 65536 characters. Never logged nor shown.
    /// Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MOST_BODY_CHARS))]
    pub body: Option<String>,
    /// Whether redirects are followed, up to ten of them.
    #[serde(default = "yes")]
    pub follow_redirects: bool,
    /// Certificates in PEM that are trusted instead of the public authorities. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = MOST_CA_CHARS),
        extend("x-kubernetes-validations" = rules::of_ca_bundle())
    )]
    pub ca_bundle: Option<String>,
    /// Whether any certificate is taken, also one that proves nothing.
    #[serde(default)]
    pub insecure_skip_tls_verify: bool,
    /// The name that the server is asked for in the TLS handshake (SNI), and that its certificate must
    /// have: for a URL that names an address, or another host. Default: the URL's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = MOST_SERVER_NAME_CHARS),
        extend("x-kubernetes-validations" = rules::of_server_name())
    )]
    pub server_name: Option<String>,
}

fn yes() -> bool {
    true
}

fn headers(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": MOST_HEADERS,
        "x-kubernetes-validations": rules::of_header_names(),
        "additionalProperties": {
            "type": "string",
            "maxLength": MOST_HEADER_CHARS,
            "x-kubernetes-validations": rules::of_header_value(),
        },
    })
}

impl HttpTarget {
    /// A GET of the URL, with the defaults for all other fields.
    pub fn get(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            method: Method::Get,
            headers: BTreeMap::new(),
            body: None,
            follow_redirects: true,
            ca_bundle: None,
            insecure_skip_tls_verify: false,
            server_name: None,
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
            .field("server_name", &self.server_name)
            .finish()
    }
}

/// The method of an HTTP request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// Name of the method as sent in requests.
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpTarget {
    /// A name or an address, IPv6 without brackets: `db.example`, `10.0.0.1`, `::1` or `fe80::1%eth0`.
    #[schemars(
        length(max = MOST_HOST_CHARS),
        extend("x-kubernetes-validations" = rules::of_host())
    )]
    pub host: String,
    /// The port: 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
}

/// A DNS query for one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DnsTarget {
    /// The name, taken as fully qualified: no search domain is tried. For `PTR` an address will do.
    #[schemars(
        length(max = MOST_NAME_CHARS),
        extend("x-kubernetes-validations" = rules::of_name())
    )]
    pub name: String,
    /// Type of the records that are asked for.
    #[serde(default)]
    pub record_type: RecordType,
    /// Name server to ask: an address, with or without a port (53), like `10.0.0.53` or `[::1]:5353`.
    /// Default: the resolvers of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("x-kubernetes-validations" = rules::of_server()))]
    pub server: Option<String>,
}

/// A type of DNS record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// Name of the type as written in zone files.
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
