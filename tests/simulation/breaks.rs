//! Rules that are left out on purpose: inside the engine, or around it, in what an engine receives, sends and
//! asks for, and in the transactions, the stamps and the parent.

use std::time::Duration;

use bellwether::{
    engine::{
        Answer, BootTime, Call, Change, Effect, Engine, Held, Input, LeaseId, Outcome, Record,
        Revision, ShardEnd, Stored, WorkEnd, mutant::Mutant,
    },
    store::{
        Compare, CompareOp, KeyRange, Target, Txn,
        keys::{Key, Keys},
        protocol::Request,
    },
};

use crate::{
    host::{ProcId, Shard, ShardWork, Step},
    kube::KubeBreak,
    wire::Ask,
    world::World,
};

/// A single rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Break {
    /// A rule of the engine.
    Engine(Mutant),
    /// A rule of the code around the engine.
    Harness(Broken),
    /// A rule of the store on Kubernetes.
    Kube(KubeBreak),
}

/// A rule that is left out around the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    /// R1 (when clocks are read), R4 (what gives authority): authority counts from the receipt of the answer
    /// to a beat.
    AuthorityFromReceipt,
    /// R3 (receipt of the record): no wait for an absent record.
    AbsentRecordNotWaitedFor,
    /// R4: an echo counts for the last attempt.
    EchoForLastAttempt,
    /// D changes within a term.
    DChangedInTerm,
    /// R5 (a closed term stays closed): a closed term is resigned instead of withdrawn.
    ResignClosedTerm,
    /// R5: authority is dropped only after RESIGN was answered.
    DropAfterResigning,
    /// R5: the node goes on as if its RESIGN had not been sent.
    ResumeAfterLostResign,
    /// R6 (when to TAKE office): no wait after an unclean end.
    NoWaitAfterUncleanEnd,
    /// R6: a candidate waits by its own D.
    OwnDInsteadOfRecords,
    /// R6: candidates wait without limit for an oldest candidate that is not in office.
    NoPatience,
    /// R7 (clean end of an office): a node that is not in office marks the record ended.
    EndedByOutsider,
    /// R7: the record is marked ended before the work was joined.
    EndedBeforeJoined,
    /// R10 (lost session): a new incarnation keeps the shards of the old one.
    NewIncarnationKeepsShards,
    /// R16 (renewals without answer): a node keeps a lease whose renewals are not answered.
    UnansweredRenewalsKept,
    /// T12 (CLAIM, of a shard): a node acts on a shard without a committed claim.
    ActWithoutClaim,
    /// T12: an unanswered claim counts as failed and is not settled.
    ClaimNotSettled,
    /// T12: CLAIM does not compare the plan.
    ClaimWithoutPlan,
    /// T13 (RELEASE, of a shard): a shard is released before its tasks have ended.
    ReleaseBeforeStopping,
    /// T14 (CHECK, of the own held key): keepalives give shard authority.
    ShardAuthorityFromKeepalive,
    /// T14: CHECK accepts any value of a held key that hangs on the own lease.
    InexactCheck,
    /// T15 (PLAN, of shards): PLAN does not compare the held keys of the owners that shards are taken from.
    PlanWithoutProof,
    /// T15: the leader takes draining back.
    DrainCalledOff,
    /// T15: the shards of a vanished owner are free at once.
    VanishedOwnerFreedAtOnce,
    /// T19 (REPAIR): nodes do not repair broken candidate keys.
    NoRepair,
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

impl Broken {
    /// Whether the engines see other values than the store has.
    pub const fn alters_views(self) -> bool {
        matches!(
            self,
            Self::EchoForLastAttempt
                | Self::NoWaitAfterUncleanEnd
                | Self::OwnDInsteadOfRecords
                | Self::VanishedOwnerFreedAtOnce
        )
    }

