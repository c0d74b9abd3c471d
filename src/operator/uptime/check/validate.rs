//! What makes a resource good: each rule, with the words for the one who broke it.

use std::{fmt, net::IpAddr, time::Duration};

use hickory_resolver::proto::rr::Name;
use reqwest::header::{HeaderName, HeaderValue};

use crate::{
    k8s::crd::uptime_check::forms::{
        self, LEAST_INTERVAL, LEAST_TIMEOUT, MOST_BODY_BYTES, MOST_CA_BYTES, MOST_CERTIFICATE_DAYS,
        MOST_FAILURES, MOST_HEADER_BYTES, MOST_HEADERS, MOST_INTERVAL, MOST_STATUS_RANGES,
        MOST_TEXT_BYTES, MOST_URL_BYTES,
    },
    operator::uptime::{
        probe,
        resource::{
            API_VERSION, DnsTarget, HttpTarget, KIND, Metadata, Method, RecordType, Target,
            TcpTarget, UptimeCheck, UptimeCheckSpec,
        },
    },
};

/// What is wrong with one field: what it holds, why that cannot be, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
#[error("{path}: {message}")]
pub struct FieldError {
    /// The field, like `spec.expect.status[1]`.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// Looks at every field.
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

/// A DNS label of RFC 1123, as Kubernetes asks of a namespace.
pub(super) fn is_dns_label(text: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
}

/// A DNS subdomain of RFC 1123, as Kubernetes asks of a name.
pub(super) fn is_dns_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// What to say of text that is no URL.
fn not_a_url(url: &str, why: impl fmt::Display) -> String {
    // What cannot be taken apart cannot be cleared of secrets either.
    let shown = url.split(['?', '#']).next().filter(|url| !url.contains('@'));
    let shown = shown.map(|url| format!("`{url}` is ")).unwrap_or_default();
    format!("{shown}not a URL: {why}; write it like `https://shop.example/`")
}

/// What was found so far.
struct Errors(Vec<FieldError>);

impl Errors {
    fn add(&mut self, path: impl Into<String>, message: impl fmt::Display) {
        self.0.push(FieldError { path: path.into(), message: message.to_string() });
    }

    fn header(&mut self, resource: &UptimeCheck) {
        if resource.api_version != API_VERSION {
            let value = &resource.api_version;
            self.add("apiVersion", format_args!("`{value}` is not known: write `{API_VERSION}`"));
        }
        if resource.kind != KIND {
            self.add("kind", format_args!("`{}` is not known: write `{KIND}`", resource.kind));
        }
    }

    fn metadata(&mut self, metadata: &Metadata) {
        let Metadata { name, namespace, .. } = metadata;
        if !is_dns_name(name) {
            self.add(
                "metadata.name",
                format_args!(
                    "`{name}` is no DNS name: use at most 253 lower-case letters, digits, `-` and `.`, \
                     with a letter or digit at both ends of each part"
                ),
            );
        }
        if let Some(namespace) = namespace.as_deref().filter(|namespace| !is_dns_label(namespace)) {
            self.add(
                "metadata.namespace",
                format_args!(
                    "`{namespace}` is no DNS label: use at most 63 lower-case letters, digits and `-`, \
                     with a letter or digit at both ends"
                ),
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
            if HeaderName::try_from(name).is_err() {
                self.add(
                    "spec.target.http.headers",
                    format_args!("`{name}` is no header name: use letters, digits and `-`"),
                );
            }
            if HeaderValue::try_from(value).is_err() {
                // The value itself may be a secret, here and below.
                self.add(
                    format!("spec.target.http.headers.{name}"),
                    "the value holds a line break or another control character: leave it out",
                );
            }
            if value.len() > MOST_HEADER_BYTES {
                self.add(
                    format!("spec.target.http.headers.{name}"),
                    format_args!("longer than {MOST_HEADER_BYTES} bytes: shorten it"),
                );
            }
        }
        if http.body.as_ref().is_some_and(|body| body.len() > MOST_BODY_BYTES) {
            self.add(
                "spec.target.http.body",
                format_args!("longer than {MOST_BODY_BYTES} bytes: shorten it"),
            );
        }
        match http.ca_bundle.as_deref() {
            Some(pem) if pem.len() > MOST_CA_BYTES => {
                self.add(
                    BUNDLE,
                    format_args!("longer than {MOST_CA_BYTES} bytes: leave some certificates out"),
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
        if url.len() > MOST_URL_BYTES {
            return self.add(PATH, format_args!("longer than {MOST_URL_BYTES} bytes: shorten it"));
        }
        let parsed = match reqwest::Url::parse(url) {
            Ok(parsed) => parsed,
            Err(error) => return self.add(PATH, not_a_url(url, error)),
        };
        let scheme = parsed.scheme();
        if !matches!(scheme, "http" | "https") {
            self.add(
                PATH,
                format_args!("`{scheme}` is neither http nor https: only these can be checked"),
            );
        } else if !forms::is_url(url) {
            // Browsers forgive this; what then is asked is not what is written.
            self.add(PATH, not_a_url(url, "no `//` and host after the scheme, or a space in it"));
        }
    }

    fn tcp(&mut self, tcp: &TcpTarget) {
        let host = &tcp.host;
        if !forms::is_host(host) {
            self.add(
                "spec.target.tcp.host",
                format_args!(
                    "`{host}` is neither a name nor an address: write it like `db.example` or `::1`"
                ),
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
            self.add(
                "spec.target.dns.name",
                format_args!("`{name}` is no domain name: write it like `shop.example`"),
            );
        }
        if let Some(server) = dns.server.as_ref().filter(|server| !forms::is_server(server)) {
            self.add(
                "spec.target.dns.server",
                format_args!("`{server}` is no address: write it like `10.0.0.53` or `[::1]:5353`"),
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
            if text.as_ref().is_some_and(|text| text.is_empty() || text.len() > MOST_TEXT_BYTES) {
                self.add(
                    format!("spec.expect.{field}"),
                    format_args!(
                        "must have 1 to {MOST_TEXT_BYTES} bytes: leave it out to expect nothing"
                    ),
                );
            }
        }
        let Some(pattern) = &expect.body_matches else { return };
        if let Err(why) = probe::expression::compiled(pattern) {
            self.add(
                "spec.expect.bodyMatches",
                format_args!("`{pattern}` is no regular expression that can be used: {why}"),
            );
        }
    }
}
