//! Events about objects (`events.k8s.io/v1`): what `kubectl describe` and `kubectl get events` show.
//!
//! kube-runtime's recorder does the work: the same event again within six minutes is counted in a series
//! instead of being written anew. It writes by the reconciler's client, so nothing is said without the
//! right to act.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Resource,
    runtime::events::{Event, Recorder, Reporter},
};

pub use kube::runtime::events::EventType;

use super::explain::{Reason, explain};
use crate::{clock, telemetry::sparing::Sparing};

/// More is cut off: the API takes 1,024 bytes.
const NOTE_MOST: usize = 1_000;

/// Says what happens to objects.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
    controller: String,
    failures: Arc<Sparing<Reason>>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("controller", &self.controller).finish_non_exhaustive()
    }
}

impl Events {
    /// By that client, in the name of a controller and, where it is known, of the pod it runs in.
    pub fn new(client: Client, controller: &str, pod: Option<String>) -> Self {
        let reporter =
            Reporter { controller: format!("bellwether.dev/{controller}"), instance: pod };
        let recorder = Recorder::new(client, reporter);
        Self { recorder, controller: controller.to_owned(), failures: Arc::default() }
    }

    /// Says something that is as it should be: see [`say`](Self::say).
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may or may not be written.
    pub async fn normal<K: Resource<DynamicType: Default>>(
        &self,
        object: &K,
        reason: &str,
        action: &str,
        note: impl Into<String>,
    ) {
        let kind = K::DynamicType::default();
        self.say(object, &kind, EventType::Normal, (reason, action), note).await;
    }

    /// Says something that somebody should look at: see [`say`](Self::say).
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may or may not be written.
    pub async fn warning<K: Resource<DynamicType: Default>>(
        &self,
        object: &K,
        reason: &str,
        action: &str,
        note: impl Into<String>,
    ) {
        let kind = K::DynamicType::default();
        self.say(object, &kind, EventType::Warning, (reason, action), note).await;
    }

    /// Says something about an object: `reason` is one word in CamelCase that says what happened, `action`
    /// one that says what was done, `note` is for people. An event that cannot be written is logged: nothing
    /// hangs on it.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may or may not be written.
    pub async fn say<K: Resource>(
        &self,
        object: &K,
        kind: &K::DynamicType,
        type_: EventType,
        (reason, action): (&str, &str),
        note: impl Into<String>,
    ) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            action: action.to_owned(),
            note: Some(cut(note.into())),
            secondary: None,
        };
        let about: ObjectReference = object.object_ref(kind);
        if let Err(error) = self.recorder.publish(&event, &about).await {
            let error = explain(&error);
            if let Some(left_out) = self.failures.admit(error.reason, clock::boot_now()) {
                tracing::warn!(
                    controller = self.controller, reason, left_out, %error,
                    "an event cannot be written"
                );
            }
        }
    }
}

fn cut(mut note: String) -> String {
    if note.len() > NOTE_MOST {
        let at = (0..=NOTE_MOST).rev().find(|at| note.is_char_boundary(*at)).unwrap_or(0);
        note.truncate(at);
        note.push('…');
    }
    note
}
