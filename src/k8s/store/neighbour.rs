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
const LEASE: LeaseId = LeaseId(i64::MAX);

/// client-go's default, for a Lease that names no duration.
const DEFAULT_DURATION: Duration = Duration::from_secs(15);

/// A neighbour that holds the Lease, and since when its spec is as it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Neighbour {
    seen: Option<(Map<String, Value>, BootTime)>,
    is_gone: bool,
}

impl Neighbour {
    /// Notes the spec of a Lease that a neighbour holds, `None` if the Lease has no holder or one of ours. Returns when
    /// to note again.
    pub(super) fn note(
        &mut self,
        spec: Option<&Map<String, Value>>,
        now: BootTime,
    ) -> Option<BootTime> {
        let Some(spec) = spec else {
            *self = Self::default();
            return None;
        };
        let since = match &self.seen {
            Some((seen, since)) if seen == spec => *since,
            _ => {
                *self = Self { seen: Some((spec.clone(), now)), is_gone: false };
                now
            }
        };
        let seconds = spec.get("leaseDurationSeconds").and_then(Value::as_u64);
        let over_at = since + timing::wait(seconds.map_or(DEFAULT_DURATION, Duration::from_secs));
        self.is_gone = over_at <= now;
        Some(over_at).filter(|_| !self.is_gone)
    }

    /// Whether the neighbour with that spec has let its time run out.
    pub(super) fn is_gone(&self, spec: &Map<String, Value>) -> bool {
        self.is_gone && self.seen.as_ref().is_some_and(|(seen, _)| seen == spec)
    }
}

/// Whether the candidate key of the neighbour is as it must be while `holder` holds the Lease.
pub(super) fn is_settled(model: &Model, keys: &Keys, holder: Option<&str>) -> bool {
    let found = model.peek(&Get::key(keys.candidate(LEASE)));
    found.first().map(|kv| &kv.value) == holder.map(value_of).as_ref()
}

/// Value of the neighbour's candidate key: an id, by which the views name it.
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