    /// Removes the rule from a call of an engine.
    fn alter_call(self, engine: &Engine, call: &mut Call) {
        match (self, call) {
            (Self::AbsentRecordNotWaitedFor, Call::Seed { ended, .. }) => *ended = true,
            (Self::DChangedInTerm, Call::Beat { record, .. }) if record.n.is_multiple_of(4) => {
                record.d /= 4;
            }
            (Self::ClaimWithoutPlan, Call::WriteHeld { plans, .. }) => plans.clear(),
            (Self::PlanWithoutProof, Call::Plan { proofs, .. }) => proofs.clear(),
            (Self::DrainCalledOff, Call::Plan { work, table, .. }) => {
                let before = engine.view().plans().find(|(of, _)| *of == work);
                let before = before.map_or(&[][..], |(_, before)| &before.shards);
                for (shard, before) in table.shards.iter_mut().zip(before) {
                    shard.draining &= !before.draining;
                }
            }
            (Self::EndedByOutsider, Call::Stop { lease, office: office @ None, .. }) => {
                let own = engine.view().candidate(*lease);
                let seen = engine.view().sound_record().cloned();
                *office = own.zip(seen).map(|(own, seen)| {
                    (own.modified, Record { lease: Some(*lease), ended: true, ..seen })
                });
            }
            (Self::ResignClosedTerm, call @ Call::Withdraw { .. }) => {
                let Call::Withdraw { lease, modified } = *call else { return };
                let own = engine.view().candidate(lease).filter(|_| engine.joined() == Some(lease));
                let record = engine.view().sound_record().cloned();
                if let Some((own, record)) = own.zip(record)
                    && record.term.0 == own.created.0
                {
                    let record = Record { ended: true, lease: Some(lease), ..record };
                    *call = Call::Resign { office: modified, record };
                }
            }
            _ => (),
        }
    }

    /// Whether a call is never sent, and fails.
    pub fn holds_back(self, engine: &Engine, call: &Call) -> bool {
        match (self, call) {
            (Self::NoPatience, Call::Take(take)) => {
                let leader = engine.view().sound_record();
                take.older.first().is_some_and(|(oldest, created)| {
                    leader.is_none_or(|record| {
                        record.lease != Some(*oldest) || record.term.0 != created.0
                    })
                })
            }
            (Self::NoRepair, Call::Withdraw { lease, .. }) => {
                let seen = engine.view().candidate(*lease);
                seen.is_some_and(|seen| seen.lease != Some(*lease) || seen.value.is_none())
            }
            _ => false,
        }
    }
}

impl World {
    /// Removes the rule from an input of an engine.
    pub fn break_input(&mut self, p: ProcId, input: &mut Input) {
        let Some(broken) = self.broken else { return };
        let proc = &self.procs[p];
        let own = proc.engine.joined();
        if let (Broken::ResumeAfterLostResign, Input::Resign) = (broken, &*input) {
            let record = proc.engine.view().record().cloned();
            if let Some((office, record)) = proc.engine.office().zip(record) {
                let record = Record { ended: true, ..record };
                self.send_raw(p, Ask::Call(Call::Resign { office: office.revision, record }));
            }
            *input = Input::Tick;
        }
        let proc = &self.procs[p];
        let d = self.scenario.nodes[proc.slot].d();
        let (Input::Listed { changes, .. } | Input::Changed { changes, .. }) = input else {
            return;
        };
        for change in changes {
            match change {
                Change::Record(Some(Stored { value: Some(record), .. })) => match broken {
                    Broken::EchoForLastAttempt if record.lease == own => record.n = proc.last_n,
                    Broken::NoWaitAfterUncleanEnd if record.lease != own => {
                        record.d = Duration::ZERO;
                    }
                    Broken::OwnDInsteadOfRecords if record.lease != own => record.d = d,
                    _ => (),
                },
                Change::Member(id, Some(Stored { value: Some(member), .. }))
                    if broken == Broken::VanishedOwnerFreedAtOnce && *id != proc.id =>
                {
                    member.f = Duration::ZERO;
                }
                _ => (),
            }
        }
    }

    /// Removes the rule from the effects that an engine asks for.
    pub fn break_effects(&mut self, p: ProcId, effects: &mut [Effect]) {
        let Some(broken) = self.broken else { return };
        let proc = &mut self.procs[p];
        for effect in effects {
            match effect {
                Effect::Send { call, .. } => {
                    broken.alter_call(&proc.engine, call);
                    match call {
                        Call::Take(take) => proc.last_n = take.record.n,
                        Call::Beat { record, .. } => proc.last_n = record.n,
                        Call::Resign { .. } if broken == Broken::DropAfterResigning => {
                            proc.kept_until = proc.authority_until;
                        }
                        _ => (),
                    }
                }
                // The tasks are reported as ended when they are cancelled.
                Effect::StopWork { work, reason }
                    if broken == Broken::EndedBeforeJoined && *reason != WorkEnd::Suspended =>
                {
                    proc.steps.push_back(Step::Input(Input::WorkEnded { work: *work }));
                }
                Effect::StopShard { work, shard, reason }
                    if broken == Broken::ReleaseBeforeStopping && *reason == ShardEnd::Moved
                        || broken == Broken::NewIncarnationKeepsShards
                            && *reason == ShardEnd::SessionLost =>
                {
                    let (work, shard) = (work.clone(), *shard);
                    proc.steps.push_back(Step::Input(Input::ShardEnded { work, shard }));
                }
                _ => (),
            }
        }
    }

