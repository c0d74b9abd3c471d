//! Rules of the replica that a test leaves out on purpose.

use super::Replica;

/// Rule that a test leaves out on purpose, to see that its programs notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flaw {
    /// A call that changes nothing is answered without a confirmation.
    AnswersUnconfirmed,
    /// A read confirms the replica, also if it has found another object.
    ConfirmedByAnything,
    /// A refused write never counts as one that took effect.
    RefusalIsFinal,
    /// A write without an answer is sent again.
    SentAgain,
    /// A write does not name the version that it replaces.
    Unconditional,
    /// Users' data is written in its turn, before calls of the protocol that came later.
    UsersInTurn,
    /// A candidate of client-go that holds the Lease is not seen.
    NeighbourIgnored,
    /// An object that was created again counts as the same store.
    SameClusterByName,
}

impl Replica {
    /// Leaves a rule out, for the simulation.
    #[cfg(feature = "mutants")]
    pub fn leave_out(&mut self, flaw: Flaw) {
        self.flaw = Some(flaw);
    }

    /// Whether a test leaves this rule out.
    pub(super) fn breaks(&self, flaw: Flaw) -> bool {
        cfg!(any(test, feature = "mutants")) && self.flaw == Some(flaw)
    }
}
