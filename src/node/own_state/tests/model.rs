//! Random programs of puts, deletes, lost and late answers, lost sessions, stops and restores, against the
//! rule: the store holds the value that was acknowledged last, and a new incarnation after a stop is empty.
//!
//! The check uses only the list of the calls and the store's own history.

use std::{collections::BTreeMap, sync::Mutex};

use proptest::{collection::vec, prelude::*};
use tokio::{task::JoinSet, time};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::{
    store::memory::{Model, WithPrevious},
    tasks,
};

const KEYS: [&str; 2] = ["k", "l"];

/// Whether the program waits for a call.
#[derive(Clone, Copy, Debug)]
enum Wait {
    ToItsEnd,
    Not,
    /// For this long; then the call is dropped.
    Millis(u64),
}

#[derive(Clone, Debug)]
enum Step {
    Call {
        key: usize,
        delete: bool,
        faults: Vec<Fault>,
        wait: Wait,
    },
    Sleep(u64),
    /// The lease ends; the node learns of it after this many milliseconds.
    Lose(u64),
    Join,
    Stop,
    Backup,
    Restore {
        bumped: bool,
    },
}

fn fault() -> impl Strategy<Value = Fault> {
    let slow = prop_oneof![1..100_u64, 500..3000_u64].prop_map(Duration::from_millis);
    prop_oneof![
        slow.clone().prop_map(Fault::SlowRequest),
        slow.prop_map(Fault::SlowAnswer),
        Just(Fault::SlowRequest(LATE)),
        Just(Fault::LostRequest),
        Just(Fault::LostAnswer),
        Just(Fault::Interrupted),
        Just(Fault::Unreachable),
        Just(Fault::Denied),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let wait = prop_oneof![
        3 => Just(Wait::Not),
        2 => Just(Wait::ToItsEnd),
        1 => (1..2000_u64).prop_map(Wait::Millis),
    ];
    let faults = prop_oneof![2 => Just(Vec::new()), 3 => vec(fault(), 1..3)];
    let call = (0..KEYS.len(), prop::bool::weighted(0.3), faults, wait);
    prop_oneof![
        8 => call.prop_map(|(key, delete, faults, wait)| Step::Call { key, delete, faults, wait }),
        3 => prop_oneof![1..100_u64, 100..2000_u64].prop_map(Step::Sleep),
        2 => prop_oneof![Just(0_u64), 1..500_u64].prop_map(Step::Lose),
        3 => Just(Step::Join),
        1 => Just(Step::Stop),
        1 => Just(Step::Backup),
        1 => prop::bool::ANY.prop_map(|bumped| Step::Restore { bumped }),
    ]
}

fn program() -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 1..40)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The caller has no answer yet, and may never get one.
    Open,
    Acknowledged,
    Unknown,
    Nothing,
}

/// A store that is restored from a backup serves no request before this time is over.
const RESTORED_AFTER: Duration = Duration::from_millis(3_300);

/// Call at its place in the order of all calls.
#[derive(Clone, Debug)]
struct Called {
    key: usize,
    delete: bool,
    life: u32,
    fate: Fate,
}

#[derive(Debug, Default)]
struct Log {
    calls: Vec<Called>,
    life: u32,
    /// Acknowledged calls since the last restore, with the store's revision when the answer arrived.
    heard: Vec<(Revision, usize)>,
}

/// Node under test, the calls made to it, and the faults that it meets.
struct World {
    rig: Arc<Rig>,
    log: Arc<Mutex<Log>>,
    faults: Arc<Mutex<Vec<Fault>>>,
    beside: JoinSet<()>,
    putting_back: Option<AbortOnDropHandle<()>>,
    /// Number of stops (`life`) before each lease was granted.
    leases: BTreeMap<LeaseId, u32>,
    backup: Option<Model>,
    /// Revision from which the history of the store is checked.
    from: Revision,
    /// Whether the store was restored and the node has not joined since.
    restored: bool,
}

