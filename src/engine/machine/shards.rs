//! The owner's side of the shards: T12 (CLAIM), T13 (RELEASE) and T14 (CHECK).
//!
//! The one rule to keep: acting needs a committed claim and shard authority, and authority comes only from
//! own held writes and linearizable reads of the own held key, counted from when they were sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Asked, Engine, ShardAuthority, Try};
use crate::engine::{
    call::{Answer, Call, Effect, Outcome, SessionEnd, ShardEnd},
    mutant::Mutant,
    types::{BootTime, LeaseId, Revision, ShardEpoch, ShardId, WorkType},
    view::{Held, Stored},
};

type ShardKey = (WorkType, ShardId);
type Shards = BTreeMap<ShardKey, ShardEpoch>;

const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Shards of this incarnation, and its held key.
#[derive(Debug, Default)]
pub(super) struct Holding {
    /// `m(held)` as last known.
    h: Revision,
    /// Shards in the held key at `h`.
    content: Shards,
    /// End of shard authority.
    until: BootTime,
    /// R14 (useless ownership): last time that an answer left at least F/4 of shard authority, or no shard
    /// was held.
    sound_at: BootTime,
    /// Time when `h` became known: reads that were sent before may show an older value.
    known_at: BootTime,
    /// Shards that the held write in flight puts; at most one is in flight.
    writing: Option<Shards>,
    /// A held write was not answered: it may have taken effect, or may still do so.
    unresolved: bool,
    /// CHECK has shown that the unresolved write has not taken effect so far: another write settles it.
    settle: bool,
    /// Nonces of the own writes since `h`.
    nonces: BTreeSet<u64>,
    checking: Try,
    write_at: BootTime,
    /// T13: highest epoch of each shard that this incarnation has released.
    released: Shards,
    /// Shard work in this process. Outlives the incarnation until it has been joined.
    running: BTreeMap<ShardKey, Run>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    Running(ShardEpoch),
    Stopping,
}

impl Holding {
    pub(super) fn forget(&mut self) {
        *self = Self { running: std::mem::take(&mut self.running), ..Self::default() };
    }

    pub(super) fn joined(&mut self, at: Revision) {
        self.h = at;
    }

    pub(super) fn h(&self) -> Revision {
        self.h
    }

    /// R14: does not count a time in which the whole process stood still.
    pub(super) fn stand_still(&mut self, still: Duration, now: BootTime) {
        self.sound_at = (self.sound_at + still).min(now);
    }

    /// Whether any task of a shard may still run.
    pub(super) fn is_running(&self) -> bool {
        !self.running.is_empty()
    }

    /// R14: whether the held key has shards, or may have some by a write whose outcome is unknown.
    fn may_hold(&self) -> bool {
        !self.content.is_empty() || self.unresolved || self.writing.is_some()
    }

    /// Extends shard authority to `until`, which an own held write or a CHECK with that F gives.
    fn extend(&mut self, now: BootTime, until: BootTime, f: Duration) {
        self.until = self.until.max(until);
        if now + f / 4 <= until {
            self.sound_at = now;
        }
    }

    pub(super) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Notes that STOP empties the held key with that nonce. Returns h, which STOP compares.
    pub(super) fn empty_by(&mut self, nonce: u64) -> Revision {
        self.nonces.insert(nonce);
        self.h
    }

    /// Whether this value is of an own write that was sent after the write at `h`.
    fn wrote_since(&self, stored: &Stored<Held>) -> bool {
        stored.value.as_ref().is_some_and(|held| self.nonces.contains(&held.nonce))
    }

    /// Adopts the result of a linearizable read if it is ours: the value at `h`, or a late own write.
    pub(super) fn adopt(&mut self, stored: &Stored<Held>) -> bool {
        if stored.modified == self.h {
            return true;
        }
        let ours = self.h < stored.modified && self.wrote_since(stored);
        let Some(held) = stored.value.as_ref().filter(|_| ours) else {
            return false;
        };
        self.written(stored.modified, held.shards.clone());
        true
    }

    /// Notes that an own write has put these shards at `h`.
    fn written(&mut self, h: Revision, content: Shards) {
        self.h = h;
        self.content = content;
        self.nonces.clear();
        self.unresolved = false;
        self.settle = false;
    }
}

