//! Fence numbers, which let Kubernetes writes of a later leader be distinguished from those of an earlier one.
//!
//! The API server cannot compare a value of the store. So each leader draws a number from the cluster's `Election`
//! object when it takes office: `max(term, last + 1)`, by a write that compares the object's resource
//! version. The number grows from leader to leader, even if the store was wiped and terms restarted at 1, because
//! Kubernetes' own store holds it.
//!
//! # Late draws are harmless
//!
//! A leader draws from an object that it read while it had authority, and a successor draws after that
//! authority has ended. A draw that is delayed until then finds another resource version, and fails.

use std::fmt;

use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
};
use prometheus::IntGauge;
use tokio::sync::watch;

use super::{
    crd::election::{Election, ElectionSpec},
    explain::explain,
};
use crate::{engine::Term, metrics::Build};

/// Annotation with the fence that an object was last written under.
pub const FENCE_ANNOTATION: &str = "bellwether.dev/fence";

/// After this many conflicts with other writers of the object, a draw returns an error, and the leader task
/// is started again.
const DRAWS: u32 = 10;

/// A fence number, which grows from leader to leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fence(i64);

impl Fence {
    /// The fence as a number above 0.
    pub const fn number(self) -> i64 {
        self.0
    }

    /// The fence that an object's annotation contains; `None` if the annotation is absent or not a number.
    pub fn read(object: &impl kube::Resource) -> Option<Self> {
        let number = object.annotations().get(FENCE_ANNOTATION)?.parse().ok()?;
        Some(Self(number))
    }

    /// Creates a fence from a number that was drawn elsewhere, for tests and scripted APIs.
    pub const fn of(number: i64) -> Self {
        Self(number)
    }
}

/// The fence of the current term, shared between the task that draws it and the tasks that wait for it.
#[derive(Debug)]
pub(crate) struct Drawn {
    fence: watch::Sender<Option<(Term, Fence)>>,
    shown: IntGauge,
}

/// Makes the metric that shows the fence.
pub(crate) fn metric(b: &Build) -> IntGauge {
    let help = "The fence number of this node's writes to Kubernetes while it leads, else 0.";
    b.gauge("bellwether_fence", help)
}

impl Drawn {
    /// Creates a channel without a fence. The metric `shown` follows the fence.
    pub(crate) fn new(shown: IntGauge) -> Self {
        Self { fence: watch::Sender::default(), shown }
    }

    /// Publishes the fence of this term.
    pub(crate) fn tell(&self, term: Term, fence: Fence) {
        self.fence.send_replace(Some((term, fence)));
        self.shown.set(fence.number());
    }

    /// Withdraws the fence, because the work that it was drawn for has ended.
    pub(crate) fn withdraw(&self) {
        self.shown.set(0);
        self.fence.send_replace(None);
    }

    /// Subscribes to the fence.
    pub(crate) fn awaited(&self) -> Awaited {
        Awaited(self.fence.subscribe())
    }
}

/// Waits for the fence of a term.
#[derive(Clone, Debug)]
pub(crate) struct Awaited(watch::Receiver<Option<(Term, Fence)>>);

impl Awaited {
    /// The fence of this term, if it is drawn and not withdrawn.
    pub(crate) fn now(&self, term: Term) -> Option<Fence> {
        self.0.borrow().filter(|(of, _)| *of == term).map(|(_, fence)| fence)
    }

    /// Waits for the fence of this term.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: only waits.
    pub(crate) async fn of(&mut self, term: Term) -> Fence {
        let drawn = self.0.wait_for(|drawn| drawn.is_some_and(|(of, _)| of == term)).await;
        match drawn.ok().and_then(|drawn| *drawn) {
            Some((_, fence)) => fence,
            // The sender was dropped together with the node; this task belongs to the same node.
            None => std::future::pending().await,
        }
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Namespace and name of a cluster's `Election` object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElectionRef {
    /// Namespace of the cluster's pods.
    pub namespace: String,
    /// Name of the cluster in its store.
    pub cluster: String,
}

impl ElectionRef {
    /// Name of the object: the cluster's name, in characters that Kubernetes allows.
    pub fn name(&self) -> String {
        let name: String = self
            .cluster
            .to_lowercase()
            .chars()
            .map(|it| if it.is_ascii_alphanumeric() || it == '.' { it } else { '-' })
            .collect();
        name.trim_matches(|it| it == '-' || it == '.').chars().take(253).collect()
    }

