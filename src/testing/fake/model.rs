//! Objects of a fake API server, and the history of their changes.
//!
//! Pure: takes the time as an argument. Writes are in [`super::writing`].

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    failure::Failure,
    form::{metadata, new_uid, normalise},
    kinds::{Kind, Kinds, Part, Target},
    managers::{Manager, Managers, Operation},
    selector::Selector,
};

/// Group, plural name, namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) group: String,
    pub(super) plural: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Place {
    pub(super) fn of(kind: &Kind, namespace: &str, name: &str) -> Self {
        let (group, plural) = (kind.group.clone(), kind.plural.clone());
        Self { group, plural, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Whether the object is one of those that a request for a list is about.
    fn is_in(&self, target: &Target) -> bool {
        self.group == target.kind.group
            && self.plural == target.kind.plural
            && (target.namespace.is_empty() || self.namespace == target.namespace)
            && target.name.as_ref().is_none_or(|name| *name == self.name)
    }
}

/// Change of an object.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) place: Place,
    pub(super) before: Option<Arc<Value>>,
    pub(super) after: Option<Arc<Value>>,
}

/// Event of a watch. The type comes first, as from the API server: a reader may depend on that.
#[derive(Debug, Serialize)]
pub(super) struct Event {
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) object: Value,
}

/// All objects, by their place.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) kinds: Kinds,
    objects: BTreeMap<Place, Arc<Value>>,
    version: u64,
    /// Version up to which changes are forgotten.
    forgotten: u64,
    changes: Vec<Change>,
}

impl Default for Model {
    fn default() -> Self {
        // The version 0 has a meaning of its own in requests.
        let (kinds, objects, changes) = (Kinds::default(), BTreeMap::new(), Vec::new());
        Self { kinds, objects, version: 1, forgotten: 0, changes }
    }
}

impl Model {
    /// The version of the newest change.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn object(&self, place: &Place) -> Option<&Arc<Value>> {
        self.objects.get(place)
    }

    /// Changes after a version.
    pub(super) fn changes_after(&self, version: u64) -> &[Change] {
        let from = self.changes.partition_point(|it| it.version <= version);
        &self.changes[from..]
    }

    /// Forgets all changes so far, like a compaction of etcd.
    pub(super) fn forget(&mut self) {
        self.changes.clear();
        self.forgotten = self.version;
    }

    /// Stores an object as the newest version, and returns it.
    pub(super) fn put(&mut self, place: Place, mut object: Value) -> Arc<Value> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let object = Arc::new(object);
        let before = self.objects.insert(place.clone(), Arc::clone(&object));
        let after = Some(Arc::clone(&object));
        self.changes.push(Change { version: self.version, place, before, after });
        object
    }

    /// Removes an object, if it exists.
    pub(super) fn remove(&mut self, place: &Place) {
        let Some(before) = self.objects.remove(place) else { return };
        self.version += 1;
        let change = Change {
            version: self.version,
            place: place.clone(),
            before: Some(before),
            after: None,
        };
        self.changes.push(change);
    }

    /// Objects that a request is about and that the selector picks.
    pub(super) fn listed(&self, target: &Target, selector: &Selector) -> Vec<&Arc<Value>> {
        let first = Place::of(&target.kind, &target.namespace, "");
        let from = self.objects.range((Bound::Included(first), Bound::Unbounded));
        from.take_while(|(place, _)| {
            place.group == target.kind.group && place.plural == target.kind.plural
        })
        .filter(|(place, object)| place.is_in(target) && selector.picks(object))
        .map(|(_, object)| object)
        .collect()
    }

    /// The list that the API server answers a request with.
    pub(super) fn list(&self, target: &Target, selector: &Selector) -> Value {
        let items: Vec<&Value> =
            self.listed(target, selector).into_iter().map(|it| &**it).collect();
        json!({
            "kind": format!("{}List", target.kind.kind),
            "apiVersion": target.kind.api_version(),
            "metadata": { "resourceVersion": self.version.to_string() },
            "items": items,
        })
    }

    /// Events after a version, for a watch; the version that they lead to.
    ///
    /// # Errors
    ///
    /// 410 if changes after that version are forgotten.
    pub(super) fn events(
        &self,
        target: &Target,
        selector: &Selector,
        after: u64,
    ) -> Result<(Vec<Event>, u64), Failure> {
        if after < self.forgotten {
            return Err(Failure::expired(after, self.forgotten));
        }
        let changes = self.changes_after(after).iter();
        let events = changes.filter(|it| it.place.is_in(target)).filter_map(|it| {
            let picked = |object: &Option<Arc<Value>>| {
                object.as_ref().filter(|object| selector.picks(object)).cloned()
            };
            let (kind, object) = match (picked(&it.before), picked(&it.after)) {
                (None, None) => return None,
                (None, Some(object)) => ("ADDED", Value::clone(&object)),
                (Some(_), Some(object)) => ("MODIFIED", Value::clone(&object)),
                // The last state has the version of the change that ends it.
                (Some(object), None) => {
                    let mut object = Value::clone(&object);
                    object["metadata"]["resourceVersion"] = json!(it.version.to_string());
                    ("DELETED", object)
                }
            };
            Some(Event { kind, object })
        });
        Ok((events.collect(), self.version))
    }

    /// Stores an object as it is, with what every stored object has.
    pub(super) fn place(
        &mut self,
        kind: &Kind,
        place: Place,
        mut object: Value,
        now: &str,
    ) -> Arc<Value> {
        let before = self.object(&place).cloned();
        object["apiVersion"] = json!(kind.api_version());
        object["kind"] = json!(kind.kind);
        normalise(kind, &mut object);
        let fresh = (json!(new_uid()), json!(now));
        let old = |field: &str| before.as_ref().map(|it| it["metadata"][field].clone());
        let is_changed = before.as_ref().is_some_and(|it| kind.spec(it) != kind.spec(&object));
        let generation = old("generation").and_then(|it| it.as_i64()).unwrap_or(1);
        let meta = metadata(&mut object);
        meta.entry("uid").or_insert(old("uid").unwrap_or(fresh.0));
        meta.entry("creationTimestamp").or_insert(old("creationTimestamp").unwrap_or(fresh.1));
        if is_changed && kind.has_generation {
            meta.insert("generation".to_owned(), json!(generation + 1));
        } else if kind.has_generation {
            meta.entry("generation").or_insert(json!(generation));
        }
        let manager = Manager {
            operation: Operation::Update,
            name: "another-program".to_owned(),
            api_version: kind.api_version(),
            subresource: String::new(),
        };
        let empty = json!({});
        let before = before.as_deref().unwrap_or(&empty);
        let managers = Managers::of(before);
        let managers = managers.updated((before, &object), &kind.schema, &manager, now);
        managers.write_to(&mut object);
        self.put(place, object)
    }

    /// All objects of a kind.
    pub(super) fn all(&self, kind: &Arc<Kind>) -> Vec<Arc<Value>> {
        let target = Target {
            kind: Arc::clone(kind),
            namespace: String::new(),
            name: None,
            part: Part::Whole,
        };
        self.listed(&target, &Selector::default()).into_iter().cloned().collect()
    }
}
