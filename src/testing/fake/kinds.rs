//! Kinds that the fake serves, and the paths that lead to them.

use std::{collections::BTreeMap, sync::Arc};

use kube::CustomResourceExt;
use serde_json::Value;

use super::{
    builtin,
    failure::{About, Failure},
    schema::Schema,
};
use crate::k8s::cache::{ApiScope, Cached};

/// A kind, and how the API server treats its objects.
#[derive(Clone, Debug)]
#[allow(
    clippy::struct_excessive_bools,
    clippy::struct_field_names,
    reason = "independent facts, named as in the API"
)]
pub(super) struct Kind {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
    pub(super) plural: String,
    pub(super) is_namespaced: bool,
    /// Whether the status is written through a subresource only.
    pub(super) has_status: bool,
    /// Whether a change of the spec counts as a generation.
    pub(super) has_generation: bool,
    /// Whether an update may leave out the resource version.
    pub(super) is_unconditional: bool,
    pub(super) is_custom: bool,
    /// Fields that a selector may name, besides the name and the namespace; `None` allows every field.
    pub(super) selectable: Option<Vec<String>>,
    pub(super) schema: Schema,
}

impl Kind {
    /// The kind of a type that is not in the table of built-in kinds.
    pub(super) fn of<K: Cached>(kind: &K::DynamicType) -> Self {
        let (group, plural) = (K::group(kind).into_owned(), K::plural(kind).into_owned());
        let traits = builtin::traits(&group, &plural);
        Self {
            version: K::version(kind).into_owned(),
            kind: K::kind(kind).into_owned(),
            is_namespaced: K::Scope::IS_NAMESPACED,
            has_status: traits.has_status,
            has_generation: traits.has_generation,
            is_unconditional: true,
            is_custom: false,
            selectable: None,
            schema: builtin::schema(&group, &plural),
            group,
            plural,
        }
    }

    /// The kind of a custom resource, from its definition.
    pub(super) fn of_definition<K: CustomResourceExt>() -> Self {
        let definition = K::crd();
        let resource = K::api_resource();
        let spec = definition.spec;
        let version = spec.versions.into_iter().find(|it| it.name == resource.version);
        let version = version.and_then(|it| serde_json::to_value(it).ok()).unwrap_or_default();
        let fields = version["selectableFields"].as_array().into_iter().flatten();
        let paths = fields.filter_map(|it| it["jsonPath"].as_str());
        Self {
            group: resource.group,
            version: resource.version,
            kind: resource.kind,
            plural: resource.plural,
            is_namespaced: spec.scope == "Namespaced",
            has_status: version.pointer("/subresources/status").is_some(),
            has_generation: true,
            is_unconditional: false,
            is_custom: true,
            selectable: Some(paths.map(|it| it.trim_start_matches('.').to_owned()).collect()),
            schema: Schema::of_definition(&version["schema"]["openAPIV3Schema"]),
        }
    }

    /// Group and version, as objects name them.
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    pub(super) fn about<'a>(&'a self, name: &'a str) -> About<'a> {
        About { group: &self.group, resource: &self.plural, kind: &self.kind, name }
    }

    /// The part of an object that a generation counts changes of.
    pub(super) fn spec(&self, object: &Value) -> Value {
        let mut spec = object.clone();
        if let Value::Object(fields) = &mut spec {
            fields.remove("metadata");
            if self.has_status {
                fields.remove("status");
            }
        }
        spec
    }
}

/// Group, version and plural name of a kind, as paths contain them.
type Address = (String, String, String);

/// All kinds of a fake.
#[derive(Clone, Debug, Default)]
pub(super) struct Kinds(BTreeMap<Address, Arc<Kind>>);

/// Part of an object that a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    Status,
}

/// The objects that a path leads to.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) kind: Arc<Kind>,
    /// Namespace in the path; empty in requests about all namespaces, and for cluster-scoped kinds.
    pub(super) namespace: String,
    /// Name in the path; `None` in requests about a list.
    pub(super) name: Option<String>,
    pub(super) part: Part,
}

impl Kinds {
    pub(super) fn add(&mut self, kind: Kind) {
        let address = (kind.group.clone(), kind.version.clone(), kind.plural.clone());
        self.0.insert(address, Arc::new(kind));
    }

    pub(super) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.0.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// The objects that a path leads to.
    ///
    /// # Errors
    ///
    /// 404 if the path leads to nothing that the fake serves.
    pub(super) fn target(&self, path: &str) -> Result<Target, Failure> {
        self.try_target(path).ok_or_else(|| Failure::not_served(path))
    }

    fn try_target(&self, path: &str) -> Option<Target> {
        let parts: Vec<&str> = path.split('/').filter(|it| !it.is_empty()).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            // A namespace is an object too, with parts of its own.
            ["namespaces", namespace, plural, rest @ ..] if *plural != "status" => {
                (*namespace, [&[*plural][..], rest].concat())
            }
            rest => ("", rest.to_vec()),
        };
        let (plural, rest) = rest.split_first()?;
        let kind = Arc::clone(self.find(group, version, plural)?);
        let (name, part) = match rest {
            [] => (None, Part::Whole),
            [name] => (Some((*name).to_owned()), Part::Whole),
            [name, "status"] if kind.has_status => (Some((*name).to_owned()), Part::Status),
            _ => return None,
        };
        let fits = kind.is_namespaced != namespace.is_empty();
        // A list of a namespaced kind may cover all namespaces.
        let is_of_all = kind.is_namespaced && name.is_none();
        if !(fits || is_of_all) {
            return None;
        }
        Some(Target { kind, namespace: namespace.to_owned(), name, part })
    }
}
