//! The server on a thread and a runtime of its own: whatever users' work does to the others, probes are
//! answered.

use std::{fmt, io, net::SocketAddr, sync::Arc, thread};

use prometheus::Registry;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{BindError, Server, ServerConfig};
use crate::telemetry::{metrics::ServerMetrics, source::StatusSource};

/// A [`Server`] on a thread of its own, which serves until it is closed or dropped.
pub struct StatusServer {
    address: SocketAddr,
    stop: CancellationToken,
    /// Cancelled when the thread has ended.
    ended: CancellationToken,
    thread: Option<thread::JoinHandle<()>>,
    begin: Option<oneshot::Sender<Content>>,
}

impl fmt::Debug for StatusServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusServer").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Why there is no status server.
#[derive(Debug, thiserror::Error)]
pub enum StatusServerError {
    /// The address cannot be listened on.
    #[error(transparent)]
    Bind(BindError),
    /// The system gives it no thread.
    #[error("starting the thread of the status server")]
    Thread(#[source] io::Error),
}

/// What is served.
struct Content {
    source: Arc<dyn StatusSource>,
    registry: Registry,
    metrics: ServerMetrics,
}

impl StatusServer {
    /// Takes the port; nothing is answered yet. So the port's address is known, and known to be had,
    /// before a node joins.
    ///
    /// # Errors
    ///
    /// [`StatusServerError`].
    ///
    /// # Panics
    ///
    /// Never: its thread tells how it went before it ends.
    pub async fn bind(config: ServerConfig) -> Result<Self, StatusServerError> {
        let failed = StatusServerError::Thread;
        let stop = CancellationToken::new();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (bound, address) = oneshot::channel();
        let (begin, content) = oneshot::channel();
        let ended = CancellationToken::new();
        let serving = serve(config, bound, content, stop.clone());
        let guard = ended.clone().drop_guard();
        let thread = thread::Builder::new()
            .name("bw-status".into())
            .spawn(move || {
                let _ended = guard;
                runtime.block_on(serving);
            })
            .map_err(failed)?;
        let address = address.await.expect("the thread says how it went before it ends");
        let address = address.map_err(StatusServerError::Bind)?;
        Ok(Self { address, stop, ended, thread: Some(thread), begin: Some(begin) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins to answer. Only the first call counts.
    ///
    /// # Errors
    ///
    /// If the registry holds metrics under the server's names already. Nothing is served.
    pub fn serve(
        &mut self,
        source: Arc<dyn StatusSource>,
        registry: Registry,
    ) -> prometheus::Result<()> {
        if let Some(begin) = self.begin.take() {
            let metrics = ServerMetrics::register(&registry)?;
            // The thread waits for it, or was stopped.
            let _ = begin.send(Content { source, registry, metrics });
        }
        Ok(())
    }

    /// Returns when the server has ended: it was closed, or a part of it failed by a bug. Nothing is
    /// answered any more.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only waits.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Stops it, and waits until open requests have ended or were cut off.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it ends in the background.
    pub async fn close(mut self) {
        self.stop.cancel();
        self.begin = None;
        if let Some(thread) = self.thread.take() {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for StatusServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(
    config: ServerConfig,
    bound: oneshot::Sender<Result<SocketAddr, BindError>>,
    content: oneshot::Receiver<Content>,
    stop: CancellationToken,
) {
    let server = match Server::bind(config).await {
        Ok(server) => server,
        Err(error) => {
            let _ = bound.send(Err(error));
            return;
        }
    };
    let _ = bound.send(Ok(server.address()));
    let Ok(Content { source, registry, metrics }) = content.await else { return };
    server.serve_counted(source, registry, metrics, stop).await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn the_end_of_the_servers_thread_is_noticed() {
        let mut server = StatusServer::bind(ServerConfig::from("127.0.0.1:0")).await.unwrap();
        assert!(server.ended().now_or_never().is_none(), "it serves");
        // Its thread ends when there is nothing to serve, as it would by a failure.
        server.begin = None;
        tokio::time::timeout(Duration::from_secs(60), server.ended()).await.expect("it has ended");
    }
}
