//! Writes to Kubernetes under the authority of a leader, each with a precondition that a late write fails.
//!
//! | write | precondition that the write of a former leader fails |
//! | --- | --- |
//! | [`apply`](Writer::apply) with the observed object | its resource version and UID |
//! | [`apply`](Writer::apply) of an object that does not exist | none: the object is stamped with the fence instead |
//! | [`create`](Writer::create) | the object must not exist; the new object is stamped with the fence |
//! | [`status`](Writer::status) | its resource version and UID |
//! | [`delete`](Writer::delete) | its resource version and UID |
//! | [finalizers](Context::finalized) | its UID, and the observed list of finalizers |
//!
//! A writer rejects an object with a fence of a later leader ([`WriteError::StaleFence`]). See
//! `docs/reconcilers.md` for the cases that remain open.

use std::fmt::Debug;

use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use prometheus::IntCounter;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    authority::is_refused,
    cache::{ApiScope as _, Cached},
    controller::Context,
    explain::{Reason, explain, explain_status},
    fence::{FENCE_ANNOTATION, Fence},
};
use crate::telemetry::program::program;

/// Reason why a write was not made, or may not have been made.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A later leader has written the object, so the term of this writer is over. The request was not sent.
    #[error("{object} carries fence {found}, and ours is {ours}: a later leader has written it")]
    StaleFence {
        /// Kind and name of the object.
        object: String,
        /// Fence that the object carries.
        found: Fence,
        /// Fence of this writer.
        ours: Fence,
    },
    /// The object differs from the observed one and must be read again. The write had no effect.
    #[error("{object} has changed since it was read")]
    Conflict {
        /// Kind and name of the object.
        object: String,
        /// Error that the API server returned.
        source: Box<kube::Error>,
    },
    /// The authority to write had ended. The source shows whether the write may have taken effect.
    #[error("writing {object}")]
    Refused {
        /// Kind and name of the object.
        object: String,
        /// Error of the client, which contains [`Refused`](super::authority::Refused) or
        /// [`WorkEnded`](super::authority::WorkEnded).
        source: Box<kube::Error>,
    },
    /// The API server rejected the write, or did not answer.
    #[error("writing {object}: {why}")]
    Api {
        /// Kind and name of the object.
        object: String,
        /// Explanation that a person can act on.
        why: String,
        /// Error that the client returned.
        source: Box<kube::Error>,
    },
    /// Another object controls this object. The request was not sent.
    #[error("{object} belongs to {owner}: choose another name, or delete it")]
    NotOurs {
        /// Kind and name of the object.
        object: String,
        /// Kind and name of the controlling owner.
        owner: String,
    },
    /// The object has no name, or cannot be written as JSON.
    #[error("{object} cannot be sent: {why}")]
    Malformed {
        /// Kind and name of the object.
        object: String,
        /// Reason why the object cannot be sent.
        why: String,
    },
}

impl WriteError {
    /// Whether a retry may succeed without a change by a person.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Conflict { .. } => true,
            Self::Api { source, .. } => explain(source).reason.is_transient(),
            Self::StaleFence { .. }
            | Self::Refused { .. }
            | Self::NotOurs { .. }
            | Self::Malformed { .. } => false,
        }
    }
}

/// Result of a write that is skipped if it would change nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// The write was made.
    Changed,
    /// The write would have changed nothing, and was not sent.
    Unchanged,
}

/// Writes objects of one kind, under the authority of one reconciler.
#[derive(Clone, Debug)]
pub struct Writer<K: Cached> {
    api: Api<K>,
    kind: K::DynamicType,
    manager: String,
    fence: Option<Fence>,
    stale: IntCounter,
}

impl Context {
    /// A writer for objects of kind `K`, in one namespace or cluster-scoped.
    pub fn writer<K: Cached + Serialize>(&self, namespace: Option<&str>) -> Writer<K>
    where
        K::DynamicType: Default,
    {
        self.writer_of(K::DynamicType::default(), namespace)
    }

    /// As [`writer`](Self::writer), for a kind that is known only at run time.
    pub fn writer_of<K: Cached + Serialize>(
        &self,
        kind: K::DynamicType,
        namespace: Option<&str>,
    ) -> Writer<K> {
        Writer {
            api: K::Scope::api(self.unfenced_client().clone(), &kind, namespace),
            kind,
            manager: format!("{}-{}", program().name, self.controller()),
            fence: self.fence(),
            stale: self.metrics().stale_fence.clone(),
        }
    }
}

