//! Deliberate breaks of the protocol's rules, each of which the simulation must find.
//!
//! Without the feature `mutants` an engine ignores the mutant of its [`Config`](super::Config), and the code
//! of every break is compiled out.

/// Rule of the protocol that is left out on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// Spans and waits do without the factors for the clock's rate error.
    NoRateFactors,
    /// T15: the leader gives a draining shard away while its owner's held key still contains it.
    DrainingFreedAtOnce,
    /// T13 (RELEASE, of a shard): a node claims an epoch again that it has released.
    ReleasedClaimedAgain,
    /// T15: a shard without an owner in the plan is free at once.
    NobodyFreedAtOnce,
    /// R8 (replaced store): the node does not notice a replaced store.
    ReplacedStoreUnnoticed,
    /// R13 (useless office): a leader keeps its office although answers come too late.
    UselessOfficeKept,
    /// R13: an office counts as useless only if no answer leaves any authority.
    UselessByNoAuthority,
    /// R14 (useless ownership): an owner keeps its shards although answers come too late.
    UselessOwnershipKept,
    /// R14: an owner releases its shards and keeps its incarnation, although a claim may be on the wire.
    UselessOwnerReleases,
    /// R15 (unclaimed shards): a node that missed a claim gets the shard again at once.
    UnclaimedGivenAgain,
    /// T17 (own keys): calls for one key do not take turns, and the last answer decides which value is noted.
    OwnCallsWithoutTurns,
    /// T17: a value that was written under a lost lease counts as written under the present one.
    OwnAnswerOfLostSession,
    /// T17: the answer to a call that was made before the node left counts after the node has joined again.
    OwnAnswerAfterLeaving,
    /// T17: an answer at a smaller revision than the last one is dropped.
    OwnAnswersByRevision,
    /// T17: a call that may have taken effect is forgotten.
    OwnUnknownForgotten,
    /// T17: the put of a key by a new session does not wait for calls that are under way.
    PutBackWithoutTurn,
}
