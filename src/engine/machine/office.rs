//! Being in office: authority, beats, the leader's work, and the end of a term, by R4 (what gives authority),
//! R5 (a closed term stays closed) and R7 (clean end); T6 (BEAT) and T8 (RESIGN).
//!
//! The one rule to keep (R5): closing drops authority first, then cancels, and a closed term never opens
//! again.

use std::{collections::BTreeMap, time::Duration};

use super::{Asked, Engine, Work, election::Resigning};
use crate::engine::{
    call::{Call, Effect, Office, Outcome, SessionEnd, Standing, WorkEnd},
    mutant::Mutant,
    types::{BootTime, Revision, Role, Term},
    view::Record,
};

/// R13 (useless office): least time without a sound answer after which an office is useless.
const USELESS_AFTER: Duration = Duration::from_secs(1);

/// T6: most beats in flight.
const BEATS_IN_FLIGHT: usize = 40;

/// Stay of this node in office.
#[derive(Debug)]
pub(super) struct Reign {
    pub(super) office: Office,
    /// End of authority: max over own committed TAKEs and BEATs of `sent + span(D)`.
    pub(super) until: BootTime,
    /// Earliest sending time of each record write of this term, by its `n`: for echoes.
    attempts: BTreeMap<u64, BootTime>,
    beating: usize,
    beat_at: BootTime,
    /// Receipt of the last sound answer (R13). An answer is sound if at least H of the authority that it
    /// gives is left.
    pub(super) sound_at: BootTime,
    /// Reason why the office ends once its work has been joined.
    giving_up: Option<WorkEnd>,
    /// R13: time when a useless office is closed although its work has not been joined.
    close_at: BootTime,
}

impl Engine {
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

    /// Enters the office, by R4: the own TAKE is known to have committed.
    pub(super) fn enter_office(
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
        self.own.dirty_role();
        if self.session.is_leaving() {
            self.give_up(WorkEnd::Stopping);
        } else if self.unfit {
            self.give_up(WorkEnd::Unfit);
        } else if !self.health.is_good() {
            self.give_up_useless();
        }
    }

    pub(super) fn office_rules(&mut self) {
        let Some(reign) = &self.reign else { return };
        let term = reign.office.term;
        let asked = self.watched.resign.as_ref().and_then(|stored| stored.value);
        if asked == Some(term) {
            self.give_up(WorkEnd::Resigned);
        }
        if self.is_drained() {
            self.give_up(WorkEnd::Resigned);
        }
        self.useless_rule();
        self.resign_rule();
        self.beat_rule();
        if let Some(authority) = self.authority()
            && self.now < authority.until
        {
            self.wake(authority.until);
        }
    }

    fn beat_rule(&mut self) {
        let Some(reign) = &self.reign else { return };
        let over = matches!(reign.giving_up, Some(WorkEnd::Unfit | WorkEnd::Useless));
        let healthy = !self.unfit && !over;
        if !healthy || !self.is_due(self.reign.as_ref().map_or(self.now, |reign| reign.beat_at)) {
            return;
        }
        let record = self.record(false);
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
        let Some(record) = record else { return };
        reign.beating += 1;
        reign.attempts.insert(record.n, now);
        while 4 * BEATS_IN_FLIGHT < reign.attempts.len() {
            reign.attempts.pop_first();
        }
        let (office, n, at) = (reign.office.revision, record.n, reign.beat_at);
        self.send(Asked::Beat(n), Call::Beat { office, record });
        self.wake(at);
    }

    /// New record of the office that this node is in, with a fresh `n`.
    fn record(&mut self, ended: bool) -> Option<Record> {
        let office = self.reign.as_ref()?.office;
        self.n += 1;
        let mut d = self.config.failover.d();
        if self.config.breaks(Mutant::DChangedInTerm) && self.n.is_multiple_of(4) {
            d /= 4;
        }
        let suspended = self.authority().is_none_or(|authority| authority.until <= self.now);
        Some(Record {
            term: office.term,
            lease: Some(office.lease),
            node: Some(self.config.id),
            n: self.n,
            d,
            ended,
            suspended,
        })
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
        let latest = self.config.breaks(Mutant::EchoForLastAttempt) && sent.is_none();
        let Some(reign) = &mut self.reign else { return };
        let at = if latest {
            reign.attempts.last_key_value().map(|(_, at)| *at)
        } else {
            sent.or_else(|| reign.attempts.get(&n).copied())
        };
        if let Some(at) = at {
            self.extend_until(at + span);
        }
    }

    /// Extends authority to `until`, which an own committed TAKE or BEAT gives. By R13, the answer is sound
    /// if enough of that authority is left.
    pub(super) fn extend_until(&mut self, until: BootTime) {
        let enough = if self.config.breaks(Mutant::UselessByNoAuthority) {
            Duration::from_nanos(1)
        } else {
            self.config.failover.h()
        };
        let Some(reign) = &mut self.reign else { return };
        reign.until = reign.until.max(until);
        if self.now + enough <= until {
            reign.sound_at = self.now;
        }
    }

