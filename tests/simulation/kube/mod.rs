//! Clusters that are kept in the Kubernetes API: each process has the real replica and the real notes of that
//! store, over a model of the API server with requests that are lost, late and repeated, watches that lag and
//! break, neighbours of client-go, and people who edit and delete its objects.
//!
//! The central store of the run ([`Depot`](crate::depot::Depot)) follows each write that the API server accepts: it
//! carries out the same calls, and the state in the object must be what comes out ([`Rule::Store`]).

mod calls;
mod expiry;
mod faults;
mod feeds;
mod neighbour;
mod server;
mod side;
mod wire;

use std::{collections::BTreeMap, rc::Rc};

use bellwether::{
    engine::{BootTime, LeaseId, Outcome, Revision},
    k8s::store::pure::{ANNOTATION, Flaw, State},
    store::{
        memory::{Contents, Model},
        protocol::{self, Request},
    },
};
use serde_json::json;

pub use self::{faults::is_delayed, wire::KubeEvent};
use self::{
    neighbour::Candidate,
    server::{Server, Version},
    side::{Called, Side, SideId},
};
use crate::{
    chance::{MILLIS, SECONDS},
    host::ProcId,
    rules::Rule,
    wire::{Ask, raw_outcome},
    world::{World, note},
};

/// A rule of the store on Kubernetes that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KubeBreak {
    /// A rule of the replica.
    Replica(Flaw),
    /// The Lease of an incarnation is deleted at any version.
    ExpiryWithoutPrecondition,
    /// Leases end by the time of the wall in them.
    ExpiryByWallClock,
    /// A lease stays in the state after its Lease has gone.
    EntryKept,
    /// A watch goes on after a gap in the history.
    GapNotTold,
}

/// A cluster in the Kubernetes API.
#[derive(Default)]
pub struct Kube {
    pub server: Server,
    pub sides: Vec<Side>,
    pub candidates: Vec<Candidate>,
    /// UID of the object, by the id of its cluster.
    ids: BTreeMap<u64, String>,
    /// How far the wall clock of each slot is off, in ms.
    skews: Vec<i64>,
}

impl World {
    pub fn kube_ref(&self) -> &Kube {
        self.kube.as_ref().expect("a cluster in the Kubernetes API")
    }

    pub fn kube_mut(&mut self) -> &mut Kube {
        self.kube.as_mut().expect("a cluster in the Kubernetes API")
    }

    fn kube_breaks(&self, broken: KubeBreak) -> bool {
        self.kube_break == Some(broken)
    }

    /// Prepares the API server.
    pub fn set_up_kubernetes(&mut self) {
        let Some(scenario) = &self.scenario.kube else { return };
        let most = scenario.skew_ms;
        let skews = (0..self.slots.len())
            .map(|_| self.chance.below(2 * most + 1) as i64 - most as i64)
            .collect();
        self.kube = Some(Kube { skews, ..Kube::default() });
        self.depot.untimed();
        if self.scenario.used_before {
            self.leave_behind();
        }
    }

