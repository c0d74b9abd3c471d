//! Faults that are injected at a moment.

use std::time::Duration;

use bellwether::{
    engine::{Dead, DrainRequest, Input, LeaseId, NodeId, NodeMetadata, Role},
    store::{Op, Txn, keys::Key, protocol::Request, values},
};

use crate::{
    breaks::Broken,
    chance::{MILLIS, SECONDS, Time},
    host::ProcId,
    scenario::{BadLink, Fault},
    world::{Event, Proof, World, drift, note},
};

/// A node of the Go package: it never beats, and acts on "id in the oldest key" alone.
#[derive(Debug)]
pub struct GoNode {
    pub lease: LeaseId,
    /// Whether the node still renews its lease.
    pub alive: bool,
}

impl World {
    /// Injects a fault, and sets the time of the next one.
    pub fn trouble(&mut self) {
        if self.healed {
            return;
        }
        let total: u32 = self.scenario.weights.iter().sum();
        if total != 0 {
            let mut drawn = self.chance.below(u64::from(total)) as u32;
            for fault in Fault::ALL {
                let weight = self.scenario.weights[fault.index()];
                if drawn < weight {
                    self.inject(fault);
                    break;
                }
                drawn -= weight;
            }
        }
        let after = self.chance.between(1, 2 * self.scenario.fault_every);
        self.at(self.now + after, Event::Trouble);
    }

    /// Injects this fault now, at a drawn process.
    pub fn inject(&mut self, fault: Fault) {
        let Some(p) = self.victim() else { return };
        note!(self, "FAULT {fault:?} (node {}, if one is meant)", self.procs[p].id);
        self.mark(fault.index() as u64, p as u64);
        self.stats.fault(fault);
        if self.inject_on_kubernetes(fault, p) {
            return;
        }
        match fault {
            Fault::Freeze | Fault::Starve => self.freeze(p, fault),
            Fault::CutUp | Fault::CutDown | Fault::CutBoth => self.cut(p, fault),
            Fault::BadLink => {
                let slot = self.procs[p].slot;
                let link = BadLink::drawn(&mut self.chance, self.scenario.nodes[slot].d());
                let until = self.now + self.chance.log_between(SECONDS, 10 * SECONDS);
                self.spoil_link(slot, link, until);
            }
            Fault::Kill => self.kill(p),
            Fault::Stop => self.stop(p),
            Fault::Resign => self.ask(p, Input::Resign),
            Fault::Drain => {
                self.procs[p].draining = true;
                self.ask(p, Input::Drain(true));
                let after = self.chance.between(100, 5_000) * MILLIS;
                self.at(self.now + after, Event::Undrain(p));
            }
            Fault::Wedge => {
                self.procs[p].unfit = true;
                self.ask(p, Input::Unfit);
                let after = self.chance.between(10, 3_000) * MILLIS;
                self.at(self.now + after, Event::Fit(p));
            }
            Fault::Drift => self.drift(p),
            Fault::WatchStall => {
                let long = self.chance.log_between(50 * MILLIS, 6 * SECONDS);
                self.procs[p].watch.stalled_until = self.now + long;
            }
            Fault::WatchBreak => self.break_watch(p),
            Fault::StoreStall => {
                let long = self.chance.log_between(100 * MILLIS, 4 * SECONDS);
                self.depot.stalled_until = self.now + long;
            }
            Fault::Failover => self.failover(),
            Fault::Revoke => self.revoke_some_lease(),
            Fault::Delete | Fault::Overwrite => self.meddle(fault),
            Fault::Compact => self.depot.compact(),
            Fault::Wipe | Fault::Restore => self.replace_store(fault),
            Fault::GoJoin => self.go_join(),
            Fault::GoLeave => {
                if let Some(go) = self.go.iter_mut().find(|go| go.alive) {
                    go.alive = false;
                }
            }
            Fault::Duplicate => {
                // In another pod: in the same pod, the second process would not get the pod's lock.
                let p = self.spawn(self.procs[p].slot, "another pod".to_owned());
                self.start(p, Dead::default());
                let after = self.chance.between(500, 3_000) * MILLIS;
                self.at(self.now + after, Event::StopNow(p));
            }
            Fault::ResignRequest => self.request_resign(),
            Fault::DrainRequest => self.request_drain(p),
        }
    }

