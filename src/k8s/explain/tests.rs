//! Tests of errors that a real server rarely returns; `tests/k8s/explain.rs` runs against a real server.

use std::{
    os::unix::process::ExitStatusExt as _,
    process::{ExitStatus, Output},
};

use serde_json::json;

use super::*;

fn of(status: &serde_json::Value) -> Explained {
    let status: Status = serde_json::from_value(status.clone()).unwrap();
    explain(&kube::Error::Api(status.boxed()))
}

fn failure(code: u16, reason: &str, message: &str) -> serde_json::Value {
    json!({"status": "Failure", "code": code, "reason": reason, "message": message})
}

#[test]
fn a_webhook_that_denies_is_told_by_its_words_whatever_code_it_chose() {
    for (code, reason) in [(403, "Forbidden"), (400, "BadRequest"), (422, "Invalid"), (418, "")] {
        let said = of(&failure(
            code,
            reason,
            r#"admission webhook "sites.example.com" denied the request: no more than 3 replicas"#,
        ));
        assert_eq!(said.reason, Reason::Denied);
        assert_eq!(said.message, "webhook sites.example.com denied it: no more than 3 replicas");
        assert!(!said.reason.is_transient());
    }
}

#[test]
fn a_webhook_that_is_down_is_not_one_that_denies() {
    let said = of(&failure(
        500,
        "InternalError",
        r#"Internal error occurred: failed calling webhook "sites.example.com": failed to call webhook: Post "https://sites": context deadline exceeded"#,
    ));
    assert_eq!(said.reason, Reason::WebhookFailed);
    assert!(said.reason.is_transient() && said.message.contains("sites.example.com"));
}

#[test]
fn a_service_account_is_named_as_one() {
    let said = of(&failure(
        403,
        "Forbidden",
        r#"pods "web-0" is forbidden: User "system:serviceaccount:shop:bellwether" cannot patch resource "pods/status" in API group "" in the namespace "shop""#,
    ));
    assert_eq!(
        said.message,
        "ServiceAccount shop/bellwether may not patch pods/status in namespace shop"
    );
    assert_eq!(
        said.remedy.unwrap(),
        "add to a Role in namespace shop that is bound to ServiceAccount shop/bellwether:\n\
         - apiGroups: [\"\"]\n  resources: [\"pods/status\"]\n  verbs: [\"patch\"]"
    );
}

#[test]
fn codes_count_where_no_status_came() {
    for (code, reason) in [
        (401, Reason::Unauthorized),
        (403, Reason::Denied),
        (404, Reason::KindMissing),
        (409, Reason::Conflict),
        (410, Reason::Gone),
        (413, Reason::TooLarge),
        (422, Reason::Invalid),
        (429, Reason::TooManyRequests),
        (500, Reason::Unavailable),
        (502, Reason::Unavailable),
        (503, Reason::Unavailable),
        (504, Reason::Timeout),
        (418, Reason::Other),
    ] {
        let said = of(&failure(code, "Failed to parse error data", "<html>gateway</html>"));
        assert_eq!(said.reason, reason, "{code}");
        assert!(!said.message.is_empty());
    }
    assert_eq!(of(&failure(503, "", "")).message, "the API server answered with code 503 ");
}

#[test]
fn etcds_limits_are_limits_too() {
    for message in [
        "etcdserver: request is too large",
        "rpc error: code = ResourceExhausted desc = trying to send message larger than max (2101044 vs. 2097152)",
    ] {
        assert_eq!(of(&failure(500, "", message)).reason, Reason::TooLarge);
    }
}

#[test]
fn a_certificate_is_told_by_what_is_wrong_with_it() {
    let tls = |error: rustls::Error| {
        let io = io::Error::new(io::ErrorKind::InvalidData, error);
        explain(&kube::Error::Service(Box::new(io)))
    };
    let expired = tls(rustls::Error::InvalidCertificate(rustls::CertificateError::Expired));
    assert_eq!(expired.reason, Reason::Tls);
    assert!(expired.remedy.unwrap().contains("clock"));
    let name = tls(rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidForName));
    assert!(name.remedy.unwrap().contains("tls-server-name"));
}

#[test]
fn reasons_are_words_that_a_label_can_carry() {
    let word = Reason::TooManyRequests.as_str();
    assert!(word.bytes().all(|it| it.is_ascii_lowercase() || it == b'_'));
    assert_eq!(format!("{:>20}", Reason::Gone), format!("{:>20}", "gone"));
}

#[test]
fn a_plug_in_that_fails_while_requests_are_made_is_explained_without_its_output() {
    let out = Output {
        status: ExitStatus::from_raw(3 << 8),
        stdout: b"hush".to_vec(),
        stderr: b"log in first\n".to_vec(),
    };
    let failed = AuthError::AuthExecRun { cmd: "kubelogin".to_owned(), out: Box::new(out) };
    let said = explain(&kube::Error::Service(Box::new(failed)));
    assert_eq!(said.reason, Reason::Unauthorized);
    assert!(said.message.contains("log in first") && said.message.contains("kubelogin"), "{said}");
    assert!(!said.to_string().contains("hush"), "{said}");
}
