//! Runs the checks of one shard, while the shard is this node's.
//!
//! # Guarantees
//!
//! * A check is never run twice at once, and each of its slots comes to at most one result: the slot is
//!   claimed in the store first, by a write that fails if the shard is another node's by now.
//! * When cancelled it begins no run, and those that go on may end within a second. What goes on for
//!   longer is broken off, and its slot given back for the next owner to run, as long as enough of the
//!   slot is left for that; else it ends by itself, within its timeout. Then it notes in the store what
//!   has ended and what is given back, and returns.
//! * Dropped, it ends all runs at once; the next owner then finds their slots claimed and without a
//!   result, and leaves them out.
//! * A run waits for its place in one queue with those of all shards of the node, and is claimed when it has
//!   one. What waits past the end of its slot is run in the slot that has begun by then.
//! * Each result names the slot that was told before it, so that whoever reads it can count what is
//!   missing in between.

use std::{fmt, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use prometheus::IntGauge;
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
    engine::{ShardEpoch, ShardId},
    tasks,
};

#[cfg(test)]
mod tests;

/// After this the store is asked again, or the gate.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// The longest nap: the wall clock may be set while one sleeps.
const LONGEST_NAP: Duration = Duration::from_secs(5);
/// How long a run may go on after its shard was cancelled, unless hardly anything is left of its slot. Less
/// than `RoutineLimits::cancel_grace`, at whose end it would be cut; and for so long nobody begins a run of
/// any check of the shard.
const BROKEN_OFF_AFTER: Duration = Duration::from_secs(1);
/// What the next owner needs of a slot that is given back: to get the shard and to begin.
const LEFT_FOR_THE_NEXT: Duration = Duration::from_secs(1);
/// A target that fails later than this hangs, and is no proof of an answer.
const ANSWERS_WITHIN_MS: u64 = 1_000;
/// How often a result is offered to the store before it is given up.
const PUBLISH_ATTEMPTS: u32 = 3;

/// Where a shard's claims and results are kept.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// The claims as they were last saved, by this or a former owner; none if there are none.
    async fn load(&self) -> Result<Claims, LedgerError>;

    /// Saves the claims, all of them, if the shard is still this node's.
    async fn save(&self, claims: &Claims) -> Result<(), LedgerError>;

    /// Puts a result under its key into this node's state.
    async fn publish(&self, key: &str, result: &CheckResult) -> Result<(), LedgerError>;

    /// Takes a result out of this node's state, if it is there.
    async fn retract(&self, key: &str) -> Result<(), LedgerError>;
}

/// Why a ledger did not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The shard is not this node's any more. Nothing changed.
    #[error("the shard is not this node's any more")]
    NotOurs,
    /// The store failed, or did not answer. The call may have taken effect; it may be made again.
    #[error("the store failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Whether this node may act on the shard at this moment.
pub trait Gate: Send + Sync {
    /// Whether it may.
    fn is_open(&self) -> bool;
}

impl<F: Fn() -> bool + Send + Sync> Gate for F {
    fn is_open(&self) -> bool {
        self()
    }
}

/// What the runs of a shard need. Cheap to clone.
#[derive(Clone)]
pub struct ShardRunner {
    /// The shard.
    pub shard: ShardId,
    /// Out of how many.
    pub shards: u32,
    /// Of this ownership.
    pub epoch: ShardEpoch,
    /// Asks the targets.
    pub probe: Arc<dyn Probe>,
    /// Keeps claims and results.
    pub ledger: Arc<dyn Ledger>,
    /// Whether acting is allowed now.
    pub gate: Arc<dyn Gate>,
    /// How many checks may run at once, over all shards that share it.
    pub pool: Pool,
    /// The wall clock, in milliseconds of Unix time.
    pub now_unix_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// What is counted.
    pub metrics: UptimeMetrics,
}

impl fmt::Debug for ShardRunner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardRunner")
            .field("shard", &self.shard)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// Runs the checks of the shard until it is cancelled and what was running has ended or is given back.
///
/// # Errors
///
/// [`LedgerError::NotOurs`] if the store says that the shard is another node's.
///
/// # Cancel safety
///
/// Dropped, all runs end at once. What the store holds stays true.
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
            // Cancel safe: who has a place and was not taken is given next time.
            Some(admitted) = waiting.next(), if !waiting.is_empty() => first = Some(admitted),
            // Cancel safe: what has ended and was not taken is given next time.
            Some(done) = running.next(), if !running.is_empty() => runner.on_done(&mut book, &mut running, done),
            // Cancel safe: a change that was not seen is seen next time.
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
            // What still runs may go on until it is cut.
            runner.save(&book).await;
        }
    }
    runner.save(&book).await;
    Ok(())
}

/// What a task of a runner came to.
enum Done {
    Ran {
        check: Arc<Check>,
        told: Option<Told>,
    },
    /// It was broken off.
    GivenBack {
        check: Arc<Check>,
        before: Option<Claim>,
    },
    Retracted,
}

type Running = FuturesUnordered<AbortOnDropHandle<Done>>;

/// A check that has a place to run.
type Admitted = (CheckKey, Place);

/// What is due and waits for a place.
type Waiting = FuturesUnordered<BoxFuture<'static, Admitted>>;

impl ShardRunner {
    /// The claims of the shard, as soon as the store gives them; `None` if it is cancelled before.
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
        let causes = std::iter::successors(std::error::Error::source(error), |it| it.source());
        let cause = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        tracing::warn!(shard = self.shard.0, operation, %error, cause, "store failed an uptime check");
    }

    /// Has what is due wait for a place. Gives how long nothing more will be due.
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

    /// Claims the current slots of what has a place, and starts it.
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
                // Perhaps it was saved. To save it again is harmless: only this node can be here.
                self.failed("claim", &error);
                drop(places);
                cancel.run_until_cancelled(tokio::time::sleep(RETRY_AFTER)).await;
                return Ok(());
            }
        }
        book.claimed(claims);
        // The store may have taken long. What is not begun now is not run under this claim.
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

    /// The next owner can do without this, but would take what has ended for unfinished, and leave out what
    /// is given back.
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
            // Dropped with the run, which nobody has heard anything of yet.
            probed = self.probe(&check) => probed,
            // Cancel safe: it only waits.
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

    /// Asks the target. A panic is a bug of ours, which must not end the check for good.
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

    /// Takes results of checks that are gone out of the store.
    fn retract(&self, gone: Vec<CheckKey>, running: &mut Running) {
        for check in gone {
            let (runner, key) = (self.clone(), result_key(self.shard, &check));
            running.push(AbortOnDropHandle::new(tasks::spawn("uptime-retract", async move {
                // What is left over goes with the janitor, or with this node.
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
                    // It was removed while it ran.
                    self.retract(vec![check.key().clone()], running);
                }
            }
            Ok(Done::GivenBack { check, before }) => book.given_back(&check, before),
            // Only when the runtime ends: what may panic is caught inside.
            Err(error) => {
                tracing::error!(shard = self.shard.0, %error, "run of an uptime check was lost");
            }
        }
    }
}

/// Returns when a run that goes on is to be broken off, so that the next owner runs its slot.
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

/// Counts one more for as long as it lives.
struct Counted(IntGauge);

impl Counted {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
