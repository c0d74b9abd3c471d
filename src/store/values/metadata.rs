//! A node's metadata, in the form of the Go package's `encoding/json`.
//!
//! Encoding: names and order of the struct's fields, time as RFC 3339 with up to nanoseconds. Decoding: as
//! in Go, names in any case, unknown fields ignored, missing fields zero, the last of several equal fields
//! wins.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IgnoredAny, MapAccess, Visitor},
};

use crate::engine::{NodeId, NodeMetadata, Role};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Written<'a> {
    #[serde(rename = "ID")]
    id: i64,
    address: &'a str,
    start: String,
    role: i64,
}

/// Encodes a node's metadata.
pub fn encode_metadata(metadata: &NodeMetadata) -> Vec<u8> {
    // A wall clock outside of the years 1 to 9999, which Go could not decode either, is written as the
    // epoch.
    let start = Timestamp::try_from(metadata.start)
        .ok()
        .filter(|start| (YEAR_1..YEAR_10000).contains(&start.as_second()))
        .unwrap_or(Timestamp::UNIX_EPOCH);
    super::encode(&Written {
        id: metadata.id.get(),
        address: &metadata.address,
        start: start.to_string(),
        role: metadata.role as i64,
    })
}

/// Unix time of 0001-01-01T00:00:00Z, in seconds.
const YEAR_1: i64 = -62_135_596_800;
/// Unix time of 9999-12-31T00:00:00Z, in seconds: jiff's range ends within that day.
const YEAR_10000: i64 = 253_402_214_400;

/// Decodes a node's metadata. A role that does not exist decodes as unknown.
pub fn decode_metadata(value: &[u8]) -> Option<NodeMetadata> {
    super::decode::<Read>(value)?.metadata()
}

#[derive(Default)]
struct Read {
    id: i64,
    address: String,
    start: Option<String>,
    role: i64,
}

impl Read {
    fn metadata(self) -> Option<NodeMetadata> {
        let start = match self.start {
            Some(text) => SystemTime::from(text.parse::<Timestamp>().ok()?),
            None => UNIX_EPOCH,
        };
        Some(NodeMetadata {
            id: NodeId::new(self.id).ok()?,
            address: self.address,
            start,
            role: Role::from_number(self.role).unwrap_or_default(),
        })
    }
}

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Read;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a node's metadata")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Read, A::Error> {
        let mut read = Read::default();
        while let Some(name) = map.next_key::<String>()? {
            // `null` leaves a field as it is, as in Go.
            if name.eq_ignore_ascii_case("ID") {
                read.id = map.next_value::<Option<i64>>()?.unwrap_or(read.id);
            } else if name.eq_ignore_ascii_case("Address") {
                read.address = map.next_value::<Option<String>>()?.unwrap_or(read.address);
            } else if name.eq_ignore_ascii_case("Start") {
                read.start = map.next_value::<Option<String>>()?.or(read.start);
            } else if name.eq_ignore_ascii_case("Role") {
                read.role = map.next_value::<Option<i64>>()?.unwrap_or(read.role);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(read)
    }
}
