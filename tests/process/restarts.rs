//! A node that is restarted under the id of an incarnation that was killed.

use rustix::process::Signal;

use crate::{binary::Process, cluster::Shop};

#[tokio::test(flavor = "multi_thread")]
async fn twelve_restarts_after_kill_9_within_the_ttl_all_join_or_wait_to_join() {
    let shop = Shop::open().await;
    let start = || shop.node("1", &["--ttl", "1s"]);
    let mut node = start();
    node.says("joined the cluster node=1").await;
    for restart in 0..12 {
        node.signal(Signal::KILL);
        node.status().await;
        node = start();
        // Every second incarnation is killed while it waits for the one before.
        if restart % 2 == 0 {
            node.says("waiting for the holder of the id to end").await;
        } else {
            node.says("joined the cluster node=1").await;
        }
    }
    shop.leader(1, None).await;
    node.signal(Signal::TERM);
    assert_eq!(node.status().await.code(), Some(0), "{}", node.err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_stays_taken_is_exit_code_6_once_the_wait_is_over_and_disturbs_nobody() {
    let shop = Shop::open().await;
    let one = shop.node("7", &[]);
    let before = shop.leader(1, None).await;
    let mut command =
        shop.command(&["run", "--id", "7", "--listen", "127.0.0.1:0", "--address", "twin"]);
    command.env("BELLWETHER_ID_WAIT", "1s");
    let mut twin = Process::of(command);
    assert_eq!(twin.status().await.code(), Some(6), "{}", twin.err());
    let said = twin.err();
    let last = said.lines().rev().take(2).collect::<Vec<_>>();
    let (what, remedy) = (last[1], last[0]);
    assert!(what.contains("node id 7 is taken by a live node at \"host-7\""), "{what}");
    assert!(what.contains("which has not ended within 1"), "{what}");
    assert!(remedy.contains("--id-wait (BELLWETHER_ID_WAIT)"), "{remedy}");
    assert!(said.contains("waiting for the holder of the id to end"), "{said}");
    assert_eq!(shop.leader(1, None).await, before);
    assert!(!one.err().contains("WARN"), "{}", one.err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_waits_for_its_id_is_live_not_ready_and_says_what_it_waits_for() {
    let shop = Shop::open().await;
    let _one = shop.node("7", &[]);
    shop.leader(1, None).await;
    let twin = shop.node("7", &["--id-wait", "60s"]);
    twin.says("waiting for the holder of the id to end").await;
    let url = crate::cluster::page(&twin).await;
    let ready = crate::binary::http(&url, "GET /readyz", "").await;
    assert!(ready.contains(" 503 ") && ready.contains("waiting up to 60s for the id"), "{ready}");
    crate::binary::http_get(&url, "/livez").await;
    // The waiting node can be stopped at any time.
    let mut twin = twin;
    twin.signal(Signal::TERM);
    assert_eq!(twin.status().await.code(), Some(0), "{}", twin.err());
}
