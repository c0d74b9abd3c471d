//! Test rig: one engine whose surroundings are the test.

use std::{
    collections::BTreeMap,
    time::{Duration, UNIX_EPOCH},
};

use crate::engine::{
    Answer, Assignment, BootTime, Call, CallId, Change, Config, Dead, Effect, Engine, Failover,
    Held, Input, LeaseId, Member, NodeId, NodeMetadata, Outcome, PlanTable, Record, Revision, Role,
    ShardEpoch, ShardId, StoreTiming, Stored, Term, TickPolicy, WorkOffer, WorkType, timing,
};

pub(super) const ME: NodeId = match NodeId::new(1) {
    Ok(id) => id,
    Err(_) => unreachable!(),
};

pub(super) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) fn work() -> WorkType {
    WorkType::new("checks")
}

pub(super) fn config() -> Config {
    Config {
        id: ME,
        address: "me:1".into(),
        ttl: Duration::from_secs(5),
        timing: StoreTiming::ETCD,
        failover: Failover::DEFAULT,
        tick: ms(50),
        tick_policy: TickPolicy::Strict,
        pod_uid: None,
        work: vec![WorkOffer {
            work: work(),
            shards: 4,
            weight: 1,
            capacity: None,
            as_leader: false,
        }],
        campaigns: true,
        own_store: false,
        mutant: None,
    }
}

pub(super) fn id(id: i64) -> NodeId {
    NodeId::new(id).unwrap()
}

pub(super) fn stored<T>(at: i64, lease: LeaseId, value: T) -> Stored<T> {
    written(at, at, Some(lease), value)
}

pub(super) fn written<T>(
    created: i64,
    modified: i64,
    lease: Option<LeaseId>,
    value: T,
) -> Stored<T> {
    let bytes = format!("as of {modified}").into_bytes();
    let (created, modified) = (Revision(created), Revision(modified));
    Stored { created, modified, lease, value: Some(value), bytes }
}

pub(super) fn member(lease: LeaseId) -> Member {
    Member {
        lease,
        d: Failover::DEFAULT.d(),
        f: timing::F,
        tick: ms(50),
        policy: TickPolicy::Strict,
        pod_uid: None,
        work: config().work,
        draining: false,
        campaigns: true,
    }
}

pub(super) fn record(term: i64, lease: LeaseId, node: NodeId, n: u64) -> Record {
    Record {
        term: Term(term),
        lease: Some(lease),
        node: Some(node),
        n,
        d: Failover::DEFAULT.d(),
        ended: false,
        suspended: false,
    }
}

pub(super) fn seed(modified: i64) -> Change {
    let record = Record {
        term: Term(0),
        lease: None,
        node: None,
        n: 0,
        d: timing::SPAN_MAX,
        ended: false,
        suspended: false,
    };
    Change::Record(Some(written(modified, modified, None, record)))
}

pub(super) fn table(owners: [Option<LeaseId>; 4], epoch: i64) -> PlanTable {
    let shards = owners
        .map(|owner| Assignment { owner, epoch: ShardEpoch(epoch), draining: false })
        .to_vec();
    PlanTable { shards }
}

pub(super) fn plan(modified: i64, table: PlanTable) -> Change {
    Change::Plan(work(), Some(written(1, modified, None, table)))
}

pub(super) fn held(shards: &[(u32, i64)]) -> Held {
    let shards = shards
        .iter()
        .map(|(shard, epoch)| ((work(), ShardId(*shard)), ShardEpoch(*epoch)))
        .collect();
    Held { nonce: 0, shards }
}

/// All keys that a node's JOIN puts at one revision, with its candidate key.
pub(super) fn joined_keys(node: NodeId, lease: LeaseId, at: i64) -> Vec<Change> {
    let metadata = NodeMetadata {
        id: node,
        address: format!("node-{node}"),
        start: UNIX_EPOCH,
        role: Role::Follower,
    };
    vec![
        Change::Node(node, Some(stored(at, lease, metadata))),
        Change::Member(node, Some(stored(at, lease, member(lease)))),
        Change::Held(lease, Some(stored(at, lease, Held::default()))),
        Change::Candidate(lease, Some(stored(at, lease, node))),
    ]
}

pub(super) struct Rig {
    pub(super) engine: Engine,
    pub(super) now: BootTime,
    /// Calls that have not been answered, with their sending time.
    pub(super) calls: BTreeMap<CallId, (BootTime, Call)>,
    /// All other effects since [`effects`](Self::effects) last returned them.
    pub(super) effects: Vec<Effect>,
    pub(super) revision: i64,
    /// Greatest revision that the engine has received.
    newest: i64,
}

impl Rig {
    pub(super) fn new(config: Config) -> Self {
        let now = BootTime(Duration::from_secs(1000));
        let engine = Engine::new(config, 42);
        Self { engine, now, calls: BTreeMap::new(), effects: Vec::new(), revision: 100, newest: 0 }
    }

    /// Rig of a node that has joined at revision 101 a cluster whose other keys are `others`.
    pub(super) fn joined(config: Config, others: Vec<Change>) -> Self {
        let mut rig = Self::new(config);
        rig.start(Dead::default());
        rig.join();
        rig.list(others);
        rig
    }

    /// Rig of a node that is alone and in office in term 101, by a TAKE at revision 103.
    pub(super) fn leader() -> Self {
        let mut rig = Self::joined(config(), vec![seed(50)]);
        rig.wait_renewed(timing::wait(timing::SPAN_MAX));
        rig.revision = 103;
        let Call::Take(take) = rig.done(|call| matches!(call, Call::Take(_))) else {
            unreachable!()
        };
        let lease = rig.lease();
        rig.revision = 102;
        rig.see(vec![
            Change::Record(Some(written(50, 103, None, take.record))),
            Change::Candidate(lease, Some(written(101, 103, Some(lease), ME))),
        ]);
        rig
    }

