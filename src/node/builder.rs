//! Builder of a node, and the validation of its options.

use std::{fmt, sync::Arc, time::Duration};

use prometheus::Registry;

use super::{
    ClusterNode,
    env::Env,
    host::DriverHost,
    metrics::NodeMetrics,
    options::{InvalidOption, NodeOptions, RoutineLimits, Work, WorkerOptions},
    work::{FollowerRoutine, LeaderRoutine, LeaderTask, WorkError},
};
use crate::{
    engine::{self, Failover, NodeId, TickPolicy, WorkOffer},
    store::{
        Store,
        etcd::{EtcdConfig, EtcdStore},
        keys::{Keys, validate_work_type},
        memory::MemoryStore,
        values::MAX_SHARDS,
    },
};

/// Default tick, the same as in the Go package.
const TICK: Duration = Duration::from_millis(50);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

type StoreFactory =
    Box<dyn FnOnce(&Keys, &NodeMetrics) -> Result<Arc<dyn Store>, WorkError> + Send>;

/// Builder of a [`ClusterNode`] from its options.
pub struct ClusterNodeBuilder {
    id: Option<i64>,
    address: String,
    cluster: Option<String>,
    ttl: Option<Duration>,
    failover: Option<Failover>,
    tick: Duration,
    tick_policy: TickPolicy,
    pod_uid: Option<String>,
    campaigns: bool,
    own_store: bool,
    store: Option<StoreFactory>,
    work: Work,
    workers: Vec<WorkerOptions>,
    limits: RoutineLimits,
    id_wait: Duration,
    call_timeout: Duration,
    metrics: Option<NodeMetrics>,
    host: Option<DriverHost>,
}

impl fmt::Debug for ClusterNodeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterNodeBuilder")
            .field("id", &self.id)
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

impl ClusterNode {
    /// Builder of a node whose cluster is kept in a shared store.
    pub fn builder() -> ClusterNodeBuilder {
        ClusterNodeBuilder {
            id: None,
            address: String::new(),
            cluster: None,
            ttl: None,
            failover: None,
            tick: TICK,
            tick_policy: TickPolicy::Strict,
            pod_uid: None,
            campaigns: true,
            own_store: false,
            store: None,
            work: Work::default(),
            workers: Vec::new(),
            limits: RoutineLimits::default(),
            id_wait: Duration::ZERO,
            call_timeout: CALL_TIMEOUT,
            metrics: None,
            host: None,
        }
    }

    /// Builder of a node that is a cluster of its own, in a memory store: the node runs the leader's and the
    /// follower's work itself. Default name of the cluster: `standalone`, as in the Go package.
    pub fn standalone() -> ClusterNodeBuilder {
        let builder = Self::builder().cluster("standalone").also_follow();
        builder.stored(true, |_, _| Ok(Arc::new(MemoryStore::new())))
    }
}

impl ClusterNodeBuilder {
    /// Id of the node: not negative, unique among the live nodes of the cluster. Required.
    #[must_use]
    pub fn id(mut self, id: i64) -> Self {
        self.id = Some(id);
        self
    }

