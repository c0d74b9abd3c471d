//! Certificates: mutual TLS, every kind of invalid certificate, and files that change.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use bellwether::{
    clock::boot_now,
    engine::Revision,
    store::{
        Store, StoreError,
        etcd::{ConnectError, EtcdConfig, EtcdMetrics, EtcdStore, Tls},
    },
};

use super::{LONG, get, put, watch};
use crate::support::{
    etcd::{Etcd, reserved_port},
    eventually,
    pki::{Files, Pki, Validity, replace},
    proxy::Proxy,
};

fn client_files(etcd: &Etcd) -> Files {
    let folder = etcd.pki().ca.parent().unwrap();
    Files { cert: folder.join("client.pem"), key: folder.join("client.key") }
}

fn tls_of(etcd: &Etcd) -> Tls {
    let files = client_files(etcd);
    Tls::ca(&etcd.pki().ca).client(files.cert, files.key)
}

async fn refusal(etcd: &Etcd, tls: Tls) -> String {
    let config = EtcdConfig::new(etcd.endpoints()).tls(tls);
    match EtcdStore::connect(&config).await.unwrap_err() {
        ConnectError::Config(error) => error.to_string(),
        ConnectError::Store(error) => {
            assert!(matches!(error, StoreError::Denied { .. }), "{error}");
            assert!(error.to_string().contains(&etcd.endpoint(0)), "{error}");
            error.to_string()
        }
    }
}

#[tokio::test]
async fn both_sides_show_certificates() {
    let etcd = Etcd::options().members(3).tls().start().await;
    let config = EtcdConfig::new(etcd.endpoints()).tls(tls_of(&etcd));
    let store = EtcdStore::connect(&config).await.unwrap();
    put(&store, "k", "v").await.unwrap();
    store.avoid_current();
    put(&store, "k", "w").await.unwrap();
    assert!(store.health().endpoint.starts_with("https://"));
}

#[tokio::test]
async fn the_certificate_that_etcd_makes_itself_is_trusted_by_itself() {
    let port = reserved_port();
    let address = port.address();
    let etcd = Etcd::options().auto_tls(address).start().await;
    let own = etcd.own_certificate();
    let config = EtcdConfig::new([format!("https://{address}")]);
    let store = EtcdStore::connect(&config.clone().tls(Tls::ca(&own))).await.unwrap();
    put(&store, "k", "v").await.unwrap();
    assert!(store.health().endpoint.starts_with("https://"));
    // The certificate is trusted because the CA file lists it, not because it is self-signed.
    let folder = tempfile::tempdir().unwrap();
    let stranger = Pki::new(folder.path(), "a stranger");
    let error = EtcdStore::connect(&config.tls(Tls::ca(&stranger.ca))).await.unwrap_err();
    let ConnectError::Store(error) = error else { panic!("{error}") };
    let remedy = "put this very certificate into tls.ca_file";
    assert!(error.to_string().contains(remedy), "{error}");
}

#[tokio::test]
async fn what_is_wrong_with_a_certificate_is_said() {
    let etcd = Etcd::options().tls().start().await;
    let folder = tempfile::tempdir().unwrap();
    let stranger = Pki::new(folder.path(), "a stranger");
    let good = client_files(&etcd);
    let ca = || Tls::ca(&etcd.pki().ca);

    let wrong_ca = Tls::ca(&stranger.ca).client(&good.cert, &good.key);
    let said = refusal(&etcd, wrong_ca).await;
    assert!(said.contains("tls.ca_file"), "{said}");

    let said = refusal(&etcd, ca()).await;
    assert!(said.contains("set tls.cert_file and tls.key_file"), "{said}");

    let strange = stranger.client("stranger", Validity::Now);
    let said = refusal(&etcd, ca().client(strange.cert, strange.key)).await;
    assert!(said.contains("--trusted-ca-file"), "{said}");

    let wrong_name = tls_of(&etcd).server_name("etcd.example");
    let said = refusal(&etcd, wrong_name).await;
    assert!(said.contains("tls.server_name"), "{said}");

    let expired = etcd.pki().client("expired", Validity::Expired);
    let said = refusal(&etcd, ca().client(&expired.cert, expired.key)).await;
    assert!(said.contains("expired.pem") && said.contains("expired at"), "{said}");

    let said = refusal(&etcd, ca().client(&good.cert, &expired.cert)).await;
    assert!(said.contains("holds no private key"), "{said}");

    let other = etcd.pki().client("other", Validity::Now);
    let said = refusal(&etcd, ca().client(&good.cert, other.key)).await;
    assert!(said.contains("belong together"), "{said}");

    let said = refusal(&etcd, Tls::ca("/nowhere/ca.pem")).await;
    assert!(said.contains("/nowhere/ca.pem") && said.contains("cannot be read"), "{said}");
}

#[tokio::test]
async fn http_and_https_taken_for_each_other_are_told() {
    let secure = Etcd::options().tls().start().await;
    let plain = Etcd::start().await;
    let as_plain =
        EtcdConfig::new([secure.address(0).to_string()]).connect_within(Duration::from_secs(2));
    let error = EtcdStore::connect(&as_plain).await.unwrap_err();
    let said = std::error::Error::source(&error).unwrap().to_string();
    assert!(said.contains("http or https"), "{said}");
    let as_secure = EtcdConfig::new([plain.address(0).to_string()])
        .tls(tls_of(&secure))
        .connect_within(Duration::from_secs(2));
    let error = EtcdStore::connect(&as_secure).await.unwrap_err();
    let said = std::error::Error::source(&error).unwrap().to_string();
    assert!(said.contains("does it speak TLS there"), "{said}");
}