impl World {
    async fn new(own: OwnState) -> Self {
        let rig = Arc::new(Rig::with(own).await);
        let faults: Arc<Mutex<Vec<Fault>>> = Arc::default();
        let next = Arc::clone(&faults);
        rig.store.faults().set(move |call| {
            let Seen::Txn(_) = call else { return None };
            next.lock().unwrap().pop()
        });
        let mut world = Self {
            rig,
            log: Arc::default(),
            faults,
            beside: JoinSet::new(),
            putting_back: None,
            leases: BTreeMap::from([(LEASE, 0)]),
            backup: None,
            from: Revision(1),
            restored: false,
        };
        world.put_back();
        world
    }

    fn put_back(&mut self) {
        let rig = Arc::clone(&self.rig);
        let session = rig.session.borrow().clone().unwrap();
        let task = tasks::spawn("put-back", async move {
            rig.own.put_back(&rig.env, rig.id, &rig.session.subscribe(), &session).await;
        });
        self.putting_back = Some(AbortOnDropHandle::new(task));
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Call { key, delete, faults, wait } => {
                self.faults.lock().unwrap().splice(0..0, faults.into_iter().rev());
                let call = call(Arc::clone(&self.rig), Arc::clone(&self.log), key, delete);
                match wait {
                    Wait::ToItsEnd => call.await,
                    Wait::Millis(most) => {
                        let _ = time::timeout(Duration::from_millis(most), call).await;
                    }
                    Wait::Not => {
                        self.beside.spawn(call);
                        tokio::task::yield_now().await;
                    }
                }
            }
            Step::Sleep(millis) => sleep(Duration::from_millis(millis)).await,
            Step::Lose(later) => self.lose(Duration::from_millis(later)).await,
            Step::Join => self.join().await,
            Step::Stop => {
                self.rig.session.send_replace(None);
                self.rig.own.left();
                self.log.lock().unwrap().life += 1;
            }
            Step::Backup => self.backup = Some(self.rig.store.with_model(|model| model.clone())),
            Step::Restore { bumped } => {
                // A3 (restored stores are not served early): a request on its way reaches the replaced
                // store, or none.
                sleep(RESTORED_AFTER).await;
                self.restore(bumped);
            }
        }
    }

    async fn lose(&mut self, heard_after: Duration) {
        let session = self.rig.session.borrow().as_ref().map(|session| session.lease);
        let Some(lease) = session else { return };
        let _ = self.rig.store.revoke(lease, SOON).await;
        sleep(heard_after).await;
        self.rig.session.send_replace(None);
    }

    /// R10 (session lost): joins under a new lease, after all earlier leases of the node were ended.
    async fn join(&mut self) {
        if self.rig.session.borrow().is_some() {
            return;
        }
        for lease in self.leases.keys() {
            let _ = self.rig.store.revoke(*lease, SOON).await;
        }
        let lease = LeaseId(LEASE.0 + self.leases.len() as i64);
        self.leases.insert(lease, self.log.lock().unwrap().life);
        self.restored = false;
        self.rig.joins(lease).await;
        self.put_back();
    }

    fn restore(&mut self, bumped: bool) {
        let Some(backup) = &self.backup else { return };
        self.judge_history();
        self.rig.store.with_model(|model| {
            let ahead = (model.revision().0 - backup.revision().0).unsigned_abs() + 100;
            model.restore(backup, bumped.then_some(ahead));
            self.from = Revision(model.revision().0 + 1);
        });
        self.log.lock().unwrap().heard.clear();
        // A backup that the node joins contains no lease that the node has long replaced.
        self.restored = true;
    }

    /// Waits until all calls have ended and the node has joined.
    async fn settle(&mut self) {
        self.faults.lock().unwrap().clear();
        if self.restored {
            // R8 (replaced store): the node notices the restore.
            self.lose(Duration::ZERO).await;
        }
        self.join().await;
        for _ in 0..2 {
            while self.beside.join_next().await.is_some() {}
            let settled = time::timeout(SOON * 10, self.rig.is_settled()).await;
            assert!(settled.is_ok(), "{:?}", self.rig.own);
            self.rig.all_has_landed().await;
        }
    }

    /// I5 (own state never goes back): no committed value was older than a value that the store held, or
    /// acknowledged, before.
    fn judge_history(&self) {
        let log = self.log.lock().unwrap();
        let all = self.rig.env.keys.all();
        let events = self.rig.store.with_model(|model| {
            let from = self.from.max(model.compacted());
            model.events(&all, from, WithPrevious::No).unwrap()
        });
        for (key, name) in KEYS.iter().enumerate() {
            let full = self.rig.env.keys.state(name, self.rig.id).unwrap();
            let mut newest = 0;
            for (revision, events) in &events {
                let Some(kv) = events.iter().map(|event| &event.kv).find(|kv| kv.key == full)
                else {
                    continue;
                };
                let heard = log
                    .heard
                    .iter()
                    .filter(|(at, call)| at < revision && log.calls[*call].key == key);
                newest = heard.map(|(_, call)| *call).fold(newest, usize::max);
                let Some(lease) = kv.lease else { continue };
                let number = number(&kv.value);
                assert!(newest <= number, "{number} comes after {newest} at {revision}: {log:#?}");
                newest = number;
                let (born, life) = (log.calls[number].life, self.leases[&lease]);
                assert_eq!(born, life, "{number} appears in another life: {log:#?}");
            }
        }
    }

    async fn judge_state(&self) {
        for (key, name) in KEYS.iter().enumerate() {
            let found = self.rig.value(name).await.map(|value| number(value.as_bytes()));
            let log = self.log.lock().unwrap();
            let mut allowed = vec![None];
            for (number, call) in log.calls.iter().enumerate() {
                let value = (!call.delete).then_some(number);
                match call.fate {
                    _ if call.key != key || call.life != log.life => (),
                    Fate::Acknowledged => allowed = vec![value],
                    Fate::Open | Fate::Unknown => allowed.push(value),
                    Fate::Nothing => (),
                }
            }
            assert!(allowed.contains(&found), "{name} is {found:?}, not {allowed:?}: {log:#?}");
        }
    }
}

