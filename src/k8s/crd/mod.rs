//! The custom resource `Election`, in the API group [`GROUP`], and what its schema shares with other resources.
//!
//! The types are the source: their schemas, CEL rules, columns and texts are derived from them, never written
//! by hand. A type can deserialize every object that the API server accepts by its schema.
//!
//! # Guarantees
//!
//! * The schemas are structural and without references, and every list, map and text is bounded: the API
//!   server accepts them, and can estimate the cost of their CEL rules.
//! * No field is nullable, so that no rule must handle `null`. The API server drops a `null`, or replaces it
//!   with the field's default; it rejects a `null` map or list.

pub(crate) mod schema;

#[doc(hidden)]
pub mod condition;
pub mod election;
pub mod value;

pub use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use serde_json::{Value, json};

pub use self::{
    election::{Election, ElectionSpec, ElectionStatus},
    schema::tidied,
};

/// The API group of the resources.
pub const GROUP: &str = "bellwether.dev";
/// Version of the resources in that group.
pub const VERSION: &str = "v1alpha1";
/// Group and version as manifests name them.
pub const API_VERSION: &str = "bellwether.dev/v1alpha1";

/// The definition of `Election`, ready to be applied.
pub fn election() -> CustomResourceDefinition {
    tidied(Election::crd())
}

/// The text, cut to `most` characters, as the API server counts them.
pub(crate) fn cut_to(mut text: String, most: usize) -> String {
    // A character has at least one byte.
    if text.len() > most
        && let Some((at, _)) = text.char_indices().nth(most)
    {
        let last = text[..at].char_indices().next_back().map_or(0, |(at, _)| at);
        text.truncate(last);
        text.push('…');
    }
    text
}

/// A definition as a document, with whole numbers written as integers.
fn document(definition: &CustomResourceDefinition) -> Value {
    let mut document = serde_json::to_value(definition).expect("a definition has only string keys");
    whole_numbers(&mut document);
    document
}

/// Writes `100.0` as `100`: the API's types hold bounds as floats.
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

/// The definitions as one YAML file, with one document each.
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

/// The definitions as JSON for `kubectl`: one as itself, several as a list.
#[doc(hidden)]
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
