//! The client for an API server: kube's client with two layers of this crate.
//!
//! A request passes, from the outside in:
//!
//! 1. **calls** (ours): one deadline over all attempts; a request that an overloaded server rejects is retried after
//!    the time that the server asks for, see [`CallOptions`];
//! 2. kube's layers: the server's address, headers, credentials. A token file is read again once a minute;
//! 3. **attempts** (ours): a write that carries an [`Authority`](super::authority::Authority) is sent only while the
//!    authority holds. Each attempt is checked, so a gate that closes while a write waits stops the write. This layer
//!    also counts each attempt that is sent, see [`ClientMetrics`];
//! 4. hyper's client: HTTP/1.1 over TLS by rustls with ring, perhaps through a proxy. TCP keepalive finds dead peers.
//!
//! # Guarantees
//!
//! - A request ends by its deadline even if the network fails; an answer that stops coming fails after the same time
//!   without a byte. Only watches and other streams may pause for longer.
//! - A write is sent again only if the server answered that it did nothing with the first attempt (429).
//! - No token appears in an error, a log or a `Debug`.

mod calls;
mod config;
mod gate;
mod metrics;
mod transport;
mod trust;

use http::{Request, Response, Uri};
use kube::client::{Body, ClientBuilder};
use tower::{BoxError, util::BoxCloneSyncService};

use self::calls::Calls;
pub(crate) use self::transport::TransportError;
pub use self::{
    calls::{CallError, CallOptions},
    config::{ClientOptions, ConnectError},
    metrics::ClientMetrics,
};

/// Body of an answer, as the layers see it.
type AnswerBody = http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, BoxError>;

/// Service that carries out one attempt of a request.
type Attempt = BoxCloneSyncService<Request<Body>, Response<AnswerBody>, BoxError>;

/// A client for the API server that the options lead to. Clones share its connections, credentials and metrics.
///
/// Finds the API server and the credentials; sends no request yet, so a server that is down is no error. Runs the
/// credential plug-in of a kubeconfig. A request that names no namespace uses the service account's namespace, or that
/// of the kubeconfig's context.
///
/// # Errors
///
/// If the options lead to no server, or a file or variable cannot be used: the error names the file or variable.
pub async fn connect(options: ClientOptions) -> Result<kube::Client, ConnectError> {
    Ok(connect_to(options).await?.1)
}

/// As [`connect`], and returns the address of the API server too, which the command line shows.
///
/// # Errors
///
/// As [`connect`].
#[doc(hidden)]
pub async fn connect_to(options: ClientOptions) -> Result<(Uri, kube::Client), ConnectError> {
    let found = config::find(&options).await?;
    let endpoint = found.config.cluster_url.clone();
    let namespace = found.config.default_namespace.clone();
    let metrics = options.metrics.clone().of_host(&endpoint);
    let attempts = transport::attempts(found, &options, metrics.clone())?;
    let calls = Calls::new(attempts, options.calls, metrics);
    Ok((endpoint, ClientBuilder::new(calls, namespace).build()))
}
