//! Rules of the replica that a test leaves out on purpose.

/// Rule that a test leaves out on purpose, to see that its programs notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// A call that changes nothing is answered without a confirmation.
    AnswersUnconfirmed,
    /// A refused write never counts as one that took effect.
    RefusalIsFinal,
    /// A write without an answer is sent again.
    SentAgain,
    /// A write does not name the version that it replaces.
    Unconditional,
}