impl<K: Cached + Serialize> Writer<K> {
    /// The API of this writer. Writes through it have no precondition except the authority.
    pub fn unfenced_api(&self) -> &Api<K> {
        &self.api
    }

    /// Sets the field manager of these writes. Default: the names of the program and of the controller, with a dash
    /// between them.
    #[must_use]
    pub fn field_manager(mut self, manager: impl Into<String>) -> Self {
        self.manager = manager.into();
        self
    }

    /// Sets the fields that `desired` contains, by server-side apply. With `observed`, the write fails if the
    /// object has changed since; without it, the write creates the object if it does not exist.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the write may or may not take effect.
    pub async fn apply(&self, desired: &K, observed: Option<&K>) -> Result<K, WriteError> {
        let name = self.name_of(desired)?;
        let mut body = self.body(desired)?;
        let meta = &mut body["metadata"];
        let stamp = match observed {
            Some(observed) => {
                self.refuse_stale(observed)?;
                meta["resourceVersion"] = json!(observed.meta().resource_version);
                meta["uid"] = json!(observed.meta().uid);
                // Keeps an existing stamp: a new stamp alone would cost one write per object and leader.
                Fence::read(observed).or(self.fence)
            }
            None => self.fence,
        };
        if let Some(fence) = stamp {
            meta["annotations"][FENCE_ANNOTATION] = json!(fence.to_string());
        }
        let params = PatchParams::apply(&self.manager).force();
        let answer = self.api.patch(&name, &params, &Patch::Apply(body)).await;
        answer.map_err(|error| self.failed(desired, error))
    }

    /// Creates an object; fails if an object of that name exists.
    ///
    /// # Errors
    ///
    /// [`WriteError`]: an existing object is an [`Api`](WriteError::Api) error with code 409.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the write may or may not take effect.
    pub async fn create(&self, mut object: K) -> Result<K, WriteError> {
        if let Some(fence) = self.fence {
            object.annotations_mut().insert(FENCE_ANNOTATION.into(), fence.to_string());
        }
        let params =
            PostParams { field_manager: Some(self.manager.clone()), ..PostParams::default() };
        let answer = self.api.create(&params, &object).await;
        answer.map_err(|error| self.explained(&object, error))
    }

    /// Deletes the observed object. Succeeds if the object is already gone.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the delete may or may not take effect.
    pub async fn delete(&self, observed: &K) -> Result<(), WriteError> {
        self.refuse_stale(observed)?;
        let name = self.name_of(observed)?;
        let meta = observed.meta();
        let preconditions = Preconditions {
            resource_version: meta.resource_version.clone(),
            uid: meta.uid.clone(),
        };
        let params = DeleteParams::default().preconditions(preconditions);
        match self.api.delete(&name, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(self.failed(observed, error)),
        }
    }

    /// Writes the status of the observed object by server-side apply, unless the object has that status already.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the write may or may not take effect.
    pub async fn status<S: Serialize>(
        &self,
        observed: &K,
        status: &S,
    ) -> Result<Written, WriteError> {
        let malformed = |why: serde_json::Error| WriteError::Malformed {
            object: self.called(observed),
            why: why.to_string(),
        };
        let status = serde_json::to_value(status).map_err(malformed)?;
        let before = serde_json::to_value(observed).map_err(malformed)?;
        if before.get("status").is_some_and(|before| *before == status) {
            return Ok(Written::Unchanged);
        }
        self.refuse_stale(observed)?;
        let name = self.name_of(observed)?;
        let meta = observed.meta();
        let body = json!({
            "apiVersion": K::api_version(&self.kind),
            "kind": K::kind(&self.kind),
            "metadata": { "resourceVersion": meta.resource_version, "uid": meta.uid },
            "status": status,
        });
        let params = PatchParams::apply(&self.manager).force();
        match self.api.patch_status(&name, &params, &Patch::Apply(body)).await {
            Ok(_) => Ok(Written::Changed),
            Err(error) => Err(self.failed(observed, error)),
        }
    }

