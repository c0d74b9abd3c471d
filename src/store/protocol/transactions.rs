//! T1 to T19 as keys and compares.
//!
//! The else list of each transaction reads the keys that show the engine why a compare failed.

use std::time::Duration;

use super::{Request, name};
use crate::{
    engine::{
        Call, Held, HolderClause, Join, JoinTick, LeaseId, NodeId, Record, Revision, Take, Term,
    },
    store::{Compare, CompareOp, Get, KeyRange, Op, Target, Txn, keys::Keys, values},
};

/// Largest number of compares, and of operations in each list, that etcd accepts in one transaction.
pub const MAX_TXN_OPS: usize = 128;

/// Request of a call, in the form that the store takes.
///
/// # Panics
///
/// If the engine asks for a transaction that etcd would refuse (more than [`MAX_TXN_OPS`]), or for a TAKE,
/// BEAT or RESIGN whose record names no node or lease.
pub fn transaction(keys: &Keys, call: &Call) -> Request {
    let txn = match call {
        Call::Grant { lease, ttl } => return Request::Grant { lease: *lease, ttl: *ttl },
        Call::Renew { lease } => return Request::KeepAlive(*lease),
        Call::Revoke { lease } => return Request::Revoke(*lease),
        Call::Check { lease } => return Request::Get(Get::key(keys.held(*lease))),
        Call::ReadJoin { id } => read([
            Get::key(keys.tick()),
            Get::range(keys.tick_keys()),
            Get::key(keys.node(*id)),
            Get::key(keys.member(*id)),
        ]),
        Call::ReadEnd { lease } => read([Get::key(keys.record()), Get::key(keys.held(*lease))]),
        Call::Join(join) => t2_join(keys, join),
        Call::Seed { d, ended } => t3_seed(keys, *d, *ended),
        Call::Enrol { .. } | Call::Withdraw { .. } => t4(keys, call),
        Call::Take(take) => t5_take(keys, take),
        Call::Beat { office, record } => t6_beat(keys, *office, record),
        Call::Resign { office, record } => t8_resign(keys, *office, record),
        Call::Stop { lease, held, nonce, office } => {
            t9_stop(keys, *lease, *held, *nonce, office.as_ref())
        }
        Call::End { lease, record, held } => t10_end(keys, *lease, record.as_ref(), *held),
        Call::WriteHeld { .. } | Call::DeleteHeld { .. } => held_writes(keys, call),
        Call::InitPlan { .. } | Call::Plan { .. } => t15_plan(keys, call),
        Call::DeleteSquatter { id, node, member } => t2_squatter(keys, *id, *node, *member),
        Call::WriteNode { .. } | Call::WriteMember { .. } | Call::WriteTickKey { .. } => {
            t17_own_keys(keys, call)
        }
        Call::SwitchTick { office, modified, view, tick } => {
            t18_switch(keys, *office, *modified, *view, *tick)
        }
    };
    for (what, count) in
        [("compares", txn.compares.len()), ("then", txn.then.len()), ("else", txn.otherwise.len())]
    {
        assert!(count <= MAX_TXN_OPS, "{}: {count} {what}, etcd takes {MAX_TXN_OPS}", name(call));
    }
    Request::Txn(txn)
}

fn t2_join(keys: &Keys, join: &Join) -> Txn {
    let id = join.metadata.id;
    let mut txn = Txn {
        compares: vec![
            absent(&keys.node(id)),
            absent(&keys.member(id)),
            absent(&keys.held(join.lease)),
        ],
        then: vec![
            put(keys.node(id), values::encode_metadata(&join.metadata), Some(join.lease)),
            put(keys.tick_key(id), values::encode_tick(join.tick), Some(join.lease)),
            put(keys.member(id), values::encode_member(&join.member), Some(join.lease)),
            put(keys.held(join.lease), empty_held(join.nonce), Some(join.lease)),
        ],
        otherwise: gets([keys.node(id), keys.member(id), keys.held(join.lease), keys.tick()]),
    };
    if join.candidate {
        txn.then.push(put(keys.candidate(join.lease), values::encode_id(id), Some(join.lease)));
    }
    let tick = put(keys.tick(), values::encode_tick(join.tick), None);
    match join.cluster_tick {
        JoinTick::Keep { modified: seen } => txn.compares.push(modified(&keys.tick(), seen)),
        JoinTick::Create { read, modified: seen } => {
            txn.compares.push(modified(&keys.tick(), seen));
            txn.compares.push(before(keys.tick_keys(), Target::Modified, next(read)));
            txn.then.push(tick);
        }
        JoinTick::Replace { modified: seen, strays } => {
            txn.compares.push(modified(&keys.tick(), seen));
            if let Some(read) = strays {
                txn.compares.push(before(keys.nodes(), Target::Modified, next(read)));
                txn.compares.push(before(keys.tick_keys(), Target::Modified, next(read)));
            } else {
                // On a range, c = 0 holds only if no key exists in the range.
                let op = CompareOp::Equal;
                txn.compares.push(compare(keys.nodes(), Target::Created, op, Revision(0)));
            }
            txn.then.push(tick);
            txn.otherwise.push(Op::Get(Get::range(keys.nodes())));
        }
    }
    txn
}