    /// Removes the rule from the answer to a call of an engine.
    pub fn break_answer(
        &mut self,
        p: ProcId,
        call: &Call,
        sent_at: &mut BootTime,
        outcome: &mut Outcome,
    ) {
        let Some(broken) = self.broken else { return };
        match (broken, call, &mut *outcome) {
            (Broken::AuthorityFromReceipt, Call::Beat { .. }, Outcome::Done(answer)) => {
                *sent_at = self.local(p);
                // R8 (replaced store) compares revisions by the sending time.
                answer.revision = Revision(0);
            }
            (Broken::ClaimNotSettled, Call::WriteHeld { .. }, Outcome::Unknown) => {
                *outcome = Outcome::Failed;
            }
            (Broken::UnansweredRenewalsKept, Call::Renew { .. }, Outcome::Unknown) => {
                let ttl = Duration::from_secs(self.scenario.ttl);
                *outcome = Outcome::Done(Answer { ttl, ..Answer::default() });
            }
            (
                Broken::DropAfterResigning,
                Call::Resign { .. },
                Outcome::Done(_) | Outcome::Refused(_),
            ) => {
                self.procs[p].kept_until = 0;
            }
            (Broken::ActWithoutClaim, Call::WriteHeld { .. }, outcome)
                if !matches!(outcome, Outcome::Done(_)) =>
            {
                self.end_early_tasks(p);
            }
            (Broken::InexactCheck, Call::Check { lease }, Outcome::Done(answer)) => {
                let h = self.procs[p].engine.shard_authority().map(|it| it.held);
                for change in &mut answer.changes {
                    if let Change::Held(_, Some(stored)) = change
                        && stored.lease == Some(*lease)
                        && self.held_written.get(lease) != Some(&stored.modified)
                        && let Some(h) = h
                    {
                        stored.modified = h;
                        stored.value = None;
                    }
                }
            }
            _ => (),
        }
    }

    /// T14: the answer to a CHECK that was sent as a keepalive. `renewed` is the answer to that keepalive.
    pub fn checked_by_keepalive(&self, p: ProcId, lease: LeaseId, renewed: &Outcome) -> Outcome {
        let h = self.procs[p].engine.shard_authority();
        let Some(modified) = h.filter(|h| h.lease == lease).map(|h| h.held) else {
            return Outcome::Unknown;
        };
        match renewed {
            Outcome::Done(answer) if !answer.ttl.is_zero() => {
                let held = Stored {
                    created: modified,
                    modified,
                    lease: Some(lease),
                    value: Some(Held::default()),
                    bytes: Vec::new(),
                };
                let changes = vec![Change::Held(lease, Some(held))];
                Outcome::Done(Answer { changes, ..Answer::default() })
            }
            _ => Outcome::Unknown,
        }
    }

    /// T12: tasks of claimed shards start when the claim is sent.
    pub fn start_early_tasks(&mut self, p: ProcId, content: &Held) {
        let held = self.procs[p].engine.shards();
        for (shard, epoch) in &content.shards {
            if held.contains_key(shard) || self.procs[p].shards.contains_key(shard) {
                continue;
            }
            let task = ShardWork { epoch: *epoch, stopping: false };
            self.procs[p].shards.insert(shard.clone(), task);
            self.runners.entry(shard.clone()).or_default().push(p);
        }
        self.check_single_owners(p);
    }

    fn end_early_tasks(&mut self, p: ProcId) {
        let held = self.procs[p].engine.shards();
        let early = self.procs[p].shards.iter();
        let early = early.filter(|(shard, task)| !task.stopping && !held.contains_key(*shard));
        for shard in early.map(|(shard, _)| shard.clone()).collect::<Vec<Shard>>() {
            self.procs[p].shards.remove(&shard);
            self.forget_runner(p, &shard);
        }
    }
}
