use super::*;
use crate::engine::{
    Config, Engine, Failover, Input, Member, PlanTable, Revision, ShardEpoch, Stored, TickPolicy,
    WorkOffer,
};
use std::time::Duration;

fn stored<T>(value: T) -> Stored<T> {
    let (created, modified) = (Revision(1), Revision(1));
    Stored { created, modified, lease: None, value: Some(value), bytes: Vec::new() }
}

fn held(lease: i64, shards: &[u32]) -> Change {
    let work = WorkType::new("checks");
    let shards =
        shards.iter().map(|shard| ((work.clone(), ShardId(*shard)), ShardEpoch::default()));
    Change::Held(LeaseId(lease), Some(stored(Held { nonce: 0, shards: shards.collect() })))
}

/// What a node says of itself that offers that work.
fn member(id: i64, work: &WorkType) -> Change {
    let (work, shards, weight) = (work.clone(), 4, 1);
    let member = Member {
        lease: LeaseId(id),
        d: Duration::from_secs(1),
        f: Duration::from_secs(3),
        tick: Duration::from_millis(50),
        policy: TickPolicy::Strict,
        pod_uid: None,
        work: vec![WorkOffer { work, shards, weight, capacity: None, as_leader: false }],
        draining: false,
        campaigns: true,
    };
    Change::Member(NodeId::new(id).unwrap(), Some(stored(member)))
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
    both.apply(member(1, &work));
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

#[test]
fn shards_of_work_that_no_live_member_offers_are_shown_and_not_missed() {
    let (work, other) = (WorkType::new("checks"), WorkType::new("other"));
    let mut both = Both::new();
    let table = PlanTable { shards: vec![Assignment::default(); 4] };
    both.apply(Change::Plan(work.clone(), Some(stored(table))));
    let shown = |both: &Both| {
        let works = both.picture.work(both.engine.picture());
        works.iter().map(|work| (work.held_by.len(), work.unowned)).collect::<Vec<_>>()
    };
    assert_eq!(both.apply(member(1, &other)), Shards::Changed);
    assert_eq!((both.unowned(), shown(&both)), (0, vec![(4, 0)]));
    assert_eq!(both.apply(member(2, &work)), Shards::Changed);
    assert_eq!((both.unowned(), shown(&both)), (4, vec![(4, 4)]));
    let gone = Change::Member(NodeId::new(2).unwrap(), None);
    assert_eq!(both.apply(gone), Shards::Changed);
    assert_eq!((both.unowned(), shown(&both)), (0, vec![(4, 0)]));
}

/// Node 2 leads in term 7 by lease 0x2.
fn office(suspended: bool) -> [Change; 2] {
    let key = Stored { created: Revision(7), ..stored(NodeId::new(2).unwrap()) };
    let record = Record {
        term: Term(7),
        lease: Some(LeaseId(2)),
        node: NodeId::new(2).ok(),
        n: 1,
        d: Duration::from_secs(1),
        ended: false,
        suspended,
    };
    [Change::Candidate(LeaseId(2), Some(key)), Change::Record(Some(stored(record)))]
}

#[test]
fn a_leader_whose_record_says_so_is_suspended() {
    let mut both = Both::new();
    for (suspended, changes) in [false, true, false].map(|it| (it, office(it))) {
        for change in changes {
            both.apply(change);
        }
        let view = both.engine.picture();
        assert_eq!(both.picture.leader(view).unwrap().suspended, suspended);
        assert_eq!(both.picture.has_suspended_leader(view), suspended);
    }
}

#[test]
fn a_leader_that_is_silent_while_the_watch_goes_on_is_suspended_and_one_that_no_watch_shows_is_not()
{
    let mut both = Both::new();
    for change in office(false) {
        both.apply(change);
    }
    let silence = timing::wait(Duration::from_secs(1));
    for (delivered_at, suspended) in [(silence, false), (silence + Duration::from_millis(1), true)]
    {
        // Nothing but the last delivery counts: a node that is cut off hears nothing of anybody.
        both.picture.fresh_at = BootTime(delivered_at);
        assert_eq!(both.picture.leader(both.engine.picture()).unwrap().suspended, suspended);
    }
}