    /// The process that the fault hits: the leader more often than any other.
    fn victim(&mut self) -> Option<ProcId> {
        let living: Vec<ProcId> = (0..self.procs.len()).filter(|p| self.procs[*p].alive).collect();
        let leader = living.iter().find(|p| self.procs[**p].work.is_some()).copied();
        if let Some(leader) = leader
            && self.chance.percent(40)
        {
            return Some(leader);
        }
        self.chance.pick(&living).copied()
    }

    fn freeze(&mut self, p: ProcId, fault: Fault) {
        let until = self.now + self.chance.log_between(20 * MILLIS, 8 * SECONDS);
        let proc = &mut self.procs[p];
        if fault == Fault::Freeze {
            proc.frozen_until = proc.frozen_until.max(until);
        } else {
            proc.starved_until = proc.starved_until.max(until);
        }
        self.at(until, Event::Run(p));
        if self.broken == Some(Broken::EndOfLiving) && fault == Fault::Freeze {
            // The parent treats a child that does not answer as dead.
            let leases = self.procs[p].announced.clone();
            self.parent_ends(self.procs[p].slot, leases, None);
        }
    }

    fn cut(&mut self, p: ProcId, fault: Fault) {
        let until = self.now + self.chance.log_between(50 * MILLIS, 8 * SECONDS);
        let links = &mut self.slots[self.procs[p].slot];
        if fault != Fault::CutDown {
            links.up_cut_until = until;
        }
        if fault != Fault::CutUp {
            links.down_cut_until = until;
        }
    }

    /// Makes a node's link bad until `until`.
    pub fn spoil_link(&mut self, slot: usize, link: BadLink, until: Time) {
        note!(self, "the link of node {slot} is {link:?}");
        let links = &mut self.slots[slot];
        match link {
            BadLink::Slow { up, down } => {
                links.slow_up = up;
                links.slow_down = down;
                links.slow_until = until;
            }
            BadLink::Deaf => links.down_cut_until = until,
            BadLink::Stalled => {
                links.up_cut_until = until;
                links.down_cut_until = until;
            }
        }
    }

    /// Kills the process; only a parent can prove the death at once.
    pub fn kill(&mut self, p: ProcId) {
        let slot = self.procs[p].slot;
        self.end_proc(p);
        if self.slots[slot].proc != Some(p) {
            return;
        }
        if self.chance.percent(self.scenario.supervised_percent) {
            let leases = std::mem::take(&mut self.procs[p].announced);
            let again = self.chance.percent(80).then_some(Proof::None);
            self.parent_ends(slot, leases, again);
            return;
        }
        match self.chance.below(4) {
            0 => (),
            n => {
                let proof = if n == 1 { Proof::None } else { Proof::Lock };
                let after = self.chance.log_between(MILLIS, 5 * SECONDS);
                self.at(self.now + after, Event::Begin(slot, proof));
            }
        }
    }

    /// The rolling update reaches this node, which restarts.
    pub fn roll(&mut self, slot: usize) {
        if let Some(p) = self.slots[slot].proc.filter(|p| self.procs[*p].alive)
            && !self.healed
            && !self.procs[p].stopping
        {
            self.stop(p);
        }
    }

    fn stop(&mut self, p: ProcId) {
        self.procs[p].stopping = true;
        self.ask(p, Input::Stop);
        let after = self.chance.log_between(20 * MILLIS, 10 * SECONDS);
        self.at(self.now + after, Event::StopNow(p));
        let slot = self.procs[p].slot;
        if self.slots[slot].proc == Some(p) && self.chance.percent(80) {
            let after = after + self.chance.log_between(MILLIS, SECONDS);
            self.at(self.now + after, Event::Begin(slot, Proof::None));
        }
    }

    pub fn on_fit(&mut self, p: ProcId) {
        if self.procs[p].alive && self.procs[p].unfit {
            self.procs[p].unfit = false;
            self.ask(p, Input::Fit);
        }
    }

