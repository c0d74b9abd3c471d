//! The custom resource `Election`, in the API group [`GROUP`], and what its schema shares with other resources.
//!
//! The types are the source: their schemas, CEL rules, columns and texts are derived, never written by
//! hand. What the API server accepts by a schema, its type can always read.
//!
//! # Guarantees
//!
//! * Structural, without references, every list, map and text bounded: the API server takes them, and
//!   can tell beforehand what their CEL rules cost.
//! * No field is nullable, so that no rule has to think of it: a `null` is dropped, or replaced by the field's
//!   default; that of a map or a list is refused.

pub(crate) mod schema;

pub mod condition;
pub mod election;
pub mod value;

pub use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use serde_json::{Value, json};

pub use self::{
    election::{Election, ElectionSpec, ElectionStatus},
    schema::{conditions as conditions_schema, tidied},
};

/// The API group of the resources.
pub const GROUP: &str = "bellwether.dev";
/// Their version.
pub const VERSION: &str = "v1alpha1";
/// Group and version as manifests name them.
pub const API_VERSION: &str = "bellwether.dev/v1alpha1";

/// The definition of `Election`, as it is applied.
pub fn election() -> CustomResourceDefinition {
    tidied(Election::crd())
}

/// The text, cut where it has more than `most` characters, as the API server counts them.
pub(crate) fn cut_to(mut text: String, most: usize) -> String {
    // A character has a byte at least.
    if text.len() > most
        && let Some((at, _)) = text.char_indices().nth(most)
    {
        let last = text[..at].char_indices().next_back().map_or(0, |(at, _)| at);
        text.truncate(last);
        text.push('…');
    }
    text
}

/// A definition as a document: whole numbers written as such.
fn document(definition: &CustomResourceDefinition) -> Value {
    let mut document = serde_json::to_value(definition).expect("a definition has only string keys");
    whole_numbers(&mut document);
    document
}

/// The API's types hold bounds as floats; `100.0` is how nobody writes one.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        Value::Number(number) => {
            let whole = number.as_f64().filter(|it| it.fract() == 0.0 && it.abs() < 1e15);
            if let Some(whole) = whole.filter(|_| number.is_f64()) {
                *value = json!(whole as i64);
            }
        }
        _ => {}
    }
}

/// The definitions as one YAML file, a document each.
pub fn yaml(definitions: &[CustomResourceDefinition]) -> String {
    let mut text = String::new();
    for definition in definitions {
        text.push_str("---\n");
        text.push_str(&yaml_document(definition));
    }
    text
}

fn yaml_document(definition: &CustomResourceDefinition) -> String {
    serde_saphyr::to_string(&document(definition)).expect("what JSON can say YAML can")
}

/// The definitions as `kubectl` reads them in JSON: one as itself, several as a list.
pub fn json(definitions: &[CustomResourceDefinition]) -> Value {
    match definitions {
        [one] => document(one),
        several => json!({
            "apiVersion": "v1",
            "kind": "List",
            "items": several.iter().map(document).collect::<Vec<_>>(),
        }),
    }
}
