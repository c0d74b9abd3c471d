use super::*;
use crate::engine::{Assignment, ShardEpoch};

fn stored<T>(value: T) -> Stored<T> {
    let (created, modified) = (Revision(1), Revision(1));
    Stored { created, modified, lease: None, value: Some(value) }
}

fn held(lease: i64, shards: &[u32]) -> Change {
    let work = WorkType::new("checks");
    let shards =
        shards.iter().map(|shard| ((work.clone(), ShardId(*shard)), ShardEpoch::default()));
    Change::Held(LeaseId(lease), Some(stored(Held { nonce: 0, shards: shards.collect() })))
}

fn apply(picture: &mut Picture, change: Change) -> Shards {
    picture.apply(Revision(2), BootTime::default(), &[change])
}

#[test]
fn unowned_shards_are_those_of_the_plan_that_no_held_key_has() {
    let work = WorkType::new("checks");
    let mut picture = Picture::default();
    let table = PlanTable { shards: vec![Assignment::default(); 4] };
    assert_eq!(
        apply(&mut picture, Change::Plan(work.clone(), Some(stored(table)))),
        Shards::Changed
    );
    let unowned = |picture: &Picture| picture.unowned()[0].1;
    assert_eq!(unowned(&picture), 4);
    // Of those that join, none has anything yet.
    assert_eq!(apply(&mut picture, held(1, &[])), Shards::AsBefore);
    assert_eq!(apply(&mut picture, held(1, &[0, 1])), Shards::Changed);
    assert_eq!(apply(&mut picture, held(2, &[1, 2, 99])), Shards::Changed);
    assert_eq!(unowned(&picture), 1);
    // By two for a moment: the plan is not done with it before both have let go.
    assert_eq!(apply(&mut picture, held(1, &[0])), Shards::Changed);
    assert_eq!(unowned(&picture), 1);
    assert_eq!(apply(&mut picture, Change::Held(LeaseId(2), None)), Shards::Changed);
    assert_eq!(unowned(&picture), 3);
    let shown: Vec<u32> = picture.work().iter().map(|work| work.unowned).collect();
    assert_eq!(shown, [3]);
}
