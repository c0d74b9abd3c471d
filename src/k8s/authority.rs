//! The authority that a reconciler acts under, and a client that writes only while that authority holds.
//!
//! # Guarantees
//!
//! * A write is handed to the connection only while the authority holds by the boot clock. A client of
//!   [`super::client`] checks the authority before each attempt: after a wait that the API server asked for,
//!   after a new token, and after connecting.
//! * The gate stops waiting for a write in flight when the authority ends. The outcome of that write is then
//!   unknown; its preconditions decide whether it takes effect.
//!
//! # Caveats
//!
//! A request that has left this process cannot be called back: the API server may carry out a write after the
//! authority has ended. [`super::writes`] gives every write a precondition that such a late write fails.
//!
//! A client that was made elsewhere retries requests by its own rules. The gate checks the authority before
//! that client gets the request and while it waits for the answer, not before each attempt of that client.

use std::{
    future::poll_fn,
    ops::Deref,
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
use prometheus::IntCounter;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tower::{BoxError, Service};

use crate::{
    causes::causes,
    node::{AuthorityLost, FollowerContext, LeaderContext, ShardContext},
};

#[cfg(test)]
pub(crate) mod tests;

/// While a write is in flight, its authority is checked at least this often. Tokio's timers do not count the
/// time in which the machine is suspended; the boot clock does.
const CHECKED_EVERY: Duration = Duration::from_millis(50);

/// Authority that work is done under.
#[derive(Clone, Debug)]
pub enum Authority {
    /// Authority of the elected leader.
    Leader(LeaderContext),
    /// Authority of the owner of a shard.
    Shard(ShardContext),
}

impl Deref for Authority {
    type Target = FollowerContext;

    fn deref(&self) -> &FollowerContext {
        match self {
            Self::Leader(ctx) => ctx,
            Self::Shard(ctx) => ctx,
        }
    }
}

impl Authority {
    /// Checks that the authority is held at this moment.
    ///
    /// # Errors
    ///
    /// [`AuthorityLost`] if the authority is not held.
    pub fn check(&self) -> Result<(), AuthorityLost> {
        match self {
            Self::Leader(ctx) => ctx.check(),
            Self::Shard(ctx) => ctx.check(),
        }
    }

    /// Time until the authority ends, unless it is extended.
    pub fn left(&self) -> Duration {
        match self {
            Self::Leader(ctx) => ctx.authority_left(),
            Self::Shard(ctx) => ctx.authority_left(),
        }
    }

    /// Resolves when the authority has ended, and never while beats extend it. Each poll checks the
    /// authority, for whichever reason the task was woken.
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

/// A write that was not sent, or whose answer was not awaited, because its authority had ended.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The request was not sent, or the API server rejected it without an effect.
    #[error("refused to {method} {path}")]
    Unsent {
        /// HTTP method of the request.
        method: Method,
        /// Path of the request, without the query.
        path: String,
        /// The authority that had ended.
        source: AuthorityLost,
    },
    /// The write had been sent. The write may or may not have taken effect.
    #[error("gave up waiting for {method} {path}")]
    Abandoned {
        /// HTTP method of the request.
        method: Method,
        /// Path of the request, without the query.
        path: String,
        /// The authority that ended.
        source: AuthorityLost,
    },
}

/// A request of a client whose work has ended: its [`Context`](super::controller::Context) is not in use any
/// more. The request was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work that this client was made for has ended")]
pub struct WorkEnded;

/// Whether an error of the client means that the authority, or the work itself, had ended.
pub fn is_refused(error: &kube::Error) -> bool {
    causes(error).any(|it| it.is::<Refused>() || it.is::<WorkEnded>())
}

/// Extension of a write request: the authority that each attempt is checked against, and whether an attempt
/// may have taken effect. Clones share this state.
#[derive(Clone, Debug)]
pub(crate) struct Permit {
    authority: Authority,
    may_have_acted: Arc<AtomicBool>,
}

impl Permit {
    /// A new permit assumes that the write may have taken effect, because a client that was made elsewhere
    /// never calls [`did_nothing`](Self::did_nothing).
    pub(crate) fn new(authority: Authority) -> Self {
        Self { authority, may_have_acted: Arc::new(AtomicBool::new(true)) }
    }

    /// The permit of a request, if its write is gated.
    pub(crate) fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// Checks that an attempt may be sent at this moment.
    ///
    /// # Errors
    ///
    /// [`AuthorityLost`] if the authority is not held.
    pub(crate) fn check(&self) -> Result<(), AuthorityLost> {
        self.authority.check()
    }

    /// Notes that an attempt is handed to the connection.
    pub(crate) fn is_sent(&self) {
        self.may_have_acted.store(true, SeqCst);
    }

    /// Notes that no attempt was sent, or that the server rejected all of them without an effect.
    pub(crate) fn did_nothing(&self) {
        self.may_have_acted.store(false, SeqCst);
    }

    /// The error of a write that is abandoned now.
    pub(crate) fn refusal(&self, method: Method, path: String, source: AuthorityLost) -> Refused {
        if self.may_have_acted.load(SeqCst) {
            Refused::Abandoned { method, path, source }
        } else {
            Refused::Unsent { method, path, source }
        }
    }
}

/// A client that writes only while its authority holds, and the task in which `kube` forwards its requests.
/// Reads always pass.
///
/// The task ends by itself when all clones of the client are dropped; [`end`](Self::end) waits for the task.
#[derive(Debug)]
pub(crate) struct GatedClient {
    client: DebugClient,
    /// Cancelled when the work has ended.
    ended: CancellationToken,
    /// Tracks the task: its service holds a token.
    task: TaskTracker,
}

/// A client with a `Debug` implementation, which `kube`'s client does not have.
#[derive(Clone)]
pub(crate) struct DebugClient(pub(crate) Client);

impl std::fmt::Debug for DebugClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl GatedClient {
    /// Creates a client whose requests go through `client`.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub(crate) fn new(client: &Client, authority: &Authority, refusals: &IntCounter) -> Self {
        let (ended, task) = (CancellationToken::new(), TaskTracker::new());
        let service = GatedService {
            client: client.clone(),
            authority: authority.clone(),
            refusals: refusals.clone(),
            ended: ended.clone(),
            _tracked: task.token(),
        };
        let client = Client::new(service, client.default_namespace());
        Self { client: DebugClient(client), ended, task }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client.0
    }

    /// Rejects all requests from now on, including reads, and returns when the task has ended. Clones of the
    /// client that still exist do not delay this.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the task ends with the next request, or when the last clone of the client is dropped.
    pub(crate) async fn end(&self) {
        self.ended.cancel();
        // The task checks the token when a request arrives, and ends then.
        let _ = self.client().send(Request::new(Body::empty())).await;
        self.task.close();
        self.task.wait().await;
    }
}

/// The service of a [`GatedClient`].
struct GatedService {
    client: Client,
    authority: Authority,
    refusals: IntCounter,
    ended: CancellationToken,
    _tracked: TaskTrackerToken,
}

impl Service<Request<Body>> for GatedService {
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
                        refusals.inc();
                    }
                },
            )
        })
    }
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Sends a write while its authority holds.
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
        // The authority comes first: if both futures of a paused process are ready, the write is rejected.
        biased;
        // Cancel safe: sleeps and reads.
        source = permit.authority.over() => Err(refused(permit.refusal(method, path, source))),
        // If this arm is dropped, the outcome of a sent write is unknown; the same holds when authority is lost.
        answer = client.send(request) => answer,
    }
}

fn refused(refused: Refused) -> kube::Error {
    kube::Error::Service(refused.into())
}
