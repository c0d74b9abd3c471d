//! Validates a manifest against the schema of its resource, as the API server does: fields, types of values,
//! bounds of numbers. [`Check::new`](crate::operator::uptime::Check::new) checks what a schema cannot
//! express.
//!
//! Messages take their words from the schema: names of fields, allowed values, examples. No message shows a
//! text value of the manifest.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::yaml::{Node, Part};
use crate::{
    k8s::{crd, prelude::CustomResourceExt as _},
    operator::uptime::crd::UptimeCheck,
};

/// Schema of an `UptimeCheck`, as in the API server; the status is not validated.
static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    const SPEC: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    let definition = crd::json(&[crd::tidied(UptimeCheck::crd())]);
    let spec = definition.pointer(SPEC);
    let text = json!({"type": "string"});
    let texts =
        json!({"type": "object", "additionalProperties": {"type": "string", "default": ""}});
    let whole = json!({"type": "integer"});
    let any = json!({"x-kubernetes-preserve-unknown-fields": true});
    json!({
        "type": "object",
        "required": ["metadata", "spec"],
        "properties": {
            "apiVersion": text,
            "kind": text,
            "metadata": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": text, "namespace": text, "generateName": text, "labels": texts,
                    "annotations": texts, "uid": text, "generation": whole, "resourceVersion": text,
                    "creationTimestamp": any, "deletionTimestamp": any, "deletionGracePeriodSeconds": any,
                    "finalizers": any, "managedFields": any, "ownerReferences": any, "selfLink": any,
                },
            },
            "spec": spec,
            "status": any,
        },
    })
});

/// Problem of one field, by the field's path.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) path: String,
    pub(super) message: String,
}

/// Returns the manifest as JSON, without nulls that a default replaces; or all violations of the schema.
pub(super) fn of_check(document: &Node) -> Result<Value, Vec<Wrong>> {
    let mut wrong = Vec::new();
    let value = shaped(document, &SCHEMA, "", &mut wrong);
    if wrong.is_empty() { Ok(value) } else { Err(wrong) }
}

/// Remedy for a field whose text its type cannot parse.
pub(super) fn remedy_of(path: &str) -> String {
    let mut schema = &*SCHEMA;
    for part in path.split(['.', '[']) {
        let next =
            if part.ends_with(']') { "/items".to_owned() } else { format!("/properties/{part}") };
        let Some(found) = schema.pointer(&next) else { break };
        schema = found;
    }
    remedy_in(schema)
}

fn remedy_in(schema: &Value) -> String {
    let text = |at: &str| schema.pointer(at).and_then(Value::as_str);
    match (text("/x-kubernetes-validations/0/message"), text("/example")) {
        (Some(message), _) => message.to_owned(),
        (None, Some(example)) => {
            format!("is not what this field holds: write it like `{example}`")
        }
        (None, None) => "is not what this field holds: see `bellwether crds`".to_owned(),
    }
}

fn shaped(node: &Node, schema: &Value, path: &str, wrong: &mut Vec<Wrong>) -> Value {
    let mut say = |message: String| {
        wrong.push(Wrong { path: path.to_owned(), message });
        Value::Null
    };
    if schema.get("x-kubernetes-preserve-unknown-fields").is_some() {
        return node.to_json();
    }
    if schema.get("x-kubernetes-int-or-string").is_some() {
        return match &node.value {
            Part::Text(_) | Part::Number(_) => node.to_json(),
            other => say(format!("{}: write a number or a text", kind_of(other))),
        };
    }
    let type_ = schema.get("type").and_then(Value::as_str).unwrap_or("object");
    match (type_, &node.value) {
        ("object", Part::Map(_)) => fields(node, schema, path, wrong),
        ("array", Part::List(items)) => {
            let of = schema.get("items").unwrap_or(&Value::Null);
            let items = items.iter().enumerate();
            items.map(|(at, item)| shaped(item, of, &format!("{path}[{at}]"), wrong)).collect()
        }
        ("string", Part::Text(text)) => match one_of(schema) {
            Some(values) if !values.contains(&text.as_str()) => {
                say(format!("is none of `{}`", values.join("`, `")))
            }
            _ => node.to_json(),
        },
        ("boolean", Part::Bool(is)) => Value::Bool(*is),
        ("integer", Part::Number(number)) => {
            let bound = |name: &str| schema.get(name).and_then(Value::as_i64);
            let (least, most) = (bound("minimum"), bound("maximum"));
            match number.as_i64() {
                Some(whole)
                    if least.is_none_or(|it| it <= whole) && most.is_none_or(|it| whole <= it) =>
                {
                    node.to_json()
                }
                Some(whole) => say(format!("`{whole}` is outside {}", bounds(least, most))),
                None => say("is no whole number".to_owned()),
            }
        }
        // A field with a format of its own, which its example shows.
        ("string", Part::Number(_) | Part::Bool(_)) if schema.get("example").is_some() => {
            say(remedy_in(schema))
        }
        (expected, other) => say(format!("{}: {}", kind_of(other), instead(expected, other))),
    }
}

