//! How a controller is put together.

use std::{fmt, num::NonZeroUsize, sync::Arc, time::Duration};

use kube::{Resource, ResourceExt as _};

use super::{
    reconcile::Reconciler,
    trigger::Trigger,
    work::{Desk, Loop, Setup},
};
use crate::k8s::{
    cache::{Cache, Cached, Delta, HeldShards, Need, Scope},
    key::ObjectKey,
    queue::Priority,
};

#[cfg(test)]
mod tests;

/// A run may take this long by default.
const TIMEOUT: Duration = Duration::from_secs(60);
/// All objects are looked at again this often by default, as controller-runtime does.
const RESYNC_EVERY: Duration = Duration::from_secs(10 * 3600);

/// Whether a change of an object counts: the object before, the object after.
pub type Predicate<K> = Arc<dyn Fn(&K, &K) -> bool + Send + Sync>;

/// The spec has changed, not only the status. For kinds that count no generations every change counts.
pub fn generation<K: Resource>(old: &K, new: &K) -> bool {
    let (old, new) = (old.meta().generation, new.meta().generation);
    new.is_none() || old != new
}

/// The labels have changed.
pub fn labels<K: Resource>(old: &K, new: &K) -> bool {
    old.labels() != new.labels()
}

/// The annotations have changed.
pub fn annotations<K: Resource>(old: &K, new: &K) -> bool {
    old.annotations() != new.annotations()
}

/// What a controller has beside its reconciler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) at_once: NonZeroUsize,
    pub(crate) timeout: Duration,
    pub(crate) resync_every: Option<Duration>,
}

/// Registers one more kind that is looked at, and how its changes name objects of `K`.
type Watch<K> = Box<dyn FnOnce(&mut Setup<'_>, &Arc<Desk<K>>) + Send>;

/// Something that a process can run once it has been set up.
pub(crate) trait Prepare: Send {
    /// Its name.
    fn name(&self) -> String;
    /// Registers its caches and hands out its loop.
    fn prepare(self: Box<Self>, setup: &mut Setup<'_>) -> Arc<dyn Loop>;
}

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
    scope: Scope,
    reconciler: Arc<dyn Reconciler<K>>,
    predicates: Vec<Predicate<K>>,
    watches: Vec<Watch<K>>,
    trigger: Trigger,
    limits: Limits,
    share: Option<Share>,
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
    /// Of a kind that is known when it is compiled: all objects, in all namespaces, one run at once.
    pub fn new(reconciler: impl Reconciler<K>) -> Self
    where
        K::DynamicType: Default,
    {
        Self::dynamic(K::DynamicType::default(), reconciler)
    }

    /// Of a kind that is known only at run time.
    pub fn dynamic(kind: K::DynamicType, reconciler: impl Reconciler<K>) -> Self {
        let name = K::kind(&kind).to_lowercase();
        let at_once = NonZeroUsize::MIN;
        let limits = Limits { at_once, timeout: TIMEOUT, resync_every: Some(RESYNC_EVERY) };
        Self {
            kind,
            name,
            scope: Scope::all(),
            reconciler: Arc::new(reconciler),
            predicates: Vec::new(),
            watches: Vec::new(),
            trigger: Trigger::default(),
            limits,
            share: None,
        }
    }

    /// Its name in logs and metrics. It must be a constant of the program. Default: the kind, in lower case.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Which objects it looks at. Default: all.
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// A change counts only if this says so. Called several times, all must. Objects that are new or gone
    /// always count.
    #[must_use]
    pub fn predicate(mut self, holds: impl Fn(&K, &K) -> bool + Send + Sync + 'static) -> Self {
        self.predicates.push(Arc::new(holds));
        self
    }

    /// Changes of objects of type `C` that an object of this kind owns as their controller count as its own.
    #[must_use]
    pub fn owns<C: Cached>(self) -> Self
    where
        C::DynamicType: Default,
    {
        let scope = Scope { namespace: self.scope.namespace.clone(), ..Scope::all() };
        self.owns_kind::<C>(C::DynamicType::default(), scope)
    }

    /// As [`owns`](Self::owns), for a kind known at run time, or only some of its objects.
    #[must_use]
    pub fn owns_kind<C: Cached>(self, kind: C::DynamicType, scope: Scope) -> Self {
        let (group, owner) = (K::group(&self.kind).into_owned(), K::kind(&self.kind).into_owned());
        self.watches_kind(kind, scope, move |object: &C| owner_of(object, &group, &owner))
    }

    /// Changes of objects of type `W` count as changes of the objects that `map` names.
    #[must_use]
    pub fn watches<W: Cached>(
        self,
        map: impl Fn(&W) -> Vec<ObjectKey> + Send + Sync + 'static,
    ) -> Self
    where
        W::DynamicType: Default,
    {
        let scope = Scope { namespace: self.scope.namespace.clone(), ..Scope::all() };
        self.watches_kind(W::DynamicType::default(), scope, map)
    }

    /// As [`watches`](Self::watches), for a kind known at run time, or only some of its objects.
    #[must_use]
    pub fn watches_kind<W: Cached, Keys: IntoIterator<Item = ObjectKey>>(
        mut self,
        kind: W::DynamicType,
        scope: Scope,
        map: impl Fn(&W) -> Keys + Send + Sync + 'static,
    ) -> Self {
        self.watches.push(Box::new(move |setup, desk| {
            let told = Arc::clone(desk);
            let handler = move |delta: &Delta<W>| {
                // What a first list brings up needs no run: the objects it belongs to are listed too.
                let priority = priority_of(delta);
                let old = match delta {
                    Delta::Changed { old, .. } => Some(&**old),
                    Delta::Added { .. } | Delta::Deleted { .. } => None,
                };
                for object in old.into_iter().chain([&**delta.object()]) {
                    map(object).into_iter().for_each(|key| told.on_change(key, None, priority));
                }
            };
            setup.caches.handle(&kind, &scope, Box::new(handler));
            let cache: Cache<W> = setup.caches.of(&kind, &scope);
            setup.readable.add(&kind, &cache);
            desk.needs(&cache);
        }));
        self
    }

    /// What lets other parts of the program say that an object should be looked at.
    pub fn trigger(&self) -> Trigger {
        self.trigger.clone()
    }

    /// How many objects it may reconcile at once on a node. Default: 1, as in controller-runtime.
    ///
    /// # Panics
    ///
    /// If it is 0.
    #[must_use]
    pub fn at_once(mut self, most: usize) -> Self {
        self.limits.at_once =
            NonZeroUsize::new(most).expect("a controller runs at least one at once");
        self
    }

    /// A run that takes longer is dropped, counted, and tried again after a back-off. Default: 60 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.limits.timeout = timeout;
        self
    }

    /// Every object is reconciled again this often, whatever happens, at low priority; never if none.
    /// Default: 10 h.
    #[must_use]
    pub fn resync_every(mut self, period: Option<Duration>) -> Self {
        self.limits.resync_every = period;
        self
    }
}

