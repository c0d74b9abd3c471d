//! The protocol's transactions, as keys and compares: the one place that spells them, for the driver,
//! the supervisor, the command line and the simulation.
//!
//! [`transaction`] writes a [`Call`] as the request it is, [`outcome`] reads what became of it, [`send`]
//! does both around a store. T1 to T19 and R11 are those of `docs/protocol.md`. The one rule: every
//! compare here is load-bearing. Nothing is decided here, and nothing is sent twice.

use std::time::Duration;

use crate::{
    engine::{
        Answer, Call, Change, HolderClause, Join, JoinTick, LeaseId, Outcome, Record, Revision,
        Take, Term, timing::SPAN_MAX, view::Held,
    },
    store::{
        Compare, CompareOp, Effected, Event, Get, GetAnswer, KeyRange, KeyValue, LeaseAnswer, Op,
        Store, StoreError, Target, Txn, TxnAnswer, keys::Keys, values,
    },
};

/// Most compares, and most operations in each list, that etcd takes in one transaction.
pub const MAX_TXN_OPS: usize = 128;

/// A call as the store takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A transaction.
    Txn(Txn),
    /// A linearizable read.
    Get(Get),
    /// T1.
    Grant {
        /// Its id.
        lease: LeaseId,
        /// Asked for.
        ttl: Duration,
    },
    /// T11.
    Revoke(LeaseId),
    /// One renewal.
    KeepAlive(LeaseId),
}

/// What the store answered to a [`Request`] of the same kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// To a transaction.
    Txn(TxnAnswer),
    /// To a read.
    Get(GetAnswer),
    /// To a grant, a revoke or a renewal.
    Lease(LeaseAnswer),
}

/// What was read, decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Keys of the catalogue.
    pub changes: Vec<Change>,
    /// How many keys were skipped because they are not in the catalogue.
    pub foreign: u64,
}

impl Decoded {
    /// What a list shows.
    pub fn of_list(keys: &Keys, kvs: &[KeyValue]) -> Self {
        let mut decoded = Self::default();
        for kv in kvs {
            decoded.add(keys, &kv.key, Some(kv));
        }
        decoded
    }

    /// What the events of one revision show.
    pub fn of_events(keys: &Keys, events: &[Event]) -> Self {
        let mut decoded = Self::default();
        for event in events {
            decoded.add(keys, &event.kv.key, (!event.deleted).then_some(&event.kv));
        }
        decoded
    }

    fn add(&mut self, keys: &Keys, key: &[u8], kv: Option<&KeyValue>) {
        match keys.parse(key) {
            None => self.foreign += 1,
            Some(key) => self.changes.extend(values::change(key, kv)),
        }
    }
}

/// The name of a call, for metrics and logs: a closed set.
pub fn name(call: &Call) -> &'static str {
    match call {
        Call::Grant { .. } => "grant",
        Call::Renew { .. } => "renew",
        Call::Revoke { .. } => "revoke",
        Call::ReadJoin { .. } => "read_join",
        Call::Join(_) => "join",
        Call::Seed { .. } => "seed",
        Call::Enrol { .. } => "enrol",
        Call::Withdraw { .. } => "withdraw",
        Call::Take(_) => "take",
        Call::Beat { .. } => "beat",
        Call::Resign { .. } => "resign",
        Call::Stop { .. } => "stop",
        Call::ReadEnd { .. } => "read_end",
        Call::End { .. } => "end",
        Call::WriteHeld { .. } => "write_held",
        Call::Check { .. } => "check",
        Call::InitPlan { .. } => "init_plan",
        Call::Plan { .. } => "plan",
        Call::DeleteHeld { .. } => "delete_held",
        Call::DeleteSquatter { .. } => "delete_squatter",
        Call::WriteNode { .. } => "write_node",
        Call::WriteMember { .. } => "write_member",
        Call::WriteTickKey { .. } => "write_tick_key",
        Call::SwitchTick { .. } => "switch_tick",
    }
}

