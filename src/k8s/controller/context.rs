//! What a reconciler is given: by what right it acts, and with which client.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt,
    sync::Arc,
};

use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::{
    engine::Term,
    k8s::{
        authority::{Authority, gated},
        cache::{Cache, Cached},
        events::Events,
        fence::Fence,
        metrics::ControllerMetrics,
    },
    node::AuthorityLost,
};

/// The caches that the reconcilers of a process can read, by type.
#[derive(Clone, Default)]
pub(crate) struct Readable(HashMap<TypeId, Arc<dyn Any + Send + Sync>>);

impl Readable {
    pub(crate) fn add<K: Cached>(&mut self, cache: &Cache<K>) {
        self.0.insert(TypeId::of::<K>(), Arc::new(cache.clone()));
    }

    fn find<K: Cached>(&self) -> Option<Cache<K>> {
        self.0.get(&TypeId::of::<K>())?.downcast_ref::<Cache<K>>().cloned()
    }
}

/// What a reconciler is given. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
    token: CancellationToken,
}

struct Inner {
    controller: Arc<str>,
    authority: Authority,
    fence: Option<Fence>,
    client: Client,
    events: Events,
    readable: Readable,
    metrics: ControllerMetrics,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("controller", &self.inner.controller)
            .field("authority", &self.inner.authority)
            .field("fence", &self.inner.fence)
            .finish_non_exhaustive()
    }
}

impl Context {
    pub(crate) fn new(
        controller: &Arc<str>,
        authority: Authority,
        fence: Option<Fence>,
        client: &Client,
        readable: Readable,
        metrics: ControllerMetrics,
    ) -> Self {
        let client = gated(client, &authority, &metrics.refused);
        let token = authority.token();
        let controller = Arc::clone(controller);
        let pod = std::env::var("POD_NAME").ok();
        let events = Events::new(client.clone(), &controller, pod);
        let inner = Inner { controller, authority, fence, client, events, readable, metrics };
        Self { inner: Arc::new(inner), token }
    }

    /// The same with a token of its own, which ends with this one's at the latest.
    pub(crate) fn child(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), token: self.token.child_token() }
    }

    pub(crate) fn metrics(&self) -> &ControllerMetrics {
        &self.inner.metrics
    }

    /// A client that writes only while the right to act is held. Reads pass.
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// Says what happens to objects, in `kubectl describe` and `kubectl get events`.
    pub fn events(&self) -> &Events {
        &self.inner.events
    }

    /// The name of the controller.
    pub fn controller(&self) -> &str {
        &self.inner.controller
    }

    /// By what right it acts: that of the leader, or that of a shard's owner.
    pub fn authority(&self) -> &Authority {
        &self.inner.authority
    }

    /// The leader's term; none for the work of a shard.
    pub fn term(&self) -> Option<Term> {
        match &self.inner.authority {
            Authority::Leader(ctx) => Some(ctx.term()),
            Authority::Shard(_) => None,
        }
    }

    /// The number that the leader's writes are fenced by; none for the work of a shard.
    pub fn fence(&self) -> Option<Fence> {
        self.inner.fence
    }

    /// Whether it may act at this moment. The client asks before every write; ask before every other
    /// effect, as near to it as possible.
    ///
    /// # Errors
    ///
    /// [`AuthorityLost`] if not.
    pub fn check(&self) -> Result<(), AuthorityLost> {
        self.inner.authority.check()
    }

    /// Resolves when the work should end.
    pub fn cancelled(&self) -> impl Future<Output = ()> + Send + use<> {
        self.token.clone().cancelled_owned()
    }

    /// Whether the work should end.
    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// The token of [`cancelled`](Self::cancelled), for code that takes one.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// The cache of a type that some controller of the process looks at: reading it asks nobody. None if
    /// no controller reconciles, owns or watches that type. Of a type that only [sharded](super::Sharded) work
    /// looks at, it has the objects of the shards that are held here.
    pub fn cache<C: Cached>(&self) -> Option<Cache<C>> {
        self.inner.readable.find()
    }
}
