use std::convert::Infallible;

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use k8s_openapi::api::core::v1::ConfigMap;
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::tasks;

/// What a cache is fed by, piece by piece.
struct Fed {
    body: Paced<ConfigMap, UnsyncBoxBody<Bytes, Infallible>>,
    pieces: mpsc::Sender<Bytes>,
    inlet: Inlet,
    cache: Cache<ConfigMap>,
}

impl Fed {
    fn new(cache: Cache<ConfigMap>) -> Self {
        let (pieces, fed) = mpsc::channel(16);
        let fed = ReceiverStream::new(fed).map(|piece| Ok(Frame::data(piece)));
        let (body, inlet) = (StreamBody::new(fed).boxed_unsync(), Inlet::default());
        Self { body: Paced::new(body, inlet.clone(), cache.clone()), pieces, inlet, cache }
    }

    /// As of a cache that has been listed.
    fn synced() -> Self {
        Self::new(Cache::holding([]))
    }

    /// Whether it rests after a piece of so many bytes.
    async fn rests_after(&mut self, bytes: usize) -> bool {
        self.pieces.send(vec![0; bytes].into()).await.unwrap();
        self.body.frame().await.unwrap().unwrap();
        self.inlet.is_resting()
    }

    /// Whether it rests after all has been read.
    fn rests(&mut self) -> bool {
        let waker = futures::task::noop_waker();
        let next = Pin::new(&mut self.body).poll_frame(&mut Context::from_waker(&waker));
        assert!(next.is_pending());
        self.inlet.is_resting()
    }
}

#[tokio::test(start_paused = true)]
async fn the_connection_of_who_only_keeps_warm_rests_from_the_first_piece_on() {
    let mut fed = Fed::synced();
    for _ in 0..3 {
        assert!(!fed.rests(), "what is quiet is waited for");
        assert!(fed.rests_after(1).await);
        sleep(REST / 2).await;
        assert!(fed.rests_after(1).await, "what comes late is taken in, and changes nothing");
        sleep(REST / 2 + Duration::from_millis(1)).await;
        assert!(!fed.rests());
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_rest_needs_nobody_to_ask() {
    let Fed { mut body, pieces, inlet, .. } = Fed::synced();
    pieces.send(Bytes::from_static(b"a")).await.unwrap();
    let read = async move { while body.frame().await.is_some() {} };
    let _task = AbortOnDropHandle::new(tasks::spawn("reads", read));
    sleep(REST / 2).await;
    assert!(inlet.is_resting());
    sleep(REST).await;
    assert!(!inlet.is_resting());
}

#[tokio::test(start_paused = true)]
async fn nothing_rests_while_somebody_is_attentive_and_attention_ends_a_rest() {
    let mut fed = Fed::synced();
    assert!(fed.rests_after(1).await);
    let (one, other) = (fed.cache.attend(), fed.cache.attend());
    assert!(!fed.rests());
    assert!(!fed.rests_after(1).await);
    drop(one);
    assert!(!fed.rests_after(1).await);
    drop(other);
    assert!(fed.rests_after(1).await);
    fed.cache.attend_for_good();
    assert!(!fed.rests());
    assert!(!fed.rests_after(1).await);
}

#[tokio::test(start_paused = true)]
async fn nothing_rests_until_all_has_been_listed() {
    let mut fed = Fed::new(Cache::new());
    assert!(!fed.rests_after(1).await);
    fed.cache.replace(std::collections::HashMap::new());
    assert!(fed.rests_after(1).await);
}

#[tokio::test(start_paused = true)]
async fn who_has_much_to_read_reads_on_until_less_comes() {
    let mut fed = Fed::synced();
    assert!(fed.rests_after(GULP - 1).await);
    assert!(!fed.rests_after(1).await, "so much is a gulp");
    for calm in [GULP, 1] {
        sleep(REST * 2).await;
        assert!(!fed.rests());
        assert!(!fed.rests_after(calm).await, "the one before was a gulp");
    }
    sleep(REST * 2).await;
    assert!(!fed.rests());
    assert!(fed.rests_after(1).await);
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_left_as_it_was_found() {
    let mut ended = Fed::synced();
    assert!(ended.rests_after(1).await);
    drop(ended.pieces);
    assert!(ended.body.frame().await.is_none());
    assert!(!ended.inlet.is_resting());
    let mut dropped = Fed::synced();
    assert!(dropped.rests_after(1).await);
    drop(dropped.body);
    assert!(!dropped.inlet.is_resting());
}
