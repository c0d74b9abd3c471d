//! The `UptimeCheck` resource as it is written in a manifest.
//!
//! Its parts are those of the API's object, [`crd::UptimeCheck`]; only the metadata is what matters
//! here. Whether a check can be run is decided in [`super::check`].

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

/// The namespace of a check whose manifest names none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// Where `kubectl apply` notes the whole manifest, with all that is secret in it.
pub(super) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A check that is run at a fixed interval, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UptimeCheck {
    /// [`API_VERSION`].
    pub api_version: String,
    /// [`KIND`].
    pub kind: String,
    /// Its name and what belongs to it.
    pub metadata: Metadata,
    /// What is to be checked.
    pub spec: UptimeCheckSpec,
    /// What came of it. Written by bellwether; what a manifest says here is ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<UptimeCheckStatus>,
}

/// The part of Kubernetes' object metadata that matters here; the rest is ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// A DNS name of at most 253 characters, unique in its namespace.
    pub name: String,
    /// A DNS label of at most 63 characters. Default: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Labels, not interpreted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations, not interpreted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The API server's id of this object. A manifest in a folder has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The API server's count of changes of the spec. A manifest in a folder has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
}

/// The check of an object of the API. What it is made from can be run if
/// [`Check::new`](super::Check::new) says so; the schema cannot check all of it.
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

/// The object of the API that the manifest describes.
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