    /// Applies the steps of a JSON patch, each with its own test, to the list of finalizers of the observed
    /// object. Succeeds if the object is already gone.
    ///
    /// The patch does not test the resource version, because cleaning up may have changed the object.
    pub(super) async fn finalizers(&self, observed: &K, steps: Value) -> Result<(), WriteError> {
        self.refuse_stale(observed)?;
        let name = self.name_of(observed)?;
        let mut patch =
            vec![json!({ "op": "test", "path": "/metadata/uid", "value": observed.uid() })];
        patch.extend(steps.as_array().into_iter().flatten().cloned());
        let patch = serde_json::from_value(Value::Array(patch)).map_err(|why| {
            WriteError::Malformed { object: self.called(observed), why: why.to_string() }
        })?;
        let params =
            PatchParams { field_manager: Some(self.manager.clone()), ..PatchParams::default() };
        match self.api.patch(&name, &params, &Patch::<()>::Json(patch)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            // A test of the patch has failed: any other 422 names a field.
            Err(kube::Error::Api(status))
                if status.code == 422 && causes(&status) == 0 && !is_denied(&status) =>
            {
                let (object, source) = (self.called(observed), Box::new(kube::Error::Api(status)));
                Err(WriteError::Conflict { object, source })
            }
            Err(error) => Err(self.failed(observed, error)),
        }
    }

    fn refuse_stale(&self, observed: &K) -> Result<(), WriteError> {
        match (Fence::read(observed), self.fence) {
            (Some(found), Some(ours)) if ours < found => {
                self.stale.inc();
                Err(WriteError::StaleFence { object: self.called(observed), found, ours })
            }
            _ => Ok(()),
        }
    }

    /// Body of the request: with the type that server-side apply requires, without the fields that it rejects.
    fn body(&self, object: &K) -> Result<Value, WriteError> {
        let mut body = serde_json::to_value(object).map_err(|why| WriteError::Malformed {
            object: self.called(object),
            why: why.to_string(),
        })?;
        body["apiVersion"] = json!(K::api_version(&self.kind));
        body["kind"] = json!(K::kind(&self.kind));
        if let Some(meta) = body["metadata"].as_object_mut() {
            for field in
                ["managedFields", "resourceVersion", "uid", "generation", "creationTimestamp"]
            {
                meta.remove(field);
            }
        }
        Ok(body)
    }

    fn name_of(&self, object: &K) -> Result<String, WriteError> {
        object.meta().name.clone().filter(|name| !name.is_empty()).ok_or_else(|| {
            let why = "it has no metadata.name".to_owned();
            WriteError::Malformed { object: self.called(object), why }
        })
    }

    /// Kind and name of the object.
    fn called(&self, object: &K) -> String {
        let kind = K::kind(&self.kind).to_lowercase();
        format!("{kind} {}", super::key::ObjectKey::of(object))
    }

    fn failed(&self, object: &K, error: kube::Error) -> WriteError {
        match &error {
            kube::Error::Api(status) if status.code == 409 && !is_denied(status) => {
                WriteError::Conflict { object: self.called(object), source: Box::new(error) }
            }
            _ => self.explained(object, error),
        }
    }

    fn explained(&self, object: &K, error: kube::Error) -> WriteError {
        let object = self.called(object);
        if is_refused(&error) {
            return WriteError::Refused { object, source: Box::new(error) };
        }
        WriteError::Api { object, why: explain(&error).to_string(), source: Box::new(error) }
    }
}

/// Whether a webhook or a policy rejected the write. They may use any code, so a 409 of theirs is no conflict.
fn is_denied(status: &kube::core::Status) -> bool {
    explain_status(status).reason == Reason::Denied
}

/// Number of causes (fields) in an error status.
fn causes(status: &kube::core::Status) -> usize {
    status.details.as_ref().map_or(0, |details| details.causes.len())
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn what_somebody_must_mend_first_is_not_transient() {
        let is_transient = |code: u16, reason: &str| {
            let status = Status { code, reason: reason.to_owned(), ..Status::default() };
            let source = Box::new(kube::Error::Api(Box::new(status)));
            WriteError::Api { object: String::new(), why: String::new(), source }.is_transient()
        };
        assert!(is_transient(503, "ServiceUnavailable") && is_transient(429, "TooManyRequests"));
        assert!(!is_transient(422, "Invalid") && !is_transient(403, "Forbidden"));
    }
}
