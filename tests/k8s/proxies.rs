//! An API server behind a proxy: by the kubeconfig, by the environment, and the exceptions.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use bellwether::k8s::{
    client::{ClientOptions, connect},
    explain::{Explained, Reason, explain},
    kube::{Client, Error},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

use crate::kube::ApiServer;

/// A name that only the proxy can resolve.
const NAME: &str = "kubernetes.behind-the-proxy.test";

/// `me:hush`, as Basic.
const AUTH: &str = "Proxy-Authorization: Basic bWU6aHVzaA==";

/// A proxy that knows CONNECT (and SOCKS5 without credentials), and leads all to one API server.
struct Connect {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Connect {
    /// A proxy that wants these credentials, if any.
    async fn to(target: SocketAddr, auth: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&heads);
        drop(bellwether::tasks::spawn("proxy", async move {
            while let Ok((client, _)) = listener.accept().await {
                drop(bellwether::tasks::spawn("tunnel", tunnel(client, target, auth, log.clone())));
            }
        }));
        Self { address, heads }
    }

    /// The hosts that it was asked for.
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

/// The rest of a SOCKS5 handshake for a name, after the methods.
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

/// An API server, a folder for kubeconfigs of it, and the port that they name.
struct Behind {
    api: &'static ApiServer,
    folder: tempfile::TempDir,
}

impl Behind {
    async fn proxy() -> Self {
        Self { api: ApiServer::shared().await, folder: tempfile::tempdir().unwrap() }
    }

    /// A kubeconfig that names the server so, with more fields of the cluster.
    fn kubeconfig(&self, server: &str, more: &str) -> PathBuf {
        let text = fs::read_to_string(self.api.kubeconfig("default", None)).unwrap();
        // The certificate is for the address.
        let cluster = format!("{server:?}, tls-server-name: \"127.0.0.1\"{more}");
        let text = text.replace(&format!("{:?}", self.api.url()), &cluster);
        assert!(text.contains(&cluster));
        let path = self.folder.path().join("config");
        fs::write(&path, text).unwrap();
        path
    }

    fn named(&self) -> String {
        format!("https://{NAME}:{}", self.api.address().port())
    }

    fn asked_for(&self) -> String {
        format!("CONNECT {NAME}:{} HTTP/1.1", self.api.address().port())
    }
}

/// A client by that kubeconfig in that environment.
async fn client(kubeconfig: PathBuf, env: &[(&str, String)]) -> Client {
    let env: Vec<(String, String)> =
        env.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let options = ClientOptions::default().environment(move |name| {
        env.iter().find(|(it, _)| it == name).map(|(_, value)| value.clone())
    });
    connect(options.kubeconfig(kubeconfig)).await.unwrap()
}

async fn answers(client: &Client) {
    client.apiserver_version().await.unwrap();
}

fn refused<T>(asked: Result<T, Error>) -> Explained {
    explain(&asked.err().expect("it is refused"))
}

#[tokio::test]
async fn the_kubeconfigs_proxy_leads_to_the_server_with_its_credentials_whatever_no_proxy_has() {
    let behind = Behind::proxy().await;
    let proxy = Connect::to(behind.api.address(), Some(AUTH)).await;
    let url = format!(", proxy-url: 'http://me:hush@{}'", proxy.address);
    let all = [("NO_PROXY", "*".to_owned()), ("HTTPS_PROXY", "http://192.0.2.1:9".to_owned())];
    answers(&client(behind.kubeconfig(&behind.named(), &url), &all).await).await;
    assert_eq!(proxy.asked(), [behind.asked_for()]);

    let without = url.replace("me:hush@", "");
    let client = client(behind.kubeconfig(&behind.named(), &without), &[]).await;
    let said = refused(client.apiserver_version().await);
    assert_eq!(said.reason, Reason::Unreachable, "{said}");
    let words = [behind.named(), format!("proxy http://{}", proxy.address)];
    assert!(words.iter().all(|it| said.message.contains(it)), "{said}");
    assert!(said.message.contains("authorization required"), "{said}");
    assert!(said.to_string().contains("proxy-url"), "{said}");
}

#[tokio::test]
async fn the_environments_proxy_leads_to_a_server_of_a_kubeconfig_but_for_the_exceptions() {
    let behind = Behind::proxy().await;
    let proxy = Connect::to(behind.api.address(), None).await;
    let file = || behind.kubeconfig(&behind.named(), "");
    for name in ["HTTPS_PROXY", "https_proxy"] {
        // Without a scheme, as curl and kubectl take it.
        answers(&client(file(), &[(name, proxy.address.to_string())]).await).await;
        assert_eq!(proxy.asked(), [behind.asked_for()], "{name}");
    }
    let url = ("HTTPS_PROXY", format!("http://{}", proxy.address));
    for exempt in [NAME, ".behind-the-proxy.test", "10.0.0.0/8,behind-the-proxy.test", "*"] {
        let direct = client(file(), &[url.clone(), ("NO_PROXY", exempt.to_owned())]).await;
        let said = refused(direct.apiserver_version().await);
        assert_eq!(said.reason, Reason::Unreachable, "no such name here: {said}");
        assert!(!said.message.contains("proxy http"), "{said}");
    }
    // Exceptions are for the server, not for the proxy.
    let others = [url.clone(), ("NO_PROXY", "127.0.0.1,other.test".to_owned())];
    answers(&client(file(), &others).await).await;
    assert_eq!(proxy.asked(), [behind.asked_for()]);
    // kubectl too goes to its own machine directly.
    answers(&client(behind.kubeconfig(&behind.api.url(), ""), &[url]).await).await;
    assert_eq!(proxy.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn a_socks_proxy_leads_to_the_server_and_one_that_is_gone_is_named() {
    let behind = Behind::proxy().await;
    let proxy = Connect::to(behind.api.address(), None).await;
    let url = format!(", proxy-url: 'socks5://{}'", proxy.address);
    answers(&client(behind.kubeconfig(&behind.named(), &url), &[]).await).await;
    assert_eq!(proxy.asked(), [format!("SOCKS5 {NAME}")]);

    let nobody = crate::support::etcd::Nobody::new();
    let url = format!(", proxy-url: 'http://{}'", nobody.address());
    let client = client(behind.kubeconfig(&behind.named(), &url), &[]).await;
    let said = refused(client.apiserver_version().await);
    assert_eq!(said.reason, Reason::Unreachable, "{said}");
    assert!(said.message.contains(&nobody.address().to_string()), "{said}");
    assert!(said.message.contains("refused"), "{said}");
}
