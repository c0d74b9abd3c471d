//! A check that can be run: a validated resource, and the values computed from it once.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    manifests::{Problem, Skipped},
    resource::{DEFAULT_NAMESPACE, State, UptimeCheck, UptimeCheckSpec},
    schedule::Timing,
    shard::{fnv1a, hash_of_name, shard_of_hash},
};
use crate::engine::ShardId;

mod validate;

pub use validate::FieldError;

#[cfg(test)]
mod tests;

/// Namespace and name of a check; written `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CheckKey {
    /// Namespace of the check.
    pub namespace: Arc<str>,
    /// Name of the check.
    pub name: Arc<str>,
}

impl CheckKey {
    /// Returns the key of this namespace and name.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for CheckKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Error for text that is not `namespace/name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not `namespace/name`")]
pub struct NotACheckKey;

impl FromStr for CheckKey {
    type Err = NotACheckKey;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, name) = text.split_once('/').ok_or(NotACheckKey)?;
        if !validate::is_dns_label(namespace) || !validate::is_dns_name(name) {
            return Err(NotACheckKey);
        }
        Ok(Self::new(namespace, name))
    }
}

impl Serialize for CheckKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CheckKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Hash of a check's spec, the same on every node; written as 16 hex digits.
///
/// Slots belong to a spec: a check whose spec changed is run at once, regardless of earlier runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpecHash(pub u64);

impl SpecHash {
    fn of(spec: &UptimeCheckSpec) -> Self {
        // All maps in a spec are ordered, so every node produces the same text.
        let json = serde_json::to_vec(spec).expect("a spec has no keys but strings");
        Self(fnv1a(&json))
    }
}

impl fmt::Display for SpecHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for SpecHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SpecHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(Self).map_err(de::Error::custom)
    }
}

/// A check that can be run.
///
/// # Invariants
///
/// [`Check::new`] has validated the resource, and the resource does not change.
#[derive(Clone, Debug)]
pub struct Check {
    key: CheckKey,
    resource: UptimeCheck,
    spec_hash: SpecHash,
    shard_hash: u64,
    slot_hash: u64,
    timing: Timing,
}

impl PartialEq for Check {
    fn eq(&self, other: &Self) -> bool {
        self.resource == other.resource
    }
}

impl Check {
    /// Validates the resource and returns its check.
    ///
    /// # Errors
    ///
    /// Every problem of the resource, by field.
    pub fn new(mut resource: UptimeCheck) -> Result<Self, Vec<FieldError>> {
        validate::resource(&resource)?;
        resource.status = None;
        let metadata = &resource.metadata;
        let namespace = metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        let key = CheckKey::new(namespace, metadata.name.as_str());
        let identity = metadata.uid.clone().unwrap_or_else(|| key.to_string());
        // For objects with a UID, the API server filters by the hash of the UID.
        let shard_hash = match &metadata.uid {
            Some(uid) => fnv1a(uid.as_bytes()),
            None => hash_of_name(identity.as_bytes()),
        };
        // Slots keep their phase regardless of how checks are assigned to shards.
        let slot_hash = fnv1a(identity.as_bytes());
        let timing = Timing::new(resource.spec.interval.0, slot_hash);
        let spec_hash = SpecHash::of(&resource.spec);
        Ok(Self { key, resource, spec_hash, shard_hash, slot_hash, timing })
    }

    /// Namespace and name of the check.
    pub fn key(&self) -> &CheckKey {
        &self.key
    }

    /// Resource that the check was made from, without a status.
    pub fn resource(&self) -> &UptimeCheck {
        &self.resource
    }

    /// Spec of the check's resource.
    pub fn spec(&self) -> &UptimeCheckSpec {
        &self.resource.spec
    }

    /// Hash of the spec, different for different specs.
    pub fn spec_hash(&self) -> SpecHash {
        self.spec_hash
    }

    /// Timing of the check's slots.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Shard of this check out of `shards`, which is at least one.
    pub fn shard(&self, shards: u32) -> ShardId {
        shard_of_hash(self.shard_hash, shards)
    }

    /// Shard under which version 0.1 stored the check's status.
    pub(super) fn former_shard(&self, shards: u32) -> ShardId {
        shard_of_hash(self.slot_hash, shards)
    }
}

/// All checks at one moment, and the problems of the rest. Immutable: each change makes a new snapshot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checks {
    /// Checks that can be run, by key.
    pub checks: BTreeMap<CheckKey, Arc<Check>>,
    /// Problems of manifests, in the order of files and lines.
    pub problems: Vec<Problem>,
    /// Skipped documents of other kinds: the first of them.
    pub skipped: Vec<Skipped>,
    /// Number of skipped documents of other kinds.
    pub passed_over: usize,
    /// Readable files without any check: the first of them.
    pub without_checks: Vec<String>,
}

impl Checks {
    /// Returns these checks without problems. Of two checks with one key, the last counts.
    pub fn of(checks: impl IntoIterator<Item = Check>) -> Self {
        let checks = checks.into_iter().map(|check| (check.key.clone(), Arc::new(check)));
        Self { checks: checks.collect(), ..Self::default() }
    }

    /// Checks that belong to this shard.
    pub fn of_shard(&self, shard: ShardId, shards: u32) -> impl Iterator<Item = &Arc<Check>> {
        self.checks.values().filter(move |check| check.shard(shards) == shard)
    }
}

/// Number of checks in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Number of all checks.
    pub total: u32,
    /// Number of checks that are up.
    pub up: u32,
    /// Number of checks that are down.
    pub down: u32,
    /// Number of checks without a recent result.
    pub unknown: u32,
}

impl Summary {
    /// Counts one check in this state.
    pub fn count(&mut self, state: State) {
        self.total += 1;
        match state {
            State::Up => self.up += 1,
            State::Down => self.down += 1,
            State::Unknown => self.unknown += 1,
        }
    }
}

/// Summary in one readable line: `13 checks: 12 up, 1 down`.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { total, up, down, unknown } = self;
        write!(f, "{total} checks: {up} up, {down} down")?;
        if *unknown > 0 {
            write!(f, ", {unknown} unknown")?;
        }
        Ok(())
    }
}