    /// API for the `Election` objects of this namespace.
    pub fn api(&self, client: Client) -> Api<Election> {
        Api::namespaced(client, &self.namespace)
    }
}

impl fmt::Display for ElectionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name())
    }
}

/// No fence could be drawn. Without a fence the leader reconciles nothing.
#[derive(Debug, thiserror::Error)]
#[doc(hidden)]
pub enum FenceError {
    /// The API server rejected the request, or did not answer.
    #[error("cannot draw a fence number from election {election}: {why}")]
    Api {
        /// Namespace and name of the `Election`.
        election: String,
        /// Explanation that a person can act on.
        why: String,
        /// Error that the client returned.
        source: Box<kube::Error>,
    },
    /// Other writers changed the object at each attempt.
    #[error(
        "cannot draw a fence number from election {election}: it was written by others {DRAWS} times"
    )]
    Contended {
        /// Namespace and name of the `Election`.
        election: String,
    },
    /// The fence numbers are used up, or another client wrote the largest possible one.
    #[error(
        "election {election} has the fence {last}, above which there is none: delete the object to begin again"
    )]
    UsedUp {
        /// Namespace and name of the `Election`.
        election: String,
        /// Fence that the object has.
        last: i64,
    },
}

/// Draws the fence of a term, and creates the `Election` object if it does not exist.
///
/// # Errors
///
/// [`FenceError`]; a number may have been drawn that no leader uses.
///
/// # Cancel safety
///
/// If the future is dropped, a number may have been drawn that no leader uses.
#[doc(hidden)]
pub async fn draw(
    client: &Client,
    election: &ElectionRef,
    term: Term,
) -> Result<Fence, FenceError> {
    let api = election.api(client.clone());
    let failed = |source: kube::Error| FenceError::Api {
        election: election.to_string(),
        why: explain(&source).to_string(),
        source: Box::new(source),
    };
    for _ in 0..DRAWS {
        let found = if let Some(found) = api.get_opt(&election.name()).await.map_err(failed)? {
            found
        } else {
            let spec = ElectionSpec { cluster: election.cluster.clone() };
            let new = Election::new(&election.name(), spec);
            match api.create(&PostParams::default(), &new).await {
                Ok(made) => made,
                Err(kube::Error::Api(status)) if status.code == 409 => continue,
                Err(error) => return Err(failed(error)),
            }
        };
        let last = found.status.as_ref().and_then(|status| status.fence).unwrap_or(0);
        let next = last
            .checked_add(1)
            .ok_or_else(|| FenceError::UsedUp { election: election.to_string(), last })?
            .max(term.0);
        let patch = serde_json::json!({
            "metadata": { "resourceVersion": found.resource_version() },
            // Without the term: `ElectionTask` writes it with the leader's name, so that the two always
            // belong together.
            "status": { "fence": next },
        });
        let name = election.name();
        match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => return Ok(Fence(next)),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(FenceError::Contended { election: election.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_fence_of_another_term_is_not_taken_for_this_ones() {
        let drawn = Drawn::new(metric(&Build::default()));
        let mut awaited = drawn.awaited();
        drawn.tell(Term(3), Fence(7));
        let mut of = Box::pin(awaited.of(Term(4)));
        assert!(futures::poll!(&mut of).is_pending());
        drawn.tell(Term(4), Fence(8));
        assert_eq!(of.await, Fence(8));
        // Work is suspended and resumes in the same term: the fence that was drawn before is not used again.
        drawn.withdraw();
        let mut again = drawn.awaited();
        let mut of = Box::pin(again.of(Term(4)));
        assert!(futures::poll!(&mut of).is_pending());
        drawn.tell(Term(4), Fence(9));
        assert_eq!(of.await, Fence(9));
    }
}
