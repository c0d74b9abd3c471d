use super::*;
use crate::operator::uptime::{Check, value::Span};

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

/// The same check as an object of the API.
fn object() -> crd::UptimeCheck {
    let mut object: crd::UptimeCheck = serde_saphyr::from_str(MANIFEST).unwrap();
    object.metadata.uid = Some("0f6d".into());
    object.metadata.generation = Some(3);
    object
}

#[test]
fn a_check_is_made_from_an_object_of_the_api_as_from_a_manifest() {
    let from_api = Check::new(object().into()).unwrap();
    let from_folder = Check::new(shop()).unwrap();
    assert_eq!(from_api.key(), from_folder.key());
    assert_eq!(from_api.spec_hash(), from_folder.spec_hash());
    assert_eq!(from_api.resource().metadata.uid.as_deref(), Some("0f6d"));
    assert_eq!(from_api.resource().metadata.generation, Some(3));
}

#[test]
fn an_object_of_the_api_survives_being_made_a_check() {
    let resource = UptimeCheck::from(object());
    let back = crd::UptimeCheck::from(resource.clone());
    assert_eq!(back.spec, object().spec);
    assert_eq!(UptimeCheck::from(back), resource);
}

#[test]
fn what_kubectl_noted_of_the_last_manifest_is_left_behind_with_its_secrets() {
    let mut object = object();
    let noted = [(LAST_APPLIED.to_owned(), "secret".to_owned()), ("a".to_owned(), "b".to_owned())];
    object.metadata.annotations = Some(noted.into());
    let annotations = UptimeCheck::from(object).metadata.annotations;
    assert_eq!(annotations, [("a".to_owned(), "b".to_owned())].into());
}
