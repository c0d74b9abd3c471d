//! Validation of a resource: each rule with a message for the author of the manifest.
//!
//! The one rule to keep: a message shows a value only if it was parsed as a number or a time span. A text
//! that could not be parsed may be a misplaced secret; the message names its field and line only.

use std::{fmt, net::IpAddr, time::Duration};

use hickory_resolver::proto::rr::Name;
use reqwest::header::{HeaderName, HeaderValue};

use crate::{
    operator::uptime::crd::forms::{
        self, LEAST_INTERVAL, LEAST_TIMEOUT, MOST_BODY_CHARS, MOST_CA_CHARS, MOST_CERTIFICATE_DAYS,
        MOST_FAILURES, MOST_HEADER_CHARS, MOST_HEADERS, MOST_INTERVAL, MOST_STATUS_RANGES,
        MOST_TEXT_CHARS, MOST_URL_CHARS,
    },
    operator::uptime::{
        probe,
        resource::{
            API_VERSION, DnsTarget, HttpTarget, KIND, Metadata, Method, RecordType, Target,
            TcpTarget, UptimeCheck, UptimeCheckSpec,
        },
    },
};

/// Problem of one field: the reason and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
#[error("{path}: {message}")]
pub struct FieldError {
    /// Path of the field, like `spec.expect.status[1]`.
    pub path: String,
    /// Text that states the problem and its remedy.
    pub message: String,
}

/// Maximum bytes of all annotations together, names and values, as in Kubernetes.
const MOST_ANNOTATION_BYTES: usize = 256 * 1024;
/// Message for a name that is not valid for labels and annotations.
const NO_LABEL_NAME: &str = "holds a name that is none: use `name` or `prefix/name`, with at most 63 letters, \
                             digits, `-`, `_` and `.` in the name and a DNS name as the prefix";

/// Validates every field of the resource.
pub(super) fn resource(resource: &UptimeCheck) -> Result<(), Vec<FieldError>> {
    let mut errors = Errors(Vec::new());
    errors.header(resource);
    errors.metadata(&resource.metadata);
    errors.times(&resource.spec);
    match &resource.spec.target {
        Target::Http(http) => errors.http(http),
        Target::Tcp(tcp) => errors.tcp(tcp),
        Target::Dns(dns) => errors.dns(dns),
    }
    errors.only_what_fits_the_target(&resource.spec);
    errors.expectations(&resource.spec);
    if errors.0.is_empty() { Ok(()) } else { Err(errors.0) }
}

/// Whether the text is a DNS label of RFC 1123, as Kubernetes requires for a namespace.
pub(super) fn is_dns_label(text: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
}

/// Whether the text is a DNS subdomain as Kubernetes requires for a name: the whole is limited to 253
/// characters, the parts are not limited.
pub(super) fn is_dns_name(text: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_part = |part: &str| {
        let bytes = part.as_bytes();
        bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
            && bytes.first().is_some_and(alphanumeric)
            && bytes.last().is_some_and(alphanumeric)
    };
    text.len() <= 253 && text.split('.').all(is_part)
}

/// Whether the text is valid as the name of a label or an annotation after its prefix, or as the value of a
/// label.
fn is_label_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}

/// Whether the text is the name of a label or an annotation in Kubernetes: `name` or `prefix/name`.
fn is_label_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_dns_name(prefix) && is_label_part(name),
        None => is_label_part(text),
    }
}

/// Problems that were found so far.
struct Errors(Vec<FieldError>);

impl Errors {
    fn add(&mut self, path: impl Into<String>, message: impl fmt::Display) {
        self.0.push(FieldError { path: path.into(), message: message.to_string() });
    }

    fn header(&mut self, resource: &UptimeCheck) {
        if resource.api_version != API_VERSION {
            self.add("apiVersion", format_args!("is not known: write `{API_VERSION}`"));
        }
        if resource.kind != KIND {
            self.add("kind", format_args!("is not known: write `{KIND}`"));
        }
    }

    fn metadata(&mut self, metadata: &Metadata) {
        let Metadata { name, namespace, labels, annotations, .. } = metadata;
        if !is_dns_name(name) {
            self.add(
                "metadata.name",
                "is no DNS name: use at most 253 lower-case letters, digits, `-` and `.`, with a letter or \
                 digit at both ends of each part",
            );
        }
        if namespace.as_deref().is_some_and(|namespace| !is_dns_label(namespace)) {
            self.add(
                "metadata.namespace",
                "is no DNS label: use at most 63 lower-case letters, digits and `-`, with a letter or digit at \
                 both ends",
            );
        }
        if !labels.keys().all(|name| is_label_name(name)) {
            self.add("metadata.labels", NO_LABEL_NAME);
        }
        if !labels.values().all(|value| value.is_empty() || is_label_part(value)) {
            self.add(
                "metadata.labels",
                "holds a value that is none: use at most 63 letters, digits, `-`, `_` and `.`, with a letter or \
                 digit at both ends",
            );
        }
        if !annotations.keys().all(|name| is_label_name(&name.to_lowercase())) {
            self.add("metadata.annotations", NO_LABEL_NAME);
        }
        let size: usize = annotations.iter().map(|(name, value)| name.len() + value.len()).sum();
        if size > MOST_ANNOTATION_BYTES {
            self.add(
                "metadata.annotations",
                format_args!("have more than {MOST_ANNOTATION_BYTES} bytes: shorten them"),
            );
        }
    }

