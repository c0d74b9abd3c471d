use super::*;
use crate::engine::{
    Config, Engine, Failover, Input, PlanTable, Revision, ShardEpoch, Stored, TickPolicy,
};
use std::time::Duration;

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

/// A picture and the engine whose view it goes with, as the driver has them.
struct Both {
    picture: Picture,
    engine: Engine,
}

impl Both {
    fn new() -> Self {
        let config = Config {
            id: NodeId::new(1).unwrap(),
            address: "me:1".into(),
            ttl: Duration::from_secs(5),
            failover: Failover::DEFAULT,
            tick: Duration::from_millis(50),
            tick_policy: TickPolicy::Strict,
            pod_uid: None,
            work: Vec::new(),
            campaigns: true,
            own_store: false,
            #[cfg(feature = "mutants")]
            mutant: None,
        };
        Self { picture: Picture::default(), engine: Engine::new(config, 1) }
    }

    fn apply(&mut self, change: Change) -> Shards {
        let (at, changes) = (BootTime::default(), vec![change]);
        let shards = self.picture.apply(self.engine.picture(), at, &changes);
        self.engine.step(at, Input::Changed { received_at: at, revision: Revision(2), changes });
        shards
    }

    fn unowned(&self) -> u32 {
        let mut unowned = self.picture.unowned(self.engine.picture());
        unowned.next().unwrap().1
    }
}

#[test]
fn unowned_shards_are_those_of_the_plan_that_no_held_key_has() {
    let work = WorkType::new("checks");
    let mut both = Both::new();
    let table = PlanTable { shards: vec![Assignment::default(); 4] };
    assert_eq!(both.apply(Change::Plan(work.clone(), Some(stored(table)))), Shards::Changed);
    assert_eq!(both.unowned(), 4);
    // Of those that join, none has anything yet.
    assert_eq!(both.apply(held(1, &[])), Shards::AsBefore);
    assert_eq!(both.apply(held(1, &[0, 1])), Shards::Changed);
    assert_eq!(both.apply(held(1, &[0, 1])), Shards::AsBefore);
    assert_eq!(both.apply(held(2, &[1, 2, 99])), Shards::Changed);
    assert_eq!(both.unowned(), 1);
    // By two for a moment: the plan is not done with it before both have let go.
    assert_eq!(both.apply(held(1, &[0])), Shards::Changed);
    assert_eq!(both.unowned(), 1);
    assert_eq!(both.apply(Change::Held(LeaseId(2), None)), Shards::Changed);
    assert_eq!(both.unowned(), 3);
    let shown = both.picture.work(both.engine.picture());
    assert_eq!(shown.iter().map(|work| work.unowned).collect::<Vec<_>>(), [3]);
    assert_eq!(both.apply(Change::Held(LeaseId(1), None)), Shards::Changed);
    assert!(both.picture.holders.held.is_empty());
}
