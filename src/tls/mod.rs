//! TLS as every client of this process does it: etcd's, the API server's, the checks'.
//!
//! rustls with ring, to which the feature `p521` adds the curve P-521. The one rule: a certificate that curl,
//! etcdctl or kubectl accepts is accepted here too, or rejected in words that name the reason and the
//! remedy ([`explain()`]). Deliberately not here: which files and flags hold the certificates.

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
    explain::{Explained, Words, cause, explain},
    follow::Followed,
    verify::{AnyCertificate, Verifier, unsupported_key},
};

static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(secp521r1::added_to(ring::default_provider())));

/// Cryptography of all TLS here: ring's and, with the feature `p521`, certificates and keys on the curve P-521,
/// which etcd's `--auto-tls` uses and ring does not know.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// Makes [`provider`] the default of this process, unless it has one. Do it first, so that every client
/// in the process accepts the same certificates.
pub fn install() {
    let _ = CryptoProvider::clone(&provider()).install_default();
}

/// Certificates that servers are verified by.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    roots: RootCertStore,
    /// The same certificates as they are, if they were listed: a server may show one of them.
    listed: Vec<CertificateDer<'static>>,
}

impl Trust {
    /// The public certificate authorities.
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
    /// What rustls finds wrong with the certificate; nothing is added then.
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

/// A client that verifies servers by these certificates.
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

/// A client that accepts every certificate.
pub(crate) fn trusting_anybody() -> ConfigBuilder<ClientConfig, WantsClientCert> {
    builder().dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate))
}

fn builder() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
}
