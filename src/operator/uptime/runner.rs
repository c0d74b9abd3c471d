//! Runs the checks of one shard while this node owns the shard.
//!
//! # Guarantees
//!
//! * A check is never run twice at the same time, and each of its slots has at most one result: the slot is
//!   claimed in the store first, by a write that fails if another node owns the shard by then.
//! * After a cancel, the runner starts no run, and running ones may end within a second. A run that takes
//!   longer is aborted, and its slot is given back for the next owner to run, as long as enough of the slot
//!   is left for that; otherwise the run ends by itself, within its timeout. Then the runner stores which
//!   runs have ended and which slots are given back, and returns.
//! * If dropped, the runner aborts all runs at once. The next owner then finds their slots claimed without a
//!   result, and does not run those slots.
//! * Runs of all shards of the node wait for a place in one queue, and a run is claimed once it has a place.
//!   A run that waits past the end of its slot runs in the slot that is current by then.
//! * Each result names the slot of the result before it, so that readers can count the missed slots in
//!   between.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    book::{Book, Due, Told},
    check::{Check, CheckKey, Checks},
    metrics::UptimeMetrics,
    pool::{Place, Pool, Standing},
    probe::{Probe, Probed, Verdict},
    result::{CheckResult, Claim, Claims, result_key},
};
use crate::{
    causes::chain,
    engine::{ShardEpoch, ShardId},
    metrics::Counted,
    tasks,
};

#[cfg(test)]
mod tests;

/// Delay before the store, or the gate, is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Longest sleep: the wall clock may be set during a sleep.
const LONGEST_NAP: Duration = Duration::from_secs(5);
/// How long a run may go on after its shard was cancelled, unless hardly anything is left of its slot. Less
/// than `RoutineLimits::cancel_grace`, at whose end the run would be aborted; for this time no node starts a
/// run of any check of the shard.
const BROKEN_OFF_AFTER: Duration = Duration::from_secs(1);
/// Part of a slot that the next owner needs, if the slot is given back: to get the shard and to start the
/// run.
const LEFT_FOR_THE_NEXT: Duration = Duration::from_secs(1);
/// A failure later than this means that the target hangs, so it does not prove the target responsive.
const ANSWERS_WITHIN_MS: u64 = 1_000;
/// Maximum number of attempts to publish a result.
const PUBLISH_ATTEMPTS: u32 = 3;

/// Storage of a shard's claims and results.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Loads the claims as last saved by this or an earlier owner; empty if there are no claims.
    async fn load(&self) -> Result<Claims, LedgerError>;

    /// Saves all claims, if this node still owns the shard.
    async fn save(&self, claims: &Claims) -> Result<(), LedgerError>;

    /// Puts a result under this key into this node's state.
    async fn publish(&self, key: &str, result: &CheckResult) -> Result<(), LedgerError>;

    /// Deletes a result from this node's state, if it exists.
    async fn retract(&self, key: &str) -> Result<(), LedgerError>;
}

/// Error of a call to a [`Ledger`].
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another node owns the shard now. Nothing changed.
    #[error("the shard is not this node's any more")]
    NotOurs,
    /// The store failed or did not answer. The call may have taken effect; repeating it is safe.
    #[error("the store failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Check of whether this node may act on the shard at this moment.
pub trait Gate: Send + Sync {
    /// Whether this node may act now.
    fn is_open(&self) -> bool;
}

impl<F: Fn() -> bool + Send + Sync> Gate for F {
    fn is_open(&self) -> bool {
        self()
    }
}

/// Dependencies of the runs of a shard. Cheap to clone.
#[derive(Clone)]
pub struct ShardRunner {
    /// Shard whose checks are run.
    pub shard: ShardId,
    /// Total number of shards.
    pub shards: u32,
    /// Epoch of this ownership of the shard.
    pub epoch: ShardEpoch,
    /// Probe that sends the requests to the targets.
    pub probe: Arc<dyn Probe>,
    /// Storage of claims and results.
    pub ledger: Arc<dyn Ledger>,
    /// Gate that is open while this node may act on the shard.
    pub gate: Arc<dyn Gate>,
    /// Places for concurrent runs, shared by all shards that use this pool.
    pub pool: Pool,
    /// Wall clock, in milliseconds of Unix time.
    pub now_unix_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Metrics of the uptime checks.
    pub metrics: UptimeMetrics,
}

