//! Certificates for tests that no generator here can make. OpenSSL made them, valid for 100 years; those of
//! servers are for `localhost` and 127.0.0.1.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

/// Self-signed certificate, CA:TRUE, on P-521, as `openssl req -x509` makes with `ec_paramgen_curve:P-521`.
pub(crate) const P521: &str = include_str!("testing/p521.crt");
/// Private key of [`P521`].
pub(crate) const P521_KEY: &str = include_str!("testing/p521.key");
/// Certificate of an authority on P-521.
pub(crate) const P521_AUTHORITY: &str = include_str!("testing/p521-authority.crt");
/// Servers' certificates that [`P521_AUTHORITY`] signed with SHA-256, SHA-384 and SHA-512.
pub(crate) const SIGNED_BY_P521: [&str; 3] = [
    include_str!("testing/p521-signed-sha256.crt"),
    include_str!("testing/p521-signed-sha384.crt"),
    include_str!("testing/p521-signed-sha512.crt"),
];
/// A server's certificate that [`P521_AUTHORITY`] signed with SHA-1.
pub(crate) const SIGNED_WITH_SHA1: &str = include_str!("testing/sha1-signed.crt");
/// Self-signed certificate, CA:TRUE, with an RSA key of 1024 bits.
pub(crate) const RSA_1024: &str = include_str!("testing/rsa1024.crt");
/// An authority with an RSA key of 1024 bits.
pub(crate) const RSA_1024_AUTHORITY: &str = include_str!("testing/rsa1024-authority.crt");
/// A server's certificate that [`RSA_1024_AUTHORITY`] signed.
pub(crate) const SIGNED_BY_RSA_1024: &str = include_str!("testing/rsa1024-signed.crt");
/// Self-signed certificate on secp256k1, the curve of Bitcoin.
pub(crate) const SECP256K1: &str = include_str!("testing/secp256k1.crt");

/// Decodes the certificate in a PEM text.
pub(crate) fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// Configuration of a server that shows this certificate.
pub(crate) fn server(certificate: &str, key: &str) -> ServerConfig {
    ServerConfig::builder_with_provider(super::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![der(certificate)],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap()
}

/// Result of a handshake between a client and a server, without a network.
pub(crate) fn handshake(
    client: Arc<rustls::ClientConfig>,
    server: Arc<ServerConfig>,
    name: &'static str,
) -> Result<(), rustls::Error> {
    let mut client = rustls::ClientConnection::new(client, name.try_into().unwrap())?;
    let mut server = rustls::ServerConnection::new(server)?;
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut sent = wire.as_slice();
        while !sent.is_empty() {
            server.read_tls(&mut sent).unwrap();
        }
        // Ignore the server's error, which follows from the client's.
        let _ = server.process_new_packets();
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut sent = wire.as_slice();
        while !sent.is_empty() {
            client.read_tls(&mut sent).unwrap();
        }
        client.process_new_packets()?;
        if !client.is_handshaking() && !server.is_handshaking() {
            return Ok(());
        }
    }
    panic!("the handshake does not end");
}
