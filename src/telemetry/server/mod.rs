//! The HTTP server of a node: metrics, probes, the status page and its buttons.
//!
//! The server must never be the reason for a restart of a healthy node. So every answer has a deadline,
//! every request a size limit, every connection an end; and when connections run out the oldest one is
//! closed, so that a probe always gets in.

mod actions;
mod change;
mod connections;
mod events;
mod metrics;
mod routes;
mod thread;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use prometheus::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[doc(hidden)]
pub use self::metrics::ServerMetrics;
pub use self::thread::{StatusServer, StatusServerError};
use self::{connections::Connections, events::Events};
use super::source::StatusSource;
use crate::tasks::Tasks;

/// Configuration of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Address to listen on: `host:port` or `[v6]:port`; port 0 selects a free one.
    pub listen: String,
    /// Time that the source has for an answer. Below a probe's own timeout (Kubernetes: 1 s), so that the
    /// body can still carry the reason.
    pub answer_timeout: Duration,
    /// Time that an action may take.
    pub action_timeout: Duration,
    /// Time that a client has to send a request's head, and that it may be idle between two requests.
    pub header_timeout: Duration,
    /// Largest number of connections. For one more, the oldest is closed.
    pub max_connections: usize,
    /// Largest number of event streams; less than `max_connections`. Further streams are rejected, and
    /// their clients must poll.
    pub max_streams: usize,
    /// Longest time between two pictures on an event stream.
    pub picture_every: Duration,
    /// Time that open requests have once the server is stopped.
    pub drain: Duration,
    /// Host names, beside `localhost` and bare addresses, under which the page's buttons work. The list
    /// must not contain a name that foreign DNS can point to this server.
    pub action_hosts: Vec<String>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            answer_timeout: Duration::from_millis(800),
            action_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            max_connections: 256,
            max_streams: 64,
            picture_every: Duration::from_millis(500),
            drain: Duration::from_secs(3),
            action_hosts: Vec::new(),
        }
    }
}

/// Default configuration for an address: `host:port` or `[v6]:port`.
impl From<&str> for ServerConfig {
    fn from(listen: &str) -> Self {
        Self { listen: listen.to_owned(), ..Self::default() }
    }
}

/// Default configuration for an address: `host:port` or `[v6]:port`.
impl From<String> for ServerConfig {
    fn from(listen: String) -> Self {
        Self { listen, ..Self::default() }
    }
}

/// Default configuration for an address.
impl From<SocketAddr> for ServerConfig {
    fn from(listen: SocketAddr) -> Self {
        listen.to_string().into()
    }
}

/// Error if the server cannot listen on the address.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", self.remedy())]
#[doc(hidden)]
pub struct BindError {
    /// Address as it was configured.
    pub address: String,
    /// Error of the system.
    #[source]
    pub source: io::Error,
}

impl BindError {
    /// Cause of the error and its remedy.
    pub fn remedy(&self) -> &'static str {
        match self.source.kind() {
            io::ErrorKind::AddrInUse => {
                "the port is in use; stop the process that has it (`ss -ltnp` names it) or choose \
                 another one, 0 for any that is free"
            }
            io::ErrorKind::PermissionDenied => {
                "not permitted; ports below 1024 need CAP_NET_BIND_SERVICE, choose a higher one"
            }
            io::ErrorKind::AddrNotAvailable => {
                "this machine has no such address; use 0.0.0.0 or [::] for all it has"
            }
            io::ErrorKind::InvalidInput => "not an address; write host:port or [v6]:port",
            _ => "the name does not resolve or the system refuses; write host:port or [v6]:port",
        }
    }
}

/// Server that listens but does not serve yet.
#[derive(Debug)]
#[doc(hidden)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    config: ServerConfig,
}

impl Server {
    /// Binds the address. Connections wait until [`Self::serve`].
    ///
    /// # Errors
    ///
    /// [`BindError`].
    pub async fn bind(config: ServerConfig) -> Result<Self, BindError> {
        let failed = |source| BindError { address: config.listen.clone(), source };
        let listener = TcpListener::bind(config.listen.as_str()).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, config })
    }

    /// Address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is cancelled, then lets open requests end for [`ServerConfig::drain`].
    ///
    /// User code that blocks its runtime blocks probes on the same runtime: give the server one that
    /// user code does not run on, or use [`StatusServer`], which has one.
    ///
    /// # Errors
    ///
    /// If the registry contains metrics with the server's names already. Then nothing was served.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the listener and all connections at once.
    pub async fn serve(
        self,
        source: Arc<dyn StatusSource>,
        registry: Registry,
        stop: CancellationToken,
    ) -> prometheus::Result<()> {
        let metrics = ServerMetrics::register(&registry)?;
        self.serve_counted(source, registry, metrics, stop).await;
        Ok(())
    }

    async fn serve_counted(
        self,
        source: Arc<dyn StatusSource>,
        registry: Registry,
        metrics: ServerMetrics,
        stop: CancellationToken,
    ) {
        let shared = Arc::new(Shared {
            events: Events::new(),
            stop: stop.clone(),
            source,
            registry,
            metrics,
            config: self.config,
        });
        tracing::info!(address = %self.address, "status server listens");
        let mut publisher = Tasks::new();
        publisher.spawn("status events", events::publish(shared.clone()));
        let connections = Connections::new(shared.clone());
        let serving = connections.serve(self.listener, routes::router(shared), stop);
        let failed = tokio::select! {
            biased;
            // Cancel safe: the end is returned once, and the select runs only once.
            Some(ended) = publisher.join_next() => Some(ended),
            // Dropped only if the publisher has failed: that closes the listener and all connections.
            () = serving => None,
        };
        if let Some(ended) = failed {
            // The server ends too: a page that is not updated any more must not look healthy.
            tracing::error!(%ended, "the status server ends");
        }
        publisher.abort_all().await;
    }
}

/// State that all requests share.
struct Shared {
    source: Arc<dyn StatusSource>,
    registry: Registry,
    metrics: ServerMetrics,
    config: ServerConfig,
    events: Events,
    stop: CancellationToken,
}
