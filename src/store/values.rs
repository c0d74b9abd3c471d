//! All stored values: how they are encoded and decoded.
//!
//! Values that the Go package also writes have its form, byte for byte. All other values are compact JSON
//! with a version `v`. Fields may be added without a new version: readers ignore fields that they do not
//! know. `v` grows only if older readers must not guess; they then decode the value as malformed, and the
//! protocol survives that by waiting longest.
//!
//! The most important rule: values are untrusted. Malformed values of any kind and size decode as `None`
//! and never cause a panic. Durations are nanoseconds, leases and nonces hex strings: JSON numbers beyond
//! 2^53 do not survive other people's tools.

mod metadata;
mod shards;

use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    engine::{
        Change, DrainRequest, Held, LeaseId, Member, NodeId, PlanTable, Record, Stored, Term,
        TickPolicy, WorkOffer,
    },
    store::{
        KeyValue,
        keys::{Key, parse_id, parse_lease, validate_work_type},
    },
};

pub use metadata::{decode_metadata, encode_metadata};

/// Version that this module writes, and the highest that it decodes.
const VERSION: u32 = 1;

/// Longer values are malformed. The limit is below etcd's limit of 1.5 MiB for a request.
pub const MAX_VALUE_BYTES: usize = 1 << 20;

/// Largest number of shards of a work type: that many, each with its own epoch, still fit a value.
pub const MAX_SHARDS: u32 = 16_384;

/// Largest number of shards that one incarnation may hold, over all work types; a value with more is
/// malformed.
pub const MAX_HELD: usize = 65_536;

/// Encodes a node id, the value of candidate keys.
pub fn encode_id(id: NodeId) -> Vec<u8> {
    id.to_string().into_bytes()
}

/// Decodes a node id, the value of candidate keys.
pub fn decode_id(value: &[u8]) -> Option<NodeId> {
    parse_id(str::from_utf8(value).ok()?)
}

/// Encodes a tick, in nanoseconds.
pub fn encode_tick(tick: Duration) -> Vec<u8> {
    u64::try_from(tick.as_nanos()).unwrap_or(u64::MAX).to_string().into_bytes()
}

/// Decodes a tick, in nanoseconds: above zero and within the range of Go's `time.Duration`.
pub fn decode_tick(value: &[u8]) -> Option<Duration> {
    let nanos = decode_number(value)?;
    (nanos > 0).then(|| Duration::from_nanos(nanos.unsigned_abs()))
}

/// Encodes the term in a resign request.
pub fn encode_term(term: Term) -> Vec<u8> {
    term.to_string().into_bytes()
}

/// Decodes the term in a resign request.
pub fn decode_term(value: &[u8]) -> Option<Term> {
    decode_number(value).map(Term)
}

/// Encodes a moment in milliseconds of Unix time, such as the last run of a job.
pub fn encode_unix_ms(unix_ms: u64) -> Vec<u8> {
    unix_ms.to_string().into_bytes()
}

/// Decodes a moment in milliseconds of Unix time, such as the last run of a job.
pub fn decode_unix_ms(value: &[u8]) -> Option<u64> {
    decode_number(value).map(i64::unsigned_abs)
}

/// Decodes a number that is not negative, without sign or leading zeros.
fn decode_number(value: &[u8]) -> Option<i64> {
    parse_id(str::from_utf8(value).ok()?).map(NodeId::get)
}

#[derive(Serialize, Deserialize)]
struct RecordWire {
    v: u32,
    term: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<Hex>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<i64>,
    n: u64,
    d_ns: u64,
    ended: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    suspended: bool,
}

/// Encodes the record of the node in office.
pub fn encode_record(record: &Record) -> Vec<u8> {
    encode(&RecordWire {
        v: VERSION,
        term: record.term.0,
        lease: record.lease.map(Hex::from),
        id: record.node.map(NodeId::get),
        n: record.n,
        d_ns: nanos(record.d),
        ended: record.ended,
        suspended: record.suspended,
    })
}

