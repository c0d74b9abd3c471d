//! The Lease of a cluster: its state, and the spec that other tools read.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::state::{Malformed, State};
use crate::{
    engine::{Record, Revision, timing},
    hash::fnv1a,
    store::{
        keys::Keys,
        memory::Contents,
        values::{decode_metadata, decode_record},
    },
};

/// Annotation that holds the state.
pub const ANNOTATION: &str = "bellwether.dev/state";

/// The object as the API server holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Everything, for the next write: fields of others stay.
    raw: Map<String, Value>,
    /// Identity of the object: another one of the same name has another.
    pub uid: String,
    /// Resource version: another one after each write.
    pub version: String,
    /// State in the annotation; `None` if the object has no annotation.
    pub state: Option<State>,
}

/// Reason why an object cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The answer has no UID or no resource version.
    #[error("the answer is no Lease: it has no uid or no resourceVersion")]
    NoLease,
    /// The annotation of the object is not a state.
    #[error(
        "the annotation {ANNOTATION} of the Lease is not readable: {0}. Restore it, or remove it to start the \
         cluster with an empty state: kubectl annotate lease NAME {ANNOTATION}-"
    )]
    State(#[from] Malformed),
}

impl Object {
    /// Reads an answer of the API server.
    pub fn read(raw: Value) -> Result<Self, Unreadable> {
        let Value::Object(raw) = raw else { return Err(Unreadable::NoLease) };
        let meta = |name: &str| raw.get("metadata").and_then(|it| it.get(name));
        let text = |name: &str| meta(name).and_then(Value::as_str).map(str::to_owned);
        let (Some(uid), Some(version)) = (text("uid"), text("resourceVersion")) else {
            return Err(Unreadable::NoLease);
        };
        let object = Self { uid, version, state: None, raw };
        let state = object.annotation().map(State::decode).transpose()?;
        Ok(Self { state, ..object })
    }

    /// Text of the state.
    pub(super) fn annotation(&self) -> Option<&str> {
        self.raw.get("metadata")?.get("annotations")?.get(ANNOTATION)?.as_str()
    }

    /// Id of the cluster: of the object, and of the moment at which it got a state. Never zero.
    pub fn cluster(&self) -> u64 {
        let salt = self.state.as_ref().map_or(&self.version, |state| &state.salt);
        fnv1a(format!("{}/{salt}", self.uid).as_bytes()).max(1)
    }

    /// Holder in the spec that this project has not written, with the spec.
    pub(super) fn neighbour(&self) -> Option<(&str, &Map<String, Value>)> {
        let spec = self.raw.get("spec")?.as_object()?;
        let holder = spec.get("holderIdentity")?.as_str().filter(|it| !it.is_empty())?;
        let ours = self.state.as_ref().and_then(|state| state.holder.as_deref());
        (ours != Some(holder)).then_some((holder, spec))
    }

    /// Resource version as a number: those of one object can be compared (Kubernetes enhancement 5504).
    pub(super) fn number(&self) -> u64 {
        self.version.parse().unwrap_or(0)
    }

    /// Whether this object is a later one than `other`, as far as their versions show. The number of writes decides only
    /// where resource versions are no numbers: a state that was removed and created again counts from zero.
    pub(super) fn is_after(&self, other: &Self) -> bool {
        let order = |it: &Self| {
            let writes = it.state.as_ref().map_or(0, |state| state.writes);
            (it.number(), writes)
        };
        self.uid == other.uid && order(self) > order(other)
    }
}

/// Writes the object of one cluster.
#[derive(Clone, Debug)]
pub struct Author {
    /// Keys of the cluster.
    pub keys: Keys,
    /// Name of this process as a holder, if it has one.
    pub identity: Option<String>,
}

