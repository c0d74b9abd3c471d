//! Talking to an API server: where it is and who we are ([`ClientOptions`]), one connection of which
//! clients are made ([`Connection`]), and what its errors mean ([`explain()`]).
//!
//! A request passes, from the outside in:
//!
//! 1. **calls**: one deadline over everything; answers of an overloaded server are tried again after the
//!    time it asks for, see [`CallOptions`];
//! 2. credentials: a token file is read again when it is old, and at once when its token is refused;
//! 3. the gate: an attempt of a write that carries an [`Authority`](super::authority::Authority) goes out only while
//!    that holds. Each attempt is asked, so a gate that closes while a write waits stops the write;
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
mod gate;
mod inlet;
mod metrics;
mod token;
mod transport;
mod trust;

use std::{fmt, sync::Arc};

use http::{Request, Response};
use kube::client::Body;
use tower::{BoxError, util::BoxCloneSyncService};

use self::calls::Calls;
pub(crate) use self::inlet::Inlet;
pub use self::{
    calls::{CallError, CallOptions},
    config::{ClientOptions, ConnectError},
    explain::{Explained, MissingRule, Reason, explain, explain_status},
    metrics::ClientMetrics,
    transport::TransportError,
};

/// The body of an answer, as layers see it.
type AnswerBody = http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, BoxError>;

/// What carries out one attempt of a request.
type Attempt = BoxCloneSyncService<Request<Body>, Response<AnswerBody>, BoxError>;

/// A client for the API server that the options lead to. See [`Connection::open`].
///
/// # Errors
///
/// As [`Connection::open`].
pub async fn connect(options: ClientOptions) -> Result<kube::Client, ConnectError> {
    Ok(Connection::open(options).await?.client())
}

/// A connection to an API server. Its clients share its sockets, credentials and metrics. Cheap to clone.
#[derive(Clone)]
pub struct Connection {
    client: kube::Client,
    endpoint: http::Uri,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("endpoint", &self.endpoint)
            .field("namespace", &self.namespace())
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
        let client = kube::Client::new(Calls::new(attempts, calls, metrics), namespace);
        Ok(Self { client, endpoint })
    }

    /// The client: of one connection there is one, and this is a handle of it.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// The API server.
    pub fn endpoint(&self) -> &http::Uri {
        &self.endpoint
    }

    /// The namespace of requests that name none: the service account's, or the kubeconfig context's.
    pub fn namespace(&self) -> &str {
        self.client.default_namespace()
    }
}
