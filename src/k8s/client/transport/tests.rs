//! An API server behind a proxy that the kubeconfig or the environment names, and the exceptions.

use std::{fs, net::SocketAddr, path::PathBuf, sync::Mutex};

use http::Request;
use kube::{Client, Error};
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    k8s::{
        client::connect,
        explain::{Explained, Reason, explain},
    },
    tasks,
    tls::testing,
};

/// A name that only the proxy can resolve.
const NAME: &str = "kubernetes.behind-the-proxy.test";

/// Header with the credentials `me:hush`, as Basic.
const AUTH: &str = "Proxy-Authorization: Basic bWU6aHVzaA==";

/// A proxy that supports CONNECT (and SOCKS5 without credentials), and connects every client to one API server.
struct Connect {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Connect {
    /// A proxy to `target` that requires the credentials `auth`, if any.
    async fn to(target: SocketAddr, auth: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&heads);
        drop(tasks::spawn("proxy", async move {
            while let Ok((client, _)) = listener.accept().await {
                drop(tasks::spawn("tunnel", tunnel(client, target, auth, log.clone())));
            }
        }));
        Self { address, heads }
    }

    /// Takes the hosts that clients asked the proxy for.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.heads.lock().unwrap())
    }
}

async fn tunnel(
    mut client: TcpStream,
    target: SocketAddr,
    auth: Option<&'static str>,
    log: Arc<Mutex<Vec<String>>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if client.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
        if head.starts_with(&[5]) && head.len() >= 3 {
            return socks(client, target, &log).await;
        }
    }
    let head = String::from_utf8(head).unwrap();
    let first = head.lines().next().unwrap();
    log.lock().unwrap().push(first.to_owned());
    if auth.is_some_and(|auth| !head.lines().any(|it| it == auth)) {
        let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n";
        return drop(client.write_all(refusal).await);
    }
    let mut server = TcpStream::connect(target).await.unwrap();
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    drop(copy_bidirectional(&mut client, &mut server).await);
}

/// Serves the rest of a SOCKS5 handshake for a name, after the methods.
async fn socks(mut client: TcpStream, target: SocketAddr, log: &Mutex<Vec<String>>) {
    client.write_all(&[5, 0]).await.unwrap();
    let mut start = [0; 5];
    client.read_exact(&mut start).await.unwrap();
    assert_eq!(start[..4], [5, 1, 0, 3], "connect to a name");
    let mut name = vec![0; usize::from(start[4]) + 2];
    client.read_exact(&mut name).await.unwrap();
    let name = String::from_utf8_lossy(&name[..name.len() - 2]).into_owned();
    log.lock().unwrap().push(format!("SOCKS5 {name}"));
    let mut server = TcpStream::connect(target).await.unwrap();
    client.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 0]).await.unwrap();
    drop(copy_bidirectional(&mut client, &mut server).await);
}

/// An API server that answers every request over TLS, and a folder for its kubeconfigs.
struct Behind {
    address: SocketAddr,
    folder: TempDir,
}

impl Behind {
    async fn proxy() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let names = [NAME, "127.0.0.1"].map(str::to_owned);
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap().pem();
        fs::write(folder.path().join("ca.crt"), &certificate).unwrap();
        let tls = TlsAcceptor::from(Arc::new(testing::server(&certificate, &key.serialize_pem())));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(tasks::spawn("API server", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = tls.accept(stream).await else { continue };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let read = stream.read_buf(&mut head).await.unwrap();
                    assert!(0 < read, "a whole request");
                }
                let answer =
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nfine";
                stream.write_all(answer.as_bytes()).await.unwrap();
                let _ = stream.shutdown().await;
            }
        }));
        Self { address, folder }
    }

    /// A kubeconfig with the address `server` and the fields `more` of the cluster.
    fn kubeconfig(&self, server: &str, more: &str) -> PathBuf {
        let ca = self.folder.path().join("ca.crt");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: x\n\
             clusters: [{{name: x, cluster: {{server: '{server}', certificate-authority: '{}'{more}}}}}]\n\
             contexts: [{{name: x, context: {{cluster: x}}}}]\n",
            ca.display(),
        );
        let path = self.folder.path().join("config");
        fs::write(&path, text).unwrap();
        path
    }

    fn named(&self) -> String {
        format!("https://{NAME}:{}", self.address.port())
    }

    fn asked_for(&self) -> String {
        format!("CONNECT {NAME}:{} HTTP/1.1", self.address.port())
    }
}

