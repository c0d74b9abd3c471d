//! A bundle in a file that is replaced while the process runs, as a pod's `ca.crt` is.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};

use super::{Trust, Verifier};
use crate::{clock, engine::BootTime};

/// Time between two reads of the file. kubelet takes about as long to write a new one.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Verifies servers by the certificates of a file. The first handshake after a minute reads the file again.
/// If the file cannot be used then, its previous certificates stay in use.
#[derive(Debug)]
pub(crate) struct Followed {
    path: PathBuf,
    last: RwLock<(Arc<Verifier>, BootTime)>,
}

impl Followed {
    /// # Errors
    ///
    /// The file cannot be read or contains no usable certificate.
    pub(crate) fn new(path: PathBuf) -> Result<Self, Error> {
        let verifier = read(&path)?;
        Ok(Self { path, last: RwLock::new((verifier, clock::boot_now())) })
    }

    fn current(&self) -> Arc<Verifier> {
        let now = clock::boot_now();
        {
            let last = self.last.read().unwrap_or_else(PoisonError::into_inner);
            if now.since(last.1) < LOOK_EVERY {
                return Arc::clone(&last.0);
            }
        }
        let fresh = read(&self.path);
        let mut last = self.last.write().unwrap_or_else(PoisonError::into_inner);
        last.1 = now;
        match fresh {
            Ok(verifier) => last.0 = verifier,
            Err(error) => {
                let path = self.path.display();
                tracing::warn!(%path, %error, "the CA file cannot be used, keeping its last content");
            }
        }
        Arc::clone(&last.0)
    }
}

fn read(path: &Path) -> Result<Arc<Verifier>, Error> {
    let unusable = |what: String| Error::General(format!("{}: {what}", path.display()));
    let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
    let mut trust = Trust::nobody();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        // Leave out the parser's own message, which contains the file's content.
        trust.add(certificate.map_err(|_| unusable("is not PEM".to_owned()))?)?;
    }
    if trust.is_empty() {
        return Err(unusable("holds no certificate".to_owned()));
    }
    Ok(Arc::new(Verifier::new(trust)?))
}

impl ServerCertVerifier for Followed {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verifier = self.current();
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.current().verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.current().verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.current().supported_verify_schemes()
    }
}
