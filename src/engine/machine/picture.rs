//! What a node sees of its cluster, for people; and what an answer shows, for the rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::Watched;
use crate::engine::{
    call::Answer,
    types::{BootTime, LeaseId, NodeId, NodeMetadata, Revision, WorkType},
    view::{Change, Held, Member, PlanTable, Record, Stored},
};

/// What a node sees of its cluster, for people.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    pub(super) watched: &'a Watched,
}

impl<'a> Picture<'a> {
    /// R of the view; zero before the first list.
    pub fn revision(&self) -> Revision {
        self.watched.revision
    }

    /// The record, if it is readable.
    pub fn record(&self) -> Option<&'a Record> {
        self.watched.record.as_ref().and_then(|stored| stored.value.as_ref())
    }

    /// When the record as it is now was first received.
    pub fn record_at(&self) -> BootTime {
        self.watched.record_at
    }

    /// The candidate key of an incarnation.
    pub fn candidate(&self, lease: LeaseId) -> Option<&'a Stored<NodeId>> {
        self.watched.candidates.get(&lease)
    }

    /// The candidates, oldest first.
    pub fn queue(&self) -> impl Iterator<Item = (LeaseId, &'a Stored<NodeId>)> + use<'a> {
        let candidates = &self.watched.candidates;
        self.watched.queue.values().map(move |lease| (*lease, &candidates[lease]))
    }

    /// What the live nodes tell about themselves.
    pub fn nodes(&self) -> &'a BTreeMap<NodeId, Box<Stored<NodeMetadata>>> {
        &self.watched.nodes
    }

    /// The members' records.
    pub fn members(&self) -> &'a BTreeMap<NodeId, Box<Stored<Member>>> {
        &self.watched.members
    }

    /// Which node an incarnation is of.
    pub fn node_of(&self, lease: LeaseId) -> Option<NodeId> {
        self.watched.by_lease.get(&lease).copied()
    }

    /// What an incarnation's held key says, whatever lease that key hangs on.
    pub fn held_by(&self, lease: LeaseId) -> Option<&'a Held> {
        self.watched.held.get(&lease)?.value.as_ref()
    }

    /// What each live incarnation holds.
    pub fn held(&self) -> impl Iterator<Item = (LeaseId, &'a Held)> + use<'a> {
        let watched = self.watched;
        watched
            .held
            .keys()
            .filter_map(move |lease| watched.sound_held(*lease).map(|(_, held)| (*lease, held)))
    }

    /// The plans, by work type, as far as they are readable.
    pub fn plans(&self) -> impl Iterator<Item = (&'a WorkType, &'a PlanTable)> + use<'a> {
        self.watched
            .plans
            .iter()
            .filter_map(|(work, plan)| plan.stored.value.as_ref().map(|table| (work, table)))
    }

    /// Whether any live member offers work of that type: only then is there anybody to plan it for.
    pub fn is_offered(&self, work: &WorkType) -> bool {
        let mut members = self.watched.members.values().filter_map(|stored| stored.value.as_ref());
        members.any(|member| member.work.iter().any(|offer| offer.work == *work))
    }

    /// The cluster's tick.
    pub fn tick(&self) -> Option<Duration> {
        self.watched.tick.as_ref().and_then(|stored| stored.value)
    }

    /// Ids that an operator has drained.
    pub fn drains(&self) -> &'a BTreeSet<NodeId> {
        &self.watched.drains
    }
}

/// An answer's changes, looked through once.
pub(super) struct Found<'a>(pub(super) &'a Answer);

impl Found<'_> {
    pub(super) fn node(&self, id: NodeId) -> Option<&Stored<NodeMetadata>> {
        self.0.changes.iter().find_map(|change| match change {
            Change::Node(of, stored) if *of == id => stored.as_ref(),
            _ => None,
        })
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = (NodeId, &Stored<NodeMetadata>)> {
        self.0.changes.iter().filter_map(|change| match change {
            Change::Node(id, Some(stored)) => Some((*id, stored)),
            _ => None,
        })
    }

    pub(super) fn member(&self, id: NodeId) -> Option<&Stored<Member>> {
        self.0.changes.iter().find_map(|change| match change {
            Change::Member(of, stored) if *of == id => stored.as_ref(),
            _ => None,
        })
    }

    pub(super) fn held(&self, lease: LeaseId) -> Option<&Stored<Held>> {
        self.0.changes.iter().find_map(|change| match change {
            Change::Held(of, stored) if *of == lease => stored.as_ref(),
            _ => None,
        })
    }

    pub(super) fn record(&self) -> Option<&Stored<Record>> {
        self.0.changes.iter().find_map(|change| match change {
            Change::Record(stored) => stored.as_ref(),
            _ => None,
        })
    }

    pub(super) fn candidate(&self, lease: LeaseId) -> Option<&Stored<NodeId>> {
        self.0.changes.iter().find_map(|change| match change {
            Change::Candidate(of, stored) if *of == lease => stored.as_ref(),
            _ => None,
        })
    }

    pub(super) fn tick(&self) -> Option<&Stored<Duration>> {
        self.0.changes.iter().find_map(|change| match change {
            Change::Tick(stored) => stored.as_ref(),
            _ => None,
        })
    }

    pub(super) fn tick_keys(&self) -> impl Iterator<Item = (NodeId, &Stored<Duration>)> {
        self.0.changes.iter().filter_map(|change| match change {
            Change::TickKey(id, Some(stored)) => Some((*id, stored)),
            _ => None,
        })
    }
}