    fn times(&mut self, spec: &UptimeCheckSpec) {
        let interval = spec.interval;
        if !(LEAST_INTERVAL..=MOST_INTERVAL).contains(&interval) {
            self.add(
                "spec.interval",
                format_args!("`{interval}` is outside `{LEAST_INTERVAL}` to `{MOST_INTERVAL}`"),
            );
        }
        if let Some(timeout) =
            spec.timeout.filter(|timeout| !(LEAST_TIMEOUT..=interval).contains(timeout))
        {
            self.add(
                "spec.timeout",
                format_args!(
                    "`{timeout}` is outside `{LEAST_TIMEOUT}` to the interval, `{interval}`: a run ends \
                     before the next one is due"
                ),
            );
        }
        if !(1..=MOST_FAILURES).contains(&spec.failure_threshold) {
            let value = spec.failure_threshold;
            self.add(
                "spec.failureThreshold",
                format_args!("`{value}` is outside 1 to {MOST_FAILURES}"),
            );
        }
    }

    fn http(&mut self, http: &HttpTarget) {
        const BUNDLE: &str = "spec.target.http.caBundle";
        self.url(&http.url);
        if http.headers.len() > MOST_HEADERS {
            self.add(
                "spec.target.http.headers",
                format_args!("more than {MOST_HEADERS}: leave some out"),
            );
        }
        for (name, value) in &http.headers {
            let is_name = HeaderName::try_from(name).is_ok();
            if !is_name {
                self.add(
                    "spec.target.http.headers",
                    "holds a name that is none: use letters, digits and `-`",
                );
            }
            let path = if is_name {
                format!("spec.target.http.headers.{name}")
            } else {
                "spec.target.http.headers".to_owned()
            };
            if HeaderValue::try_from(value).is_err() {
                self.add(
                    &path,
                    "the value holds a line break or another control character: leave it out",
                );
            }
            if !forms::is_at_most(value, MOST_HEADER_CHARS) {
                self.add(
                    path,
                    format_args!("longer than {MOST_HEADER_CHARS} characters: shorten it"),
                );
            }
        }
        if http.body.as_ref().is_some_and(|body| !forms::is_at_most(body, MOST_BODY_CHARS)) {
            self.add(
                "spec.target.http.body",
                format_args!("longer than {MOST_BODY_CHARS} characters: shorten it"),
            );
        }
        if http.server_name.as_deref().is_some_and(|name| !forms::is_server_name(name)) {
            self.add(
                "spec.target.http.serverName",
                "is no name of a server: write it like `shop.example`",
            );
        }
        match http.ca_bundle.as_deref() {
            Some(pem) if !forms::is_at_most(pem, MOST_CA_CHARS) => {
                self.add(
                    BUNDLE,
                    format_args!(
                        "longer than {MOST_CA_CHARS} characters: leave some certificates out"
                    ),
                );
            }
            Some(pem) => {
                if let Err(problem) = probe::trusted(pem) {
                    self.add(BUNDLE, problem);
                }
            }
            None => {}
        }
    }

    fn url(&mut self, url: &str) {
        const PATH: &str = "spec.target.http.url";
        const REMEDY: &str = "write it like `https://shop.example/`";
        if !forms::is_at_most(url, MOST_URL_CHARS) {
            return self
                .add(PATH, format_args!("longer than {MOST_URL_CHARS} characters: shorten it"));
        }
        if forms::has_port_zero(url) {
            return self.add(PATH, "names the port 0, which no server has: use 1 to 65535");
        }
        let Ok(parsed) = reqwest::Url::parse(url) else {
            return self.add(
                PATH,
                format_args!("is not a URL, or has a host or port that is none: {REMEDY}"),
            );
        };
        if !matches!(parsed.scheme(), "http" | "https") {
            self.add(
                PATH,
                format_args!("is neither http nor https: only these can be checked; {REMEDY}"),
            );
        } else if !forms::is_url(url) {
            // Browsers accept such URLs, but then request something other than what is written.
            self.add(
                PATH,
                format_args!(
                    "is not a URL: no `//` and host after the scheme, or a space in it; {REMEDY}"
                ),
            );
        }
    }

