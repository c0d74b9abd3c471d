//! Checks of the API server before it accepts a write.

use serde_json::Value;

use super::{
    failure::{About, Failure},
    form::text,
    kinds::{Kind, Target},
    writing::{By, Write},
};

/// Longest name of an object, in characters.
const LONGEST_NAME: usize = 253;

pub(super) fn check_version(
    kind: &Kind,
    about: &About<'_>,
    old: &Value,
    asked: &str,
    by: &By,
) -> Result<(), Failure> {
    if asked.is_empty() || asked == "0" {
        if kind.is_unconditional || !matches!(by, By::Update) {
            return Ok(());
        }
        let why = "Invalid value: 0: must be specified for an update";
        let about = About { kind: about.resource, ..*about };
        return Err(about.invalid("FieldValueInvalid", "metadata.resourceVersion", why));
    }
    if asked == text(old, "resourceVersion") { Ok(()) } else { Err(about.changed()) }
}

pub(super) fn check_uid(
    about: &About<'_>,
    old: &Value,
    asked: &str,
    by: &By,
) -> Result<(), Failure> {
    let found = text(old, "uid");
    if asked.is_empty() || asked == found {
        return Ok(());
    }
    if matches!(by, By::Update) {
        return Err(about.another_uid(asked, found));
    }
    let why = format!("Invalid value: {asked:?}: field is immutable");
    Err(about.invalid("FieldValueInvalid", "metadata.uid", &why))
}

pub(super) fn check_type(kind: &Kind, object: &Value) -> Result<(), Failure> {
    if !object.is_object() {
        return Err(Failure::bad_request("the body of the request is not an object"));
    }
    let expected = kind.api_version();
    let given = object["apiVersion"].as_str().unwrap_or(&expected);
    if given != expected {
        return Err(Failure::bad_request(format!(
            "the API version in the data ({given}) does not match the expected API version ({expected})"
        )));
    }
    let given = object["kind"].as_str().unwrap_or(&kind.kind);
    if given != kind.kind {
        return Err(Failure::bad_request(format!(
            "the kind in the data ({given}) does not match the expected kind ({})",
            kind.kind
        )));
    }
    Ok(())
}

pub(super) fn check_namespace(target: &Target, object: &Value) -> Result<(), Failure> {
    let given = text(object, "namespace");
    if target.kind.is_namespaced && target.namespace.is_empty() {
        return Err(Failure::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        ));
    }
    if given.is_empty() || given == target.namespace {
        return Ok(());
    }
    Err(Failure::bad_request(
        "the namespace of the provided object does not match the namespace sent on the request",
    ))
}

pub(super) fn check_apply(
    target: &Target,
    configuration: &Value,
    write: &Write,
) -> Result<(), Failure> {
    if write.manager.is_empty() {
        let about = About { group: "", resource: "", kind: "PatchOptions.meta.k8s.io", name: "" };
        let why = "Required value: is required for apply patch";
        return Err(about.invalid("FieldValueRequired", "fieldManager", why));
    }
    check_type(&target.kind, configuration)?;
    for (field, expected) in
        [("apiVersion", target.kind.api_version()), ("kind", target.kind.kind.clone())]
    {
        if configuration[field].is_null() {
            let message = format!("{field} must be set in an apply patch, here to {expected}");
            return Err(Failure::bad_request(message));
        }
    }
    if configuration["metadata"].get("managedFields").is_some_and(|it| !it.is_null()) {
        return Err(Failure::bad_request("metadata.managedFields must be nil"));
    }
    check_namespace(target, configuration)?;
    let (given, name) = (text(configuration, "name"), target.name.as_deref().unwrap_or_default());
    if given.is_empty() || given == name {
        return Ok(());
    }
    Err(Failure::bad_request(format!(
        "the name of the object ({given}) does not match the name on the URL ({name})"
    )))
}

pub(super) fn check_name(kind: &Kind, name: &str) -> Result<(), Failure> {
    let is_inner = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit();
    let is_label = |label: &str| {
        label.starts_with(is_inner)
            && label.ends_with(is_inner)
            && label.chars().all(|it| is_inner(it) || it == '-')
    };
    // Names of roles may contain any character that a path may contain.
    let is_role = kind.group == "rbac.authorization.k8s.io";
    if is_role || (name.len() <= LONGEST_NAME && name.split('.').all(is_label)) {
        return Ok(());
    }
    let why = format!(
        "Invalid value: {name:?}: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
         characters, '-' or '.', and must start and end with an alphanumeric character"
    );
    Err(kind.about(name).invalid("FieldValueInvalid", "metadata.name", &why))
}
