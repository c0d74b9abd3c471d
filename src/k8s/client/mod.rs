//! Talking to an API server: where it is and who we are ([`ClientOptions`]), one connection of which
//! clients are made ([`Connection`]), and what its errors mean ([`explain()`]).
//!
//! A request passes, from the outside in:
//!
//! 1. **calls**: one deadline over everything; answers of an overloaded server are tried again after the
//!    time it asks for, see [`CallOptions`];
//! 2. a layer of the user's, if there is one ([`Connection::client_through`]). It is asked before *each*
//!    attempt, so that a gate that closes while a write waits for its next attempt stops it;
//! 3. credentials: a token file is read again when it is old, and at once when its token is refused;
//! 4. metrics: every attempt that goes out, see [`ClientMetrics`];
//! 5. the connection: HTTP/1.1 over TLS by rustls with ring, dead peers found by TCP keepalive.
//!
//! # Guarantees
//!
//! - A request ends by its deadline, whatever the network does; an answer that stops coming is given up
//!   after the same time without a byte. Only watches and other streams may be silent for longer.
//! - A write is sent twice only if the server said that it did nothing with the first (429, 401).
//! - No token shows up in an error, a log or a `Debug`.

mod calls;
mod config;
mod explain;
mod inlet;
mod metrics;
mod token;
mod transport;
mod trust;

use std::{fmt, sync::Arc};

use http::{Request, Response};
use kube::client::Body;
use tower::{BoxError, Layer, Service, util::BoxCloneSyncService};

pub(crate) use self::inlet::Inlet;
use self::{calls::Calls, metrics::HostMetrics};
pub use self::{
    calls::{CallError, CallOptions},
    config::{ClientOptions, ConnectError},
    explain::{Explained, MissingRule, Reason, explain, explain_status},
    metrics::ClientMetrics,
    transport::TransportError,
};

/// The body of an answer, as layers see it.
pub type AnswerBody = http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, BoxError>;

/// One attempt of a request: what a layer of [`Connection::client_through`] wraps.
pub type Attempt = BoxCloneSyncService<Request<Body>, Response<AnswerBody>, BoxError>;

/// A client for the API server that the options lead to. See [`Connection::open`].
///
/// # Errors
///
/// As [`Connection::open`].
pub async fn connect(options: ClientOptions) -> Result<kube::Client, ConnectError> {
    Ok(Connection::open(options).await?.client())
}

/// A connection to an API server, of which clients are made. They share its sockets, credentials and
/// metrics. Cheap to clone.
#[derive(Clone)]
pub struct Connection {
    attempts: Attempt,
    calls: CallOptions,
    metrics: Arc<HostMetrics>,
    endpoint: http::Uri,
    namespace: String,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("endpoint", &self.endpoint)
            .field("namespace", &self.namespace)
            .field("calls", &self.calls)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Finds the API server and the credentials; sends nothing yet, so a server that is down is no
    /// error. A credential plug-in of a kubeconfig is run.
    ///
    /// # Errors
    ///
    /// If nothing leads to a server, or what does cannot be used: each names the file or variable.
    pub async fn open(options: ClientOptions) -> Result<Self, ConnectError> {
        let calls = options.calls;
        let metrics = options.metrics.clone();
        let config = config::find(&options).await?;
        let endpoint = config.cluster_url.clone();
        let namespace = config.default_namespace.clone();
        let metrics = metrics.of_host(&endpoint);
        let attempts = transport::attempts(config, &options, Arc::clone(&metrics))?;
        Ok(Self { attempts, calls, metrics, endpoint, namespace })
    }

    /// A client.
    pub fn client(&self) -> kube::Client {
        self.client_of(self.attempts.clone())
    }

    /// A client whose attempts pass through `layer`: it sees each before it goes out, and may refuse it
    /// by an error, which is not tried again.
    pub fn client_through<L>(&self, layer: L) -> kube::Client
    where
        L: Layer<Attempt>,
        L::Service:
            Service<Request<Body>, Response = Response<AnswerBody>> + Clone + Send + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send + 'static,
        <L::Service as Service<Request<Body>>>::Error: Into<BoxError>,
    {
        self.client_of(layer.layer(self.attempts.clone()))
    }

    fn client_of<S>(&self, attempts: S) -> kube::Client
    where
        S: Service<Request<Body>, Response = Response<AnswerBody>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
    {
        let calls = Calls::new(attempts, self.calls, Arc::clone(&self.metrics));
        kube::Client::new(calls, self.namespace.clone())
    }

    /// The API server.
    pub fn endpoint(&self) -> &http::Uri {
        &self.endpoint
    }

    /// The namespace of clients that name none: the service account's, or the kubeconfig context's.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }
}
