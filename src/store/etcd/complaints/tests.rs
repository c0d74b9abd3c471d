use super::*;
use crate::store::etcd::errors::classify_answer;

fn at(ms: u64) -> BootTime {
    BootTime(Duration::from_secs(1000) + Duration::from_millis(ms))
}

/// Error of a call that etcd refused, as the store's user gets it.
fn said(code: tonic::Code, text: &str) -> StoreError {
    classify_answer(code, text).into_error(
        "txn",
        "http://a:2379",
        crate::engine::types::Revision(0),
    )
}

fn full() -> StoreError {
    said(tonic::Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded")
}

const WRITE: Called<'static> = Called {
    name: "txn",
    takes_space: true,
    proves_quorum: true,
    silent_for: Duration::ZERO,
    error: None,
};
const READ: Called<'static> = Called { name: "get", takes_space: false, ..WRITE };

fn failed(error: &StoreError) -> Called<'_> {
    Called { error: Some(error), ..WRITE }
}

#[test]
fn a_full_etcd_is_a_condition_until_a_write_succeeds_whatever_reads_do() {
    let complaints = Complaints::default();
    complaints.on_call(failed(&full()), at(0));
    assert_eq!(complaints.current(), None, "a command says it itself");
    complaints.on_call(READ, at(200));
    complaints.on_call(failed(&full()), at(600));
    let text = complaints.current().unwrap();
    assert!(text.contains("alarm disarm"), "{text}");
    complaints.on_call(READ, at(60_000));
    assert_eq!(complaints.current(), Some(text.clone()));
    complaints.on_call(failed(&full()), at(60_000));
    // Deletions free no space at once, and a write that was accepted in between does not end the condition.
    complaints.on_call(WRITE, at(60_001));
    assert_eq!(complaints.current(), Some(text));
    complaints.on_call(WRITE, at(65_000));
    assert_eq!(complaints.current(), None);
}

#[test]
fn an_alarm_is_a_condition_at_once_for_a_node_that_writes_nothing() {
    let complaints = Complaints::default();
    let alarms = ["memberID:7 alarm:NOSPACE ".to_owned()];
    complaints.on_alarms("http://a:2379", &alarms, at(0));
    let text = complaints.current().unwrap();
    assert_eq!(text, "http://a:2379 has an alarm: memberID:7 alarm:NOSPACE");
    complaints.on_alarms("http://b:2379", &[], at(1_000));
    assert_eq!(complaints.current(), Some(text), "one member may lag behind");
    complaints.on_alarms("http://b:2379", &[], at(10_000));
    assert_eq!(complaints.current(), None);
    complaints.on_alarms("http://a:2379", &["memberID:7 alarm:CORRUPT ".to_owned()], at(20_000));
    assert!(complaints.current().unwrap().contains("CORRUPT"));
}

#[test]
fn a_permission_is_missing_until_a_call_of_that_kind_succeeds() {
    let complaints = Complaints::default();
    let denied = said(tonic::Code::PermissionDenied, "etcdserver: permission denied");
    complaints.on_call(failed(&denied), at(0));
    complaints.on_call(failed(&denied), at(600));
    assert!(complaints.current().unwrap().contains("grant-permission"));
    complaints.on_call(READ, at(60_000));
    assert!(complaints.current().is_some(), "it may read, and not write");
    complaints.on_call(WRITE, at(60_000));
    assert_eq!(complaints.current(), None);
}

#[test]
fn silence_is_a_condition_after_a_while_and_ends_with_any_answer_of_a_quorum() {
    let complaints = Complaints::default();
    let error = said(tonic::Code::Unavailable, "etcdserver: request timed out");
    let silent = |secs| Called { silent_for: Duration::from_secs(secs), ..failed(&error) };
    complaints.on_call(silent(1), at(1_000));
    complaints.on_call(silent(2), at(2_000));
    assert_eq!(complaints.current(), None);
    complaints.on_call(silent(3), at(3_000));
    assert!(complaints.current().unwrap().contains("request timed out"));
    let renewed = Called { name: "keep_alive", proves_quorum: false, ..READ };
    complaints.on_call(renewed, at(3_500));
    assert!(complaints.current().is_some(), "a member that is cut off renews leases, for a while");
    complaints.on_call(READ, at(3_600));
    assert_eq!(complaints.current(), None);
}

#[test]
fn errors_that_a_caller_answers_for_are_no_condition() {
    let complaints = Complaints::default();
    for n in 0..10 {
        complaints.on_call(failed(&StoreError::LeaseNotFound), at(n * 1_000));
        let large = said(tonic::Code::InvalidArgument, "etcdserver: request is too large");
        complaints.on_call(failed(&large), at(n * 1_000));
    }
    assert_eq!(complaints.current(), None);
}
