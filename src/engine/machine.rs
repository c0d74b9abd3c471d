//! The whole machine of one node: session, election, shards, plans, ticks.

use std::{collections::BTreeMap, time::Duration};

use super::{
    call::{Effect, Input, Office},
    timing::Failover,
    types::{BootTime, LeaseId, NodeId, Revision, Role, ShardEpoch, ShardId, WorkType},
    view::{TickPolicy, WorkOffer},
};

/// What a node was configured with. Validated by the node layer.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its id.
    pub id: NodeId,
    /// Goes into its metadata.
    pub address: String,
    /// Asked of the store for its lease; whole seconds.
    pub ttl: Duration,
    /// D and H.
    pub failover: Failover,
    /// The tick it is configured with.
    pub tick: Duration,
    /// What it does if the cluster's is another.
    pub tick_policy: TickPolicy,
    /// Its pod's UID, if it runs in one.
    pub pod_uid: Option<String>,
    /// The work it can run.
    pub work: Vec<WorkOffer>,
    /// Whether it campaigns.
    pub campaigns: bool,
    /// Whether this process has created the store itself and nobody else can have used it before
    /// (memory): then the record is seeded as ended, and the first leader need not wait.
    pub own_store: bool,
    /// The rule that is left out on purpose.
    #[cfg(feature = "mutants")]
    pub mutant: Option<super::mutant::Mutant>,
}

/// The span in which a node may act as leader, by its own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authority {
    /// In which office.
    pub office: Office,
    /// It ends here. It may have ended already.
    pub until: BootTime,
}

/// The span in which a node may act on the shards it has claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardAuthority {
    /// Names the held key.
    pub lease: LeaseId,
    /// h: what shard writes compare.
    pub held: Revision,
    /// It ends here. It may have ended already.
    pub until: BootTime,
}

/// One node's part in the protocol. See the module's docs.
#[derive(Debug)]
pub struct Engine {
    config: Config,
}

impl Engine {
    /// A node that has not done anything yet. `seed` is where its draws (lease ids, nonces) come from:
    /// random bits in production.
    pub fn new(config: Config, seed: u64) -> Self {
        let _ = seed;
        Self { config }
    }

    /// Takes in what happened and says what to do about it. `now` must not go backwards and must have
    /// been read after whatever `input` reports (R1).
    pub fn step(&mut self, now: BootTime, input: Input) -> Vec<Effect> {
        let _ = (now, input, &self.config);
        unimplemented!("written next")
    }

    /// When [`step`](Self::step) must be called next if nothing happens before; `None` at rest.
    pub fn deadline(&self) -> Option<BootTime> {
        unimplemented!("written next")
    }

    /// The authority of the office this node is in, if it is in one.
    pub fn authority(&self) -> Option<Authority> {
        unimplemented!("written next")
    }

    /// The authority over the shards this node holds, if it is joined.
    pub fn shard_authority(&self) -> Option<ShardAuthority> {
        unimplemented!("written next")
    }

    /// The shards it holds now, by its own last settled write.
    pub fn shards(&self) -> BTreeMap<(WorkType, ShardId), ShardEpoch> {
        unimplemented!("written next")
    }

    /// Its role.
    pub fn role(&self) -> Role {
        unimplemented!("written next")
    }

    /// The lease of the present incarnation, once it has joined.
    pub fn joined(&self) -> Option<LeaseId> {
        unimplemented!("written next")
    }
}

impl Config {
    /// Whether this rule is left out on purpose. Never without the feature `mutants`.
    #[cfg(feature = "mutants")]
    pub(crate) fn breaks(&self, mutant: super::mutant::Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Whether this rule is left out on purpose. Never without the feature `mutants`.
    #[cfg(not(feature = "mutants"))]
    #[expect(clippy::unused_self, reason = "the same call with and without the feature")]
    pub(crate) const fn breaks(&self, _: super::mutant::Mutant) -> bool {
        false
    }
}
