//! Being in office: authority, beats, the leader's work, and the end of a term, by R4 (what gives authority),
//! R5 (a closed term stays closed) and R7 (clean end); T6 (BEAT) and T8 (RESIGN).
//!
//! The one rule to keep (R5): closing drops authority first, then cancels, and a closed term never opens
//! again.

use std::{collections::BTreeMap, time::Duration};

use super::{Asked, Authority, Engine, Try, Work};
use crate::engine::{
    call::{Call, Effect, Office, Outcome, SessionEnd, Standing, WorkEnd},
    mutant::Mutant,
    types::{BootTime, LeaseId, NodeId, Revision, Role, Term},
    view::{Record, Stored},
};

/// R13 (useless office): least time without a sound answer after which an office is useless.
const USELESS_AFTER: Duration = Duration::from_secs(1);

/// T6: most beats in flight.
const BEATS_IN_FLIGHT: usize = 40;

/// Stay of this node in office.
#[derive(Debug)]
pub(super) struct Reign {
    office: Office,
    /// End of authority: max over own committed TAKEs and BEATs of `sent + span(D)`.
    until: BootTime,
    /// Earliest sending time of each record write of this term, by its `n`: for echoes.
    attempts: BTreeMap<u64, BootTime>,
    beating: usize,
    beat_at: BootTime,
    /// Receipt of the last sound answer (R13). An answer is sound if at least H of the authority that it
    /// gives is left.
    sound_at: BootTime,
    /// Reason why the office ends once its work has been joined.
    giving_up: Option<WorkEnd>,
    /// R13: time when a useless office is closed although its work has not been joined.
    close_at: BootTime,
}

/// Office whose RESIGN or STOP was sent, and whose candidate key may still exist.
#[derive(Debug)]
pub(super) struct Resigning {
    office: Office,
    record: Record,
    call: Try,
}

impl Reign {
    /// R13: does not count a time in which the whole process stood still.
    pub(super) fn stand_still(&mut self, still: Duration, now: BootTime) {
        self.sound_at = (self.sound_at + still).min(now);
    }
}

impl Resigning {
    fn sent(office: Office, record: Record, now: BootTime) -> Self {
        let mut call = Try::at(now);
        call.sent();
        Self { office, record, call }
    }

    /// Whether that candidate key is as the TAKE of the office wrote it.
    pub(super) fn is_of(&self, own: Option<&Stored<NodeId>>) -> bool {
        own.is_some_and(|own| own.modified == self.office.revision)
    }
}

impl Engine {
    /// Office that this node is in, also without authority.
    pub fn office(&self) -> Option<Office> {
        self.reign.as_ref().map(|reign| reign.office)
    }

    /// Authority of the office that this node is in, if it is in one.
    pub fn authority(&self) -> Option<Authority> {
        let reign = self.reign.as_ref()?;
        let until = self.mixed_bound().map_or(reign.until, |bound| reign.until.min(bound));
        Some(Authority { office: reign.office, until })
    }

    /// Authority that has not run out.
    pub(super) fn acting(&self) -> Option<Authority> {
        self.authority().filter(|authority| self.now < authority.until)
    }

    /// Ends authority that has run out. Runs before any input is processed.
    pub(super) fn lapse(&mut self) {
        if let Some(authority) = self.authority()
            && authority.until <= self.now
        {
            self.stop_work(WorkEnd::Suspended);
            let unfit = self.reign.as_ref().and_then(|reign| reign.giving_up);
            if unfit == Some(WorkEnd::Unfit) && self.work != Work::Idle {
                // The work does not end in time: an unclean end, and the other nodes wait.
                self.close_term(WorkEnd::Unfit);
            }
        }
        self.lapse_shards();
    }

    /// Closes the term: a fenced write found that the office is over.
    pub(super) fn on_office_over(&mut self, term: Term) {
        if self.office().is_some_and(|office| office.term == term) {
            self.close_term(WorkEnd::Deposed);
        }
    }

    /// Enters the office whose TAKE was answered, or extends its authority if the echo came before the answer.
    pub(super) fn on_take_committed(&mut self, office: Office, n: u64, sent: BootTime) {
        if let Some(reign) = &mut self.reign
            && reign.office.term == office.term
        {
            reign.office.revision = reign.office.revision.max(office.revision);
            self.extend_until(sent + self.config.span(self.config.failover.d()));
        } else if !self.candidacy.is_closed(office.term) {
            let mut attempts = self.candidacy.attempts(office.term);
            attempts.insert(n, sent);
            self.enter_office(office, Some(sent), attempts);
        }
    }