    pub fn on_undrain(&mut self, p: ProcId) {
        if self.procs[p].alive && self.procs[p].draining {
            self.procs[p].draining = false;
            self.ask(p, Input::Drain(false));
        }
    }

    fn drift(&mut self, p: ProcId) {
        let error = drift(&mut self.chance, self.scenario.drift_ppm);
        let slot = self.procs[p].slot;
        self.slots[slot].clock.drift(self.now, error);
        for p in 0..self.procs.len() {
            if self.procs[p].slot == slot && self.procs[p].alive {
                self.look_at(p, &[]);
                // The node's alarm was set by the old rate.
                self.ask(p, Input::Tick);
            }
        }
    }

    fn failover(&mut self) {
        let stale_for = self.chance.log_between(200 * MILLIS, 8 * SECONDS);
        for slot in 0..self.slots.len() {
            if self.chance.percent(50) {
                self.slots[slot].stale_until = self.now + stale_for;
                // This member of the store may be the only one that the process can reach.
                if let Some(p) = self.slots[slot].proc.filter(|_| self.chance.percent(30)) {
                    self.slots[slot].minority_until = self.now + stale_for;
                    self.procs[p].watch.stalled_until = self.now + stale_for;
                }
            }
        }
        self.depot.restart_leases(self.now);
        let long = self.chance.log_between(100 * MILLIS, 2 * SECONDS);
        self.depot.stalled_until = self.now + long;
        for p in 0..self.procs.len() {
            if self.procs[p].alive && self.chance.percent(50) {
                self.break_watch(p);
            }
        }
    }

    fn revoke_some_lease(&mut self) {
        let leases = self.depot.leases();
        if let Some(lease) = self.chance.pick(&leases).copied() {
            note!(self, "somebody revokes {lease}");
            self.operate(&Request::Revoke(lease));
        }
    }

    /// An operator writes a malformed value, or the value that the key had: the protocol does not protect
    /// against well-formed forgeries.
    fn meddle(&mut self, fault: Fault) {
        let all = self.depot.all();
        let Some(kv) = self.chance.pick(&all).cloned() else { return };
        // Revisions of a run are small. In a restored store, a write could get the exact revision of an office
        // of the old history, and no check could distinguish it from that office.
        if let Some(Key::Candidate(lease)) = self.depot.keys.parse(&kv.key)
            && self.taken.contains(&(lease, self.depot.revision() + 1))
        {
            return;
        }
        let op = if fault == Fault::Delete {
            Op::Delete(bellwether::store::KeyRange::key(kv.key.clone()))
        } else {
            let same_value = self.chance.percent(40);
            // A node or member key on the lease of another live node is a duplicate id for as long as that node
            // lives, and is not repaired.
            let anywhere =
                !matches!(self.depot.keys.parse(&kv.key), Some(Key::Node(_) | Key::Member(_)));
            let lease = match self.chance.below(4) {
                0 => kv.lease,
                1 if anywhere => {
                    let leases = self.depot.leases();
                    self.chance.pick(&leases).copied()
                }
                _ => None,
            };
            let value = if same_value { kv.value.clone() } else { b"{\"oops\": 1".to_vec() };
            Op::Put { key: kv.key.clone(), value, lease }
        };
        note!(self, "an operator: {op:?}, before: {kv:?}");
        self.depot.history.meddled();
        self.operate(&Request::Txn(Txn { then: vec![op], ..Txn::default() }));
    }

    pub fn delete_key(&mut self, key: &[u8]) {
        let op = Op::Delete(bellwether::store::KeyRange::key(key));
        self.operate(&Request::Txn(Txn { then: vec![op], ..Txn::default() }));
    }

    /// Stops the store; it comes back empty or from a backup.
    pub fn replace_store(&mut self, fault: Fault) {
        if self.now < self.depot.down_until {
            return;
        }
        let down = if fault == Fault::Wipe {
            self.chance.log_between(MILLIS, 2 * SECONDS)
        } else {
            // A3 (a restored store is not served within 3.3 s).
            3_300 * MILLIS + self.chance.log_between(MILLIS, SECONDS)
        };
        self.depot.down_until = self.now + down;
        self.depot.replacement = Some(fault);
        self.at(self.now + down, Event::Store);
        for p in 0..self.procs.len() {
            self.procs[p].watch.under_way.clear();
            self.break_watch(p);
        }
    }

