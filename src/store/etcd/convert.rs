//! Conversions between the store's types and those of etcd-client.

use etcd_client::{
    Compare as EtcdCompare, CompareOp as EtcdOp, DeleteOptions, GetOptions, GetResponse,
    PutOptions, ResponseHeader, Txn as EtcdTxn, TxnOp, TxnResponse,
    proto::{PbKeyValue, PbTxnOpResponse},
};

use crate::{
    engine::types::{LeaseId, Revision},
    store::{Compare, CompareOp, Get, GetAnswer, KeyRange, KeyValue, Op, Target, Txn, TxnAnswer},
};

/// Revision and cluster id of an answer; zero without a header (all answers of etcd have one).
pub(super) fn header(header: Option<&ResponseHeader>) -> (Revision, u64) {
    header.map_or((Revision(0), 0), |header| (Revision(header.revision()), header.cluster_id()))
}

pub(super) fn txn(txn: &Txn) -> EtcdTxn {
    let list = |ops: &[Op]| ops.iter().map(op).collect::<Vec<_>>();
    let mut converted = EtcdTxn::new();
    if !txn.compares.is_empty() {
        converted = converted.when(txn.compares.iter().map(compare).collect::<Vec<_>>());
    }
    if !txn.then.is_empty() {
        converted = converted.and_then(list(&txn.then));
    }
    if !txn.otherwise.is_empty() {
        converted = converted.or_else(list(&txn.otherwise));
    }
    converted
}

fn compare(compare: &Compare) -> EtcdCompare {
    let op = match compare.op {
        CompareOp::Equal => EtcdOp::Equal,
        CompareOp::NotEqual => EtcdOp::NotEqual,
        CompareOp::Less => EtcdOp::Less,
        CompareOp::Greater => EtcdOp::Greater,
    };
    let key = compare.range.from.as_slice();
    let converted = match &compare.target {
        Target::Created(revision) => EtcdCompare::create_revision(key, op, revision.0),
        Target::Modified(revision) => EtcdCompare::mod_revision(key, op, revision.0),
        Target::Value(value) => EtcdCompare::value(key, op, value.as_slice()),
    };
    match end(&compare.range) {
        Some(end) => converted.with_range(end),
        None => converted,
    }
}

fn op(op: &Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => TxnOp::put(
            key.as_slice(),
            value.as_slice(),
            lease.map(|lease| PutOptions::new().with_lease(lease.0)),
        ),
        Op::Delete(range) => TxnOp::delete(
            range.from.as_slice(),
            end(range).map(|end| DeleteOptions::new().with_range(end)),
        ),
        Op::Get(get) => TxnOp::get(get.range.from.as_slice(), Some(get_options(get))),
    }
}

/// End of a range, if the range is more than one key.
pub(super) fn end(range: &KeyRange) -> Option<&[u8]> {
    (!range.is_key()).then_some(range.to.as_slice())
}

pub(super) fn get_options(get: &Get) -> GetOptions {
    let mut options = GetOptions::new().with_limit(get.limit);
    if get.keys_only {
        options = options.with_keys_only();
    }
    if let Some(at) = get.at {
        options = options.with_revision(at.0);
    }
    match end(&get.range) {
        Some(end) => options.with_range(end),
        None => options,
    }
}

pub(super) fn get_answer(response: GetResponse) -> GetAnswer {
    let (revision, cluster) = header(response.header());
    let more = response.more();
    let kvs = response.0.kvs.into_iter().map(key_value).collect();
    GetAnswer { revision, cluster, kvs, more }
}

pub(super) fn txn_answer(response: TxnResponse) -> TxnAnswer {
    let (revision, cluster) = header(response.header());
    let succeeded = response.succeeded();
    let count = response.0.responses.len();
    let (mut reads, mut deleted) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for response in response.0.responses {
        let (read, gone) = match response.response {
            Some(PbTxnOpResponse::ResponseRange(range)) => {
                (range.kvs.into_iter().map(key_value).collect(), 0)
            }
            Some(PbTxnOpResponse::ResponseDeleteRange(range)) => (Vec::new(), range.deleted),
            Some(PbTxnOpResponse::ResponsePut(_) | PbTxnOpResponse::ResponseTxn(_)) | None => {
                (Vec::new(), 0)
            }
        };
        reads.push(read);
        deleted.push(gone);
    }
    TxnAnswer { succeeded, revision, cluster, reads, deleted }
}

pub(super) fn key_value(kv: PbKeyValue) -> KeyValue {
    KeyValue {
        key: kv.key,
        value: kv.value,
        created: Revision(kv.create_revision),
        modified: Revision(kv.mod_revision),
        version: kv.version,
        lease: (kv.lease != 0).then_some(LeaseId(kv.lease)),
    }
}
