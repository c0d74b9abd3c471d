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
    Cache, CacheMetrics, Handler, HeldShards,
    link::Link,
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

/// Key of a cache: its Rust type, its kind as the API names it, and its scope.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Which {
    rust: TypeId,
    api_version: String,
    plural: String,
    scope: Scope,
}

/// The caches of a process, before and while they run.
#[derive(Default)]
pub struct CacheSet {
    caches: HashMap<Which, Kept>,
}

impl Debug for CacheSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.caches.keys()).finish()
    }
}

/// A cache with its type erased.
struct Kept {
    /// A boxed `Pending<K>`, whose type `begin` knows.
    pending: Box<dyn Any + Send + Sync>,
    begin: fn(Box<dyn Any + Send + Sync>, &Client, &CacheMetrics) -> Running,
}

/// Function that returns whether a cache is synced.
pub(crate) type IsSynced = Arc<dyn Fn() -> bool + Send + Sync>;

/// A cache that is ready to run: the future that feeds it, and the means to wait until it is synced.
pub(crate) struct Running {
    pub(crate) kind: String,
    pub(crate) run: BoxFuture<'static, Infallible>,
    pub(crate) synced: BoxFuture<'static, ()>,
    pub(crate) is_synced: IsSynced,
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
pub trait ApiScope {
    /// The API of a kind: of one namespace, or of all.
    fn api<K>(client: Client, kind: &K::DynamicType, namespace: Option<&str>) -> Api<K>
    where
        K: Resource<Scope = Self>;
}

impl ApiScope for ClusterResourceScope {
    fn api<K>(client: Client, kind: &K::DynamicType, _: Option<&str>) -> Api<K>
    where
        K: Resource<Scope = Self>,
    {
        Api::all_with(client, kind)
    }
}

impl ApiScope for NamespaceResourceScope {
    fn api<K>(client: Client, kind: &K::DynamicType, namespace: Option<&str>) -> Api<K>
    where
        K: Resource<Scope = Self>,
    {
        Api::all_with(client, kind).constrain(namespace.unwrap_or_default())
    }
}

impl ApiScope for DynamicResourceScope {
    fn api<K>(client: Client, kind: &K::DynamicType, namespace: Option<&str>) -> Api<K>
    where
        K: Resource<Scope = Self>,
    {
        Api::all_with(client, kind).constrain(namespace.unwrap_or_default())
    }
}

impl CacheSet {
    /// Creates a set without caches.
    pub fn new() -> Self {
        Self::default()
    }

    /// The cache of this kind and scope. The cache is filled once the set runs.
    pub fn of<K: Cached>(&mut self, kind: &K::DynamicType, scope: &Scope) -> Cache<K> {
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

    /// Calls the handler for every change of this cache. A handler alone causes no objects to be cached.
    pub(crate) fn handle<K: Cached>(
        &mut self,
        kind: &K::DynamicType,
        scope: &Scope,
        handler: Handler<K>,
    ) -> Cache<K> {
        let pending = self.pending(kind, scope);
        pending.handlers.push(handler);
        pending.cache.clone()
    }

    /// Starts all caches of the set.
    pub(crate) fn begin(self, client: &Client, metrics: &CacheMetrics) -> Vec<Running> {
        let caches = self.caches.into_values();
        caches.map(|kept| (kept.begin)(kept.pending, client, metrics)).collect()
    }

    fn pending<K: Cached>(&mut self, kind: &K::DynamicType, scope: &Scope) -> &mut Pending<K> {
        let which = Which {
            rust: TypeId::of::<K>(),
            api_version: K::api_version(kind).into_owned(),
            plural: K::plural(kind).into_owned(),
            scope: scope.clone(),
        };
        let kept = self.caches.entry(which).or_insert_with(|| {
            let pending: Pending<K> = Pending {
                kind: kind.clone(),
                scope: scope.clone(),
                cache: Cache::new(),
                handlers: Vec::new(),
                needs: Vec::new(),
            };
            Kept { pending: Box::new(pending), begin: begin::<K> }
        });
        kept.pending.downcast_mut().expect("the type is part of the key")
    }
}

fn begin<K: Cached>(
    pending: Box<dyn Any + Send + Sync>,
    client: &Client,
    metrics: &CacheMetrics,
) -> Running {
    let pending: Box<Pending<K>> = pending.downcast().expect("the type is part of the key");
    let Pending { kind, scope, cache, handlers, needs } = *pending;
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
    let (synced, is_synced) = (cache.clone(), cache.clone());
    let unreadable = UnreadableSet::default();
    let source = Source { api, config, cache, handlers, held, unreadable, metrics };
    Running {
        kind: name,
        run: Box::pin(source.run()),
        synced: Box::pin(async move { synced.synced().await }),
        is_synced: Arc::new(move || is_synced.is_synced()),
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
