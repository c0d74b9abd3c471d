use std::sync::Arc;

use super::*;
use crate::{
    engine::{Held, NodeId, Term, timing::SPAN_MAX},
    store::{Get, Op, Txn, memory::MemoryStore, values},
};

const LEASE: LeaseId = LeaseId(0x3c0b_4e0a);
const OTHER: LeaseId = LeaseId(0x77);
const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_line_is_read_as_it_was_written() {
    for line in [Line::Lease(LEASE), Line::Gone(OTHER)] {
        assert_eq!(Line::parse(&format!("{line}\n")), Some(line));
    }
    assert_eq!(Line::Lease(LEASE).to_string(), "lease 3c0b4e0a");
}

#[test]
fn junk_on_the_pipe_is_no_line() {
    for junk in ["", "lease", "lease ", "lease xyz", "lease -1", "lease 0", "grant 1", "gone 1 2"] {
        assert_eq!(Line::parse(junk), None, "{junk:?}");
    }
}

fn record(lease: LeaseId, ended: bool) -> Record {
    Record {
        term: Term(5),
        lease: Some(lease),
        node: NodeId::new(1).ok(),
        n: 9,
        d: SPAN_MAX,
        ended,
        suspended: false,
    }
}

async fn cluster(record: &Record) -> (Arc<dyn Store>, Keys) {
    let (store, keys) = (Arc::new(MemoryStore::new()), Keys::new("c").unwrap());
    store.grant(LEASE, SOON, SOON).await.unwrap();
    let put = |key, value, lease| Op::Put { key, value, lease };
    let then = vec![
        put(keys.record(), values::encode_record(record), None),
        put(keys.candidate(LEASE), b"1".to_vec(), Some(LEASE)),
        put(keys.held(LEASE), values::encode_held(&Held::default()), Some(LEASE)),
    ];
    store.txn(Txn { then, ..Txn::default() }, SOON).await.unwrap();
    (store, keys)
}

async fn record_now(store: &dyn Store, keys: &Keys) -> Record {
    let answer = store.get(Get::key(keys.record()), SOON).await.unwrap();
    values::decode_record(&answer.kvs[0].value).unwrap()
}

#[tokio::test]
async fn ending_a_leader_marks_its_term_ended_and_takes_its_keys() {
    let (store, keys) = cluster(&record(LEASE, false)).await;
    let ended = end_incarnation(store.as_ref(), &keys, LEASE, SOON).await;
    assert_eq!(ended, Ok(EndedIncarnation { was_in_office: true }));
    assert_eq!(record_now(store.as_ref(), &keys).await, record(LEASE, true));
    let all = store.get(Get::range(keys.all()), SOON).await.unwrap();
    assert_eq!(all.kvs.len(), 1, "only the record is left: {all:?}");
}

#[tokio::test]
async fn ending_a_follower_leaves_the_leaders_record_alone() {
    let (store, keys) = cluster(&record(OTHER, false)).await;
    let ended = end_incarnation(store.as_ref(), &keys, LEASE, SOON).await;
    assert_eq!(ended, Ok(EndedIncarnation { was_in_office: false }));
    assert_eq!(record_now(store.as_ref(), &keys).await, record(OTHER, false));
}

#[tokio::test]
async fn ending_a_leader_whose_lease_ran_out_still_marks_its_term_ended() {
    let (store, keys) = cluster(&record(LEASE, false)).await;
    store.revoke(LEASE, SOON).await.unwrap();
    let ended = end_incarnation(store.as_ref(), &keys, LEASE, SOON).await;
    assert_eq!(ended, Ok(EndedIncarnation { was_in_office: true }));
    assert_eq!(record_now(store.as_ref(), &keys).await, record(LEASE, true));
}

#[tokio::test]
async fn ending_without_a_store_gives_up_in_time() {
    let store = MemoryStore::new();
    store.faults().set(|_| Some(crate::store::memory::Fault::Unreachable));
    let within = Duration::from_millis(200);
    let ended = end_incarnation(&store, &Keys::new("c").unwrap(), LEASE, within).await;
    assert_eq!(ended, Err(NotEnded { lease: LEASE, within }));
}
