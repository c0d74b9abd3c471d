//! The API server and a node that reads a folder of manifests give the same verdict: one table for both.
//!
//! The server accepts what a node accepts. The server also rejects what a node rejects, except for rules that
//! no schema can express: the node then reports the problem in the status, and the table names every such case.
//! [`super::generated`] adds cases that depend on the text of manifests.

use bellwether::operator::uptime::{
    Check, UptimeCheck,
    crd::{self, forms},
};
use serde_json::{Value, json};

use super::{check, space, tried};

/// The side that rejects a spec.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Nobody,
    /// Both sides name the field; the second text is the server's message.
    Both(&'static str, &'static str),
    /// No schema can express the rule: the server accepts the spec, the node names the field.
    TheNodeOnly(&'static str),
}
use By::{Both, Nobody, TheNodeOnly};

/// A valid spec with these fields set or, for `null`, removed.
fn with(changes: &Value) -> Value {
    let mut spec = json!({
        "target": {"http": {"url": "https://shop.example/"}},
        "interval": "30s",
        "timeout": "5s",
        "failureThreshold": 2,
        "expect": {"status": [200]},
    });
    merge(&mut spec, changes);
    spec
}

fn merge(into: &mut Value, changes: &Value) {
    let Value::Object(fields) = changes else {
        *into = changes.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, change) in fields {
        if change.is_null() {
            into.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut into[name], change);
        }
    }
}

fn tcp(host: &str) -> Value {
    json!({"target": {"http": null, "tcp": {"host": host, "port": 80}}, "expect": null})
}

fn dns(fields: &Value) -> Value {
    json!({"target": {"http": null, "dns": fields}, "expect": null})
}

fn url(url: &str) -> Value {
    json!({"target": {"http": {"url": url}}})
}

fn expect(fields: &Value) -> Value {
    json!({"expect": fields})
}

fn header(name: &str, value: &str) -> Value {
    json!({"target": {"http": {"headers": {name: value}}}})
}