    /// Address at which the node can be reached: stored in its metadata, not interpreted. Default
    /// empty.
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = address.into();
        self
    }

    /// Time between runs of the routines. Default 50 ms; all nodes of a cluster must use the same tick.
    #[must_use]
    pub fn tick(mut self, tick: Duration) -> Self {
        self.tick = tick;
        self
    }

    /// How long the lease lives without renewal: whole seconds. Default: that of the store, 5 s on etcd and 10 s on
    /// the Kubernetes API. The TTL only cleans up
    /// after a node; the failover profile sets how fast a leader is replaced.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// How fast a silent leader is replaced. Default: that of the store, [`Failover::DEFAULT`] on etcd.
    #[must_use]
    pub fn failover(mut self, failover: Failover) -> Self {
        self.failover = Some(failover);
        self
    }

    /// Routine that runs once per tick while the node is leader.
    #[must_use]
    pub fn on_leader_tick(mut self, routine: impl LeaderRoutine) -> Self {
        self.work.leader = Some(Arc::new(routine));
        self
    }

    /// Routine that runs once per tick while the node is follower.
    #[must_use]
    pub fn on_follower_tick(mut self, routine: impl FollowerRoutine) -> Self {
        self.work.follower = Some(Arc::new(routine));
        self
    }

    /// Task that runs as long as the node is leader. May be called several times.
    #[must_use]
    pub fn leader_task(mut self, task: impl LeaderTask) -> Self {
        self.work.tasks.push(Arc::new(task));
        self
    }

    /// Worker for the shards of a work type. May be called several times, once per work type.
    #[must_use]
    pub fn worker(mut self, worker: WorkerOptions) -> Self {
        self.workers.push(worker);
        self
    }

    /// How long work may take. See [`RoutineLimits`].
    #[must_use]
    pub fn limits(mut self, limits: RoutineLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Deadline of each call of [`Node`](super::Node) that takes none as an argument. Default 5 s.
    #[must_use]
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Metrics that the node updates. By default no registry collects them.
    #[must_use]
    pub fn metrics(mut self, metrics: NodeMetrics) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Registers the node's metrics, unless the builder has metrics already.
    pub(crate) fn counted(mut self, registry: &Registry) -> prometheus::Result<Self> {
        if self.metrics.is_none() {
            self.metrics = Some(NodeMetrics::register(registry)?);
        }
        Ok(self)
    }

    /// Thread that the driver runs on. Default: a thread of its own.
    #[must_use]
    pub fn host(mut self, host: DriverHost) -> Self {
        self.host = Some(host);
        self
    }

    /// Name of the cluster, also its prefix in the store. Required.
    #[must_use]
    pub fn cluster(mut self, name: impl Into<String>) -> Self {
        self.cluster = Some(name.into());
        self
    }

    /// Store that holds the cluster. Other nodes may share the store. Beats go through it, so its own tasks
    /// should not run on a busy runtime (connect it through [`store_from`](Self::store_from)).
    #[must_use]
    pub fn store(self, store: Arc<dyn Store>) -> Self {
        self.stored(false, move |_, _| Ok(store))
    }

    /// Keeps the cluster in an etcd. The client runs on the driver's own runtime and counts in the node's
    /// metrics.
    #[must_use]
    pub fn etcd(self, config: EtcdConfig) -> Self {
        self.stored(false, move |keys, metrics| {
            let config = config.of_node(keys.record(), metrics.etcd.clone());
            Ok(Arc::new(EtcdStore::new(&config)?))
        })
    }

    /// Keeps the cluster in a memory store, which the nodes of one process can share. If this process has
    /// created the store, the first leader of the cluster does not wait.
    #[must_use]
    pub fn memory(self, store: &MemoryStore) -> Self {
        let store = store.clone();
        self.stored(store.is_own(), |_, _| Ok(Arc::new(store)))
    }

    /// Store that holds the cluster, created inside the driver's runtime, so that its tasks run there.
    #[must_use]
    pub fn store_from(
        self,
        factory: impl FnOnce() -> Result<Arc<dyn Store>, WorkError> + Send + 'static,
    ) -> Self {
        self.stored(false, |_, _| factory())
    }

    /// Store that holds the cluster. `is_own`: no other process has ever used the store.
    #[doc(hidden)]
    #[must_use]
    pub fn stored(
        mut self,
        is_own: bool,
        factory: impl FnOnce(&Keys, &NodeMetrics) -> Result<Arc<dyn Store>, WorkError> + Send + 'static,
    ) -> Self {
        self.own_store = is_own;
        self.store = Some(Box::new(factory));
        self
    }

    /// Policy for a node whose tick is not the cluster's. Default [`TickPolicy::Strict`].
    #[must_use]
    pub fn tick_policy(mut self, policy: TickPolicy) -> Self {
        self.tick_policy = policy;
        self
    }

    /// UID of the node's pod. With a UID the node takes the pod's exclusive lock, so that the next process
    /// of the same pod can end this node's incarnation at once if this process died.
    #[must_use]
    pub fn pod_uid(mut self, uid: impl Into<String>) -> Self {
        self.pod_uid = Some(uid.into());
        self
    }

    /// How long [`start`](super::Node::start) waits for the holder of the node's id to end before `start`
    /// fails with [`DuplicateId`](super::StartError::DuplicateId). The holder may be an earlier process of
    /// this node that was killed, and whose lease has not expired yet: a wait of a little more than the TTL
    /// covers that case. Default zero: fail at once, as the Go package does.
    #[must_use]
    pub fn id_wait(mut self, wait: Duration) -> Self {
        self.id_wait = wait;
        self
    }

    /// Keeps the node from campaigning for office. By default every node campaigns.
    #[must_use]
    pub fn never_lead(mut self) -> Self {
        self.campaigns = false;
        self
    }

    /// Runs the follower routine also beside the leader's, so that a cluster of one node does all its work.
    /// By default a leader does not follow, as in the Go package.
    #[must_use]
    pub fn also_follow(mut self) -> Self {
        self.work.also_follow = true;
        self
    }

    /// Builds the node, without starting it.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`] names the option.
    pub fn build(self) -> Result<ClusterNode, InvalidOption> {
        Ok(ClusterNode::from_options(self.validated()?))
    }

    fn validated(mut self) -> Result<NodeOptions, InvalidOption> {
        let id =
            NodeId::new(self.id.ok_or(InvalidOption::Missing("id"))?).map_err(InvalidOption::Id)?;
        let cluster = self.cluster.take().ok_or(InvalidOption::Missing("cluster"))?;
        let keys = Keys::new(&cluster)
            .map_err(|source| InvalidOption::Name { option: "cluster", source })?;
        let work = self.offers()?;
        let factory = self.store.take().ok_or(InvalidOption::Missing("store"))?;
        let host = match self.host.take() {
            Some(host) => host,
            None => DriverHost::new(&format!("bw-{id}")).map_err(InvalidOption::Thread)?,
        };
        let metrics = self.metrics.take().unwrap_or_else(NodeMetrics::unregistered);
        let store = {
            let _inside = host.handle().enter();
            factory(&keys, &metrics).map_err(InvalidOption::Store)?
        };
        let timing = store.timing();
        let failover = self.failover.unwrap_or(timing.failover);
        let ttl = self.ttl.unwrap_or(timing.ttl);
        self.check_durations(ttl)?;
        if timing.span_max < failover.d() {
            return Err(InvalidOption::Failover { d: failover.d(), most: timing.span_max });
        }
        Ok(NodeOptions {
            engine: engine::Config {
                id,
                address: self.address,
                ttl,
                timing,
                failover,
                tick: self.tick,
                tick_policy: self.tick_policy,
                pod_uid: self.pod_uid,
                work,
                campaigns: self.campaigns,
                own_store: self.own_store,
                mutant: None,
            },
            env: Env { store, keys, metrics, call_timeout: self.call_timeout },
            work: self.work,
            limits: self.limits,
            id_wait: self.id_wait,
            host,
        })
    }

    fn check_durations(&self, ttl: Duration) -> Result<(), InvalidOption> {
        let check = |option, value: Duration, ok, bounds| {
            if ok { Ok(()) } else { Err(InvalidOption::Duration { option, value, bounds }) }
        };
        let whole = ttl.subsec_nanos() == 0 && (1..=3600).contains(&ttl.as_secs());
        check("ttl", ttl, whole, "whole seconds, 1 s to 1 h")?;
        let most = Duration::from_nanos(i64::MAX as u64);
        let fits = Duration::from_millis(1) <= self.tick && self.tick <= most;
        check("tick", self.tick, fits, "1 ms to 292 years (for never)")?;
        let call = self.call_timeout;
        let fits = (Duration::from_millis(10)..=Duration::from_secs(300)).contains(&call);
        check("call_timeout", call, fits, "10 ms to 5 min")?;
        let limits = self.limits;
        check("limits.run", limits.run, !limits.run.is_zero(), "more than 0")?;
        check("limits.drain", limits.drain, !limits.drain.is_zero(), "more than 0")?;
        check(
            "limits.unfit_after",
            limits.unfit_after,
            !limits.unfit_after.is_zero(),
            "more than 0",
        )
    }

    fn offers(&mut self) -> Result<Vec<WorkOffer>, InvalidOption> {
        let mut offers = Vec::with_capacity(self.workers.len());
        for WorkerOptions { offer, runs } in self.workers.drain(..) {
            let work = offer.work.as_str();
            validate_work_type(work)
                .map_err(|source| InvalidOption::Name { option: "worker", source })?;
            let wrong = |option, value, bounds| InvalidOption::Work {
                work: work.to_owned(),
                option,
                value,
                bounds,
            };
            if !(1..=MAX_SHARDS).contains(&offer.shards) {
                return Err(wrong("shards", offer.shards, "1 to 16384"));
            }
            if offer.weight == 0 {
                return Err(wrong("weight", offer.weight, "at least 1"));
            }
            if self.work.workers.insert(offer.work.clone(), runs).is_some() {
                return Err(InvalidOption::WorkTwice(work.to_owned()));
            }
            offers.push(offer);
        }
        Ok(offers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{LeaseId, Member, ShardId},
        node::ShardContext,
        store::values::{decode_member, encode_member},
    };

    #[test]
    fn the_most_shards_that_a_worker_may_have_are_as_many_as_other_nodes_can_read() {
        let validated = |shards| {
            let idle = |_: ShardId, _: ShardContext| async { Ok(()) };
            let worker = WorkerOptions::new("rounds", idle).shards(shards);
            ClusterNode::standalone().id(1).worker(worker).validated()
        };
        let member = Member {
            lease: LeaseId(1),
            d: Duration::from_secs(1),
            f: Duration::from_secs(1),
            tick: TICK,
            policy: TickPolicy::Strict,
            pod_uid: None,
            work: validated(MAX_SHARDS).unwrap().engine.work,
            draining: false,
            campaigns: true,
        };
        assert_eq!(decode_member(&encode_member(&member)), Some(member));
        let refused = validated(MAX_SHARDS + 1).unwrap_err().to_string();
        let bounds = format!("is {}: choose 1 to {MAX_SHARDS}", MAX_SHARDS + 1);
        assert!(refused.ends_with(&bounds), "{refused}");
    }
}
