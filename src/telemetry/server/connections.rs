//! Connections: accepts them, limits their number, ends them.
//!
//! At the limit, the oldest connection is closed for the newest. So a client that holds connections open
//! cannot keep a probe out.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::tasks::{Ended, Tasks};

/// Largest head of a request; the smallest limit that hyper takes is 8 KiB.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Largest number of header lines of a request.
const MAX_HEADERS: usize = 64;
/// Time after which a connection to a peer that acknowledges no data is closed.
const SEND_TIMEOUT_MS: u32 = 20_000;
/// Delay after a failed accept (no file descriptors left) before the next one.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

pub(super) struct Connections {
    shared: Arc<Shared>,
    open: Arc<Mutex<Open>>,
}

/// Open connections by number: the first is the oldest.
#[derive(Default)]
struct Open {
    next: u64,
    evict: BTreeMap<u64, CancellationToken>,
}

/// Open connection; removed from the list when it is dropped, however the connection ends.
struct Entry {
    number: u64,
    evicted: CancellationToken,
    connections: Connections,
}

impl Connections {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, open: Arc::default() }
    }

    pub(super) async fn serve(
        &self,
        listener: TcpListener,
        router: Router,
        stop: CancellationToken,
    ) {
        let mut tasks = Tasks::new();
        loop {
            let stream = tokio::select! {
                biased;
                // Cancel safe: a token stays cancelled.
                () = stop.cancelled() => break,
                // Cancel safe: an end that was not returned is returned next time.
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                    if matches!(ended, Ended::Panicked { .. }) {
                        tracing::error!(%ended, "a status connection is lost");
                    }
                    continue;
                }
                // Cancel safe: a connection that was not returned is returned next time.
                stream = accept(&listener) => stream,
            };
            let entry = self.enter();
            let router = router.clone();
            tasks.spawn("status connection", entry.run(stream, router, stop.clone()));
        }
        drop(listener);
        if tokio::time::timeout(self.shared.config.drain, tasks.join_all()).await.is_err() {
            tracing::warn!(open = tasks.len(), "status connections did not end in time");
            tasks.abort_all().await;
        }
    }

    fn enter(&self) -> Entry {
        let mut open = self.open();
        while open.evict.len() >= self.shared.config.max_connections.max(1) {
            let Some((number, oldest)) = open.evict.pop_first() else { break };
            oldest.cancel();
            self.shared.metrics.evicted.inc();
            tracing::debug!(number, "status connection makes room for a newer one");
        }
        let number = open.next;
        open.next += 1;
        let evicted = CancellationToken::new();
        open.evict.insert(number, evicted.clone());
        self.shared.metrics.connections.inc();
        let connections = Self { shared: self.shared.clone(), open: self.open.clone() };
        Entry { number, evicted, connections }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    async fn run(self, stream: TcpStream, router: Router, stop: CancellationToken) {
        set_options(&stream);
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.connections.shared.config.header_timeout)
            .max_buf_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        let mut serving = pin!(serving);
        let ended = tokio::select! {
            biased;
            // Cancel safe, all three: tokens stay cancelled, and the connection is polled on below.
            () = self.evicted.cancelled() => return,
            () = stop.cancelled() => None,
            ended = serving.as_mut() => Some(ended),
        };
        let ended = if let Some(ended) = ended {
            ended
        } else {
            serving.as_mut().graceful_shutdown();
            serving.await
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "status connection broke off");
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connections.open().evict.remove(&self.number);
        self.connections.shared.metrics.connections.dec();
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => tracing::warn!(%error, "status server cannot accept a connection"),
        }
        tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
    }
}

/// Sets two socket options. Both are optional: a connection without them still works.
fn set_options(stream: &TcpStream) {
    let nodelay = stream.set_nodelay(true);
    let timeout = rustix::net::sockopt::set_tcp_user_timeout(stream, SEND_TIMEOUT_MS);
    if nodelay.is_err() || timeout.is_err() {
        tracing::debug!(?nodelay, ?timeout, "status connection keeps the system's socket options");
    }
}