/// Runs the checks of the shard until it is cancelled and all runs have ended or are given back.
///
/// # Errors
///
/// [`LedgerError::NotOurs`] if the store shows that another node owns the shard.
///
/// # Cancel safety
///
/// If dropped, all runs end at once. The claims in the store stay correct.
pub async fn run_shard(
    runner: ShardRunner,
    mut checks: watch::Receiver<Arc<Checks>>,
    cancel: CancellationToken,
) -> Result<(), LedgerError> {
    let Some(claims) = runner.load(&cancel).await? else { return Ok(()) };
    let mut book = Book::new(runner.shard, runner.shards, claims);
    let mut running = FuturesUnordered::new();
    let mut waiting = FuturesUnordered::new();
    let gone = book.adopt(&checks.borrow_and_update());
    runner.retract(gone, &mut running);
    let mut all_are_known = false;
    while !cancel.is_cancelled() {
        let nap = runner.queue_what_is_due(&mut book, &mut waiting);
        let mut first = None;
        tokio::select! {
            biased;
            // Cancel safe: a token keeps no state per waiter.
            () = cancel.cancelled() => break,
            // Cancel safe: an admitted run that was not taken is returned by the next poll.
            Some(admitted) = waiting.next(), if !waiting.is_empty() => first = Some(admitted),
            // Cancel safe: an ended run that was not taken is returned by the next poll.
            Some(done) = running.next(), if !running.is_empty() => runner.on_done(&mut book, &mut running, done),
            // Cancel safe: an unseen change is reported by the next call.
            changed = checks.changed(), if !all_are_known => match changed {
                Ok(()) => {
                    let gone = book.adopt(&checks.borrow_and_update());
                    runner.retract(gone, &mut running);
                }
                Err(_) => all_are_known = true,
            },
            // Cancel safe: a timer.
            () = tokio::time::sleep(nap) => {}
        }
        if let Some(first) = first {
            let mut admitted = vec![first];
            while let Some(Some(next)) = waiting.next().now_or_never() {
                admitted.push(next);
            }
            runner.start(&mut book, &mut running, admitted, &cancel).await?;
        }
    }
    drop(waiting);
    while let Some(done) = running.next().await {
        let is_given_back = matches!(done, Ok(Done::GivenBack { .. }));
        runner.on_done(&mut book, &mut running, done);
        if is_given_back {
            // Saved now, because runs that still go on may continue until they are aborted.
            runner.save(&book).await;
        }
    }
    runner.save(&book).await;
    Ok(())
}

/// Outcome of a task of the runner.
enum Done {
    Ran {
        check: Arc<Check>,
        told: Option<Told>,
    },
    /// The run was aborted, and its slot is given back.
    GivenBack {
        check: Arc<Check>,
        before: Option<Claim>,
    },
    Retracted,
}

type Running = FuturesUnordered<AbortOnDropHandle<Done>>;

/// A check that has a place to run.
type Admitted = (CheckKey, Place);

/// Due checks that wait for a place.
type Waiting = FuturesUnordered<BoxFuture<'static, Admitted>>;

impl ShardRunner {
    /// Loads the claims of the shard, and retries until the store answers; `None` if cancelled before.
    async fn load(&self, cancel: &CancellationToken) -> Result<Option<Claims>, LedgerError> {
        loop {
            match cancel.run_until_cancelled(self.ledger.load()).await {
                None => return Ok(None),
                Some(Ok(claims)) => return Ok(Some(claims)),
                Some(Err(LedgerError::NotOurs)) => return Err(LedgerError::NotOurs),
                Some(Err(error)) => self.failed("load", &error),
            }
            if cancel.run_until_cancelled(tokio::time::sleep(RETRY_AFTER)).await.is_none() {
                return Ok(None);
            }
        }
    }

