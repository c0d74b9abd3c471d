//! Rules of the replica that a test leaves out on purpose.

/// Rule that a test leaves out on purpose, to see that its programs notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flaw {
    /// A call that changes nothing is answered without a confirmation.
    AnswersUnconfirmed,
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
    /// An object that was made anew counts as the same store.
    SameClusterByName,
}