/// A call as the store takes it.
///
/// # Panics
///
/// If the engine asks for what etcd would refuse: more than [`MAX_TXN_OPS`], or a TAKE, BEAT or RESIGN
/// with the record of nobody.
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
        Call::Seed { ended } => t3_seed(keys, *ended),
        Call::Enrol { .. } | Call::Withdraw { .. } => t4(keys, call),
        Call::Take(take) => t5_take(keys, take),
        Call::Beat { office, record } => Txn {
            compares: vec![in_office(keys, (holder(record), *office))],
            then: vec![put(keys.record(), values::encode_record(record), None)],
            otherwise: gets([keys.candidate(holder(record)), keys.record()]),
        },
        Call::Resign { office, record } => Txn {
            compares: vec![in_office(keys, (holder(record), *office))],
            then: vec![
                put(keys.record(), values::encode_record(record), None),
                delete(keys.candidate(holder(record))),
            ],
            otherwise: gets([keys.candidate(holder(record)), keys.record()]),
        },
        Call::Stop { lease, held, nonce, office } => {
            t9_stop(keys, *lease, *held, *nonce, office.as_ref())
        }
        Call::End { lease, record, held } => t10_end(keys, *lease, record.as_ref(), *held),
        Call::WriteHeld { .. } | Call::DeleteHeld { .. } => held_writes(keys, call),
        Call::InitPlan { .. } | Call::Plan { .. } => t15_plan(keys, call),
        Call::DeleteSquatter { id, node, member } => {
            let both = [(keys.node(*id), *node), (keys.member(*id), *member)];
            Txn {
                compares: both.iter().map(|(key, at)| modified(key, *at)).collect(),
                then: both
                    .iter()
                    .filter(|(_, at)| *at != Revision(0))
                    .map(|(key, _)| delete(key.clone()))
                    .collect(),
                otherwise: both.iter().map(|(key, _)| get(key.clone())).collect(),
            }
        }
        Call::WriteNode { .. } | Call::WriteMember { .. } | Call::WriteTickKey { .. } => {
            t17_own_keys(keys, call)
        }
        Call::SwitchTick { office, modified: seen, view, tick } => Txn {
            compares: vec![
                in_office(keys, *office),
                modified(&keys.tick(), *seen),
                before(keys.members(), Target::Modified, next(*view)),
                before(keys.nodes(), Target::Created, next(*view)),
            ],
            then: vec![put(keys.tick(), values::encode_tick(*tick), None)],
            otherwise: gets([keys.candidate(office.0), keys.tick()]),
        },
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
        JoinTick::Create { read } => {
            txn.compares.push(modified(&keys.tick(), Revision(0)));
            txn.compares.push(before(keys.tick_keys(), Target::Modified, next(read)));
            txn.then.push(tick);
        }
        JoinTick::Replace { modified: seen } => {
            txn.compares.push(modified(&keys.tick(), seen));
            // Of a range, c = 0 holds only if nothing exists in it.
            txn.compares.push(compare(
                keys.nodes(),
                Target::Created,
                CompareOp::Equal,
                Revision(0),
            ));
            txn.then.push(tick);
        }
    }
    txn
}

fn t3_seed(keys: &Keys, ended: bool) -> Txn {
    let seed = Record { term: Term(0), lease: None, node: None, n: 0, d: SPAN_MAX, ended };
    Txn {
        compares: vec![absent(&keys.record())],
        then: vec![put(keys.record(), values::encode_record(&seed), None)],
        otherwise: gets([keys.record()]),
    }
}

