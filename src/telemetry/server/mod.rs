//! The HTTP server of a node: metrics, probes, the status page and its buttons.
//!
//! It must never be the reason a healthy node is restarted. So every answer has a deadline, every
//! request a size, every connection an end; and where connections run out the oldest one makes room,
//! so that a probe always gets in.

mod actions;
mod change;
mod connections;
mod events;
mod routes;
mod thread;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use prometheus::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::thread::{StatusServer, StatusServerError};
use self::{connections::Connections, events::Events};
use super::{metrics::ServerMetrics, source::StatusSource};
use crate::tasks::Tasks;

/// How the server behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Where it listens: `host:port` or `[v6]:port`; port 0 takes a free one.
    pub listen: String,
    /// How long the source may take for an answer. Below a probe's own timeout (Kubernetes: 1 s), so
    /// that the body still says why.
    pub answer_timeout: Duration,
    /// How long an action may take.
    pub action_timeout: Duration,
    /// How long a client may take to send a request's head, and may be idle between two requests.
    pub header_timeout: Duration,
    /// At most this many connections. The oldest is closed for one more.
    pub max_connections: usize,
    /// At most this many event streams. One more is told to poll. Less than `max_connections`.
    pub max_streams: usize,
    /// The longest time between two pictures on an event stream.
    pub picture_every: Duration,
    /// How long open requests may take once the server is told to stop.
    pub drain: Duration,
    /// Host names, beside `localhost` and bare addresses, under which the page's buttons work. A name
    /// that somebody else's DNS can point here must not be among them.
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

/// The default at an address: `host:port` or `[v6]:port`.
impl From<&str> for ServerConfig {
    fn from(listen: &str) -> Self {
        Self { listen: listen.to_owned(), ..Self::default() }
    }
}

/// The default at an address: `host:port` or `[v6]:port`.
impl From<String> for ServerConfig {
    fn from(listen: String) -> Self {
        Self { listen, ..Self::default() }
    }
}

/// The default at an address.
impl From<SocketAddr> for ServerConfig {
    fn from(listen: SocketAddr) -> Self {
        listen.to_string().into()
    }
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", self.remedy())]
pub struct BindError {
    /// As it was configured.
    pub address: String,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl BindError {
    /// What is wrong and what to do about it.
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

/// A server that listens but does not serve yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    config: ServerConfig,
}

impl Server {
    /// Takes the address. Connections wait until [`Self::serve`].
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

    /// Where it listens.
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
    /// If the registry holds metrics under the server's names already. Nothing was served.
    ///
    /// # Cancel safety
    ///
    /// Dropping it closes the listener and all connections at once.
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
            // Cancel safe: what ended is returned once, and there is no next time.
            Some(ended) = publisher.join_next() => Some(ended),
            // Dropped when the publisher has failed only: that closes the listener and all connections.
            () = serving => None,
        };
        if let Some(ended) = failed {
            // The server ends with it: a page that stands still must not look well.
            tracing::error!(%ended, "the status server ends");
        }
        publisher.abort_all().await;
    }
}

/// What all requests share.
struct Shared {
    source: Arc<dyn StatusSource>,
    registry: Registry,
    metrics: ServerMetrics,
    config: ServerConfig,
    events: Events,
    stop: CancellationToken,
}
