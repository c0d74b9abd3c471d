use super::*;

const MANIFEST: &str = r#"
apiVersion: bellwether.dev/v1alpha1
kind: UptimeCheck
metadata:
  name: shop
  namespace: web
  creationTimestamp: null
spec:
  target:
    http:
      url: https://user:secret@shop.example/health?token=secret
      headers:
        Authorization: Bearer secret
      body: secret
  interval: 1m30s
  expect:
    status: [200, "300-399", 4xx]
    maxLatency: 500ms
"#;

fn shop() -> UptimeCheck {
    serde_saphyr::from_str(MANIFEST).unwrap()
}

#[test]
fn a_manifest_is_read_with_its_defaults() {
    let check = shop();
    assert_eq!(check.spec.timeout(), DEFAULT_TIMEOUT);
    assert_eq!(check.spec.failure_threshold, 1);
    let Target::Http(http) = &check.spec.target else { panic!("{:?}", check.spec.target) };
    assert_eq!((http.method, http.follow_redirects), (Method::Get, true));
    assert_eq!(check.spec.expect.status.len(), 3);
}

#[test]
fn a_resource_survives_json_as_the_api_server_keeps_it() {
    let check = shop();
    let json = serde_json::to_string(&check).unwrap();
    assert_eq!(serde_json::from_str::<UptimeCheck>(&json).unwrap(), check);
}

#[test]
fn a_resource_survives_yaml() {
    let check = shop();
    let yaml = serde_saphyr::to_string(&check).unwrap();
    assert_eq!(serde_saphyr::from_str::<UptimeCheck>(&yaml).unwrap(), check, "{yaml}");
}

#[test]
fn no_secret_of_a_manifest_is_in_its_debug_or_display_text() {
    let check = shop();
    let text = format!("{check:?} {}", check.spec.target);
    assert!(!text.contains("secret"), "{text}");
    assert!(text.contains("GET https://shop.example/health"), "{text}");
}

#[test]
fn the_default_timeout_is_not_above_the_interval() {
    let mut check = shop();
    check.spec.interval = Span::secs(3);
    assert_eq!(check.spec.timeout(), Span::secs(3));
}
