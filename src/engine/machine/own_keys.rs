//! The own `node(id)`, `member(id)` and `tickkey(id)` after JOIN, by T17 (own keys), and the cluster's tick,
//! by T18 (SWITCH TICK).
//!
//! The one rule to keep, I5 (own state never goes back): each write compares the last known revision, so that
//! a late write never undoes a later one.

use std::time::Duration;

use super::{Asked, Engine, Try, plans};
use crate::engine::{
    call::{Call, Effect, Join, Outcome, SessionEnd},
    cluster_view::ClusterView,
    types::{BootTime, LeaseId, NodeId, Revision, Role},
    view::Member,
};

const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Own key in the store.
#[derive(Debug)]
struct OwnKey<T> {
    /// `m(key)` as last known.
    modified: Revision,
    /// Value at that revision, as far as it is known.
    written: Option<T>,
    /// Value of the write in flight.
    writing: Option<T>,
    again_at: BootTime,
}

impl<T> Default for OwnKey<T> {
    fn default() -> Self {
        let (modified, again_at) = (Revision(0), BootTime::default());
        Self { modified, written: None, writing: None, again_at }
    }
}

/// Own keys of this incarnation.
#[derive(Debug, Default)]
pub(super) struct OwnKeys {
    node: OwnKey<Role>,
    member: OwnKey<Member>,
    tick_key: OwnKey<Duration>,
    /// Tick that this node runs at.
    tick: Duration,
    switching: Try,
}

impl OwnKeys {
    /// Notes the values of a JOIN that is sent now.
    pub(super) fn joining(&mut self, join: &Join) {
        self.node.written = Some(join.metadata.role);
        self.member.written = Some(join.member.clone());
        self.tick_key.written = Some(join.tick);
    }

    /// Notes that JOIN has put the keys at this revision.
    pub(super) fn joined(&mut self, at: Revision, tick: Duration) {
        self.node.modified = at;
        self.member.modified = at;
        self.tick_key.modified = at;
        self.tick = tick;
    }

    /// Notes the member record that an earlier JOIN of the same lease put, which may have another value.
    pub(super) fn found_member(&mut self, found: Option<Member>) {
        self.member.written = found;
    }
}

impl Engine {
    pub(super) fn own_key_rules(&mut self) {
        let Some(lease) = self.session.lease() else { return };
        self.note_own_node(lease);
        self.note_own_member();
        self.node_rule(lease);
        self.member_rule(lease);
        self.tick_rule(lease);
        self.switch_rule();
    }

    /// Another client deleted `node(id)` or took it off its lease: the node puts it back.
    fn note_own_node(&mut self, lease: LeaseId) {
        if !self.session.is_listed() || self.watched.revision < self.own.node.modified {
            return;
        }
        match self.watched.nodes.get(&self.config.id) {
            None => {
                self.own.node.modified = Revision(0);
                self.own.node.written = None;
            }
            Some(node) if node.lease != Some(lease) || node.value.is_none() => {
                self.own.node.modified = node.modified;
                self.own.node.written = None;
            }
            Some(_) => (),
        }
    }

    /// Another client overwrote `member(id)` on its own lease: the node writes its own value again. (A
    /// deleted key, or one on another lease, ends the session by R10.)
    fn note_own_member(&mut self) {
        let own = &mut self.own.member;
        let is_seen = self.session.is_listed() && own.modified <= self.watched.revision;
        if let Some(member) = self.watched.members.get(&self.config.id)
            && is_seen
            && own.writing.is_none()
            && own.modified != member.modified
        {
            own.modified = member.modified;
            own.written.clone_from(&member.value);
        }
    }

    /// Writes the role into `node(id)`: the role of the office, not of authority, so a suspended leader
    /// writes nothing.
    fn node_rule(&mut self, lease: LeaseId) {
        let role = if self.reign.is_some() { Role::Leader } else { Role::Follower };
        let Some(again_at) = self.own.node.wants(&role) else { return };
        if self.is_leaving() || !self.is_due(again_at) {
            return;
        }
        let modified = self.own.node.begin(role);
        let metadata = self.metadata(role);
        self.send(Asked::WriteNode, Call::WriteNode { lease, modified, metadata });
    }

    fn member_rule(&mut self, lease: LeaseId) {
        let member = self.member_record(lease);
        let Some(again_at) = self.own.member.wants(&member) else { return };
        if self.is_leaving() || !self.is_due(again_at) {
            return;
        }
        let modified = self.own.member.begin(member.clone());
        let id = self.config.id;
        self.send(Asked::WriteMember, Call::WriteMember { id, modified, member });
    }

