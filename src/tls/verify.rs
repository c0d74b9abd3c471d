//! Decides whether a server's certificate is trusted.
//!
//! webpki decides, with one addition: a certificate that is itself in the bundle is trusted for its names
//! and dates, regardless of its other fields. `openssl req -x509` makes such certificates (CA:TRUE), and
//! OpenSSL and Go accept them. If webpki cannot verify a key or signature, the error names it.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, Error, ExtendedKeyPurpose, OtherError, PeerMisbehaved,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use x509_parser::{
    certificate::X509Certificate, parse_x509_certificate, public_key::PublicKey, time::ASN1Time,
};

use super::{Trust, provider};

/// Sizes of RSA keys that ring verifies, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

const EC_KEY: &str = "1.2.840.10045.2.1";
const RSA_KEY: &str = "1.2.840.113549.1.1.1";
const ED25519_KEY: &str = "1.3.101.112";
/// OIDs of the curves P-256, P-384 and P-521.
const CURVES: [&str; 3] = ["1.2.840.10045.3.1.7", "1.3.132.0.34", "1.3.132.0.35"];
/// Signature algorithms with a digest that is not secure any more.
const WEAK_DIGESTS: [(&str, &str); 3] = [
    ("1.2.840.113549.1.1.4", "MD5"),
    ("1.2.840.113549.1.1.5", "SHA-1"),
    ("1.2.840.10045.4.1", "SHA-1"),
];

/// Reason in words why a certificate is rejected; carried inside rustls' own error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rejected {
    pub(super) what: String,
    pub(super) remedy: &'static str,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.remedy)
    }
}

impl std::error::Error for Rejected {}

impl From<Rejected> for Error {
    fn from(rejected: Rejected) -> Self {
        CertificateError::Other(OtherError(Arc::new(rejected))).into()
    }
}

/// Verifies servers by the certificates of a [`Trust`].
#[derive(Debug)]
pub(crate) struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    listed: Vec<CertificateDer<'static>>,
}

