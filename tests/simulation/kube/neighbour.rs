//! Candidates of client-go that share the Lease: the algorithm of its package `leaderelection`, as it is.

use bellwether::{
    engine::LeaseId,
    k8s::store::pure::Object,
    store::{KeyValue, values::decode_record},
};
use serde_json::{Map, Value, json};

use super::wire::KubeEvent;
use crate::{
    chance::{Clock, MILLIS, SECONDS, Time},
    rules::Rule,
    world::{World, drift, note},
};

/// `LeaseDuration`, in seconds: others wait that long after the last change that they saw.
const LEASE_DURATION: u64 = 6;
/// `RenewDeadline`: a leader that could not renew for so long gives up.
const RENEW_DEADLINE: Time = 3_500 * MILLIS;
/// `RetryPeriod`: time between two attempts.
const RETRY_PERIOD: Time = SECONDS / 2;

/// A candidate of client-go.
#[derive(Debug)]
pub struct Candidate {
    name: String,
    alive: bool,
    clock: Clock,
    /// Spec that it has seen last, and when, by its own clock.
    observed: Option<(Value, u64)>,
    /// Until when it acts as the leader.
    pub leads_until: Time,
}

/// A write that a candidate has decided on.
#[derive(Clone, Debug)]
pub struct Decided {
    /// Version that it replaces.
    version: u64,
    spec: Map<String, Value>,
    asked_at: Time,
}

impl Candidate {
    pub const fn lives(&self) -> bool {
        self.alive
    }
}

impl World {
    /// A candidate of client-go starts.
    pub fn neighbour_joins(&mut self) {
        let n = self.kube_ref().candidates.len();
        if 3 <= n || self.kube_ref().candidates.iter().filter(|it| it.alive).count() == 2 {
            return;
        }
        let drift = drift(&mut self.chance, self.scenario.drift_ppm);
        self.kube_mut().candidates.push(Candidate {
            name: format!("client-go-{n}"),
            alive: true,
            clock: Clock::new(1_000 * SECONDS, drift),
            observed: None,
            leads_until: 0,
        });
        self.soon(KubeEvent::Neighbour(n));
    }

    /// A candidate of client-go ends: it gives the Lease back, or dies.
    pub fn neighbour_leaves(&mut self, releases: bool) {
        let living = self.kube_ref().candidates.iter().position(|it| it.alive);
        let Some(n) = living else { return };
        let now = self.now;
        let candidate = &mut self.kube_mut().candidates[n];
        candidate.alive = false;
        let leads = now < candidate.leads_until;
        candidate.leads_until = candidate.leads_until.min(now);
        let name = candidate.name.clone();
        note!(self, "{name} ends, releases: {releases}");
        if !(leads && releases) || self.now < self.depot.down_until.max(self.depot.stalled_until) {
            return;
        }
        let Some(object) = self.kube_ref().server.object.clone() else { return };
        let mut raw = object.raw.clone();
        if raw["spec"]["holderIdentity"] != json!(name) {
            return;
        }
        raw["spec"]["holderIdentity"] = json!("");
        raw["spec"]["leaseDurationSeconds"] = json!(1);
        raw["spec"]["renewTime"] = json!(self.now);
        let version = self.kube_mut().server.put(raw);
        self.object_changed(&version);
    }

    /// A candidate tries to acquire or renew the Lease.
    pub fn on_neighbour(&mut self, n: usize) {
        if !self.kube_ref().candidates[n].alive {
            return;
        }
        let after = RETRY_PERIOD + self.chance.below(RETRY_PERIOD / 5);
        self.kube_at(self.now + after, KubeEvent::Neighbour(n));
        if self.now < self.depot.down_until.max(self.depot.stalled_until) {
            return;
        }
        let Some(object) = self.kube_ref().server.object.clone() else { return };
        let Some(spec) = object.raw.get("spec").cloned() else { return };
        let now = self.now;
        let candidate = &mut self.kube_mut().candidates[n];
        let local = candidate.clock.at(now).0.as_nanos() as u64;
        if candidate.observed.as_ref().is_none_or(|(seen, _)| *seen != spec) {
            candidate.observed = Some((spec.clone(), local));
        }
        let since = candidate.observed.as_ref().map_or(local, |(_, since)| *since);
        let holder = spec["holderIdentity"].as_str().unwrap_or_default();
        let is_own = holder == candidate.name;
        let lasts = spec["leaseDurationSeconds"].as_u64().unwrap_or(LEASE_DURATION) * SECONDS;
        if !holder.is_empty() && !is_own && local < since + lasts {
            return;
        }
        let mut spec = spec.as_object().cloned().unwrap_or_default();
        let name = candidate.name.clone();
        spec.insert("holderIdentity".to_owned(), json!(name));
        spec.insert("leaseDurationSeconds".to_owned(), json!(LEASE_DURATION));
        spec.insert("renewTime".to_owned(), json!(now));
        let decided = Decided { version: object.number, spec, asked_at: now };
        let at = self.now + self.latency();
        self.kube_at(at, KubeEvent::NeighbourWrites(n, Box::new(decided)));
    }

    /// The write of a candidate arrives at the API server.
    pub fn on_neighbour_writes(&mut self, n: usize, decided: Decided) {
        let Some(object) = self.kube_ref().server.object.clone() else { return };
        let down = self.now < self.depot.down_until.max(self.depot.stalled_until);
        if down || object.number != decided.version || !self.kube_ref().candidates[n].alive {
            return;
        }
        let mut raw = object.raw.clone();
        raw["spec"] = Value::Object(decided.spec);
        let version = self.kube_mut().server.put(raw);
        self.object_changed(&version);
        self.stats.kube_neighbours += 1;
        let candidate = &mut self.kube_mut().candidates[n];
        candidate.leads_until = decided.asked_at + RENEW_DEADLINE;
        let name = candidate.name.clone();
        note!(self, "{name} holds the Lease");
        let ours = (0..self.procs.len())
            .find(|p| self.procs[*p].alive && self.now < self.procs[*p].authority_until);
        if let Some(p) = ours {
            let what = format!("{name} leads, and node {} is in authority", self.procs[p].id);
            self.violate(Rule::I1, what);
        }
    }

    /// I1 beside candidates of client-go: `p` has got or prolonged authority.
    pub fn check_neighbours(&mut self, p: usize) {
        let Some(kube) = &self.kube else { return };
        let leads = kube.candidates.iter().find(|it| self.now < it.leads_until);
        if let Some(candidate) = leads {
            let id = self.procs[p].id;
            let what = format!("node {id} gets authority, and {} leads", candidate.name);
            self.violate(Rule::I1, what);
        }
    }

    /// Whether two states of the store differ by a candidate of client-go alone.
    pub fn is_only_neighbour(&self, object: &Object) -> bool {
        let Some(state) = &object.state else { return false };
        let (before, after) = (self.depot.contents(), &state.contents);
        let keys = &self.depot.keys;
        let theirs = keys.candidate(LeaseId(i64::MAX));
        let same_value = |key: &Vec<u8>| {
            let value = |kv: Option<&KeyValue>| kv.map(|kv| kv.value.clone());
            value(before.keys.get(key)) == value(after.keys.get(key))
        };
        let in_office = before
            .keys
            .get(keys.record().as_slice())
            .and_then(|kv| decode_record(&kv.value)?.lease);
        let ended = in_office.map(|lease| keys.candidate(lease));
        before.leases == after.leases
            && before.keys.keys().chain(after.keys.keys()).all(|key| {
                *key == theirs
                    || same_value(key)
                    || (Some(key) == ended.as_ref() && !after.keys.contains_key(key))
            })
    }
}
