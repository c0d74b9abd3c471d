//! A cluster as the store shows it at one revision: what the read commands tell of.
//!
//! Deliberately not the engine's view: it decides nothing, and shows junk as junk.

use std::{collections::BTreeMap, time::Duration};

use bellwether::{
    engine::{
        Change, DrainRequest, Held, LeaseId, Member, NodeId, NodeMetadata, PlanTable, Record,
        Revision, ShardId, Stored, Term, WorkType,
    },
    store::{Get, Store, StoreError, keys::Keys, protocol::Decoded},
};

/// Everything of one cluster but its state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) revision: Revision,
    pub(crate) candidates: BTreeMap<LeaseId, Stored<NodeId>>,
    pub(crate) nodes: BTreeMap<NodeId, Stored<NodeMetadata>>,
    pub(crate) members: BTreeMap<NodeId, Stored<Member>>,
    pub(crate) held: BTreeMap<LeaseId, Stored<Held>>,
    pub(crate) record: Option<Stored<Record>>,
    pub(crate) plans: BTreeMap<WorkType, Stored<PlanTable>>,
    pub(crate) tick: Option<Stored<Duration>>,
    pub(crate) resign: Option<Stored<Term>>,
    pub(crate) drains: BTreeMap<NodeId, Stored<DrainRequest>>,
}

/// Who is in office, as far as the store can say: it cannot tell a silent leader from one that acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) id: NodeId,
    pub(crate) term: Term,
    /// None: a node of the Go package.
    pub(crate) d: Option<Duration>,
    /// Whether its last beat says that it had no authority: it is in office and does not act.
    pub(crate) suspended: bool,
}

/// One shard, as planned and as held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    pub(crate) number: u32,
    pub(crate) planned: Option<NodeId>,
    pub(crate) held: Option<NodeId>,
    pub(crate) epoch: i64,
    pub(crate) draining: bool,
}

