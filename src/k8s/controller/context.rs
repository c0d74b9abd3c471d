//! What a reconciler is given: by what right it acts, and with which client.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock},
};

use kube::Client;
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    engine::Term,
    k8s::{
        authority::{Authority, GatedClient},
        cache::{Cache, Cached},
        events::Events,
        fence::Fence,
        identity::name_of_this_pod,
        key::ObjectKey,
        metrics::ControllerMetrics,
    },
    node::AuthorityLost,
};

/// A type, and of one that stands for many kinds (`DynamicObject`) which: API version and plural.
type Kind = (TypeId, String, String);

/// The caches that the reconcilers of a process can read: of each kind as many as there are scopes.
#[derive(Clone, Default)]
pub(crate) struct Readable(HashMap<Kind, Vec<Arc<dyn Any + Send + Sync>>>);

impl Readable {
    pub(crate) fn add<K: Cached>(&mut self, kind: &K::DynamicType, cache: &Cache<K>) {
        self.0.entry(Self::key::<K>(kind)).or_default().push(Arc::new(cache.clone()));
    }

    fn of<K: Cached>(&self, kind: &K::DynamicType) -> impl Iterator<Item = &Cache<K>> {
        let caches = self.0.get(&Self::key::<K>(kind)).into_iter().flatten();
        caches.filter_map(|cache| cache.downcast_ref())
    }

    fn key<K: Cached>(kind: &K::DynamicType) -> Kind {
        let (version, plural) = (K::api_version(kind), K::plural(kind));
        (TypeId::of::<K>(), version.into_owned(), plural.into_owned())
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
    /// The process's, which writes at any time.
    client: Client,
    /// What the gated client's task runs on, wherever the work first asks for the client.
    runtime: Handle,
    /// Made when the first request or event of the work needs it.
    gated: OnceLock<GatedClient>,
    events: OnceLock<Events>,
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
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub(crate) fn new(
        controller: &Arc<str>,
        authority: Authority,
        fence: Option<Fence>,
        client: &Client,
        readable: Readable,
        metrics: ControllerMetrics,
    ) -> Self {
        let token = authority.token();
        let inner = Inner {
            controller: Arc::clone(controller),
            authority,
            fence,
            client: client.clone(),
            runtime: Handle::current(),
            gated: OnceLock::new(),
            events: OnceLock::new(),
            readable,
            metrics,
        };
        Self { inner: Arc::new(inner), token }
    }

    /// Ends what the client runs on, once all runs have been joined; its requests are refused from then on.
    ///
    /// # Cancel safety
    ///
    /// As [`GatedClient::end`].
    pub(crate) async fn end(&self) {
        if let Some(gated) = self.inner.gated.get() {
            gated.end().await;
        }
    }

    /// The same with a token of its own, which ends with this one's at the latest.
    pub(crate) fn child(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), token: self.token.child_token() }
    }

    /// Dropped, it ends what waits for this one's token.
    pub(crate) fn ending(&self) -> DropGuard {
        self.token.clone().drop_guard()
    }

    pub(crate) fn metrics(&self) -> &ControllerMetrics {
        &self.inner.metrics
    }

    /// A client that writes only while the right to act is held. Reads pass. When the work has ended and all
    /// its runs with it, the client refuses every request.
    pub fn client(&self) -> &Client {
        let Inner { client, authority, metrics, runtime, .. } = &*self.inner;
        let make = || {
            let _entered = runtime.enter();
            GatedClient::new(client, authority, &metrics.refused)
        };
        self.inner.gated.get_or_init(make).client()
    }

    /// Says what happens to objects, in `kubectl describe` and `kubectl get events`.
    pub fn events(&self) -> &Events {
        let make =
            || Events::new(self.client().clone(), &self.inner.controller, name_of_this_pod());
        self.inner.events.get_or_init(make)
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

    /// Resolves when the run should end, and for what it has spawned when it has ended or was dropped.
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
    /// no controller reconciles, owns or watches that type; where controllers do so in several scopes, the one
    /// that was named first. Of a type that only [sharded](super::Sharded) work looks at, it has the objects of
    /// the shards that are held here.
    pub fn cache<C: Cached>(&self) -> Option<Cache<C>>
    where
        C::DynamicType: Default,
    {
        self.cache_of(&C::DynamicType::default())
    }

    /// As [`cache`](Self::cache), of a kind that is known only at run time.
    pub fn cache_of<C: Cached>(&self, kind: &C::DynamicType) -> Option<Cache<C>> {
        self.inner.readable.of(kind).next().cloned()
    }

    /// The object of that kind, namespace and name as a cache of this process has it: asking costs nothing.
    /// None if it is not there, or if no controller looks at its kind.
    pub fn seen<C: Cached>(&self, like: &C) -> Option<Arc<C>>
    where
        C::DynamicType: Default,
    {
        let (kind, key) = (C::DynamicType::default(), ObjectKey::of(like));
        self.inner.readable.of::<C>(&kind).find_map(|cache| cache.get(&key))
    }
}
