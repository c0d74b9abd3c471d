//! A fake Kubernetes API for unit tests, in memory, with a [`Context`] for the reconciler under test.
//!
//! # Guarantees
//!
//! * Objects live as they do on a real API server: versions, UIDs, generations, conflicts, preconditions,
//!   finalizers, the subresource `status`, server-side apply with field managers, lists and watches by
//!   selectors.
//! * The caches of a [`Context`] have a change as soon as the call that made it has returned.
//!
//! # Caveats
//!
//! The fake does not validate objects by a schema, sets no defaults (a Service gets no address), runs no
//! controller (nothing is garbage collected, no Pod starts) and no webhook, knows no RBAC, no subresource but
//! `status`, no strategic merge patch and one version of each kind. Lists come in one page. Every namespace
//! exists. For those, use [`Environment`](super::Environment).
//!
//! Random programs that ran against the fake and against a real API server have shown differences in corners that
//! are still there: a JSON patch that replaces a field which does not exist, containers that become empty when their
//! last field is given up, the time of a manager whose apply changes nothing, and the events of a deletion with a
//! propagation policy.
//!
//! Server-side apply merges the lists of custom resources by their definition, and those of built-in kinds by a
//! table of the common ones: other lists are replaced as a whole.

mod builtin;
mod call;
mod checks;
mod failure;
mod fields;
mod form;
mod kinds;
mod managers;
mod model;
mod office;
mod schema;
mod selector;
mod service;
mod writing;

use std::{
    any::TypeId,
    collections::HashSet,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
};

use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
    autoscaling::v2::HorizontalPodAutoscaler,
    batch::v1::{CronJob, Job},
    coordination::v1::Lease,
    core::v1::{
        ConfigMap, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service,
        ServiceAccount,
    },
    discovery::v1::EndpointSlice,
    events::v1::Event,
    networking::v1::{Ingress, NetworkPolicy},
    policy::v1::PodDisruptionBudget,
    rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
};
use kube::{Client, CustomResourceExt, Resource};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::OnceCell;
use tower::service_fn;

pub use self::{call::Call, failure::Failure};
use self::{
    kinds::Kind,
    model::{Change, Place},
    office::{End, Office},
    service::Server,
};
use crate::k8s::{
    ObjectKey,
    authority::Authority,
    cache::{Cache, CacheSet, Cached, Need, Scope},
    controller::{Context, ControllerMetrics},
    crd::Election,
    fence::Fence,
};

#[cfg(test)]
mod tests;

/// Namespace of requests that name none.
const NAMESPACE: &str = "default";

/// A fake Kubernetes API. Clones are handles to the same API.
///
/// Serves the built-in kinds that operators use most, and [`Election`].
///
/// ```
/// use std::sync::Arc;
///
/// use bellwether::{
///     k8s::{k8s_openapi::api::core::v1::ConfigMap, prelude::*},
///     testing::Fake,
/// };
/// use serde_json::{from_value, json};
///
/// async fn reconcile(map: Arc<ConfigMap>, ctx: Context) -> Result<Action, ReconcileError> {
///     let copy: ConfigMap = from_value(json!({
///         "metadata": { "name": format!("{}-copy", map.name_any()) },
///         "data": map.data,
///     }))?;
///     ctx.apply_owned(&*map, copy).await?;
///     Ok(Action::done())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let map: ConfigMap = from_value(json!({
///     "metadata": { "name": "a", "namespace": "shop" },
///     "data": { "key": "value" },
/// }))?;
/// let fake = Fake::new().with([map]);
/// let ctx = fake.context().await;
/// let map = fake.get::<ConfigMap>("shop", "a").expect("the map was given");
///
/// reconcile(Arc::new(map), ctx).await.map_err(|error| error.source().to_string())?;
/// let copy = fake.get::<ConfigMap>("shop", "a-copy").expect("the copy was made");
/// assert_eq!(copy.data.expect("data")["key"], "value");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Fake {
    server: Arc<Server>,
    shared: Arc<Shared>,
}

