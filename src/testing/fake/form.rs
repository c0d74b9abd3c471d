//! The form in which the API server stores objects.

use k8s_openapi::ByteString;
use serde_json::{Map, Value, json};

use super::kinds::Kind;

/// Text in the metadata of an object; empty if it does not exist.
pub(super) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

pub(super) fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["metadata"].as_object_mut().expect("the metadata was just made an object")
}

pub(super) fn finalizers(object: &Value) -> Vec<String> {
    let all = object["metadata"]["finalizers"].as_array().into_iter().flatten();
    all.filter_map(|it| it.as_str().map(str::to_owned)).collect()
}

/// The object as the API server stores it: also without empty lists and maps where it leaves them out.
pub(super) fn normalise(kind: &Kind, object: &mut Value) {
    decode(kind, object);
    let is_empty = |value: &Value| match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    metadata(object).retain(|name, value| name == "managedFields" || !is_empty(value));
    if kind.is_custom {
        return;
    }
    if let Value::Object(fields) = object {
        fields.retain(|name, value| {
            !["data", "binaryData"].contains(&name.as_str()) || !is_empty(value)
        });
    }
}

/// The object as the API server reads it from a request: without nulls, and secrets encoded.
pub(super) fn decode(kind: &Kind, object: &mut Value) {
    drop_nulls(object);
    if kind.group.is_empty() && kind.plural == "secrets" {
        encode_secret(object);
    }
}

fn encode_secret(object: &mut Value) {
    let Value::Object(fields) = object else { return };
    if let Some(Value::Object(plain)) = fields.remove("stringData") {
        let data = fields.entry("data").or_insert_with(|| json!({}));
        for (name, value) in plain {
            let bytes = value.as_str().unwrap_or_default().as_bytes().to_vec();
            data[name] = json!(ByteString(bytes));
        }
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The object without the times of its managers, which alone are no change.
pub(super) fn without_times(object: &Value) -> Value {
    let mut object = object.clone();
    for entry in object["metadata"]["managedFields"].as_array_mut().into_iter().flatten() {
        if let Value::Object(entry) = entry {
            entry.remove("time");
        }
    }
    object
}

/// Restores the fields that only the API server writes.
pub(super) fn keep_system_fields(old: &Value, new: &mut Value) {
    for field in ["apiVersion", "kind"] {
        new[field] = old[field].clone();
    }
    let meta = metadata(new);
    for field in [
        "name",
        "generateName",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
    ] {
        match old["metadata"].get(field) {
            Some(value) => drop(meta.insert(field.to_owned(), value.clone())),
            None => drop(meta.remove(field)),
        }
    }
}

/// A name with five random characters at its end.
pub(super) fn generated(base: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let one = |_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())]);
    base.chars().chain((0..5).map(one)).collect()
}

pub(super) fn new_uid() -> String {
    let (high, low) = (rand::random::<u64>(), rand::random::<u64>());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        0x8000 | ((low >> 48) & 0x3fff),
        low & 0xffff_ffff_ffff
    )
}
