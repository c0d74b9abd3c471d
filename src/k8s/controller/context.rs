//! The context of a reconciler: its authority, its client, and the caches it can read.

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, OnceLock},
};

use kube::Client;
use tokio::runtime::Handle;
use tokio_util::sync::DropGuard;

use super::metrics::OneController;
use crate::{
    engine::Term,
    k8s::{
        authority::{Authority, GatedClient},
        cache::{Cache, Cached, Readable},
        events::Events,
        fence::Fence,
        identity::name_of_this_pod,
        key::ObjectKey,
    },
    node::{AuthorityLost, FollowerContext},
};

/// Context that a reconciler gets. Cheap to clone.
///
/// [`cancelled`](FollowerContext::cancelled) resolves when the run should end; in tasks that the run has spawned,
/// also when the run has ended or was dropped.
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
    base: FollowerContext,
}

impl Deref for Context {
    type Target = FollowerContext;

    fn deref(&self) -> &FollowerContext {
        &self.base
    }
}

struct Inner {
    controller: Arc<str>,
    authority: Authority,
    fence: Option<Fence>,
    /// The client of the process, which writes without a check of authority.
    client: Client,
    /// Runtime on which the task of the gated client runs, wherever the client is first used.
    runtime: Handle,
    /// Created when the work first sends a request or an event.
    gated: OnceLock<GatedClient>,
    events: OnceLock<Events>,
    readable: Readable,
    metrics: OneController,
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
        metrics: OneController,
    ) -> Self {
        let base = FollowerContext::clone(&authority);
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
        Self { inner: Arc::new(inner), base }
    }

    /// Ends the task of the gated client, after all runs have been joined; the client then rejects all requests.
    ///
    /// # Cancel safety
    ///
    /// As [`GatedClient::end`].
    pub(crate) async fn end(&self) {
        if let Some(gated) = self.inner.gated.get() {
            gated.end().await;
        }
    }

    /// The same context with a child token, which is cancelled with this one's at the latest.
    pub(crate) fn child(&self) -> Self {
        let base = self.with_token(self.token().child_token());
        Self { inner: Arc::clone(&self.inner), base }
    }

    /// A guard that cancels this context's token when it is dropped.
    pub(crate) fn ending(&self) -> DropGuard {
        self.token().drop_guard()
    }

    pub(crate) fn metrics(&self) -> &OneController {
        &self.inner.metrics
    }

    /// A client that writes only while the authority is held. Reads always pass. After the work and all its
    /// runs have ended, the client rejects every request.
    pub fn unfenced_client(&self) -> &Client {
        let Inner { client, authority, metrics, runtime, .. } = &*self.inner;
        let make = || {
            let _entered = runtime.enter();
            GatedClient::new(client, authority, &metrics.refused)
        };
        self.inner.gated.get_or_init(make).client()
    }

    /// Publisher of events about objects, for `kubectl describe` and `kubectl get events`.
    pub fn events(&self) -> &Events {
        let make = || {
            Events::new(self.unfenced_client().clone(), &self.inner.controller, name_of_this_pod())
        };
        self.inner.events.get_or_init(make)
    }

    /// The name of the controller.
    pub fn controller(&self) -> &str {
        &self.inner.controller
    }

    /// The authority of this work: the leader's, or that of a shard's owner.
    pub fn authority(&self) -> &Authority {
        &self.inner.authority
    }

    /// The term of the leader; `None` for the work of a shard.
    pub fn term(&self) -> Option<Term> {
        match &self.inner.authority {
            Authority::Leader(ctx) => Some(ctx.term()),
            Authority::Shard(_) => None,
        }
    }

    /// The fence of the leader's writes; `None` for the work of a shard.
    pub fn fence(&self) -> Option<Fence> {
        self.inner.fence
    }

    /// Checks that the work may act at this moment. The client does this before every write; code with other
    /// effects must do it immediately before each effect.
    ///
    /// # Errors
    ///
    /// [`AuthorityLost`] if the authority is not held.
    pub fn check(&self) -> Result<(), AuthorityLost> {
        self.inner.authority.check()
    }

    /// The cache of a type that a controller of this process uses; reads of it send no request. `None` if no
    /// controller reconciles, owns or watches that type. If controllers use several scopes, this is the cache
    /// that was registered first. The cache of a type that only [sharded](super::Sharded) work uses has the
    /// objects of the shards that are held here.
    pub fn cache<C: Cached>(&self) -> Option<Cache<C>>
    where
        C::DynamicType: Default,
    {
        self.cache_of(&C::DynamicType::default())
    }

    /// As [`cache`](Self::cache), for a kind that is known only at run time.
    pub fn cache_of<C: Cached>(&self, kind: &C::DynamicType) -> Option<Cache<C>> {
        self.inner.readable.of(kind).next().cloned()
    }

    /// The object with the kind, namespace and name of `like`, from a cache of this process: sends no
    /// request. `None` if the object is not cached, or if no controller uses its kind.
    pub fn seen<C: Cached>(&self, like: &C) -> Option<Arc<C>>
    where
        C::DynamicType: Default,
    {
        let (kind, key) = (C::DynamicType::default(), ObjectKey::of(like));
        self.inner.readable.of::<C>(&kind).find_map(|cache| cache.get(&key))
    }
}