fn bounds(least: Option<i64>, most: Option<i64>) -> String {
    match (least, most) {
        (Some(least), Some(most)) => format!("{least} to {most}"),
        (Some(least), None) => format!("{least} and above"),
        (None, Some(most)) => format!("0 to {most}"),
        (None, None) => "what this field can hold".to_owned(),
    }
}

fn fields(node: &Node, schema: &Value, path: &str, wrong: &mut Vec<Wrong>) -> Value {
    let Part::Map(fields) = &node.value else { return Value::Null };
    // The author of the manifest chooses the names in a map: text that does not look like a name is not
    // shown.
    let below = |name: &str| match path {
        "" => name.to_owned(),
        _ if is_shown(name) => format!("{path}.{name}"),
        _ => path.to_owned(),
    };
    let known = schema.get("properties").and_then(Value::as_object);
    let any = schema.get("additionalProperties");
    let mut object = Map::new();
    let before = wrong.len();
    for field in fields {
        let Some(of) = known.and_then(|known| known.get(&field.name)).or(any) else {
            wrong.push(unknown(&field.name, known, path));
            continue;
        };
        if field.value.value != Part::Null {
            let value = shaped(&field.value, of, &below(&field.name), wrong);
            object.insert(field.name.clone(), value);
            continue;
        }
        // As in the API server, a field without a value is left out; the maps of metadata have a default.
        let is_field = known.is_some_and(|known| known.contains_key(&field.name));
        match of.get("default") {
            _ if is_field => {}
            Some(default) => drop(object.insert(field.name.clone(), default.clone())),
            None => drop(shaped(&field.value, of, &below(&field.name), wrong)),
        }
    }
    let required = schema.get("required").and_then(Value::as_array);
    for name in required.into_iter().flatten().filter_map(Value::as_str) {
        let has_value = node.field(name).is_some_and(|field| field.value.value != Part::Null);
        if !has_value {
            wrong.push(Wrong { path: below(name), message: "is missing: write it".to_owned() });
        }
    }
    let is_one_of = schema
        .get("x-kubernetes-validations")
        .is_some_and(|rules| rules.to_string().contains("must name exactly one of"));
    if is_one_of && object.len() != 1 && wrong.len() == before {
        let names = known.map(names).unwrap_or_default();
        wrong.push(Wrong {
            path: path.to_owned(),
            message: format!("must name exactly one of {names}"),
        });
    }
    Value::Object(object)
}

/// Whether the text looks like the name of a header, a label or an annotation.
fn is_shown(name: &str) -> bool {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    name.len() <= 100 && name.bytes().all(is_of_name)
}

/// Problem of an unknown field. The message shows its name only if that looks like a field name.
fn unknown(name: &str, known: Option<&Map<String, Value>>, path: &str) -> Wrong {
    let is_name = name.len() <= 40 && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let path = match (is_name, path) {
        (true, "") => name.to_owned(),
        (true, _) => format!("{path}.{name}"),
        (false, _) => path.to_owned(),
    };
    let holds = if is_name { "is not known" } else { "holds a field that is not known" };
    let names = known.map(names).unwrap_or_default();
    Wrong { path, message: format!("{holds}: there are {names}") }
}

fn names(known: &Map<String, Value>) -> String {
    known.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn one_of(schema: &Value) -> Option<Vec<&str>> {
    Some(schema.get("enum")?.as_array()?.iter().filter_map(Value::as_str).collect())
}

fn kind_of(part: &Part) -> &'static str {
    match part {
        Part::Null => "has no value",
        Part::Bool(_) => "is true or false (as yes, no, on, off, y and n are without quotes)",
        Part::Number(_) => "is a number",
        Part::Text(_) => "is a text",
        Part::List(_) => "is a list",
        Part::Map(_) => "is a mapping",
    }
}

fn instead(expected: &str, found: &Part) -> &'static str {
    match (expected, found) {
        (_, Part::Null) => "write one, or leave the field out",
        ("string", Part::Bool(_) | Part::Number(_)) => "put it in quotes",
        ("string", _) => "write a text",
        ("boolean", _) => "write `true` or `false`, without quotes",
        ("integer", _) => "write a whole number, without quotes",
        ("array", _) => "write a list, with `- ` before each item",
        _ => "write its fields below it, indented",
    }
}
