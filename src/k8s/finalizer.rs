//! What must be cleaned up before an object may go.
//!
//! Every write of the list of finalizers names the object's UID: one that comes late does not meet another
//! object of the same name. kube-runtime's own helper does not ask for that.

use std::{future::Future, sync::Arc};

use kube::{Resource, ResourceExt as _};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    cache::Cached,
    controller::{Action, Context, ReconcileError},
    writes::WriteError,
};

/// What is to be done about an object that has a finalizer.
#[derive(Clone, Debug, PartialEq)]
pub enum Finalize<K> {
    /// It is there: bring it to what its spec says.
    Apply(Arc<K>),
    /// It is being deleted: take away what it left. It goes when this has succeeded.
    Cleanup(Arc<K>),
}

impl Context {
    /// Runs the work under a finalizer of that name (`domain/word`): once the work has been begun for an
    /// object, the object goes only after [`Finalize::Cleanup`] has succeeded.
    ///
    /// Both must be idempotent, and cleaning up must bear that nothing, or only half, was done before.
    ///
    /// # Errors
    ///
    /// Those of the work; and those of writing the finalizer: the object is looked at again.
    ///
    /// # Cancel safety
    ///
    /// As that of the work.
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
                // The work begins with the change that this is.
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
