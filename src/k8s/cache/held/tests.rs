use std::future::Future;

use futures::FutureExt as _;

use super::*;

const SHARDS: u32 = 16;

fn held() -> Arc<HeldShards> {
    Arc::new(HeldShards::new(SHARDS))
}

fn set(shards: impl IntoIterator<Item = u32>) -> BTreeSet<ShardId> {
    shards.into_iter().map(ShardId).collect()
}

fn is_ready(future: impl Future) -> bool {
    future.now_or_never().is_some()
}

#[tokio::test(start_paused = true)]
async fn a_shard_is_covered_once_the_watch_that_was_begun_for_it_has_listed() {
    let held = held();
    let wanted = held.hold(ShardId(3));
    assert!(!is_ready(wanted.listed()));
    assert_eq!(held.called().await, Call::Gain);
    assert_eq!(held.begin_watch(), set([3]));
    let later = held.hold(ShardId(4));
    assert!(!is_ready(wanted.listed()), "it is being listed");
    held.on_listed();
    assert!(is_ready(wanted.listed()));
    assert!(!is_ready(later.listed()), "the list was begun without it");
    assert_eq!(held.called().await, Call::Gain);
    assert_eq!(held.begin_watch(), set([3, 4]));
    assert!(is_ready(wanted.listed()), "what was seen goes on being seen");
    held.on_listed();
    assert!(is_ready(later.listed()));
}

#[tokio::test(start_paused = true)]
async fn moves_that_come_together_are_one_call_and_endless_ones_do_not_put_it_off() {
    let held = held();
    let mut wanted = Vec::new();
    let moving = async {
        for shard in (0..SHARDS).cycle() {
            wanted.push(held.hold(ShardId(shard)));
            tokio::time::sleep(GATHERED_AFTER / 2).await;
        }
    };
    let called = tokio::select! {
        () = moving => unreachable!(),
        called = held.called() => called,
    };
    assert_eq!(called, Call::Gain);
    assert!((15..=25).contains(&wanted.len()), "{} moves", wanted.len());
}

#[tokio::test(start_paused = true)]
async fn a_list_under_way_is_not_cut_off_by_a_gain() {
    let held = held();
    let _wanted = held.hold(ShardId(0));
    held.begin_watch();
    let _another = held.hold(ShardId(1));
    let called = tokio::time::timeout(Duration::from_secs(60), held.called()).await;
    assert_eq!(called.ok(), None);
    held.on_listed();
    assert_eq!(held.called().await, Call::Gain);
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_was_let_go_and_comes_back_is_listed_again() {
    let held = held();
    let _stays = held.hold(ShardId(0));
    let goes = held.hold(ShardId(1));
    held.begin_watch();
    held.on_listed();
    drop(goes);
    let back = held.hold(ShardId(1));
    assert!(is_ready(back.listed()), "nothing has been let go in between");
    drop(back);
    assert_eq!(held.called().await, Call::LetGo);
    assert!(held.let_go());
    let back = held.hold(ShardId(1));
    assert!(!is_ready(back.listed()));
    assert_eq!(held.called().await, Call::Gain);
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_two_want_is_held_until_both_have_let_go() {
    let held = held();
    let (one, two) = (held.hold(ShardId(5)), held.hold(ShardId(5)));
    assert_eq!(held.begin_watch(), set([5]));
    held.on_listed();
    drop(one);
    assert!(is_ready(two.listed()));
    assert_eq!(held.begin_watch(), set([5]));
    drop(two);
    assert_eq!(held.begin_watch(), set([]));
    held.on_listed();
    let called = tokio::time::timeout(Duration::from_secs(60), held.called()).await;
    assert_eq!(called.ok(), None, "nothing is held, nothing is called for");
}

#[test]
fn a_cache_that_keeps_all_covers_every_shard() {
    let held = held();
    held.keep_whole();
    assert!(is_ready(held.hold(ShardId(7)).listed()));
}
