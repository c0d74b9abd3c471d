//! The page as a user experiences it: buttons pressed, the node gone, the screen of a phone.

use std::time::Duration;

use bellwether::telemetry::{Action, ServerConfig};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{
    driven::Page,
    scene,
    served::{Script, Served},
};

const LINK: &str = "document.getElementById('link').dataset.state";

#[tokio::test(flavor = "multi_thread")]
async fn pressing_the_buttons_asks_the_node_and_shows_what_was_done() {
    let served = Served::new(Script::new(scene::demo())).await;
    let mut page = Page::open(1280, 1200).await;
    page.go(&served.url("/")).await;
    page.eval("document.getElementById('resign').click()").await;
    let said = "document.getElementById('act-said').textContent";
    page.until(said, |text| *text == "node 1 resigned, term 4711 is over").await;
    // A second press right after the first takes effect at once and is not lost.
    page.until("document.getElementById('resign').disabled", |off| *off == false).await;
    page.eval("document.querySelectorAll('#node-rows button')[2].click()").await;
    let done = || async { served.script.done.lock().unwrap().clone() };
    let expected = vec![(Action::Resign, None), (Action::Kill, Some("2".to_owned()))];
    super::served::eventually(done, |done| *done == expected).await;
    page.close().await;
    served.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_page_follows_the_node_and_keeps_what_is_selected() {
    let served = Served::new(Script::new(scene::demo())).await;
    let mut page = Page::open(1280, 1200).await;
    page.go(&served.url("/")).await;
    page.until(LINK, |state| *state == "live").await;
    page.eval("window.kept = document.querySelector('#node-rows tr'); kept.querySelector('button').focus()").await;
    let mut next = scene::demo();
    next["leader"]["id"] = json!("2");
    next["nodes"][0]["address"] = json!("10.0.0.77:9000");
    *served.script.status.lock().unwrap() = next;
    served.script.changed.notify_one();
    page.until("document.getElementById('leader-who').textContent", |text| *text == "Node 2 leads")
        .await;
    assert!(page.text("node-rows").await.contains("10.0.0.77:9000"));
    let kept =
        "document.querySelector('#node-rows tr') === kept && kept.contains(document.activeElement)";
    assert_eq!(
        page.eval(kept).await,
        json!(true),
        "the row and the focus in it are what they were"
    );
    page.close().await;
    served.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_loses_its_node_says_so_and_recovers_by_itself() {
    let served = Served::new(Script::new(scene::demo())).await;
    let listen = served.address;
    let mut page = Page::open(1280, 1200).await;
    page.go(&served.url("/")).await;
    page.until(LINK, |state| *state == "live").await;
    served.stopped().await;

    page.until(LINK, |state| *state == "lost").await;
    let text = page.text("link-text").await;
    assert!(text.starts_with("Connection lost, ") && text.ends_with(" s"), "with its age: {text}");
    let alarm = page.text("alarm").await;
    assert!(alarm.contains("What stands here is the picture of"), "{alarm}");
    let left = "document.querySelector('#spans .left').textContent";
    assert_eq!(page.eval(left).await, json!("unknown"), "no bar counts down what nobody knows");

    let again = Served::at(Script::new(scene::demo()), listen).await;
    page.until(LINK, |state| *state == "live").await;
    assert_eq!(page.eval("document.getElementById('alarm').hidden").await, json!(true));
    page.close().await;
    again.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_without_a_stream_polls_and_says_so() {
    let config = ServerConfig { max_streams: 0, ..ServerConfig::default() };
    let served = Served::with(Script::new(scene::demo()), config).await;
    let mut page = Page::open(1280, 1200).await;
    page.go(&served.url("/")).await;
    page.until(LINK, |state| *state == "poll").await;
    served.script.status.lock().unwrap()["cluster"] = json!("another");
    page.until("document.getElementById('cluster').textContent", |text| *text == "another").await;
    page.close().await;
    served.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_picture_is_wider_than_a_small_phone() {
    let served = Served::new(Script::new(scene::demo())).await;
    let mut page = Page::open(360, 740).await;
    for picture in
        [scene::demo(), scene::follower(), scene::outage(), scene::large(), scene::hostile()]
    {
        *served.script.status.lock().unwrap() = picture;
        page.go(&served.url("/")).await;
        let width = page.eval("document.documentElement.scrollWidth").await;
        assert_eq!(width, json!(360), "{}", page.text("cluster").await);
    }
    page.close().await;
    served.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn single_shards_can_be_read_with_the_keyboard() {
    let served = Served::new(Script::new(scene::demo())).await;
    let mut page = Page::open(1280, 1200).await;
    page.go(&served.url("/")).await;
    page.eval("document.querySelector('.map').focus()").await;
    for _ in 0..41 {
        page.eval("document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight', bubbles: true, cancelable: true }))").await;
    }
    let readout = "document.querySelector('.readout').textContent";
    assert_eq!(
        page.eval(readout).await,
        json!("shard 40 · held by node 0 · planned for node 2 · draining")
    );
    let told = page.text("said").await;
    assert!(told.starts_with("shard 40"), "a screen reader is told: {told}");
    page.close().await;
    served.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_pictures_leave_no_element_behind() {
    let config =
        ServerConfig { picture_every: Duration::from_millis(120), ..ServerConfig::default() };
    let served = Served::with(Script::new(scene::demo()), config).await;
    let mut page = Page::open(1280, 1200).await;
    page.go(&served.url("/")).await;
    page.until(LINK, |state| *state == "live").await;
    let count = "document.querySelectorAll('*').length";
    let before = page.eval(count).await;
    page.eval("for (let i = 0; i < 2000; i++) receive(state.picture)").await;
    assert_eq!(page.eval(count).await, before);
    page.close().await;
    served.stopped().await;
}

/// Proxy that serves a node below `/bw/`, and no other path. Returns its address.
async fn below_a_path(
    node: std::net::SocketAddr,
) -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = bellwether::tasks::spawn("proxy", async move {
        let mut open = bellwether::tasks::Tasks::new();
        while let Ok((client, _)) = listener.accept().await {
            open.spawn("proxied", async move {
                let _ = passed_on(client, node).await;
            });
        }
    });
    (address, proxy)
}

async fn passed_on(mut client: TcpStream, node: std::net::SocketAddr) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let (method, rest) = head.split_once(' ').unwrap_or_default();
    let Some(path) = rest.strip_prefix("/bw/") else {
        return client.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
    };
    // Each connection carries one request: the proxy changes the path of the first request only.
    let path = path.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    let path = path.replace("Connection: keep-alive\r\n", "");
    let mut server = TcpStream::connect(node).await?;
    server.write_all(format!("{method} /{path}").as_bytes()).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_below_a_path_follows_its_node_and_its_buttons_work() {
    let served = Served::new(Script::new(scene::demo())).await;
    let (proxy, proxying) = below_a_path(served.address).await;
    let mut page = Page::open(1280, 1200).await;
    page.go(&format!("http://{proxy}/bw/")).await;
    page.until(LINK, |state| *state == "live").await;
    let mut next = scene::demo();
    next["leader"]["id"] = json!("2");
    *served.script.status.lock().unwrap() = next;
    served.script.changed.notify_one();
    page.until("document.getElementById('leader-who').textContent", |text| *text == "Node 2 leads")
        .await;
    page.eval("document.getElementById('resign').click()").await;
    let said = "document.getElementById('act-said').textContent";
    page.until(said, |text| *text == "node 1 resigned, term 4711 is over").await;
    let links = "[...document.querySelectorAll('a[href]')].map((a) => a.pathname).join(' ')";
    let links = page.eval(links).await;
    assert_eq!(links, "/bw/ /bw/status /bw/metrics /bw/livez /bw/readyz /bw/leader");
    let status = page.eval("fetch('status').then((it) => it.status)").await;
    assert_eq!(status, 200, "what polls finds the node too");
    page.close().await;
    proxying.abort();
    served.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_below_a_path_without_a_stream_polls_its_node() {
    let config = ServerConfig { max_streams: 0, ..ServerConfig::default() };
    let served = Served::with(Script::new(scene::demo()), config).await;
    let (proxy, proxying) = below_a_path(served.address).await;
    let mut page = Page::open(1280, 1200).await;
    page.go(&format!("http://{proxy}/bw/")).await;
    page.until(LINK, |state| *state == "poll").await;
    served.script.status.lock().unwrap()["cluster"] = json!("another");
    page.until("document.getElementById('cluster').textContent", |text| *text == "another").await;
    page.close().await;
    proxying.abort();
    served.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_each_change_the_page_holds_the_picture_of_its_node() {
    let named = |name: &str, up: bool| json!({ "name": name, "up": up });
    let pictures = [
        json!({ "list": [named("a", true), named("b", true), named("d", true)], "gone": 1, "deep": { "x": [1, 2] } }),
        // Items that come and go, one that changes, a field that is gone, lists that grow and shrink.
        json!({ "list": [named("a", false), named("b", true), named("c", true), named("d", false)], "deep": { "x": [1] } }),
        json!({ "list": [named("c", true), named("d", false)], "deep": { "x": [3, 2, 1] }, "+": [[0, 1, []]] }),
        json!({ "list": [], "deep": null, "new": { "y": [] } }),
        json!({ "list": { "no": "list" }, "deep": [named("e", true)], "new": {} }),
    ];
    let served = Served::new(Script::new(pictures[0].clone())).await;
    let mut page = Page::open(1280, 1200).await;
    page.go(&served.url("/")).await;
    page.until(LINK, |state| *state == "live").await;
    for picture in pictures {
        // Changes refer to the last picture of the stream, not to a polled one.
        page.eval("receive({})").await;
        *served.script.status.lock().unwrap() = picture.clone();
        served.script.changed.notify_one();
        let held = "(({ server, ...rest }) => rest)(base ?? {})";
        page.until(held, |held| *held == picture).await;
    }
    page.close().await;
    served.stopped().await;
}
