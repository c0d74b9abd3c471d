use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair};

use super::*;
use crate::{
    clock,
    tls::{
        Explained, Words, explain, provider,
        testing::{
            P521, P521_AUTHORITY, P521_KEY, RSA_1024, RSA_1024_AUTHORITY, SECP256K1,
            SIGNED_BY_P521, SIGNED_BY_RSA_1024, SIGNED_WITH_SHA1, der, handshake, server,
        },
        trusting, trusting_anybody,
    },
};

const WORDS: Words = Words {
    bundle: "the bundle",
    name: "use another name",
    no_client_certificate: "give a client certificate",
    client_certificate: "the client certificate",
    client_certificate_rejected: "look at the client certificate",
};

fn trust(pem: &str) -> Trust {
    let mut trust = Trust::nobody();
    trust.add(der(pem)).unwrap();
    trust
}

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(clock::unix_ms()))
}

/// Verifies a server's certificate with trust in `trusted`.
fn verified(shown: &str, trusted: &str, name: &'static str) -> Result<(), Error> {
    let verifier = Verifier::new(trust(trusted)).unwrap();
    let name = name.try_into().unwrap();
    verifier.verify_server_cert(&der(shown), &[], &name, &[], now()).map(|_| ())
}

fn words(error: &Error) -> String {
    let Explained { reason, remedy } = explain(error, &WORDS).unwrap();
    format!("{reason}: {remedy}")
}

/// Self-signed certificate as `openssl req -x509` makes it: CA:TRUE, and used by a server.
fn own_authority(change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[test]
fn a_listed_certificate_is_trusted_though_it_says_that_it_is_an_authority() {
    let (certificate, key) = own_authority(|_| ());
    assert_eq!(verified(&certificate, &certificate, "localhost"), Ok(()));
    let client = trusting(trust(&certificate)).unwrap().with_no_client_auth();
    let server = Arc::new(server(&certificate, &key));
    assert_eq!(handshake(Arc::new(client), server, "localhost"), Ok(()));
}

#[test]
fn a_listed_certificate_must_still_be_for_the_name_the_date_and_the_purpose() {
    let (certificate, _) = own_authority(|_| ());
    let other_name = verified(&certificate, &certificate, "example.org").unwrap_err();
    assert_eq!(
        words(&other_name),
        "the server's certificate is for localhost, not for example.org: use another name"
    );
    let (expired, _) = own_authority(|it| {
        it.not_before = rcgen::date_time_ymd(2020, 1, 1);
        it.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let said = words(&verified(&expired, &expired, "localhost").unwrap_err());
    assert!(said.contains("has expired on 2021-01-01T00:00:00Z"), "{said}");
    let (early, _) = own_authority(|it| it.not_before = rcgen::date_time_ymd(2150, 1, 1));
    let said = words(&verified(&early, &early, "localhost").unwrap_err());
    assert!(said.contains("is not valid before 2150-01-01T00:00:00Z"), "{said}");
    let (of_client, _) =
        own_authority(|it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    let said = words(&verified(&of_client, &of_client, "localhost").unwrap_err());
    assert!(said.contains("serverAuth"), "{said}");
}

#[test]
fn another_certificate_of_the_same_names_is_not_the_listed_one() {
    let (shown, _) = own_authority(|_| ());
    let (listed, _) = own_authority(|_| ());
    let said = words(&verified(&shown, &listed, "localhost").unwrap_err());
    assert!(said.contains("CA:TRUE") && said.contains("the bundle"), "{said}");
}

#[test]
fn certificates_and_keys_on_p521_are_accepted() {
    for signed in SIGNED_BY_P521 {
        assert_eq!(verified(signed, P521_AUTHORITY, "localhost"), Ok(()));
    }
    let client = |trusted| Arc::new(trusting(trust(trusted)).unwrap().with_no_client_auth());
    for certificate in [P521, SIGNED_BY_P521[0]] {
        let server = Arc::new(server(certificate, P521_KEY));
        let trusted = if certificate == P521 { P521 } else { P521_AUTHORITY };
        assert_eq!(handshake(client(trusted), server, "localhost"), Ok(()));
    }
    let mut old = server(P521, P521_KEY);
    old.max_early_data_size = 0;
    let old = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(old.cert_resolver);
    assert_eq!(handshake(client(P521), Arc::new(old), "localhost"), Ok(()));
}

#[test]
fn a_wrong_signature_on_p521_is_rejected() {
    let mut changed = der(SIGNED_BY_P521[0]).to_vec();
    // Change the to-be-signed part: the first byte of the serial number's value.
    changed[16] ^= 1;
    let verifier = Verifier::new(trust(P521_AUTHORITY)).unwrap();
    let name = "localhost".try_into().unwrap();
    let shown = CertificateDer::from(changed);
    let error = verifier.verify_server_cert(&shown, &[], &name, &[], now()).unwrap_err();
    assert_eq!(error, CertificateError::BadSignature.into());
}

#[test]
fn keys_and_signatures_that_cannot_be_verified_are_named_with_the_remedy() {
    let bits = words(&verified(SIGNED_BY_RSA_1024, RSA_1024_AUTHORITY, "localhost").unwrap_err());
    assert!(bits.contains("\"CN=old authority\" has an RSA key of 1024 bits"), "{bits}");
    assert!(bits.contains("2048"), "{bits}");
    let digest = words(&verified(SIGNED_WITH_SHA1, P521_AUTHORITY, "localhost").unwrap_err());
    assert!(digest.contains("SHA-1") && digest.contains("SHA-256"), "{digest}");
    // The certificate is listed, so its own signature is not checked; that of the handshake is.
    assert_eq!(verified(RSA_1024, RSA_1024, "localhost"), Ok(()));
    let verifier = Verifier::new(trust(RSA_1024)).unwrap();
    let wrong = Error::from(CertificateError::BadSignature);
    let said = words(&verifier.reason(wrong, &der(RSA_1024), &[]));
    assert!(said.contains("RSA key of 1024 bits"), "{said}");
    let curve = weakness(&der(SECP256K1)).unwrap().to_string();
    assert!(curve.contains("elliptic curve 1.3.132.0.10"), "{curve}");
    assert_eq!(weakness(&der(P521)), None);
}

#[test]
fn anybody_is_accepted_whose_signature_is_not_wrong() {
    let client = Arc::new(trusting_anybody().with_no_client_auth());
    let expired = own_authority(|it| it.not_after = rcgen::date_time_ymd(2021, 1, 1));
    for (certificate, key) in [(P521, P521_KEY), (expired.0.as_str(), expired.1.as_str())] {
        let server = Arc::new(server(certificate, key));
        assert_eq!(handshake(Arc::clone(&client), server, "example.org"), Ok(()));
    }
    let wrong = || Err(Error::from(CertificateError::BadSignature));
    assert!(AnyCertificate::unless_wrong(wrong(), &der(P521)).is_err());
    assert!(AnyCertificate::unless_wrong(wrong(), &der(RSA_1024)).is_ok());
}
