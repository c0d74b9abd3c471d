//! What must be cleaned up before an object may go: kube-runtime's finalizer, with this layer's words.

use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use kube::runtime::{controller, finalizer};
use serde::Serialize;

use super::{
    cache::{ApiScope as _, Cached},
    controller::{Action, Context, ReconcileError},
};

/// What is to be done about an object that has a finalizer.
#[derive(Clone, Debug, PartialEq)]
pub enum Finalize<K> {
    /// It is there: bring it to what its spec says.
    Apply(Arc<K>),
    /// It is being deleted: take away what it left. It goes when this has succeeded.
    Cleanup(Arc<K>),
}

/// An error of the work that passes through kube-runtime.
struct Passing(ReconcileError);

impl fmt::Debug for Passing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Passing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the work failed")
    }
}

impl StdError for Passing {}

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
        let kind = K::DynamicType::default();
        let namespace = object.meta().namespace.clone();
        let api = K::Scope::api(self.client().clone(), &kind, namespace.as_deref());
        // kube-runtime's action cannot be read.
        let action = Mutex::new(Action::done());
        let ended = finalizer::finalizer(&api, name, object, |event| async {
            let event = match event {
                finalizer::Event::Apply(object) => Finalize::Apply(object),
                finalizer::Event::Cleanup(object) => Finalize::Cleanup(object),
            };
            let done = work(event).await.map_err(Passing)?;
            *action.lock().unwrap_or_else(PoisonError::into_inner) = done;
            Ok(controller::Action::await_change())
        })
        .await;
        match ended {
            Ok(_) => Ok(action.into_inner().unwrap_or_else(PoisonError::into_inner)),
            Err(
                finalizer::Error::ApplyFailed(Passing(error))
                | finalizer::Error::CleanupFailed(Passing(error)),
            ) => Err(error),
            Err(error) => Err(error.into()),
        }
    }
}
