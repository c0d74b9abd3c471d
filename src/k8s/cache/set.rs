//! The caches of a process: one for each kind and scope, shared by all controllers.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    convert::Infallible,
    fmt::{self, Debug},
    hash::Hash,
    sync::{Arc, OnceLock},
};

use futures::future::BoxFuture;
use kube::{
    Api, Client, Resource,
    core::{ClusterResourceScope, DynamicResourceScope, NamespaceResourceScope},
    runtime::watcher,
};
use serde::de::DeserializeOwned;

use super::{
    Cache, CacheMetrics, Handler, HeldShards, Synced,
    link::Link,
    narrow,
    source::{ApiOf, Source, UnreadableSet},
};

/// Selects the objects of a kind that a cache holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope {
    /// Namespace of the objects; all namespaces if `None`.
    pub namespace: Option<String>,
    /// Label selector that the objects must match.
    pub labels: Option<String>,
    /// Field selector that the objects must match.
    pub fields: Option<String>,
}

impl Scope {
    /// All objects of the kind.
    pub fn all() -> Self {
        Self::default()
    }

    /// The objects of one namespace.
    pub fn namespace(namespace: impl Into<String>) -> Self {
        Self { namespace: Some(namespace.into()), ..Self::default() }
    }

    /// Restricts the scope to objects that match a label selector.
    #[must_use]
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.labels = Some(selector.into());
        self
    }

    /// Restricts the scope to objects that match a field selector.
    #[must_use]
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.fields = Some(selector.into());
        self
    }
}

/// Key of a kind: its Rust type, and for `DynamicObject` also its name in the API.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    rust: TypeId,
    api_version: String,
    plural: String,
}

impl Kind {
    fn of<K: Cached>(kind: &K::DynamicType) -> Self {
        Self {
            rust: TypeId::of::<K>(),
            api_version: K::api_version(kind).into_owned(),
            plural: K::plural(kind).into_owned(),
        }
    }
}

/// The caches that the reconcilers of a process can read: for each kind, one per scope.
#[derive(Clone, Default)]
pub(crate) struct Readable(HashMap<Kind, Vec<Arc<dyn Any + Send + Sync>>>);

impl Readable {
    pub(crate) fn of<K: Cached>(&self, kind: &K::DynamicType) -> impl Iterator<Item = &Cache<K>> {
        let caches = self.0.get(&Kind::of::<K>(kind)).into_iter().flatten();
        caches.filter_map(|cache| cache.downcast_ref())
    }
}

/// The caches of a process, before they run.
#[derive(Default)]
pub(crate) struct CacheSet {
    caches: HashMap<(Kind, Scope), Box<dyn Begin>>,
    readable: Readable,
}

impl Debug for CacheSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.caches.keys()).finish()
    }
}

/// A [`Pending`] cache with its type erased.
trait Begin: Any + Send + Sync {
    fn begin(self: Box<Self>, client: &Client, metrics: &CacheMetrics) -> Running;
}

/// A cache that is ready to run: the future that feeds it, and the means to wait until it is synced.
pub(crate) struct Running {
    pub(crate) kind: String,
    pub(crate) run: BoxFuture<'static, Infallible>,
    pub(crate) synced: Synced,
}

/// The part of a cache that a controller needs.
#[derive(Clone, Debug)]
pub(crate) enum Need {
    /// All objects of its scope.
    Whole,
    /// The objects whose shards are held here.
    Held(Arc<HeldShards>),
}

struct Pending<K: Resource> {
    kind: K::DynamicType,
    scope: Scope,
    cache: Cache<K>,
    handlers: Vec<Handler<K>>,
    needs: Vec<Need>,
}

/// Kinds that can be cached: every typed resource, and kube's `DynamicObject`.
pub trait Cached:
    Resource<DynamicType: Clone + Debug + Eq + Hash + Send + Sync, Scope: ApiScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Cached for K where
    K: Resource<DynamicType: Clone + Debug + Eq + Hash + Send + Sync, Scope: ApiScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// Whether the objects of a kind are namespaced.
#[doc(hidden)]
pub trait ApiScope {
    /// Whether the objects have a namespace.
    const IS_NAMESPACED: bool;

    /// The API of a kind: of one namespace, or of all.
    fn api<K>(client: Client, kind: &K::DynamicType, namespace: Option<&str>) -> Api<K>
    where
        K: Resource<Scope = Self>;
}

impl ApiScope for ClusterResourceScope {
    const IS_NAMESPACED: bool = false;

    fn api<K>(client: Client, kind: &K::DynamicType, _: Option<&str>) -> Api<K>
    where
        K: Resource<Scope = Self>,
    {
        Api::all_with(client, kind)
    }
}

impl ApiScope for NamespaceResourceScope {
    const IS_NAMESPACED: bool = true;