    /// The object that a cluster leaves behind which ended cleanly.
    fn leave_behind(&mut self) {
        let first = Revision(self.wall_ms(0) - 60_000);
        let state = State::new(String::new(), self.timing().span_max, first);
        let mut body = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": { "name": "sim", "annotations": {} },
            "spec": {},
        });
        let text = state.encode().expect("no key is there");
        body["metadata"]["annotations"][ANNOTATION] = json!(text);
        let version = self.kube_mut().server.create(body);
        let object = version.read.as_ref().expect("it was just written");
        let cluster = object.cluster();
        self.depot.begin(0, cluster, first);
        self.depot.seed_ended(self.now);
        let contents = self.depot.contents();
        self.kube_mut().server.put_contents(contents);
    }

    /// Creates the side of a process.
    pub fn new_side(&mut self, slot: usize, proc: Option<ProcId>) -> SideId {
        let span_max = proc.map(|_| self.timing().span_max);
        let writer = self.chance.bits() >> 1;
        let kube = self.kube_mut();
        kube.sides.push(Side::new(slot, proc, writer.max(1), span_max));
        let s = kube.sides.len() - 1;
        #[cfg(feature = "mutants")]
        if let Some(KubeBreak::Replica(flaw)) = self.kube_break {
            self.side(s).replica.leave_out(flaw);
        }
        self.soon(KubeEvent::OpenObjects(s));
        if proc.is_some() {
            self.soon(KubeEvent::OpenLeases(s));
            let after = self.chance.below(250) * MILLIS;
            self.kube_at(self.now + after, KubeEvent::Look(s));
        }
        s
    }

    fn parents_side(&mut self, slot: usize) -> SideId {
        if let Some(s) = self.slots[slot].parents_side {
            return s;
        }
        let s = self.new_side(slot, None);
        self.slots[slot].parents_side = Some(s);
        s
    }

    /// The state was removed: the store is empty until a node makes another one.
    pub fn store_is_gone(&mut self) {
        self.store_is_other(0, Revision(1));
    }

    /// The store is another one from now on.
    pub fn store_is_other(&mut self, cluster: u64, revision: Revision) {
        let now = self.now;
        self.depot.replaced += 1;
        self.depot.begin(now, cluster, revision);
    }

    /// Checks a write that the API server has accepted: each of its calls is carried out on the central store, and
    /// the state must be what comes out.
    fn judge_write(&mut self, calls: &[Rc<Called>], version: &Version, had_state: bool) {
        let Ok(object) = version.read.as_ref() else {
            return self.violate(Rule::Store, "a write is unreadable".to_owned());
        };
        let Some(state) = &object.state else {
            return self.violate(Rule::Store, "a write has no state".to_owned());
        };
        if !had_state || self.depot.cluster() != object.cluster() {
            let begins = Revision(state.contents.revision.0 - steps(calls));
            if self.kube_ref().server.objects == 1 && self.depot.replaced == 0 {
                let now = self.now;
                self.depot.begin(now, object.cluster(), begins);
            } else {
                self.store_is_other(object.cluster(), begins);
            }
            note!(self, "a store begins at {begins}: {}", object.cluster());
        }
        if calls.is_empty() {
            let contents = state.contents.clone();
            if !self.is_only_neighbour(object) {
                let what = format!("a write without calls changes {:?}", self.depot.contents());
                return self.violate(Rule::Store, what);
            }
            self.depot.follow(contents);
            return self.publish();
        }
        for called in calls {
            self.judge_call(called);
        }
        if self.depot.contents() != state.contents && self.violation.is_none() {
            let (ours, theirs) = (self.depot.contents(), &state.contents);
            let what = format!("the calls lead to {ours:?}, and the write to {theirs:?}");
            self.violate(Rule::Store, what);
        }
        self.publish();
    }

    /// Carries out a call on the central store, and checks the rules at its commit.
    fn judge_call(&mut self, called: &Called) {
        let Called { ask, request, deadline, took, .. } = called;
        if took.replace(Some(self.depot.replaced)) == Some(self.depot.replaced) {
            return self.violate(Rule::Store, format!("{request:?} is carried out twice"));
        }
        let before = match ask {
            Some(Ask::Call(call)) => Some(self.before_commit(call)),
            _ => None,
        };
        let existed = match ask {
            Some(Ask::Own(ask)) => self.depot.get(&ask.key(&self.depot.keys)).is_some(),
            _ => false,
        };
        let result = self.depot.serve(self.now, request);
        self.mark_request(request);
        let outcome = match ask {
            Some(Ask::Call(_)) => {
                protocol::outcome(&self.depot.keys, &protocol::reads(request), result)
            }
            _ => raw_outcome(result),
        };
        note!(self, "the store at {} carries out {ask:?}: {outcome:?}", self.depot.revision());
        let late = *deadline < self.now;
        match (ask, &outcome) {
            (Some(Ask::Call(call)), Outcome::Done(answer)) => {
                self.stats.committed.count(protocol::name(call));
                if late {
                    self.stats.late_commits.count(protocol::name(call));
                }
                self.on_commit(call, answer.revision, before.expect("a call of the protocol"));
            }
            (Some(raw), Outcome::Done(answer)) => {
                self.on_raw_commit(raw, answer.revision, existed);
            }
            (Some(ask), _) => {
                let what = format!("{ask:?} is written, and the store answers {outcome:?}");
                self.violate(Rule::Store, what);
            }
            (None, _) => {}
        }
    }

    /// An object that was created again is another cluster: the replicas that know it report another id.
    fn check_id(&mut self, s: SideId) {
        let replica = &self.kube_ref().sides[s].replica;
        let (id, uid) = (replica.model().cluster(), replica.uid().map(str::to_owned));
        let Some(uid) = uid else { return };
        let known = self.kube_mut().ids.entry(id).or_insert_with(|| uid.clone()).clone();
        if known != uid {
            self.violate(Rule::Store, format!("objects {known} and {uid} are both cluster {id}"));
        }
    }

    /// A lease is ended for want of a renewal only after its time.
    fn check_expiry(&mut self, lease: LeaseId) {
        let until = self.kube_ref().server.lives_until(lease);
        if self.now < until {
            let early = (until - self.now) as f64 / SECONDS as f64;
            let what = format!("{lease} is ended {early} s before its time is over");
            self.violate(Rule::Store, what);
        }
    }

    /// An operator's request, carried out at the store.
    pub fn operate(&mut self, request: &Request) {
        if self.kube.is_none() {
            let _ = self.depot.serve(self.now, request);
            return self.publish();
        }
        if self.kube_ref().server.state().is_none() || self.now < self.depot.down_until {
            return;
        }
        let before = self.depot.contents();
        let _ = self.depot.serve(self.now, request);
        let contents = self.depot.contents();
        if contents != before
            && let Some(version) = self.kube_mut().server.put_contents(contents)
        {
            self.object_changed(&version);
        }
        self.publish();
    }
}

/// Number of revisions that the calls make on an empty store.
fn steps(calls: &[Rc<Called>]) -> i64 {
    let contents = Contents { revision: Revision(1), ..Contents::default() };
    let mut model = Model::from_contents(1, contents);
    for called in calls {
        let at = BootTime::default();
        let _ = match &called.request {
            Request::Txn(txn) => model.txn(at, txn).map(drop),
            Request::Grant { lease, ttl } => model.grant(at, *lease, *ttl).map(drop),
            Request::Revoke(lease) => model.revoke(at, *lease).map(drop),
            Request::Get(_) | Request::KeepAlive(_) => Ok(()),
        };
    }
    model.revision().0 - 1
}
