//! Events about objects (`events.k8s.io/v1`), shown by `kubectl describe` and `kubectl get events`.
//!
//! This module wraps kube-runtime's recorder: if an event repeats within six minutes, the recorder counts it
//! in a series instead of creating another one. Reconcilers send events by their own client, so no event is
//! sent without authority.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Resource,
    runtime::events::{Event, Recorder, Reporter},
};

pub use kube::runtime::events::EventType;

use super::{
    crd::GROUP,
    explain::{Reason, explain},
};
use crate::{
    clock,
    telemetry::{program::program, sparing::Sparing},
};

/// Longest note in bytes; the rest is cut off. The API accepts 1,024 bytes.
const NOTE_MOST: usize = 1_000;

/// Sends events about objects.
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
    /// Creates a publisher with a client, the name of a controller and, if known, the name of its pod.
    pub fn new(client: Client, controller: &str, pod: Option<String>) -> Self {
        // The API wants a domain before the slash. The name of a program is one.
        let domain = match program().name {
            "bellwether" => GROUP,
            name => name,
        };
        let reporter = Reporter { controller: format!("{domain}/{controller}"), instance: pod };
        let recorder = Recorder::new(client, reporter);
        Self { recorder, controller: controller.to_owned(), failures: Arc::default() }
    }

    /// Sends an event of type `Normal`: see [`say`](Self::say).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the event may or may not be written.
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

    /// Sends an event of type `Warning`, about a state that needs attention: see [`say`](Self::say).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the event may or may not be written.
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

    /// Sends an event about an object. `reason` is one CamelCase word for the cause, `action` one for the
    /// action taken, and `note` is for people. A failed event is only logged, because no work depends on it.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the event may or may not be written.
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
