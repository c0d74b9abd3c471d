//! The protocol's transactions, as keys and compares: the only module that spells them, for the driver, the
//! supervisor, the command line and the simulation.
//!
//! [`transaction`] builds the request of a [`Call`], [`outcome`] interprets the store's answer, [`send`]
//! does both around a store. T1 to T19 and R11 are defined in `docs/protocol.md`. The most important rule:
//! every compare here is load-bearing. This module decides nothing, and sends nothing twice.

mod transactions;

use std::time::Duration;

use crate::{
    engine::{Answer, Call, Change, LeaseId, Outcome, Revision},
    store::{
        Effected, Event, Get, GetAnswer, KeyValue, LeaseAnswer, Op, Store, StoreError, Txn,
        TxnAnswer, keys::Keys, values,
    },
};

pub use transactions::{MAX_TXN_OPS, delete_own_key, holds, in_office, own_key, transaction};

/// Request of a call, in the form that the store takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Transaction to carry out.
    Txn(Txn),
    /// Linearizable read of a range.
    Get(Get),
    /// Grant of a lease (T1).
    Grant {
        /// Id of the new lease.
        lease: LeaseId,
        /// Time to live of the lease.
        ttl: Duration,
    },
    /// Revocation of a lease (T11).
    Revoke(LeaseId),
    /// Single renewal of a lease.
    KeepAlive(LeaseId),
}

/// Answer of the store to a [`Request`] of the same kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// Answer to a transaction.
    Txn(TxnAnswer),
    /// Answer to a read.
    Get(GetAnswer),
    /// Answer to a grant, a revoke or a renewal.
    Lease(LeaseAnswer),
}

/// Entries that were read, decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Changes of keys of the catalogue.
    pub changes: Vec<Change>,
    /// Number of keys that were skipped because they are not in the catalogue.
    pub foreign: u64,
}

impl Decoded {
    /// Decodes the entries of a list.
    pub fn of_list(keys: &Keys, kvs: &[KeyValue]) -> Self {
        let mut decoded = Self::default();
        for kv in kvs {
            decoded.add(keys, &kv.key, Some(kv));
        }
        decoded
    }

    /// Decodes the events of one revision.
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

/// The name of a call, for metrics and logs: the names form a closed set.
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

/// Ranges that a request reads: if its compares hold, and if not. No list of operations mixes reads and writes.
pub fn reads(request: &Request) -> [Vec<Get>; 2] {
    let gets = |ops: &[Op]| {
        let gets = ops.iter().filter_map(|op| match op {
            Op::Get(get) => Some(get.clone()),
            Op::Put { .. } | Op::Delete(_) => None,
        });
        gets.collect()
    };
    match request {
        Request::Txn(txn) => [gets(&txn.then), gets(&txn.otherwise)],
        Request::Get(get) => [vec![get.clone()], Vec::new()],
        Request::Grant { .. } | Request::Revoke(_) | Request::KeepAlive(_) => Default::default(),
    }
}

/// Outcome of a call that [`reads`] these ranges, from the answer or the error of the store.
pub fn outcome(
    keys: &Keys,
    [done, refused]: &[Vec<Get>; 2],
    result: Result<Response, StoreError>,
) -> Outcome {
    match result {
        Ok(Response::Txn(answer)) => {
            let succeeded = answer.succeeded;
            let answer = Answer {
                revision: answer.revision,
                cluster: answer.cluster,
                changes: read_by(keys, if succeeded { done } else { refused }, &answer.reads),
                ttl: Duration::ZERO,
            };
            if succeeded { Outcome::Done(answer) } else { Outcome::Refused(answer) }
        }
        Ok(Response::Get(answer)) => Outcome::Done(Answer {
            revision: answer.revision,
            cluster: answer.cluster,
            changes: read_by(keys, done, &[answer.kvs]),
            ttl: Duration::ZERO,
        }),
        // The header revisions of lease calls are not linearizable (R8, replaced store): they must never be
        // compared.
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

/// Decodes what was read. A single key that was asked for and does not exist yields a change to absent.
fn read_by(keys: &Keys, gets: &[Get], reads: &[Vec<KeyValue>]) -> Vec<Change> {
    let changes = gets.iter().zip(reads).flat_map(|(get, kvs)| {
        if kvs.is_empty() && get.range.is_key() {
            let absent = keys.parse(&get.range.from).and_then(|key| values::change(key, None));
            return absent.into_iter().collect();
        }
        Decoded::of_list(keys, kvs).changes
    });
    changes.collect()
}

/// Sends a call once, with the deadline `timeout`, and returns its outcome.
///
/// # Cancel safety
///
/// After a dropped future the call counts as [`Outcome::Unknown`]: the call may take effect, now or later.
pub async fn send(store: &dyn Store, keys: &Keys, call: &Call, timeout: Duration) -> Outcome {
    let asked = transaction(keys, call);
    let reads = reads(&asked);
    let result = request(store, asked, timeout).await;
    if let Err(error) = &result {
        tracing::debug!(call = name(call), %error, "store call failed");
    }
    outcome(keys, &reads, result)
}

/// Sends a request once.
///
/// # Errors
///
/// The error of the store's call.
///
/// # Cancel safety
///
/// After a dropped future, the request may or may not take effect.
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

#[cfg(test)]
mod tests;
