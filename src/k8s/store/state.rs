//! The state of a cluster as it stands in the annotation of the cluster's Lease: JSON that a person can read.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};

use crate::{
    clock::millis,
    engine::Revision,
    store::{KeyValue, keys::parse_lease, memory::Contents},
};

/// Version that this module writes, and the only one that it reads.
const FORMAT: u32 = 1;

/// Writers that the state remembers, newest last: a write that arrives twice is recognised as long as fewer
/// writes of others came in between.
const WRITERS: usize = 128;

/// Largest state, in bytes. The API server accepts 256 KiB of annotations in all; the rest is for those of
/// others.
pub(super) const MAX_BYTES: usize = 240 * 1024;

/// Identity of one process as a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Writer(pub u64);

/// The state of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Number of writes so far.
    pub writes: u64,
    /// Part of the cluster's id beside the object's UID: the resource version of the object that the state
    /// was added to, empty if the object was created with the state.
    pub salt: String,
    /// Longest D that the nodes of the cluster may use.
    pub span_max: Duration,
    /// Holder that the last write put into the Lease's spec: another holder is not of this project.
    pub holder: Option<String>,
    /// Number of the last write of each recent writer, newest last.
    pub writers: Vec<(Writer, u64)>,
    /// Keys and leases of the cluster, with its revision.
    pub contents: Contents,
}

/// Reason why an annotation is not a state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not JSON, or without a field.
    #[error("it is not the expected JSON: {0}")]
    Json(String),
    /// The state has a format that this version does not read.
    #[error("it has format {0}, and this version reads format {FORMAT} only")]
    Format(u32),
    /// Not a lease id.
    #[error("{0} is not a lease id in hex")]
    Lease(String),
    /// A key that contradicts the rest.
    #[error("key {0} hangs on a lease that is not in it, or has a revision that cannot be")]
    Key(String),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    format: u32,
    writes: u64,
    revision: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    salt: String,
    span_max_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    holder: Option<String>,
    writers: Vec<(String, u64)>,
    /// Time to live in seconds, by lease in hex.
    leases: BTreeMap<String, u64>,
    keys: BTreeMap<String, Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    /// Value that is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<ByteString>,
    created: i64,
    modified: i64,
    version: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<String>,
}

impl State {
    /// The state of a cluster before its first write.
    pub fn new(salt: String, span_max: Duration, revision: Revision) -> Self {
        let contents = Contents { revision, ..Contents::default() };
        Self { writes: 0, salt, span_max, holder: None, writers: Vec::new(), contents }
    }

    /// Decodes the text of the annotation.
    pub fn decode(text: &str) -> Result<Self, Malformed> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let json = |error: serde_json::Error| Malformed::Json(error.to_string());
        let Version { format } = serde_json::from_str(text).map_err(json)?;
        if format != FORMAT {
            return Err(Malformed::Format(format));
        }
        let wire: Wire = serde_json::from_str(text).map_err(json)?;
        let lease = |hex: &str| parse_lease(hex).ok_or_else(|| Malformed::Lease(hex.to_owned()));
        let mut contents = Contents { revision: Revision(wire.revision), ..Contents::default() };
        for (hex, ttl) in &wire.leases {
            contents.leases.insert(lease(hex)?, Duration::from_secs(*ttl));
        }
        for (key, entry) in wire.keys {
            let hangs_on = entry.lease.as_deref().map(lease).transpose()?;
            let revisions = 0 < entry.created
                && entry.created <= entry.modified
                && entry.modified <= wire.revision;
            if !revisions || hangs_on.is_some_and(|it| !contents.leases.contains_key(&it)) {
                return Err(Malformed::Key(key));
            }
            let kv = KeyValue {
                key: key.into_bytes(),
                value: match (entry.value, entry.base64) {
                    (Some(text), _) => text.into_bytes(),
                    (None, bytes) => bytes.unwrap_or_default().0,
                },
                created: Revision(entry.created),
                modified: Revision(entry.modified),
                version: entry.version,
                lease: hangs_on,
            };
            contents.keys.insert(kv.key.clone(), kv);
        }
        let writer = |(hex, n): &(String, u64)| {
            let id = u64::from_str_radix(hex, 16).map_err(|_| Malformed::Lease(hex.clone()))?;
            Ok((Writer(id), *n))
        };
        Ok(Self {
            writes: wire.writes,
            salt: wire.salt,
            span_max: Duration::from_millis(wire.span_max_ms),
            holder: wire.holder,
            writers: wire.writers.iter().map(writer).collect::<Result<_, _>>()?,
            contents,
        })
    }

    /// Text of the annotation; `None` if a key is not UTF-8.
    pub fn encode(&self) -> Option<String> {
        let entry = |kv: &KeyValue| {
            let (value, base64) = match String::from_utf8(kv.value.clone()) {
                Ok(text) => (Some(text), None),
                Err(bytes) => (None, Some(ByteString(bytes.into_bytes()))),
            };
            let key = String::from_utf8(kv.key.clone()).ok()?;
            let lease = kv.lease.map(|lease| lease.to_string());
            let (created, modified) = (kv.created.0, kv.modified.0);
            Some((key, Entry { value, base64, created, modified, version: kv.version, lease }))
        };
        let wire = Wire {
            format: FORMAT,
            writes: self.writes,
            revision: self.contents.revision.0,
            salt: self.salt.clone(),
            span_max_ms: millis(self.span_max),
            holder: self.holder.clone(),
            writers: self.writers.iter().map(|(it, n)| (format!("{:x}", it.0), *n)).collect(),
            leases: self
                .contents
                .leases
                .iter()
                .map(|(id, ttl)| (id.to_string(), ttl.as_secs()))
                .collect(),
            keys: self.contents.keys.values().map(entry).collect::<Option<_>>()?,
        };
        serde_json::to_string(&wire).ok()
    }

    /// Number of the last write of a writer, if the state remembers it.
    pub fn last_of(&self, writer: Writer) -> Option<u64> {
        self.writers.iter().find(|(it, _)| *it == writer).map(|(_, n)| *n)
    }

    /// The state after a write with these contents.
    #[must_use]
    pub fn written(&self, writer: Writer, n: u64, contents: Contents) -> Self {
        let mut writers = self.writers.clone();
        writers.retain(|(it, _)| *it != writer);
        writers.push((writer, n));
        let forgotten = writers.len().saturating_sub(WRITERS);
        writers.drain(..forgotten);
        Self { writes: self.writes + 1, writers, contents, ..self.clone() }
    }
}