    /// Enters the office, by R4: the own TAKE is known to have committed.
    fn enter_office(
        &mut self,
        office: Office,
        sent: Option<BootTime>,
        attempts: BTreeMap<u64, BootTime>,
    ) {
        let d = self.config.failover.d();
        let until = sent.map_or(BootTime::default(), |sent| sent + self.config.span(d));
        let beat_at = sent.unwrap_or(self.now) + self.config.failover.h();
        self.reign = Some(Reign {
            office,
            until,
            attempts,
            beating: 0,
            beat_at,
            sound_at: self.now,
            giving_up: None,
            close_at: BootTime::default(),
        });
        if self.is_leaving() {
            self.give_up(WorkEnd::Stopping);
        } else if self.unfit {
            self.give_up(WorkEnd::Unfit);
        } else if !self.health.is_good() {
            self.give_up_useless();
        }
    }

    pub(super) fn office_rules(&mut self) {
        let Some(Office { term, .. }) = self.office() else { return };
        if self.watched.resign_request() == Some(term) || self.is_drained() {
            self.give_up(WorkEnd::Resigned);
        }
        self.useless_rule();
        self.resign_rule();
        self.beat_rule();
        if let Some(authority) = self.acting() {
            self.wake(authority.until);
        }
    }

    fn beat_rule(&mut self) {
        let Some(reign) = &self.reign else { return };
        let over = matches!(reign.giving_up, Some(WorkEnd::Unfit | WorkEnd::Useless));
        let (office, beat_at) = (reign.office, reign.beat_at);
        if self.unfit || over || !self.is_due(beat_at) {
            return;
        }
        let record = self.record(office, false);
        let (now, h) = (self.now, self.config.failover.h());
        let Some(reign) = &mut self.reign else { return };
        // Beats never bunch: a late beat is skipped.
        reign.beat_at = (reign.beat_at + h).max(now);
        if reign.beat_at <= now {
            reign.beat_at = now + h;
        }
        if BEATS_IN_FLIGHT <= reign.beating {
            return;
        }
        reign.beating += 1;
        reign.attempts.insert(record.n, now);
        while 4 * BEATS_IN_FLIGHT < reign.attempts.len() {
            reign.attempts.pop_first();
        }
        let (n, at) = (record.n, reign.beat_at);
        self.send(Asked::Beat(n), Call::Beat { office: office.revision, record });
        self.wake(at);
    }

    /// New record of the office that this node is in.
    fn record(&mut self, office: Office, ended: bool) -> Record {
        let suspended = self.acting().is_none();
        Record { ended, suspended, ..self.next_record(office.term, office.lease) }
    }

    /// New record of that term, with a fresh `n`.
    pub(super) fn next_record(&mut self, term: Term, lease: LeaseId) -> Record {
        self.n += 1;
        Record {
            term,
            lease: Some(lease),
            node: Some(self.config.id),
            n: self.n,
            d: self.config.failover.d(),
            ended: false,
            suspended: false,
        }
    }

    pub(super) fn on_beaten(&mut self, n: u64, sent: BootTime, outcome: &Outcome) {
        let Some(reign) = &mut self.reign else { return };
        if !reign.attempts.contains_key(&n) {
            return;
        }
        reign.beating = reign.beating.saturating_sub(1);
        match outcome {
            Outcome::Done(_) => self.extend(n, Some(sent)),
            Outcome::Refused(_) => self.close_term(WorkEnd::Deposed),
            _ => {}
        }
    }

    /// Extends authority: attempt `n` is known to have committed.
    fn extend(&mut self, n: u64, sent: Option<BootTime>) {
        let span = self.config.span(self.config.failover.d());
        let Some(reign) = &self.reign else { return };
        if let Some(at) = sent.or_else(|| reign.attempts.get(&n).copied()) {
            self.extend_until(at + span);
        }
    }

