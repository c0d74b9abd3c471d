//! The `UptimeCheck` resource as written in a manifest.
//!
//! The parts are those of the API's object, [`crd::UptimeCheck`]; the metadata is reduced to the fields used
//! here. [`super::check`] decides whether a check can be run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::crd;
pub(crate) use super::crd::target::without_secrets;
pub use super::crd::{
    DEFAULT_INTERVAL, DEFAULT_TIMEOUT, Expect, KIND, State, UptimeCheckSpec, UptimeCheckStatus,
    target::{DnsTarget, HttpTarget, Method, RecordType, Target, TcpTarget},
};
pub use crate::k8s::crd::API_VERSION;

#[cfg(test)]
mod tests;

/// Namespace of a check whose manifest names none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// Annotation in which `kubectl apply` stores the whole manifest, including its secrets.
pub(super) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A check that is run at a fixed interval, and its status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UptimeCheck {
    /// API version of the resource, [`API_VERSION`].
    pub api_version: String,
    /// Kind of the resource, [`KIND`].
    pub kind: String,
    /// Name of the check, and other metadata.
    pub metadata: Metadata,
    /// Target, timing and expected answer of the check.
    pub spec: UptimeCheckSpec,
    /// Status of the check. Written by bellwether; a status in a manifest is ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<UptimeCheckStatus>,
}

/// Fields of Kubernetes' object metadata that are used here; all other fields are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// A DNS name of at most 253 characters, unique in its namespace.
    pub name: String,
    /// A DNS label of at most 63 characters. Default: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Labels of the check, not interpreted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the check, not interpreted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The API server's id of this object. A manifest in a folder has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The API server's count of changes of the spec. A manifest in a folder has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
}

/// Converts an object of the API. [`Check::new`](super::Check::new) decides whether the result can be run;
/// the schema cannot validate all of it.
impl From<crd::UptimeCheck> for UptimeCheck {
    fn from(object: crd::UptimeCheck) -> Self {
        let crd::UptimeCheck { metadata, spec, status } = object;
        let mut annotations = metadata.annotations.unwrap_or_default();
        annotations.remove(LAST_APPLIED);
        Self {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            metadata: Metadata {
                name: metadata.name.unwrap_or_default(),
                namespace: metadata.namespace,
                labels: metadata.labels.unwrap_or_default(),
                annotations,
                uid: metadata.uid,
                generation: metadata.generation,
            },
            spec,
            status,
        }
    }
}

/// Converts a manifest to the object of the API that it describes.
impl From<UptimeCheck> for crd::UptimeCheck {
    fn from(check: UptimeCheck) -> Self {
        let UptimeCheck { api_version: _, kind: _, metadata, spec, status } = check;
        let some = |map: BTreeMap<String, String>| Some(map).filter(|map| !map.is_empty());
        let mut object = Self::new(&metadata.name, spec);
        object.metadata.namespace = metadata.namespace;
        object.metadata.labels = some(metadata.labels);
        object.metadata.annotations = some(metadata.annotations);
        object.metadata.uid = metadata.uid;
        object.metadata.generation = metadata.generation;
        object.status = status;
        object
    }
}
