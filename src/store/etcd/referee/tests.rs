use std::sync::OnceLock;

use super::*;
use crate::{
    engine::types::Revision,
    store::etcd::{
        calls::{self, Call, Repeat},
        fake::{FakeMember, Say},
        metrics::EtcdMetrics,
    },
};

/// Probes get twice this time: far more than a fake member needs.
const SUSPECT_AFTER: Duration = Duration::from_millis(500);
const LONG: Duration = Duration::from_secs(60);

struct Rig {
    pool: Pool,
    metrics: EtcdMetrics,
    /// Link to the first member, whose connection has the number 1.
    suspect: Arc<Link>,
    _members: Vec<FakeMember>,
}

impl Rig {
    /// Connects to the first of the members.
    async fn with(members: Vec<FakeMember>) -> Self {
        let endpoints = members.iter().map(FakeMember::endpoint).collect();
        let metrics = EtcdMetrics::unregistered();
        let pool = Pool::new(endpoints, None, None, b"k".to_vec(), metrics.clone()).unwrap();
        pool.switch(pool.current(), 0, Switch::Asked);
        metrics.switches.reset();
        let suspect = pool.link(0);
        // Called without the pool, so that the pool does not record the answer.
        let mut kv = suspect.kv();
        tokio::time::timeout(LONG, kv.get("k", None)).await.unwrap().unwrap();
        Self { pool, metrics, suspect, _members: members }
    }

    async fn investigate(&self) {
        let investigation = investigate(&self.pool, 0, SUSPECT_AFTER);
        tokio::time::timeout(LONG, investigation).await.unwrap();
    }

    fn is_made_anew(&self) -> bool {
        let is_other = !Arc::ptr_eq(&self.pool.link(0), &self.suspect);
        assert_eq!(is_other, self.suspect.is_retired(), "its watches end with it");
        assert_eq!(is_other, self.metrics.reconnects.get() == 1);
        is_other
    }
}

/// A member whose first connection hangs after its first call, while later connections answer with `later`.
async fn first_connection_hangs(later: impl Fn() -> Say + Send + Sync + 'static) -> FakeMember {
    let called = OnceLock::new();
    FakeMember::start(move |connection| match connection {
        1 if called.set(()).is_ok() => Say::Well,
        1 => Say::Nothing,
        _ => later(),
    })
    .await
}

#[tokio::test]
async fn a_connection_that_delivers_is_not_made_anew_though_calls_on_it_are_not_answered() {
    let link = Arc::new(OnceLock::<Arc<Link>>::new());
    let delivering = Arc::clone(&link);
    let later = move || {
        // Between the suspicion and the answer to its probe, a watch delivers.
        delivering.get().unwrap().heard();
        Say::Well
    };
    let rig = Rig::with(vec![first_connection_hangs(later).await]).await;
    link.set(rig.suspect.clone()).ok().unwrap();
    rig.investigate().await;
    assert!(!rig.is_made_anew());
    assert!(rig.pool.is_up(0));
}

#[tokio::test]
async fn a_connection_that_delivers_no_more_is_made_anew_if_its_member_answers_on_another() {
    let rig = Rig::with(vec![first_connection_hangs(|| Say::Well).await]).await;
    rig.suspect.heard();
    rig.investigate().await;
    assert!(rig.is_made_anew());
    assert!(rig.pool.is_up(0));
}

#[tokio::test]
async fn a_member_that_answers_nothing_is_left_for_one_that_does_even_if_it_delivers() {
    let link = Arc::new(OnceLock::<Arc<Link>>::new());
    let delivering = Arc::clone(&link);
    let silent = first_connection_hangs(|| Say::Nothing).await;
    // A member that has lost its quorum may deliver events from before the loss.
    let other = FakeMember::start(move |_| {
        delivering.get().unwrap().heard();
        Say::Well
    });
    let rig = Rig::with(vec![silent, other.await]).await;
    link.set(rig.suspect.clone()).ok().unwrap();
    rig.investigate().await;
    assert!(rig.is_made_anew());
    assert_eq!((rig.pool.current(), rig.pool.is_up(0)), (1, false));
    assert_eq!(rig.metrics.switches.with_label_values(&["silent"]).get(), 1);
}

#[tokio::test]
async fn a_stall_that_ends_for_all_at_once_changes_nothing() {
    // The old connection answers when the new one is probed: the old connection did not hang.
    let member = FakeMember::start(|_| Say::Well).await;
    let rig = Rig::with(vec![member]).await;
    rig.investigate().await;
    assert!(!rig.is_made_anew());
}

#[tokio::test]
async fn a_connection_to_a_server_that_is_no_etcd_is_left_for_a_new_one() {
    let member = FakeMember::start(|connection| match connection {
        1 => Say::NotFound,
        _ => Say::Well,
    });
    let member = member.await;
    let metrics = EtcdMetrics::unregistered();
    let endpoints = vec![member.endpoint()];
    let pool = Pool::new(endpoints, None, None, b"k".to_vec(), metrics.clone()).unwrap();
    let call = Call {
        name: "get",
        repeat: Repeat::Safe,
        asked: Revision(0),
        timeout: LONG,
        suspect_after: LONG,
        takes_space: false,
        proves_quorum: true,
        avoid: None,
    };
    let get = || {
        calls::call(&pool, call, |link: Arc<Link>| async move { link.kv().get("k", None).await })
    };
    let refused = get().await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("no etcd answers there"), "{refused}");
    get().await.unwrap();
    assert_eq!(metrics.reconnects.get(), 1);
}
