//! The queue of candidates: R3 (receipt of the record) and R6 (when to TAKE office); T3 (SEED), T4 (ENROL,
//! WITHDRAW), T5 (TAKE) and T19 (REPAIR).
//!
//! The one rule to keep (R6): only the record carries authority. Candidate keys only give the order of the
//! queue, and their absence proves nothing.

use std::{collections::BTreeMap, time::Duration};

use super::{Asked, Engine, Try, Work};
use crate::engine::{
    call::{Answer, Call, HolderClause, Office, Outcome, SessionEnd, Take},
    timing::RANK_STEP,
    types::{BootTime, LeaseId, NodeId, Revision, Term},
    view::Stored,
};

/// R6: a candidate with more of our candidates between the oldest and itself leaves deposing to others.
const RANK_MOST: usize = 50;
/// R6: largest number of older candidates that fit in one TAKE.
const OLDER_MOST: usize = 100;
/// Interval between two tries of a call whose outcome only the view shows.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// T19: time after which any node deletes a candidate key on a wrong lease.
const BROKEN_AFTER: Duration = Duration::from_secs(1);

/// Part of this incarnation in the election.
#[derive(Debug, Default)]
pub(super) struct Candidacy {
    /// R5 (a closed term stays closed): this term and all earlier ones never open again.
    closed: Term,
    /// Term and earliest sending time of each TAKE, by its `n`: for echoes.
    takes: BTreeMap<u64, (Term, BootTime)>,
    taking: Try,
    enrolling: Try,
    withdrawing: Try,
    seeding: Try,
    /// Revision that the view must have reached before the rules judge the own keys by it again.
    view_from: Revision,
    /// T8 (RESIGN): end of the pause after a plain resign, unless another node is in office before.
    pause_until: Option<BootTime>,
}

impl Candidacy {
    /// R5: closes the term permanently. Only the highest closed term is stored, so that years of terms need
    /// no memory: the terms of an incarnation are create revisions of one key and only grow, so no term up to
    /// the highest closed one can still come. (In a store where they do not grow, R8 ends the incarnation.) A
    /// term that counts as closed by mistake costs a WITHDRAW and an ENROL, never safety.
    pub(super) fn close(&mut self, term: Term) {
        self.closed = self.closed.max(term);
    }

    pub(super) fn is_closed(&self, term: Term) -> bool {
        term <= self.closed
    }

    /// Earliest sending times of the TAKEs of that term, by `n`.
    pub(super) fn attempts(&self, term: Term) -> BTreeMap<u64, BootTime> {
        let of_term = self.takes.iter().filter(|(_, (of, _))| *of == term);
        of_term.map(|(n, (_, at))| (*n, *at)).collect()
    }

    /// Makes the rules wait for a view at or past the revision of this answer.
    pub(super) fn await_view(&mut self, answer: &Answer) {
        self.view_from = self.view_from.max(answer.revision);
    }

    /// T8: leaves the office to others for a second.
    pub(super) fn pause(&mut self, now: BootTime) {
        self.pause_until = Some(now + Duration::from_secs(1));
    }
}

impl Engine {
    /// Whether this id was drained, by the node itself or by an operator.
    pub(super) fn is_drained(&self) -> bool {
        self.drain_wish || self.watched.drains.contains(&self.config.id)
    }

    /// Whether the node wants to be a candidate at all.
    pub(super) fn wants_office(&self) -> bool {
        self.config.campaigns
            && !self.unfit
            && self.health.is_good()
            && !self.is_drained()
            && !self.is_leaving()
    }

    pub(super) fn election_rules(&mut self) {
        if !self.session.is_listed() || self.watched.revision < self.candidacy.view_from {
            return;
        }
        let Some(lease) = self.session.lease() else { return };
        self.repair_rule(lease);
        self.repeat_resign(lease);
        if self.reign.is_some() || self.resigning.is_some() {
            return;
        }
        match self.watched.candidates.get(&lease).cloned() {
            Some(own) => self.candidate_rules(lease, &own),
            None => self.enrol_rule(lease),
        }
    }

    /// T4 (ENROL): creates the own candidate key.
    fn enrol_rule(&mut self, lease: LeaseId) {
        if !self.wants_office() || self.work != Work::Idle || self.candidacy.enrolling.in_flight {
            return;
        }
        if let Some(until) = self.candidacy.pause_until {
            let other = self.watched.seated().is_some_and(|(_, seated)| seated != lease);
            if !other && !self.is_due(until) {
                return;
            }
            self.candidacy.pause_until = None;
        }
        if !self.may_send(self.candidacy.enrolling) {
            return;
        }
        let Some(member_created) = self.session.joined() else { return };
        self.candidacy.enrolling = Try::sent_until(self.now + AGAIN_AFTER);
        let id = self.config.id;
        self.send(Asked::Enrol, Call::Enrol { lease, id, member_created });
    }

