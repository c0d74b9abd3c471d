//! Rules that are left out on purpose: of the engine, or of the code around it (transactions, stamps, parent).

use bellwether::{
    engine::{Call, Revision, mutant::Mutant},
    store::{
        Compare, CompareOp, KeyRange, Target, Txn,
        keys::{Key, Keys},
        protocol::Request,
    },
};

use crate::wire::Ask;

/// A single rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Break {
    /// A rule of the engine.
    Engine(Mutant),
    /// A rule of the code around the engine.
    Harness(Broken),
}

/// A rule that is left out around the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    /// R1 (stamps): receipts are stamped before the receive.
    StampBeforeReceive,
    /// T5: TAKE does not compare the record.
    TakeWithoutRecord,
    /// T5: TAKE compares the record's revision, not its value.
    TakeByRevision,
    /// T5: TAKE does not compare the candidate key of the record's holder.
    TakeWithoutHolder,
    /// T6, T7: the fence compares only that the candidate key exists.
    FenceByExistence,
    /// T6, T7: the fence compares the create revision.
    FenceByCreation,
    /// T10: END marks the record ended, even if another incarnation is in office.
    EndOfForeignRecord,
    /// T10: END does not compare the record.
    EndWithoutRecord,
    /// T10: END is sent for a living process.
    EndOfLiving,
    /// T15: PLAN compares all held keys by a range.
    PlanWithRange,
    /// T15: PLAN does not compare the plan it was made from.
    PlanWithoutPlan,
    /// T16: shard writes compare only that the held key exists.
    ShardWriteByExistence,
    /// T17 (own keys): own state is put without a compare.
    PlainPut,
    /// T8, T9: the record is marked ended without a compare.
    EndedWithoutOffice,
}

impl Broken {
    /// Removes the rule from a transaction of the protocol.
    pub fn alter(self, keys: &Keys, call: &Call, request: &mut Request) {
        let Request::Txn(txn) = request else { return };
        match (self, call) {
            (Self::TakeWithoutRecord, Call::Take(_))
            | (Self::EndWithoutRecord, Call::End { .. }) => {
                txn.compares.retain(|compare| compare.range.from != keys.record());
            }
            (Self::TakeByRevision, Call::Take(_)) => {
                txn.compares.retain(|compare| !matches!(compare.target, Target::Value(_)));
            }
            (Self::TakeWithoutHolder, Call::Take(_)) => {
                txn.compares.retain(|compare| compare.op != CompareOp::NotEqual);
            }
            (
                Self::FenceByExistence,
                Call::Beat { .. }
                | Call::Resign { .. }
                | Call::Stop { .. }
                | Call::Plan { .. }
                | Call::InitPlan { .. }
                | Call::DeleteHeld { .. },
            ) => by_existence(keys, txn),
            (
                Self::FenceByCreation,
                Call::Beat { record, .. }
                | Call::Resign { record, .. }
                | Call::Stop { office: Some((_, record)), .. },
            ) => by_creation(keys, txn, record.term.0),
            (Self::PlanWithoutPlan, Call::Plan { work, .. }) => {
                txn.compares.retain(|compare| compare.range.from != keys.plan(work));
            }
            (Self::PlanWithRange, Call::Plan { table, .. }) => {
                let view = table.shards.iter().map(|shard| shard.epoch.0).max().unwrap_or(0);
                let before = txn.compares.len();
                txn.compares.retain(|compare| !is_held(keys, compare));
                if txn.compares.len() < before {
                    txn.compares.push(Compare {
                        range: keys.all_held(),
                        target: Target::Modified(Revision(view + 1)),
                        op: CompareOp::Less,
                    });
                }
            }
            (Self::EndedWithoutOffice, Call::Resign { .. } | Call::Stop { .. }) => {
                txn.compares.retain(|compare| !is_candidate(keys, compare));
            }
            _ => (),
        }
    }

    /// Removes the rule from a write of the work.
    pub fn alter_raw(self, keys: &Keys, ask: &Ask, txn: &mut Txn) {
        match (self, ask) {
            (Self::FenceByExistence, Ask::Fenced(_)) => by_existence(keys, txn),
            (Self::FenceByCreation, Ask::Fenced(office)) => by_creation(keys, txn, office.term.0),
            (Self::ShardWriteByExistence, Ask::ShardWrite(..)) => {
                for compare in &mut txn.compares {
                    exists(compare);
                }
            }
            (Self::PlainPut, Ask::Own(ask)) if ask.name() == "put" => txn.compares.clear(),
            _ => (),
        }
    }
}

fn by_existence(keys: &Keys, txn: &mut Txn) {
    for compare in txn.compares.iter_mut().filter(|compare| is_candidate(keys, compare)) {
        exists(compare);
    }
}

/// The compare `c(key) > 0`: the key exists.
fn exists(compare: &mut Compare) {
    compare.op = CompareOp::Greater;
    compare.target = Target::Created(Revision(0));
}

fn by_creation(keys: &Keys, txn: &mut Txn, term: i64) {
    for compare in txn.compares.iter_mut().filter(|compare| is_candidate(keys, compare)) {
        compare.target = Target::Created(Revision(term));
    }
}

fn is_candidate(keys: &Keys, compare: &Compare) -> bool {
    matches!(keys.parse(&compare.range.from), Some(Key::Candidate(_)))
}

fn is_held(keys: &Keys, compare: &Compare) -> bool {
    matches!(keys.parse(&compare.range.from), Some(Key::Held(_)))
        && compare.range == KeyRange::key(compare.range.from.clone())
}