fn number(value: &[u8]) -> usize {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

/// Makes one call, at its first poll.
async fn call(rig: Arc<Rig>, log: Arc<Mutex<Log>>, key: usize, delete: bool) {
    let number = {
        let mut log = log.lock().unwrap();
        let life = log.life;
        log.calls.push(Called { key, delete, life, fate: Fate::Open });
        log.calls.len() - 1
    };
    let result = if delete {
        rig.delete(KEYS[key]).await.map(drop)
    } else {
        rig.put(KEYS[key], &number.to_string()).await.map(drop)
    };
    let fate = match result {
        Ok(()) => Fate::Acknowledged,
        Err(StateError::Unknown { .. }) => Fate::Unknown,
        Err(_) => Fate::Nothing,
    };
    let mut log = log.lock().unwrap();
    log.calls[number].fate = fate;
    if fate == Fate::Acknowledged {
        let heard = rig.store.with_model(|model| model.revision());
        log.heard.push((heard, number));
    }
}

async fn play(program: Vec<Step>, own: OwnState) {
    let mut world = World::new(own).await;
    for step in program {
        world.take(step).await;
    }
    world.settle().await;
    world.judge_history();
    world.judge_state().await;
}

fn play_alone(program: Vec<Step>, own: OwnState) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    runtime.block_on(play(program, own));
}

#[cfg(feature = "mutants")]
#[test]
fn programs_find_each_rule_that_is_left_out() {
    use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

    use crate::engine::{OwnCalls, mutant::Mutant};

    for mutant in [
        Mutant::OwnCallsWithoutTurns,
        Mutant::OwnAnswerOfLostSession,
        Mutant::OwnAnswerAfterLeaving,
        Mutant::OwnAnswersByRevision,
        Mutant::OwnUnknownForgotten,
        Mutant::PutBackWithoutTurn,
    ] {
        let config = ProptestConfig {
            cases: 5000,
            failure_persistence: None,
            max_shrink_iters: 0,
            ..ProptestConfig::default()
        };
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let mut runner = TestRunner::new_with_rng(config, rng);
        let found = runner.run(&program(), |program| {
            let own = OwnState::default();
            own.lock().own = OwnCalls::with_mutant(Some(mutant));
            play_alone(program, own);
            Ok(())
        });
        assert!(found.is_err(), "{mutant:?} was not found");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_was_acknowledged_last_is_what_is_there(program in program()) {
        play_alone(program, OwnState::default());
    }
}