    fn failed(&self, operation: &'static str, error: &LedgerError) {
        self.metrics.on_store_failure(operation);
        let cause = std::error::Error::source(error).map(chain).unwrap_or_default();
        tracing::warn!(shard = self.shard.0, operation, %error, cause, "store failed an uptime check");
    }

    /// Queues all due checks for a place. Returns how long it is until the next one is due.
    fn queue_what_is_due(&self, book: &mut Book, waiting: &mut Waiting) -> Duration {
        let now = (self.now_unix_ms)();
        let due = book.due(now);
        if !due.is_empty() && !self.gate.is_open() {
            return RETRY_AFTER;
        }
        for Due { check, standing, .. } in due {
            book.waits(check.key());
            let (pool, key, gauge) =
                (self.pool.clone(), check.key().clone(), &self.metrics.waiting);
            let waits = Counted::new(gauge);
            waiting.push(Box::pin(async move {
                let _waits = waits;
                let place = pool.admit(standing).await;
                (key, place)
            }));
        }
        book.next_due_in(now).map_or(LONGEST_NAP, |nap| nap.min(LONGEST_NAP))
    }

    /// Claims the current slots of the admitted checks, and starts their runs.
    async fn start(
        &self,
        book: &mut Book,
        running: &mut Running,
        admitted: Vec<Admitted>,
        cancel: &CancellationToken,
    ) -> Result<(), LedgerError> {
        let now = (self.now_unix_ms)();
        let (mut due, mut places) = (Vec::new(), Vec::new());
        for (key, place) in admitted {
            book.waits_no_more(&key);
            if let Some(run) = book.due_of(&key, now) {
                due.push(run);
                places.push(place);
            }
        }
        if due.is_empty() || !self.gate.is_open() {
            return Ok(());
        }
        let claims = book.claims_with(&due);
        match self.ledger.save(&claims).await {
            Ok(()) => {}
            Err(LedgerError::NotOurs) => return Err(LedgerError::NotOurs),
            Err(error) => {
                // The claims may have been saved. Saving again is harmless: only this node owns the shard.
                self.failed("claim", &error);
                drop(places);
                cancel.run_until_cancelled(tokio::time::sleep(RETRY_AFTER)).await;
                return Ok(());
            }
        }
        book.claimed(claims);
        // The store may have taken long. Runs that may not start now are not run under this claim.
        let may_begin = self.gate.is_open() && !cancel.is_cancelled();
        for (due, place) in due.into_iter().zip(places) {
            if may_begin {
                book.started(due.check.key());
                running.push(self.spawn_run(due, place, cancel.clone()));
            } else {
                book.given_back(&due.check, due.before);
            }
        }
        Ok(())
    }

    /// Saves the claims if they changed. Without this the next owner still works, but takes ended runs for
    /// unfinished ones and does not run the slots that are given back.
    async fn save(&self, book: &Book) {
        if book.has_unsaved()
            && let Err(error) = self.ledger.save(book.claims()).await
        {
            self.failed("claim", &error);
        }
    }

    fn spawn_run(
        &self,
        due: Due,
        place: Place,
        cancel: CancellationToken,
    ) -> AbortOnDropHandle<Done> {
        let runner = self.clone();
        AbortOnDropHandle::new(tasks::spawn("uptime-run", async move {
            let _place = place;
            runner.run(due, cancel).await
        }))
    }

