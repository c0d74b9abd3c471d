use std::io;

use super::*;

/// Errors of etcd 3.7, word by word, with the expected classification.
const SAID: &[(Code, &str, &str)] = &[
    (Code::NotFound, "etcdserver: requested lease not found", "lease not found"),
    (Code::FailedPrecondition, "etcdserver: lease already exists", "lease exists"),
    (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted", "compacted"),
    (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision", "denied"),
    (Code::Unauthenticated, "etcdserver: invalid auth token", "log in"),
    (Code::Unknown, "etcdserver: invalid auth token", "log in"),
    (Code::InvalidArgument, "etcdserver: revision of auth store is old", "log in"),
    (Code::InvalidArgument, "etcdserver: user name is empty", "log in"),
    (
        Code::InvalidArgument,
        "etcdserver: authentication failed, invalid user ID or password",
        "denied",
    ),
    (Code::FailedPrecondition, "etcdserver: authentication is not enabled", "denied"),
    (Code::PermissionDenied, "etcdserver: permission denied", "denied"),
    (Code::FailedPrecondition, "etcdserver: user name not found", "denied"),
    (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", "overloaded"),
    (Code::ResourceExhausted, "etcdserver: too many requests", "overloaded"),
    (
        Code::ResourceExhausted,
        "grpc: received message larger than max (2097264 vs. 2097152)",
        "denied",
    ),
    (Code::InvalidArgument, "etcdserver: request is too large", "denied"),
    (Code::InvalidArgument, "etcdserver: too many operations in txn request", "denied"),
    (Code::InvalidArgument, "etcdserver: duplicate key given in txn request", "denied"),
    (Code::InvalidArgument, "etcdserver: key is not provided", "denied"),
    (Code::OutOfRange, "etcdserver: too large lease TTL", "denied"),
    (Code::DataLoss, "etcdserver: corrupt cluster", "denied"),
    (Code::FailedPrecondition, "etcdserver: rpc not supported for learner", "not serving"),
    (Code::Unavailable, "etcdserver: rpc not supported for learner", "not serving"),
    (Code::Unavailable, "etcdserver: no leader", "not serving"),
    (Code::Unknown, "raft proposal dropped", "not serving"),
    (Code::Unavailable, "etcdserver: not capable", "not serving"),
    (Code::Unavailable, "etcdserver: leader changed", "uncertain"),
    (Code::Unavailable, "etcdserver: request timed out", "uncertain"),
    (
        Code::Unavailable,
        "etcdserver: request timed out, possibly due to previous leader failure",
        "uncertain",
    ),
    (Code::Unavailable, "etcdserver: server stopped", "uncertain"),
    (Code::DeadlineExceeded, "context deadline exceeded", "uncertain"),
    (Code::Unavailable, "something nobody has seen yet", "uncertain"),
    (Code::Internal, "something nobody has seen yet", "uncertain"),
    (Code::Unimplemented, "unknown service etcdserverpb.KV", "untrusted"),
    (Code::Unknown, "grpc-status header missing, mapped from HTTP status code 404", "untrusted"),
];

fn name(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::LeaseNotFound => "lease not found",
        Verdict::LeaseExists => "lease exists",
        Verdict::Compacted => "compacted",
        Verdict::Reauthenticate(_) => "log in",
        Verdict::Denied(_) => "denied",
        Verdict::Overloaded(_) => "overloaded",
        Verdict::NotServing(_) => "not serving",
        Verdict::Unreached(_) => "unreached",
        Verdict::Untrusted(_) => "untrusted",
        Verdict::Uncertain(_) => "uncertain",
        Verdict::Broken(_) => "broken",
    }
}

#[test]
fn every_text_of_etcd_has_its_meaning() {
    for (code, text, expected) in SAID {
        let verdict = classify_answer(*code, text);
        assert_eq!(name(&verdict), *expected, "{code:?} {text}");
    }
}

#[test]
fn every_row_of_the_table_is_tried() {
    for row in TABLE {
        assert!(SAID.iter().any(|(_, text, _)| text.contains(row.text)), "{:?}", row.text);
    }
}

#[test]
fn what_a_person_must_do_is_said_with_what_etcd_said() {
    for (code, text, expected) in SAID {
        if !matches!(*expected, "denied" | "overloaded" | "untrusted") {
            continue;
        }
        let error = classify_answer(*code, text).into_error("txn", "http://a:2379", Revision(0));
        let said = error.to_string();
        assert!(said.contains("http://a:2379") && said.contains(text), "{said}");
        assert!(said.len() > text.len() + 40, "no remedy: {said}");
    }
}

#[test]
fn only_what_never_took_effect_is_called_so() {
    use crate::store::Effected;
    for (code, text, expected) in SAID {
        let error = classify_answer(*code, text).into_error("txn", "e", Revision(0));
        let unknown = *expected == "uncertain";
        assert_eq!(error.effected() == Effected::Unknown, unknown, "{code:?} {text}");
    }
}

#[derive(Debug)]
struct Outer(Box<dyn std::error::Error + Send + Sync>);

impl std::fmt::Display for Outer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("transport error")
    }
}