#[tokio::test]
async fn what_an_attempt_told_is_not_lost_when_a_later_one_is_silent() {
    let etcd = Etcd::options().tls().start().await;
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let _closing = bellwether::tasks::spawn("closes, then is silent", async move {
        let (mut silent, mut first) = (Vec::new(), None);
        loop {
            let (stream, _) = server.accept().await.unwrap();
            let first = *first.get_or_insert_with(boot_now);
            // An attempt that begins after this is still under way when the time of the call ends.
            if boot_now().since(first) > Duration::from_millis(1300) {
                silent.push(stream);
            }
        }
    });
    let config = EtcdConfig::new([format!("https://{address}")])
        .tls(tls_of(&etcd))
        .connect_within(Duration::from_secs(2));
    let error = EtcdStore::connect(&config).await.unwrap_err();
    let said = std::error::Error::source(&error).unwrap().to_string();
    assert!(said.contains("no answer within 2s"), "{said}");
    assert!(said.contains("does it speak TLS there"), "{said}");
}

#[tokio::test]
async fn an_expired_server_certificate_is_told() {
    let etcd = Etcd::options().tls().start().await;
    // etcd reads its certificate again for every connection.
    etcd.pki().server(Validity::Expired);
    let said = refusal(&etcd, tls_of(&etcd)).await;
    assert!(said.contains("the server's certificate has expired"), "{said}");
}

fn copy(from: &Path, to: &Path) {
    replace(to, &std::fs::read_to_string(from).unwrap());
}

/// A client certificate in its own files, as in a mounted secret, with a proxy that counts the connections.
struct Rotating {
    etcd: Etcd,
    proxy: Proxy,
    folder: tempfile::TempDir,
    metrics: EtcdMetrics,
    store: Arc<EtcdStore>,
}

impl Rotating {
    async fn start() -> Self {
        let etcd = Etcd::options().tls().start().await;
        let proxy = Proxy::to(etcd.address(0)).await;
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        let first = client_files(&etcd);
        copy(&first.cert, &cert);
        copy(&first.key, &key);
        let metrics = EtcdMetrics::unregistered();
        let config = EtcdConfig::new([format!("https://{}", proxy.address())])
            .tls(Tls::ca(&etcd.pki().ca).client(cert, key))
            .reload_every(Duration::from_millis(50))
            .metrics(metrics.clone());
        let store = Arc::new(EtcdStore::connect(&config).await.unwrap());
        Self { etcd, proxy, folder, metrics, store }
    }

    /// Replaces the key first, then the certificate: for a moment the two do not match.
    fn rotate_to(&self, files: &Files) {
        copy(&files.key, &self.folder.path().join("tls.key"));
        copy(&files.cert, &self.folder.path().join("tls.crt"));
    }

    fn reconnects(&self) -> u64 {
        self.metrics.reconnects.get()
    }
}

#[tokio::test]
async fn new_certificates_are_used_without_losing_a_call() {
    let rotating = Rotating::start().await;
    let mut watching = watch(&rotating.store, "p/", Revision(1)).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let busy = bellwether::tasks::spawn("busy", {
        let (store, stop) = (rotating.store.clone(), stop.clone());
        async move {
            let mut calls = 0;
            while !stop.load(SeqCst) {
                put(&store, "k", "v").await.unwrap();
                calls += 1;
            }
            calls
        }
    });
    for round in 1..=3 {
        let next = rotating.etcd.pki().client(&format!("round{round}"), Validity::Now);
        rotating.rotate_to(&next);
        eventually("connected anew", LONG, async || (rotating.reconnects() == round).then_some(()))
            .await;
    }
    // The watch ends with an error, so that its caller opens a new one.
    let ended = tokio::time::timeout(LONG, watching.next()).await.unwrap();
    assert!(matches!(ended, Err(StoreError::Broken { .. })), "{ended:?}");
    drop(watching);
    stop.store(true, SeqCst);
    let calls = busy.await.unwrap();
    let version = get(&rotating.store, "k").await.unwrap().kvs[0].version;
    assert_eq!(version, calls, "each call took effect once");
    eventually("the old connections are closed", LONG, async || {
        (rotating.proxy.open() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn bad_certificates_do_not_replace_good_connections() {
    let rotating = Rotating::start().await;
    put(&rotating.store, "k", "v").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let stranger = Pki::new(folder.path(), "a stranger").client("stranger", Validity::Now);
    let before = rotating.proxy.accepted();
    rotating.rotate_to(&stranger);
    eventually("the new certificate was tried", LONG, async || {
        (rotating.proxy.accepted() > before).then_some(())
    })
    .await;
    put(&rotating.store, "k", "w").await.unwrap();
    assert_eq!(rotating.reconnects(), 0);
    // The store does not even try to connect with a file that holds no certificate.
    let before = rotating.proxy.accepted();
    replace(&rotating.folder.path().join("tls.crt"), "nonsense");
    put(&rotating.store, "k", "x").await.unwrap();
    let good = rotating.etcd.pki().client("good", Validity::Now);
    rotating.rotate_to(&good);
    eventually("connected anew", LONG, async || (rotating.reconnects() == 1).then_some(())).await;
    put(&rotating.store, "k", "y").await.unwrap();
    assert!(rotating.proxy.accepted() > before);
}
