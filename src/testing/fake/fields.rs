//! Sets of fields, as `metadata.managedFields` records them, and operations on the values they name.
//!
//! An element of a path has the form that `FieldsV1` gives it: `f:name` for a field, `k:{…}` for an item of a
//! keyed list, and `v:…` for an item of a set.

use std::{cmp::Ordering, collections::BTreeSet};

use serde_json::{Map, Value, json};

use super::schema::Schema;

/// Elements that lead to a field.
pub(super) type Path = Vec<String>;

/// Fields of an object.
pub(super) type FieldSet = BTreeSet<Path>;

/// Fields that no manager owns.
const WITHOUT_OWNER: &[&[&str]] = &[
    &["f:apiVersion"],
    &["f:kind"],
    &["f:metadata"],
    &["f:metadata", "f:name"],
    &["f:metadata", "f:namespace"],
    &["f:metadata", "f:creationTimestamp"],
    &["f:metadata", "f:selfLink"],
    &["f:metadata", "f:uid"],
    &["f:metadata", "f:generation"],
    &["f:metadata", "f:managedFields"],
    &["f:metadata", "f:resourceVersion"],
];

/// Differences between two states of an object.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub(super) added: FieldSet,
    pub(super) removed: FieldSet,
    pub(super) modified: FieldSet,
}

/// The fields that an applied configuration sets.
pub(super) fn fields_of(applied: &Value, schema: &Schema) -> FieldSet {
    let mut found = FieldSet::new();
    gather(applied, schema, &mut Vec::new(), &mut found);
    without_owner_removed(found)
}

fn gather(value: &Value, schema: &Schema, path: &mut Path, found: &mut FieldSet) {
    if schema.is_leaf(value) {
        found.insert(path.clone());
        return;
    }
    match value {
        Value::Object(map) if map.is_empty() => {
            found.insert(path.clone());
        }
        Value::Object(map) => {
            for (name, value) in map {
                path.push(format!("f:{name}"));
                gather(value, schema.field(name), path, found);
                path.pop();
            }
        }
        Value::Array(items) => {
            for item in items {
                let Some(element) = schema.element(item) else { continue };
                path.push(element);
                found.insert(path.clone());
                gather(item, schema.items(), path, found);
                path.pop();
            }
        }
        _ => {}
    }
}

/// The difference between two states of an object.
pub(super) fn difference(old: &Value, new: &Value, schema: &Schema) -> Difference {
    let mut found = Difference::default();
    compare(Some(old), Some(new), schema, &mut Vec::new(), &mut found);
    for set in [&mut found.added, &mut found.removed, &mut found.modified] {
        *set = without_owner_removed(std::mem::take(set));
    }
    found
}

fn compare(
    old: Option<&Value>,
    new: Option<&Value>,
    schema: &Schema,
    path: &mut Path,
    found: &mut Difference,
) {
    let kind = |value: Option<&Value>| match value {
        None | Some(Value::Null) => 0,
        Some(Value::Object(map)) if map.is_empty() => 1,
        Some(Value::Array(items)) if items.is_empty() => 2,
        Some(value) if schema.is_leaf(value) => 3,
        Some(Value::Object(_)) => 4,
        Some(_) => 5,
    };
    match (old, new) {
        (None, None) => return,
        (None, Some(_)) => drop(found.added.insert(path.clone())),
        (Some(_), None) => drop(found.removed.insert(path.clone())),
        (Some(old), Some(new)) => {
            // Containers are compared by what is in them, unless the value changes its type.
            let is_entered = |value: Option<&Value>| 4 <= kind(value);
            let is_empty = |value: Option<&Value>| kind(value) <= 2;
            let enters = (is_entered(Some(old)) || is_empty(Some(old)))
                && (is_entered(Some(new)) || is_empty(Some(new)))
                && (is_entered(Some(old)) || is_entered(Some(new)));
            if !enters && old != new {
                found.modified.insert(path.clone());
            }
        }
    }
    let is_whole = |value: Option<&Value>| value.is_none_or(|it| schema.is_leaf(it));
    if is_whole(old) && is_whole(new) {
        return;
    }
    for element in elements(old, schema).union(&elements(new, schema)) {
        let inner = schema.inside(element);
        path.push(element.clone());
        compare(child(old, element, schema), child(new, element, schema), inner, path, found);
        path.pop();
    }
}

