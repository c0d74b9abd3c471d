//! By what right a reconciler acts, and the client that acts only by that right.
//!
//! # Guarantees
//!
//! * A write is handed to the connection only while the authority holds, by the boot clock. A client of
//!   [`super::client`] asks the authority before each attempt: after a wait that the API server asked for, after a
//!   new token, and after connecting.
//! * A write in flight is given up when the authority ends: its outcome is unknown then, and its
//!   preconditions decide it.
//!
//! # Caveats
//!
//! What has left this process cannot be called back: the API server may carry out a write after the
//! authority has ended. [`super::writes`] gives every write a precondition that such a latecomer fails.
//!
//! A client that was made elsewhere repeats requests by its own rules. Authority is checked before such a client
//! gets the request and while the answer is awaited, not before each of its attempts.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::future::BoxFuture;
use http::{Extensions, Method, Request, Response};
use kube::client::{Body, Client};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tower::{BoxError, Service};

use super::metrics::Refusals;
use crate::node::{AuthorityLost, LeaderContext, ShardContext};

#[cfg(test)]
pub(crate) mod tests;

/// While a write is awaited, its authority is checked at least this often: tokio's timers do not count the
/// time in which the machine is suspended, and the boot clock does.
const CHECKED_EVERY: Duration = Duration::from_millis(50);

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

    /// Resolves when the authority is over; while beats extend it, never. Each poll checks the authority, whatever
    /// woke the task.
    async fn over(&self) -> AuthorityLost {
        let mut slice = pin!(tokio::time::sleep(Duration::ZERO));
        poll_fn(|context| {
            loop {
                if let Err(lost) = self.check() {
                    return Poll::Ready(lost);
                }
                ready!(slice.as_mut().poll(context));
                slice.set(tokio::time::sleep(self.left().min(CHECKED_EVERY)));
            }
        })
        .await
    }
}

/// A write that was not sent, or was given up, because the right to it had ended.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Nothing was sent, or the API server turned away what was sent and did nothing.
    #[error("refused to {method} {path}")]
    Unsent {
        /// The HTTP method.
        method: Method,
        /// What it was for, without its query.
        path: String,
        /// Which right had ended.
        source: AuthorityLost,
    },
    /// The write had been sent. It may or may not have taken effect.
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

/// A request of a client whose work has ended: its [`Context`](super::controller::Context) is not in use any more.
/// Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work that this client was made for has ended")]
pub struct WorkEnded;

/// Whether an error of the client says that the right to write was over.
pub fn is_refused(error: &kube::Error) -> bool {
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |it| it.source())
        .any(|it| it.is::<Refused>() || it.is::<WorkEnded>())
}

/// What a write carries in its extensions: the authority that each attempt is checked against, and whether
/// an attempt may have taken effect. Clones share that.
#[derive(Clone, Debug)]
pub(crate) struct Permit {
    authority: Authority,
    may_have_acted: Arc<AtomicBool>,
}

impl Permit {
    /// Until the client says otherwise, the write may have taken effect: a client that was made elsewhere says
    /// nothing.
    pub(crate) fn new(authority: Authority) -> Self {
        Self { authority, may_have_acted: Arc::new(AtomicBool::new(true)) }
    }

    /// The permit of a request, if its write is gated.
    pub(crate) fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// Whether an attempt may be sent at this moment.
    ///
    /// # Errors
    ///
    /// [`AuthorityLost`] if not.
    pub(crate) fn check(&self) -> Result<(), AuthorityLost> {
        self.authority.check()
    }

    /// An attempt is handed to the connection.
    pub(crate) fn is_sent(&self) {
        self.may_have_acted.store(true, SeqCst);
    }

    /// No attempt was sent, or the server did nothing with all of them.
    pub(crate) fn did_nothing(&self) {
        self.may_have_acted.store(false, SeqCst);
    }

    /// The error of a write that is given up now.
    pub(crate) fn refusal(&self, method: Method, path: String, source: AuthorityLost) -> Refused {
        if self.may_have_acted.load(SeqCst) {
            Refused::Abandoned { method, path, source }
        } else {
            Refused::Unsent { method, path, source }
        }
    }
}

/// A client that writes only while its authority holds, and the task in which `kube` hands its requests on.
/// Reads pass.
///
/// Dropped with all clones of the client, the task ends by itself; [`end`](Self::end) joins it.
#[derive(Debug)]
pub(crate) struct GatedClient {
    client: DebugClient,
    /// Cancelled when the work has ended.
    ended: CancellationToken,
    /// Tracks the task: its service holds a token.
    task: TaskTracker,
}

/// A client that its owner can print: `kube`'s has no `Debug`.
#[derive(Clone)]
pub(crate) struct DebugClient(pub(crate) Client);

impl std::fmt::Debug for DebugClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl GatedClient {
    /// A client whose requests go through `client`.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub(crate) fn new(client: &Client, authority: &Authority, refusals: &Refusals) -> Self {
        let (ended, task) = (CancellationToken::new(), TaskTracker::new());
        let gate = Gate {
            client: client.clone(),
            authority: authority.clone(),
            refusals: refusals.clone(),
            ended: ended.clone(),
            _tracked: task.token(),
        };
        let client = Client::new(gate, client.default_namespace());
        Self { client: DebugClient(client), ended, task }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client.0
    }

    /// Refuses all requests from now on, reads too, and returns when the task has ended. Whatever is left of clones
    /// of the client does not hold it up.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the task ends with the next request, or when the last clone of the client is dropped.
    pub(crate) async fn end(&self) {
        self.ended.cancel();
        // The task looks at the token when a request comes, and ends then.
        let _ = self.client().send(Request::new(Body::empty())).await;
        self.task.close();
        self.task.wait().await;
    }
}

/// The service of a [`GatedClient`].
struct Gate {
    client: Client,
    authority: Authority,
    refusals: Refusals,
    ended: CancellationToken,
    _tracked: TaskTrackerToken,
}

impl Service<Request<Body>> for Gate {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(if self.ended.is_cancelled() { Err(WorkEnded.into()) } else { Ok(()) })
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let client = self.client.clone();
        if is_read(request.method()) {
            return Box::pin(async move { client.send(request).await.map_err(BoxError::from) });
        }
        let (authority, refusals) = (self.authority.clone(), self.refusals.clone());
        Box::pin(async move {
            send_held(&client, authority, request).await.map_err(BoxError::from).inspect_err(
                |error| {
                    if error.downcast_ref().is_some_and(is_refused) {
                        refusals.count();
                    }
                },
            )
        })
    }
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Sends a write while the authority holds.
async fn send_held(
    client: &Client,
    authority: Authority,
    mut request: Request<Body>,
) -> Result<Response<Body>, kube::Error> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    if let Err(source) = authority.check() {
        return Err(refused(Refused::Unsent { method, path, source }));
    }
    let permit = Permit::new(authority);
    request.extensions_mut().insert(permit.clone());
    tokio::select! {
        // The authority comes first: what both timers of a process that was paused are due for is refused.
        biased;
        // Cancel safe: sleeps and reads.
        source = permit.authority.over() => Err(refused(permit.refusal(method, path, source))),
        // Dropped, the outcome of a write that was sent is unknown; so it is when authority is lost.
        answer = client.send(request) => answer,
    }
}

fn refused(refused: Refused) -> kube::Error {
    kube::Error::Service(refused.into())
}