/// Deletes the node and member keys that an operator wrote, those of them that exist.
fn t2_squatter(keys: &Keys, id: NodeId, node: Revision, member: Revision) -> Txn {
    let both = [(keys.node(id), node), (keys.member(id), member)];
    let there = both.iter().filter(|(_, seen)| *seen != Revision(0));
    Txn {
        compares: both.iter().map(|(key, seen)| modified(key, *seen)).collect(),
        then: there.map(|(key, _)| delete(key.clone())).collect(),
        otherwise: both.iter().map(|(key, _)| get(key.clone())).collect(),
    }
}

fn t3_seed(keys: &Keys, d: Duration, ended: bool) -> Txn {
    let seed = Record { term: Term(0), lease: None, node: None, n: 0, d, ended, suspended: false };
    Txn {
        compares: vec![absent(&keys.record())],
        then: vec![put(keys.record(), values::encode_record(&seed), None)],
        otherwise: gets([keys.record()]),
    }
}

/// ENROL and WITHDRAW, which write only the candidate key.
fn t4(keys: &Keys, call: &Call) -> Txn {
    match call {
        Call::Enrol { lease, id, member_created } => Txn {
            compares: vec![
                absent(&keys.candidate(*lease)),
                created(&keys.member(*id), *member_created),
            ],
            then: vec![put(keys.candidate(*lease), values::encode_id(*id), Some(*lease))],
            otherwise: gets([keys.candidate(*lease), keys.member(*id)]),
        },
        Call::Withdraw { lease, modified: seen } => Txn {
            compares: vec![modified(&keys.candidate(*lease), *seen)],
            then: vec![delete(keys.candidate(*lease))],
            otherwise: gets([keys.candidate(*lease)]),
        },
        _ => unreachable!("only called with these"),
    }
}

fn t5_take(keys: &Keys, take: &Take) -> Txn {
    let own = holder(&take.record);
    let id = take.record.node.expect("a TAKE names its node");
    let mut txn = Txn {
        compares: vec![
            created(&keys.candidate(own), Revision(take.term.0)),
            modified(&keys.record(), take.record_modified),
            is_still(keys.record(), &take.record_value),
        ],
        then: take.older.iter().map(|(lease, _)| delete(keys.candidate(*lease))).collect(),
        otherwise: gets([keys.candidate(own), keys.record()]),
    };
    if let Some((oldest, seen)) = take.older.first() {
        txn.compares.push(created(&keys.candidate(*oldest), *seen));
    }
    match take.holder {
        HolderClause::None => {}
        HolderClause::Delete { lease } => txn.then.push(delete(keys.candidate(lease))),
        HolderClause::Gone { lease, term } => txn.compares.push(compare(
            KeyRange::key(keys.candidate(lease)),
            Target::Created,
            CompareOp::NotEqual,
            Revision(term.0),
        )),
    }
    txn.then.push(put(keys.candidate(own), values::encode_id(id), Some(own)));
    txn.then.push(put(keys.record(), values::encode_record(&take.record), None));
    txn
}

fn t6_beat(keys: &Keys, office: Revision, record: &Record) -> Txn {
    Txn {
        compares: vec![in_office(keys, (holder(record), office))],
        then: vec![put(keys.record(), values::encode_record(record), None)],
        otherwise: gets([keys.candidate(holder(record)), keys.record()]),
    }
}

