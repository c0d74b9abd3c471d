//! Forms of text and bounds of `UptimeCheck`'s fields: the schema and a node's own look at a manifest
//! take them from here, so that they agree.
//!
//! The expressions mean the same to RE2, which the API server uses, and to Rust's `regex`.

use std::{net::IpAddr, net::SocketAddr, sync::LazyLock};

use regex::Regex;

use super::value::Span;

/// The shortest interval.
pub const LEAST_INTERVAL: Span = Span::secs(1);
/// The longest interval.
pub const MOST_INTERVAL: Span = Span::secs(24 * 60 * 60);
/// The shortest timeout.
pub const LEAST_TIMEOUT: Span = Span::millis(10);
/// Most runs that may fail in a row before a check counts as down.
pub const MOST_FAILURES: u32 = 100;
/// Longest URL, in bytes.
pub const MOST_URL_BYTES: usize = 2048;
/// Most headers.
pub const MOST_HEADERS: usize = 64;
/// Longest value of a header, in bytes: what servers take, as a rule.
pub const MOST_HEADER_BYTES: usize = 8192;
/// Longest body that is sent, in bytes.
pub const MOST_BODY_BYTES: usize = 64 * 1024;
/// Longest bundle of certificates, in bytes: a few dozen of them.
pub const MOST_CA_BYTES: usize = 128 * 1024;
/// Longest text or expression that is expected, in bytes.
pub const MOST_TEXT_BYTES: usize = 4096;
/// Most status codes and ranges that are expected.
pub const MOST_STATUS_RANGES: usize = 32;
/// Most days for which a certificate can be asked to be valid.
pub const MOST_CERTIFICATE_DAYS: u32 = 3650;
/// Longest host, in bytes: a name of 253 and the dot at its end.
pub const MOST_HOST_BYTES: usize = 254;
/// Longest name that is resolved, in bytes.
pub const MOST_NAME_BYTES: usize = 255;

/// The name of a header (RFC 9110, 5.1).
pub(super) const HEADER_NAME: &str = "^[-!#$%&'*+.^_`|~0-9a-zA-Z]+$";
/// An absolute URL of the web.
pub(super) const URL: &str = r"(?i)^https?://[^\x00-\x20\x7f/?#\\]+([/?#][^\x00-\x20\x7f]*)?$";
/// A host's name, or an IPv4 address.
pub(super) const HOST: &str = r"^[a-zA-Z0-9]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?(\.[a-zA-Z0-9]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?)*\.?$";
/// A name in the DNS, which may be written in any script.
pub(super) const NAME: &str = r"^([^\x00-\x20\x7f.]{1,63}(\.[^\x00-\x20\x7f.]{1,63})*\.?|\.)$";
/// An address with a port.
pub(super) const SERVER_WITH_PORT: &str = r"^([0-9.]+|\[[0-9a-fA-F]*:[0-9a-fA-F:.]*\]):[0-9]{1,5}$";

/// Whether the text has the form of an absolute URL of the web. What it names may still be malformed.
pub fn is_url(text: &str) -> bool {
    static FORM: LazyLock<Regex> = LazyLock::new(|| compiled(URL));
    text.len() <= MOST_URL_BYTES && FORM.is_match(text)
}

/// Whether the text is a host's name or an address, IPv6 without brackets.
pub fn is_host(text: &str) -> bool {
    static FORM: LazyLock<Regex> = LazyLock::new(|| compiled(HOST));
    text.len() <= MOST_HOST_BYTES && (FORM.is_match(text) || is_address(text))
}

/// Whether the text has the form of a name in the DNS.
pub fn is_name(text: &str) -> bool {
    static FORM: LazyLock<Regex> = LazyLock::new(|| compiled(NAME));
    text.len() <= MOST_NAME_BYTES && FORM.is_match(text)
}

/// Whether the text is an address, with or without a port.
pub fn is_server(text: &str) -> bool {
    static FORM: LazyLock<Regex> = LazyLock::new(|| compiled(SERVER_WITH_PORT));
    is_address(text)
        || FORM.is_match(text) && text.parse().is_ok_and(|it: SocketAddr| is_plain(it.ip()))
}

fn is_address(text: &str) -> bool {
    text.parse().is_ok_and(is_plain)
}

/// As CEL's `isIP()` has it: an IPv4 address is written as one.
fn is_plain(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(address) => address.to_ipv4_mapped().is_none(),
    }
}

fn compiled(form: &str) -> Regex {
    Regex::new(form).expect("the forms above are regular expressions")
}
