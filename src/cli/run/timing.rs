//! Flags about time: how fast a silent leader is replaced, and the policy if the cluster's tick differs.

use bellwether::engine::{Failover, TickPolicy};
use clap::ValueEnum;

/// A failover profile by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    Fast,
    Default,
    Stable,
}

impl From<Profile> for Failover {
    fn from(profile: Profile) -> Self {
        match profile {
            Profile::Fast => Self::FAST,
            Profile::Default => Self::DEFAULT,
            Profile::Stable => Self::STABLE,
        }
    }
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