impl std::error::Error for Outer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.0.as_ref())
    }
}

fn local(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Verdict {
    classify_status(&Status::from_error(Box::new(Outer(error.into()))))
}

#[test]
fn a_failed_connect_was_never_sent_and_a_broken_one_may_have_been() {
    let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
    let verdict = local(tonic::ConnectError(refused.into()));
    assert_eq!(verdict, Verdict::Unreached("transport error: connection refused".to_owned()));
    let reset = local(io::Error::from(io::ErrorKind::ConnectionReset));
    assert_eq!(name(&reset), "broken");
}

#[test]
fn tls_refusals_say_which_file_is_wrong() {
    use rustls::{AlertDescription, CertificateError, Error as Tls, InvalidMessage};
    let connect = |tls: Tls| {
        local(tonic::ConnectError(io::Error::new(io::ErrorKind::InvalidData, tls).into()))
    };
    for (tls, word) in [
        (Tls::InvalidCertificate(CertificateError::UnknownIssuer), "tls.ca_file"),
        (Tls::InvalidCertificate(CertificateError::Expired), "renew"),
        (Tls::InvalidCertificate(CertificateError::NotValidForName), "tls.server_name"),
        (Tls::AlertReceived(AlertDescription::CertificateRequired), "tls.cert_file"),
        (Tls::AlertReceived(AlertDescription::CertificateExpired), "renew tls.cert_file"),
        (Tls::AlertReceived(AlertDescription::UnknownCA), "--trusted-ca-file"),
        (Tls::InvalidMessage(InvalidMessage::InvalidContentType), "is it http"),
        (Tls::AlertReceived(AlertDescription::ProtocolVersion), "TLS 1.2 or 1.3"),
        (Tls::AlertReceived(AlertDescription::HandshakeFailure), "ECDHE"),
    ] {
        match connect(tls.clone()) {
            Verdict::Untrusted(said) => assert!(said.contains(word), "{tls:?}: {said}"),
            other => panic!("{tls:?}: {other:?}"),
        }
    }
    // With TLS 1.3, the refusal of a client certificate arrives only after the handshake, on the first
    // read.
    let late = io::Error::new(
        io::ErrorKind::InvalidData,
        Tls::AlertReceived(AlertDescription::BadCertificate),
    );
    assert_eq!(name(&local(late)), "untrusted");
    // An alert unrelated to certificates may come in the middle of a connection.
    let closed = Tls::AlertReceived(AlertDescription::InternalError);
    assert_eq!(name(&local(io::Error::new(io::ErrorKind::InvalidData, closed))), "broken");
    // An alert of the handshake, which is over, proves nothing about requests sent since.
    let strange = Tls::AlertReceived(AlertDescription::HandshakeFailure);
    assert_eq!(name(&local(io::Error::new(io::ErrorKind::InvalidData, strange))), "broken");
}

#[test]
fn a_server_of_something_else_is_recognised() {
    let verdict = local(io::Error::other("http2 error: frame with invalid size"));
    assert_eq!(name(&verdict), "untrusted");
}

#[test]
fn what_tls_said_is_told_instead_of_closed_connections() {
    use rustls::{AlertDescription, Error as Tls};
    let closed = || Verdict::Unreached("connection closed".to_owned());
    let required = Tls::AlertReceived(AlertDescription::CertificateRequired);
    assert_eq!(name(&with_context(closed(), Some(required), false)), "untrusted");
    // The normal end of a connection that served well is not about certificates.
    let end = Tls::AlertReceived(AlertDescription::CloseNotify);
    let reset = Verdict::Broken("reset".to_owned());
    assert_eq!(with_context(reset, Some(end), true), Verdict::Broken("reset".to_owned()));
    let never = with_context(Verdict::Broken("reset".to_owned()), None, false);
    assert!(matches!(&never, Verdict::Broken(text) if text.contains("http or https")), "{never:?}");
}
