use super::*;

fn urls(endpoints: &[&str]) -> Result<Vec<String>, String> {
    EtcdConfig::new(endpoints.iter().copied()).validate().map_err(|error| error.to_string())
}

fn refusal(config: &EtcdConfig) -> String {
    config.validate().unwrap_err().to_string()
}

#[test]
fn bare_hosts_get_scheme_and_port() {
    let plain = urls(&["a", "b:2380", "[::1]", "[::1]:1", "HTTP://c/"]).unwrap();
    assert_eq!(
        plain,
        ["http://a:2379", "http://b:2380", "http://[::1]:2379", "http://[::1]:1", "http://c:2379"]
    );
    let secure = EtcdConfig::new(["a", "https://b:1"]).tls(Tls::ca("ca.pem")).validate().unwrap();
    assert_eq!(secure, ["https://a:2379", "https://b:1"]);
}

#[test]
fn a_bad_endpoint_is_named_with_a_remedy() {
    for (endpoint, word) in [
        ("", "empty entry"),
        ("http://a,http://b", "entry of its own"),
        ("unix:///tmp/etcd", "scheme"),
        ("http://a:2379/v3", "at the root"),
        ("http://a:0", "1 to 65535"),
        ("http://a:99999", "1 to 65535"),
        ("http://:2379", "no host"),
        ("::1", "brackets"),
        ("http://a b", "not a URL"),
    ] {
        let said = urls(&[endpoint]).unwrap_err();
        assert!(said.starts_with("endpoints ") && said.contains(word), "{endpoint:?}: {said}");
    }
    assert!(urls(&[]).unwrap_err().contains("names no member"));
    assert!(urls(&["a", "http://a:2379"]).unwrap_err().contains("twice"));
}

#[test]
fn http_and_https_are_not_mixed() {
    assert!(urls(&["http://a", "https://b"]).unwrap_err().contains("mixes https and http"));
    let plain_with_tls = EtcdConfig::new(["http://a"]).tls(Tls::default());
    assert!(refusal(&plain_with_tls).contains("write https"));
}

#[test]
fn a_password_in_a_url_is_refused_and_never_shown() {
    let config = EtcdConfig::new(["https://root:hunter2@a:2379"]).user("root", "hunter2");
    let said = refusal(&config);
    assert!(said.contains("https://…@a:2379"), "{said}");
    for text in [said, format!("{config:?}"), format!("{config:#?}")] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn half_of_a_client_certificate_is_refused() {
    let cert_only = Tls { cert_file: Some("c.pem".into()), ..Tls::default() };
    assert!(refusal(&EtcdConfig::new(["a"]).tls(cert_only)).contains("without tls.key_file"));
    let key_only = Tls { key_file: Some("k.pem".into()), ..Tls::default() };
    assert!(refusal(&EtcdConfig::new(["a"]).tls(key_only)).contains("without tls.cert_file"));
}

#[test]
fn durations_have_bounds_and_users_have_names() {
    let short = EtcdConfig::new(["a"]).suspect_after(Duration::from_millis(1));
    assert_eq!(refusal(&short), "suspect_after \"1ms\" is out of bounds: choose 20ms to 5s");
    assert!(refusal(&EtcdConfig::new(["a"]).user("", "x")).starts_with("user "));
    assert!(refusal(&EtcdConfig::new(["a"]).user("x", "")).starts_with("password "));
}
