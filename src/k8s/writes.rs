//! Writes to Kubernetes by virtue of leadership, each with a precondition that a latecomer fails.
//!
//! | write | what a write of a former leader fails at |
//! | --- | --- |
//! | [`apply`](Writer::apply) with the object as it was seen | its resource version and UID |
//! | [`apply`](Writer::apply) of what was not there | nothing: it is stamped with the fence instead |
//! | [`create`](Writer::create) | that the object exists; what it makes is stamped with the fence |
//! | [`status`](Writer::status) | its resource version and UID |
//! | [`delete`](Writer::delete) | its resource version and UID |
//! | [finalizers](Context::finalized) | its UID, and the list of finalizers as it was seen |
//!
//! An object that carries a later leader's fence than the writer's is not written at all
//! ([`WriteError::StaleFence`]). See `docs/reconcilers.md` for what this leaves open.

use std::fmt::Debug;

use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    authority::is_refused,
    cache::{ApiScope as _, Cached},
    controller::Context,
    explain::{Reason, explain, explain_status},
    fence::{FENCE_ANNOTATION, Fence},
    metrics::Refusals,
};

/// Why a write was not made, or is not known to have been made.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A later leader has written the object: this one's time is over. Nothing was sent.
    #[error("{object} carries fence {found}, and ours is {ours}: a later leader has written it")]
    StaleFence {
        /// Which object.
        object: String,
        /// What it carries.
        found: Fence,
        /// The writer's.
        ours: Fence,
    },
    /// The object is not as it was seen: look again. Nothing changed.
    #[error("{object} has changed since it was read")]
    Conflict {
        /// Which object.
        object: String,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    /// The right to write was over. Whether it took effect, the source says.
    #[error("writing {object}")]
    Refused {
        /// Which object.
        object: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The API server refused, or did not answer.
    #[error("writing {object}: {why}")]
    Api {
        /// Which object.
        object: String,
        /// In words a person can act on.
        why: String,
        /// What the client said.
        source: Box<kube::Error>,
    },
    /// Another object controls it. Nothing was sent.
    #[error("{object} belongs to {owner}: choose another name, or delete it")]
    NotOurs {
        /// Which object.
        object: String,
        /// Whose it is.
        owner: String,
    },
    /// The object has no name, or cannot be written as JSON.
    #[error("{object} cannot be sent: {why}")]
    Malformed {
        /// Which object.
        object: String,
        /// What is wrong with it.
        why: String,
    },
}

impl WriteError {
    /// Whether the same work may succeed later without anybody doing anything.
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

/// What became of a write that is left out where it would change nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It was made.
    Changed,
    /// It would have changed nothing, and was not sent.
    Unchanged,
}

/// Writes objects of one kind, by the right of the reconciler that it is for.
#[derive(Clone, Debug)]
pub struct Writer<K: Cached> {
    api: Api<K>,
    kind: K::DynamicType,
    manager: String,
    fence: Option<Fence>,
    stale: Refusals,
}

impl Context {
    /// What writes objects of that kind: in one namespace, or outside of all.
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
            api: K::Scope::api(self.client().clone(), &kind, namespace),
            kind,
            manager: format!("bellwether-{}", self.controller()),
            fence: self.fence(),
            stale: self.metrics().stale_fence.clone(),
        }
    }
}

impl<K: Cached + Serialize> Writer<K> {
    /// The API it writes by: what is written there has no precondition but the right to write.
    pub fn api(&self) -> &Api<K> {
        &self.api
    }

    /// Who owns the fields that this writes. Default: `bellwether-` and the controller's name.
    #[must_use]
    pub fn field_manager(mut self, manager: impl Into<String>) -> Self {
        self.manager = manager.into();
        self
    }

    /// Brings the fields that `desired` names to what it says, by server-side apply. With the object as it
    /// was seen it fails if that has changed; without, it makes the object if there is none.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may or may not take effect.
    pub async fn apply(&self, desired: &K, observed: Option<&K>) -> Result<K, WriteError> {
        let name = self.name_of(desired)?;
        let mut body = self.body(desired)?;
        let meta = &mut body["metadata"];
        let stamp = match observed {
            Some(observed) => {
                self.refuse_stale(observed)?;
                meta["resourceVersion"] = json!(observed.meta().resource_version);
                meta["uid"] = json!(observed.meta().uid);
                // Left as it is: a new stamp alone would be a write for each object and each leader.
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

    /// Makes an object; it fails if there is one of that name.
    ///
    /// # Errors
    ///
    /// [`WriteError`]: that it exists is an [`Api`](WriteError::Api) error with code 409.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may or may not take effect.
    pub async fn create(&self, mut object: K) -> Result<K, WriteError> {
        if let Some(fence) = self.fence {
            object.annotations_mut().insert(FENCE_ANNOTATION.into(), fence.to_string());
        }
        let params =
            PostParams { field_manager: Some(self.manager.clone()), ..PostParams::default() };
        let answer = self.api.create(&params, &object).await;
        answer.map_err(|error| self.explained(&object, error))
    }

    /// Deletes the object as it was seen. One that is gone already is well.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may or may not take effect.
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

    /// Writes the status of the object as it was seen, by server-side apply, unless it says that already.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may or may not take effect.
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

    /// Carries out these steps (a JSON patch), each of which must find what it tests for, on the list of
    /// finalizers of the object as it was seen. One that is gone already is well.
    ///
    /// Not by its resource version: cleaning up may have changed the object.
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
            // A test has failed: there is nothing else to find fault with where no field is named.
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
                self.stale.count();
                Err(WriteError::StaleFence { object: self.called(observed), found, ours })
            }
            _ => Ok(()),
        }
    }

    /// As it is sent: with the type that server-side apply asks for, without what it refuses.
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

    /// The object in words.
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

/// Whether a webhook or a policy denied it, which does so with any code: that is nobody else's write.
fn is_denied(status: &kube::core::Status) -> bool {
    explain_status(status).reason == Reason::Denied
}

/// How many fields an answer finds fault with.
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