/// The elements that lead from a value to the values in it.
fn elements(value: Option<&Value>, schema: &Schema) -> BTreeSet<String> {
    match value {
        Some(value) if schema.is_leaf(value) => BTreeSet::new(),
        Some(Value::Object(map)) => map.keys().map(|name| format!("f:{name}")).collect(),
        Some(Value::Array(items)) => items.iter().filter_map(|it| schema.element(it)).collect(),
        _ => BTreeSet::new(),
    }
}

fn child<'a>(value: Option<&'a Value>, element: &str, schema: &Schema) -> Option<&'a Value> {
    match value? {
        value if schema.is_leaf(value) => None,
        Value::Object(map) => map.get(element.strip_prefix("f:")?),
        Value::Array(items) => items.get(schema.position(items, element)?),
        _ => None,
    }
}

/// The live object with the applied fields in it.
pub(super) fn merge(live: Option<&Value>, applied: &Value, schema: &Schema) -> Value {
    match (live, applied) {
        (Some(live), _) if schema.is_leaf(live) != schema.is_leaf(applied) => applied.clone(),
        (_, applied) if schema.is_leaf(applied) => applied.clone(),
        (Some(Value::Object(live)), Value::Object(applied)) => {
            let mut merged = live.clone();
            for (name, value) in applied {
                let value = merge(live.get(name), value, schema.field(name));
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (Some(Value::Array(live)), Value::Array(applied)) => {
            Value::Array(merge_lists(live, applied, schema))
        }
        (_, applied) => applied.clone(),
    }
}

/// Items that only the live list has stay in front of the next item that both lists have. The order of the
/// applied list wins.
fn merge_lists(live: &[Value], applied: &[Value], schema: &Schema) -> Vec<Value> {
    let keys = |items: &[Value]| -> Vec<Option<String>> {
        items.iter().map(|item| schema.element(item)).collect()
    };
    let (left, right) = (keys(live), keys(applied));
    let is_shared = |key: &Option<String>| left.contains(key) && right.contains(key);
    let mut merged = Vec::new();
    let mut at = 0;
    for (item, key) in applied.iter().zip(&right) {
        if is_shared(key) {
            while at < live.len() && left[at] != *key && !is_shared(&left[at]) {
                merged.push(live[at].clone());
                at += 1;
            }
            let before = left.iter().position(|it| it == key).and_then(|at| live.get(at));
            merged.push(merge(before, item, schema.items()));
            if at < live.len() && left[at] == *key {
                at += 1;
            }
        } else {
            while at < live.len() && !is_shared(&left[at]) {
                merged.push(live[at].clone());
                at += 1;
            }
            merged.push(item.clone());
        }
    }
    let rest = live[at..].iter().zip(&left[at..]);
    merged.extend(rest.filter(|(_, key)| !is_shared(key)).map(|(item, _)| item.clone()));
    merged
}

/// Removes fields from an object, and containers that this leaves empty unless an owner or the applied
/// configuration has them.
pub(super) fn prune(
    object: &mut Value,
    doomed: &FieldSet,
    owned: &FieldSet,
    applied: &Value,
    schema: &Schema,
) {
    let is_needed = |path: &Path| owned.iter().any(|it| it.starts_with(path));
    let mut containers = FieldSet::new();
    for path in doomed.iter().filter(|path| !is_needed(path)) {
        remove(object, path, schema);
        containers.extend((1..path.len()).map(|length| path[..length].to_vec()));
    }
    // The longest path is the innermost container.
    let mut containers: Vec<_> = containers.into_iter().collect();
    containers.sort_by_key(|path| std::cmp::Reverse(path.len()));
    for path in containers {
        let is_empty = match at(object, &path, schema) {
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Array(items)) => items.is_empty(),
            _ => false,
        };
        let is_metadata = path == ["f:metadata"];
        if is_empty && !is_metadata && !is_needed(&path) && at(applied, &path, schema).is_none() {
            remove(object, &path, schema);
        }
    }
}

fn at<'a>(value: &'a Value, path: &[String], schema: &Schema) -> Option<&'a Value> {
    let Some((first, rest)) = path.split_first() else { return Some(value) };
    at(child(Some(value), first, schema)?, rest, schema.inside(first))
}

