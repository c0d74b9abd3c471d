//! A connection to a member, with the clients that use it.
//!
//! A link is tonic's channel of one endpoint, which connects on demand and again after a failure. A link is
//! given up, and a new one made, when its connection hangs or its certificates change.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use etcd_client::{
    AuthClient, Channel, Client, ConnectOptions, KvClient, LeaseClient, MaintenanceClient,
    WatchClient,
};
use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderValue, Request, Response};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    transport::{Channel as TonicChannel, Endpoint},
};
use tower::{BoxError, Service, util::BoxCloneSyncService};

use super::{
    connector::{Connector, Trouble},
    tls::Material,
};
use crate::{
    clock::{self, AtomicTime},
    engine::BootTime,
};

/// A list of a large cluster may exceed the default of 4 MiB by far; the store is trusted not to send more
/// than the caller asked for.
const LARGEST_ANSWER: usize = 256 * 1024 * 1024;

/// etcd ends a connection ("too many pings") that is pinged more often than every 5 s, or while it has no
/// streams. Calls and probes detect silence long before a ping times out.
const PING_EVERY: Duration = Duration::from_secs(10);
const _: () = assert!(PING_EVERY.as_secs() > 5, "etcd's --grpc-keepalive-min-time");
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// The token that calls carry, if there is one.
pub(super) type TokenHeader = watch::Receiver<Option<HeaderValue>>;

/// A connection to a member. See the module's docs.
pub(super) struct Link {
    kv: KvClient,
    lease: LeaseClient,
    watch: WatchClient,
    auth: AuthClient,
    maintenance: MaintenanceClient,
    retired: CancellationToken,
    abandoned: CancellationToken,
    warm: AtomicBool,
    streams: AtomicUsize,
    /// When a watch on this link last delivered events.
    heard: AtomicTime,
    trouble: Trouble,
}

impl Link {
    /// Creates a link without connecting. Must be called in the runtime whose threads are to do the I/O.
    pub(super) fn new(
        endpoint: &str,
        tls: Option<&Material>,
        token: Option<TokenHeader>,
    ) -> Result<Self, BoxError> {
        let connector = Connector::new(endpoint, tls)?;
        let trouble = connector.trouble();
        // TLS is the connector's part; the channel must not do it again.
        let plain = endpoint.replacen("https://", "http://", 1);
        let endpoint = Endpoint::from_shared(plain)?
            .origin(endpoint.parse()?)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(false)
            // The probes of an adaptive window are pings as well.
            .http2_adaptive_window(false);
        let channel = endpoint.connect_with_connector_lazy(connector);
        let channel = match token {
            None => Channel::Tonic(channel),
            Some(token) => {
                Channel::Custom(BoxCloneSyncService::new(WithToken { inner: channel, token }))
            }
        };
        // A member without a leader reports that at once instead of letting calls and watches hang.
        let options = ConnectOptions::new().with_require_leader(true);
        // Sends nothing and never waits: there is no user in the options.
        let client = Client::from_channel(channel, Some(options))
            .now_or_never()
            .expect("without a user nothing is waited for")?;
        Ok(Self {
            kv: client.kv_client().max_decoding_message_size(LARGEST_ANSWER),
            lease: client.lease_client(),
            watch: client.watch_client().max_decoding_message_size(LARGEST_ANSWER),
            auth: client.auth_client(),
            maintenance: client.maintenance_client(),
            retired: CancellationToken::new(),
            abandoned: CancellationToken::new(),
            warm: AtomicBool::new(false),
            streams: AtomicUsize::new(0),
            heard: AtomicTime::default(),
            trouble,
        })
    }

    pub(super) fn kv(&self) -> KvClient {
        self.kv.clone()
    }

    pub(super) fn lease(&self) -> LeaseClient {
        self.lease.clone()
    }

    pub(super) fn watch(&self) -> WatchClient {
        self.watch.clone()
    }

    pub(super) fn auth(&self) -> AuthClient {
        self.auth.clone()
    }

    pub(super) fn maintenance(&self) -> MaintenanceClient {
        self.maintenance.clone()
    }

    /// Whether this link ever gave an answer.
    pub(super) fn is_warm(&self) -> bool {
        self.warm.load(SeqCst)
    }

    pub(super) fn answered(&self) {
        if !self.is_warm() {
            self.warm.store(true, SeqCst);
        }
    }

    /// Ends the streams of this link; calls in flight continue.
    pub(super) fn retire(&self) {
        self.retired.cancel();
    }

    /// Ends the streams of this link and the calls in flight.
    pub(super) fn abandon(&self) {
        self.abandoned.cancel();
        self.retired.cancel();
    }

    /// Waits until the link is abandoned.
    pub(super) async fn abandoned(&self) {
        self.abandoned.cancelled().await;
    }

    /// Waits until the link is retired.
    pub(super) async fn retired(&self) {
        self.retired.cancelled().await;
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.is_cancelled()
    }

    /// TLS error that ended the last connection, if there was one.
    pub(super) fn tls_trouble(&self) -> Option<rustls::Error> {
        self.trouble.last()
    }

    /// Records that a watch on this link delivered events.
    pub(super) fn heard(&self) {
        self.heard.store(clock::boot_now());
    }

    /// Time when a watch on this link last delivered events.
    pub(super) fn heard_at(&self) -> BootTime {
        self.heard.load()
    }

    /// Number of watches that are open on this link.
    pub(super) fn streams(&self) -> usize {
        self.streams.load(SeqCst)
    }
}

/// Counts a watch on a link for as long as the watch lives.
pub(super) struct StreamOn(Arc<Link>);

impl StreamOn {
    pub(super) fn new(link: Arc<Link>) -> Self {
        link.streams.fetch_add(1, SeqCst);
        Self(link)
    }

    pub(super) fn link(&self) -> &Link {
        &self.0
    }
}

impl Drop for StreamOn {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, SeqCst);
    }
}

/// Adds the token to every request. etcd ignores the token where none is needed.
#[derive(Clone)]
struct WithToken {
    inner: TonicChannel,
    token: TokenHeader,
}

impl Service<Request<Body>> for WithToken {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(token) = self.token.borrow().clone() {
            request.headers_mut().insert("token", token);
        }
        let answer = self.inner.call(request);
        Box::pin(async move { answer.await.map_err(Into::into) })
    }
}
