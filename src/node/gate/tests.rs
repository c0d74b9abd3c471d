use std::sync::Arc;

use super::*;
use crate::engine::Term;

const LEASE: LeaseId = LeaseId(7);
const LONG: Duration = Duration::from_secs(3600);

fn office() -> Office {
    Office { term: Term(3), revision: Revision(4), lease: LEASE }
}

#[test]
fn a_gate_is_shut_until_authority_is_published() {
    let gate = LeaderGate::new(office());
    assert!(!gate.is_open());
    gate.extend(clock::boot_now() + LONG);
    assert!(gate.is_open());
}

#[test]
fn a_gate_shuts_by_its_own_clock() {
    let gate = LeaderGate::new(office());
    gate.extend(clock::boot_now());
    assert!(!gate.is_open(), "nobody told it");
}

#[test]
fn a_closed_gate_stays_closed() {
    let gate = LeaderGate::new(office());
    gate.close();
    gate.extend(clock::boot_now() + LONG);
    assert_eq!(gate.left(), Duration::ZERO);
}

#[test]
fn a_shard_is_shut_with_its_own_gate_or_its_incarnations() {
    let held = Arc::new(HeldGate::new(LEASE));
    held.extend(Revision(9), clock::boot_now() + LONG);
    let (one, other) = (ShardGate::new(Arc::clone(&held)), ShardGate::new(Arc::clone(&held)));
    assert!(one.is_open() && other.is_open());
    one.close();
    assert!(!one.is_open() && other.is_open());
    held.close();
    held.extend(Revision(10), clock::boot_now() + LONG);
    assert!(!other.is_open());
    assert_eq!(other.held().held(), Revision(10));
}