    /// Extends authority to `until`, which an own committed TAKE or BEAT gives. By R13, the answer is sound
    /// if enough of that authority is left.
    fn extend_until(&mut self, until: BootTime) {
        let Some(reign) = &mut self.reign else { return };
        reign.until = reign.until.max(until);
        let enough = self.now + self.config.failover.h() <= until;
        if enough || self.config.breaks(Mutant::UselessByNoAuthority) && self.now < until {
            reign.sound_at = self.now;
        }
    }

    /// R13: gives up an office whose answers come too late to act, and stops its beats, which would keep the
    /// other nodes waiting.
    fn useless_rule(&mut self) {
        let Some(reign) = &self.reign else { return };
        if self.is_leaving() || self.config.breaks(Mutant::UselessOfficeKept) {
            return;
        }
        let (giving_up, sound_at, close_at) = (reign.giving_up, reign.sound_at, reign.close_at);
        match giving_up {
            Some(WorkEnd::Useless) => {
                if self.work != Work::Idle && self.is_due(close_at) {
                    // The work does not end in time: the record stays as it is, and the other nodes wait.
                    self.close_term(WorkEnd::Useless);
                }
            }
            Some(WorkEnd::Unfit) => (),
            _ => {
                let patience = (self.config.failover.d() * 2).max(USELESS_AFTER);
                if self.is_due(sound_at + patience) {
                    self.give_up_useless();
                }
            }
        }
    }

    fn give_up_useless(&mut self) {
        self.health.doubt(self.now);
        let close_at = self.now + self.config.failover.d();
        if let Some(reign) = &mut self.reign {
            reign.close_at = close_at;
        }
        self.give_up(WorkEnd::Useless);
    }

    /// Looks in the view for echoes of own writes and for the end of the office.
    pub(super) fn check_office_in_view(&mut self) {
        if !self.session.is_listed() {
            return;
        }
        let Some(lease) = self.session.lease() else { return };
        let candidate = self.watched.candidates.get(&lease).cloned();
        if let Some(reign) = &self.reign {
            let Office { term, revision, .. } = reign.office;
            let stands = candidate.as_ref().is_some_and(|own| own.created.0 == term.0);
            if !stands {
                // The own TAKE proved that the key existed at `revision`: only a view at or past it can show
                // its end.
                if revision <= self.watched.revision {
                    self.close_term(WorkEnd::KeyLost);
                }
                return;
            }
            let oldest = self.watched.queue.first_key_value().map(|(created, _)| *created);
            if revision <= self.watched.revision && oldest.is_some_and(|oldest| oldest.0 < term.0) {
                // R8 (replaced store): TAKE deleted all older keys, so this one is of another history.
                self.lose_session(SessionEnd::StoreReplaced);
                return;
            }
        }
        let Some(record) = self.watched.sound_record().cloned() else { return };
        let (Some(candidate), Some(stored)) = (candidate, &self.watched.record) else { return };
        let written = stored.modified;
        let term = Term(candidate.created.0);
        let ours = record.lease == Some(lease) && record.term == term && !record.ended;
        if !ours || self.candidacy.is_closed(term) {
            return;
        }
        if self.reign.is_none() {
            // An echo: TAKE has committed, even if its answer was lost. TAKE writes record and candidate key
            // at one revision: a key with another revision was changed later by another client.
            if written != candidate.modified {
                return;
            }
            let office = Office { term, revision: candidate.modified, lease };
            let attempts = self.candidacy.attempts(term);
            self.enter_office(office, attempts.get(&record.n).copied(), attempts);
        } else {
            self.extend(record.n, None);
        }
    }

    /// Starts to end the office, which ends once its work has been joined. Does nothing out of office.
    pub(super) fn give_up(&mut self, why: WorkEnd) {
        let Some(reign) = &mut self.reign else { return };
        if reign.giving_up.is_some_and(|before| before != WorkEnd::Resigned) {
            return;
        }
        if reign.giving_up == Some(why) {
            return;
        }
        reign.giving_up = Some(why);
        self.stop_work(why);
    }

    pub(super) fn on_unfit(&mut self) {
        self.unfit = true;
        self.give_up(WorkEnd::Unfit);
    }

    /// T8: sends RESIGN when all work of the term has been joined (R7).
    fn resign_rule(&mut self) {
        let Some(reign) = &self.reign else { return };
        let (office, Some(why)) = (reign.office, reign.giving_up) else { return };
        // On a leaving node, T9 (STOP) ends the office.
        if self.work != Work::Idle || self.is_leaving() {
            return;
        }
        let record = self.record(office, true);
        self.close_term(why);
        self.resigning = Some(Resigning::sent(office, record.clone(), self.now));
        self.candidacy.pause(self.now);
        self.send(Asked::Resign, Call::Resign { office: office.revision, record });
    }

