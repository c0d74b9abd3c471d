//! Text formats and bounds of `UptimeCheck`'s fields: the schema and a node's own validation of a manifest
//! both use them, so that they agree.
//!
//! The regular expressions mean the same to RE2, which the API server uses, and to Rust's `regex`.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::LazyLock,
};

use regex::Regex;

use crate::k8s::crd::value::Span;

/// Shortest interval of a check.
pub const LEAST_INTERVAL: Span = Span::secs(1);
/// Longest interval of a check.
pub const MOST_INTERVAL: Span = Span::secs(24 * 60 * 60);
/// Shortest timeout of a check.
pub const LEAST_TIMEOUT: Span = Span::millis(10);
/// Maximum number of runs that may fail in a row before a check counts as down.
pub const MOST_FAILURES: u32 = 100;
/// Maximum length of a URL, in characters, as the API server counts all texts.
pub const MOST_URL_CHARS: usize = 2048;
/// Maximum number of headers of a request.
pub const MOST_HEADERS: usize = 64;
/// Maximum length of a header's value, in characters: the usual limit of servers.
pub const MOST_HEADER_CHARS: usize = 8192;
/// Maximum length of the request's body, in characters.
pub const MOST_BODY_CHARS: usize = 64 * 1024;
/// Maximum length of the certificate bundle, in characters: a few dozen certificates.
pub const MOST_CA_CHARS: usize = 128 * 1024;
/// Maximum length of an expected text or expression, in characters.
pub const MOST_TEXT_CHARS: usize = 4096;
/// Maximum number of expected status codes and ranges.
pub const MOST_STATUS_RANGES: usize = 32;
/// Maximum number of days for which a certificate can be required to be valid.
pub const MOST_CERTIFICATE_DAYS: u32 = 3650;
/// Maximum length of a host, in characters: a name of 253 and the dot at its end.
pub const MOST_HOST_CHARS: usize = 254;
/// Maximum length of a server's name in the TLS handshake, in characters.
pub const MOST_SERVER_NAME_CHARS: usize = 253;
/// Maximum length of a name to resolve, in characters.
pub const MOST_NAME_CHARS: usize = 255;

/// Name of a header (RFC 9110, 5.1).
pub(super) const HEADER_NAME: &str = "^[-!#$%&'*+.^_`|~0-9a-zA-Z]+$";
/// Absolute URL with the scheme http or https.
pub(super) const URL: &str = r"(?i)^https?://[^\x00-\x20\x7f/?#\\]+([/?#][^\x00-\x20\x7f]*)?$";
/// URL that names the port 0.
pub(super) const PORT_ZERO: &str = r"^[^:]*://[^/?#]*:0+([/?#].*)?$";
/// Name of a host, which may be written in any script, or an IPv4 address.
pub(super) const HOST: &str = r"^[^\x00-/:-@\[-^`{-\x7f]([^\x00-,./:-@\[-^`{-\x7f]{0,61}[^\x00-/:-@\[-^`{-\x7f])?(\.[^\x00-/:-@\[-^`{-\x7f]([^\x00-,./:-@\[-^`{-\x7f]{0,61}[^\x00-/:-@\[-^`{-\x7f])?)*\.?$";
/// IPv6 address with a zone after `%`: the interface through which it is reached (RFC 4007, 11.2).
pub(super) const ZONE: &str = r"^[0-9a-fA-F:.]*:[0-9a-fA-F:.]*%[0-9a-zA-Z._-]{1,15}$";
/// Name of a server in the TLS handshake.
pub(super) const SERVER_NAME: &str = r"^[a-zA-Z0-9_]([-a-zA-Z0-9_]{0,61}[a-zA-Z0-9_])?(\.[a-zA-Z0-9_]([-a-zA-Z0-9_]{0,61}[a-zA-Z0-9_])?)*$";
/// Name in the DNS, which may be written in any script.
pub(super) const NAME: &str = r"^([^\x00-\x20\x7f.]{1,63}(\.[^\x00-\x20\x7f.]{1,63})*\.?|\.)$";
/// Address with a port.
pub(super) const SERVER_WITH_PORT: &str = r"^([0-9.]+|\[[0-9a-fA-F]*:[0-9a-fA-F:.]*\]):[0-9]{1,5}$";

/// Whether the text has the form of an absolute http or https URL. Parts of such a text may still be
/// malformed.
pub fn is_url(text: &str) -> bool {
    static FORM: LazyLock<Regex> = LazyLock::new(|| compiled(URL));
    is_at_most(text, MOST_URL_CHARS) && FORM.is_match(text)
}

/// Whether the URL names the port 0, which no server has.
pub fn has_port_zero(url: &str) -> bool {
    static FORM: LazyLock<Regex> = LazyLock::new(|| compiled(PORT_ZERO));
    FORM.is_match(url)
}

/// Whether the text is a host's name or an address, IPv6 without brackets.
pub fn is_host(text: &str) -> bool {
    static FORM: LazyLock<Regex> = LazyLock::new(|| compiled(HOST));
    is_at_most(text, MOST_HOST_CHARS)
        && (FORM.is_match(text) || is_address(text) || with_zone(text).is_some())
}

/// Whether the text is a name that a server can have in the TLS handshake.
pub fn is_server_name(text: &str) -> bool {
    static FORM: LazyLock<Regex> = LazyLock::new(|| compiled(SERVER_NAME));
    is_at_most(text, MOST_SERVER_NAME_CHARS) && FORM.is_match(text)
}

/// Parses an IPv6 address with a zone, like `fe80::1%eth0`, into the address and the zone.
pub fn with_zone(text: &str) -> Option<(Ipv6Addr, &str)> {
    static FORM: LazyLock<Regex> = LazyLock::new(|| compiled(ZONE));
    let (address, zone) = text.split_once('%').filter(|_| FORM.is_match(text))?;
    Some((address.parse().ok().filter(|it: &Ipv6Addr| it.to_ipv4_mapped().is_none())?, zone))
}

/// Returns the host as resolvers take it: a name of another script in its ASCII form (IDNA), an address
/// unchanged. `None` if there is no such form.
pub fn ascii_host(host: &str) -> Option<String> {
    if is_address(host) || with_zone(host).is_some() {
        return Some(host.to_owned());
    }
    let url = reqwest::Url::parse(&format!("http://{host}/")).ok()?;
    url.host_str().map(str::to_owned)
}

/// Whether the text has at most this many characters, as the API server counts them.
pub fn is_at_most(text: &str, most: usize) -> bool {
    text.len() <= most || text.chars().count() <= most
}

/// Whether the text has the form of a name in the DNS.
pub fn is_name(text: &str) -> bool {
    static FORM: LazyLock<Regex> = LazyLock::new(|| compiled(NAME));
    is_at_most(text, MOST_NAME_CHARS) && FORM.is_match(text)
}

/// Whether the text is an address, with or without a port.
pub fn is_server(text: &str) -> bool {
    static FORM: LazyLock<Regex> = LazyLock::new(|| compiled(SERVER_WITH_PORT));
    let is_good = |it: SocketAddr| is_plain(it.ip()) && it.port() != 0;
    is_address(text) || FORM.is_match(text) && text.parse().is_ok_and(is_good)
}

fn is_address(text: &str) -> bool {
    text.parse().is_ok_and(is_plain)
}

/// As in CEL's `isIP()`: an IPv4 address must not be written as an IPv6 one.
fn is_plain(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(address) => address.to_ipv4_mapped().is_none(),
    }
}

fn compiled(form: &str) -> Regex {
    Regex::new(form).expect("the forms above are regular expressions")
}
