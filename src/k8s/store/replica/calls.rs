//! Calls as the replica carries them out, and what they change.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    engine::BootTime,
    store::{
        Op, StoreError,
        keys::{Key, Keys},
        memory::Model,
        protocol::{Request, Response},
    },
};

/// All calls are evaluated at this time: leases end by the Leases of the incarnations, never by the model.
const NO_TIME: BootTime = BootTime(Duration::ZERO);

/// Carries out a call on a model.
pub(super) fn evaluate(request: &Request, model: &mut Model) -> Result<Response, StoreError> {
    match request {
        Request::Txn(txn) => model.txn(NO_TIME, txn).map(Response::Txn),
        Request::Get(get) => model.get(NO_TIME, get).map(Response::Get),
        Request::Grant { lease, ttl } => model.grant(NO_TIME, *lease, *ttl).map(Response::Lease),
        Request::Revoke(lease) => model.revoke(NO_TIME, *lease).map(Response::Lease),
        Request::KeepAlive(lease) => Ok(Response::Lease(model.keep_alive(NO_TIME, *lease))),
    }
}

/// Whether a call only writes data of users, which no rule of the protocol waits for.
pub(super) fn is_of_users(request: &Request, keys: &Keys) -> bool {
    let Request::Txn(txn) = request else { return false };
    let mut written = txn.then.iter().chain(&txn.otherwise).filter_map(|op| match op {
        Op::Put { key, .. } => Some(key),
        Op::Delete(range) => Some(&range.from),
        Op::Get(_) => None,
    });
    let is_data = |key: &Vec<u8>| matches!(keys.parse(key), Some(Key::State { .. } | Key::Data(_)));
    txn.then.iter().any(|op| !matches!(op, Op::Get(_))) && written.all(is_data)
}

/// Whether a call has changed the model: each change raises the revision or changes the set of leases.
pub(super) fn differ(before: &Model, after: &Model) -> bool {
    before.revision() != after.revision() || !before.leases().eq(after.leases())
}

/// Keys that a call put; `None` if the call may have deleted something.
pub(super) fn puts_only(request: &Request, response: &Response) -> Option<BTreeSet<Vec<u8>>> {
    match (request, response) {
        (Request::Txn(txn), Response::Txn(answer)) => {
            let ops = if answer.succeeded { &txn.then } else { &txn.otherwise };
            let puts = ops.iter().map(|op| match op {
                Op::Put { key, .. } => Some(Some(key.clone())),
                Op::Get(_) => Some(None),
                Op::Delete(_) => None,
            });
            puts.collect::<Option<Vec<_>>>().map(|keys| keys.into_iter().flatten().collect())
        }
        (Request::Grant { .. }, _) => Some(BTreeSet::new()),
        _ => None,
    }
}

/// The answer with the id of the cluster, which is known only after the object was created.
pub(super) fn of_cluster(mut response: Response, cluster: u64) -> Response {
    match &mut response {
        Response::Txn(answer) => answer.cluster = cluster,
        Response::Get(answer) => answer.cluster = cluster,
        Response::Lease(answer) => answer.cluster = cluster,
    }
    response
}