    /// Part of STOP (T9) that ends the office, if this node is in one.
    pub(super) fn end_office_for_stop(&mut self) -> Option<(Revision, Record)> {
        if let Some(office) = self.office() {
            let record = self.record(office, true);
            self.close_term(WorkEnd::Stopping);
            self.resigning = Some(Resigning::sent(office, record, self.now));
        }
        let end = self.resigning.as_ref()?;
        Some((end.office.revision, end.record.clone()))
    }

    pub(super) fn repeat_resign(&mut self, lease: LeaseId) {
        let Some(end) = &self.resigning else { return };
        let (call, term) = (end.call, end.office.term);
        if self.is_leaving() || call.in_flight {
            return;
        }
        let own = self.watched.candidates.get(&lease);
        if own.is_none_or(|own| own.created.0 != term.0) {
            self.resigning = None;
        } else if self.may_send(call)
            && let Some(end) = &mut self.resigning
        {
            end.call.sent();
            let (office, record) = (end.office.revision, end.record.clone());
            self.send(Asked::Resign, Call::Resign { office, record });
        }
    }

    pub(super) fn on_resigned(&mut self, outcome: &Outcome) {
        let Some(end) = &mut self.resigning else { return };
        end.call.answered();
        match outcome {
            Outcome::Done(answer) | Outcome::Refused(answer) => {
                self.resigning = None;
                self.candidacy.await_view(answer);
                let own = self.session.lease();
                let is_there = own.is_some_and(|own| answer.view().candidate(own).is_some());
                if is_there && matches!(outcome, Outcome::Refused(_)) {
                    // R8: no client but this session may have written the key.
                    self.lose_session(SessionEnd::StoreReplaced);
                }
            }
            // The node never acts again in this term, and repeats RESIGN until the view shows that the key is
            // gone.
            Outcome::LeaseNotFound | Outcome::LeaseExists | Outcome::Failed | Outcome::Unknown => {
                end.call = Try::at(self.now + Duration::from_millis(100));
            }
        }
    }

    /// R5: closes the term of the present office permanently.
    pub(super) fn close_term(&mut self, why: WorkEnd) {
        let Some(Reign { office: Office { term, .. }, .. }) = self.reign.take() else { return };
        self.candidacy.close(term);
        self.stop_work(why);
        self.out.push(Effect::TermClosed { term, reason: why });
    }

    /// Whether any task of the leader's work or of a shard may still run.
    pub(super) fn is_working(&self) -> bool {
        self.work != Work::Idle || self.holding.is_running()
    }

    fn stop_work(&mut self, reason: WorkEnd) {
        if let Work::Running(work) = self.work {
            self.work = Work::Stopping(work);
            self.out.push(Effect::StopWork { work, reason });
        }
    }

    pub(super) fn on_work_ended(&mut self, ended: u64) {
        match self.work {
            Work::Stopping(work) if work == ended => self.work = Work::Idle,
            Work::Running(work) if work == ended => {
                // The work ended by itself, so the leader has nothing left to do in its office.
                self.work = Work::Idle;
                self.give_up(WorkEnd::Unfit);
            }
            _ => (),
        }
    }

    /// Starts the leader's work if it may run, and publishes role changes.
    pub(super) fn work_rules(&mut self) {
        if let Some(authority) = self.acting()
            && self.work == Work::Idle
            && !self.unfit
            && self.reign.as_ref().is_some_and(|reign| reign.giving_up.is_none())
        {
            self.works += 1;
            self.work = Work::Running(self.works);
            self.out.push(Effect::StartWork { work: self.works, office: authority.office });
        }
        let standing = self.standing_now();
        if standing != self.standing {
            self.standing = standing;
            self.out.push(Effect::Role(standing));
        }
    }

    fn standing_now(&self) -> Standing {
        match self.acting() {
            Some(authority) => Standing { role: Role::Leader, term: Some(authority.office.term) },
            None if self.session.is_in() => Standing { role: Role::Follower, term: None },
            None => Standing { role: Role::Unknown, term: None },
        }
    }
}