struct Shared {
    controller: Mutex<Arc<str>>,
    /// Types that have a cache.
    types: Mutex<HashSet<TypeId>>,
    caches: Mutex<CacheSet>,
    office: OnceCell<Office>,
    /// Ends of the authorities that are held.
    held: Mutex<Vec<End>>,
    fence: AtomicI64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.server.act(|model| model.version());
        f.debug_struct("Fake").field("version", &version).finish_non_exhaustive()
    }
}

impl Default for Fake {
    fn default() -> Self {
        Self::new()
    }
}

macro_rules! kinds {
    ($fake:ident: $($kind:ty),*) => { $fake$(.kind::<$kind>())* };
}

impl Fake {
    /// Creates an API without objects.
    pub fn new() -> Self {
        let shared = Shared {
            controller: Mutex::new("test".into()),
            types: Mutex::default(),
            caches: Mutex::new(CacheSet::new()),
            office: OnceCell::new(),
            held: Mutex::default(),
            fence: AtomicI64::new(1),
        };
        let fake = Self { server: Arc::default(), shared: Arc::new(shared) };
        let fake = kinds!(fake: ConfigMap, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret,
            Service, ServiceAccount, DaemonSet, Deployment, ReplicaSet, StatefulSet, CronJob, Job);
        let fake = kinds!(fake: HorizontalPodAutoscaler, Lease, EndpointSlice, Event, Ingress, NetworkPolicy,
            PodDisruptionBudget, ClusterRole, ClusterRoleBinding, Role, RoleBinding);
        fake.custom::<Election>()
    }

    /// Serves a custom resource, as its definition describes it.
    #[must_use]
    pub fn custom<K>(self) -> Self
    where
        K: Cached + CustomResourceExt + Resource<DynamicType: Default>,
    {
        self.serve::<K>(Kind::of_definition::<K>());
        self
    }

    /// Serves another kind: with the subresource `status`, and with generations.
    #[must_use]
    pub fn kind<K>(self) -> Self
    where
        K: Cached + Resource<DynamicType: Default>,
    {
        self.serve::<K>(Kind::of::<K>(&K::DynamicType::default()));
        self
    }

    /// Serves a kind, and keeps a cache of its objects.
    fn serve<K>(&self, kind: Kind)
    where
        K: Cached + Resource<DynamicType: Default>,
    {
        let address = (kind.group.clone(), kind.plural.clone());
        self.server.act(|model| model.kinds.add(kind));
        if !lock(&self.shared.types).insert(TypeId::of::<K>()) {
            return;
        }
        let dynamic = K::DynamicType::default();
        let cache = lock(&self.shared.caches).read::<K>(&dynamic, &Scope::all(), Need::Whole);
        cache.replace(std::collections::HashMap::new());
        self.server.follow(Box::new(move |change| {
            if (&change.place.group, &change.place.plural) == (&address.0, &address.1) {
                follow(&cache, change);
            }
        }));
    }

    /// Adds objects as they are, with their status. Their kind is served like [`kind`](Self::kind) if it is not
    /// served yet.
    ///
    /// # Panics
    ///
    /// If an object has no name, or no namespace although its kind is namespaced.
    #[must_use]
    #[track_caller]
    pub fn with<K>(self, objects: impl IntoIterator<Item = K>) -> Self
    where
        K: Cached + Serialize + Resource<DynamicType: Default>,
    {
        objects.into_iter().for_each(|object| drop(self.put(&object)));
        self
    }

    /// Sets the name of the controller whose contexts are made. Default: `test`.
    #[must_use]
    pub fn controller(self, name: impl Into<Arc<str>>) -> Self {
        *lock(&self.shared.controller) = name.into();
        self
    }