    /// The store comes back.
    pub fn on_store(&mut self) {
        let Some(fault) = self.depot.replacement.take() else { return };
        if self.kube.is_some() {
            return self.restored();
        }
        let bumped = self.chance.percent(40);
        let bumped = self.restored_bumped.unwrap_or(bumped);
        let drawn = self.chance.bits();
        self.depot.replace(self.now, fault, bumped, drawn);
        note!(self, "the store is back ({fault:?}) at revision {}", self.depot.revision());
        if self.healed {
            for key in self.depot.drain_requests() {
                self.at(self.now, Event::DeleteKey(key));
            }
        }
        // The watches on the old store break.
        for p in 0..self.procs.len() {
            self.procs[p].watch.under_way.clear();
            self.break_watch(p);
        }
    }

    fn go_join(&mut self) {
        let n = self.go.len();
        if 3 <= n {
            return;
        }
        let id = NodeId::new(100 + n as i64).expect("not negative");
        let lease = LeaseId((self.chance.bits() >> 1) as i64);
        let ttl = Duration::from_secs(self.scenario.ttl);
        let keys = &self.depot.keys;
        let metadata = NodeMetadata {
            id,
            address: format!("go-{n}"),
            start: std::time::SystemTime::UNIX_EPOCH,
            role: Role::Follower,
        };
        let put = |key, value| Op::Put { key, value, lease: Some(lease) };
        let then = vec![
            put(keys.node(id), values::encode_metadata(&metadata)),
            put(keys.tick_key(id), values::encode_tick(Duration::from_millis(50))),
            put(keys.candidate(lease), values::encode_id(id)),
        ];
        let _ = self.depot.serve(self.now, &Request::Grant { lease, ttl });
        let _ = self.depot.serve(self.now, &Request::Txn(Txn { then, ..Txn::default() }));
        self.publish();
        self.go.push(GoNode { lease, alive: true });
        self.at(self.now + SECONDS / 2, Event::Go(n));
        let after = self.chance.between(200, 8_000) * MILLIS;
        // The Go node dies without releasing its lease, which must expire.
        self.at(self.now + after, Event::Go(usize::MAX - n));
    }

    pub fn on_go(&mut self, n: usize) {
        if usize::MAX - 3 < n {
            self.go[usize::MAX - n].alive = false;
            return;
        }
        if self.go[n].alive {
            if self.depot.stalled_until.max(self.depot.down_until) <= self.now {
                let _ = self.depot.serve(self.now, &Request::KeepAlive(self.go[n].lease));
            }
            self.at(self.now + SECONDS / 2, Event::Go(n));
        }
    }

    fn request_resign(&mut self) {
        let Some(record) = self.depot.get(&self.depot.keys.record()) else { return };
        let Some(record) = values::decode_record(&record.value) else { return };
        let lease = LeaseId((self.chance.bits() >> 1) as i64);
        let ttl = Duration::from_secs(2);
        let put = Op::Put {
            key: self.depot.keys.resign_request(),
            value: values::encode_term(record.term),
            lease: Some(lease),
        };
        self.operate(&Request::Grant { lease, ttl });
        self.operate(&Request::Txn(Txn { then: vec![put], ..Txn::default() }));
    }

    fn request_drain(&mut self, p: ProcId) {
        let key = self.depot.keys.drain_request(self.procs[p].id);
        let request = DrainRequest { since_unix_ms: self.now / MILLIS, why: "sim".into() };
        let value = values::encode_drain_request(&request);
        let put = Op::Put { key: key.clone(), value, lease: None };
        self.operate(&Request::Txn(Txn { then: vec![put], ..Txn::default() }));
        let after: Time = self.chance.between(100, 4_000) * MILLIS;
        self.at(self.now + after, Event::DeleteKey(key));
    }
}
