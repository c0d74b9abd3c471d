//! Builders of controllers and of sharded controllers.

use std::{fmt, num::NonZeroUsize, sync::Arc, time::Duration};

use kube::{Resource, ResourceExt as _};

use super::{
    ControllerMetrics,
    assignments::Assignments,
    enqueue::Enqueuer,
    pool::{Limits, Runnable, WorkerPool},
    reconcile::Reconciler,
    trigger::Trigger,
};
use crate::k8s::{
    cache::{CacheSet, Cached, Delta, HeldShards, Need, Scope, Synced},
    key::ObjectKey,
    queue::{Priority, Queue, QueueMetrics},
    rbac::{self, Needs},
};

#[cfg(test)]
mod tests;

/// Default time limit of a run.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Default resync period, as in controller-runtime.
const RESYNC_EVERY: Duration = Duration::from_secs(10 * 3600);

/// Whether a change of an object counts: arguments are the object before and after.
pub type Predicate<K> = Arc<dyn Fn(&K, &K) -> bool + Send + Sync>;

/// Accepts a change of the spec, not of the status alone. For kinds without generations every change counts.
pub fn generation<K: Resource>(old: &K, new: &K) -> bool {
    let (old, new) = (old.meta().generation, new.meta().generation);
    new.is_none() || old != new
}

/// Accepts a change of the labels.
pub fn labels<K: Resource>(old: &K, new: &K) -> bool {
    old.labels() != new.labels()
}

/// Accepts a change of the annotations.
pub fn annotations<K: Resource>(old: &K, new: &K) -> bool {
    old.annotations() != new.annotations()
}

/// Registers one more kind to watch, with its mapping to objects of `K`, for a controller of that scope.
type Watch<K> = Box<dyn FnOnce(&mut CacheSet, &Arc<Enqueuer<K>>, &Scope) -> Synced + Send>;

/// A controller of the objects of a kind, whose reconciler runs on the elected leader.
///
/// ```no_run
/// use std::sync::Arc;
///
/// use bellwether::k8s::{
///     controller::{Action, Context, Controller, ReconcileError},
///     k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap},
/// };
///
/// async fn reconcile(object: Arc<Deployment>, ctx: Context) -> Result<Action, ReconcileError> {
///     Ok(Action::done())
/// }
///
/// let controller = Controller::<Deployment>::new(reconcile).owns::<ConfigMap>().at_once(4);
/// ```
pub struct Controller<K: Cached> {
    kind: K::DynamicType,
    name: String,
    scope: Option<Scope>,
    reconciler: Arc<dyn Reconciler<K>>,
    predicates: Vec<Predicate<K>>,
    watches: Vec<Watch<K>>,
    trigger: Trigger,
    limits: Limits,
    share: Option<Share>,
    needs: Needs,
}

