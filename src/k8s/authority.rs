//! By what right a reconciler acts, and the client that acts only by that right.
//!
//! # Guarantees
//!
//! * A write is handed to the connection only while the right is held, by the node's own clock.
//! * A write in flight is given up when the right ends: its outcome is unknown then, and its
//!   preconditions decide it.
//!
//! # Caveats
//!
//! What has left this process cannot be called back: the API server may carry out a write after the
//! right has ended. [`super::writes`] gives every write a precondition that such a latecomer fails.

use std::{future::Future, time::Duration};

use http::{Method, Request};
use kube::client::{Body, Client};
use tokio_util::sync::CancellationToken;
use tower::{BoxError, service_fn};

use super::metrics::Refusals;
use crate::node::{AuthorityLost, LeaderContext, ShardContext};

/// By what right work is done.
#[derive(Clone, Debug)]
pub enum Authority {
    /// That of the leader.
    Leader(LeaderContext),
    /// That of a shard's owner.
    Shard(ShardContext),
}

impl Authority {
    /// Whether it is held at this moment.
    ///
    /// # Errors
    ///
    /// [`AuthorityLost`] if not.
    pub fn check(&self) -> Result<(), AuthorityLost> {
        match self {
            Self::Leader(ctx) => ctx.check(),
            Self::Shard(ctx) => ctx.check(),
        }
    }

    /// Cancelled when the work should end.
    pub fn token(&self) -> CancellationToken {
        match self {
            Self::Leader(ctx) => ctx.token(),
            Self::Shard(ctx) => ctx.token(),
        }
    }

    /// What is left of it unless it is extended.
    pub fn left(&self) -> Duration {
        match self {
            Self::Leader(ctx) => ctx.authority_left(),
            Self::Shard(ctx) => ctx.authority_left(),
        }
    }

    /// Resolves when it is over. While beats extend it, that is never.
    async fn over(&self) -> AuthorityLost {
        loop {
            if let Err(lost) = self.check() {
                return lost;
            }
            tokio::time::sleep(self.left()).await;
        }
    }
}

/// A write that was not sent, or was given up, because the right to it had ended.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Nothing was sent.
    #[error("refused to {method} {path}")]
    Unsent {
        /// The HTTP method.
        method: Method,
        /// What it was for, without its query.
        path: String,
        /// Which right had ended.
        source: AuthorityLost,
    },
    /// It had been sent. It may or may not have taken effect.
    #[error("gave up waiting for {method} {path}")]
    Abandoned {
        /// The HTTP method.
        method: Method,
        /// What it was for, without its query.
        path: String,
        /// Which right ended.
        source: AuthorityLost,
    },
}

/// Whether an error of the client says that the right to write was over.
pub fn is_refused(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Service(source) if source.is::<Refused>())
}

/// A client that writes only while the right is held. Reads pass.
pub(crate) fn gated(client: &Client, authority: &Authority, refusals: &Refusals) -> Client {
    let namespace = client.default_namespace().to_owned();
    let (client, authority, refusals) = (client.clone(), authority.clone(), refusals.clone());
    let service = service_fn(move |request: Request<Body>| {
        let (client, authority, refusals) = (client.clone(), authority.clone(), refusals.clone());
        async move {
            if is_read(request.method()) {
                return client.send(request).await.map_err(BoxError::from);
            }
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            send_held(&authority, method, path, client.send(request)).await.inspect_err(|error| {
                if error.is::<Refused>() {
                    refusals.count();
                }
            })
        }
    });
    Client::new(service, namespace)
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

async fn send_held<T>(
    authority: &Authority,
    method: Method,
    path: String,
    answer: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, BoxError> {
    if let Err(source) = authority.check() {
        return Err(Refused::Unsent { method, path, source }.into());
    }
    tokio::select! {
        biased;
        // Dropped, the write's outcome is unknown; so it is when authority is lost.
        answer = answer => answer.map_err(BoxError::from),
        // Cancel safe: sleeps and reads.
        source = authority.over() => Err(Refused::Abandoned { method, path, source }.into()),
    }
}