impl Engine {
    /// Authority over the shards that this node holds, if it is joined.
    pub fn shard_authority(&self) -> Option<ShardAuthority> {
        let lease = self.joined()?;
        Some(ShardAuthority { lease, held: self.holding.h, until: self.holding.until })
    }

    /// Shards that this node holds, by its last settled write.
    pub fn shards(&self) -> BTreeMap<(WorkType, ShardId), ShardEpoch> {
        self.holding.content.clone()
    }

    /// Stops all shard work if authority has run out. Runs before any input is processed.
    pub(super) fn lapse_shards(&mut self) {
        if self.holding.until <= self.now {
            self.stop_shards(ShardEnd::Lapsed);
        }
    }

    pub(super) fn stop_shards(&mut self, reason: ShardEnd) {
        for ((work, shard), run) in &mut self.holding.running {
            if let Run::Running(_) = run {
                *run = Run::Stopping;
                let (work, shard) = (work.clone(), *shard);
                self.out.push(Effect::StopShard { work, shard, reason });
            }
        }
    }

    pub(super) fn on_shard_ended(&mut self, shard: &ShardKey) {
        if self.holding.running.get(shard) == Some(&Run::Stopping) {
            self.holding.running.remove(shard);
        }
    }

    /// R14: gives up an incarnation whose answers come too late to work, so that another node gets its
    /// shards. Needs no view.
    pub(super) fn useless_owner_rule(&mut self) {
        if self.is_leaving() || self.config.breaks(Mutant::UselessOwnershipKept) {
            return;
        }
        // R14 (useless ownership) needs no view: before the first list, this incarnation has written no claim.
        debug_assert!(self.session.is_listed() || !self.holding.may_hold());
        if !self.holding.may_hold() {
            self.holding.sound_at = self.now;
        } else if self.is_due(self.holding.sound_at + self.config.timing.f * 2) {
            if self.config.breaks(Mutant::UselessOwnerReleases)
                && !self.holding.is_running()
                && let Some(lease) = self.session.lease()
            {
                self.holding.sound_at = self.now;
                return self.send_held(lease, Vec::new(), Shards::new());
            }
            self.give_up_incarnation(SessionEnd::UselessOwner);
        }
    }

    pub(super) fn shard_rules(&mut self) {
        if !self.session.is_listed() || self.is_leaving() {
            return;
        }
        let Some(lease) = self.session.lease() else { return };
        self.check_held_in_view(lease);
        self.check_rule(lease);
        self.stop_rule(lease);
        self.write_rule(lease);
        self.start_rule(lease);
        if self.holding.is_running() && self.now < self.holding.until {
            self.wake(self.holding.until);
        }
    }

    /// T14: sends a CHECK if a view at or past h shows the held key with another revision.
    fn check_held_in_view(&mut self, lease: LeaseId) {
        if self.watched.revision < self.holding.h {
            return;
        }
        let seen = self.watched.held.get(&lease).map(|stored| stored.modified);
        // An older revision counts too: a backup brought the key back as it was then, and no node works on
        // the shards in it.
        let otherwise = seen != Some(self.holding.h);
        if otherwise && self.holding.writing.is_none() {
            self.check_now(lease);
        }
    }

    pub(super) fn check_now(&mut self, lease: LeaseId) {
        if !self.holding.checking.in_flight {
            self.holding.checking = Try::sent_until(self.now + self.config.timing.check_every);
            self.send(Asked::Check, Call::Check { lease });
        }
    }

    fn check_rule(&mut self, lease: LeaseId) {
        let holding = &self.holding;
        let open = holding.unresolved && !holding.settle;
        if holding.content.is_empty() && !open {
            return;
        }
        let at = if open { self.now } else { holding.checking.again_at };
        if !self.holding.checking.in_flight && self.is_due(at) {
            self.check_now(lease);
        }
    }

    pub(super) fn on_checked(&mut self, sent: BootTime, outcome: Outcome) {
        self.holding.checking.answered();
        let (Outcome::Done(answer) | Outcome::Refused(answer)) = outcome else {
            self.holding.checking = Try::at(self.now + AGAIN_AFTER);
            return;
        };
        self.judge_held(sent, &answer);
    }

