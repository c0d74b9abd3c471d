//! A certificate authority for tests, with server and client certificates as files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Whether a certificate can be used today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    Now,
    Expired,
}

/// A certificate authority in a folder.
#[derive(Debug)]
pub struct Pki {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    pub ca: PathBuf,
}

impl Pki {
    /// A new authority; its files go to `folder`.
    pub fn new(folder: &Path, name: &str) -> Self {
        fs::create_dir_all(folder).expect("the folder can be made");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate().expect("a key");
        let cert = params.self_signed(&key).expect("a certificate");
        let ca = folder.join("ca.pem");
        fs::write(&ca, cert.pem()).expect("the CA is written");
        Self { folder: folder.to_owned(), issuer: Issuer::new(params, key), ca }
    }

    /// A server certificate for loopback, which etcd also uses as a client to itself.
    pub fn server(&self, validity: Validity) -> Files {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        self.issue("server", "etcd", names, validity)
    }

    /// A client certificate with `name` as its common name; replaces an earlier one of that name.
    pub fn client(&self, name: &str, validity: Validity) -> Files {
        self.issue(name, name, Vec::new(), validity)
    }

    fn issue(&self, file: &str, common: &str, names: Vec<String>, validity: Validity) -> Files {
        let mut params = CertificateParams::new(names).expect("valid names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        if validity == Validity::Expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        let files = Files {
            cert: self.folder.join(format!("{file}.pem")),
            key: self.folder.join(format!("{file}.key")),
        };
        replace(&files.key, &key.serialize_pem());
        replace(&files.cert, &cert.pem());
        files
    }
}

/// Replaces a file at once, as a mounted secret changes: readers see the old content or the new.
pub fn replace(path: &Path, content: &str) {
    let next = path.with_extension("next");
    fs::write(&next, content).expect("written");
    fs::rename(&next, path).expect("renamed");
}