impl Snapshot {
    /// Reads it with one linearizable read.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub(crate) async fn read(
        store: &dyn Store,
        keys: &Keys,
        timeout: Duration,
    ) -> Result<Self, StoreError> {
        let answer = store.get(Get::range(keys.watched()), timeout).await?;
        Ok(Self::of(answer.revision, Decoded::of_list(keys, &answer.kvs).changes))
    }

    /// All that a list shows.
    pub(crate) fn of(revision: Revision, changes: Vec<Change>) -> Self {
        let mut snapshot = Self { revision, ..Self::default() };
        for change in changes {
            snapshot.apply(change);
        }
        snapshot
    }

    /// Takes in what one key has become.
    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::Candidate(lease, now) => set(&mut self.candidates, lease, now),
            Change::Node(id, now) => set(&mut self.nodes, id, now),
            Change::Member(id, now) => set(&mut self.members, id, now),
            Change::Held(lease, now) => set(&mut self.held, lease, now),
            Change::Record(now) => self.record = now,
            Change::Plan(work, now) => set(&mut self.plans, work, now),
            Change::Tick(now) => self.tick = now,
            Change::ResignRequest(now) => self.resign = now,
            Change::DrainRequest(id, now) => set(&mut self.drains, id, now),
            Change::TickKey(..) => {}
        }
    }

    /// The candidates, oldest first.
    pub(crate) fn queue(&self) -> Vec<(LeaseId, &Stored<NodeId>)> {
        let mut queue: Vec<_> = self.candidates.iter().map(|(lease, it)| (*lease, it)).collect();
        queue.sort_by_key(|(_, it)| it.created);
        queue
    }

    /// The member record that hangs on this lease: without one the incarnation is a Go node's.
    pub(crate) fn member_on(&self, lease: LeaseId) -> Option<(NodeId, &Stored<Member>)> {
        self.members.iter().find(|(_, it)| it.lease == Some(lease)).map(|(id, it)| (*id, it))
    }

    /// Who is in office.
    pub(crate) fn leader(&self) -> Option<Leader> {
        let queue = self.queue();
        let oldest = queue.first()?;
        if self.member_on(oldest.0).is_none()
            && let Some(id) = oldest.1.value
        {
            return Some(Leader { id, term: Term(oldest.1.created.0), d: None, suspended: false });
        }
        let record = self.record.as_ref()?.value.as_ref().filter(|it| !it.ended)?;
        let (lease, id) = (record.lease?, record.node?);
        let candidate = self.candidates.get(&lease)?;
        (candidate.created.0 == record.term.0).then_some(Leader {
            id,
            term: record.term,
            d: Some(record.d),
            suspended: record.suspended,
        })
    }

    /// Whose incarnation a lease is.
    pub(crate) fn owner(&self, lease: LeaseId) -> Option<NodeId> {
        let by_node =
            || self.nodes.iter().find(|(_, it)| it.lease == Some(lease)).map(|(id, _)| *id);
        self.member_on(lease).map(|(id, _)| id).or_else(by_node)
    }

    /// Shards held by an incarnation, over all work types.
    pub(crate) fn shards_held(&self, lease: LeaseId) -> usize {
        let held = self.held.get(&lease).and_then(|it| it.value.as_ref());
        held.map_or(0, |it| it.shards.len())
    }

    /// Whether any live node offers work of that type.
    pub(crate) fn is_offered(&self, work: &WorkType) -> bool {
        let mut members = self.members.values().filter_map(|it| it.value.as_ref());
        members.any(|it| it.work.iter().any(|offer| offer.work == *work))
    }

    /// How many shards of a work type nobody holds; none of one that no live node offers any more.
    pub(crate) fn unowned(&self, work: &WorkType) -> usize {
        if !self.is_offered(work) {
            return 0;
        }
        self.shards(work).iter().filter(|it| it.held.is_none()).count()
    }

    /// The shards of a work type, by number.
    pub(crate) fn shards(&self, work: &WorkType) -> Vec<Shard> {
        let plan = self.plans.get(work).and_then(|it| it.value.as_ref());
        let planned = plan.map_or(&[][..], |it| &it.shards);
        let mut shards: Vec<Shard> = (0_u32..)
            .zip(planned)
            .map(|(number, it)| Shard {
                number,
                planned: it.owner.and_then(|lease| self.owner(lease)),
                held: None,
                epoch: it.epoch.0,
                draining: it.draining,
            })
            .collect();
        for (lease, held) in &self.held {
            let Some(value) = &held.value else { continue };
            for (of, ShardId(number)) in value.shards.keys() {
                if let Some(shard) = shards.get_mut(*number as usize).filter(|_| of == work) {
                    shard.held = self.owner(*lease);
                }
            }
        }
        shards
    }
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, now: Option<V>) {
    match now {
        Some(now) => map.insert(key, now),
        None => map.remove(&key),
    };
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::{Duration, SystemTime};

    use bellwether::engine::{Assignment, Role, ShardEpoch, WorkOffer};

    use super::*;

    fn stored<T>(revision: i64, lease: i64, value: T) -> Stored<T> {
        let at = Revision(revision);
        let lease = (lease != 0).then_some(LeaseId(lease));
        Stored { created: at, modified: at, lease, value: Some(value), bytes: Vec::new() }
    }

    pub(crate) fn id(id: i64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    /// Node 1 on lease 0xa leads in term 10, node 2 on 0xb follows and holds shard 0 of two; shard 1 is
    /// planned for it, and nobody holds it.
    pub(crate) fn two_nodes() -> Snapshot {
        let mut snapshot = Snapshot { revision: Revision(99), ..Snapshot::default() };
        for (number, lease, role) in [(1, 0xa, Role::Leader), (2, 0xb, Role::Follower)] {
            let metadata = NodeMetadata {
                id: id(number),
                address: format!("host-{number}:80"),
                // Zero would be a start that nobody has told.
                start: SystemTime::UNIX_EPOCH + Duration::from_millis(500),
                role,
            };
            let member = Member {
                lease: LeaseId(lease),
                d: Duration::from_secs(1),
                f: Duration::from_secs(3),
                tick: Duration::from_millis(50),
                policy: bellwether::engine::TickPolicy::Strict,
                pod_uid: None,
                work: vec![WorkOffer {
                    work: WorkType::new("checks"),
                    shards: 2,
                    weight: 1,
                    capacity: None,
                    as_leader: false,
                }],
                draining: false,
                campaigns: true,
            };
            let created = number * 10;
            snapshot
                .apply(Change::Candidate(LeaseId(lease), Some(stored(created, lease, id(number)))));
            snapshot.apply(Change::Node(id(number), Some(stored(created, lease, metadata))));
            snapshot.apply(Change::Member(id(number), Some(stored(created, lease, member))));
        }
        let shards = [((WorkType::new("checks"), ShardId(0)), ShardEpoch(30))].into();
        let held = Held { nonce: 1, shards };
        snapshot.apply(Change::Held(LeaseId(0xb), Some(stored(31, 0xb, held))));
        let assignment =
            Assignment { owner: Some(LeaseId(0xb)), epoch: ShardEpoch(30), draining: false };
        let plan = PlanTable { shards: vec![assignment; 2] };
        snapshot.apply(Change::Plan(WorkType::new("checks"), Some(stored(30, 0, plan))));
        let record = Record {
            term: Term(10),
            lease: Some(LeaseId(0xa)),
            node: Some(id(1)),
            n: 1,
            d: Duration::from_secs(1),
            ended: false,
            suspended: false,
        };
        snapshot.apply(Change::Record(Some(stored(40, 0, record))));
        snapshot
    }

    #[test]
    fn the_record_says_who_leads_and_an_ended_one_says_nobody() {
        let mut snapshot = two_nodes();
        let d = Some(Duration::from_secs(1));
        assert_eq!(
            snapshot.leader(),
            Some(Leader { id: id(1), term: Term(10), d, suspended: false })
        );
        let mut record = snapshot.record.clone().unwrap();
        record.value.as_mut().unwrap().ended = true;
        snapshot.apply(Change::Record(Some(record)));
        assert_eq!(snapshot.leader(), None);
    }

    #[test]
    fn a_record_whose_candidate_key_is_gone_or_younger_names_no_leader() {
        let mut snapshot = two_nodes();
        snapshot.candidates.get_mut(&LeaseId(0xa)).unwrap().created = Revision(50);
        assert_eq!(snapshot.leader(), None);
        snapshot.apply(Change::Candidate(LeaseId(0xa), None));
        assert_eq!(snapshot.leader(), None);
    }

    #[test]
    fn a_node_without_a_member_record_leads_while_its_key_is_the_oldest() {
        let mut snapshot = two_nodes();
        snapshot.apply(Change::Candidate(LeaseId(0xc), Some(stored(3, 0xc, id(7)))));
        assert_eq!(
            snapshot.leader(),
            Some(Leader { id: id(7), term: Term(3), d: None, suspended: false })
        );
    }

    #[test]
    fn shards_show_who_should_hold_them_and_who_does() {
        let shards = two_nodes().shards(&WorkType::new("checks"));
        let shard =
            |number, held| Shard { number, planned: Some(id(2)), held, epoch: 30, draining: false };
        assert_eq!(shards, [shard(0, Some(id(2))), shard(1, None)]);
    }

    /// Of the work type `old` two shards are planned, for somebody who is gone; nobody offers it.
    pub(crate) fn with_a_retired_work_type() -> Snapshot {
        let mut snapshot = two_nodes();
        let gone = Assignment { owner: Some(LeaseId(0xd)), ..Assignment::default() };
        let plan = PlanTable { shards: vec![gone; 2] };
        snapshot.apply(Change::Plan(WorkType::new("old"), Some(stored(5, 0, plan))));
        snapshot
    }

    #[test]
    fn shards_of_work_that_nobody_offers_are_not_missed() {
        let snapshot = with_a_retired_work_type();
        let counts = ["checks", "old"].map(|work| snapshot.unowned(&WorkType::new(work)));
        assert_eq!(counts, [1, 0]);
        assert_eq!(snapshot.shards(&WorkType::new("old")).len(), 2, "they are shown all the same");
    }
}