    /// Judges the own held key by a linearizable read.
    fn judge_held(&mut self, sent: BootTime, answer: &Answer) {
        let Some(lease) = self.session.lease() else { return };
        if sent < self.holding.known_at {
            return;
        }
        let found = answer.view();
        let Some(stored) = found.held.get(&lease) else {
            self.lose_session(SessionEnd::HeldLost);
            return;
        };
        if stored.modified == self.holding.h && self.holding.wrote_since(stored) {
            // R8 (replaced store): a write that was sent after h cannot be at h.
            self.lose_session(SessionEnd::StoreReplaced);
            return;
        }
        let same = stored.modified == self.holding.h;
        if same && self.holding.unresolved {
            self.holding.settle = true;
        }
        let adopted = !same && self.holding.adopt(stored);
        if adopted {
            self.holding.known_at = self.now;
        }
        if same || adopted {
            let f = self.config.timing.f;
            self.holding.extend(self.now, sent + self.config.span(f), f);
            return;
        }
        // A write of ours is known by its nonce and was adopted above: this one is of another client.
        if self.holding.writing.is_some() {
            // The answer of the write in flight will decide.
            return;
        }
        self.lose_session(SessionEnd::HeldLost);
    }

    /// Content of the plan about a shard that this node holds or could hold.
    fn says(&self, lease: LeaseId, shard: &ShardKey) -> Says {
        let Some(plan) = self.watched.plans.get(&shard.0) else {
            return Says::Nothing;
        };
        let Some(table) = &plan.value else {
            return Says::Nothing;
        };
        let Some(assignment) = table.shards.get(shard.1.0 as usize) else {
            return Says::Gone;
        };
        match assignment.owner {
            None => Says::Nothing,
            Some(owner) if owner != lease => Says::Gone,
            Some(_) if assignment.draining => Says::Gone,
            Some(_) => Says::Ours(assignment.epoch),
        }
    }

    /// T13: whether this node must release a held shard.
    fn is_leaving_shard(&self, lease: LeaseId, shard: &ShardKey, epoch: ShardEpoch) -> bool {
        self.is_drained()
            || self.is_released(shard, epoch)
            || match self.says(lease, shard) {
                Says::Nothing => false,
                Says::Gone => true,
                Says::Ours(now) => epoch < now,
            }
    }

    /// Whether that epoch of the shard, or a later one, was released. A release is never undone (T13).
    fn is_released(&self, shard: &ShardKey, epoch: ShardEpoch) -> bool {
        let last = self.holding.released.get(shard);
        last.is_some_and(|last| epoch <= *last) && !self.config.breaks(Mutant::ReleasedClaimedAgain)
    }

    /// Stops shard work before its shard is released (T13).
    fn stop_rule(&mut self, lease: LeaseId) {
        let mut stop = Vec::new();
        for (shard, run) in &self.holding.running {
            let Run::Running(epoch) = run else { continue };
            let held = self.holding.content.get(shard) == Some(epoch);
            if !held || self.is_leaving_shard(lease, shard, *epoch) {
                stop.push(shard.clone());
            }
        }
        for shard in stop {
            self.holding.running.insert(shard.clone(), Run::Stopping);
            let (work, shard) = shard;
            self.out.push(Effect::StopShard { work, shard, reason: ShardEnd::Moved });
        }
    }

    /// T12, T13: one held write at a time, with all shards to claim and to release.
    fn write_rule(&mut self, lease: LeaseId) {
        if self.holding.writing.is_some() || (self.holding.unresolved && !self.holding.settle) {
            return;
        }
        let mut content = self.holding.content.clone();
        let mut released = Vec::new();
        for (shard, epoch) in &self.holding.content {
            let joined = !self.holding.running.contains_key(shard);
            if joined && self.is_leaving_shard(lease, shard, *epoch) {
                content.remove(shard);
                released.push((shard.clone(), *epoch));
            }
        }
        let plans = self.add_claims(lease, &mut content);
        if content == self.holding.content && !self.holding.settle {
            return;
        }
        if !self.is_due(self.holding.write_at) {
            return;
        }
        for (shard, epoch) in released {
            let last = self.holding.released.entry(shard).or_default();
            *last = (*last).max(epoch);
        }
        self.send_held(lease, plans, content);
    }