    fn kind_of<K>(&self) -> Arc<Kind>
    where
        K: Cached + Resource<DynamicType: Default>,
    {
        let kind = K::DynamicType::default();
        let (group, version, plural) = (K::group(&kind), K::version(&kind), K::plural(&kind));
        let find = || self.server.act(|model| model.kinds.find(&group, &version, &plural).cloned());
        if let Some(kind) = find() {
            return kind;
        }
        self.serve::<K>(Kind::of::<K>(&kind));
        find().expect("the kind was just added")
    }

    /// Stores an object as it is, with its status, like another program that owns all of it: sets the UID, the
    /// time of creation and the generation where the object has none. Returns the object as it was stored.
    ///
    /// # Panics
    ///
    /// If the object has no name, or no namespace although its kind is namespaced.
    #[track_caller]
    pub fn put<K>(&self, object: &K) -> K
    where
        K: Cached + Serialize + Resource<DynamicType: Default>,
    {
        let kind = self.kind_of::<K>();
        let key = ObjectKey::of(object);
        assert!(!key.name.is_empty(), "a {} needs metadata.name to be stored", kind.kind);
        assert!(
            key.namespace.is_some() == kind.is_namespaced,
            "{} {key}: metadata.namespace must {}be set, the kind is {}",
            kind.kind,
            if kind.is_namespaced { "" } else { "not " },
            if kind.is_namespaced { "namespaced" } else { "cluster-scoped" },
        );
        let value = serde_json::to_value(object).expect("a resource can be written as JSON");
        let place = Place::of(&kind, key.namespace.as_deref().unwrap_or_default(), &key.name);
        let stored = self.server.act(|model| model.place(&kind, place, value, &service::now()));
        read(&stored)
    }

    /// Changes an object as another program would, and returns it; `None` if there is no such object. The
    /// generation grows with a change of the spec. The namespace of a cluster-scoped object is `""`.
    ///
    /// # Panics
    ///
    /// If the object does not have the form of the type.
    pub fn change<K>(&self, namespace: &str, name: &str, change: impl FnOnce(&mut K)) -> Option<K>
    where
        K: Cached + Serialize + Resource<DynamicType: Default>,
    {
        let mut object = self.get::<K>(namespace, name)?;
        change(&mut object);
        Some(self.put(&object))
    }

    /// The object of this type and name; `None` if there is no such object. The namespace of a cluster-scoped
    /// object is `""`.
    ///
    /// # Panics
    ///
    /// If the object does not have the form of the type.
    pub fn get<K>(&self, namespace: &str, name: &str) -> Option<K>
    where
        K: Cached + Resource<DynamicType: Default>,
    {
        let place = Place::of(&self.kind_of::<K>(), namespace, name);
        let found = self.server.act(|model| model.object(&place).cloned())?;
        Some(read(&found))
    }

    /// All objects of this type, by namespace and name.
    ///
    /// # Panics
    ///
    /// If an object does not have the form of the type.
    pub fn list<K>(&self) -> Vec<K>
    where
        K: Cached + Resource<DynamicType: Default>,
    {
        let kind = self.kind_of::<K>();
        self.server.act(|model| model.all(&kind)).iter().map(|it| read(it)).collect()
    }

    /// Removes an object at once, also if finalizers are left. Returns whether there was one.
    pub fn remove<K>(&self, namespace: &str, name: &str) -> bool
    where
        K: Cached + Resource<DynamicType: Default>,
    {
        let place = Place::of(&self.kind_of::<K>(), namespace, name);
        self.server.act(|model| {
            let is_found = model.object(&place).is_some();
            model.remove(&place);
            is_found
        })
    }

