//! Certificates for tests that no generator here can make. Made by OpenSSL, valid for 100 years, for
//! `localhost` and 127.0.0.1 where they are a server's.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

/// Self-signed, CA:TRUE, on P-521: what `openssl req -x509` makes with `ec_paramgen_curve:P-521`.
pub(crate) const P521: &str = include_str!("testing/p521.crt");
/// The key of [`P521`].
pub(crate) const P521_KEY: &str = include_str!("testing/p521.key");
/// An authority on P-521.
pub(crate) const P521_AUTHORITY: &str = include_str!("testing/p521-authority.crt");
/// Servers' certificates that [`P521_AUTHORITY`] signed with SHA-256, SHA-384 and SHA-512.
pub(crate) const SIGNED_BY_P521: [&str; 3] = [
    include_str!("testing/p521-signed-sha256.crt"),
    include_str!("testing/p521-signed-sha384.crt"),
    include_str!("testing/p521-signed-sha512.crt"),
];
/// A server's certificate that [`P521_AUTHORITY`] signed with SHA-1.
pub(crate) const SIGNED_WITH_SHA1: &str = include_str!("testing/sha1-signed.crt");
/// Self-signed, CA:TRUE, with an RSA key of 1024 bits.
pub(crate) const RSA_1024: &str = include_str!("testing/rsa1024.crt");
/// An authority with an RSA key of 1024 bits.
pub(crate) const RSA_1024_AUTHORITY: &str = include_str!("testing/rsa1024-authority.crt");
/// A server's certificate that [`RSA_1024_AUTHORITY`] signed.
pub(crate) const SIGNED_BY_RSA_1024: &str = include_str!("testing/rsa1024-signed.crt");
/// Self-signed, on the curve of Bitcoin.
pub(crate) const SECP256K1: &str = include_str!("testing/secp256k1.crt");

/// The certificate in a PEM text.
pub(crate) fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// A server that shows this certificate.
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

/// What a client and a server come to when they shake hands, without a network.
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
        // The client's error is looked at: the server's is a consequence.
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