    fn send_held(&mut self, lease: LeaseId, plans: Vec<(WorkType, Vec<u8>)>, shards: Shards) {
        let nonce = self.draws.draw();
        self.holding.nonces.insert(nonce);
        self.holding.writing = Some(shards.clone());
        let held = Held { nonce, shards };
        let call = Call::WriteHeld { lease, held: self.holding.h, plans, content: held };
        self.send(Asked::Held(nonce), call);
    }

    /// T12: adds the shards that the plan gives to this lease and that no other held key contains.
    fn add_claims(&self, lease: LeaseId, content: &mut Shards) -> Vec<(WorkType, Vec<u8>)> {
        let mut plans = Vec::new();
        if self.is_drained() {
            return plans;
        }
        for offer in &self.config.work {
            let Some(plan) = self.watched.plans.get(&offer.work) else { continue };
            let Some(table) = &plan.value else { continue };
            if table.shards.len() != offer.shards as usize {
                continue;
            }
            let mut claims = false;
            for (number, assignment) in (0u32..).zip(&table.shards) {
                if assignment.owner != Some(lease) || assignment.draining {
                    continue;
                }
                let shard = (offer.work.clone(), ShardId(number));
                if content.contains_key(&shard)
                    || self.is_released(&shard, assignment.epoch)
                    || self.holding.running.contains_key(&shard)
                    || self.is_held_elsewhere(lease, &shard)
                {
                    continue;
                }
                content.insert(shard, assignment.epoch);
                claims = true;
            }
            if claims {
                plans.push((offer.work.clone(), plan.bytes.clone()));
            }
        }
        plans
    }

    fn is_held_elsewhere(&self, own: LeaseId, shard: &ShardKey) -> bool {
        self.watched.held.iter().any(|(lease, stored)| {
            *lease != own
                && stored.value.as_ref().is_some_and(|held| held.shards.contains_key(shard))
        })
    }

    pub(super) fn on_held_written(&mut self, nonce: u64, sent: BootTime, outcome: Outcome) {
        let writing = self.holding.writing.take();
        match outcome {
            Outcome::Done(answer) => {
                let Some(content) = writing else { return };
                // CHECK may already have adopted this write or a later one.
                if answer.revision < self.holding.h {
                    return;
                }
                self.holding.written(answer.revision, content);
                self.holding.known_at = self.now;
                let f = self.config.timing.f;
                self.holding.extend(self.now, sent + self.config.span(f), f);
                let check_at = &mut self.holding.checking.again_at;
                *check_at = (*check_at).max(sent + self.config.timing.check_every);
            }
            Outcome::Refused(answer) => {
                // The read may show this very write, if a copy of it came first.
                self.judge_held(sent, &answer);
                self.holding.nonces.remove(&nonce);
                self.holding.write_at = self.now + Duration::from_millis(5);
            }
            Outcome::LeaseNotFound => self.lose_session(SessionEnd::LeaseLost),
            Outcome::Unknown => {
                self.holding.unresolved = true;
                self.holding.settle = false;
                self.holding.write_at = self.now;
            }
            Outcome::LeaseExists | Outcome::Failed => {
                self.holding.nonces.remove(&nonce);
                self.holding.write_at = self.now + AGAIN_AFTER;
            }
        }
    }

    /// Starts work on held shards while authority lasts.
    fn start_rule(&mut self, lease: LeaseId) {
        // An unresolved write may have released or claimed shards: start nothing new.
        if self.holding.until <= self.now || self.holding.unresolved {
            return;
        }
        for (shard, epoch) in self.holding.content.clone() {
            let waits = self.holding.running.contains_key(&shard)
                || self.is_leaving_shard(lease, &shard, epoch);
            if waits {
                continue;
            }
            self.holding.running.insert(shard.clone(), Run::Running(epoch));
            let (work, shard) = shard;
            self.out.push(Effect::StartShard { work, shard, epoch });
        }
    }
}

/// Content of a plan about a shard, for one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    /// There is no readable plan, or the shard has no owner in it: the holder continues.
    Nothing,
    /// The plan drains the shard, or gives it to another lease.
    Gone,
    Ours(ShardEpoch),
}