    fn tcp(&mut self, tcp: &TcpTarget) {
        let host = &tcp.host;
        if !forms::is_host(host) || forms::ascii_host(host).is_none() {
            self.add(
                "spec.target.tcp.host",
                "is neither a name nor an address: write it like `db.example`, `10.0.0.1` or `::1`",
            );
        }
        if tcp.port == 0 {
            self.add("spec.target.tcp.port", "`0` is no port: use 1 to 65535");
        }
    }

    fn dns(&mut self, dns: &DnsTarget) {
        let name = &dns.name;
        let is_address = dns.record_type == RecordType::Ptr && name.parse::<IpAddr>().is_ok();
        let is_name = is_address || Name::from_utf8(name).is_ok();
        if !is_name || !forms::is_name(name) {
            self.add("spec.target.dns.name", "is no domain name: write it like `shop.example`");
        }
        if dns.server.as_ref().is_some_and(|server| !forms::is_server(server)) {
            self.add(
                "spec.target.dns.server",
                "is no address, or has a port that is none: write it like `10.0.0.53` or `[::1]:5353`",
            );
        }
    }

    fn only_what_fits_the_target(&mut self, spec: &UptimeCheckSpec) {
        let expect = &spec.expect;
        let kind = spec.target.kind();
        let fields = [
            ("status", !expect.status.is_empty(), "http"),
            ("bodyContains", expect.body_contains.is_some(), "http"),
            ("bodyMatches", expect.body_matches.is_some(), "http"),
            ("certificateDays", expect.certificate_days.is_some(), "http"),
            ("answerContains", expect.answer_contains.is_some(), "dns"),
        ];
        for (field, is_set, fits) in fields {
            if is_set && fits != kind {
                self.add(
                    format!("spec.expect.{field}"),
                    format_args!(
                        "means nothing for a {kind} target, only for {fits}: leave it out"
                    ),
                );
            }
        }
        let Target::Http(http) = &spec.target else { return };
        if http.method == Method::Head
            && (expect.body_contains.is_some() || expect.body_matches.is_some())
        {
            let field = if expect.body_contains.is_some() { "bodyContains" } else { "bodyMatches" };
            self.add(
                format!("spec.expect.{field}"),
                "the answer to HEAD has no body: use `method: GET` or leave it out",
            );
        }
        let is_https =
            |url: &str| url.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"));
        if http.server_name.is_some() && !is_https(&http.url) {
            self.add(
                "spec.target.http.serverName",
                "there is no TLS without an https URL: leave it out",
            );
        }
        if expect.certificate_days.is_some() && !is_https(&http.url) {
            self.add(
                "spec.expect.certificateDays",
                "there is no certificate without an https URL: leave it out",
            );
        }
    }

    fn expectations(&mut self, spec: &UptimeCheckSpec) {
        let expect = &spec.expect;
        if let Some(latency) = expect.max_latency {
            let timeout = spec.timeout();
            if latency.0 == Duration::ZERO || latency > timeout {
                self.add(
                    "spec.expect.maxLatency",
                    format_args!(
                        "`{latency}` is not above zero and up to the timeout, `{timeout}`"
                    ),
                );
            }
        }
        if let Some(days) = expect.certificate_days.filter(|days| *days > MOST_CERTIFICATE_DAYS) {
            self.add(
                "spec.expect.certificateDays",
                format_args!(
                    "`{days}` is more than {MOST_CERTIFICATE_DAYS}: no certificate lives so long"
                ),
            );
        }
        if expect.status.len() > MOST_STATUS_RANGES {
            self.add(
                "spec.expect.status",
                format_args!("more than {MOST_STATUS_RANGES}: join some in ranges"),
            );
        }
        for (at, range) in expect.status.iter().enumerate().filter(|(_, it)| it.from > it.to) {
            let (from, to) = (range.from, range.to);
            self.add(
                format!("spec.expect.status[{at}]"),
                format_args!("`{range}` holds no code: write `{to}-{from}`"),
            );
        }
        let texts = [
            ("bodyContains", &expect.body_contains),
            ("bodyMatches", &expect.body_matches),
            ("answerContains", &expect.answer_contains),
        ];
        for (field, text) in texts {
            let is_bad =
                |text: &String| text.is_empty() || !forms::is_at_most(text, MOST_TEXT_CHARS);
            if text.as_ref().is_some_and(is_bad) {
                self.add(
                    format!("spec.expect.{field}"),
                    format_args!(
                        "must have 1 to {MOST_TEXT_CHARS} characters: leave it out to expect nothing"
                    ),
                );
            }
        }
        let Some(pattern) = &expect.body_matches else { return };
        if let Err(why) = probe::expression::compiled(pattern) {
            self.add(
                "spec.expect.bodyMatches",
                format_args!("is no regular expression that can be used: {why}"),
            );
        }
    }
}