/// A BEAT that also deletes the candidate key.
fn t8_resign(keys: &Keys, office: Revision, record: &Record) -> Txn {
    let mut txn = t6_beat(keys, office, record);
    txn.then.push(delete(keys.candidate(holder(record))));
    txn
}

fn t9_stop(
    keys: &Keys,
    lease: LeaseId,
    held: Revision,
    nonce: u64,
    office: Option<&(Revision, Record)>,
) -> Txn {
    let mut txn = Txn {
        compares: vec![modified(&keys.held(lease), held)],
        then: vec![put(keys.held(lease), empty_held(nonce), Some(lease))],
        otherwise: gets([keys.candidate(lease), keys.record(), keys.held(lease)]),
    };
    if let Some((revision, record)) = office {
        txn.compares.push(in_office(keys, (lease, *revision)));
        txn.then.push(put(keys.record(), values::encode_record(record), None));
    }
    txn.then.push(delete(keys.candidate(lease)));
    txn
}

fn t10_end(
    keys: &Keys,
    lease: LeaseId,
    record: Option<&(Revision, Record)>,
    held: Option<(Revision, u64)>,
) -> Txn {
    let mut txn = Txn { otherwise: gets([keys.record(), keys.held(lease)]), ..Txn::default() };
    if let Some((seen, record)) = record {
        txn.compares.push(modified(&keys.record(), *seen));
        txn.then.push(put(keys.record(), values::encode_record(record), None));
    }
    if let Some((seen, nonce)) = held {
        txn.compares.push(modified(&keys.held(lease), seen));
        txn.then.push(put(keys.held(lease), empty_held(nonce), Some(lease)));
    }
    txn.then.push(delete(keys.candidate(lease)));
    txn
}

/// T12 (CLAIM), T13 (RELEASE), the settling of an unresolved write, and the leader's deletion of a broken
/// held key.
fn held_writes(keys: &Keys, call: &Call) -> Txn {
    match call {
        Call::WriteHeld { lease, held, plans, content } => {
            let plans = plans.iter().map(|(work, seen)| is_still(keys.plan(work), seen));
            Txn {
                compares: std::iter::once(modified(&keys.held(*lease), *held))
                    .chain(plans)
                    .collect(),
                then: vec![put(keys.held(*lease), values::encode_held(content), Some(*lease))],
                otherwise: gets([keys.held(*lease)]),
            }
        }
        Call::DeleteHeld { office, lease, modified: seen, value } => Txn {
            compares: vec![
                in_office(keys, *office),
                modified(&keys.held(*lease), *seen),
                is_still(keys.held(*lease), value),
            ],
            then: vec![delete(keys.held(*lease))],
            otherwise: gets([keys.held(*lease), keys.candidate(office.0)]),
        },
        _ => unreachable!("only called with these"),
    }
}

fn t15_plan(keys: &Keys, call: &Call) -> Txn {
    let (office, work, table) = match call {
        Call::InitPlan { office, work, table } | Call::Plan { office, work, table, .. } => {
            (*office, work, table)
        }
        _ => unreachable!("only called with these"),
    };
    let mut compares = vec![in_office(keys, office)];
    match call {
        Call::Plan { modified: seen, proofs, .. } => {
            compares.push(modified(&keys.plan(work), *seen));
            compares.extend(proofs.iter().map(|(lease, seen)| is_still(keys.held(*lease), seen)));
        }
        _ => compares.push(absent(&keys.plan(work))),
    }
    Txn {
        compares,
        then: vec![put(keys.plan(work), values::encode_plan(table), None)],
        otherwise: gets([keys.plan(work), keys.candidate(office.0)]),
    }
}

fn t17_own_keys(keys: &Keys, call: &Call) -> Txn {
    let (key, seen, value, lease) = match call {
        Call::WriteNode { lease, modified, metadata } => {
            (keys.node(metadata.id), modified, values::encode_metadata(metadata), *lease)
        }
        Call::WriteMember { id, modified, member } => {
            (keys.member(*id), modified, values::encode_member(member), member.lease)
        }
        Call::WriteTickKey { lease, id, modified, tick } => {
            (keys.tick_key(*id), modified, values::encode_tick(*tick), *lease)
        }
        _ => unreachable!("only called with these"),
    };
    own_key(key, *seen, value, lease)
}

