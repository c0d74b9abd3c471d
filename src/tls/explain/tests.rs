use std::{io, sync::Arc};

use rustls::OtherError;

use super::*;
use crate::causes::find;

const WORDS: Words = Words {
    bundle: "caBundle",
    name: "use another name",
    no_client_certificate: "give a client certificate",
    client_certificate: "the client certificate",
    client_certificate_rejected: "look at the client certificate",
};

#[derive(Debug)]
struct CaUsedAsEndEntity;

impl std::fmt::Display for CaUsedAsEndEntity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CaUsedAsEndEntity")
    }
}

impl std::error::Error for CaUsedAsEndEntity {}

#[test]
fn every_error_is_a_reason_and_a_remedy_and_no_name_of_the_code() {
    let other = Cert::Other(OtherError(Arc::new(CaUsedAsEndEntity)));
    for (error, reason, remedy) in [
        (Error::from(other), "CA:TRUE", "CA:FALSE"),
        (Cert::UnknownIssuer.into(), "not signed by a trusted authority", "caBundle"),
        (Cert::BadSignature.into(), "is wrong", "caBundle"),
        (Cert::Expired.into(), "has expired", "renew"),
        (Cert::NotValidYet.into(), "not valid yet", "clock"),
        (Cert::NotValidForName.into(), "another name", "use another name"),
        (Cert::InvalidPurpose.into(), "not for servers", "serverAuth"),
        (Error::AlertReceived(Alert::ProtocolVersion), "TLS 1.1 or older", "TLS 1.2 or 1.3"),
        (Incompatible::ServerDoesNotSupportTls12Or13.into(), "TLS 1.1", "TLS 1.2 or 1.3"),
        (Error::AlertReceived(Alert::HandshakeFailure), "RSA key exchange", "ECDHE"),
        (Incompatible::NoCipherSuitesInCommon.into(), "cipher", "TLS 1.3"),
        (Error::AlertReceived(Alert::CertificateRequired), "asks for", "give a client certificate"),
        (Error::AlertReceived(Alert::CertificateExpired), "expired", "renew the client"),
        (Error::AlertReceived(Alert::UnknownCA), "does not accept", "look at the client"),
    ] {
        let explained = explain(&error, &WORDS).unwrap();
        assert!(explained.reason.contains(reason), "{error:?}: {explained:?}");
        assert!(explained.remedy.contains(remedy), "{error:?}: {explained:?}");
        for of_code in ["BadSignature", "HandshakeFailure", "UnknownIssuer", "AsEndEntity"] {
            assert!(!explained.reason.contains(of_code), "{explained:?}");
        }
    }
    for nothing in [Error::AlertReceived(Alert::InternalError), Error::DecryptError] {
        assert_eq!(explain(&nothing, &WORDS), None);
    }
}

#[test]
fn the_error_of_tls_is_found_behind_others() {
    let tls = || Error::from(Cert::Expired);
    let inner = io::Error::new(io::ErrorKind::InvalidData, tls());
    let outer = io::Error::other(inner);
    assert_eq!(find(&outer), Some(&tls()));
    assert_eq!(find::<Error>(&io::Error::other("nothing of that kind")), None);
}
