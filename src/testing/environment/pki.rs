//! A certificate authority for tests, with server and client certificates as files.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Files {
    /// Path of the certificate.
    pub cert: PathBuf,
    /// Path of its key.
    pub key: PathBuf,
}

/// Whether a certificate can be used today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// The certificate is valid now.
    Now,
    /// The certificate was valid until 2021.
    Expired,
}

/// A certificate cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A certificate or key cannot be generated.
    #[error("a certificate cannot be generated")]
    Generate(#[from] rcgen::Error),
    /// A file cannot be written.
    #[error("{} cannot be written", path.display())]
    Write {
        /// Path of the file.
        path: PathBuf,
        /// Error of the file system.
        source: io::Error,
    },
}

/// A certificate authority in a folder.
#[derive(Debug)]
pub struct Pki {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    ca: PathBuf,
}

impl Pki {
    /// A new authority; its files go to `folder`.
    ///
    /// # Errors
    ///
    /// [`PkiError`].
    pub fn new(folder: &Path, name: &str) -> Result<Self, PkiError> {
        let source = fs::create_dir_all(folder);
        source.map_err(|source| PkiError::Write { path: folder.to_owned(), source })?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate()?;
        let cert = params.self_signed(&key)?;
        let ca = folder.join("ca.pem");
        replace(&ca, &cert.pem())?;
        Ok(Self { folder: folder.to_owned(), issuer: Issuer::new(params, key), ca })
    }

    /// Path of the authority's own certificate.
    pub fn ca(&self) -> &Path {
        &self.ca
    }

    /// A server certificate for loopback, which etcd also uses as a client to itself.
    ///
    /// # Errors
    ///
    /// [`PkiError`].
    pub fn server(&self, validity: Validity) -> Result<Files, PkiError> {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        self.issue("server", "etcd", names, validity)
    }

    /// A client certificate with `name` as its common name; replaces an earlier one of that name.
    ///
    /// # Errors
    ///
    /// [`PkiError`].
    pub fn client(&self, name: &str, validity: Validity) -> Result<Files, PkiError> {
        self.issue(name, name, Vec::new(), validity)
    }

    fn issue(
        &self,
        file: &str,
        common: &str,
        names: Vec<String>,
        validity: Validity,
    ) -> Result<Files, PkiError> {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        if validity == Validity::Expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        let files = Files {
            cert: self.folder.join(format!("{file}.pem")),
            key: self.folder.join(format!("{file}.key")),
        };
        replace(&files.key, &key.serialize_pem())?;
        replace(&files.cert, &cert.pem())?;
        Ok(files)
    }
}

/// A key pair for signing, as PEM: the private key and the public key.
///
/// # Errors
///
/// [`PkiError`].
pub(super) fn signing_keys() -> Result<(String, String), PkiError> {
    let key = KeyPair::generate()?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

/// Replaces a file at once, as a mounted secret changes: readers see the old content or the new.
///
/// # Errors
///
/// [`PkiError`].
pub fn replace(path: &Path, content: &str) -> Result<(), PkiError> {
    let next = path.with_extension("next");
    let written = fs::write(&next, content).and_then(|()| fs::rename(&next, path));
    written.map_err(|source| PkiError::Write { path: path.to_owned(), source })
}