/// T17 (own keys): writes any key of a node's own if its revision is as last known (zero = absent), else
/// reads the key.
pub fn own_key(key: Vec<u8>, seen: Revision, value: Vec<u8>, lease: LeaseId) -> Txn {
    Txn {
        compares: vec![modified(&key, seen)],
        otherwise: gets([key.clone()]),
        then: vec![put(key, value, Some(lease))],
    }
}

/// T17: deletes any key of a node's own if its revision is as last known, else reads the key.
pub fn delete_own_key(key: Vec<u8>, seen: Revision) -> Txn {
    Txn {
        compares: vec![modified(&key, seen)],
        otherwise: gets([key.clone()]),
        then: vec![delete(key)],
    }
}

fn t18_switch(
    keys: &Keys,
    office: (LeaseId, Revision),
    seen: Revision,
    view: Revision,
    tick: Duration,
) -> Txn {
    Txn {
        compares: vec![
            in_office(keys, office),
            modified(&keys.tick(), seen),
            before(keys.members(), Target::Modified, next(view)),
            before(keys.nodes(), Target::Created, next(view)),
        ],
        then: vec![put(keys.tick(), values::encode_tick(tick), None)],
        otherwise: gets([keys.candidate(office.0), keys.tick()]),
    }
}

/// T7 (fenced write): the compare that fences a write made by virtue of leadership. `office` = the lease of
/// the office and m(cand) after its TAKE.
pub fn in_office(keys: &Keys, office: (LeaseId, Revision)) -> Compare {
    modified(&keys.candidate(office.0), office.1)
}

/// T16 (shard write): the compare that fences a write to a shard's data. `held` = h.
pub fn holds(keys: &Keys, lease: LeaseId, held: Revision) -> Compare {
    modified(&keys.held(lease), held)
}

/// Returns the lease in the name of the writer's candidate key.
pub(super) fn holder(record: &Record) -> LeaseId {
    record.lease.expect("a record that is written from office names its lease")
}

pub(super) fn empty_held(nonce: u64) -> Vec<u8> {
    values::encode_held(&Held { nonce, ..Held::default() })
}

/// R11 (every check reads a range): the read goes through the quorum because it holds at least one range.
pub(super) fn read(gets: impl IntoIterator<Item = Get>) -> Txn {
    Txn { then: gets.into_iter().map(Op::Get).collect(), ..Txn::default() }
}

pub(super) fn gets(keys: impl IntoIterator<Item = Vec<u8>>) -> Vec<Op> {
    keys.into_iter().map(get).collect()
}

pub(super) fn get(key: Vec<u8>) -> Op {
    Op::Get(Get::key(key))
}

pub(super) fn put(key: Vec<u8>, value: Vec<u8>, lease: Option<LeaseId>) -> Op {
    Op::Put { key, value, lease }
}

pub(super) fn delete(key: Vec<u8>) -> Op {
    Op::Delete(KeyRange::key(key))
}

pub(super) fn compare(
    range: KeyRange,
    target: fn(Revision) -> Target,
    op: CompareOp,
    revision: Revision,
) -> Compare {
    Compare { range, target: target(revision), op }
}

/// Compare that c(key) = `revision`.
pub(super) fn created(key: &[u8], revision: Revision) -> Compare {
    compare(KeyRange::key(key), Target::Created, CompareOp::Equal, revision)
}

/// Compare that m(key) = `revision`.
pub(super) fn modified(key: &[u8], revision: Revision) -> Compare {
    compare(KeyRange::key(key), Target::Modified, CompareOp::Equal, revision)
}

/// Compare that the value of `key` is `value`: exactly the write that the node saw, since each write
/// carries a unique number. A restored store assigns the same revision again, so a revision alone proves
/// nothing (R8, replaced store).
pub(super) fn is_still(key: Vec<u8>, value: &[u8]) -> Compare {
    let target = Target::Value(value.to_vec());
    Compare { range: KeyRange::key(key), target, op: CompareOp::Equal }
}

/// Compare that c(key) = 0.
pub(super) fn absent(key: &[u8]) -> Compare {
    created(key, Revision(0))
}

/// Compare that every key in the range is older than `revision`.
pub(super) fn before(
    range: KeyRange,
    target: fn(Revision) -> Target,
    revision: Revision,
) -> Compare {
    compare(range, target, CompareOp::Less, revision)
}

pub(super) fn next(revision: Revision) -> Revision {
    Revision(revision.0 + 1)
}
