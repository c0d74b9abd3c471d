//! TLS of every client in this process: etcd's, the API server's, the checks'.
//!
//! The implementation is rustls with ring, to which the feature `p521` adds the curve P-521. The one rule:
//! a certificate that curl, etcdctl or kubectl accepts is accepted here too, or rejected with a message
//! that names the reason and the remedy ([`explain()`]). Files and flags that hold the certificates are
//! deliberately not here.

mod explain;
mod follow;
#[cfg(feature = "p521")]
mod secp521r1;
#[cfg(not(feature = "p521"))]
#[path = "ring_alone.rs"]
mod secp521r1;
#[cfg(test)]
pub(crate) mod testing;
mod verify;

use std::sync::{Arc, LazyLock};

use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier,
    client::WantsClientCert,
    crypto::{CryptoProvider, ring},
    pki_types::CertificateDer,
};

pub(crate) use self::{
    explain::{Explained, Words, explain},
    follow::Followed,
    verify::{AnyCertificate, Verifier, unsupported_key},
};

static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(secp521r1::added_to(ring::default_provider())));

/// Cryptography of all TLS in this process: ring's and, with the feature `p521`, certificates and keys on
/// the curve P-521, which etcd's `--auto-tls` uses and ring does not support.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// Makes [`provider`] the default of this process, unless the process has one. Call it first, so that every
/// client in the process accepts the same certificates.
pub fn install() {
    let _ = CryptoProvider::clone(&provider()).install_default();
}

/// Certificates that servers are verified by.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    roots: RootCertStore,
    /// The same certificates in DER, if they were listed: a server may show one of them.
    listed: Vec<CertificateDer<'static>>,
}

impl Trust {
    /// Trust in the public certificate authorities.
    pub(crate) fn public() -> Self {
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        Self { roots, listed: Vec::new() }
    }

    /// An empty list, to which certificates are added.
    pub(crate) fn nobody() -> Self {
        Self { roots: RootCertStore::empty(), listed: Vec::new() }
    }

    /// Adds a certificate: of an authority, or of a server itself.
    ///
    /// # Errors
    ///
    /// The certificate is invalid for rustls; then nothing is added.
    pub(crate) fn add(
        &mut self,
        certificate: CertificateDer<'static>,
    ) -> Result<(), rustls::Error> {
        self.roots.add(certificate.clone())?;
        self.listed.push(certificate);
        Ok(())
    }

    /// Whether no certificate was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }
}

/// Client configuration that verifies servers by these certificates.
///
/// # Errors
///
/// `trust` holds no certificate.
pub(crate) fn trusting(
    trust: Trust,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, rustls::Error> {
    let verifier = Verifier::new(trust)?;
    Ok(builder().dangerous().with_custom_certificate_verifier(Arc::new(verifier)))
}

/// Client configuration that accepts every certificate.
pub(crate) fn trusting_anybody() -> ConfigBuilder<ClientConfig, WantsClientCert> {
    builder().dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate))
}

fn builder() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
}