    /// T18, for every node: adopts a new tick of the cluster and writes it into the own tick key.
    fn tick_rule(&mut self, lease: LeaseId) {
        let Some(tick) = self.watched.tick() else { return };
        if self.session.is_listed() && tick != self.own.tick {
            self.own.tick = tick;
            self.out.push(Effect::TickChanged(tick));
        }
        let tick = self.own.tick;
        let Some(again_at) = self.own.tick_key.wants(&tick) else { return };
        if self.is_leaving() || !self.is_due(again_at) {
            return;
        }
        let modified = self.own.tick_key.begin(tick);
        let id = self.config.id;
        self.send(Asked::WriteTickKey, Call::WriteTickKey { lease, id, modified, tick });
    }

    pub(super) fn on_own_key(&mut self, asked: &Asked, outcome: &Outcome) {
        let again_at = self.now + AGAIN_AFTER;
        if *outcome == Outcome::LeaseNotFound {
            self.lose_session(SessionEnd::LeaseLost);
            return;
        }
        let id = &self.config.id;
        let found = match outcome {
            Outcome::Refused(answer) => answer.view(),
            _ => ClusterView::default(),
        };
        match asked {
            Asked::WriteNode => {
                let found = found.nodes.get(id).map(|stored| stored.modified);
                self.own.node.settle(outcome, found, again_at);
            }
            Asked::WriteMember => {
                let found = found.members.get(id).map(|stored| stored.modified);
                self.own.member.settle(outcome, found, again_at);
            }
            Asked::WriteTickKey => {
                let found = found.tick_keys.get(id).map(|stored| stored.modified);
                self.own.tick_key.settle(outcome, found, again_at);
            }
            _ => (),
        }
    }

    /// T18, for the leader: switches the cluster's tick if all live nodes offer the same other tick, or if
    /// the tick is absent or malformed.
    fn switch_rule(&mut self) {
        let Some(office) = self.office() else { return };
        if self.own.switching.in_flight || !self.session.is_listed() {
            return;
        }
        let stored = self.watched.tick.as_ref();
        let modified = stored.map_or(Revision(0), |stored| stored.modified);
        let tick = match stored.and_then(|stored| stored.value) {
            // An operator deleted or changed the key. The leader writes its own tick: without a cluster's
            // tick, a node whose tick differs from a live node's could never join.
            None => self.own.tick,
            Some(now) => match self.agreed_tick() {
                Some(agreed) if agreed != now => agreed,
                _ => return,
            },
        };
        if !self.may_send(self.own.switching) {
            return;
        }
        self.own.switching.sent();
        let view = self.watched.revision;
        let office = (office.lease, office.revision);
        self.send(Asked::SwitchTick, Call::SwitchTick { office, modified, view, tick });
    }

    /// Tick that all live nodes offer.
    fn agreed_tick(&self) -> Option<Duration> {
        // Keys that hang on no lease belong to no node; counting them would block every switch.
        let lives = |lease: Option<LeaseId>| lease.is_some();
        let members = &self.watched.members;
        let mut offers = members
            .values()
            .filter(|member| lives(member.lease))
            .map(|member| member.value.as_ref().map(|member| member.tick));
        let tick = offers.next()??;
        let mut nodes = self.watched.nodes.iter().filter(|(_, node)| lives(node.lease));
        let is_ours = |id: &NodeId| members.get(id).is_some_and(|member| lives(member.lease));
        let agreed = offers.all(|offer| offer == Some(tick)) && nodes.all(|(id, _)| is_ours(id));
        agreed.then_some(tick)
    }

    pub(super) fn on_tick_switched(&mut self) {
        // The view will show whether the write took effect.
        self.own.switching = Try::at(self.now + plans::AGAIN_AFTER);
    }
}

impl<T: PartialEq> OwnKey<T> {
    /// Time when this value is to be written, if it is not yet.
    fn wants(&self, value: &T) -> Option<BootTime> {
        (self.writing.is_none() && self.written.as_ref() != Some(value)).then_some(self.again_at)
    }

    /// Notes that this value is written now. Returns `m(key)`, which the write compares.
    fn begin(&mut self, value: T) -> Revision {
        self.writing = Some(value);
        self.modified
    }

    /// Notes the outcome of the write in flight. `found` = the key's revision, if the compare failed.
    fn settle(&mut self, outcome: &Outcome, found: Option<Revision>, again_at: BootTime) {
        let writing = self.writing.take();
        match outcome {
            Outcome::Done(answer) => {
                self.modified = answer.revision;
                self.written = writing;
            }
            Outcome::Refused(_) => {
                self.modified = found.unwrap_or(Revision(0));
                self.written = None;
            }
            _ => {
                self.written = None;
                self.again_at = again_at;
            }
        }
    }
}
