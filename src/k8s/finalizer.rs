//! Finalizers: clean-up that must succeed before an object is removed.
//!
//! Every write of the list of finalizers contains the object's UID, so that a late write cannot change
//! another object of the same name. Kube-runtime's own helper does not check the UID.

use std::{future::Future, sync::Arc};

use kube::{Resource, ResourceExt as _};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    cache::Cached,
    controller::{Action, Context, ReconcileError},
    writes::WriteError,
};

/// Work that is required for an object with a finalizer.
#[derive(Clone, Debug, PartialEq)]
pub enum Finalize<K> {
    /// The object exists: bring it to the state that its spec describes.
    Apply(Arc<K>),
    /// The object is being deleted: remove what the work has created. The object is removed when this has succeeded.
    Cleanup(Arc<K>),
}

impl Context {
    /// Runs work under a finalizer of this name (`domain/word`): once the work has started for an object, the
    /// object is removed only after [`Finalize::Cleanup`] has succeeded.
    ///
    /// Both parts must be idempotent, and the clean-up must accept that the work was done only in part, or not at all.
    ///
    /// # Errors
    ///
    /// Errors of the work, and errors of writing the finalizer; the object is then reconciled again.
    ///
    /// # Cancel safety
    ///
    /// As the cancel safety of the work.
    pub async fn finalized<K, Fut>(
        &self,
        name: &str,
        object: Arc<K>,
        work: impl FnOnce(Finalize<K>) -> Fut + Send,
    ) -> Result<Action, ReconcileError>
    where
        K: Cached + Serialize,
        K::DynamicType: Default,
        Fut: Future<Output = Result<Action, ReconcileError>> + Send,
    {
        let at = object.finalizers().iter().position(|it| it == name);
        match (at, object.meta().deletion_timestamp.is_some()) {
            (Some(_), false) => work(Finalize::Apply(object)).await,
            (Some(at), true) => {
                let action = work(Finalize::Cleanup(Arc::clone(&object))).await?;
                let path = format!("/metadata/finalizers/{at}");
                let removal = json!([
                    { "op": "test", "path": path, "value": name },
                    { "op": "remove", "path": path },
                ]);
                self.write_finalizers(&*object, removal).await?;
                Ok(action)
            }
            (None, false) => {
                let (all, path) = (object.finalizers(), "/metadata/finalizers");
                let addition = if all.is_empty() {
                    json!([
                        { "op": "test", "path": path, "value": null },
                        { "op": "add", "path": path, "value": [name] },
                    ])
                } else {
                    json!([
                        { "op": "test", "path": path, "value": all },
                        { "op": "add", "path": format!("{path}/-"), "value": name },
                    ])
                };
                self.write_finalizers(&*object, addition).await?;
                // This write is a change of the object, and the run that it causes starts the work.
                Ok(Action::done())
            }
            (None, true) => Ok(Action::done()),
        }
    }

    async fn write_finalizers<K>(&self, seen: &K, steps: Value) -> Result<(), WriteError>
    where
        K: Cached + Serialize + Resource<DynamicType: Default>,
    {
        self.writer::<K>(seen.namespace().as_deref()).finalizers(seen, steps).await
    }
}
