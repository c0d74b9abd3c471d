//! The test servers and the proxy behave as tests expect.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::support::{
    etcd::{Etcd, Medium},
    eventually,
    proxy::{Fault, Proxy},
};

const LONG: Duration = Duration::from_secs(20);

fn is_alive(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn a_dropped_etcd_is_gone_with_its_folder() {
    let etcd = Etcd::options().medium(Medium::Disk).start().await;
    let (pid, folder) = (etcd.pid(0), etcd.folder().to_owned());
    assert!(is_alive(pid) && folder.is_dir());
    drop(etcd);
    assert!(!is_alive(pid), "the server runs on");
    assert!(!folder.exists(), "the folder is left behind");
}

#[tokio::test]
async fn a_restarted_etcd_keeps_its_data_and_a_wiped_one_does_not() {
    let etcd = Etcd::start().await;
    etcd.client().await.put("k", "v", None).await.unwrap();
    etcd.restart(0).await;
    assert_eq!(etcd.client().await.get("k", None).await.unwrap().count(), 1);
    etcd.wipe(0);
    etcd.start_again(0).await;
    assert_eq!(etcd.client().await.get("k", None).await.unwrap().count(), 0);
}

#[tokio::test]
async fn a_user_may_use_its_prefix_only() {
    let etcd = Etcd::options().user("shop", "secret", "/shop/").start().await;
    let as_shop = etcd_client::ConnectOptions::new().with_user("shop", "secret");
    let mut shop = etcd_client::Client::connect(etcd.endpoints(), Some(as_shop)).await.unwrap();
    shop.put("/shop/a", "1", None).await.unwrap();
    let refused = shop.put("/other/a", "1", None).await.unwrap_err();
    assert!(refused.to_string().contains("permission denied"), "{refused}");
    assert!(etcd.etcdctl(&["get", "/shop/a"]).contains("/shop/a"));
}

#[tokio::test]
async fn three_members_with_tls_survive_one_that_is_killed() {
    let etcd = Etcd::options().members(3).tls().start().await;
    etcd.kill((etcd.leader().await + 1) % 3);
    let leader = etcd.leader().await;
    etcd.client_of(leader).await.put("k", "v", None).await.unwrap();
}

async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(bellwether::tasks::spawn("echo", async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            drop(bellwether::tasks::spawn("echo connection", async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            }));
        }
    }));
    address
}

async fn ask(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut answer = [0; 4];
    stream.write_all(b"ping").await?;
    stream.read_exact(&mut answer).await.map(drop)
}

/// Whether the stream stays silent while nothing else happens: polls a hundred times without an answer.
async fn is_silent(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 4];
    let answered = stream.read_exact(&mut answer);
    tokio::time::timeout(Duration::from_millis(200), answered).await.is_err()
}

#[tokio::test]
async fn the_proxy_holds_delivers_and_resets() {
    let proxy = Proxy::to(echo().await).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    ask(&mut stream).await.unwrap();
    for fault in [Fault::Blackhole, Fault::CutToServer, Fault::CutToClient] {
        proxy.set(fault);
        stream.write_all(b"ping").await.unwrap();
        assert!(is_silent(&mut stream).await, "{fault:?}");
        proxy.set(Fault::None);
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.unwrap();
    }
    assert_eq!((proxy.accepted(), proxy.open()), (1, 1));
    proxy.reset();
    let error = stream.read_exact(&mut [0; 4]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    eventually("none open", LONG, async || (proxy.open() == 0).then_some(())).await;
}

#[tokio::test]
async fn the_proxy_refuses_and_leaves_half_open() {
    let proxy = Proxy::to(echo().await).await;
    let mut old = TcpStream::connect(proxy.address()).await.unwrap();
    ask(&mut old).await.unwrap();
    proxy.half_open();
    old.write_all(b"ping").await.unwrap();
    assert!(is_silent(&mut old).await);
    let mut new = TcpStream::connect(proxy.address()).await.unwrap();
    ask(&mut new).await.unwrap();
    proxy.set(Fault::Refuse);
    assert!(ask(&mut new).await.is_err());
    let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(ask(&mut refused).await.is_err());
}
