//! The TLS of a connection to an API server: kube's credentials, and this crate's verification of the certificate.

use std::sync::Arc;

use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use kube::{Config, Error, client::ConfigExt as _};
use rustls::{
    client::danger::ServerCertVerifier,
    pki_types::{CertificateDer, ServerName},
};

use crate::tls::{self, AnyCertificate, Followed, Trust, Verifier};

/// Connects by TLS over `tcp` as the configuration says.
pub(super) fn connector<C>(config: &Config, tcp: C) -> Result<HttpsConnector<C>, Error> {
    // kube uses the crypto provider that is the default of the process.
    tls::install();
    let mut client = config.rustls_client_config()?;
    if let Some(verifier) = verifier(config)? {
        client.dangerous().set_certificate_verifier(verifier);
    }
    let mut builder = HttpsConnectorBuilder::new().with_tls_config(client).https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = ServerName::try_from(name.clone()).map_err(unusable)?;
        builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    Ok(builder.enable_http1().wrap_connector(tcp))
}

/// `None` if no authority is configured: kube's verifier then uses the system's authorities.
fn verifier(config: &Config) -> Result<Option<Arc<dyn ServerCertVerifier>>, Error> {
    if config.accept_invalid_certs {
        return Ok(Some(Arc::new(AnyCertificate)));
    }
    if let Some(path) = &config.root_cert_file {
        return Ok(Some(Arc::new(Followed::new(path.clone()).map_err(unusable)?)));
    }
    let Some(listed) = &config.root_cert else { return Ok(None) };
    let mut trust = Trust::nobody();
    for certificate in listed {
        trust.add(CertificateDer::from(certificate.clone())).map_err(unusable)?;
    }
    Ok(Some(Arc::new(Verifier::new(trust).map_err(unusable)?)))
}

fn unusable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Service(Box::new(error))
}

#[cfg(test)]
mod tests;