fn targets() -> Vec<(Value, By)> {
    const URL: &str = "spec.target.http.url";
    const HOW_URL: &str = "write it like `https://shop.example/`";
    const HOST: &str = "spec.target.tcp.host";
    const HOW_HOST: &str = "write it like `db.example`, `10.0.0.1` or `::1`";
    const NAME: &str = "spec.target.dns.name";
    const HOW_NAME: &str = "write it like `shop.example`";
    const SERVER: &str = "spec.target.dns.server";
    const HOW_SERVER: &str = "write it like `10.0.0.53` or `[::1]:5353`";
    const ONE: &str = "must name exactly one of `http`, `tcp` and `dns`";
    vec![
        (json!({}), Nobody),
        (json!({"target": {"http": null}}), Both("spec.target", ONE)),
        (json!({"target": {"tcp": {"host": "a", "port": 1}}}), Both("spec.target", ONE)),
        (url("http://a"), Nobody),
        (url("HTTPS://u:p@a.example:8443/b?c=d#e"), Nobody),
        (url("http://[::1]:80/"), Nobody),
        (url("http://bücher.example/ä"), Nobody),
        (url(""), Both(URL, HOW_URL)),
        (url("shop"), Both(URL, HOW_URL)),
        (url("ftp://a/"), Both(URL, HOW_URL)),
        (url("http:a"), Both(URL, HOW_URL)),
        (url("http:///a"), Both(URL, HOW_URL)),
        (url("http://a/b c"), Both(URL, HOW_URL)),
        (url(" http://a/"), Both(URL, HOW_URL)),
        (url(&format!("http://a/{}", "b".repeat(2048))), Both(URL, "may not be more than 2048")),
        (url("http://a:99999/"), TheNodeOnly(URL)),
        (url("http://u:0@a/:0"), Nobody),
        (url("http://a:0"), Both(URL, "names the port 0")),
        (url("http://[::1]:00/"), Both(URL, "names the port 0")),
        (json!({"target": {"http": {"serverName": "shop.example"}}}), Nobody),
        (
            json!({"target": {"http": {"serverName": "shop.example:443"}}}),
            Both("spec.target.http.serverName", "write it like `shop.example`"),
        ),
        (
            json!({"target": {"http": {"url": "http://a/", "serverName": "a"}}}),
            Both("spec.target.http.serverName", "there is no TLS without an https URL"),
        ),
        (json!({"target": {"http": {"method": "HEAD"}}}), Nobody),
        (
            json!({"target": {"http": {"method": "get"}}}),
            Both("spec.target.http.method", "supported values: \"GET\", \"HEAD\""),
        ),
        (header("Authorization", "Bearer\tä"), Nobody),
        (
            header("a b", "c"),
            Both("spec.target.http.headers", "`a b` is no header name: use letters"),
        ),
        (header("", "c"), Both("spec.target.http.headers", "`` is no header name: use letters")),
        (header("a", "b\nc"), Both("spec.target.http.headers", "control character: leave it out")),
        (
            header("a", &"b".repeat(8193)),
            Both("spec.target.http.headers", "may not be more than 8192"),
        ),
        (
            json!({"target": {"http": {"headers":
                (0..65).map(|it| (format!("h{it}"), json!("v"))).collect::<serde_json::Map<_, _>>()}}}),
            Both("spec.target.http.headers", "must have at most 64 items"),
        ),
        (
            json!({"target": {"http": {"body": "b".repeat(65537)}}}),
            Both("spec.target.http.body", "may not be more than 65536"),
        ),
        (
            json!({"target": {"http": {"caBundle": "x"}}}),
            Both("spec.target.http.caBundle", "write certificates in PEM"),
        ),
        (
            json!({"target": {"http": {"caBundle":
                "-----BEGIN CERTIFICATE-----\n-----BEGIN EC PRIVATE KEY-----"}}}),
            Both("spec.target.http.caBundle", "holds a private key: remove it"),
        ),
        (
            json!({"target": {"http": {"caBundle": "-----BEGIN CERTIFICATE-----\nx"}}}),
            TheNodeOnly("spec.target.http.caBundle"),
        ),
        (tcp("db.example."), Nobody),
        (tcp("DB-1"), Nobody),
        (tcp("10.0.0.1"), Nobody),
        (tcp("fe80::1"), Nobody),
        (tcp(""), Both(HOST, HOW_HOST)),
        (tcp("a b"), Both(HOST, HOW_HOST)),
        (tcp("a..b"), Both(HOST, HOW_HOST)),
        (tcp("[::1]"), Both(HOST, HOW_HOST)),
        (tcp("fe80::1%eth0"), Nobody),
        (tcp("my_db"), Nobody),
        (tcp("bücher.example"), Nobody),
        (tcp("10.0.0.1%eth0"), Both(HOST, HOW_HOST)),
        (tcp("fe80::1%"), Both(HOST, HOW_HOST)),
        (tcp("a/b"), Both(HOST, HOW_HOST)),
        (tcp("::ffff:10.0.0.1"), Both(HOST, HOW_HOST)),
        (
            json!({"target": {"http": null, "tcp": {"host": "a", "port": 0}}, "expect": null}),
            Both("spec.target.tcp.port", "greater than or equal to 1"),
        ),
        (
            json!({"target": {"http": null, "tcp": {"host": "a", "port": 65536}}, "expect": null}),
            Both("spec.target.tcp.port", "less than or equal to 65535"),
        ),
        (dns(&json!({"name": "_sip._tcp.bücher.example.", "recordType": "SRV"})), Nobody),
        (dns(&json!({"name": "::1", "recordType": "PTR"})), Nobody),
        (dns(&json!({"name": "a", "server": "10.0.0.53"})), Nobody),
        (dns(&json!({"name": "a", "server": "[::1]:5353"})), Nobody),
        (dns(&json!({"name": ""})), Both(NAME, HOW_NAME)),
        (dns(&json!({"name": "a..b"})), Both(NAME, HOW_NAME)),
        (dns(&json!({"name": "a b"})), Both(NAME, HOW_NAME)),
        (
            dns(&json!({"name": "a", "recordType": "X"})),
            Both("spec.target.dns.recordType", "\"AAAA\""),
        ),
        (dns(&json!({"name": "a", "server": "b"})), Both(SERVER, HOW_SERVER)),
        (dns(&json!({"name": "a", "server": "10.0.0.53:"})), Both(SERVER, HOW_SERVER)),
        (dns(&json!({"name": "a", "server": "10.0.0.53:65536"})), Both(SERVER, HOW_SERVER)),
        (dns(&json!({"name": "a", "server": "10.0.0.53:0"})), Both(SERVER, HOW_SERVER)),
        (dns(&json!({"name": "a", "server": "[10.0.0.53]:53"})), Both(SERVER, HOW_SERVER)),
    ]
}

