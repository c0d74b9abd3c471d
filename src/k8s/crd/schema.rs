//! Shared parts of all schemas: CEL rules, conditions, and the final clean-up.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// Formats that the API server knows; it warns of others.
const FORMATS: &[&str] = &["int32", "int64", "double", "float", "date-time"];

/// A CEL rule on a value: the expression that must hold, and the message for a value that breaks it.
pub(crate) fn rule(holds: &str, message: &str) -> Value {
    json!({"rule": holds, "message": message})
}

/// A CEL rule on an object that concerns one of its fields, named like `.expect.status`.
pub(crate) fn rule_on(field: &str, holds: &str, message: &str) -> Value {
    json!({"rule": holds, "message": message, "fieldPath": field})
}

/// The schema of a list of conditions, with the bounds of Kubernetes' own types.
pub fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "description": "One aspect of the state.",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {
                    "type": "string",
                    "description": "Which aspect, in CamelCase.",
                    "maxLength": 316,
                    "pattern": "^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?\
                                (([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
                },
                "status": {
                    "type": "string",
                    "description": "Whether it holds: True, False or Unknown.",
                    "enum": ["True", "False", "Unknown"],
                },
                "observedGeneration": {
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                    "description": "metadata.generation of the spec that it was made from.",
                },
                "lastTransitionTime": {
                    "type": "string",
                    "format": "date-time",
                    "description": "When `status` last changed.",
                },
                "reason": {
                    "type": "string",
                    "description": "Why, in one word for machines.",
                    "minLength": 1,
                    "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                },
                "message": {
                    "type": "string",
                    "description": "Why, in words for people.",
                    "maxLength": 32768,
                },
            },
        },
    })
}

/// The definition with clean schemas: descriptions in one line, no nullable fields, no formats that the API
/// server does not know.
pub fn tidied(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut definition.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|it| it.open_api_v3_schema.as_mut())
        {
            tidy(schema);
        }
    }
    definition
}

fn tidy(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if let Some(text) = &mut schema.description {
        *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    if let Some(format) = schema.format.take_if(|format| !FORMATS.contains(&format.as_str()))
        && format == "uint32"
    {
        // The API must not accept numbers that the type cannot hold.
        schema.maximum.get_or_insert(f64::from(u32::MAX));
    }
    schema.properties.iter_mut().flat_map(|it| it.values_mut()).for_each(tidy);
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        tidy(values);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => tidy(item),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(tidy),
        None => {}
    }
}
