//! The server on a thread and a runtime of its own: it answers probes even if user work blocks the other
//! runtimes.

use std::{fmt, io, net::SocketAddr, sync::Arc, thread};

use prometheus::Registry;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::ServerMetrics;
use super::{BindError, Server, ServerConfig};
use crate::telemetry::source::StatusSource;

/// [`Server`] on a thread of its own, which serves until it is closed or dropped.
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

/// Reason why the status server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StatusServerError {
    /// The server cannot listen on the address.
    #[error(transparent)]
    Bind(BindError),
    /// The system cannot create the thread.
    #[error("starting the thread of the status server")]
    Thread(#[source] io::Error),
}

/// Content that the server serves.
struct Content {
    source: Arc<dyn StatusSource>,
    registry: Registry,
    metrics: ServerMetrics,
}

impl StatusServer {
    /// Binds the port, without answering requests yet. So the address is known, and known to be available,
    /// before a node joins.
    ///
    /// # Errors
    ///
    /// [`StatusServerError`].
    ///
    /// # Panics
    ///
    /// Never: the thread reports its result before it ends.
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

    /// Address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins to answer requests. Only the first call has an effect.
    ///
    /// # Errors
    ///
    /// If the registry contains metrics with the server's names already. Then nothing is served.
    pub fn serve(
        &mut self,
        source: Arc<dyn StatusSource>,
        registry: Registry,
    ) -> prometheus::Result<()> {
        if let Some(begin) = self.begin.take() {
            let metrics = ServerMetrics::register(&registry)?;
            // The thread waits for the content, or was stopped.
            let _ = begin.send(Content { source, registry, metrics });
        }
        Ok(())
    }

    /// Waits until the server has ended: it was closed, or a part of it failed because of a bug. From then
    /// on no request is answered.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the future only waits.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Stops the server, and waits until open requests have ended or were aborted.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the server ends in the background.
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
        // The thread ends when its sender is gone, as it would after a failure.
        server.begin = None;
        tokio::time::timeout(Duration::from_secs(60), server.ended()).await.expect("it has ended");
    }
}