impl<K: Cached> Prepare for Controller<K> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn prepare(self: Box<Self>, setup: &mut Setup<'_>) -> Arc<dyn Loop> {
        let Self { kind, name, scope, reconciler, predicates, watches, trigger, limits, share } =
            *self;
        let held = share.map(|share| (Arc::new(HeldShards::new(share.shards)), share.keeps_all));
        let need = match &held {
            Some((held, false)) => Need::Held(Arc::clone(held)),
            Some((_, true)) | None => Need::Whole,
        };
        let held = held.map(|(held, keeps_all)| {
            if keeps_all {
                held.keep_whole();
            }
            held
        });
        let cache = setup.caches.needed::<K>(&kind, &scope, need);
        setup.readable.add(&kind, &cache);
        let desk = Arc::new(Desk::new(name.into(), reconciler, cache.clone(), limits, held, setup));
        desk.needs(&cache);
        let told = Arc::clone(&desk);
        let handler = move |delta: &Delta<K>| {
            if let Delta::Changed { old, new } = delta
                && !predicates.iter().all(|holds| holds(old, new))
            {
                return;
            }
            let object = delta.object();
            told.on_change(ObjectKey::of(&**object), Some(object), priority_of(delta));
        };
        setup.caches.handle::<K>(&kind, &scope, Box::new(handler));
        for watch in watches {
            watch(setup, &desk);
        }
        let told = Arc::clone(&desk);
        trigger.connect(move |key| told.on_change(key, None, Priority::Change));
        desk
    }
}

/// How the work on shards is spread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) shards: u32,
    pub(crate) as_leader: bool,
    pub(crate) keeps_all: bool,
}

/// Work on the objects of a kind that is spread over the followers, by the shard of each object's UID.
///
/// The reconciler runs on the node that holds the shard; else it is like a [`Controller`].
///
/// Unless something else in the process looks at the same objects, each node keeps only those of the shards
/// it holds in memory, and where the API server filters by shard it is sent only those. A shard that moves is
/// listed before its work begins.
#[derive(Debug)]
pub struct Sharded<K: Cached> {
    pub(crate) controller: Controller<K>,
    pub(crate) share: Share,
}

impl<K: Cached> Sharded<K> {
    /// With 256 shards. The controller's name is that of the work type.
    pub fn new(controller: Controller<K>) -> Self {
        Self { controller, share: Share { shards: 256, as_leader: false, keeps_all: false } }
    }

    /// Into how many shards the objects are cut: 1 to 65,536. All nodes of a cluster must agree.
    #[must_use]
    pub fn shards(mut self, shards: u32) -> Self {
        self.share.shards = shards;
        self
    }

    /// Whether the node takes shards even while it leads others. When it is alone it always does.
    /// Default: no.
    #[must_use]
    pub fn as_leader(mut self, yes: bool) -> Self {
        self.share.as_leader = yes;
        self
    }

    /// Whether every node keeps the objects of all shards in memory: work on a shard that moves begins
    /// without a list, for the memory and traffic of all objects on each node. Default: no.
    #[must_use]
    pub fn keeps_all(mut self, yes: bool) -> Self {
        self.share.keeps_all = yes;
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

/// The object that controls this one, if it is of that kind. Owners stand in the namespace of what they own.
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