    pub(super) fn start(&mut self, dead: Dead) {
        self.input(Input::Start { start: UNIX_EPOCH, dead });
    }

    /// Answers the calls of a join to an empty cluster.
    pub(super) fn join(&mut self) {
        self.done(|call| matches!(call, Call::ReadJoin { .. }));
        let ttl = Duration::from_secs(5);
        self.answer(
            |call| matches!(call, Call::Grant { .. }),
            Outcome::Done(Answer { ttl, ..Answer::default() }),
        );
        self.revision = 101;
        self.done(|call| matches!(call, Call::Join(_)));
    }

    pub(super) fn lease(&self) -> LeaseId {
        self.engine.joined().expect("joined")
    }

    /// Lists the own keys as JOIN left them, and `others`.
    pub(super) fn list(&mut self, others: Vec<Change>) {
        let mut changes = joined_keys(ME, self.lease(), 101);
        changes.push(Change::Tick(Some(written(40, 40, None, config().tick))));
        changes.extend(others);
        self.list_exactly(changes);
    }

    pub(super) fn list_exactly(&mut self, changes: Vec<Change>) {
        let revision = Revision(self.revision);
        self.newest = self.newest.max(self.revision);
        self.input(Input::Listed {
            sent_at: self.now,
            received_at: self.now,
            revision,
            cluster: 7,
            changes,
        });
    }

    /// Passes these changes to the engine as events of the watch, one revision later.
    pub(super) fn see(&mut self, changes: Vec<Change>) {
        self.revision += 1;
        let revision = Revision(self.revision);
        self.newest = self.newest.max(self.revision);
        self.input(Input::Changed { received_at: self.now, revision, changes });
    }

    pub(super) fn input(&mut self, input: Input) {
        for effect in self.engine.step(self.now, input) {
            match effect {
                Effect::Send { id, call } => {
                    self.calls.insert(id, (self.now, call));
                }
                other => self.effects.push(other),
            }
        }
    }

    /// Lets time pass, and calls the engine at each of its deadlines.
    pub(super) fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.engine.deadline().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.input(Input::Tick);
        }
        self.now = until;
        self.input(Input::Tick);
    }

    /// Lets time pass while the store answers the renewals of the lease.
    pub(super) fn wait_renewed(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.renew();
            self.wait(ms(100).min(until.since(self.now)));
        }
        self.renew();
    }

    /// Answers all renewals in flight.
    pub(super) fn renew(&mut self) {
        let is_renew = |call: &Call| matches!(call, Call::Renew { .. });
        let ttl = Duration::from_secs(5);
        while self.asks(is_renew) {
            self.answer(is_renew, Outcome::Done(Answer { ttl, ..Answer::default() }));
        }
    }

    /// Lets time pass without calling the engine: a pause of the process.
    pub(super) fn pause(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    /// Oldest unanswered call that matches `like`.
    pub(super) fn call(&self, like: impl Fn(&Call) -> bool) -> Option<&Call> {
        self.calls.values().map(|(_, call)| call).find(|call| like(call))
    }

    pub(super) fn asks(&self, like: impl Fn(&Call) -> bool) -> bool {
        self.call(like).is_some()
    }

    /// Takes the oldest unanswered call that matches `like`, to be answered later.
    pub(super) fn take_call(&mut self, like: impl Fn(&Call) -> bool) -> (CallId, BootTime, Call) {
        let found = self.calls.iter().find(|(_, (_, call))| like(call)).map(|(id, _)| *id);
        let Some(id) = found else { panic!("no such call among {:#?}", self.calls) };
        let (sent, call) = self.calls.remove(&id).unwrap();
        (id, sent, call)
    }

    pub(super) fn answer(&mut self, like: impl Fn(&Call) -> bool, outcome: Outcome) -> Call {
        let (id, sent_at, call) = self.take_call(like);
        self.answer_as(id, sent_at, outcome);
        call
    }

    /// Answers a call. A write that took effect moves to the next revision if the engine has already received
    /// this one.
    pub(super) fn answer_as(&mut self, id: CallId, sent_at: BootTime, mut outcome: Outcome) {
        let written = matches!(outcome, Outcome::Done(_)) && self.engine.writes(id);
        if let Outcome::Done(answer) | Outcome::Refused(answer) = &mut outcome
            && answer.revision != Revision(0)
        {
            if written && answer.revision.0 == self.newest {
                answer.revision.0 = self.newest + 1;
                self.revision = answer.revision.0;
            }
            self.newest = self.newest.max(answer.revision.0);
        }
        self.input(Input::Answered { id, sent_at, received_at: self.now, outcome });
    }

    /// Answers a call: it took effect, at the present revision or the next one.
    pub(super) fn done(&mut self, like: impl Fn(&Call) -> bool) -> Call {
        let outcome = Outcome::Done(self.header(Vec::new()));
        self.answer(like, outcome)
    }

    pub(super) fn refused(&mut self, like: impl Fn(&Call) -> bool, shows: Vec<Change>) -> Call {
        let outcome = Outcome::Refused(self.header(shows));
        self.answer(like, outcome)
    }

    pub(super) fn header(&self, changes: Vec<Change>) -> Answer {
        Answer { revision: Revision(self.revision), cluster: 7, changes, ttl: Duration::ZERO }
    }

    pub(super) fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    pub(super) fn is_acting(&self) -> bool {
        self.engine.authority().is_some_and(|authority| self.now < authority.until)
    }
}
