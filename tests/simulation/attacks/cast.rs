//! Roles of the nodes in a script (the cast), the moves that act on them, and the checks that moves wait for.

use bellwether::{
    engine::{Call, DrainRequest, LeaseId, PlanTable, ShardId},
    store::{KeyRange, Op, Txn, protocol::Request, values},
};

use crate::{
    chance::{MILLIS, SECONDS, Time},
    host::{ProcId, Shard},
    scenario::Fault,
    wire::{Ask, InFlight},
    world::{Event, World},
};

const LONG: Time = 15 * SECONDS;

impl World {
    /// Makes the move if `is_so` holds; returns `is_so`.
    pub fn once(&mut self, is_so: bool, then: impl FnOnce(&mut Self)) -> bool {
        if is_so {
            then(self);
        }
        is_so
    }

    /// Makes the first move once the cluster is settled: casts the leader, then the two other nodes.
    pub fn opening(&mut self, then: impl FnOnce(&mut Self)) -> bool {
        let ready = self.cast_all();
        self.once(ready, then)
    }

    fn cast_all(&mut self) -> bool {
        if !self.is_settled() {
            return false;
        }
        let Some(leader) = self.leader() else { return false };
        let others = (0..self.procs.len()).filter(|p| *p != leader && self.procs[*p].alive);
        self.cast = std::iter::once(leader).chain(others).collect();
        let shard = self.procs[self.cast[1]].shards.keys().next().cloned();
        self.prop = shard;
        self.cast.len() == 3 && self.prop.is_some()
    }

    /// Casts three nodes once the cluster is settled: the leader, the node that holds no shard, and the node
    /// that holds the only shard.
    pub fn cast_the_idle_second(&mut self) -> bool {
        let Some(leader) = self.leader().filter(|_| self.is_settled()) else { return false };
        let alive = (0..self.procs.len()).filter(|p| *p != leader && self.procs[*p].alive);
        let (idle, busy): (Vec<_>, Vec<_>) = alive.partition(|p| self.procs[*p].shards.is_empty());
        self.cast = [vec![leader], idle, busy].concat();
        self.cast.len() == 3 && !self.procs[self.cast[2]].shards.is_empty()
    }

    /// Orders the cast by the candidate queue: the next candidate is the second, and the one after it is the
    /// third.
    pub fn order_of_the_line(&mut self) {
        let turn = |p: &ProcId| {
            let key = self.depot.keys.candidate(self.lease(*p));
            self.depot.get(&key).map_or(i64::MAX, |kv| kv.created.0)
        };
        if turn(&self.cast[2]) < turn(&self.cast[1]) {
            self.cast.swap(1, 2);
        }
        self.prop = self.procs[self.cast[1]].shards.keys().next().cloned();
    }

    pub fn is_settled(&self) -> bool {
        self.leader_problem().is_none() && self.shard_problem().is_none()
    }

    pub fn leader(&self) -> Option<ProcId> {
        (0..self.procs.len()).find(|p| {
            let proc = &self.procs[*p];
            proc.alive && proc.work.is_some() && self.now < proc.authority_until
        })
    }

    pub fn lease(&self, p: ProcId) -> LeaseId {
        self.procs[p].engine.joined().expect("it has joined")
    }

    pub fn leads(&self, role: usize) -> bool {
        self.leader() == Some(self.cast[role])
    }

    pub fn another_leads(&self) -> bool {
        self.leader().is_some_and(|p| p != self.cast[0])
    }

    /// Whether the first node has been deposed or has resigned, and is a candidate again.
    pub fn first_is_back_in_line(&self) -> bool {
        let key = self.depot.keys.candidate(self.lease(self.cast[0]));
        self.another_leads() && self.depot.get(&key).is_some()
    }

    pub fn acts(&self, p: ProcId) -> bool {
        self.prop.as_ref().is_some_and(|shard| self.may_act_on(p, shard))
    }

    /// Whether a process other than `than` acts on the script's shard.
    pub fn another_acts(&self, than: ProcId) -> bool {
        let shard = self.the_shard();
        (0..self.procs.len()).any(|q| q != than && self.may_act_on(q, shard))
    }

    pub fn the_shard(&self) -> &Shard {
        self.prop.as_ref().expect("there is one")
    }

    /// Whether `time` has passed since `since` was set.
    pub fn passed(&self, time: Time) -> bool {
        self.since + time < self.now
    }

    pub fn stall_watch(&mut self, p: ProcId) {
        self.procs[p].watch.stalled_until = self.now + LONG;
    }

    pub fn unstall_watch(&mut self, p: ProcId) {
        let now = self.now;
        let watch = &mut self.procs[p].watch;
        watch.stalled_until = now;
        for (at, _) in &mut watch.under_way {
            *at = now;
        }
        for _ in 0..self.procs[p].watch.under_way.len() {
            self.at(now, Event::WatchArrive(p));
        }
    }

    pub fn cut_off(&mut self, p: ProcId) {
        let links = &mut self.slots[self.procs[p].slot];
        links.up_cut_until = self.now + LONG;
        links.down_cut_until = self.now + LONG;
    }

    /// Cuts the way from the store to the process; requests of the process still arrive.
    pub fn cut_down(&mut self, p: ProcId) {
        self.slots[self.procs[p].slot].down_cut_until = self.now + LONG;
    }

    pub fn reconnect(&mut self, p: ProcId) {
        let links = &mut self.slots[self.procs[p].slot];
        links.up_cut_until = self.now;
        links.down_cut_until = self.now;
    }