fn remove(value: &mut Value, path: &[String], schema: &Schema) {
    let Some((first, rest)) = path.split_first() else { return };
    match value {
        Value::Object(map) => {
            let Some(name) = first.strip_prefix("f:") else { return };
            if rest.is_empty() {
                map.remove(name);
            } else if let Some(inner) = map.get_mut(name) {
                remove(inner, rest, schema.field(name));
            }
        }
        Value::Array(items) => {
            let Some(at) = schema.position(items, first) else { return };
            if rest.is_empty() {
                items.remove(at);
            } else {
                remove(&mut items[at], rest, schema.items());
            }
        }
        _ => {}
    }
}

fn without_owner_removed(mut set: FieldSet) -> FieldSet {
    set.remove(&Vec::new());
    for path in WITHOUT_OWNER {
        set.remove(&path.iter().map(|&it| it.to_owned()).collect::<Path>());
    }
    set
}

/// The set in the form of `fieldsV1`.
pub(super) fn to_fields_v1(set: &FieldSet) -> Value {
    let mut root = Map::new();
    for path in set {
        let mut node = &mut root;
        for element in path {
            let inner = node.entry(element.clone()).or_insert_with(|| json!({}));
            let Value::Object(inner) = inner else { unreachable!("all nodes are objects") };
            node = inner;
        }
        // A node with fields of its own needs a mark to be a field itself. Longer paths come later.
        let is_container = set.range(path.clone()..).nth(1).is_some_and(|it| it.starts_with(path));
        if is_container {
            node.insert(".".to_owned(), json!({}));
        }
    }
    Value::Object(root)
}

/// The set that `fieldsV1` describes.
pub(super) fn from_fields_v1(fields: &Value) -> FieldSet {
    fn read(node: &Value, path: &mut Path, found: &mut FieldSet) {
        let Value::Object(map) = node else { return };
        if map.is_empty() && !path.is_empty() {
            found.insert(path.clone());
        }
        for (element, inner) in map {
            if element == "." {
                found.insert(path.clone());
                continue;
            }
            path.push(element.clone());
            read(inner, path, found);
            path.pop();
        }
    }
    let mut found = FieldSet::new();
    read(fields, &mut Vec::new(), &mut found);
    found
}

/// The order of two paths in messages: the fields of a level come before what is in them.
pub(super) fn in_order(left: &Path, right: &Path) -> Ordering {
    let mut levels = left.iter().zip(right).enumerate();
    let first = levels.find_map(|(at, (one, other))| {
        let is_inner = |path: &Path| path.len() > at + 1;
        let order = is_inner(left).cmp(&is_inner(right)).then_with(|| one.cmp(other));
        order.is_ne().then_some(order)
    });
    first.unwrap_or(Ordering::Equal)
}

/// The path as an error message shows it: `.spec.ports[port=80].name`.
pub(super) fn shown(path: &Path) -> String {
    let mut text = String::new();
    for element in path {
        if let Some(name) = element.strip_prefix("f:") {
            text.push('.');
            text.push_str(name);
        } else if let Some(keys) = element.strip_prefix("k:") {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let keys: Vec<_> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            text.extend(["[", &keys.join(","), "]"]);
        } else {
            let value = element.strip_prefix("v:").unwrap_or(element);
            text.extend(["[=", value, "]"]);
        }
    }
    text
}