impl<K: Cached> fmt::Debug for Controller<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controller")
            .field("name", &self.name)
            .field("scope", &self.scope)
            .field("watches", &self.watches.len())
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl<K: Cached> Controller<K> {
    /// Creates a controller of a kind that is known at compile time, with one run at once.
    pub fn new(reconciler: impl Reconciler<K>) -> Self
    where
        K::DynamicType: Default,
    {
        Self::dynamic(K::DynamicType::default(), reconciler)
    }

    /// Creates a controller of a kind that is known only at run time.
    pub fn dynamic(kind: K::DynamicType, reconciler: impl Reconciler<K>) -> Self {
        let name = K::kind(&kind).to_lowercase();
        let at_once = NonZeroUsize::MIN;
        let limits = Limits { at_once, timeout: TIMEOUT, resync_every: Some(RESYNC_EVERY) };
        let mut needs = Needs::default();
        needs.add::<K>(&kind, "", rbac::READ);
        Self {
            kind,
            name,
            scope: None,
            reconciler: Arc::new(reconciler),
            predicates: Vec::new(),
            watches: Vec::new(),
            trigger: Trigger::default(),
            limits,
            share: None,
            needs,
        }
    }

    /// Sets the name in logs and metrics, which must be a constant of the program. Default: the kind, in lower case.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets which objects the controller reconciles. Default: the [scope of the
    /// operator](crate::k8s::operator::Operator::scope).
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self
    }

    /// Adds a predicate: a change counts only if all predicates accept it. Objects that are created or
    /// deleted always count.
    #[must_use]
    pub fn predicate(mut self, holds: impl Fn(&K, &K) -> bool + Send + Sync + 'static) -> Self {
        self.predicates.push(Arc::new(holds));
        self
    }

    /// Counts changes of objects of type `C` as changes of the object of this kind that is their controlling owner.
    /// They are the objects in the namespaces of the controller's scope. The operator's roles permit the
    /// reconciler to create and change them.
    #[must_use]
    pub fn owns<C: Cached>(self) -> Self
    where
        C::DynamicType: Default,
    {
        self.owning::<C>(C::DynamicType::default(), None)
    }

    /// As [`owns`](Self::owns), for a kind known at run time, or only some of its objects.
    #[must_use]
    pub fn owns_kind<C: Cached>(self, kind: C::DynamicType, scope: Scope) -> Self {
        self.owning::<C>(kind, Some(scope))
    }

    fn owning<C: Cached>(mut self, kind: C::DynamicType, scope: Option<Scope>) -> Self {
        self.needs.add::<C>(&kind, "", rbac::APPLY);
        self.needs.add::<K>(&self.kind, "finalizers", &["update"]);
        let (group, owner) = (K::group(&self.kind).into_owned(), K::kind(&self.kind).into_owned());
        self.watching(kind, scope, move |object: &C| owner_of(object, &group, &owner))
    }

    /// Counts changes of objects of type `W` as changes of the objects that `map` returns. They are the objects in
    /// the namespaces of the controller's scope.
    #[must_use]
    pub fn watches<W: Cached>(
        self,
        map: impl Fn(&W) -> Vec<ObjectKey> + Send + Sync + 'static,
    ) -> Self
    where
        W::DynamicType: Default,
    {
        self.watching(W::DynamicType::default(), None, map)
    }

    /// As [`watches`](Self::watches), for a kind known at run time, or only some of its objects.
    #[must_use]
    pub fn watches_kind<W: Cached, Keys: IntoIterator<Item = ObjectKey>>(
        self,
        kind: W::DynamicType,
        scope: Scope,
        map: impl Fn(&W) -> Keys + Send + Sync + 'static,
    ) -> Self {
        self.watching(kind, Some(scope), map)
    }

    fn watching<W: Cached, Keys: IntoIterator<Item = ObjectKey>>(
        mut self,
        kind: W::DynamicType,
        scope: Option<Scope>,
        map: impl Fn(&W) -> Keys + Send + Sync + 'static,
    ) -> Self {
        self.needs.add::<W>(&kind, "", rbac::READ);
        self.watches.push(Box::new(move |caches, objects, of_controller| {
            let namespace = of_controller.namespace.clone();
            let scope = scope.unwrap_or_else(|| Scope { namespace, ..Scope::all() });
            let objects = Arc::clone(objects);
            let handler = move |delta: &Delta<W>| {
                // Objects of a first list need no run of their own: the objects that they map to are listed too.
                let priority = priority_of(delta);
                let old = match delta {
                    Delta::Changed { old, .. } => Some(&**old),
                    Delta::Added { .. } | Delta::Deleted { .. } => None,
                };
                for object in old.into_iter().chain([&**delta.object()]) {
                    map(object).into_iter().for_each(|key| objects.on_change(key, None, priority));
                }
            };
            caches.handle(&kind, &scope, Box::new(handler));
            caches.read::<W>(&kind, &scope, Need::Whole).sync()
        }));
        self
    }

    /// Declares that the reconciler writes the status of the objects
    /// ([`write_status`](crate::k8s::controller::Context::write_status)), for the operator's roles.
    #[must_use]
    pub fn writes_status(mut self) -> Self {
        self.needs.add::<K>(&self.kind, "status", &["patch"]);
        self
    }

    /// Declares that the reconciler keeps a finalizer on the objects
    /// ([`finalized`](crate::k8s::controller::Context::finalized)), for the operator's roles.
    #[must_use]
    pub fn finalizes(mut self) -> Self {
        self.needs.add::<K>(&self.kind, "", &["patch"]);
        self
    }

    /// Declares that the reconciler publishes events about the objects
    /// ([`events`](crate::k8s::controller::Context::events)), for the operator's roles.
    #[must_use]
    pub fn publishes_events(mut self) -> Self {
        self.needs.add_events::<K>();
        self
    }

    /// Declares that the reconciler uses these verbs on objects of type `C`, like `get`, `create`, `patch` or
    /// `delete`, for the operator's roles. The needs of [`owns`](Self::owns) and [`watches`](Self::watches)
    /// are declared already.
    #[must_use]
    pub fn needs<C: Cached>(self, verbs: &[&'static str]) -> Self
    where
        C::DynamicType: Default,
    {
        self.needs_subresource::<C>("", verbs)
    }

    /// As [`needs`](Self::needs), for a subresource, like `scale` or `status`.
    #[must_use]
    pub fn needs_subresource<C: Cached>(mut self, subresource: &str, verbs: &[&'static str]) -> Self
    where
        C::DynamicType: Default,
    {
        self.needs.add::<C>(&C::DynamicType::default(), subresource, verbs);
        self
    }

    /// As [`needs`](Self::needs), for a kind that is known only at run time.
    #[must_use]
    pub fn needs_kind<C: Cached>(mut self, kind: &C::DynamicType, verbs: &[&'static str]) -> Self {
        self.needs.add::<C>(kind, "", verbs);
        self
    }

    /// A handle with which other parts of the program request a run for an object.
    pub fn trigger(&self) -> Trigger {
        self.trigger.clone()
    }

    /// Sets how many objects are reconciled at once on a node. Default: 1, as in controller-runtime.
    ///
    /// # Panics
    ///
    /// If `most` is 0.
    #[must_use]
    pub fn at_once(mut self, most: usize) -> Self {
        self.limits.at_once =
            NonZeroUsize::new(most).expect("a controller runs at least one at once");
        self
    }

    /// Sets the time limit of a run: a longer run is dropped, counted, and retried after a back-off. Default: 60 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.limits.timeout = timeout;
        self
    }

    /// Sets how often every object is reconciled without a change, at low priority; never if `None`. Default: 10 h.
    #[must_use]
    pub fn resync_every(mut self, period: Option<Duration>) -> Self {
        self.limits.resync_every = period;
        self
    }

    /// Takes what the controller declares for the roles, with the scope that it was given.
    pub(crate) fn take_needs(&mut self) -> (Needs, Option<Scope>) {
        (std::mem::take(&mut self.needs), self.scope.clone())
    }

    /// Registers the caches of the controller, and returns its workers. Without a scope of its own, the
    /// controller gets `default_scope`.
    pub(crate) fn prepare(
        self,
        default_scope: &Scope,
        caches: &mut CacheSet,
        metrics: &ControllerMetrics,
        queues: &QueueMetrics,
    ) -> Arc<dyn Runnable> {
        let Self {
            kind, name, scope, reconciler, predicates, watches, trigger, limits, share, ..
        } = self;
        let scope = scope.unwrap_or_else(|| default_scope.clone());
        let held = share.as_ref().map(|share| Arc::new(HeldShards::new(share.shards)));
        let need = held.clone().map_or(Need::Whole, Need::Held);
        let cache = caches.read::<K>(&kind, &scope, need);
        if share.is_some_and(|share| share.keeps_all) {
            caches.needed::<K>(&kind, &scope, Need::Whole);
        }
        let mut needs = vec![cache.sync()];
        let queue = Queue::new(queues.queue(&name));
        let objects =
            Arc::new(Enqueuer { cache, held, queue, assignments: Assignments::default() });
        let changed = Arc::clone(&objects);
        let handler = move |delta: &Delta<K>| {
            if let Delta::Changed { old, new } = delta
                && !predicates.iter().all(|holds| holds(old, new))
            {
                return;
            }
            let object = delta.object();
            changed.on_change(ObjectKey::of(&**object), Some(object), priority_of(delta));
        };
        caches.handle::<K>(&kind, &scope, Box::new(handler));
        needs.extend(watches.into_iter().map(|watch| watch(caches, &objects, &scope)));
        let triggered = Arc::clone(&objects);
        trigger.connect(move |key| triggered.on_change(key, None, Priority::Change));
        let metrics = metrics.of(&name);
        Arc::new(WorkerPool::new(name.into(), reconciler, objects, needs, limits, metrics))
    }
}

/// How sharded work is distributed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) shards: u32,
    pub(crate) as_leader: bool,
    pub(crate) keeps_all: bool,
}

/// A controller whose work is spread over the followers, by the shard of each object's UID.
///
/// The reconciler runs on the node that holds the shard; otherwise this is like a [`Controller`].
///
/// Each node caches only the objects of the shards that it holds, unless another part of the process needs
/// all of them. If the API server filters by shard, it sends the node only those objects. The objects of a
/// shard that moves are listed before its work begins.
#[derive(Debug)]
pub struct Sharded<K: Cached> {
    pub(crate) controller: Controller<K>,
    pub(crate) share: Share,
}

impl<K: Cached> Sharded<K> {
    /// Shards the work of a controller, with 256 shards. The controller's name becomes that of the work type.
    pub fn new(controller: Controller<K>) -> Self {
        Self { controller, share: Share { shards: 256, as_leader: false, keeps_all: false } }
    }

    /// Sets the number of shards: 1 to 16,384. All nodes of a cluster must agree.
    #[must_use]
    pub fn shards(mut self, shards: u32) -> Self {
        self.share.shards = shards;
        self
    }

    /// Lets the node work on shards while it leads other nodes. A node that is alone always does.
    #[must_use]
    pub fn as_leader(mut self) -> Self {
        self.share.as_leader = true;
        self
    }

    /// Lets every node cache the objects of all shards. Work on a shard that moves then begins without a
    /// list, but each node needs the memory and traffic of all objects.
    #[must_use]
    pub fn keep_all(mut self) -> Self {
        self.share.keeps_all = true;
        self
    }

    pub(crate) fn into_controller(self) -> Controller<K> {
        Controller { share: Some(self.share), ..self.controller }
    }
}

fn priority_of<K>(delta: &Delta<K>) -> Priority {
    match delta {
        Delta::Added { is_listed: true, .. } => Priority::Resync,
        Delta::Added { .. } | Delta::Changed { .. } | Delta::Deleted { .. } => Priority::Change,
    }
}

/// The object of this kind that controls `object`. An owner is in the namespace of the objects that it owns.
fn owner_of<C: Resource>(object: &C, group: &str, kind: &str) -> Option<ObjectKey> {
    let meta = object.meta();
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    let owner = owners.iter().find(|owner| {
        let owner_group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
        owner.controller == Some(true) && owner.kind == kind && owner_group == group
    })?;
    Some(ObjectKey {
        namespace: meta.namespace.as_deref().map(Arc::from),
        name: owner.name.as_str().into(),
    })
}