impl Author {
    /// Body of the write that replaces `base` (`None`: creates the object) by this state.
    /// With a `neighbour` that holds the Lease, the spec stays as it is. `Err`: the state is too large or a key is
    /// not UTF-8, in words.
    pub(super) fn body(
        &self,
        base: Option<&Object>,
        mut state: State,
        neighbour: Option<&str>,
        bound: usize,
        now: Timestamp,
    ) -> Result<Value, String> {
        let before = base.and_then(|it| it.state.as_ref()).and_then(|it| self.record(&it.contents));
        let after = self.record(&state.contents);
        let mut raw = base.map_or_else(|| self.skeleton(), |base| base.raw.clone());
        let spec = part(&mut raw, "spec");
        let is_ended = after.as_ref().is_some_and(|it| it.ended);
        let in_office = after.as_ref().filter(|it| !it.ended && it.node.is_some());
        let is_new =
            in_office.is_some_and(|it| before.as_ref().is_none_or(|was| was.term != it.term));
        let beats = in_office.is_some_and(|it| before.as_ref().is_none_or(|was| was.n != it.n));
        let was_neighbours = base.is_some_and(|it| it.neighbour().is_some());
        if neighbour.is_none() {
            match in_office {
                Some(record) if is_new || (beats && state.holder.is_none()) => {
                    let name = self.name_of(record, &state.contents);
                    let before = spec.get("leaseTransitions").and_then(Value::as_i64);
                    let transitions =
                        before.map_or(0, |it| it.saturating_add(1).min(i32::MAX.into()));
                    spec.insert("leaseTransitions".to_owned(), json!(transitions));
                    spec.insert("acquireTime".to_owned(), json!(micro_time(now)));
                    spec.insert("holderIdentity".to_owned(), json!(name));
                    renew(spec, timing::wait(record.d), now);
                    state.holder = Some(name);
                }
                Some(record) if beats && !was_neighbours => {
                    renew(spec, timing::wait(record.d), now);
                }
                Some(_) if !was_neighbours => {}
                // As client-go releases a Lease, so that no candidate has to wait. A record that is gone or not
                // readable is no clean end: who was in office may still act.
                _ if was_neighbours || (state.holder.is_some() && is_ended) => {
                    state.holder = None;
                    spec.remove("holderIdentity");
                    renew(spec, Duration::from_secs(1), now);
                }
                _ => {}
            }
        }
        let Some(text) = state.encode() else {
            return Err("a key is not UTF-8: this store keeps text keys only".to_owned());
        };
        let size_before = base.and_then(Object::annotation).map_or(0, str::len);
        if text.len() > bound.max(size_before) {
            return Err(too_large(text.len(), bound, &state.contents));
        }
        let metadata = part(&mut raw, "metadata");
        metadata.remove("managedFields");
        part(metadata, "annotations").insert(ANNOTATION.to_owned(), Value::String(text));
        Ok(Value::Object(raw))
    }

    fn skeleton(&self) -> Map<String, Value> {
        let skeleton = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": self.keys.cluster(),
                "labels": { "app.kubernetes.io/managed-by": "bellwether" },
            },
        });
        let Value::Object(skeleton) = skeleton else { unreachable!("written as an object") };
        skeleton
    }

    fn record(&self, contents: &Contents) -> Option<Record> {
        decode_record(&contents.keys.get(self.keys.record().as_slice())?.value)
    }

    /// Only the node in office itself writes its record, so that the name is of this process.
    fn name_of(&self, record: &Record, contents: &Contents) -> String {
        if let Some(identity) = &self.identity {
            return identity.clone();
        }
        let Some(id) = record.node else { return "unknown".to_owned() };
        let metadata = contents.keys.get(self.keys.node(id).as_slice());
        let metadata = metadata.and_then(|kv| decode_metadata(&kv.value));
        format!("{id}@{}", metadata.map(|it| it.address).unwrap_or_default())
    }
}

/// Writes the time of a renewal, and for how long others wait after it, in whole seconds.
fn renew(spec: &mut Map<String, Value>, wait: Duration, now: Timestamp) {
    spec.insert("leaseDurationSeconds".to_owned(), json!(wait.as_millis().div_ceil(1000).max(1)));
    spec.insert("renewTime".to_owned(), json!(micro_time(now)));
}

/// Says what takes the space: the keys by their first two segments, the largest first.
fn too_large(bytes: usize, bound: usize, contents: &Contents) -> String {
    let mut sizes = BTreeMap::<String, usize>::new();
    for kv in contents.keys.values() {
        let key = String::from_utf8_lossy(&kv.key);
        let kind = key.split('/').take(4).collect::<Vec<_>>().join("/");
        *sizes.entry(kind).or_default() += kv.key.len() + kv.value.len();
    }
    let mut sizes: Vec<_> = sizes.into_iter().collect();
    sizes.sort_by_key(|(_, size)| Reverse(*size));
    let largest: Vec<_> =
        sizes.iter().take(3).map(|(kind, size)| format!("{kind} {size} bytes")).collect();
    format!(
        "the state would be {bytes} bytes, and at most {bound} fit the Lease; the largest parts are {}: \
         delete some of it, or keep this cluster in an etcd",
        largest.join(", ")
    )
}

/// First revision of a new state: the time in milliseconds. Another object of the same name continues above
/// the revisions and terms of the earlier one, so that fencing tokens only grow.
pub(super) fn first_revision(now: Timestamp) -> Revision {
    Revision(now.as_millisecond().max(1))
}

/// Time in the form of Kubernetes' `MicroTime`, which has exactly six digits.
pub(super) fn micro_time(now: Timestamp) -> String {
    format!("{now:.6}")
}

fn part<'a>(of: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    let value = of.entry(name).or_insert_with(|| Value::Object(Map::new()));
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("made an object above")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(version: &str, writes: u64) -> Object {
        let state = State { writes, ..State::new(String::new(), Duration::ZERO, Revision(1)) };
        let annotations = json!({ ANNOTATION: state.encode().unwrap() });
        let metadata =
            json!({ "uid": "u", "resourceVersion": version, "annotations": annotations });
        Object::read(json!({ "metadata": metadata })).unwrap()
    }

    #[test]
    fn a_state_that_was_created_again_is_later_although_it_counts_from_zero() {
        assert!(object("10", 1).is_after(&object("9", 100)));
        assert!(!object("9", 100).is_after(&object("10", 1)), "an event that comes late");
        assert!(object("b", 2).is_after(&object("c", 1)), "where versions are no numbers");
    }
}
