//! Names that at most one node in the whole cluster holds: claimed by a compare-and-set, on the node's
//! lease.

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    env::Env,
    error::StateError,
    guarded::{self, Attempt, Failed, Marker, Place, Policy, Write},
    session::Session,
};
use crate::{
    engine::{LeaseId, NodeId, Revision},
    store::{StoreError, values},
};

/// Outcome of an attempt to claim a name.
#[derive(Debug)]
pub enum Claimed {
    /// This node holds the name now: the name was free, or this node's already.
    Won(Claim),
    /// Another node holds the name.
    Taken {
        /// Node that holds the name; `None` if the value of the claim's key is not a node id.
        by: Option<NodeId>,
    },
}

/// A claimed name. Dropping this value does not release the name; the claim ends with the node's session.
#[derive(Debug)]
pub struct Claim {
    env: Box<Env>,
    session: watch::Receiver<Option<Session>>,
    name: Arc<str>,
    key: Vec<u8>,
    lease: LeaseId,
    marker: Arc<Marker>,
    revision: Revision,
}

impl Claim {
    /// Name that was claimed.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Revision of the claim. The revision grows from holder to holder: a fencing token for effects under
    /// the claim.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Whether the session that the claim belongs to is still the node's, as far as the node knows.
    pub fn is_live(&self) -> bool {
        self.session.borrow().as_ref().map(|session| session.lease) == Some(self.lease)
    }

    /// Releases the claimed name.
    ///
    /// # Errors
    ///
    /// [`StateError`]. Until a release succeeds, or the session ends, the name may stay claimed.
    pub async fn release(self) -> Result<(), StateError> {
        let (store, timeout) = (self.env.store.as_ref(), self.env.call_timeout);
        let guard = || Some(None);
        let done = guarded::write(
            store,
            guard,
            Place { key: &self.key, marker: Some(&self.marker) },
            self.revision,
            &Write::Delete,
            Policy::Expect,
            timeout,
        );
        match done.await {
            // `Changed`: the claim ended with its session, and another node may hold the name by now.
            Ok(_) | Err(Failed::Changed(_) | Failed::GuardLost) => Ok(()),
            Err(Failed::Store(source) | Failed::Unknown(source)) => {
                Err(StateError::of_write(format!("release {:?}", self.name), source))
            }
        }
    }
}

pub(crate) async fn claim(
    env: &Env,
    id: NodeId,
    session: watch::Receiver<Option<Session>>,
    name: &str,
) -> Result<Claimed, StateError> {
    let key = env.keys.claim(name).map_err(|source| StateError::of_key(name, source))?;
    let Session { lease, marker } = session.borrow().clone().ok_or(StateError::NoLease)?;
    let write = Write::Put { value: values::encode_id(id), lease: Some(lease) };
    let (store, timeout) = (env.store.as_ref(), env.call_timeout);
    let won = |revision| {
        let (env, session) = (Box::new(env.clone()), session.clone());
        let (key, marker) = (key.clone(), Arc::clone(&marker));
        Claimed::Won(Claim { env, session, name: name.into(), key, lease, marker, revision })
    };
    let place = Place { key: &key, marker: Some(&marker) };
    let attempt = loop {
        let (known, late) = (Revision(0), place.late(Revision(0), &write));
        match guarded::attempt(store, None, &key, known, &write, late, timeout).await {
            // Another name was released meanwhile, and its delete moved the marker: send the claim again.
            Ok(Attempt::Settled) => (),
            attempt => break attempt,
        }
    };
    match attempt {
        Ok(Attempt::Done { revision, .. }) => Ok(won(revision)),
        // This node's already: claimed before, or by an earlier copy of this request whose answer was lost.
        Ok(Attempt::Changed(Some(kv))) if kv.lease == Some(lease) => Ok(won(kv.modified)),
        Ok(Attempt::Changed(found)) => {
            let by = found.and_then(|kv| values::decode_id(&kv.value));
            Ok(Claimed::Taken { by })
        }
        Ok(Attempt::GuardLost | Attempt::Settled) | Err(StoreError::LeaseNotFound) => {
            Err(StateError::NoLease)
        }
        Err(source) => Err(StateError::of_write(format!("claim {name:?}"), source)),
    }
}
