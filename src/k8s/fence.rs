//! The number by which a later leader's writes to Kubernetes are told from an earlier one's.
//!
//! The API server cannot compare anything in etcd. So each leader draws a number from the cluster's
//! `Election` object when it takes office: `max(term, last + 1)`, by a write that compares the object's
//! resource version. It grows from leader to leader even if etcd was wiped and terms began anew, because
//! it is kept in Kubernetes' own store.
//!
//! # Why a late draw does no harm
//!
//! A leader draws from what it read while it had authority, and a successor draws after that authority has
//! ended. A draw that is delayed until then finds another resource version, and fails.

use std::fmt;

use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
};

use tokio::sync::watch;

use super::{
    crd::election::{Election, ElectionSpec},
    explain::explain,
};
use crate::engine::Term;

/// The annotation that says by which fence an object was last written.
pub const FENCE_ANNOTATION: &str = "bellwether.dev/fence";

/// A draw that loses so often to other writers of the object is given up, to be begun anew.
const DRAWS: u32 = 10;

/// A fence number: grows from leader to leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fence(i64);

impl Fence {
    /// As a number; above 0.
    pub const fn number(self) -> i64 {
        self.0
    }

    /// The fence that an annotation names; none if there is none, or if it is no number.
    pub fn read(object: &impl kube::Resource) -> Option<Self> {
        let number = object.annotations().get(FENCE_ANNOTATION)?.parse().ok()?;
        Some(Self(number))
    }

    /// For tests and scripted APIs: a fence that was drawn elsewhere.
    pub const fn of(number: i64) -> Self {
        Self(number)
    }
}

/// Who draws the fence of a term, and who waits for it.
#[derive(Debug, Default)]
pub(crate) struct Drawn(watch::Sender<Option<(Term, Fence)>>);

impl Drawn {
    /// The fence of this term is known.
    pub(crate) fn tell(&self, term: Term, fence: Fence) {
        self.0.send_replace(Some((term, fence)));
    }

    /// The work that it was drawn for has ended.
    pub(crate) fn withdraw(&self) {
        self.0.send_replace(None);
    }

    /// To wait for it.
    pub(crate) fn awaited(&self) -> Awaited {
        Awaited(self.0.subscribe())
    }
}

/// Waits for the fence of a term.
#[derive(Clone, Debug)]
pub(crate) struct Awaited(watch::Receiver<Option<(Term, Fence)>>);

impl Awaited {
    /// The fence of this term, if it was drawn already and its work goes on.
    pub(crate) fn now(&self, term: Term) -> Option<Fence> {
        self.0.borrow().filter(|(of, _)| *of == term).map(|(_, fence)| fence)
    }

    /// The fence that was drawn for this term.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only waits.
    pub(crate) async fn of(&mut self, term: Term) -> Fence {
        let drawn = self.0.wait_for(|drawn| drawn.is_some_and(|(of, _)| of == term)).await;
        match drawn.ok().and_then(|drawn| *drawn) {
            Some((_, fence)) => fence,
            // Who draws is gone, with the node that both belong to.
            None => std::future::pending().await,
        }
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Where a cluster's `Election` object stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElectionRef {
    /// The namespace of the cluster's pods.
    pub namespace: String,
    /// The cluster's name, as in etcd.
    pub cluster: String,
}

impl ElectionRef {
    /// The object's name: the cluster's, in letters that Kubernetes allows.
    pub fn name(&self) -> String {
        let name: String = self
            .cluster
            .to_lowercase()
            .chars()
            .map(|it| if it.is_ascii_alphanumeric() || it == '.' { it } else { '-' })
            .collect();
        name.trim_matches(|it| it == '-' || it == '.').chars().take(253).collect()
    }

    /// The API that it is kept by.
    pub fn api(&self, client: Client) -> Api<Election> {
        Api::namespaced(client, &self.namespace)
    }
}

impl fmt::Display for ElectionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name())
    }
}

/// No fence could be drawn. Nothing is reconciled without one.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// The API server refused, or did not answer.
    #[error("cannot draw a fence number from election {election}: {why}")]
    Api {
        /// The object.
        election: String,
        /// In words a person can act on.
        why: String,
        /// What the client said.
        source: Box<kube::Error>,
    },
    /// Others kept writing the object.
    #[error(
        "cannot draw a fence number from election {election}: it was written by others {DRAWS} times"
    )]
    Contended {
        /// The object.
        election: String,
    },
    /// The numbers are used up, or somebody wrote one that leaves none.
    #[error(
        "election {election} has the fence {last}, above which there is none: delete the object to begin anew"
    )]
    UsedUp {
        /// The object.
        election: String,
        /// What it has.
        last: i64,
    },
}

/// Draws the fence of a term, creating the object where there is none.
///
/// # Errors
///
/// [`FenceError`]; a number may have been drawn that nobody uses.
///
/// # Cancel safety
///
/// Dropped, a number may have been drawn that nobody uses.
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
            // Not the term: it is told with the leader's name, so that the two always belong together.
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
        let drawn = Drawn::default();
        let mut awaited = drawn.awaited();
        drawn.tell(Term(3), Fence(7));
        let mut of = Box::pin(awaited.of(Term(4)));
        assert!(futures::poll!(&mut of).is_pending());
        drawn.tell(Term(4), Fence(8));
        assert_eq!(of.await, Fence(8));
        // Suspended, and on in the same term: what was drawn before is not taken again.
        drawn.withdraw();
        let mut again = drawn.awaited();
        let mut of = Box::pin(again.of(Term(4)));
        assert!(futures::poll!(&mut of).is_pending());
        drawn.tell(Term(4), Fence(9));
        assert_eq!(of.await, Fence(9));
    }
}
