//! Owned objects, which a controller applies and which are deleted with their owner.
//!
//! Kubernetes' garbage collector deletes objects whose owners are gone. A controller that
//! [`owns`](super::controller::Controller::owns) the kind is notified of every change of them.

use kube::{Resource, ResourceExt as _};
use serde::Serialize;

use super::{
    ObjectKey,
    cache::Cached,
    controller::Context,
    writes::{WriteError, Written},
};

impl Context {
    /// Applies `desired` as an object of `owner`: sets an owner reference, and the owner's namespace if
    /// `desired` has none. If a cache of this process has the object, the write fails if the object has
    /// changed since, as [`Writer::apply`](super::writes::Writer::apply) describes.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; [`WriteError::NotOurs`] if another owner controls the object.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the write may or may not take effect.
    pub async fn apply_owned<O, C>(&self, owner: &O, mut desired: C) -> Result<C, WriteError>
    where
        O: Resource<DynamicType: Default>,
        C: Cached + Serialize + Resource<DynamicType: Default>,
    {
        let meta = desired.meta_mut();
        if meta.namespace.is_none() {
            meta.namespace.clone_from(&owner.meta().namespace);
        }
        let Some(reference) = owner.controller_owner_ref(&O::DynamicType::default()) else {
            let object = ObjectKey::of(&desired).to_string();
            let why = "its owner was not read from the API: it has no name or no UID".to_owned();
            return Err(WriteError::Malformed { object, why });
        };
        let uid = reference.uid.clone();
        let references = meta.owner_references.get_or_insert_default();
        references.retain(|it| it.uid != uid);
        references.push(reference);
        let seen = self.seen(&desired);
        if let Some(seen) = &seen
            && let Some(other) =
                seen.owner_references().iter().find(|it| it.controller == Some(true))
            && other.uid != uid
        {
            return Err(WriteError::NotOurs {
                object: ObjectKey::of(&desired).to_string(),
                owner: format!("{} {}", other.kind.to_lowercase(), other.name),
            });
        }
        let writer = self.writer::<C>(desired.namespace().as_deref());
        writer.apply(&desired, seen.as_deref()).await
    }

    /// Writes the status of the observed object, unless the object has that status already: as
    /// [`Writer::status`](super::writes::Writer::status).
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the write may or may not take effect.
    pub async fn write_status<K>(
        &self,
        seen: &K,
        status: &(impl Serialize + Sync),
    ) -> Result<Written, WriteError>
    where
        K: Cached + Serialize + Resource<DynamicType: Default>,
    {
        self.writer::<K>(seen.namespace().as_deref()).status(seen, status).await
    }
}
