//! Flags about time: how fast a silent leader is replaced, and the policy if the cluster's tick differs.

use clap::ValueEnum;

use crate::engine::{Failover, StoreTiming, TickPolicy};

use crate::app::{
    args::StoreKind,
    exit::{Exit, Failure},
};

/// A failover profile by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    Fast,
    Default,
    Stable,
    Calm,
}

impl Profile {
    /// Durations of this profile on a store of that kind.
    ///
    /// # Errors
    ///
    /// A [`Failure`] if the store does not have the profile.
    pub(crate) fn timing(self, kind: StoreKind) -> Result<StoreTiming, Failure> {
        let etcd = |failover| Ok(StoreTiming { failover, ..StoreTiming::ETCD });
        match (kind, self) {
            (StoreKind::Kubernetes, Self::Default) => Ok(StoreTiming::KUBERNETES),
            (StoreKind::Kubernetes, Self::Calm) => Ok(StoreTiming::KUBERNETES_CALM),
            (StoreKind::Kubernetes, Self::Fast) => Ok(StoreTiming::KUBERNETES_FAST),
            (StoreKind::Etcd | StoreKind::Memory, Self::Fast) => etcd(Failover::FAST),
            (StoreKind::Etcd | StoreKind::Memory, Self::Default) => etcd(Failover::DEFAULT),
            (StoreKind::Etcd | StoreKind::Memory, Self::Stable) => etcd(Failover::STABLE),
            (StoreKind::Kubernetes, Self::Stable) => Err(wrong("stable", "fast, default or calm")),
            (StoreKind::Etcd | StoreKind::Memory, Self::Calm) => {
                Err(wrong("calm", "fast, default or stable"))
            }
        }
    }
}

fn wrong(profile: &str, choices: &str) -> Failure {
    Failure::new(
        Exit::Usage,
        format!("--profile {profile} (BELLWETHER_PROFILE) does not exist on this store"),
    )
    .try_this(format!("choose {choices}"))
}

/// The choices for a node whose tick is not the cluster's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Policy {
    Strict,
    Adopt,
}

impl From<Policy> for TickPolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Strict => Self::Strict,
            Policy::Adopt => Self::Adopt,
        }
    }
}
