use super::*;

/// A valid resource with one field set to another value.
fn with(path: &str, value: serde_json::Value) -> UptimeCheck {
    let mut json = serde_json::json!({
        "apiVersion": "bellwether.dev/v1alpha1",
        "kind": "UptimeCheck",
        "metadata": {"name": "web"},
        "spec": {"target": {"http": {"url": "https://shop.example/"}}, "interval": "30s", "expect": {}},
    });
    let mut at = &mut json;
    for segment in path.split('.') {
        at = &mut at[segment];
    }
    *at = value;
    serde_json::from_value(json).unwrap()
}

fn errors(path: &str, value: serde_json::Value) -> Vec<String> {
    Check::new(with(path, value))
        .err()
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn a_good_resource_makes_a_check_with_the_default_namespace() {
    let check = Check::new(with("metadata.name", "web".into())).unwrap();
    assert_eq!(check.key().to_string(), "default/web");
    assert_eq!("default/web".parse(), Ok(check.key().clone()));
}

#[test]
fn every_bad_field_is_named_with_a_remedy() {
    let http = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap();
    let cases = [
        ("apiVersion", "v1".into(), "apiVersion: is not known", "bellwether.dev/v1alpha1"),
        ("kind", "Pod".into(), "kind: is not known", "UptimeCheck"),
        ("metadata.name", "Web".into(), "metadata.name: is no DNS name", "lower-case"),
        ("metadata.name", "a..b".into(), "metadata.name: is no DNS name", "lower-case"),
        ("metadata.namespace", "a.b".into(), "metadata.namespace: is no", "DNS label"),
        ("spec.interval", "10ms".into(), "spec.interval: `10ms`", "`1s` to `24h`"),
        ("spec.interval", "25h".into(), "spec.interval: `25h`", "`1s` to `24h`"),
        ("spec.timeout", "31s".into(), "spec.timeout: `31s`", "the interval, `30s`"),
        ("spec.timeout", "0s".into(), "spec.timeout: `0s`", "`10ms`"),
        ("spec.failureThreshold", 0.into(), "spec.failureThreshold: `0`", "1 to 100"),
        (
            "spec.target.http.url",
            "shop".into(),
            "spec.target.http.url: is not a URL",
            "write it like",
        ),
        (
            "spec.target.http.url",
            "ftp://a/".into(),
            "spec.target.http.url: is neither",
            "only these",
        ),
        (
            "spec.target.http.headers",
            http(r#"{"a b":"c"}"#),
            "headers: holds a name",
            "use letters",
        ),
        ("spec.target.http.headers", http(r#"{"a":"c\nd"}"#), "headers.a:", "leave it out"),
        ("spec.target.http.caBundle", "x".into(), "spec.target.http.caBundle:", "PEM"),
        (
            "spec.target.http.url",
            "http://a:0/".into(),
            "spec.target.http.url: names the port 0",
            "1 to",
        ),
        ("spec.target.http.serverName", "a:1".into(), "serverName: is no name", "write it like"),
        ("metadata.labels", http(r#"{"a":"b c"}"#), "metadata.labels: holds a value", "at most 63"),
        ("metadata.labels", http(r#"{"a b":""}"#), "metadata.labels: holds a name", "prefix/name"),
        ("metadata.annotations", http(r#"{"":""}"#), "annotations: holds a name", "prefix/name"),
        (
            "spec.target",
            http(r#"{"tcp":{"host":"a b","port":1}}"#),
            "tcp.host: is neither",
            "write it like",
        ),
        ("spec.target", http(r#"{"tcp":{"host":"a","port":0}}"#), "tcp.port: `0`", "1 to 65535"),
        ("spec.target", http(r#"{"dns":{"name":""}}"#), "dns.name: is no", "write it like"),
        (
            "spec.target",
            http(r#"{"dns":{"name":"a","server":"b"}}"#),
            "dns.server: is no address",
            "10.0.0.53",
        ),
        (
            "spec.expect.maxLatency",
            "11s".into(),
            "spec.expect.maxLatency: `11s`",
            "the timeout, `10s`",
        ),
        ("spec.expect.bodyMatches", "(".into(), "spec.expect.bodyMatches: is no", "unclosed group"),
        ("spec.expect.bodyContains", "".into(), "spec.expect.bodyContains:", "1 to 4096"),
        ("spec.expect.certificateDays", 9999.into(), "certificateDays: `9999`", "3650"),
        ("spec.expect.answerContains", "a".into(), "answerContains:", "only for dns"),
    ];
    for (path, value, names, remedy) in cases {
        let found = errors(path, value.clone());
        assert_eq!(found.len(), 1, "{path} {value}: {found:?}");
        assert!(found[0].contains(names) && found[0].contains(remedy), "{path} {value}: {found:?}");
    }
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let mut resource = with("spec.interval", "10ms".into());
    resource.metadata.name = "_".into();
    resource.kind = "x".into();
    assert_eq!(Check::new(resource).unwrap_err().len(), 3);
}

#[test]
fn an_error_shows_no_password_of_a_url_and_no_value_of_a_header() {
    for url in
        ["ftp://user:secret@a/", "http://user:secret@:x/", "user:secret@host", "http://:x/?secret"]
    {
        let text = errors("spec.target.http.url", url.into()).join(" ");
        assert!(!text.is_empty() && !text.contains("secret"), "{text}");
    }
    let text = errors("spec.target.http.headers", serde_json::json!({"a": "secret\n"})).join(" ");
    assert!(!text.is_empty() && !text.contains("secret"), "{text}");
}

#[test]
fn a_body_is_not_expected_of_head_nor_a_certificate_of_http() {
    let mut resource = with("spec.expect.bodyMatches", "ok".into());
    let crate::operator::uptime::resource::Target::Http(http) = &mut resource.spec.target else {
        panic!()
    };
    http.method = crate::operator::uptime::resource::Method::Head;
    http.url = "http://a/".into();
    resource.spec.expect.certificate_days = Some(3);
    let found = Check::new(resource).unwrap_err();
    let paths: Vec<_> = found.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(paths, ["spec.expect.bodyMatches", "spec.expect.certificateDays"]);
}

#[test]
fn the_spec_hash_changes_with_the_spec_and_with_nothing_else() {
    let one = Check::new(with("metadata.name", "one".into())).unwrap();
    let two = Check::new(with("metadata.name", "two".into())).unwrap();
    let other = Check::new(with("spec.interval", "31s".into())).unwrap();
    assert_eq!(one.spec_hash(), two.spec_hash());
    assert_ne!(one.spec_hash(), other.spec_hash());
}

#[test]
fn the_shard_comes_from_the_uid_where_there_is_one() {
    let check = Check::new(with("metadata.uid", "foobar".into())).unwrap();
    assert_eq!(check.shard(256), ShardId(0x85));
    let check = Check::new(with("metadata.name", "web".into())).unwrap();
    assert_eq!(check.shard(256), shard_of_hash(hash_of_name(b"default/web"), 256));
    assert_eq!(check.former_shard(256), shard_of_hash(fnv1a(b"default/web"), 256));
}

#[test]
fn each_check_is_in_exactly_one_shard() {
    let checks =
        (0..50).map(|n| Check::new(with("metadata.name", format!("web-{n}").into())).unwrap());
    let checks = Checks::of(checks);
    let found: usize = (0..7).map(|shard| checks.of_shard(ShardId(shard), 7).count()).sum();
    assert_eq!(found, 50);
}

#[test]
fn a_name_is_bounded_as_a_whole_and_not_in_its_parts() {
    for name in ["a".repeat(253), format!("{}.b", "a".repeat(200)), "a-1.b".to_owned()] {
        let check = Check::new(with("metadata.name", name.as_str().into())).unwrap();
        assert_eq!(check.key().to_string().parse(), Ok(check.key().clone()), "{name}");
    }
    for name in ["a".repeat(254), "a.-b".to_owned(), "a.".to_owned(), String::new()] {
        assert_eq!(errors("metadata.name", name.as_str().into()).len(), 1, "{name}");
    }
}

#[test]
fn a_text_is_bounded_in_characters_as_the_api_server_counts_them() {
    assert_eq!(errors("spec.expect.bodyContains", "ä".repeat(4096).into()), [""; 0]);
    assert_eq!(errors("spec.expect.bodyContains", "ä".repeat(4097).into()).len(), 1);
}

#[test]
fn no_error_shows_what_it_could_not_read() {
    const SECRET: &str = "s3cr3t value";
    let keys = |text: &str| serde_json::json!({text: "x\n"});
    let key = "-----BEGIN PRIVATE KEY-----\ns3cr3t\n-----END PRIVATE KEY-----\n";
    let lost = "-----BEGIN CERTIFICATE-----\\ns3cr3t value\\n-----END CERTIFICATE-----";
    let cases = [
        ("apiVersion", SECRET.into()),
        ("kind", SECRET.into()),
        ("metadata.name", SECRET.into()),
        ("metadata.namespace", SECRET.into()),
        ("metadata.labels", keys(SECRET)),
        ("metadata.annotations", keys(SECRET)),
        ("spec.target.http.url", SECRET.into()),
        ("spec.target.http.url", format!("{SECRET}://a/").into()),
        ("spec.target.http.url", "s3cr3t:x".into()),
        ("spec.target.http.url", "http://a:s3cr3t/".into()),
        ("spec.target.http.headers", keys(SECRET)),
        ("spec.target.http.headers", keys("s3cr3t,")),
        ("spec.target.http.serverName", SECRET.into()),
        ("spec.target.http.caBundle", SECRET.into()),
        ("spec.target.http.caBundle", key.into()),
        ("spec.target.http.caBundle", lost.into()),
        ("spec.target.http.caBundle", format!("-----BEGIN CERTIFICATE-----\n{SECRET}").into()),
        ("spec.target", serde_json::json!({"tcp": {"host": SECRET, "port": 1}})),
        ("spec.target", serde_json::json!({"dns": {"name": SECRET}})),
        ("spec.target", serde_json::json!({"dns": {"name": "a", "server": SECRET}})),
        ("spec.expect.bodyMatches", format!("({SECRET}").into()),
        ("spec.expect.bodyMatches", format!("(?P<{SECRET}>)").into()),
        ("spec.expect.bodyMatches", r"\p{s3cr3t}".into()),
    ];
    for (path, value) in cases {
        let text = errors(path, value).join(" ");
        assert!(!text.is_empty() && !text.contains("s3cr3t"), "{path}: {text}");
        // The secret must not appear byte by byte either.
        assert!(!text.contains("115, 51") && text.len() < 400, "{path}: {text}");
    }
}

#[test]
fn a_bundle_with_a_private_key_is_refused_even_beside_a_certificate() {
    let both = format!("{}{}", crate::tls::testing::P521, crate::tls::testing::P521_KEY);
    let text = errors("spec.target.http.caBundle", both.into()).join(" ");
    assert!(text.contains("holds a private key: remove it"), "{text}");
}