    /// Cuts the process off and deletes its candidate key: the most unclean end of a term.
    pub fn vanishes(&mut self, p: ProcId) {
        self.cut_off(p);
        let key = self.depot.keys.candidate(self.lease(p));
        self.delete(&key);
    }

    /// Writes the drain request key of the process, which sees the request by its watch only.
    pub fn drain_request(&mut self, p: ProcId) {
        let key = self.depot.keys.drain_request(self.procs[p].id);
        let request = DrainRequest { since_unix_ms: self.now / MILLIS, why: "sim".into() };
        let value = values::encode_drain_request(&request);
        self.write(Op::Put { key, value, lease: None });
    }

    /// Stops the driver of the process while its work goes on.
    pub fn starve(&mut self, p: ProcId) {
        self.procs[p].starved_until = self.now + LONG;
    }

    pub fn wake(&mut self, p: ProcId) {
        self.procs[p].starved_until = self.now;
        self.at(self.now, Event::Run(p));
    }

    /// Connects the process only to a member of the store that has lost its quorum and has not noticed.
    pub fn only_reaches_a_deposed_leader(&mut self, p: ProcId) {
        let slot = self.procs[p].slot;
        self.slots[slot].stale_until = self.now + LONG;
        self.slots[slot].minority_until = self.now + LONG;
        self.stall_watch(p);
    }

    pub fn revoke(&mut self, lease: LeaseId) {
        let _ = self.depot.serve(self.now, &Request::Revoke(lease));
        self.publish();
    }

    pub fn overwrite(&mut self, key: Vec<u8>, lease: Option<LeaseId>) {
        self.meddle_with(Op::Put { key, value: b"oops".to_vec(), lease });
    }

    pub fn delete(&mut self, key: &[u8]) {
        self.meddle_with(Op::Delete(KeyRange::key(key)));
    }

    fn meddle_with(&mut self, op: Op) {
        self.depot.history.meddled();
        self.write(op);
    }

    fn write(&mut self, op: Op) {
        let txn = Txn { then: vec![op], ..Txn::default() };
        let _ = self.depot.serve(self.now, &Request::Txn(txn));
        self.publish();
    }

    /// Makes the backup that every later restore uses. No other backup is made.
    pub fn back_up(&mut self) {
        self.depot.only_backup();
    }

    /// Stops the store and restores the backup with revisions above all that were handed out, as a correct
    /// restore does: no revision goes back, so revisions do not show the restore.
    pub fn restore(&mut self) {
        self.restored_bumped = Some(true);
        self.replace_store(Fault::Restore);
    }

    /// Restores the backup without bumping revisions: the store hands out revisions of the lost history again.
    pub fn restore_unbumped(&mut self) {
        self.restored_bumped = Some(false);
        self.replace_store(Fault::Restore);
    }

    /// Whether the record was written after the revision `mark`.
    pub fn has_beaten(&self) -> bool {
        self.depot.get(&self.depot.keys.record()).is_some_and(|kv| self.mark < kv.modified.0)
    }

    pub fn is_restored(&self) -> bool {
        0 < self.depot.replaced && self.depot.down_until <= self.now
    }

    pub fn planned(&self) -> Option<PlanTable> {
        let key = self.depot.keys.plan(&self.scenario.works[0].0);
        values::decode_plan(&self.depot.get(&key)?.value)
    }

    /// Whether the plan drains the script's shard.
    pub fn drains(&self) -> bool {
        let number = self.the_shard().1.0 as usize;
        self.planned().is_some_and(|table| table.shards[number].draining)
    }

    /// Whether the plan assigns the script's shard to `p` and does not drain it.
    pub fn plan_names(&self, p: ProcId) -> bool {
        let (lease, number) = (self.lease(p), self.the_shard().1.0 as usize);
        let table = self.planned();
        let assignment = table.as_ref().and_then(|table| table.shards.get(number));
        assignment.is_some_and(|a| a.owner == Some(lease) && !a.draining)
    }

    /// Picks a shard that the plan assigns to `p` and that no process runs yet.
    pub fn pick_given(&mut self, p: ProcId) -> bool {
        let lease = self.lease(p);
        let Some(table) = self.planned() else { return false };
        let work = self.scenario.works[0].0.clone();
        let given = (0u32..).zip(&table.shards).find(|(number, assignment)| {
            let shard = (work.clone(), ShardId(*number));
            assignment.owner == Some(lease)
                && !assignment.draining
                && self.procs.iter().all(|proc| !proc.shards.contains_key(&shard))
        });
        self.prop = given.map(|(number, _)| (work, ShardId(number)));
        self.prop.is_some()
    }

    /// Whether the network holds back a PLAN that assigns the script's shard to a node other than `p`.
    pub fn plan_held_back(&self, p: ProcId) -> bool {
        let number = self.the_shard().1.0 as usize;
        let lease = self.lease(p);
        self.held.iter().any(|flight| match &flight.ask {
            Ask::Call(Call::Plan { table, .. }) => {
                let assignment = &table.shards[number];
                assignment.owner.is_some_and(|owner| owner != lease) && !assignment.draining
            }
            _ => false,
        })
    }

    /// Whether the network holds back a request that matches `which`.
    pub fn keeps(&self, which: fn(&InFlight) -> bool) -> bool {
        self.held.iter().any(which)
    }

    /// Delivers the matching requests that were held back, in the order in which they were sent.
    pub fn release(&mut self, which: fn(&InFlight) -> bool) {
        for flight in std::mem::take(&mut self.held) {
            if which(&flight) {
                self.at(self.now, Event::Arrive(Box::new(flight)));
            } else {
                self.held.push(flight);
            }
        }
    }
}