    async fn run(&self, due: Due, cancel: CancellationToken) -> Done {
        let Due { check, slot, after, failures_before, standing, before } = due;
        let ran_unix_ms = (self.now_unix_ms)();
        let late = Duration::from_millis(ran_unix_ms.saturating_sub(slot.0));
        self.metrics.lateness.observe(late.as_secs_f64());
        let slot_left = check.timing().after(slot).due_in(ran_unix_ms);
        let probed = tokio::select! {
            biased;
            // Cancel safe: dropped only together with the run, which has published nothing yet.
            probed = self.probe(&check) => probed,
            // Cancel safe: the future only waits.
            () = to_be_given_back(slot_left, &cancel) => return Done::GivenBack { check, before },
        };
        self.metrics.on_run(check.spec().target.kind(), &probed);
        let failures = match probed.verdict {
            Verdict::Up => 0,
            Verdict::Down => failures_before.saturating_add(1),
            Verdict::Unknown => failures_before,
        };
        let took_ms = (self.now_unix_ms)().saturating_sub(ran_unix_ms);
        let standing = match probed.verdict {
            Verdict::Unknown => standing,
            Verdict::Down if took_ms > ANSWERS_WITHIN_MS => Standing::Unproven,
            Verdict::Up | Verdict::Down => Standing::Proven,
        };
        let result = CheckResult {
            spec: check.spec_hash(),
            generation: check.resource().metadata.generation,
            due_unix_ms: slot.0,
            ran_unix_ms,
            epoch: self.epoch,
            verdict: probed.verdict,
            latency_us: probed
                .latency
                .map(|latency| u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)),
            certificate_expires: probed.certificate_expires,
            message: probed.message,
            failures,
            after_unix_ms: after.map(|slot| slot.0),
        };
        let is_published = self.publish(&check, &result).await;
        Done::Ran { check, told: is_published.then_some(Told { failures, standing }) }
    }

    /// Probes the target. A panic is a bug of ours, and must not stop the check permanently.
    async fn probe(&self, check: &Check) -> Probed {
        let _counted = Counted::new(&self.metrics.running);
        let asked = AssertUnwindSafe(self.probe.run(check)).catch_unwind().await;
        asked.unwrap_or_else(|_| {
            tracing::error!(target = check.spec().target.kind(), "run of an uptime check panicked");
            let message = "the run panicked, which is a bug: see the logs of the node that ran it";
            let (latency, certificate_expires) = (None, None);
            Probed {
                verdict: Verdict::Down,
                latency,
                certificate_expires,
                message: message.to_owned(),
            }
        })
    }

    async fn publish(&self, check: &Check, result: &CheckResult) -> bool {
        let key = result_key(self.shard, check.key());
        for _ in 0..PUBLISH_ATTEMPTS {
            match self.ledger.publish(&key, result).await {
                Ok(()) => return true,
                Err(error) => self.failed("publish", &error),
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
        false
    }

    /// Deletes the results of removed checks from the store.
    fn retract(&self, gone: Vec<CheckKey>, running: &mut Running) {
        for check in gone {
            let (runner, key) = (self.clone(), result_key(self.shard, &check));
            running.push(AbortOnDropHandle::new(tasks::spawn("uptime-retract", async move {
                // Leftover results are deleted by the tidying of the node state, or when this node leaves.
                if let Err(error) = runner.ledger.retract(&key).await {
                    runner.failed("retract", &error);
                }
                Done::Retracted
            })));
        }
    }

    fn on_done(
        &self,
        book: &mut Book,
        running: &mut Running,
        done: Result<Done, tokio::task::JoinError>,
    ) {
        match done {
            Ok(Done::Retracted) => {}
            Ok(Done::Ran { check, told }) => {
                if !book.ended(&check, told) {
                    // The check was removed during its run.
                    self.retract(vec![check.key().clone()], running);
                }
            }
            Ok(Done::GivenBack { check, before }) => book.given_back(&check, before),
            // Happens only when the runtime shuts down: panics are caught inside the task.
            Err(error) => {
                tracing::error!(shard = self.shard.0, %error, "run of an uptime check was lost");
            }
        }
    }
}

/// Returns when a run must be aborted so that the next owner can run its slot.
async fn to_be_given_back(slot_left: Duration, cancel: &CancellationToken) {
    let overstays = async {
        cancel.cancelled().await;
        tokio::time::sleep(BROKEN_OFF_AFTER).await;
    };
    let in_time = slot_left.saturating_sub(LEFT_FOR_THE_NEXT);
    if tokio::time::timeout(in_time, overstays).await.is_err() {
        std::future::pending::<()>().await;
    }
}