/// Decodes the record. The engine decides whether the record's D is acceptable (R3, receipt).
pub fn decode_record(value: &[u8]) -> Option<Record> {
    let wire: RecordWire = decode(value)?;
    Some(Record {
        term: (wire.v <= VERSION && wire.term >= 0).then_some(Term(wire.term))?,
        lease: match wire.lease {
            Some(lease) => Some(lease.lease()?),
            None => None,
        },
        node: wire.id.map(NodeId::new).transpose().ok()?,
        n: wire.n,
        d: Duration::from_nanos(wire.d_ns),
        ended: wire.ended,
        suspended: wire.suspended,
    })
}

#[derive(Serialize, Deserialize)]
struct MemberWire {
    v: u32,
    lease: Hex,
    d_ns: u64,
    f_ns: u64,
    tick_ns: u64,
    #[serde(default)]
    policy: PolicyWire,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    work: Vec<OfferWire>,
    #[serde(default, skip_serializing_if = "is_false")]
    draining: bool,
    /// Nodes that never campaign set this flag.
    #[serde(default, skip_serializing_if = "is_false")]
    abstains: bool,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PolicyWire {
    Adopt,
    /// A policy that a later version adds decodes as the policy that changes nothing.
    #[default]
    #[serde(other)]
    Strict,
}

#[derive(Serialize, Deserialize)]
struct OfferWire {
    work: String,
    shards: u32,
    weight: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    capacity: Option<u32>,
    #[serde(default, skip_serializing_if = "is_false")]
    as_leader: bool,
}

/// Encodes a member record.
pub fn encode_member(member: &Member) -> Vec<u8> {
    encode(&MemberWire {
        v: VERSION,
        lease: member.lease.into(),
        d_ns: nanos(member.d),
        f_ns: nanos(member.f),
        tick_ns: nanos(member.tick),
        policy: match member.policy {
            TickPolicy::Strict => PolicyWire::Strict,
            TickPolicy::Adopt => PolicyWire::Adopt,
        },
        pod: member.pod_uid.clone(),
        work: member.work.iter().map(OfferWire::from).collect(),
        draining: member.draining,
        abstains: !member.campaigns,
    })
}

/// Decodes a member record. A work type with an invalid name or number of shards makes the record
/// malformed.
pub fn decode_member(value: &[u8]) -> Option<Member> {
    let wire: MemberWire = decode(value)?;
    Some(Member {
        lease: (wire.v <= VERSION).then_some(wire.lease)?.lease()?,
        d: Duration::from_nanos(wire.d_ns),
        f: Duration::from_nanos(wire.f_ns),
        tick: Duration::from_nanos(wire.tick_ns),
        policy: match wire.policy {
            PolicyWire::Strict => TickPolicy::Strict,
            PolicyWire::Adopt => TickPolicy::Adopt,
        },
        pod_uid: wire.pod,
        work: wire.work.into_iter().map(OfferWire::decode).collect::<Option<_>>()?,
        draining: wire.draining,
        campaigns: !wire.abstains,
    })
}

impl From<&WorkOffer> for OfferWire {
    fn from(offer: &WorkOffer) -> Self {
        Self {
            work: offer.work.as_str().to_owned(),
            shards: offer.shards,
            weight: offer.weight,
            capacity: offer.capacity,
            as_leader: offer.as_leader,
        }
    }
}

impl OfferWire {
    fn decode(self) -> Option<WorkOffer> {
        Some(WorkOffer {
            work: validate_work_type(&self.work).ok()?,
            shards: (1..=MAX_SHARDS).contains(&self.shards).then_some(self.shards)?,
            weight: self.weight.max(1),
            capacity: self.capacity,
            as_leader: self.as_leader,
        })
    }
}

/// Encodes the held key of an incarnation.
pub fn encode_held(held: &Held) -> Vec<u8> {
    encode(&shards::HeldWire::from(held))
}

/// Decodes the held key of an incarnation.
pub fn decode_held(value: &[u8]) -> Option<Held> {
    decode::<shards::HeldWire>(value)?.decode()
}

/// Encodes the plan of a work type.
pub fn encode_plan(plan: &PlanTable) -> Vec<u8> {
    encode(&shards::PlanWire::from(plan))
}

/// Decodes the plan of a work type.
pub fn decode_plan(value: &[u8]) -> Option<PlanTable> {
    decode::<shards::PlanWire>(value)?.decode()
}

#[derive(Serialize, Deserialize)]
struct DrainWire {
    v: u32,
    since_unix_ms: u64,
    #[serde(default)]
    why: String,
}

/// Encodes a drain request.
pub fn encode_drain_request(request: &DrainRequest) -> Vec<u8> {
    encode(&DrainWire {
        v: VERSION,
        since_unix_ms: request.since_unix_ms,
        why: request.why.clone(),
    })
}

/// Decodes a drain request.
pub fn decode_drain_request(value: &[u8]) -> Option<DrainRequest> {
    let wire: DrainWire = decode(value)?;
    let since_unix_ms = (wire.v <= VERSION).then_some(wire.since_unix_ms)?;
    Some(DrainRequest { since_unix_ms, why: wire.why })
}

/// Decodes a key of the catalogue and its entry into a change for the engine; `kv` = `None`: the key does
/// not exist. Returns `None` for keys that the engine does not use: users' state and data.
pub fn change(key: Key, kv: Option<&KeyValue>) -> Option<Change> {
    Some(match key {
        Key::Candidate(lease) => Change::Candidate(lease, stored(kv, decode_id)),
        Key::Node(id) => Change::Node(
            id,
            stored(kv, |value| {
                // Metadata that names another node is not valid for this node.
                decode_metadata(value).filter(|metadata| metadata.id == id)
            }),
        ),
        Key::TickKey(id) => Change::TickKey(id, stored(kv, decode_tick)),
        Key::Member(id) => Change::Member(id, stored(kv, decode_member)),
        Key::Held(lease) => Change::Held(lease, compared(kv, decode_held)),
        Key::Record => Change::Record(compared(kv, decode_record)),
        Key::Plan(work) => Change::Plan(work, compared(kv, decode_plan)),
        Key::Tick => Change::Tick(stored(kv, decode_tick)),
        Key::ResignRequest => Change::ResignRequest(stored(kv, decode_term)),
        Key::DrainRequest(id) => Change::DrainRequest(id, stored(kv, decode_drain_request)),
        Key::State { .. } | Key::Data(_) => return None,
    })
}

fn stored<T>(kv: Option<&KeyValue>, read: impl FnOnce(&[u8]) -> Option<T>) -> Option<Stored<T>> {
    let kv = kv?;
    Some(Stored {
        created: kv.created,
        modified: kv.modified,
        lease: kv.lease,
        value: if kv.value.len() <= MAX_VALUE_BYTES { read(&kv.value) } else { None },
        bytes: Vec::new(),
    })
}

/// Like [`stored`], with the bytes that a transaction is to compare.
fn compared<T>(kv: Option<&KeyValue>, read: impl FnOnce(&[u8]) -> Option<T>) -> Option<Stored<T>> {
    Some(Stored { bytes: kv?.value.clone(), ..stored(kv, read)? })
}

fn encode<T: Serialize>(wire: &T) -> Vec<u8> {
    serde_json::to_vec(wire).expect("numbers, strings and lists of them are always JSON")
}

fn decode<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    if value.len() > MAX_VALUE_BYTES {
        return None;
    }
    serde_json::from_slice(value).ok()
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !value
}

/// A lease or a nonce, encoded as a string of lower-case hex.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Hex(String);

impl From<LeaseId> for Hex {
    fn from(lease: LeaseId) -> Self {
        Self(lease.to_string())
    }
}

impl Hex {
    fn nonce(nonce: u64) -> Self {
        Self(format!("{nonce:x}"))
    }

    fn lease(self) -> Option<LeaseId> {
        parse_lease(&self.0)
    }

    fn number(&self) -> Option<u64> {
        if self.0.starts_with('+') { None } else { u64::from_str_radix(&self.0, 16).ok() }
    }
}

#[cfg(test)]
mod tests;
