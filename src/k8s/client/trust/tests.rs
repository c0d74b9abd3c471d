use std::net::SocketAddr;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::CertificateError;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tower::{BoxError, ServiceExt as _};

use super::*;
use crate::{
    causes::find,
    tasks::Tasks,
    tls::testing::{P521, P521_KEY, der, server},
};

/// Starts a server that presents `certificate`.
async fn showing(tasks: &mut Tasks, certificate: &str, key: &str) -> SocketAddr {
    let acceptor = TlsAcceptor::from(Arc::new(server(certificate, key)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn("tls", async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(acceptor.accept(stream).await);
        }
    });
    address
}

fn config(address: SocketAddr, change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::new(format!("https://localhost:{}", address.port()).parse().unwrap());
    change(&mut config);
    config
}

async fn connect(config: &Config) -> Result<(), BoxError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    let uri: Uri = config.cluster_url.clone();
    connector(config, tcp)?.oneshot(uri).await.map(|_| ())
}

#[tokio::test]
async fn an_api_server_is_trusted_by_its_own_certificate_however_it_was_made() {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let folder = tempfile::tempdir().unwrap();
    let mut tasks = Tasks::new();
    for (certificate, key) in [(pem.as_str(), key.serialize_pem().as_str()), (P521, P521_KEY)] {
        let address = showing(&mut tasks, certificate, key).await;
        let list = |it: &mut Config| it.root_cert = Some(vec![der(certificate).to_vec()]);
        connect(&config(address, list)).await.unwrap();
        let file = folder.path().join("ca.crt");
        std::fs::write(&file, certificate).unwrap();
        let in_pod = config(address, |it| {
            it.root_cert = Some(Vec::new());
            it.root_cert_file = Some(file);
        });
        connect(&in_pod).await.unwrap();
        let by_name = config(address, |it| {
            list(it);
            it.cluster_url = format!("https://127.0.0.1:{}", address.port()).parse().unwrap();
            it.tls_server_name = Some("localhost".to_owned());
        });
        connect(&by_name).await.unwrap();
        connect(&config(address, |it| it.accept_invalid_certs = true)).await.unwrap();
    }
}

#[tokio::test]
async fn an_api_server_that_shows_another_certificate_is_not_trusted() {
    let mut tasks = Tasks::new();
    let address = showing(&mut tasks, P521, P521_KEY).await;
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let other = params.self_signed(&key).unwrap().der().to_vec();
    let config = config(address, |it| it.root_cert = Some(vec![other]));
    let error = connect(&config).await.unwrap_err();
    assert!(
        matches!(find::<rustls::Error>(&*error), Some(rustls::Error::InvalidCertificate(it))
            if !matches!(it, CertificateError::Expired)),
        "{error:?}"
    );
}
