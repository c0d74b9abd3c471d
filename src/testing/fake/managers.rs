//! Field managers: `metadata.managedFields`, and the rules of server-side apply about them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    failure::{About, Failure},
    fields::{
        FieldSet, difference, fields_of, from_fields_v1, in_order, merge, prune, shown,
        to_fields_v1,
    },
    schema::Schema,
};

/// How a manager came to own its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

impl Operation {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// A program that owns fields. The same program counts as several managers if it writes in several ways.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Manager {
    pub(super) operation: Operation,
    pub(super) name: String,
    pub(super) api_version: String,
    pub(super) subresource: String,
}

impl Manager {
    /// The manager as messages about conflicts name it.
    fn shown(&self) -> String {
        let mut text = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            text = format!("{text} with subresource {:?}", self.subresource);
        }
        if self.operation == Operation::Update {
            text.extend([" using ", &self.api_version]);
        }
        text
    }
}

/// Fields that a manager owns, and when they last changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Owned {
    fields: FieldSet,
    time: String,
}

/// All managers of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Managers(BTreeMap<Manager, Owned>);

impl Managers {
    /// The managers that an object records.
    pub(super) fn of(object: &Value) -> Self {
        let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
        let text = |entry: &Value, name: &str| {
            entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let read = |entry: &Value| {
            let manager = Manager {
                operation: match entry["operation"].as_str()? {
                    "Apply" => Operation::Apply,
                    _ => Operation::Update,
                },
                name: text(entry, "manager"),
                api_version: text(entry, "apiVersion"),
                subresource: text(entry, "subresource"),
            };
            let fields = from_fields_v1(&entry["fieldsV1"]);
            Some((manager, Owned { fields, time: text(entry, "time") }))
        };
        Self(entries.filter_map(read).collect())
    }

    /// Whether a request asks to forget all managers: by an empty list, or a list with an empty entry.
    pub(super) fn are_reset_by(object: &Value) -> bool {
        match object["metadata"]["managedFields"].as_array().map(Vec::as_slice) {
            Some([]) => true,
            Some([only]) => only.as_object().is_some_and(serde_json::Map::is_empty),
            _ => false,
        }
    }

    /// Records the managers in an object.
    pub(super) fn write_to(&self, object: &mut Value) {
        let entry = |(manager, owned): (&Manager, &Owned)| {
            let mut entry = json!({
                "manager": manager.name,
                "operation": manager.operation.as_str(),
                "apiVersion": manager.api_version,
                "fieldsType": "FieldsV1",
                "fieldsV1": to_fields_v1(&owned.fields),
            });
            // A manager that has changed no value yet has no time.
            if !owned.time.is_empty() {
                entry["time"] = json!(owned.time);
            }
            if !manager.subresource.is_empty() {
                entry["subresource"] = json!(manager.subresource);
            }
            entry
        };
        let entries: Vec<_> = self.0.iter().map(entry).collect();
        if entries.is_empty() {
            if let Some(meta) = object["metadata"].as_object_mut() {
                meta.remove("managedFields");
            }
        } else {
            object["metadata"]["managedFields"] = json!(entries);
        }
    }

    /// The managers after an update: the manager owns all that the update has changed.
    pub(super) fn updated(
        &self,
        (old, new): (&Value, &Value),
        schema: &Schema,
        manager: &Manager,
        now: &str,
    ) -> Self {
        let mut managers = self.clone();
        let changed = difference(old, new, schema);
        let taken: FieldSet = changed.modified.union(&changed.added).cloned().collect();
        for (other, owned) in &mut managers.0 {
            owned.fields.retain(|it| !changed.removed.contains(it));
            if other != manager {
                owned.fields.retain(|it| !taken.contains(it));
            }
        }
        let own = managers.0.entry(manager.clone()).or_default();
        own.fields.extend(taken);
        if self.0.get(manager).is_none_or(|before| before.fields != own.fields) {
            now.clone_into(&mut own.time);
        }
        managers.0.retain(|_, owned| !owned.fields.is_empty());
        managers
    }

    fn all_fields(&self) -> FieldSet {
        self.0.values().flat_map(|it| &it.fields).cloned().collect()
    }
}

/// Whether an apply takes over fields that other managers own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Force {
    Yes,
    No,
}

/// The object after an apply of this configuration, and its managers.
///
/// # Errors
///
/// 409 if the apply would change fields that other managers own, unless it is forced.
pub(super) fn apply(
    live: &Value,
    configuration: &Value,
    schema: &Schema,
    (manager, force): (Manager, Force),
    now: &str,
) -> Result<(Value, Managers), Failure> {
    let before = Managers::of(live);
    let mut managers = before.clone();
    let last = managers.0.get(&manager).map(|it| it.fields.clone()).unwrap_or_default();
    managers.0.entry(manager.clone()).or_default().fields = fields_of(configuration, schema);
    let mut merged = merge(Some(live), configuration, schema);
    let owned = managers.all_fields();
    let doomed: FieldSet = last.difference(&owned).cloned().collect();
    prune(&mut merged, &doomed, &owned, configuration, schema);

    let changed = difference(live, &merged, schema);
    let taken: FieldSet = changed.modified.union(&changed.added).cloned().collect();
    let mut conflicts = Vec::new();
    for (other, owned) in managers.0.iter_mut().filter(|(other, _)| **other != manager) {
        let mut fields: Vec<_> = owned.fields.intersection(&taken).collect();
        fields.sort_by(|left, right| in_order(left, right));
        let fields: Vec<_> = fields.into_iter().map(shown).collect();
        if !fields.is_empty() {
            conflicts.push((other.shown(), fields));
        }
        owned.fields.retain(|it| !taken.contains(it) && !changed.removed.contains(it));
    }
    if force == Force::No && !conflicts.is_empty() {
        conflicts.sort();
        return Err(About::owned_by_others(&conflicts));
    }
    // Fields that only change their owner are no change of a value.
    let is_changed = !(taken.is_empty() && changed.removed.is_empty());
    if is_changed && let Some(own) = managers.0.get_mut(&manager) {
        now.clone_into(&mut own.time);
    }
    managers.0.retain(|_, owned| !owned.fields.is_empty());
    Ok((merged, managers))
}
