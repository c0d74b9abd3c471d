//! Guarantees of a watch on the nodes' state, and the ways in which a watch ends.

use bellwether::node::{
    ChangeKind, LagCause, StateChange, StateError, StateItem, StateWatch, Stopped, WatchFrom,
};
use futures::StreamExt as _;
use tokio::time::timeout;

use crate::{
    cases::{ID, id, kv},
    rig::{Rig, SOON},
};

/// Returns the next item, which must be a change.
pub async fn change(watch: &mut StateWatch) -> StateChange {
    match timeout(SOON, watch.recv()).await.expect("an item") {
        Some(StateItem::Change(change)) => change,
        other => panic!("expected a change, got {other:?}"),
    }
}

pub async fn a_watch_tells_added_modified_and_deleted(rig: Rig) {
    let node = rig.start(ID).await;
    node.put("w", b"before").await.unwrap();
    node.delete("w").await.unwrap();
    let mut watch = node.watch_key_cluster("w", WatchFrom::Now).await.unwrap();
    let mut other = node.watch_key_cluster("other", WatchFrom::Now).await.unwrap();
    let put = node.put("w", b"1").await.unwrap();
    node.put("w", b"2").await.unwrap();
    node.put("w/below", b"3").await.unwrap();
    node.delete("w").await.unwrap();
    node.put("other", b"o").await.unwrap();

    let added = change(&mut watch).await;
    assert_eq!((added.kind, added.node, added.revision), (ChangeKind::Added, id(), put));
    assert_eq!((added.key.as_str(), added.value.as_slice()), ("w", b"1".as_slice()));
    assert_eq!((added.old_key.as_str(), added.old_value.as_slice()), ("", b"".as_slice()));
    let modified = change(&mut watch).await;
    assert_eq!(modified.kind, ChangeKind::Modified);
    assert_eq!((modified.key.as_str(), modified.value.as_slice()), ("w", b"2".as_slice()));
    assert_eq!((modified.old_key.as_str(), modified.old_value.as_slice()), ("w", b"1".as_slice()));
    let below = change(&mut watch).await;
    assert_eq!((below.kind, below.key.as_str()), (ChangeKind::Added, "w/below"));
    let deleted = change(&mut watch).await;
    assert_eq!(deleted.kind, ChangeKind::Deleted);
    assert_eq!((deleted.key.as_str(), deleted.value.as_slice()), ("", b"".as_slice()));
    assert_eq!((deleted.old_key.as_str(), deleted.old_value.as_slice()), ("w", b"2".as_slice()));
    assert_eq!(change(&mut other).await.key, "other");
}

pub async fn a_watch_can_begin_with_what_is_there(rig: Rig) {
    let node = rig.start(ID).await;
    let at = node.put("w", b"1").await.unwrap();
    let mut watch = node.watch_key_cluster("w", WatchFrom::Snapshot).await.unwrap();
    match watch.recv().await {
        Some(StateItem::Snapshot { revision, state }) => {
            assert!(at <= revision);
            assert_eq!(state, vec![(id(), kv("w", "1"))]);
        }
        other => panic!("expected a snapshot, got {other:?}"),
    }
    node.put("w", b"2").await.unwrap();
    let modified = change(&mut watch).await;
    assert_eq!((modified.kind, modified.old_value.as_slice()), (ChangeKind::Modified, &b"1"[..]));
}

pub async fn an_undrained_watcher_blocks_nobody_and_is_told_that_it_lags(rig: Rig) {
    let node = rig.start(ID).await;
    let mut slow = node.watch_key_cluster("w", WatchFrom::Now).await.unwrap();
    let mut quick = node.watch_key_cluster("w", WatchFrom::Now).await.unwrap();
    for n in 0..1500 {
        let value = n.to_string().into_bytes();
        node.put("w", &value).await.unwrap();
        assert_eq!(change(&mut quick).await.value, value);
    }
    let mut seen = match slow.recv().await {
        Some(StateItem::Lagged { cause: LagCause::SlowReader { missed }, mut state, .. }) => {
            assert!(1000 < missed, "{missed}");
            assert_eq!(state.len(), 1);
            state.remove(0).1.value
        }
        other => panic!("expected to lag, got {other:?}"),
    };
    while seen != b"1499" {
        seen = change(&mut slow).await.value;
    }
    node.put("w", b"on").await.unwrap();
    assert_eq!(change(&mut slow).await.value, b"on");
    // The watch that is not drained does not keep the node from leaving either.
    node.put("w", b"undrained").await.unwrap();
    assert_eq!(node.stop(SOON).await.unwrap(), Stopped::Clean);
    node.close().await.unwrap();
}

pub async fn a_watch_ends_when_its_node_is_closed(rig: Rig) {
    let node = rig.start(ID).await;
    let mut watch = node.watch_key_cluster("w", WatchFrom::Now).await.unwrap();
    let waiting = timeout(SOON, watch.recv());
    let (item, closed) = tokio::join!(waiting, node.close());
    assert_eq!((item.expect("it ends"), closed), (None, Ok(())));
    assert_eq!(watch.recv().await, None);
    let another = node.watch_key_cluster("w", WatchFrom::Now).await;
    assert!(matches!(another, Err(StateError::Closed)), "{another:?}");
}

pub async fn a_watch_ends_when_its_node_is_dropped(rig: Rig) {
    let node = rig.start(ID).await;
    let watch = node.watch_key_cluster("w", WatchFrom::Now).await.unwrap();
    let waiting = timeout(SOON, watch.into_stream().collect::<Vec<_>>());
    let (items, ()) = tokio::join!(waiting, async { drop(node) });
    assert_eq!(items.expect("it ends"), Vec::new());
}