/// ENROL and WITHDRAW.
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
        ],
        then: take.older.iter().map(|(lease, _)| delete(keys.candidate(*lease))).collect(),
        otherwise: gets([keys.candidate(own), keys.record()]),
    };
    if let Some((oldest, seen)) = take.older.first() {
        txn.compares.push(created(&keys.candidate(*oldest), *seen));
    }
    match take.holder {
        HolderClause::None => {}
        HolderClause::Delete { lease } => {
            if !take.older.iter().any(|(older, _)| *older == lease) {
                txn.then.push(delete(keys.candidate(lease)));
            }
        }
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

/// T12, T13 and the settling of an unresolved write; the leader's deletion of a broken held key.
fn held_writes(keys: &Keys, call: &Call) -> Txn {
    match call {
        Call::WriteHeld { lease, held, plans, content } => {
            let plans = plans.iter().map(|(work, seen)| modified(&keys.plan(work), *seen));
            Txn {
                compares: std::iter::once(modified(&keys.held(*lease), *held))
                    .chain(plans)
                    .collect(),
                then: vec![put(keys.held(*lease), values::encode_held(content), Some(*lease))],
                otherwise: gets([keys.held(*lease)]),
            }
        }
        Call::DeleteHeld { office, lease, modified: seen } => Txn {
            compares: vec![in_office(keys, *office), modified(&keys.held(*lease), *seen)],
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
            compares.extend(proofs.iter().map(|(lease, seen)| modified(&keys.held(*lease), *seen)));
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

/// T17, for any key of a node's own: write it if it is as last known (zero = absent); else get it.
pub fn own_key(key: Vec<u8>, seen: Revision, value: Vec<u8>, lease: LeaseId) -> Txn {
    Txn {
        compares: vec![modified(&key, seen)],
        otherwise: gets([key.clone()]),
        then: vec![put(key, value, Some(lease))],
    }
}

/// T17, for any key of a node's own: delete it if it is as last known; else get it.
pub fn delete_own_key(key: Vec<u8>, seen: Revision) -> Txn {
    Txn {
        compares: vec![modified(&key, seen)],
        otherwise: gets([key.clone()]),
        then: vec![delete(key)],
    }
}

/// T7: the compare that fences a write made by virtue of leadership. `office` = the lease of the office
/// and m(cand) after its TAKE.
pub fn in_office(keys: &Keys, office: (LeaseId, Revision)) -> Compare {
    modified(&keys.candidate(office.0), office.1)
}

/// T16: the compare that fences a write to a shard's data. `held` = h.
pub fn holds(keys: &Keys, lease: LeaseId, held: Revision) -> Compare {
    modified(&keys.held(lease), held)
}

/// What became of a call.
pub fn outcome(keys: &Keys, call: &Call, result: Result<Response, StoreError>) -> Outcome {
    match result {
        Ok(Response::Txn(answer)) => {
            let succeeded = answer.succeeded;
            let answer = Answer {
                revision: answer.revision,
                cluster: answer.cluster,
                changes: changes_of(keys, call, succeeded, &answer.reads),
                ttl: Duration::ZERO,
            };
            if succeeded { Outcome::Done(answer) } else { Outcome::Refused(answer) }
        }
        Ok(Response::Get(answer)) => Outcome::Done(Answer {
            revision: answer.revision,
            cluster: answer.cluster,
            changes: match transaction(keys, call) {
                Request::Get(get) => read_by(keys, &get, &answer.kvs),
                _ => Vec::new(),
            },
            ttl: Duration::ZERO,
        }),
        // The header revisions of lease calls are not linearizable (R8): never to be compared.
        Ok(Response::Lease(answer)) => Outcome::Done(Answer {
            revision: Revision(0),
            cluster: answer.cluster,
            changes: Vec::new(),
            ttl: answer.ttl,
        }),
        Err(StoreError::LeaseNotFound) => Outcome::LeaseNotFound,
        Err(StoreError::LeaseExists) => Outcome::LeaseExists,
        Err(error) => match error.effected() {
            Effected::No => Outcome::Failed,
            Effected::Unknown => Outcome::Unknown,
        },
    }
}

/// What the reads of the list that was taken show. A key that was asked for by name and is not there
/// shows as absent.
fn changes_of(keys: &Keys, call: &Call, succeeded: bool, reads: &[Vec<KeyValue>]) -> Vec<Change> {
    if reads.is_empty()
        || succeeded && !matches!(call, Call::ReadJoin { .. } | Call::ReadEnd { .. })
    {
        return Vec::new();
    }
    let Request::Txn(txn) = transaction(keys, call) else { return Vec::new() };
    let ops = if succeeded { txn.then } else { txn.otherwise };
    ops.iter()
        .zip(reads)
        .flat_map(|(op, kvs)| match op {
            Op::Get(get) => read_by(keys, get, kvs),
            Op::Put { .. } | Op::Delete(_) => Vec::new(),
        })
        .collect()
}

fn read_by(keys: &Keys, get: &Get, kvs: &[KeyValue]) -> Vec<Change> {
    if kvs.is_empty() && get.range.is_key() {
        let absent = keys.parse(&get.range.from).and_then(|key| values::change(key, None));
        return absent.into_iter().collect();
    }
    Decoded::of_list(keys, kvs).changes
}

/// Sends a call once and says what became of it, within `timeout`.
///
/// # Cancel safety
///
/// A dropped future leaves the call as [`Outcome::Unknown`]: it may take effect, now or later.
pub async fn send(store: &dyn Store, keys: &Keys, call: &Call, timeout: Duration) -> Outcome {
    let result = request(store, transaction(keys, call), timeout).await;
    if let Err(error) = &result {
        tracing::debug!(call = name(call), %error, "store call failed");
    }
    outcome(keys, call, result)
}

/// Sends a request once.
///
/// # Errors
///
/// What the store says.
///
/// # Cancel safety
///
/// A dropped future leaves it open whether the request takes effect.
pub async fn request(
    store: &dyn Store,
    request: Request,
    timeout: Duration,
) -> Result<Response, StoreError> {
    match request {
        Request::Txn(txn) => store.txn(txn, timeout).await.map(Response::Txn),
        Request::Get(get) => store.get(get, timeout).await.map(Response::Get),
        Request::Grant { lease, ttl } => {
            store.grant(lease, ttl, timeout).await.map(Response::Lease)
        }
        Request::Revoke(lease) => store.revoke(lease, timeout).await.map(Response::Lease),
        Request::KeepAlive(lease) => store.keep_alive(lease, timeout).await.map(Response::Lease),
    }
}

/// The lease that names the candidate key of the record's writer.
fn holder(record: &Record) -> LeaseId {
    record.lease.expect("a record that is written from office names its lease")
}

fn empty_held(nonce: u64) -> Vec<u8> {
    values::encode_held(&Held { nonce, ..Held::default() })
}

/// R11: a read goes through the quorum because it holds at least one range.
fn read(gets: impl IntoIterator<Item = Get>) -> Txn {
    Txn { then: gets.into_iter().map(Op::Get).collect(), ..Txn::default() }
}

fn gets(keys: impl IntoIterator<Item = Vec<u8>>) -> Vec<Op> {
    keys.into_iter().map(get).collect()
}

fn get(key: Vec<u8>) -> Op {
    Op::Get(Get::key(key))
}

fn put(key: Vec<u8>, value: Vec<u8>, lease: Option<LeaseId>) -> Op {
    Op::Put { key, value, lease }
}

fn delete(key: Vec<u8>) -> Op {
    Op::Delete(KeyRange::key(key))
}

fn compare(range: KeyRange, target: Target, op: CompareOp, revision: Revision) -> Compare {
    Compare { range, target, op, revision }
}

/// c(key) = `revision`
fn created(key: &[u8], revision: Revision) -> Compare {
    compare(KeyRange::key(key), Target::Created, CompareOp::Equal, revision)
}

/// m(key) = `revision`
fn modified(key: &[u8], revision: Revision) -> Compare {
    compare(KeyRange::key(key), Target::Modified, CompareOp::Equal, revision)
}

/// c(key) = 0
fn absent(key: &[u8]) -> Compare {
    created(key, Revision(0))
}

/// Everything in the range is older than `revision`.
fn before(range: KeyRange, target: Target, revision: Revision) -> Compare {
    compare(range, target, CompareOp::Less, revision)
}

fn next(revision: Revision) -> Revision {
    Revision(revision.0 + 1)
}

#[cfg(test)]
mod tests;