    pub(super) fn on_enrolled(&mut self, outcome: &Outcome) {
        self.candidacy.enrolling.answered();
        match outcome {
            Outcome::Done(answer) | Outcome::Refused(answer) => self.candidacy.await_view(answer),
            Outcome::LeaseNotFound => self.lose_session(SessionEnd::LeaseLost),
            // The view will show the key, or ENROL is sent again.
            Outcome::LeaseExists | Outcome::Failed | Outcome::Unknown => (),
        }
    }

    fn candidate_rules(&mut self, lease: LeaseId, own: &Stored<NodeId>) {
        let term = Term(own.created.0);
        let broken = own.lease != Some(lease) || own.value != Some(self.config.id);
        let closed = self.candidacy.is_closed(term);
        if broken {
            // T19: the owner of a broken key closes the term and withdraws.
            self.candidacy.close(term);
        }
        if broken || closed || self.is_of_the_past(own) || !self.wants_office() {
            self.withdraw_rule(lease, own);
            return;
        }
        self.take_rule(lease, term);
    }

    /// Whether a restored backup brought the own key back behind a later term, a sign of R8 (replaced store).
    /// TAKE deletes all older keys, so one history never shows such a key; to take office with it would let
    /// terms fall, against I2 (terms never fall). A record that was written before the key was created does
    /// not count: otherwise a record that an operator forged with a term of the far future would lock the
    /// cluster for ever.
    fn is_of_the_past(&self, own: &Stored<NodeId>) -> bool {
        let written = self.watched.record.as_ref().map_or(Revision(0), |stored| stored.modified);
        let later = self.watched.sound_record().is_some_and(|record| own.created.0 < record.term.0);
        later && own.created < written
    }

    /// T4 (WITHDRAW): deletes the own candidate key.
    fn withdraw_rule(&mut self, lease: LeaseId, own: &Stored<NodeId>) {
        if !self.may_send(self.candidacy.withdrawing) {
            return;
        }
        self.candidacy.withdrawing = Try::sent_until(self.now + AGAIN_AFTER);
        self.send(Asked::Withdraw(lease), Call::Withdraw { lease, modified: own.modified });
    }

    pub(super) fn on_withdrawn(&mut self, lease: LeaseId, outcome: &Outcome) {
        if self.session.lease() != Some(lease) {
            return;
        }
        self.candidacy.withdrawing.answered();
        if let Outcome::Done(answer) | Outcome::Refused(answer) = outcome {
            self.candidacy.withdrawing = Try::at(self.now);
            self.candidacy.await_view(answer);
        }
    }

    /// T5 (TAKE): takes office when R6 allows it.
    fn take_rule(&mut self, lease: LeaseId, term: Term) {
        if self.candidacy.taking.in_flight || self.work != Work::Idle {
            return;
        }
        let Some(at) = self.take_at(term) else { return };
        if self.watched.record.is_none() {
            self.seed_rule();
            return;
        }
        let at = at.max(self.candidacy.taking.again_at);
        if self.is_due(at) {
            self.take(lease, term);
        }
    }

    /// Time W to wait for the record as it is now, by R3 (receipt of the record).
    fn record_wait(&self) -> Duration {
        match self.watched.sound_record() {
            Some(record) if record.ended => Duration::ZERO,
            Some(record) => self.config.wait(record.d),
            None => self.config.wait(self.config.timing.span_max),
        }
    }

    /// R6: time when this node may TAKE; `None` = not while the queue is as it is.
    fn take_at(&self, term: Term) -> Option<BootTime> {
        let watched = &self.watched;
        let w = watched.record_at + self.record_wait();
        let mut older = watched.queue.range(..Revision(term.0));
        let Some((oldest_created, oldest)) = older.next() else {
            let go = watched.go_gone_at.map(|at| at + self.config.wait(self.config.failover.d()));
            return Some(go.map_or(w, |go| go.max(w)));
        };
        if !watched.is_ours(*oldest) {
            return None;
        }
        let others: Vec<&LeaseId> = older.map(|(_, lease)| lease).take(OLDER_MOST).collect();
        if OLDER_MOST <= others.len() {
            return None;
        }
        let rank = others.iter().filter(|lease| watched.is_ours(***lease)).count();
        if RANK_MOST < rank {
            return None;
        }
        let step = RANK_STEP * u32::try_from(rank).unwrap_or(u32::MAX);
        let leads = watched.sound_record().is_some_and(|record| {
            record.term.0 == oldest_created.0 && record.lease == Some(*oldest)
        });
        if leads {
            return Some(w + step);
        }
        let since = watched.oldest.map_or(self.now, |(_, _, since)| since);
        let d = watched.sound_record().map_or(self.config.timing.span_max, |record| record.d);
        let patience = self.config.wait(d.max(watched.d_of(*oldest)));
        // A step more for the oldest candidate, which may have to wait as long: so the oldest goes first.
        Some(w.max(since + patience + step + RANK_STEP))
    }

