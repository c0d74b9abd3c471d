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
        self.is_linearizable()
            && !matches!(
                self,
                Self::ReadJoin
                    | Self::ReadEnd(_)
                    | Self::End(_)
                    | Self::Squatter
                    | Self::Withdraw(_)
                    | Self::Check
                    | Self::DeleteHeld(_)
            )
    }
}
