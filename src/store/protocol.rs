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

/// Outcome of a call, from the answer or the error of the store.
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

/// Decodes the reads of the list that the transaction took. A single key that was asked for and does not
/// exist yields a change to absent.
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

/// Sends a call once, with the deadline `timeout`, and returns its outcome.
///
/// # Cancel safety
///
/// After a dropped future the call counts as [`Outcome::Unknown`]: the call may take effect, now or later.
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
