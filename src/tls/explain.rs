//! Explains errors of TLS: the reason, and what to do about it.
//!
//! This module is pure. rustls' errors have names from its code (`BadSignature`, `HandshakeFailure`); this
//! module turns them into sentences for people. Each client has its own settings for certificates, so the
//! client passes its [`Words`].

use rustls::{
    AlertDescription as Alert, CertificateError as Cert, Error, PeerIncompatible as Incompatible,
    pki_types::UnixTime,
};

use super::verify::Rejected;

/// Names of the settings that users of a client can change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words {
    /// Name of the list of trusted certificates.
    pub(crate) bundle: &'static str,
    /// Remedy if the certificate is for another name.
    pub(crate) name: &'static str,
    /// Remedy if the server wants a client certificate and got none.
    pub(crate) no_client_certificate: &'static str,
    /// Name of the client certificate, to renew if it has expired.
    pub(crate) client_certificate: &'static str,
    /// Remedy if the server rejects the client certificate.
    pub(crate) client_certificate_rejected: &'static str,
}

/// TLS error as a reason and a remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Explained {
    /// Clause that begins with the server or its certificate.
    pub(crate) reason: String,
    /// Clause that says what to do about it.
    pub(crate) remedy: String,
}

/// Reason and remedy of the error; `None` if it is not about certificates, versions or ciphers.
pub(crate) fn explain(error: &Error, words: &Words) -> Option<Explained> {
    match error {
        Error::InvalidCertificate(reason) => Some(of_certificate(reason, words)),
        Error::AlertReceived(alert) => of_alert(*alert, words),
        Error::PeerIncompatible(
            Incompatible::ServerDoesNotSupportTls12Or13
            | Incompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => Some(too_old()),
        Error::PeerIncompatible(
            Incompatible::NoCipherSuitesInCommon
            | Incompatible::NoKxGroupsInCommon
            | Incompatible::NoSignatureSchemesInCommon
            | Incompatible::NoEcPointFormatsInCommon,
        ) => Some(no_cipher()),
        _ => None,
    }
}

fn say(reason: impl Into<String>, remedy: impl Into<String>) -> Explained {
    Explained { reason: reason.into(), remedy: remedy.into() }
}

fn of_certificate(error: &Cert, words: &Words) -> Explained {
    let bundle = words.bundle;
    match error {
        Cert::UnknownIssuer => say(
            "the server's certificate is not signed by a trusted authority",
            format!("give the certificate of the authority that signed it in {bundle}"),
        ),
        Cert::BadSignature => say(
            "a signature of the server's certificate or of its handshake is wrong",
            format!(
                "an authority of the same name has another key: give its present certificate in {bundle}"
            ),
        ),
        Cert::Expired => say("the server's certificate has expired", RENEW),
        Cert::ExpiredContext { not_after, .. } => {
            say(format!("the server's certificate has expired on {}", date(*not_after)), RENEW)
        }
        Cert::NotValidYet => say("the server's certificate is not valid yet", SET_CLOCK),
        Cert::NotValidYetContext { not_before, .. } => {
            let from = date(*not_before);
            say(format!("the server's certificate is not valid before {from}"), SET_CLOCK)
        }
        Cert::NotValidForName => say("the server's certificate is for another name", words.name),
        Cert::NotValidForNameContext { expected, presented } => {
            let expected = expected.to_str();
            let says = match presented.as_slice() {
                [] => "has no subjectAltName (a common name does not count)".to_owned(),
                names => {
                    format!(
                        "is for {}",
                        names.iter().map(|it| plain(it)).collect::<Vec<_>>().join(", ")
                    )
                }
            };
            say(format!("the server's certificate {says}, not for {expected}"), words.name)
        }
        Cert::InvalidPurpose | Cert::InvalidPurposeContext { .. } => say(
            "the server's certificate is not for servers",
            "issue it again with the extended key usage serverAuth",
        ),
        Cert::UnhandledCriticalExtension => say(
            "the server's certificate has a critical extension that is not known",
            "issue it again without that extension, or not as critical",
        ),
        Cert::Revoked => say("the server's certificate is revoked", "renew it"),
        Cert::BadEncoding => {
            say("the server's certificate cannot be parsed", "look at it with openssl x509 -text")
        }
        Cert::UnsupportedSignatureAlgorithmContext { .. }
        | Cert::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => say(
            "the server's certificate is signed with an algorithm that is not supported",
            "issue it again with RSA, ECDSA on P-256, P-384 or P-521, or Ed25519, and SHA-256",
        ),
        Cert::Other(other) => match other.0.downcast_ref::<Rejected>() {
            Some(Rejected { what, remedy }) => say(what, *remedy),
            None => of_webpki(&format!("{:?}", other.0), words),
        },
        other => say(
            format!("the server's certificate cannot be used ({other})"),
            "look at it with openssl x509 -text",
        ),
    }
}

const RENEW: &str = "renew it, or set the clock of this machine";
const SET_CLOCK: &str = "set the clock of this machine";

/// Errors of webpki that rustls passes on, by their names.
fn of_webpki(name: &str, words: &Words) -> Explained {
    let (reason, remedy) = match name {
        "CaUsedAsEndEntity" => (
            "the server shows the certificate of an authority (CA:TRUE) as its own".to_owned(),
            format!("put this very certificate into {}, or issue one with CA:FALSE", words.bundle),
        ),
        "EndEntityUsedAsCa" => (
            "a certificate of the server's chain is signed by one that is no authority".to_owned(),
            "issue the signing certificate again with CA:TRUE".to_owned(),
        ),
        "UnsupportedCertVersion" => (
            "the server's certificate is X.509 version 1".to_owned(),
            "issue it again as version 3, with a subjectAltName".to_owned(),
        ),
        "PathLenConstraintViolated" | "NameConstraintViolation" => (
            format!("an authority in the server's chain may not sign that certificate ({name})"),
            "issue it by another authority, or change the constraints of this one".to_owned(),
        ),
        other => (
            format!("the server's certificate cannot be used ({other})"),
            "look at it with openssl x509 -text".to_owned(),
        ),
    };
    Explained { reason, remedy }
}

fn of_alert(alert: Alert, words: &Words) -> Option<Explained> {
    Some(match alert {
        Alert::ProtocolVersion => too_old(),
        Alert::HandshakeFailure | Alert::InsufficientSecurity => no_cipher(),
        Alert::CertificateRequired | Alert::NoCertificate => {
            say("the server asks for a client certificate", words.no_client_certificate)
        }
        Alert::CertificateExpired => say(
            "the own client certificate has expired",
            format!("renew {}", words.client_certificate),
        ),
        Alert::UnknownCA
        | Alert::BadCertificate
        | Alert::CertificateUnknown
        | Alert::CertificateRevoked
        | Alert::UnsupportedCertificate
        | Alert::AccessDenied => say(
            format!("the server does not accept the client certificate ({alert:?})"),
            words.client_certificate_rejected,
        ),
        _ => return None,
    })
}

fn too_old() -> Explained {
    say(
        "the server speaks only TLS 1.1 or older, which is not secure",
        "enable TLS 1.2 or 1.3 on the server",
    )
}

/// Reason and remedy if client and server have no cipher in common. Servers send the same alert if they
/// have only RSA key exchange, only CBC, or, in TLS 1.2, if they miss a client certificate.
fn no_cipher() -> Explained {
    say(
        "the server offers no TLS cipher that is secure: perhaps only RSA key exchange or CBC",
        "enable TLS 1.3 on the server, or ECDHE with AES-GCM in TLS 1.2",
    )
}

/// Returns `localhost` for webpki's `DnsName("localhost")`.
fn plain(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

/// Formats as a date and a time of day, in UTC.
fn date(time: UnixTime) -> String {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map_or_else(|| "a date out of range".to_owned(), |time| time.to_string())
}

#[cfg(test)]
mod tests;