impl Verifier {
    /// # Errors
    ///
    /// `trust` contains no certificate.
    pub(crate) fn new(trust: Trust) -> Result<Self, Error> {
        let webpki =
            WebPkiServerVerifier::builder_with_provider(Arc::new(trust.roots), provider()).build();
        let webpki = webpki.map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { webpki, listed: trust.listed })
    }

    /// Error of a chain, or the reason behind it if a key or a signature is of a kind that cannot be
    /// verified.
    fn reason(&self, error: Error, end: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Error {
        if !is_of_signature(&error) {
            return error;
        }
        let shown = [end].into_iter().chain(rest);
        // A root also signs, and the server does not show it.
        let issuers = self.listed.iter().filter(|root| shown.clone().any(|it| signs(root, it)));
        match shown.clone().chain(issuers).find_map(weakness) {
            Some(rejected) => rejected.into(),
            None => error,
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let by_chain = self.webpki.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        let Err(error) = by_chain else { return by_chain };
        if self.listed.iter().any(|it| it.as_ref() == end_entity.as_ref()) {
            return listed_itself(end_entity, server_name, now);
        }
        Err(self.reason(error, end_entity, intermediates))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki
            .verify_tls12_signature(message, certificate, signature)
            .map_err(|error| self.reason(error, certificate, &[]))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki
            .verify_tls13_signature(message, certificate, signature)
            .map_err(|error| self.reason(error, certificate, &[]))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Verifies a server's certificate that is itself in the bundle: dates, purpose and name are still checked.
fn listed_itself(
    certificate: &CertificateDer<'_>,
    server_name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, Error> {
    let (_, parsed) =
        parse_x509_certificate(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let at = |time: ASN1Time| {
        let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
    };
    let (not_before, not_after) =
        (at(parsed.validity().not_before), at(parsed.validity().not_after));
    if now < not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
    }
    if not_after < now {
        return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
    }
    if let Ok(Some(usage)) = parsed.extended_key_usage()
        && !usage.value.server_auth
        && !usage.value.any
    {
        let required = ExtendedKeyPurpose::ServerAuth;
        return Err(CertificateError::InvalidPurposeContext { required, presented: vec![] }.into());
    }
    verify_server_name(&ParsedCertificate::try_from(certificate)?, server_name)?;
    Ok(ServerCertVerified::assertion())
}

/// Whether an error may be due to the kind of a key or of a signature.
fn is_of_signature(error: &Error) -> bool {
    use CertificateError as C;
    match error {
        #[expect(deprecated, reason = "made by rustls for raw keys")]
        Error::InvalidCertificate(of) => matches!(
            of,
            C::BadSignature
                | C::UnsupportedSignatureAlgorithmContext { .. }
                | C::UnsupportedSignatureAlgorithmForPublicKeyContext { .. }
                | C::UnsupportedSignatureAlgorithm
        ),
        _ => false,
    }
}

fn signs(issuer: &CertificateDer<'_>, certificate: &CertificateDer<'_>) -> bool {
    match (parse_x509_certificate(issuer), parse_x509_certificate(certificate)) {
        (Ok((_, issuer)), Ok((_, certificate))) => {
            issuer.subject().as_raw() == certificate.issuer().as_raw()
        }
        _ => false,
    }
}

/// Reason why signatures of this certificate or its key cannot be verified; `None` if they can.
fn weakness(certificate: &CertificateDer<'_>) -> Option<Rejected> {
    let (_, certificate) = parse_x509_certificate(certificate).ok()?;
    let subject = certificate.subject().to_string();
    if let Some(key) = unsupported_key(&certificate) {
        return Some(Rejected {
            what: format!("certificate {subject:?} has {key}, which cannot be verified"),
            remedy: "issue it again with an RSA key of 2048 to 8192 bits, or ECDSA on P-256, P-384 or \
                     P-521, or Ed25519",
        });
    }
    let signed_with = certificate.signature_algorithm.algorithm.to_id_string();
    let (_, digest) = WEAK_DIGESTS.iter().find(|(id, _)| *id == signed_with)?;
    Some(Rejected {
        what: format!("certificate {subject:?} is signed with {digest}, which is broken"),
        remedy: "issue it again with SHA-256",
    })
}

/// Description of a certificate's key, if its kind is not supported.
pub(crate) fn unsupported_key(certificate: &X509Certificate<'_>) -> Option<String> {
    let key = certificate.public_key();
    let kind = key.algorithm.algorithm.to_id_string();
    match kind.as_str() {
        RSA_KEY => match key.parsed() {
            Ok(PublicKey::RSA(rsa)) if !RSA_BITS.contains(&rsa.key_size()) => {
                Some(format!("an RSA key of {} bits", rsa.key_size()))
            }
            _ => None,
        },
        EC_KEY => {
            let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?.to_id_string();
            let known = CURVES.contains(&curve.as_str());
            (!known).then(|| format!("a key on the elliptic curve {curve}"))
        }
        ED25519_KEY => None,
        other => Some(format!("a key of the kind {other}")),
    }
}

/// Verifier that accepts any certificate. A signature that can be verified must be correct, so that the
/// certificate is really the server's own; a signature that cannot be verified is accepted.
#[derive(Debug)]
pub(crate) struct AnyCertificate;

impl AnyCertificate {
    fn unless_wrong(
        verified: Result<HandshakeSignatureValid, Error>,
        certificate: &CertificateDer<'_>,
    ) -> Result<HandshakeSignatureValid, Error> {
        match verified {
            Err(Error::InvalidCertificate(CertificateError::BadSignature))
                if weakness(certificate).is_none() =>
            {
                verified
            }
            Ok(_)
            | Err(
                Error::InvalidCertificate(_)
                | Error::PeerMisbehaved(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme),
            ) => Ok(HandshakeSignatureValid::assertion()),
            Err(error) => Err(error),
        }
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        let verified = verify_tls12_signature(message, certificate, signature, algorithms);
        Self::unless_wrong(verified, certificate)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        let verified = verify_tls13_signature(message, certificate, signature, algorithms);
        Self::unless_wrong(verified, certificate)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = provider().signature_verification_algorithms.supported_schemes();
        // Listed last: a server uses these schemes only if it has no better one.
        schemes.extend([
            SignatureScheme::ED448,
            SignatureScheme::ECDSA_SHA1_Legacy,
            SignatureScheme::RSA_PKCS1_SHA1,
        ]);
        schemes
    }
}

#[cfg(test)]
mod tests;
