//! Deliberate breaks of the protocol's rules, each of which the simulation must find.
//!
//! Without the feature `mutants` an engine ignores the mutant of its [`Config`](super::Config), and the code
//! of every break is compiled out.

/// Rule of the protocol that is left out on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// R1 (when clocks are read), R4 (what gives authority): authority counts from the receipt of the answer.
    AuthorityFromReceipt,
    /// Spans and waits do without the factors for the clock's rate error.
    NoRateFactors,
    /// R6 (when to TAKE office): no wait after an unclean end.
    NoWaitAfterUncleanEnd,
    /// R7 (clean end of an office): a node that is not in office marks the record ended.
    EndedByOutsider,
    /// R7: the record is marked ended before the work was joined.
    EndedBeforeJoined,
    /// R5 (a closed term stays closed): a closed term is resigned instead of withdrawn.
    ResignClosedTerm,
    /// R5: authority is dropped only after RESIGN was answered.
    DropAfterResigning,
    /// R5: the node goes on as if a RESIGN without an answer had not been sent.
    ResumeAfterLostResign,
    /// R3 (receipt of the record): no wait for an absent record.
    AbsentRecordNotWaitedFor,
    /// R6: a candidate waits by its own D.
    OwnDInsteadOfRecords,
    /// R4: an echo counts for the last attempt.
    EchoForLastAttempt,
    /// D changes within a term.
    DChangedInTerm,
    /// T12 (CLAIM, of a shard): a node acts on a shard without a committed claim.
    ActWithoutClaim,
    /// R6: candidates wait without limit for an oldest candidate that is not in office.
    NoPatience,
    /// T12: an unanswered claim counts as failed and is not settled.
    ClaimNotSettled,
    /// T12: CLAIM does not compare the plan.
    ClaimWithoutPlan,
    /// T14 (CHECK, of the own held key): keepalives give shard authority.
    ShardAuthorityFromKeepalive,
    /// T14: CHECK accepts any value of a held key that hangs on the own lease.
    InexactCheck,
    /// T15 (PLAN, of shards): PLAN does not compare the held keys of the owners that shards are taken from.
    PlanWithoutProof,
    /// T15: the leader gives a draining shard away while its owner's held key still contains it.
    DrainingFreedAtOnce,
    /// T15: the leader takes draining back when the owner is wanted again.
    DrainCalledOff,
    /// T13 (RELEASE, of a shard): a node claims an epoch again that it has released.
    ReleasedClaimedAgain,
    /// T15: the shards of a vanished owner are free at once.
    VanishedOwnerFreedAtOnce,
    /// T15: a shard without an owner in the plan is free at once.
    NobodyFreedAtOnce,
    /// R10 (lost session): a new incarnation keeps the shards of the old one.
    NewIncarnationKeepsShards,
    /// T13: a shard is released before its tasks have ended.
    ReleaseBeforeStopping,
    /// R8 (replaced store): the node does not notice a replaced store.
    ReplacedStoreUnnoticed,
    /// T19 (REPAIR): nodes do not repair broken candidate keys.
    NoRepair,
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
    /// R16 (renewals without answer): a node keeps a lease whose renewals are not answered.
    UnansweredRenewalsKept,
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
