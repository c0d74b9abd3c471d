//! The status server, on a thread and a runtime of its own: whatever users' work does to the others,
//! probes are answered.

use std::{net::SocketAddr, sync::Arc, thread};

use bellwether::telemetry::{BindError, Server, ServerConfig, StatusSource};
use prometheus::Registry;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::cli::exit::{Exit, Failure};

/// A server that serves until it is stopped or dropped.
pub(crate) struct Page {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    thread: Option<thread::JoinHandle<()>>,
    begin: Option<oneshot::Sender<Content>>,
}

/// What is served.
struct Content {
    source: Arc<dyn StatusSource>,
    registry: Registry,
}

impl Page {
    /// Takes the port; nothing is answered yet. So the port's address is known, and known to be had,
    /// before a node joins.
    ///
    /// # Errors
    ///
    /// A [`Failure`] that says what to do about the port.
    pub(crate) async fn bind(config: ServerConfig) -> Result<Self, Failure> {
        let failed = |error| Failure::caused(Exit::Local, "starting the status server", &error);
        let stop = CancellationToken::new();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (bound, address) = oneshot::channel();
        let (begin, content) = oneshot::channel();
        let serving = serve(config, bound, content, stop.clone());
        let thread = thread::Builder::new()
            .name("bw-status".into())
            .spawn(move || runtime.block_on(serving))
            .map_err(failed)?;
        let address = address.await.expect("the thread says how it went before it ends");
        let address = address.map_err(|error| no_port(&error))?;
        Ok(Self { address, stop, thread: Some(thread), begin: Some(begin) })
    }

    /// Begins to answer.
    pub(crate) fn serve(&mut self, source: Arc<dyn StatusSource>, registry: Registry) {
        if let Some(begin) = self.begin.take() {
            // The thread waits for it, or was stopped.
            let _ = begin.send(Content { source, registry });
        }
    }

    /// Stops it, and waits until open requests have ended or were cut off.
    pub(crate) async fn close(mut self) {
        self.stop.cancel();
        self.begin = None;
        if let Some(thread) = self.thread.take() {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
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
    let Ok(Content { source, registry }) = content.await else { return };
    if let Err(error) = server.serve(source, registry, stop).await {
        tracing::error!(%error, "the status server cannot serve");
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn no_port(error: &BindError) -> Failure {
    Failure::new(
        Exit::Local,
        format!("--listen {:?}: the status server cannot listen: {}", error.address, error.source),
    )
    .try_this(error.remedy())
}
