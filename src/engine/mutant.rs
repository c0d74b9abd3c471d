//! Deliberate breaks of the protocol's rules, each of which the simulation must find.
//!
//! Without the feature `mutants` the mutant of a [`Config`](super::Config) is ignored, and the code of every
//! break is compiled out.

/// One rule of the protocol, left out on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// R1, R4: authority counts from the receipt of the answer.
    AuthorityFromReceipt,
    /// Constants: spans and waits without the rate factors.
    NoRateFactors,
    /// R6: no wait after an unclean end.
    NoWaitAfterUncleanEnd,
    /// R7: a node that is not in office marks the record ended.
    EndedByOutsider,
    /// R7: the record is marked ended before the work was joined.
    EndedBeforeJoined,
    /// R5: a closed term is resigned instead of withdrawn.
    ResignClosedTerm,
    /// R5: authority is dropped only after RESIGN was answered.
    DropAfterResigning,
    /// R5: a lost RESIGN is taken as not sent.
    ResumeAfterLostResign,
    /// R3: an absent record is not waited for.
    AbsentRecordNotWaitedFor,
    /// R6: a candidate waits by its own D.
    OwnDInsteadOfRecords,
    /// R4: an echo counts for the last attempt.
    EchoForLastAttempt,
    /// D changes within a term.
    DChangedInTerm,
    /// T12: acts on a shard without a committed claim.
    ActWithoutClaim,
    /// R6: an oldest candidate that is not in office is waited for, however long.
    NoPatience,
    /// T12: an unanswered claim is not settled: taken for one that failed.
    ClaimNotSettled,
    /// T12: CLAIM does not compare the plan.
    ClaimWithoutPlan,
    /// T14: shard authority comes from keepalives.
    ShardAuthorityFromKeepalive,
    /// T14: CHECK takes any held key of the own lease as its own.
    InexactCheck,
    /// T15: PLAN does not prove that the owner's held key lacks the shard.
    PlanWithoutProof,
    /// T15: a draining shard is given away before its owner's held key lacks it.
    DrainingFreedAtOnce,
    /// T15: draining is taken back when the owner is wanted again.
    DrainCalledOff,
    /// T13: an epoch that was released is claimed again.
    ReleasedClaimedAgain,
    /// T15: the shards of a vanished owner are free at once.
    VanishedOwnerFreedAtOnce,
    /// T15: a shard that the plan gives to nobody is free at once.
    NobodyFreedAtOnce,
    /// R10: a new incarnation keeps the shards of the old one.
    NewIncarnationKeepsShards,
    /// T13: a shard is released before its tasks have ended.
    ReleaseBeforeStopping,
    /// R8: a replaced store is not noticed.
    ReplacedStoreUnnoticed,
    /// T19: broken candidate keys are not repaired.
    NoRepair,
    /// R13: an office whose answers come too late is kept.
    UselessOfficeKept,
    /// R13: an office counts as useless only if no answer leaves any authority.
    UselessByNoAuthority,
    /// R14: shards whose owner's answers come too late are kept.
    UselessOwnershipKept,
    /// R14: the shards are released within the incarnation, whatever is on the wire, and it goes on.
    UselessOwnerReleases,
    /// R15: a node that did not claim a shard in time is given it again at once.
    UnclaimedGivenAgain,
    /// R16: a lease whose renewals are not answered is kept.
    UnansweredRenewalsKept,
    /// T17: calls for one key do not take turns: what is noted is what was answered last.
    OwnCallsWithoutTurns,
    /// T17: what was written under a lost lease counts as written under the present one.
    OwnAnswerOfLostSession,
    /// T17: the answer to a call that was made before the node left counts after it has joined again.
    OwnAnswerAfterLeaving,
    /// T17: an answer at a smaller revision than the last one is dropped.
    OwnAnswersByRevision,
    /// T17: a call that may have taken effect is forgotten.
    OwnUnknownForgotten,
    /// T17: what is put back does not wait for the calls that are under way.
    PutBackWithoutTurn,
}