    /// T3 (SEED, of an absent record): sent by a candidate that would TAKE otherwise.
    fn seed_rule(&mut self) {
        if self.may_send(self.candidacy.seeding) {
            self.candidacy.seeding = Try::sent_until(self.now + AGAIN_AFTER);
            let (d, ended) = (self.config.timing.span_max, self.config.own_store);
            self.send(Asked::Seed, Call::Seed { d, ended });
        }
    }

    pub(super) fn on_seeded(&mut self) {
        self.candidacy.seeding.answered();
    }

    fn take(&mut self, lease: LeaseId, term: Term) {
        let Some(seen) = &self.watched.record else { return };
        let (record_modified, record_value) = (seen.modified, seen.bytes.clone());
        let older: Vec<(LeaseId, Revision)> = self
            .watched
            .queue
            .range(..Revision(term.0))
            .map(|(created, lease)| (*lease, *created))
            .collect();
        let holder = self.holder_clause(lease, &older);
        let record = self.next_record(term, lease);
        let n = record.n;
        self.candidacy.taking.sent();
        self.candidacy.takes.insert(n, (term, self.now));
        while 64 < self.candidacy.takes.len() {
            self.candidacy.takes.pop_first();
        }
        let take = Take { term, record_modified, record_value, older, holder, record };
        self.send(Asked::Take(n), Call::Take(Box::new(take)));
    }

    /// T5: the key of the record's holder must end with this TAKE, no matter how old the key is.
    fn holder_clause(&self, own: LeaseId, older: &[(LeaseId, Revision)]) -> HolderClause {
        let Some(record) = self.watched.record.as_ref().and_then(|stored| stored.value.as_ref())
        else {
            return HolderClause::None;
        };
        let Some(lease) = record.lease.filter(|lease| !record.ended && *lease != own) else {
            return HolderClause::None;
        };
        if older.iter().any(|(swept, _)| *swept == lease) {
            return HolderClause::None;
        }
        let shown = self.watched.candidates.get(&lease);
        if shown.is_some_and(|candidate| candidate.created.0 == record.term.0) {
            HolderClause::Delete { lease }
        } else {
            HolderClause::Gone { lease, term: record.term }
        }
    }

    pub(super) fn on_taken(&mut self, n: u64, sent: BootTime, outcome: &Outcome) {
        self.candidacy.taking.answered();
        let Some((term, _)) = self.candidacy.takes.get(&n).copied() else { return };
        match outcome {
            Outcome::Done(answer) => {
                if let Some(lease) = self.session.lease() {
                    let office = Office { term, revision: answer.revision, lease };
                    self.on_take_committed(office, n, sent);
                }
            }
            // R6, last line: no TAKE until the view is at or past the revision of this answer.
            Outcome::Refused(answer) => self.candidacy.await_view(answer),
            Outcome::LeaseNotFound => self.lose_session(SessionEnd::LeaseLost),
            Outcome::LeaseExists | Outcome::Failed | Outcome::Unknown => {
                self.candidacy.taking = Try::at(self.now + Duration::from_millis(50));
            }
        }
    }

    /// T19: deletes the candidate keys of others that hang on a wrong lease, after a second.
    fn repair_rule(&mut self, own: LeaseId) {
        if self.watched.broken.is_empty() || self.candidacy.withdrawing.in_flight {
            return;
        }
        let mut due = None;
        for (lease, (modified, since)) in &self.watched.broken {
            let at = (*since + BROKEN_AFTER).max(self.candidacy.withdrawing.again_at);
            if *lease != own && due.is_none_or(|(_, _, first)| at < first) {
                due = Some((*lease, *modified, at));
            }
        }
        if let Some((lease, modified, at)) = due
            && self.is_due(at)
        {
            self.candidacy.withdrawing = Try::at(self.now + AGAIN_AFTER);
            self.send(Asked::Withdraw(lease), Call::Withdraw { lease, modified });
        }
    }
}
