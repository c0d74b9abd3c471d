use super::*;
use crate::engine::{Config, Engine, Failover, Input, LeaseId, Revision, Stored, TickPolicy};
use std::time::Duration;

fn stored<T>(value: T) -> Stored<T> {
    let (created, modified) = (Revision(1), Revision(1));
    Stored { created, modified, lease: None, value: Some(value), bytes: Vec::new() }
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

    fn apply(&mut self, change: Change) {
        let (at, changes) = (BootTime::default(), vec![change]);
        self.picture.apply(self.engine.view(), at, &changes);
        self.engine.step(at, Input::Changed { received_at: at, revision: Revision(2), changes });
    }

    fn shows_suspended(&self) -> bool {
        let leader = self.picture.leader(self.engine.view(), self.engine.record_at());
        leader.unwrap().suspended
    }
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
        assert_eq!(both.shows_suspended(), suspended);
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
        assert_eq!(both.shows_suspended(), suspended);
    }
}
