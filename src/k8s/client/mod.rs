//! The client for an API server: kube's, with two layers of ours.
//!
//! A request passes, from the outside in:
//!
//! 1. **calls** (ours): one deadline over everything; answers of an overloaded server are tried again after the time
//!    that the server asks for, see [`CallOptions`];
//! 2. kube's layers: the server's address, headers, credentials. A token file is read again once a minute;
//! 3. **attempts** (ours): a write that carries an [`Authority`](super::authority::Authority) is sent only while the
//!    authority holds. Each attempt is checked, so a gate that closes while a write waits stops the write. And metrics
//!    of each attempt that is sent, see [`ClientMetrics`];
//! 4. hyper's client: HTTP/1.1 over TLS by rustls with ring, perhaps through a proxy. TCP keepalive finds dead peers.
//!
//! # Guarantees
//!
//! - A request ends by its deadline, whatever the network does; an answer that stops coming is given up
//!   after the same time without a byte. Only watches and other streams may be silent for longer.
//! - A write is sent twice only if the server said that it did nothing with the first (429).
//! - No token shows up in an error, a log or a `Debug`.

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

/// The body of an answer, as layers see it.
type AnswerBody = http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, BoxError>;

/// What carries out one attempt of a request.
type Attempt = BoxCloneSyncService<Request<Body>, Response<AnswerBody>, BoxError>;

/// A client for the API server that the options lead to. Clones share its connections, credentials and metrics.
///
/// Finds the API server and the credentials; sends nothing yet, so a server that is down is no error. A credential
/// plug-in of a kubeconfig is run. Requests that name no namespace are for the service account's, or for that of the
/// kubeconfig's context.
///
/// # Errors
///
/// If nothing leads to a server, or what does cannot be used: each names the file or variable.
pub async fn connect(options: ClientOptions) -> Result<kube::Client, ConnectError> {
    Ok(connect_to(options).await?.1)
}

/// As [`connect`], with the address of the API server: the command line shows it.
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
