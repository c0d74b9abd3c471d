//! Rules of `UptimeCheck` that its schema cannot express, in CEL. Each message contains the remedy.
//!
//! `operator::uptime::check` validates the same rules; a test runs both on one table of cases.

use serde_json::{Value, json};

use super::{
    DEFAULT_TIMEOUT,
    forms::{
        HEADER_NAME, HOST, LEAST_INTERVAL, LEAST_TIMEOUT, MOST_INTERVAL, NAME, PORT_ZERO,
        SERVER_NAME, SERVER_WITH_PORT, URL, ZONE,
    },
};
use crate::k8s::crd::{
    schema::{rule, rule_on},
    value::{SPAN, of_span as span},
};

/// Rule on a well-formed time span. CEL evaluates each rule separately, so a malformed span passes here.
fn well_formed(holds: &str) -> String {
    format!("!self.matches(r'{SPAN}') || ({holds})")
}

pub(super) fn of_interval() -> Value {
    let holds = well_formed(&format!(
        "duration(self) >= duration('{LEAST_INTERVAL}') && duration(self) <= duration('{MOST_INTERVAL}')"
    ));
    json!([span(), rule(&holds, &format!("is outside `{LEAST_INTERVAL}` to `{MOST_INTERVAL}`"))])
}

pub(super) fn of_timeout() -> Value {
    let holds = well_formed(&format!("duration(self) >= duration('{LEAST_TIMEOUT}')"));
    json!([span(), rule(&holds, &format!("is outside `{LEAST_TIMEOUT}` to the interval"))])
}

pub(super) fn of_max_latency() -> Value {
    let holds = well_formed("duration(self) > duration('0s')");
    json!([span(), rule(&holds, "is not above zero: leave it out to expect nothing")])
}

pub(super) fn of_spec() -> Value {
    let is_malformed = |field: &str| format!("!self.{field}.matches(r'{SPAN}')");
    let (no_interval, no_timeout) = (is_malformed("interval"), is_malformed("timeout"));
    let no_latency = is_malformed("expect.maxLatency");
    let fits = |field: &str, kind: &str| {
        rule_on(
            &format!(".expect.{field}"),
            &format!("!has(self.expect) || !has(self.expect.{field}) || has(self.target.{kind})"),
            &format!("means nothing but for a target of kind `{kind}`: leave it out"),
        )
    };
    let no_body = |field: &str| {
        rule_on(
            &format!(".expect.{field}"),
            &format!(
                "!has(self.expect) || !has(self.expect.{field}) || !has(self.target.http) || \
                 self.target.http.method != 'HEAD'"
            ),
            "the answer to HEAD has no body: use `method: GET` or leave it out",
        )
    };
    json!([
        rule_on(
            ".timeout",
            &format!(
                "!has(self.timeout) || {no_timeout} || {no_interval} || \
                 duration(self.timeout) <= duration(self.interval)"
            ),
            "is above the interval: a run ends before the next one is due, so shorten it",
        ),
        rule_on(
            ".expect.maxLatency",
            &format!(
                "!has(self.expect) || !has(self.expect.maxLatency) || {no_latency} || {no_interval} || \
                 (has(self.timeout) && {no_timeout}) || \
                 duration(self.expect.maxLatency) <= (has(self.timeout) ? duration(self.timeout) : \
                 duration(self.interval) < duration('{DEFAULT_TIMEOUT}') ? duration(self.interval) : \
                 duration('{DEFAULT_TIMEOUT}'))"
            ),
            &format!(
                "is above the timeout (by default `{DEFAULT_TIMEOUT}`, or the interval if that is shorter): \
                 shorten it, or set a longer `timeout`"
            ),
        ),
        fits("status", "http"),
        fits("bodyContains", "http"),
        fits("bodyMatches", "http"),
        fits("certificateDays", "http"),
        fits("answerContains", "dns"),
        no_body("bodyContains"),
        no_body("bodyMatches"),
        rule_on(
            ".target.http.serverName",
            "!has(self.target.http) || !has(self.target.http.serverName) || \
             self.target.http.url.matches('^(?i)https:')",
            "there is no TLS without an https URL: leave it out",
        ),
        rule_on(
            ".expect.certificateDays",
            "!has(self.expect) || !has(self.expect.certificateDays) || !has(self.target.http) || \
             self.target.http.url.matches('^(?i)https:')",
            "there is no certificate without an https URL: leave it out",
        ),
    ])
}

pub(super) fn of_target() -> Value {
    json!([rule(
        "[has(self.http), has(self.tcp), has(self.dns)].filter(it, it).size() == 1",
        "must name exactly one of `http`, `tcp` and `dns`",
    )])
}

pub(super) fn of_url() -> Value {
    json!([
        rule(
            &format!("self.matches(r'{URL}')"),
            "is not a URL of http or https: write it like `https://shop.example/`",
        ),
        rule(
            &format!("!self.matches(r'{PORT_ZERO}')"),
            "names the port 0, which no server has: use 1 to 65535",
        ),
    ])
}

pub(super) fn of_server_name() -> Value {
    json!([rule(
        &format!("self.matches(r'{SERVER_NAME}')"),
        "is no name of a server: write it like `shop.example`",
    )])
}

pub(super) fn of_header_names() -> Value {
    let is_none = format!("!name.matches(r\"{HEADER_NAME}\")");
    json!([{
        "rule": format!("!self.exists(name, {is_none})"),
        "message": "holds a name that is none: use letters, digits and `-`",
        "messageExpression":
            format!("'`' + self.filter(name, {is_none})[0] + '` is no header name: use letters, digits and `-`'"),
    }])
}

pub(super) fn of_header_value() -> Value {
    json!([rule(
        r"self.matches(r'^[^\x00-\x08\x0a-\x1f\x7f]*$')",
        "holds a line break or another control character: leave it out",
    )])
}

pub(super) fn of_ca_bundle() -> Value {
    json!([
        rule(
            "self.contains('-----BEGIN CERTIFICATE-----')",
            "holds no certificate: write certificates in PEM, from `-----BEGIN CERTIFICATE-----` on",
        ),
        rule(
            "!self.contains('PRIVATE KEY-----')",
            "holds a private key: remove it, and replace that key, since others can read it here",
        ),
    ])
}

pub(super) fn of_host() -> Value {
    json!([rule(
        &format!(
            "self.matches(r'{HOST}') || isIP(self) || \
             (self.matches(r'{ZONE}') && isIP(self.substring(0, self.indexOf('%'))))"
        ),
        "is neither a name nor an address: write it like `db.example`, `10.0.0.1` or `::1`",
    )])
}

pub(super) fn of_name() -> Value {
    json!([rule(
        &format!("self.matches(r'{NAME}')"),
        "is no domain name: write it like `shop.example`",
    )])
}

pub(super) fn of_server() -> Value {
    json!([rule(
        &format!(
            "isIP(self) || (self.matches(r'{SERVER_WITH_PORT}') && \
             isIP(self.substring(0, self.lastIndexOf(':')).replace('[', '').replace(']', '')) && \
             int(self.substring(self.lastIndexOf(':') + 1)) <= 65535 && \
             int(self.substring(self.lastIndexOf(':') + 1)) >= 1)"
        ),
        "is no address: write it like `10.0.0.53` or `[::1]:5353`",
    )])
}
