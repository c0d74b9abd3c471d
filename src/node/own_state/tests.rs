//! Calls with late or missing answers, concurrent calls, lost sessions, stops and restores. [`model`] runs
//! random programs of all of them.
//!
//! Time is paused: a late request reaches the store when everything else is over.

mod model;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::*;
use crate::{
    engine::{Office, ShardId, Term, WorkType},
    node::{
        Claimed, NodeMetrics, claim,
        fenced::{Fenced, FencedError, FencedTxn, Owner},
        gate::{HeldGate, LeaderGate, ShardGate},
        guarded::Known,
    },
    store::{
        Get, KeyValue, Op, Store as _, Txn,
        memory::{Fault, MemoryStore, Seen},
    },
};

const SOON: Duration = Duration::from_secs(10);
/// Delay that is longer than anything else here, by the paused clock.
const LATE: Duration = Duration::from_secs(3600);
const LEASE: LeaseId = LeaseId(7);
/// Lease of the session after [`LEASE`].
const AGAIN: LeaseId = LeaseId(8);
const BIT_LATE: Duration = Duration::from_millis(900);
const SOON_LOST: Duration = Duration::from_millis(50);

/// Own state of a node in a cluster without other nodes.
struct Rig {
    store: MemoryStore,
    env: Env,
    id: NodeId,
    own: OwnState,
    session: watch::Sender<Option<Session>>,
}

impl Rig {
    async fn new() -> Self {
        Self::with(OwnState::default()).await
    }

    async fn with(own: OwnState) -> Self {
        let store = MemoryStore::new();
        let env = Env {
            store: Arc::new(store.clone()),
            keys: Keys::new("c").unwrap(),
            metrics: NodeMetrics::unregistered(),
            call_timeout: SOON,
        };
        let session = watch::Sender::new(None);
        let rig = Self { store, env, id: NodeId::new(1).unwrap(), own, session };
        rig.joins(LEASE).await;
        rig
    }

    /// Joins with a new incarnation.
    async fn joins(&self, lease: LeaseId) {
        // The lease outlives late requests: no test may pass because a lease has expired.
        self.store.grant(lease, LATE * 100, SOON).await.unwrap();
        self.own.joined(lease);
        self.session.send_replace(Some(Session::new(&self.env.keys, lease)));
    }

    /// Loses the session and revokes its lease.
    async fn loses_session(&self, lease: LeaseId) {
        self.session.send_replace(None);
        self.store.revoke(lease, SOON).await.unwrap();
    }

    /// Puts state back as the driver does in each session, until nothing is missing.
    async fn puts_back(&self) {
        let (now, session) = (self.session.subscribe(), self.session.borrow().clone().unwrap());
        tokio::select! {
            biased;
            () = self.own.put_back(&self.env, self.id, &now, &session) => (),
            () = self.is_settled() => (),
        }
    }

