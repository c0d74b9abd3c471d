use super::*;
use crate::engine::ShardEpoch;

fn held(shards: &[u32]) -> Held {
    let work = WorkType::new("checks");
    let shards =
        shards.iter().map(|shard| ((work.clone(), ShardId(*shard)), ShardEpoch::default()));
    Held { nonce: 0, shards: shards.collect() }
}

#[test]
fn unowned_shards_are_those_of_the_plan_that_no_held_key_has() {
    let work = WorkType::new("checks");
    let mut holders = Holders::default();
    let [first, second] = [LeaseId(1), LeaseId(2)];
    assert_eq!(holders.unowned(&work, 4), 4);
    // Of those that join, none has anything yet.
    assert!(!holders.set(first, Some(&held(&[]))));
    assert!(holders.set(first, Some(&held(&[0, 1]))));
    assert!(!holders.set(first, Some(&held(&[0, 1]))));
    assert!(holders.set(second, Some(&held(&[1, 2, 99]))));
    assert_eq!(holders.unowned(&work, 4), 1);
    // By two for a moment: the plan is not done with it before both have let go.
    assert!(holders.set(first, Some(&held(&[0]))));
    assert_eq!(holders.unowned(&work, 4), 1);
    assert!(holders.set(second, None));
    assert_eq!(holders.unowned(&work, 4), 3);
    assert!(holders.set(first, None));
    assert!(holders.held.is_empty());
}
