//! Views and users' watches over a real etcd.

use std::{sync::Arc, time::Duration};

use bellwether::{
    engine::{Input, NodeId, Revision},
    store::{
        Op, Store, Txn,
        etcd::{EtcdConfig, EtcdStore},
        keys::Keys,
        list_watch::{Feed, Options, StateItem, StateStart, StateWatch},
    },
};
use tokio_util::sync::CancellationToken;

use crate::support::etcd::Etcd;

const LONG: Duration = Duration::from_secs(20);

async fn put(store: &EtcdStore, key: Vec<u8>) -> Revision {
    let then = vec![Op::Put { key, value: b"1".to_vec(), lease: None }];
    store.txn(Txn { then, ..Txn::default() }, LONG).await.unwrap().revision
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.expect("within the deadline")
}

/// etcd sends a watch no progress notice before the watch's first revision exists: a cluster without any
/// changes must not look like a stale member.
#[tokio::test]
async fn views_of_an_etcd_where_nothing_happens_are_kept_and_then_see_what_does() {
    let etcd = Etcd::start().await;
    let connected = EtcdStore::connect(&EtcdConfig::new(etcd.endpoints())).await.unwrap();
    let store = Arc::new(connected);
    let keys = Keys::new("C").unwrap();
    let options =
        Options { probe_after: Duration::from_millis(50), stale_after: LONG, ..Options::VIEW };
    let shared: Arc<dyn Store> = store.clone();
    let mut feed = Feed::start(Arc::clone(&shared), keys.clone(), options);
    assert!(matches!(soon(feed.next()).await, Some(Input::Listed { .. })));
    let range = keys.state_of_all("k").unwrap();
    let (_, replacements) = tokio::sync::watch::channel(0);
    let end = CancellationToken::new();
    let mut watch = StateWatch::start(shared, range, StateStart::Now, options, replacements, end);
    soon(watch.started()).await.unwrap();

    let quiet = tokio::time::timeout(Duration::from_millis(700), feed.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    assert_eq!((feed.stats().losses, watch.stats().losses), (0, 0));

    let id = NodeId::new(5).unwrap();
    let state = put(&store, keys.state("k", id).unwrap()).await;
    let Some(StateItem::Changed(delta)) = soon(watch.next()).await else { panic!("a change") };
    assert_eq!(delta.revision, state);
    let tick = put(&store, keys.tick()).await;
    loop {
        match soon(feed.next()).await {
            // The feed may see the write of the state as progress, if it requested progress just then.
            Some(Input::Progress { revision }) => assert_eq!(revision, state),
            Some(Input::Changed { revision, changes, .. }) => {
                assert_eq!((revision, changes.len()), (tick, 1));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
}