    fn api<K>(client: Client, kind: &K::DynamicType, namespace: Option<&str>) -> Api<K>
    where
        K: Resource<Scope = Self>,
    {
        Api::all_with(client, kind).constrain(namespace.unwrap_or_default())
    }
}

impl ApiScope for DynamicResourceScope {
    // Objects of kinds that are known only at run time mostly have one.
    const IS_NAMESPACED: bool = true;

    fn api<K>(client: Client, kind: &K::DynamicType, namespace: Option<&str>) -> Api<K>
    where
        K: Resource<Scope = Self>,
    {
        Api::all_with(client, kind).constrain(namespace.unwrap_or_default())
    }
}

impl CacheSet {
    /// Creates a set without caches.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The cache of this kind and scope. The cache is filled once the set runs.
    pub(crate) fn of<K: Cached>(&mut self, kind: &K::DynamicType, scope: &Scope) -> Cache<K> {
        self.needed(kind, scope, Need::Whole)
    }

    /// As [`of`](Self::of), for a caller that may need only a part. The cache holds all objects if any caller
    /// needs all.
    pub(crate) fn needed<K: Cached>(
        &mut self,
        kind: &K::DynamicType,
        scope: &Scope,
        need: Need,
    ) -> Cache<K> {
        let pending = self.pending(kind, scope);
        pending.needs.push(need);
        pending.cache.clone()
    }

    /// As [`needed`](Self::needed), for a cache that reconcilers read.
    pub(crate) fn read<K: Cached>(
        &mut self,
        kind: &K::DynamicType,
        scope: &Scope,
        need: Need,
    ) -> Cache<K> {
        let cache = self.needed(kind, scope, need);
        let readable = self.readable.0.entry(Kind::of::<K>(kind)).or_default();
        readable.push(Arc::new(cache.clone()));
        cache
    }

    /// The caches that reconcilers read.
    pub(crate) fn readable(&self) -> Readable {
        self.readable.clone()
    }

    /// Calls the handler for every change of this cache. A handler alone causes no objects to be cached.
    pub(crate) fn handle<K: Cached>(
        &mut self,
        kind: &K::DynamicType,
        scope: &Scope,
        handler: Handler<K>,
    ) {
        self.pending(kind, scope).handlers.push(handler);
    }

    /// Starts all caches of the set.
    pub(crate) fn begin(self, client: &Client, metrics: &CacheMetrics) -> Vec<Running> {
        self.caches.into_values().map(|pending| pending.begin(client, metrics)).collect()
    }

    fn pending<K: Cached>(&mut self, kind: &K::DynamicType, scope: &Scope) -> &mut Pending<K> {
        let key = (Kind::of::<K>(kind), scope.clone());
        let pending = self.caches.entry(key).or_insert_with(|| {
            Box::new(Pending::<K> {
                kind: kind.clone(),
                scope: scope.clone(),
                cache: Cache::new(),
                handlers: Vec::new(),
                needs: Vec::new(),
            })
        });
        let pending: &mut dyn Any = &mut **pending;
        pending.downcast_mut().expect("the type is part of the key")
    }
}

impl<K: Cached> Begin for Pending<K> {
    fn begin(self: Box<Self>, client: &Client, metrics: &CacheMetrics) -> Running {
        let Self { kind, scope, cache, handlers, needs } = *self;
        let held = held_alone(needs);
        let config = watcher::Config {
            label_selector: scope.labels,
            field_selector: scope.fields,
            ..watcher::Config::default().streaming_lists()
        };
        let name = K::kind(&kind).into_owned();
        let api: ApiOf<K> = Box::new({
            let (client, cache) = (client.clone(), cache.clone());
            let link = OnceLock::new();
            move |selector| {
                let link = link.get_or_init(|| Link::new(&client, &cache));
                K::Scope::api(link.asking(selector), &kind, scope.namespace.as_deref())
            }
        });
        let metrics = metrics.of(&name, {
            let cache = cache.clone();
            move || cache.age()
        });
        let synced = cache.sync();
        let unreadable = UnreadableSet::default();
        let source = Source { api, config, cache, handlers, held, unreadable, metrics };
        let run = async move {
            match &source.held {
                Some(held) => narrow::run(&source, held).await,
                None => source.run().await,
            }
        };
        Running { kind: name, run: Box::pin(run), synced }
    }
}

/// The held shards, if their objects are enough for every controller of this cache; `None` if one needs others.
fn held_alone(mut needs: Vec<Need>) -> Option<Arc<HeldShards>> {
    if needs.len() == 1
        && let Some(Need::Held(held)) = needs.pop()
    {
        return Some(held);
    }
    for need in needs {
        if let Need::Held(held) = need {
            held.keep_whole();
        }
    }
    None
}