fn times() -> Vec<(Value, By)> {
    const HOW: &str = "write it like `30s` or `1m30s`";
    vec![
        (json!({"interval": "1s", "timeout": "1s"}), Nobody),
        (json!({"interval": "24h"}), Nobody),
        (json!({"interval": "23h59m60s"}), Nobody),
        (json!({"timeout": "10ms"}), Nobody),
        (json!({"timeout": null}), Nobody),
        (json!({"timeout": "30s"}), Nobody),
        (
            json!({"interval": "999ms", "timeout": null}),
            Both("spec.interval", "is outside `1s` to `24h`"),
        ),
        (json!({"interval": "24h1ms"}), Both("spec.interval", "is outside `1s` to `24h`")),
        (json!({"interval": "soon"}), Both("spec.interval", HOW)),
        (json!({"interval": "1day"}), Both("spec.interval", HOW)),
        (json!({"interval": "1.5m"}), Both("spec.interval", HOW)),
        (json!({"interval": "1h1h1h1h1h"}), Both("spec.interval", HOW)),
        (json!({"timeout": "-1s"}), Both("spec.timeout", HOW)),
        (json!({"timeout": "9ms"}), Both("spec.timeout", "is outside `10ms` to the interval")),
        (json!({"timeout": "31s"}), Both("spec.timeout", "is above the interval")),
        (json!({"failureThreshold": 1}), Nobody),
        (json!({"failureThreshold": 100}), Nobody),
        (
            json!({"failureThreshold": 0}),
            Both("spec.failureThreshold", "greater than or equal to 1"),
        ),
        (
            json!({"failureThreshold": 101}),
            Both("spec.failureThreshold", "less than or equal to 100"),
        ),
    ]
}

fn expectations() -> Vec<(Value, By)> {
    const LATENCY: &str = "spec.expect.maxLatency";
    const FOR_HTTP: &str = "means nothing but for a target of kind `http`: leave it out";
    const NO_BODY: &str = "the answer to HEAD has no body: use `method: GET` or leave it out";
    let only = |field: &str, value: Value| {
        let mut change = tcp("a");
        change["expect"] = json!({"status": null, field: value});
        change
    };
    let head =
        |field: &str| json!({"target": {"http": {"method": "HEAD"}}, "expect": {field: "a"}});
    vec![
        (json!({"expect": null}), Nobody),
        (expect(&json!({"status": [100, 599, "404", "200-299", "5xx"]})), Nobody),
        (expect(&json!({"status": []})), Nobody),
        (
            expect(&json!({"status": [99]})),
            Both("spec.expect.status[0]", "greater than or equal to 100"),
        ),
        (
            expect(&json!({"status": [200, 600]})),
            Both("spec.expect.status[1]", "less than or equal to 599"),
        ),
        (expect(&json!({"status": ["9xx"]})), Both("spec.expect.status[0]", "should match")),
        (expect(&json!({"status": ["20-299"]})), Both("spec.expect.status[0]", "should match")),
        (expect(&json!({"status": ["299-200"]})), TheNodeOnly("spec.expect.status[0]")),
        (
            expect(&json!({"status": vec![200; forms::MOST_STATUS_RANGES + 1]})),
            Both("spec.expect.status", "must have at most 32 items"),
        ),
        (expect(&json!({"bodyContains": "a", "bodyMatches": "^b", "certificateDays": 14})), Nobody),
        (
            expect(&json!({"bodyContains": ""})),
            Both("spec.expect.bodyContains", "at least 1 chars"),
        ),
        (expect(&json!({"bodyContains": "ä".repeat(4096)})), Nobody),
        (
            expect(&json!({"bodyContains": "a".repeat(4097)})),
            Both("spec.expect.bodyContains", "may not be more than 4096"),
        ),
        (expect(&json!({"bodyMatches": "("})), TheNodeOnly("spec.expect.bodyMatches")),
        (
            expect(&json!({"certificateDays": 3651})),
            Both("spec.expect.certificateDays", "less than or equal to 3650"),
        ),
        (
            json!({"target": {"http": {"url": "http://a/"}}, "expect": {"certificateDays": 1}}),
            Both("spec.expect.certificateDays", "there is no certificate without an https URL"),
        ),
        (expect(&json!({"maxLatency": "5s"})), Nobody),
        (json!({"timeout": null, "expect": {"maxLatency": "10s"}}), Nobody),
        (json!({"timeout": null, "interval": "3s", "expect": {"maxLatency": "3s"}}), Nobody),
        (expect(&json!({"maxLatency": "0s"})), Both(LATENCY, "is not above zero")),
        (expect(&json!({"maxLatency": "quick"})), Both(LATENCY, "is no span of time")),
        (expect(&json!({"maxLatency": "5001ms"})), Both(LATENCY, "is above the timeout")),
        (
            json!({"timeout": null, "expect": {"maxLatency": "10001ms"}}),
            Both(LATENCY, "is above the timeout"),
        ),
        (
            json!({"timeout": null, "interval": "3s", "expect": {"maxLatency": "3001ms"}}),
            Both(LATENCY, "is above the timeout"),
        ),
        (head("bodyContains"), Both("spec.expect.bodyContains", NO_BODY)),
        (head("bodyMatches"), Both("spec.expect.bodyMatches", NO_BODY)),
        (only("status", json!([200])), Both("spec.expect.status", FOR_HTTP)),
        (only("bodyContains", json!("a")), Both("spec.expect.bodyContains", FOR_HTTP)),
        (only("bodyMatches", json!("a")), Both("spec.expect.bodyMatches", FOR_HTTP)),
        (only("certificateDays", json!(1)), Both("spec.expect.certificateDays", FOR_HTTP)),
        (
            only("answerContains", json!("a")),
            Both("spec.expect.answerContains", "means nothing but for a target of kind `dns`"),
        ),
        (only("maxLatency", json!("1s")), Nobody),
    ]
}