    async fn is_settled(&self) {
        while !self.own.lock().own.is_settled() {
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn put(&self, key: &str, value: &str) -> Result<Revision, StateError> {
        let session = self.session.subscribe();
        self.own.put(&self.env, self.id, &session, key, value.as_bytes()).await
    }

    async fn delete(&self, key: &str) -> Result<bool, StateError> {
        self.own.delete(&self.env, self.id, &self.session.subscribe(), key).await
    }

    async fn at(&self, key: Vec<u8>) -> Option<KeyValue> {
        self.store.get(Get::key(key), SOON).await.unwrap().kvs.into_iter().next()
    }

    async fn value(&self, key: &str) -> Option<String> {
        let kv = self.at(self.env.keys.state(key, self.id).unwrap()).await;
        kv.map(|kv| String::from_utf8(kv.value).unwrap())
    }

    /// Applies these faults to the next transactions, one each; later transactions meet no fault.
    fn next_txns(&self, faults: &[Fault]) -> Arc<AtomicU64> {
        let (faults, sent) = (faults.to_vec(), Arc::new(AtomicU64::new(0)));
        let seen = Arc::clone(&sent);
        self.store.faults().set(move |call| {
            let Seen::Txn(_) = call else { return None };
            faults.get(seen.fetch_add(1, Ordering::Relaxed) as usize).copied()
        });
        sent
    }

    /// Takes office. The gate uses the real clock, which hardly moves during a test.
    async fn leads(&self) -> Fenced {
        let candidate = self.env.keys.candidate(LEASE);
        let put = Op::Put { key: candidate, value: Vec::new(), lease: Some(LEASE) };
        let took = self.store.txn(Txn { then: vec![put], ..Txn::default() }, SOON).await.unwrap();
        let gate = LeaderGate::new(Office { term: Term(1), revision: took.revision, lease: LEASE });
        gate.extend(crate::clock::boot_now() + LATE);
        let known = Arc::new(Known::new(&self.env.keys, LEASE));
        Fenced::new(self.env.clone(), Owner::Leader(Arc::new(gate)), known)
    }

    /// Waits until every late request has reached the store.
    async fn all_has_landed(&self) {
        sleep(LATE * 2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_put_whose_fate_was_unknown_does_not_come_after_a_delete() {
    let rig = Rig::new().await;
    rig.next_txns(&[Fault::SlowRequest(LATE), Fault::Denied]);
    let unknown = rig.put("k", "old").await;
    assert!(matches!(unknown, Err(StateError::Unknown { .. })), "{unknown:?}");
    assert!(!rig.delete("k").await.unwrap(), "there is none yet");
    rig.all_has_landed().await;
    assert_eq!(rig.value("k").await, None);
}

#[tokio::test(start_paused = true)]
async fn a_late_copy_of_a_put_that_took_effect_does_not_come_after_a_delete() {
    let rig = Rig::new().await;
    rig.next_txns(&[Fault::SlowRequest(LATE)]);
    rig.put("k", "old").await.unwrap();
    rig.put("k", "newer").await.unwrap();
    assert!(rig.delete("k").await.unwrap());
    rig.all_has_landed().await;
    assert_eq!(rig.value("k").await, None);
    // A key that is put from now on stays.
    rig.put("k", "new").await.unwrap();
    rig.put("other", "new").await.unwrap();
    rig.all_has_landed().await;
    assert_eq!(rig.value("k").await.as_deref(), Some("new"));
    assert_eq!(rig.value("other").await.as_deref(), Some("new"));
    // No outcome is open any more: the next delete is an ordinary one.
    rig.delete("k").await.unwrap();
    let marker = rig.at(rig.env.keys.settled(LEASE)).await.unwrap();
    assert_eq!((marker.version, marker.lease), (1, Some(LEASE)));
}

#[tokio::test(start_paused = true)]
async fn a_put_that_nobody_waited_for_does_not_come_after_a_delete() {
    let rig = Rig::new().await;
    rig.next_txns(&[Fault::SlowRequest(LATE)]);
    let dropped = tokio::time::timeout(Duration::from_millis(1), rig.put("k", "old")).await;
    assert!(dropped.is_err());
    rig.delete("k").await.unwrap();
    rig.all_has_landed().await;
    assert_eq!(rig.value("k").await, None);
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_is_sent_again_settles_a_late_put_too() {
    let rig = Rig::new().await;
    rig.next_txns(&[
        Fault::SlowRequest(LATE),
        Fault::Denied,
        Fault::LostRequest,
        Fault::LostAnswer,
    ]);
    rig.put("k", "old").await.unwrap_err();
    rig.delete("k").await.unwrap();
    rig.all_has_landed().await;
    assert_eq!(rig.value("k").await, None);
}

#[tokio::test(start_paused = true)]
async fn puts_of_other_keys_that_are_under_way_outlive_a_delete_that_settles() {
    let rig = Rig::new().await;
    rig.next_txns(&[
        Fault::SlowRequest(LATE),
        Fault::Denied,
        Fault::SlowRequest(Duration::from_millis(100)),
    ]);
    rig.put("k", "old").await.unwrap_err();
    let (put, deleted) = tokio::join!(biased; rig.put("other", "new"), rig.delete("k"));
    put.unwrap();
    deleted.unwrap();
    rig.all_has_landed().await;
    assert_eq!(rig.value("other").await.as_deref(), Some("new"));
}

#[tokio::test(start_paused = true)]
async fn without_a_put_in_doubt_a_put_and_a_delete_are_one_request_each_and_leave_nothing() {
    let rig = Rig::new().await;
    rig.next_txns(&[Fault::Denied]);
    rig.put("k", "refused for certain").await.unwrap_err();
    let sent = rig.next_txns(&[]);
    for _ in 0..3 {
        rig.put("k", "v").await.unwrap();
        rig.put("k", "w").await.unwrap();
        assert!(rig.delete("k").await.unwrap());
    }
    assert_eq!(sent.load(Ordering::Relaxed), 9);
    let all = rig.store.get(Get::range(rig.env.keys.all()), SOON).await.unwrap();
    assert_eq!(all.kvs, []);
}

#[tokio::test(start_paused = true)]
async fn what_is_being_put_back_does_not_come_after_a_delete() {
    let put_lands_after = Fault::SlowRequest(Duration::from_millis(100));
    put_back_beside_a_delete(&[put_lands_after]).await;
    // The same while the delete has taken effect, and its caller has no answer yet.
    put_back_beside_a_delete(&[put_lands_after, Fault::SlowAnswer(Duration::from_secs(1))]).await;
}

async fn put_back_beside_a_delete(faults: &[Fault]) {
    let rig = Rig::new().await;
    rig.put("k", "old").await.unwrap();
    rig.loses_session(LEASE).await;
    rig.joins(AGAIN).await;
    rig.next_txns(faults);
    let ((), deleted) = tokio::join!(biased; rig.puts_back(), rig.delete("k"));
    assert!(deleted.unwrap());
    rig.all_has_landed().await;
    assert_eq!(rig.value("k").await, None);
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_deleted_is_put_back_all_the_same() {
    let rig = Rig::new().await;
    rig.put("k", "old").await.unwrap();
    rig.loses_session(LEASE).await;
    rig.joins(AGAIN).await;
    rig.next_txns(&[Fault::Denied]);
    let (deleted, ()) = tokio::join!(biased; rig.delete("k"), rig.puts_back());
    deleted.unwrap_err();
    assert_eq!(rig.value("k").await.as_deref(), Some("old"));
}

#[tokio::test(start_paused = true)]
async fn a_put_that_is_answered_after_the_node_has_joined_again_is_put_again() {
    let rig = Rig::new().await;
    rig.put("k", "old").await.unwrap();
    rig.next_txns(&[Fault::SlowAnswer(BIT_LATE)]);
    let put = async {
        let revision = rig.put("k", "new").await.unwrap();
        // The value must be there at once.
        let kv = rig.at(rig.env.keys.state("k", rig.id).unwrap()).await.unwrap();
        assert_eq!((kv.value, kv.lease, kv.modified), (b"new".to_vec(), Some(AGAIN), revision));
    };
    let again = async {
        sleep(SOON_LOST).await;
        rig.loses_session(LEASE).await;
        rig.joins(AGAIN).await;
        rig.puts_back().await;
    };
    tokio::join!(put, again);
    rig.all_has_landed().await;
    assert_eq!(rig.value("k").await.as_deref(), Some("new"));
}

#[tokio::test(start_paused = true)]
async fn a_put_that_is_answered_before_the_node_has_joined_again_is_put_back_then() {
    let rig = Rig::new().await;
    rig.put("k", "old").await.unwrap();
    rig.next_txns(&[Fault::SlowAnswer(BIT_LATE)]);
    let lost = async {
        sleep(SOON_LOST).await;
        rig.loses_session(LEASE).await;
    };
    let (put, ()) = tokio::join!(rig.put("k", "new"), lost);
    put.unwrap();
    rig.joins(AGAIN).await;
    rig.puts_back().await;
    assert_eq!(rig.value("k").await.as_deref(), Some("new"));
}

#[tokio::test(start_paused = true)]
async fn a_put_that_is_answered_after_a_stop_is_not_in_the_next_incarnation() {
    let rig = Rig::new().await;
    rig.next_txns(&[Fault::SlowAnswer(BIT_LATE)]);
    let restart = async {
        sleep(SOON_LOST).await;
        rig.loses_session(LEASE).await;
        rig.own.left();
        rig.joins(AGAIN).await;
        rig.puts_back().await;
    };
    // The second call waits for the answer of the first, and meanwhile the node has a new incarnation.
    let puts = async { tokio::join!(biased; rig.put("k", "old"), rig.put("k", "waits")) };
    let ((old, waits), ()) = tokio::join!(puts, restart);
    old.unwrap();
    assert!(matches!(waits, Err(StateError::NoLease)), "{waits:?}");
    rig.puts_back().await;
    rig.all_has_landed().await;
    assert_eq!(rig.value("k").await, None);
    // The old call does not block calls of the new incarnation either.
    rig.put("k", "new").await.unwrap();
    assert_eq!(rig.value("k").await.as_deref(), Some("new"));
}

#[tokio::test(start_paused = true)]
async fn calls_for_one_key_take_effect_in_the_order_in_which_they_were_made() {
    let rig = Rig::new().await;
    for first in [Fault::SlowAnswer(BIT_LATE), Fault::SlowRequest(BIT_LATE)] {
        rig.next_txns(&[first]);
        let (put, deleted) = tokio::join!(biased; rig.put("k", "old"), rig.delete("k"));
        put.unwrap();
        assert!(deleted.unwrap(), "what was put before it");
        rig.next_txns(&[first]);
        let (old, new) = tokio::join!(biased; rig.put("k", "old"), rig.put("k", "new"));
        assert!(old.unwrap() < new.unwrap());
        rig.all_has_landed().await;
        assert_eq!(rig.value("k").await.as_deref(), Some("new"));
        rig.delete("k").await.unwrap();
        rig.loses_session(LEASE).await;
        rig.joins(LEASE).await;
        rig.puts_back().await;
        assert_eq!(rig.value("k").await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_put_that_never_took_effect_does_not_replace_a_later_one_that_did() {
    let rig = Rig::new().await;
    rig.next_txns(&[Fault::LostRequest, Fault::Denied]);
    let (lost, put) = tokio::join!(biased; rig.put("k", "never"), rig.put("k", "later"));
    assert!(matches!(lost, Err(StateError::Unknown { .. })), "{lost:?}");
    put.unwrap();
    rig.loses_session(LEASE).await;
    rig.joins(AGAIN).await;
    rig.puts_back().await;
    assert_eq!(rig.value("k").await.as_deref(), Some("later"));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_waited_for_may_have_taken_effect() {
    let rig = Rig::new().await;
    for key in ["put", "deleted"] {
        rig.put(key, "old").await.unwrap();
        rig.next_txns(&[Fault::LostAnswer]);
        let wait = Duration::from_millis(1);
        let dropped = match key {
            "put" => tokio::time::timeout(wait, rig.put(key, "new")).await.is_err(),
            _ => tokio::time::timeout(wait, rig.delete(key)).await.is_err(),
        };
        assert!(dropped);
    }
    rig.loses_session(LEASE).await;
    rig.joins(AGAIN).await;
    rig.puts_back().await;
    // Other nodes may have read the values that the calls wrote: no earlier value may come back.
    assert_eq!(rig.value("put").await.as_deref(), Some("new"));
    assert_eq!(rig.value("deleted").await, None);
}

#[tokio::test(start_paused = true)]
async fn a_put_that_a_restored_store_takes_at_a_smaller_revision_comes_back() {
    let rig = Rig::new().await;
    rig.put("k", "old").await.unwrap();
    let backup = rig.store.with_model(|model| model.clone());
    for n in 0..10 {
        rig.put("k", &format!("before the restore {n}")).await.unwrap();
    }
    let before = rig.put("k", "before the restore").await.unwrap();
    rig.store.with_model(|model| model.restore(&backup, None));
    // The lease is in the backup: the node has not noticed the restore yet.
    let after = rig.put("k", "after the restore").await.unwrap();
    assert!(after < before, "{after:?}, {before:?}");
    rig.loses_session(LEASE).await;
    rig.joins(AGAIN).await;
    rig.puts_back().await;
    assert_eq!(rig.value("k").await.as_deref(), Some("after the restore"));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_gets_no_turn_in_time_changes_nothing() {
    let rig = Rig::new().await;
    rig.next_txns(&[Fault::SlowAnswer(SOON / 4), Fault::SlowAnswer(SOON / 4)]);
    let calls = tokio::join!(
        biased;
        async { tokio::time::timeout(SOON * 2, rig.put("k", "1")).await.unwrap() },
        async { tokio::time::timeout(SOON * 2, rig.put("k", "2")).await.unwrap() },
    );
    assert!(calls.0.is_ok() && calls.1.is_ok(), "{calls:?}");
    // The call never ends: its deadline is on the real clock, which hardly moves.
    let never = vec![Fault::LostRequest; 10_000];
    rig.next_txns(&never);
    let (stuck, busy) = tokio::join!(
        biased;
        tokio::time::timeout(SOON * 3, rig.put("k", "3")),
        rig.put("k", "4"),
    );
    assert!(stuck.is_err());
    assert!(matches!(busy, Err(StateError::Busy { .. })), "{busy:?}");
    rig.next_txns(&[]);
    assert_eq!(rig.value("k").await.as_deref(), Some("2"));
    rig.put("k", "5").await.unwrap();
    assert_eq!(rig.value("k").await.as_deref(), Some("5"));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_was_given_back_is_not_taken_again_by_a_late_claim() {
    let rig = Rig::new().await;
    rig.next_txns(&[Fault::SlowRequest(LATE)]);
    let claimed = async || claim::claim(&rig.env, rig.id, rig.session.subscribe(), "n").await;
    assert!(matches!(claimed().await, Err(StateError::Unknown { .. })));
    let Claimed::Won(won) = claimed().await.unwrap() else { panic!("it is free") };
    won.release().await.unwrap();
    rig.all_has_landed().await;
    assert_eq!(rig.at(rig.env.keys.claim("n").unwrap()).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_late_put_of_a_leader_does_not_come_after_its_delete() {
    let rig = Rig::new().await;
    let fenced = rig.leads().await;
    rig.next_txns(&[Fault::SlowRequest(LATE), Fault::Denied]);
    fenced.put("k", "old").await.unwrap_err();
    fenced.delete("k").await.unwrap();
    rig.all_has_landed().await;
    assert!(fenced.get("k").await.unwrap().is_none());
    fenced.compare_and_set("k", None, "new").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_late_put_of_a_leader_does_not_come_after_a_delete_among_several_writes() {
    let rig = Rig::new().await;
    let fenced = rig.leads().await;
    rig.next_txns(&[Fault::SlowRequest(LATE), Fault::Denied]);
    fenced.put("k", "old").await.unwrap_err();
    fenced.txn(FencedTxn::new().put("other", "new").delete("k")).await.unwrap();
    rig.all_has_landed().await;
    assert!(fenced.get("k").await.unwrap().is_none());
    assert_eq!(fenced.get("other").await.unwrap().unwrap().value, b"new");
}

#[tokio::test(start_paused = true)]
async fn several_writes_that_come_late_undo_nothing_that_came_after_them() {
    let rig = Rig::new().await;
    let fenced = rig.leads().await;
    fenced.put("there", "before").await.unwrap();
    rig.next_txns(&[Fault::SlowRequest(LATE)]);
    let late = FencedTxn::new().expect("new", None).put("new", "late").put("deleted", "late");
    let unknown = fenced.txn(late.put("there", "late")).await;
    assert!(matches!(unknown, Err(FencedError::Call(StateError::Unknown { .. }))), "{unknown:?}");
    fenced.delete("deleted").await.unwrap();
    rig.all_has_landed().await;
    for key in ["new", "deleted"] {
        assert!(fenced.get(key).await.unwrap().is_none(), "{key}");
    }
    assert_eq!(fenced.get("there").await.unwrap().unwrap().value, b"before");
    // The same for a single late write that a put follows.
    rig.next_txns(&[Fault::SlowRequest(LATE)]);
    fenced.txn(FencedTxn::new().put("there", "late")).await.unwrap_err();
    fenced.put("there", "after").await.unwrap();
    rig.all_has_landed().await;
    assert_eq!(fenced.get("there").await.unwrap().unwrap().value, b"after");
}

#[tokio::test(start_paused = true)]
async fn several_writes_are_one_request_and_what_they_left_is_known() {
    let rig = Rig::new().await;
    let fenced = rig.leads().await;
    let sent = rig.next_txns(&[]);
    for _ in 0..3 {
        fenced.txn(FencedTxn::new().put("k", "1").put("l", "1")).await.unwrap();
        fenced.put("k", "2").await.unwrap();
        fenced.txn(FencedTxn::new().delete("k").put("l", "2")).await.unwrap();
        fenced.put("k", "3").await.unwrap();
        fenced.txn(FencedTxn::new().delete("k").delete("l")).await.unwrap();
    }
    assert_eq!(sent.load(Ordering::Relaxed), 15);
    assert!(rig.at(rig.env.keys.settled(LEASE)).await.is_none(), "nothing was in doubt");
    // A write that took effect without an answer is detected, at the cost of one more request.
    rig.next_txns(&[Fault::LostAnswer]);
    fenced.txn(FencedTxn::new().put("k", "unheard of")).await.unwrap_err();
    let sent = rig.next_txns(&[]);
    fenced.txn(FencedTxn::new().put("k", "on").put("l", "on")).await.unwrap();
    assert_eq!(sent.load(Ordering::Relaxed), 2);
    assert_eq!(fenced.get("k").await.unwrap().unwrap().value, b"on");
}

#[tokio::test(start_paused = true)]
async fn writes_for_a_shard_that_is_still_held_go_on_when_the_node_claims_another() {
    let rig = Rig::new().await;
    let write_held = async || {
        let key = rig.env.keys.held(LEASE);
        let put = Op::Put { key, value: Vec::new(), lease: Some(LEASE) };
        let done = rig.store.txn(Txn { then: vec![put], ..Txn::default() }, SOON).await;
        done.unwrap().revision
    };
    let held = Arc::new(HeldGate::new(LEASE));
    let until = crate::clock::boot_now() + LATE;
    held.extend(write_held().await, until);
    let gate = Arc::new(ShardGate::new(Arc::clone(&held)));
    let owner = Owner::Shard { gate, work: WorkType::new("checks"), shard: ShardId(1) };
    let known = Arc::new(Known::new(&rig.env.keys, LEASE));
    let fenced = Fenced::new(rig.env.clone(), owner, known);
    let claimed = write_held().await;
    // The claim has committed, and its answer is still on the way.
    let answer = async {
        sleep(Duration::from_millis(100)).await;
        held.extend(claimed, until);
    };
    let txn = FencedTxn::new().expect("k", None).put("k", "1").put("l", "1");
    let (put, done, ()) = tokio::join!(fenced.put("m", "1"), fenced.txn(txn), answer);
    assert!(put.is_ok() && done.is_ok(), "{put:?}, {done:?}");
    for key in ["k", "l", "m"] {
        let kv = fenced.get(key).await.unwrap();
        assert_eq!(kv.map(|kv| kv.value), Some(b"1".to_vec()), "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_former_leader_is_told_so_even_if_its_successor_has_written_the_key() {
    let rig = Rig::new().await;
    let fenced = rig.leads().await;
    fenced.put("k", "ours").await.unwrap();
    let key = rig.env.keys.leader_data("k").unwrap();
    let by_successor = [rig.env.keys.candidate(LEASE), key].map(|key| Op::Put {
        key,
        value: b"theirs".to_vec(),
        lease: None,
    });
    rig.store.txn(Txn { then: by_successor.into(), ..Txn::default() }, SOON).await.unwrap();
    let refused = fenced.txn(FencedTxn::new().expect("k", None).put("k", "late")).await;
    assert!(matches!(refused, Err(FencedError::StaleTerm)), "{refused:?}");
    // The gate is closed, so no request is sent.
    rig.next_txns(&[Fault::Denied]);
    let again = fenced.put("l", "late").await;
    assert!(matches!(again, Err(FencedError::StaleTerm)), "{again:?}");
}