/// A client with that kubeconfig and environment.
async fn client(kubeconfig: PathBuf, env: &[(&str, String)]) -> Client {
    let env: Vec<(String, String)> =
        env.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let options = ClientOptions::default().environment(move |name| {
        env.iter().find(|(it, _)| it == name).map(|(_, value)| value.clone())
    });
    connect(options.kubeconfig(kubeconfig)).await.unwrap()
}

async fn get(client: &Client) -> Result<String, Error> {
    client.request_text(Request::get("/version").body(Vec::new()).unwrap()).await
}

async fn answers(client: &Client) {
    assert_eq!(get(client).await.unwrap(), "fine");
}

async fn refused(client: &Client) -> Explained {
    explain(&get(client).await.unwrap_err())
}

#[tokio::test]
async fn the_kubeconfigs_proxy_leads_to_the_server_with_its_credentials_whatever_no_proxy_has() {
    let behind = Behind::proxy().await;
    let proxy = Connect::to(behind.address, Some(AUTH)).await;
    let url = format!(", proxy-url: 'http://me:hush@{}'", proxy.address);
    let all = [("NO_PROXY", "*".to_owned()), ("HTTPS_PROXY", "http://192.0.2.1:9".to_owned())];
    answers(&client(behind.kubeconfig(&behind.named(), &url), &all).await).await;
    assert_eq!(proxy.asked(), [behind.asked_for()]);

    let without = url.replace("me:hush@", "");
    let client = client(behind.kubeconfig(&behind.named(), &without), &[]).await;
    let said = refused(&client).await;
    assert_eq!(said.reason, Reason::Unreachable, "{said}");
    let words = [behind.named(), format!("proxy http://{}", proxy.address)];
    assert!(words.iter().all(|it| said.message.contains(it)), "{said}");
    assert!(said.message.contains("authorization required"), "{said}");
    assert!(said.to_string().contains("proxy-url"), "{said}");
}

#[tokio::test]
async fn the_environments_proxy_leads_to_a_server_of_a_kubeconfig_but_for_the_exceptions() {
    let behind = Behind::proxy().await;
    let proxy = Connect::to(behind.address, None).await;
    let file = || behind.kubeconfig(&behind.named(), "");
    for name in ["HTTPS_PROXY", "https_proxy"] {
        // An address without a scheme, as curl and kubectl accept it.
        answers(&client(file(), &[(name, proxy.address.to_string())]).await).await;
        assert_eq!(proxy.asked(), [behind.asked_for()], "{name}");
    }
    let url = ("HTTPS_PROXY", format!("http://{}", proxy.address));
    for exempt in [NAME, ".behind-the-proxy.test", "10.0.0.0/8,behind-the-proxy.test", "*"] {
        let direct = client(file(), &[url.clone(), ("NO_PROXY", exempt.to_owned())]).await;
        let said = refused(&direct).await;
        assert_eq!(said.reason, Reason::Unreachable, "no such name here: {said}");
        assert!(!said.message.contains("proxy http"), "{said}");
    }
    // `NO_PROXY` is compared with the server's address, not with the proxy's.
    let others = [url.clone(), ("NO_PROXY", "127.0.0.1,other.test".to_owned())];
    answers(&client(file(), &others).await).await;
    assert_eq!(proxy.asked(), [behind.asked_for()]);
    // A server on this machine is reached directly, as with kubectl.
    answers(&client(behind.kubeconfig(&format!("https://{}", behind.address), ""), &[url]).await)
        .await;
    assert_eq!(proxy.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn a_socks_proxy_leads_to_the_server_and_one_that_is_gone_is_named() {
    let behind = Behind::proxy().await;
    let proxy = Connect::to(behind.address, None).await;
    let url = format!(", proxy-url: 'socks5://{}'", proxy.address);
    answers(&client(behind.kubeconfig(&behind.named(), &url), &[]).await).await;
    assert_eq!(proxy.asked(), [format!("SOCKS5 {NAME}")]);

    // The listener is dropped at once: the port is closed.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let url = format!(", proxy-url: 'http://127.0.0.1:{port}'");
    let client = client(behind.kubeconfig(&behind.named(), &url), &[]).await;
    let said = refused(&client).await;
    assert_eq!(said.reason, Reason::Unreachable, "{said}");
    assert!(said.message.contains(&format!("proxy http://127.0.0.1:{port}")), "{said}");
    assert!(said.message.contains("refused"), "{said}");
}
