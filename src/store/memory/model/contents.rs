//! A model whose changes another process may make: built from contents, and followed from one state of the
//! contents to the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{Model, ModelConfig, Past, leases::Lease};
use crate::{
    engine::{BootTime, LeaseId, Revision},
    store::KeyValue,
};

/// Everything that a store holds at one revision, without its history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Revision of the contents.
    pub revision: Revision,
    /// Entries that exist, by their key.
    pub keys: BTreeMap<Vec<u8>, KeyValue>,
    /// Leases with their time to live.
    pub leases: BTreeMap<LeaseId, Duration>,
}

/// Number of writes between two contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// A single write, perhaps of several revisions. Such a write deletes nothing, and puts each key once.
    OneWrite,
    /// Several writes, or an unknown number.
    Several,
}

impl Model {
    /// Creates a model with these contents, whose history begins after them. A lease ends only if it is
    /// revoked, as long as no call is made at a later time than zero.
    pub fn from_contents(cluster: u64, contents: Contents) -> Self {
        let config = ModelConfig { cluster, ..ModelConfig::default() };
        let mut model = Self::new(config);
        model.quiet_until = BootTime(Duration::MAX);
        model.revision = contents.revision;
        model.compacted = contents.revision;
        model.keys = contents.keys.into_iter().map(|(key, kv)| (key, Arc::new(kv))).collect();
        model.set_leases(&contents.leases);
        model
    }

    /// The contents as they are now.
    pub fn contents(&self) -> Contents {
        Contents {
            revision: self.revision,
            keys: self.keys.iter().map(|(key, kv)| (key.clone(), KeyValue::clone(kv))).collect(),
            leases: self.ttls().collect(),
        }
    }

    /// Entries that exist, in the order of their keys.
    pub fn entries(&self) -> impl Iterator<Item = &KeyValue> {
        self.keys.values().map(Arc::as_ref)
    }

    /// Leases that live, with their time to live.
    pub fn ttls(&self) -> impl Iterator<Item = (LeaseId, Duration)> + '_ {
        self.leases.iter().map(|(id, lease)| (*id, lease.ttl))
    }

    /// Changes to later contents of the same store. If the changes cannot be separated by revision, the
    /// history up to the new revision counts as compacted.
    pub fn follow(&mut self, next: Contents, between: Between) {
        let steps = next.revision.0 - self.revision.0;
        let entries = self.changes_to(&next);
        let told = match steps {
            0 => entries.is_empty().then(BTreeMap::new),
            1 => Some(BTreeMap::from([(next.revision, entries)])),
            _ if between == Between::OneWrite => by_revision(self.revision, next.revision, entries),
            _ => None,
        };
        self.revision = next.revision;
        self.keys = next.keys.into_iter().map(|(key, kv)| (key, Arc::new(kv))).collect();
        self.set_leases(&next.leases);
        if let Some(told) = told {
            self.history.extend(told.into_values().map(Into::into));
        } else {
            self.history.clear();
            self.compacted = self.revision;
        }
    }

    /// Replaces everything by the contents of another store.
    pub fn replace(&mut self, cluster: u64, contents: Contents) {
        let replacements = self.replacements + 1;
        *self = Self { replacements, ..Self::from_contents(cluster, contents) };
    }

    fn changes_to(&self, next: &Contents) -> Vec<Past> {
        let keys: BTreeSet<_> = self.keys.keys().chain(next.keys.keys()).collect();
        let changes = keys.into_iter().filter_map(|key| {
            let previous = self.keys.get(key);
            match next.keys.get(key) {
                Some(kv) if previous.is_some_and(|it| it.as_ref() == kv) => None,
                Some(kv) => Some(Past {
                    kv: Arc::new(kv.clone()),
                    deleted: false,
                    previous: previous.cloned(),
                }),
                None => previous.map(|previous| Past {
                    kv: Arc::new(KeyValue {
                        key: key.clone(),
                        value: Vec::new(),
                        created: Revision(0),
                        modified: next.revision,
                        version: 0,
                        lease: None,
                    }),
                    deleted: true,
                    previous: Some(Arc::clone(previous)),
                }),
            }
        });
        changes.collect()
    }

    fn set_leases(&mut self, leases: &BTreeMap<LeaseId, Duration>) {
        self.leases = leases
            .iter()
            .map(|(id, ttl)| {
                (*id, Lease { ttl: *ttl, expires: self.now + *ttl, keys: BTreeSet::new() })
            })
            .collect();
        for (key, kv) in &self.keys {
            if let Some(lease) = kv.lease.and_then(|lease| self.leases.get_mut(&lease)) {
                lease.keys.insert(key.clone());
            }
        }
    }
}

/// Changes of one write, split by the revision that each key was written at; `None` if a revision is left
/// without a change, or a key was deleted.
fn by_revision(
    from: Revision,
    to: Revision,
    changes: Vec<Past>,
) -> Option<BTreeMap<Revision, Vec<Past>>> {
    let mut told = BTreeMap::<Revision, Vec<Past>>::new();
    for past in changes {
        if past.deleted || past.kv.modified <= from || past.kv.modified > to {
            return None;
        }
        told.entry(past.kv.modified).or_default().push(past);
    }
    (told.len() as i64 == to.0 - from.0).then_some(told)
}
