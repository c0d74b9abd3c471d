//! Purpose of each call to the store, and properties of its answer.

use crate::engine::types::{LeaseId, WorkType};

/// The purpose of a call to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    ReadJoin,
    Grant(LeaseId),
    Join(LeaseId),
    Renew(LeaseId),
    /// Gives back a lease or its keys, and ignores the answer.
    Abandon,
    ReadEnd(LeaseId),
    End(LeaseId),
    RevokeEnded(LeaseId),
    Squatter,
    Stop,
    Seed,
    Enrol,
    Withdraw(LeaseId),
    Take(u64),
    Beat(u64),
    Resign,
    Held(u64),
    Check,
    Plan(WorkType),
    DeleteHeld(LeaseId),
    WriteNode,
    WriteMember,
    WriteTickKey,
    SwitchTick,
}

impl Asked {
    /// Whether the header revision of an answer is linearizable, so that R8 (replaced store) may compare it.
    pub(super) fn is_linearizable(&self) -> bool {
        !matches!(self, Self::Renew(_) | Self::Grant(_) | Self::Abandon | Self::RevokeEnded(_))
    }

    /// Whether the call makes a revision of its own when it is done.
    pub(super) fn writes(&self) -> bool {
        match self {
            Self::Join(_)
            | Self::Stop
            | Self::Seed
            | Self::Enrol
            | Self::Take(_)
            | Self::Beat(_)
            | Self::Resign
            | Self::Held(_)
            | Self::Plan(_)
            | Self::WriteNode
            | Self::WriteMember
            | Self::WriteTickKey
            | Self::SwitchTick => true,
            Self::ReadJoin
            | Self::Grant(_)
            | Self::Renew(_)
            | Self::Abandon
            | Self::ReadEnd(_)
            | Self::End(_)
            | Self::RevokeEnded(_)
            | Self::Squatter
            | Self::Withdraw(_)
            | Self::Check
            | Self::DeleteHeld(_) => false,
        }
    }
}
