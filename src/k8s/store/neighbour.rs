//! Candidates of client-go and controller-runtime, which share the Lease of the cluster.
//!
//! Such a candidate holds the Lease if the spec names a holder that this project has not written. The state then
//! has a candidate key for it that is older than all others: our nodes see a candidate of the Go package, which is
//! never deposed. The neighbour is gone when the spec names no holder, or when the spec has not changed for
//! `wait(leaseDurationSeconds)` as observed here, by the boot clock.
//!
//! The write that enters the key also deletes the candidate key of our node in office, whose term is over with that,
//! and writes the record again as it is, so that no TAKE that was decided before can still succeed.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::{
    engine::{BootTime, LeaseId, NodeId, Revision, timing},
    hash::fnv1a,
    store::{
        Get, KeyValue,
        keys::Keys,
        memory::{Between, Model},
        values::{decode_record, encode_id},
    },
};

/// Lease in the name of the neighbour's candidate key. No node draws it.
pub(super) const LEASE: LeaseId = LeaseId(i64::MAX);

/// client-go's default, for a Lease that names no duration.
const DEFAULT_DURATION: Duration = Duration::from_secs(15);

/// Spec of a Lease that a neighbour holds, and when its time is over if the spec stays as it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Neighbour(Option<(Map<String, Value>, BootTime)>);

impl Neighbour {
    /// Notes the spec of a Lease that a neighbour holds, `None` if the Lease has no holder or one of ours. Returns when
    /// to note again.
    pub(super) fn note(
        &mut self,
        spec: Option<&Map<String, Value>>,
        now: BootTime,
    ) -> Option<BootTime> {
        if self.0.as_ref().map(|(seen, _)| seen) != spec {
            self.0 = spec.map(|spec| {
                let seconds = spec.get("leaseDurationSeconds").and_then(Value::as_u64);
                let lasts = seconds.map_or(DEFAULT_DURATION, Duration::from_secs);
                (spec.clone(), now + timing::wait(lasts))
            });
        }
        self.0.as_ref().map(|(_, over_at)| *over_at).filter(|over_at| now < *over_at)
    }

    /// Whether the neighbour with that spec has let its time run out.
    pub(super) fn is_gone(&self, spec: &Map<String, Value>, now: BootTime) -> bool {
        self.0.as_ref().is_some_and(|(seen, over_at)| seen == spec && *over_at <= now)
    }
}

/// Whether the candidate key of the neighbour is as it must be while `holder` holds the Lease.
pub(super) fn is_settled(model: &Model, keys: &Keys, holder: Option<&str>) -> bool {
    let found = model.peek(&Get::key(keys.candidate(LEASE)));
    found.first().map(|kv| &kv.value) == holder.map(value_of).as_ref()
}

/// Value of the neighbour's candidate key: an id. [`Store::name_of`](crate::store::Store::name_of) returns the name.
fn value_of(holder: &str) -> Vec<u8> {
    let id = i64::try_from(fnv1a(holder.as_bytes()) >> 1).expect("63 bits");
    encode_id(NodeId::new(id).expect("not negative"))
}

/// Makes the candidate key of the neighbour as it must be while `holder` holds the Lease. Returns whether anything
/// changed; it is one revision.
pub(super) fn settle(model: &mut Model, keys: &Keys, holder: Option<&str>) -> bool {
    if is_settled(model, keys, holder) {
        return false;
    }
    let key = keys.candidate(LEASE);
    let mut contents = model.contents();
    let value = holder.map(value_of);
    contents.revision = Revision(contents.revision.0 + 1);
    contents.keys.remove(&key);
    if let Some(value) = value {
        let record = contents.keys.get_mut(keys.record().as_slice());
        let in_office = record.and_then(|kv| {
            kv.modified = contents.revision;
            kv.version += 1;
            decode_record(&kv.value).filter(|record| !record.ended)?.lease
        });
        if let Some(lease) = in_office {
            contents.keys.remove(keys.candidate(lease).as_slice());
        }
        let kv = KeyValue {
            key: key.clone(),
            value,
            created: Revision(1),
            modified: contents.revision,
            version: 1,
            lease: None,
        };
        contents.keys.insert(key, kv);
    }
    model.follow(contents, Between::OneWrite);
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        engine::{Record, Term},
        store::{memory::Contents, values::encode_record},
    };

    const NOW: BootTime = BootTime(Duration::from_secs(1000));

    fn kv(key: Vec<u8>, value: Vec<u8>) -> (Vec<u8>, KeyValue) {
        let (created, modified) = (Revision(10), Revision(10));
        (key.clone(), KeyValue { key, value, created, modified, version: 1, lease: None })
    }

    #[test]
    fn a_neighbour_ends_our_term_and_the_takes_that_were_decided() {
        let keys = Keys::new("shop").unwrap();
        let record = Record {
            term: Term(10),
            lease: Some(LeaseId(7)),
            node: NodeId::new(1).ok(),
            n: 1,
            d: Duration::from_secs(5),
            ended: false,
            suspended: false,
        };
        let entries = [
            kv(keys.record(), encode_record(&record)),
            kv(keys.candidate(LeaseId(7)), b"1".to_vec()),
            kv(keys.candidate(LeaseId(8)), b"2".to_vec()),
        ];
        let contents = Contents {
            revision: Revision(10),
            keys: entries.into_iter().collect(),
            ..Contents::default()
        };
        let mut model = Model::from_contents(1, contents);
        assert!(settle(&mut model, &keys, Some("theirs")));
        let at = |model: &Model, key: Vec<u8>| model.peek(&Get::key(key)).into_iter().next();
        let theirs = at(&model, keys.candidate(LEASE)).unwrap();
        assert!(theirs.created < Revision(10), "older than all of ours");
        assert_eq!(at(&model, keys.candidate(LeaseId(7))), None, "our term is over");
        assert!(at(&model, keys.candidate(LeaseId(8))).is_some(), "who waits goes on waiting");
        let record = at(&model, keys.record()).unwrap();
        assert_eq!(record.modified, Revision(11), "a TAKE compares it");
        assert!(!settle(&mut model, &keys, Some("theirs")), "nothing is left to do");
        assert!(settle(&mut model, &keys, None));
        assert_eq!(at(&model, keys.candidate(LEASE)), None);
    }

    #[test]
    fn a_neighbour_is_gone_when_its_spec_has_not_changed_for_its_time() {
        let spec = |renewed: u32| {
            let spec =
                json!({"holderIdentity": "a", "leaseDurationSeconds": 10, "renewTime": renewed});
            spec.as_object().unwrap().clone()
        };
        let mut neighbour = Neighbour::default();
        let over_at = neighbour.note(Some(&spec(1)), NOW).unwrap();
        assert_eq!(over_at, NOW + Duration::from_secs(11));
        let before = over_at - Duration::from_millis(1);
        assert_eq!(neighbour.note(Some(&spec(1)), before), Some(over_at));
        assert!(!neighbour.is_gone(&spec(1), before));
        assert!(neighbour.is_gone(&spec(1), over_at));
        assert!(
            !neighbour.is_gone(&spec(2), over_at),
            "it was renewed, and that was not noted yet"
        );
        assert!(neighbour.note(Some(&spec(2)), over_at).is_some());
        assert!(!neighbour.is_gone(&spec(2), over_at));
    }
}