/// Problems that a node reports for this manifest in a folder, by field; empty if the node accepts it.
fn judged_by_a_node(manifest: &Value) -> Vec<String> {
    let text = manifest.to_string();
    let mut reader = serde_json::Deserializer::from_str(&text);
    let mut track = serde_path_to_error::Track::new();
    let read = serde_path_to_error::Deserializer::new(&mut reader, &mut track);
    match <UptimeCheck as serde::Deserialize>::deserialize(read) {
        Ok(check) => match Check::new(check) {
            Ok(_) => Vec::new(),
            Err(errors) => errors.into_iter().map(|it| it.path).collect(),
        },
        Err(_) => vec![track.path().to_string()],
    }
}

#[tokio::test]
async fn server_and_node_judge_every_spec_alike() {
    let space = space("agreement").await;
    let mut refused = 0;
    for (changes, by) in [targets(), times(), expectations()].concat() {
        let manifest = check("a", &with(&changes));
        let node = judged_by_a_node(&manifest);
        let server = tried(&space, &manifest).await;
        let told = format!("{}\nnode: {node:?}\nserver: {server:?}", manifest["spec"]);
        match by {
            Nobody => {
                assert_eq!(node, [""; 0], "{told}");
                let object = server.unwrap_or_else(|_| panic!("{told}"));
                // The spec that the server stores means the same to the node as the manifest did.
                let kept = serde_json::to_value(&object).unwrap();
                let kept: crd::UptimeCheck = serde_json::from_value(kept).unwrap();
                let read: UptimeCheck = serde_json::from_value(manifest).unwrap();
                assert_eq!(kept.spec, read.spec, "{told}");
            }
            Both(field, says) => {
                refused += 1;
                assert!(node.iter().any(|it| it.starts_with(field)), "{field}: {told}");
                let said = server.expect_err(&told);
                let names_it = |end| said.contains(&format!("{field}{end}"));
                assert!([':', '[', '.'].into_iter().any(names_it), "{told}");
                assert!(said.contains(says), "{says}: {told}");
                assert!(
                    !said.contains("conversion error"),
                    "each is said once, by its own rule: {told}"
                );
            }
            TheNodeOnly(field) => {
                assert!(node.iter().any(|it| it == field), "{told}");
                let object = server.unwrap_or_else(|_| panic!("{told}"));
                let kept = serde_json::to_value(&object).unwrap();
                let kept: crd::UptimeCheck =
                    serde_json::from_value(kept).expect("what the server takes can be read");
                assert!(Check::new(kept.into()).is_err(), "{told}");
            }
        }
    }
    assert!(refused > 50, "{refused}");
}
