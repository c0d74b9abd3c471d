//! TLS files: how they are read, checked, and followed when they change.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};

use super::config::{ConfigError, Tls};
use crate::{
    clock,
    tls::{self, Trust},
};

/// Certificates of a file, in its order.
type Chain = Vec<CertificateDer<'static>>;

/// The content of the files of a [`Tls`].
#[derive(PartialEq, Eq)]
pub(super) struct Material {
    ca: Option<Chain>,
    identity: Option<(Chain, PrivateKeyDer<'static>)>,
    server_name: Option<String>,
}

impl Material {
    /// Reads the files and checks their contents.
    ///
    /// The function blocks, for three small files.
    pub(super) fn read(tls: &Tls) -> Result<Self, ConfigError> {
        let ca = match &tls.ca_file {
            Some(file) => Some(certificates("tls.ca_file", file)?),
            None => None,
        };
        let identity = match (&tls.cert_file, &tls.key_file) {
            (Some(cert_file), Some(key_file)) => {
                let chain = certificates("tls.cert_file", cert_file)?;
                usable(cert_file, &chain)?;
                Some((chain, private_key(key_file)?))
            }
            _ => None,
        };
        let material = Self { ca, identity, server_name: tls.server_name.clone() };
        material.try_out(tls)?;
        Ok(material)
    }

    /// Configuration of the TLS library, for HTTP/2.
    pub(super) fn client_config(&self) -> Result<ClientConfig, rustls::Error> {
        let trust = match &self.ca {
            Some(listed) => {
                let mut trust = Trust::nobody();
                listed.iter().try_for_each(|it| trust.add(it.clone()))?;
                trust
            }
            None => Trust::public(),
        };
        let builder = tls::trusting(trust)?;
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(chain.clone(), key.clone_key())?,
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    /// Name that the certificate of a server at `host` must carry.
    pub(super) fn server_name(&self, host: &str) -> Result<ServerName<'static>, rustls::Error> {
        let name = self.server_name.as_deref().unwrap_or(host);
        let name = name.trim_start_matches('[').trim_end_matches(']');
        ServerName::try_from(name.to_owned())
            .map_err(|error| rustls::Error::General(format!("{name}: {error}")))
    }

    /// Builds a configuration once: only the TLS library can check that certificate and key belong
    /// together.
    fn try_out(&self, tls: &Tls) -> Result<(), ConfigError> {
        let usable = self.client_config().and_then(|_| self.server_name("localhost"));
        usable.map(drop).map_err(|error| {
            ConfigError::new(
                "tls",
                format!("{tls:?}"),
                format!("cannot be used ({error})"),
                "do certificate and key belong together, and is tls.server_name a host name?",
            )
        })
    }
}

fn read(field: &'static str, file: &Path) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(file).map_err(|error| {
        ConfigError::new(
            field,
            file.display().to_string(),
            format!("cannot be read ({error})"),
            "give a PEM file that this process may read",
        )
    })
}

/// Reads the certificates in a PEM file; at least one.
fn certificates(field: &'static str, file: &Path) -> Result<Chain, ConfigError> {
    let pem = read(field, file)?;
    let mut found = Chain::new();
    for block in x509_parser::pem::Pem::iter_from_buffer(&pem) {
        match block {
            Ok(block) if block.label == "CERTIFICATE" => found.push(block.contents.into()),
            Ok(_) => {}
            Err(error) => {
                return Err(ConfigError::new(
                    field,
                    file.display().to_string(),
                    format!("is no PEM ({error})"),
                    "give a file that begins with -----BEGIN CERTIFICATE-----",
                ));
            }
        }
    }
    if found.is_empty() {
        return Err(ConfigError::new(
            field,
            file.display().to_string(),
            "holds no certificate",
            "give a file that begins with -----BEGIN CERTIFICATE-----",
        ));
    }
    Ok(found)
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, ConfigError> {
    let pem = read("tls.key_file", file)?;
    let text = String::from_utf8_lossy(&pem);
    if text.contains("ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(ConfigError::new(
            "tls.key_file",
            file.display().to_string(),
            "holds a private key that is encrypted",
            "decrypt it: openssl pkey -in FILE -out NEW_FILE",
        ));
    }
    // The parser's own error text shows the file's content.
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        ConfigError::new(
            "tls.key_file",
            file.display().to_string(),
            "holds no private key",
            "give a file that begins with -----BEGIN PRIVATE KEY-----",
        )
    })
}

/// Checks that the client's certificate, the first of its chain, is in date and has a supported key.
fn usable(file: &Path, chain: &[CertificateDer<'_>]) -> Result<(), ConfigError> {
    let refuse = |problem: String, remedy: &str| {
        Err(ConfigError::new("tls.cert_file", file.display().to_string(), problem, remedy))
    };
    let Some(own) = chain.first() else { return Ok(()) };
    let certificate = match x509_parser::parse_x509_certificate(own) {
        Ok((_, certificate)) => certificate,
        Err(error) => {
            return refuse(format!("holds no X.509 certificate ({error})"), "issue it again");
        }
    };
    let now = clock::wall_now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    if validity.not_after.timestamp() < now {
        return refuse(
            format!("expired at {}", validity.not_after),
            "renew it, or set this machine's clock",
        );
    }
    if now < validity.not_before.timestamp() {
        return refuse(
            format!("is not valid before {}", validity.not_before),
            "set this machine's clock",
        );
    }
    if let Some(key) = tls::unsupported_key(&certificate) {
        return refuse(
            format!("has {key}, which is not supported"),
            "issue it again with an RSA key of 2048 to 8192 bits, or ECDSA on P-256, P-384 or P-521, \
             or Ed25519",
        );
    }
    Ok(())
}

/// The TLS files, and their contents when they were last usable.
pub(super) struct Watched {
    tls: Tls,
    material: Arc<Material>,
}

impl Watched {
    pub(super) fn new(tls: Tls) -> Result<Self, ConfigError> {
        let material = Arc::new(Material::read(&tls)?);
        Ok(Self { tls, material })
    }

    pub(super) fn material(&self) -> Arc<Material> {
        self.material.clone()
    }

    /// Reads the files again; returns the contents if they changed and are usable.
    ///
    /// # Errors
    ///
    /// The files changed and are not usable, as happens for a moment if certificate and key are written one
    /// after the other. The old contents stay in use.
    pub(super) fn changed(&mut self) -> Result<Option<Arc<Material>>, ConfigError> {
        let now = Material::read(&self.tls)?;
        if now == *self.material {
            return Ok(None);
        }
        self.material = Arc::new(now);
        Ok(Some(self.material.clone()))
    }
}