    /// A client of this API, with the default namespace `default`.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn client(&self) -> Client {
        self.client_in(NAMESPACE)
    }

    /// A client of this API with that default namespace.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn client_in(&self, namespace: &str) -> Client {
        let server = Arc::clone(&self.server);
        Client::new(service_fn(move |request| Arc::clone(&server).serve(request)), namespace)
    }

    /// A context as the leader's reconciler gets it: it holds office until [`lose_office`](Self::lose_office).
    ///
    /// The caches of the context have all objects of every kind that this API serves.
    ///
    /// # Panics
    ///
    /// If the node of the context cannot be started.
    pub async fn context(&self) -> Context {
        let (leader, end) = self.office().await.lend();
        lock(&self.shared.held).push(end);
        let fence = Fence::of(self.shared.fence.load(SeqCst));
        self.context_of(Authority::Leader(leader), Some(fence))
    }

    /// A context as the reconciler of a [`Sharded`](crate::k8s::controller::Sharded) controller gets it on the
    /// owner of a shard: it holds the shard until [`lose_office`](Self::lose_office), and has no fence number.
    /// The store of the context refuses fenced writes of the shard.
    ///
    /// # Panics
    ///
    /// As for [`context`](Self::context).
    pub async fn shard_context(&self, shard: u32) -> Context {
        let controller = Arc::clone(&lock(&self.shared.controller));
        let (context, end) = self.office().await.lend_shard(&controller, shard);
        lock(&self.shared.held).push(end);
        self.context_of(Authority::Shard(context), None)
    }

    async fn office(&self) -> &Office {
        let office = self.shared.office.get_or_try_init(Office::taken).await;
        office.unwrap_or_else(|error| panic!("no node for a context: {error}"))
    }

    fn context_of(&self, authority: Authority, fence: Option<Fence>) -> Context {
        let controller = Arc::clone(&lock(&self.shared.controller));
        let metrics = ControllerMetrics::unregistered().of(&controller);
        let readable = lock(&self.shared.caches).readable();
        Context::new(&controller, authority, fence, &self.client(), readable, metrics)
    }

    /// Takes the office, or the shard, from all contexts: each is cancelled, and its writes are refused. A context that is made
    /// later holds office under a greater fence number, like that of a successor.
    pub fn lose_office(&self) {
        let held = std::mem::take(&mut *lock(&self.shared.held));
        for end in held {
            end();
        }
        self.shared.fence.fetch_add(1, SeqCst);
    }

    /// Requests so far, with the status codes of their answers.
    pub fn calls(&self) -> Vec<(Call, u16)> {
        self.server.calls()
    }

    /// Requests for changes so far, as `PATCH /api/v1/namespaces/shop/configmaps/a`.
    pub fn writes(&self) -> Vec<String> {
        let calls = self.calls().into_iter();
        calls.filter(|(call, _)| call.is_write()).map(|(call, _)| call.to_string()).collect()
    }

    /// From now on each request fails that `rule` returns a failure for. Such a request has no effect.
    pub fn fails(&self, rule: impl Fn(&Call) -> Option<Failure> + Send + Sync + 'static) {
        self.server.set_rule(Some(Arc::new(rule)));
    }

    /// From now on no request fails by a rule.
    pub fn works(&self) {
        self.server.set_rule(None);
    }

    /// Forgets the changes so far: a watch that continues from an older version gets the error 410, as after a
    /// compaction of etcd.
    pub fn compact(&self) {
        self.server.act(model::Model::forget);
    }
}

/// Applies a change to the cache of its kind. An object that the type cannot read is left out, like in the cache
/// of an operator.
fn follow<K: Cached>(cache: &Cache<K>, change: &Change) {
    let Place { namespace, name, .. } = &change.place;
    let key = if namespace.is_empty() {
        ObjectKey::cluster(name.as_str())
    } else {
        ObjectKey::namespaced(namespace.as_str(), name.as_str())
    };
    let object = change.after.as_ref().and_then(|it| K::deserialize(&**it).ok());
    match object {
        Some(mut object) => {
            object.meta_mut().managed_fields = None;
            cache.put(key, Arc::new(object));
        }
        None => drop(cache.remove(&key)),
    }
}

fn read<K: Cached>(object: &Value) -> K {
    K::deserialize(object).unwrap_or_else(|error| {
        let name = &object["metadata"]["name"];
        panic!("the {} {name} does not have the form of its type: {error}", object["kind"])
    })
}
