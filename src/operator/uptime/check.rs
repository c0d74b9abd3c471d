//! A check that can be run: a resource that was found good, and what is worked out from it once.

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

/// The namespace and name of a check; written `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CheckKey {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl CheckKey {
    /// The key of that namespace and name.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for CheckKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Text that is not `namespace/name`.
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

/// Tells one spec of a check from another, on every node alike; written as 16 hex digits.
///
/// Slots belong to a spec: a changed check is run at once, whatever was run before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpecHash(pub u64);

impl SpecHash {
    fn of(spec: &UptimeCheckSpec) -> Self {
        // All maps in a spec are ordered, so the text is the same wherever it is made.
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
/// Its resource was found good by [`Check::new`] and does not change.
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
    /// The check of that resource.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it, by field.
    pub fn new(mut resource: UptimeCheck) -> Result<Self, Vec<FieldError>> {
        validate::resource(&resource)?;
        resource.status = None;
        let metadata = &resource.metadata;
        let namespace = metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        let key = CheckKey::new(namespace, metadata.name.as_str());
        let identity = metadata.uid.clone().unwrap_or_else(|| key.to_string());
        // That of a UID is the one by which the API server picks objects.
        let shard_hash = match &metadata.uid {
            Some(uid) => fnv1a(uid.as_bytes()),
            None => hash_of_name(identity.as_bytes()),
        };
        // Slots begin where they always did, whatever the shards are cut by.
        let slot_hash = fnv1a(identity.as_bytes());
        let timing = Timing::new(resource.spec.interval.0, slot_hash);
        let spec_hash = SpecHash::of(&resource.spec);
        Ok(Self { key, resource, spec_hash, shard_hash, slot_hash, timing })
    }

    /// Its namespace and name.
    pub fn key(&self) -> &CheckKey {
        &self.key
    }

    /// The resource it was made from, without a status.
    pub fn resource(&self) -> &UptimeCheck {
        &self.resource
    }

    /// What is to be checked.
    pub fn spec(&self) -> &UptimeCheckSpec {
        &self.resource.spec
    }

    /// Tells this spec from others.
    pub fn spec_hash(&self) -> SpecHash {
        self.spec_hash
    }

    /// When it is due.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// The shard it belongs to, out of `shards`, of which there is at least one.
    pub fn shard(&self, shards: u32) -> ShardId {
        shard_of_hash(self.shard_hash, shards)
    }

    /// The shard under which version 0.1 stored its status.
    pub(super) fn former_shard(&self, shards: u32) -> ShardId {
        shard_of_hash(self.slot_hash, shards)
    }
}

/// All checks there are at one moment, and what was wrong with the rest. Immutable: a change is a new one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checks {
    /// The checks, by key.
    pub checks: BTreeMap<CheckKey, Arc<Check>>,
    /// What could not be read, in the order of files and lines.
    pub problems: Vec<Problem>,
    /// What was of another kind, and was passed over: the first of them.
    pub skipped: Vec<Skipped>,
    /// How many documents were passed over.
    pub passed_over: usize,
    /// Files that hold nothing to run, though they can be read: the first of them.
    pub without_checks: Vec<String>,
}

impl Checks {
    /// These checks and no problems. Of two with one key, the last.
    pub fn of(checks: impl IntoIterator<Item = Check>) -> Self {
        let checks = checks.into_iter().map(|check| (check.key.clone(), Arc::new(check)));
        Self { checks: checks.collect(), ..Self::default() }
    }

    /// The checks of one shard.
    pub fn of_shard(&self, shard: ShardId, shards: u32) -> impl Iterator<Item = &Arc<Check>> {
        self.checks.values().filter(move |check| check.shard(shards) == shard)
    }
}

/// How many checks are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// All.
    pub total: u32,
    /// Those that are up.
    pub up: u32,
    /// Those that are down.
    pub down: u32,
    /// Those of which nothing recent is known.
    pub unknown: u32,
}

impl Summary {
    /// Counts one more.
    pub fn count(&mut self, state: State) {
        self.total += 1;
        match state {
            State::Up => self.up += 1,
            State::Down => self.down += 1,
            State::Unknown => self.unknown += 1,
        }
    }
}

/// One line for people: `13 checks: 12 up, 1 down`.
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