    /// R13: gives up an office whose answers come too late to act, and stops its beats, which would keep the
    /// other nodes waiting.
    fn useless_rule(&mut self) {
        let Some(reign) = &self.reign else { return };
        if self.session.is_leaving() || self.config.breaks(Mutant::UselessOfficeKept) {
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
        let Some(lease) = self.session.lease() else {
            return;
        };
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
                if !self.config.breaks(Mutant::ReplacedStoreUnnoticed) {
                    self.lose_session(SessionEnd::StoreReplaced);
                }
                return;
            }
        }
        let Some(record) = self.watched.sound_record().cloned() else {
            return;
        };
        let (Some(candidate), Some(stored)) = (candidate, &self.watched.record) else {
            return;
        };
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
            let sent = if self.config.breaks(Mutant::EchoForLastAttempt) {
                attempts.last_key_value().map(|(_, at)| *at)
            } else {
                attempts.get(&record.n).copied()
            };
            self.enter_office(office, sent, attempts);
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
        let Some(why) = reign.giving_up else { return };
        if self.config.breaks(Mutant::DropAfterResigning) && self.candidacy.resign.is_some() {
            // This mutant keeps its office until the answer, but sends only one RESIGN at a time.
            return;
        }
        let joined = self.work == Work::Idle || self.config.breaks(Mutant::EndedBeforeJoined);
        // On a leaving node, T9 (STOP) ends the office.
        if !joined || self.session.is_leaving() {
            return;
        }
        let office = reign.office;
        let Some(record) = self.record(true) else {
            return;
        };
        let kept = self.reign.take();
        if self.config.breaks(Mutant::DropAfterResigning)
            || self.config.breaks(Mutant::ResumeAfterLostResign)
        {
            self.candidacy.kept = kept;
        }
        self.close(office.term, why);
        if self.config.breaks(Mutant::DropAfterResigning) {
            self.reign = self.candidacy.kept.take();
        }
        self.candidacy.resign =
            Some(Resigning { office, record: record.clone(), asked: true, again_at: self.now });
        self.candidacy.pause_until = Some(self.now + Duration::from_secs(1));
        self.send(Asked::Resign, Call::Resign { office: office.revision, record });
    }

    /// Part of STOP (T9) that ends the office, if this node is in one.
    pub(super) fn end_office_for_stop(&mut self) -> Option<(Revision, Record)> {
        if let Some(office) = self.reign.as_ref().map(|reign| reign.office) {
            let record = self.record(true)?;
            self.reign = None;
            self.close(office.term, WorkEnd::Stopping);
            self.candidacy.resign =
                Some(Resigning { office, record, asked: true, again_at: self.now });
        }
        if self.config.breaks(Mutant::EndedByOutsider) && self.candidacy.resign.is_none() {
            return self.outsiders_end();
        }
        let resign = self.candidacy.resign.as_ref()?;
        Some((resign.office.revision, resign.record.clone()))
    }

    /// Mutant of R7: a node that was never in office marks the record ended.
    fn outsiders_end(&mut self) -> Option<(Revision, Record)> {
        let lease = self.session.lease()?;
        let own = self.watched.candidates.get(&lease)?.modified;
        let seen = self.watched.sound_record()?.clone();
        Some((own, Record { lease: Some(lease), ended: true, ..seen }))
    }

    pub(super) fn on_resigned(&mut self, outcome: &Outcome) {
        let Some(resign) = &mut self.candidacy.resign else {
            return;
        };
        resign.asked = false;
        match outcome {
            Outcome::Done(answer) => {
                self.candidacy.view_from = self.candidacy.view_from.max(answer.revision);
                self.candidacy.resign = None;
                if self.config.breaks(Mutant::DropAfterResigning) {
                    self.reign = None;
                }
            }
            Outcome::Refused(answer) => {
                let revision = answer.revision;
                let there = self
                    .session
                    .lease()
                    .is_some_and(|lease| answer.view().candidate(lease).is_some());
                self.candidacy.view_from = self.candidacy.view_from.max(revision);
                self.candidacy.resign = None;
                if self.config.breaks(Mutant::DropAfterResigning) {
                    self.reign = None;
                }
                if there {
                    // R8: no client but this session may have written the key.
                    self.lose_session(SessionEnd::StoreReplaced);
                }
            }
            // The node never acts again in this term, and repeats RESIGN until the view shows that the key is
            // gone.
            Outcome::LeaseNotFound | Outcome::LeaseExists | Outcome::Failed | Outcome::Unknown => {
                resign.again_at = self.now + Duration::from_millis(100);
                if self.config.breaks(Mutant::ResumeAfterLostResign) {
                    self.candidacy.resign = None;
                    self.reign = self.candidacy.kept.take();
                    if let Some(reign) = &mut self.reign {
                        reign.giving_up = None;
                        self.candidacy.reopen(reign.office.term);
                    }
                }
            }
        }
    }

    /// R5: closes the term of the present office permanently.
    pub(super) fn close_term(&mut self, why: WorkEnd) {
        if let Some(reign) = self.reign.take() {
            self.close(reign.office.term, why);
        }
    }

    fn close(&mut self, term: Term, why: WorkEnd) {
        self.candidacy.close(term);
        self.own.dirty_role();
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
        if let Some(authority) = self.authority()
            && self.now < authority.until
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
        let acting = self.authority().filter(|authority| self.now < authority.until);
        match acting {
            Some(authority) => Standing { role: Role::Leader, term: Some(authority.office.term) },
            None if self.session.is_in() => Standing { role: Role::Follower, term: None },
            None => Standing { role: Role::Unknown, term: None },
        }
    }
}
