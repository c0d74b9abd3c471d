//! Runs user work on the user's runtime: routines tick by tick, tasks and shard workers until they are
//! cancelled.
//!
//! Every run has an [`Ending`]: `cancel` asks the work to end, `cut` drops its future at the await where it
//! waits. The driver triggers both, on its own thread. A [`Pulse`] shows the driver the time by which the
//! runner must report again: a runtime that gets no processor time, or work that blocks its thread, misses
//! that time.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use prometheus::{Gauge, Histogram, IntCounter};
use tokio::{
    select,
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::report::LastTick;
use crate::{
    clock::{self, AtomicTime},
    engine::BootTime,
    node::{NodeMetrics, RoutineLimits, gate::Gate, work::WorkError},
    tasks::panic_message,
};

/// Time that a run has to end after it was cancelled because it took too long.
pub(super) const OVERRUN_GRACE: Duration = Duration::from_secs(1);
/// An idle runner reports at least this often.
const PULSE_EVERY: Duration = Duration::from_secs(1);
/// First back-off of tasks and workers that return early.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
const AGAIN_AFTER_MOST: Duration = Duration::from_secs(10);
/// After a run of this length the back-off starts from the beginning.
const GOOD_RUN: Duration = Duration::from_secs(60);

/// Tokens by which the driver ends work.
#[derive(Clone, Debug, Default)]
pub(super) struct Ending {
    /// Cancelled when the work should end.
    pub(super) cancel: CancellationToken,
    /// Cancelled when the work's future is dropped.
    pub(super) cut: CancellationToken,
}

/// Time by which a runner must report again.
#[derive(Debug, Default)]
pub(super) struct Pulse(AtomicTime);

impl Pulse {
    /// Time within which a runner must report again if its run may take `run`.
    pub(super) const fn patience(run: Duration) -> Duration {
        run.saturating_add(OVERRUN_GRACE).saturating_add(PULSE_EVERY)
    }

    fn expect_by(&self, at: BootTime) {
        self.0.store(at);
    }

    /// Time by which the runner must report.
    pub(super) fn due(&self) -> BootTime {
        self.0.load()
    }
}

/// State of a routine: between two runs, running, or over.
///
/// Between two runs no future of the user's code exists, so there is nothing to wait for: the driver ends
/// the routine at once, and does not depend on the user's runtime, which may be busy or suspended.
#[derive(Debug, Default)]
pub(super) struct Turn(AtomicU8);

impl Turn {
    const BETWEEN: u8 = 0;
    const RUNNING: u8 = 1;
    const OVER: u8 = 2;

    /// Begins a run; false if the routine is over.
    fn begin(&self) -> bool {
        self.set(Self::BETWEEN, Self::RUNNING).is_ok()
    }

    /// Notes that the run has returned and its future was dropped.
    fn end(&self) {
        let ended = self.set(Self::RUNNING, Self::BETWEEN);
        assert!(ended.is_ok(), "a run that is under way is ended by nobody else");
    }

    /// Ends the routine unless a run is under way. Returns whether the routine is over: no run exists and
    /// none will start.
    pub(super) fn close(&self) -> bool {
        self.set(Self::BETWEEN, Self::OVER) != Err(Self::RUNNING)
    }

    fn set(&self, from: u8, to: u8) -> Result<u8, u8> {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
    }
}

/// Reason why the leader's work cannot continue on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnfitBecause {
    Panics,
    Overrun,
    Silent,
}

/// End of a run of user work.
#[derive(Debug)]
enum Run {
    Well,
    Failed(WorkError),
    Panicked(String),
    Cut,
    /// The run exceeded its limit, was cancelled, and returned.
    Overran,
    /// The run exceeded its limit, was cancelled, and was dropped.
    Overdue,
}

/// Metrics of one routine.
#[derive(Clone, Debug)]
pub(super) struct TickMetrics {
    name: &'static str,
    all: NodeMetrics,
    seconds: Histogram,
    lateness: Histogram,
    skipped: IntCounter,
    overruns: IntCounter,
    last: Gauge,
    last_tick: LastTick,
}

impl TickMetrics {
    pub(super) fn new(metrics: &NodeMetrics, name: &'static str, last_tick: &LastTick) -> Self {
        // Each counter must start at 0: Prometheus does not see the increase of a counter that starts at 1.
        for result in ["ok", "error", "panic", "cut", "overrun"] {
            metrics.ticks.with_label_values(&[name, result]);
        }
        metrics.panics.with_label_values(&[name]);
        Self {
            name,
            all: metrics.clone(),
            seconds: metrics.tick_seconds.with_label_values(&[name]),
            lateness: metrics.tick_lateness.with_label_values(&[name]),
            skipped: metrics.ticks_skipped.with_label_values(&[name]),
            overruns: metrics.tick_overruns.with_label_values(&[name]),
            last: metrics.last_tick.with_label_values(&[name]),
            last_tick: last_tick.clone(),
        }
    }

    fn ended(&self, run: &Run, took: Duration) {
        self.seconds.observe(took.as_secs_f64());
        let result = match run {
            Run::Well => "ok",
            Run::Failed(_) => "error",
            Run::Panicked(_) => "panic",
            Run::Cut => "cut",
            Run::Overran | Run::Overdue => "overrun",
        };
        self.all.ticks.with_label_values(&[self.name, result]).inc();
        match run {
            Run::Well => {
                let now = clock::unix_ms();
                self.last.set(now as f64 / 1000.0);
                self.last_tick.set(now);
            }
            Run::Panicked(_) => self.all.panics.with_label_values(&[self.name]).inc(),
            Run::Overran | Run::Overdue => self.overruns.inc(),
            Run::Failed(_) | Run::Cut => (),
        }
    }
}

/// Starts a run of user work under its token. Called only while its gate is open: the driver, which
/// cancels, may be as late as the work's own runtime is.
pub(super) type Job =
    Box<dyn Fn(CancellationToken) -> BoxFuture<'static, Result<(), WorkError>> + Send + Sync>;

/// Runner that runs a routine once per tick.
pub(super) struct Ticker {
    pub(super) job: Job,
    /// Gate of the leader's routine; `None` for the follower's.
    pub(super) gate: Option<Arc<dyn Gate>>,
    pub(super) tick: watch::Receiver<Duration>,
    pub(super) ending: Ending,
    pub(super) limits: RoutineLimits,
    pub(super) pulse: Arc<Pulse>,
    pub(super) turn: Arc<Turn>,
    pub(super) metrics: TickMetrics,
    /// For the leader's routine: the driver's channel.
    pub(super) unfit: Option<mpsc::Sender<UnfitBecause>>,
}

impl Ticker {
    /// Runs until the routine is cancelled. The first tick is due at once: the change of role starts it,
    /// not a clock.
    pub(super) async fn run(mut self) {
        let mut due = clock::boot_now();
        let mut panics = 0;
        while self.wait_until(&mut due).await && self.turn.begin() {
            if self.gate.as_ref().is_some_and(|gate| !gate.is_open()) {
                // Authority is over, or is not renewed yet: no tick runs without authority.
                self.turn.end();
                self.metrics.skipped.inc();
                due = self.after(due, clock::boot_now());
                continue;
            }
            let started = clock::boot_now();
            self.metrics.lateness.observe(started.since(due).as_secs_f64());
            self.pulse.expect_by(started + Pulse::patience(self.limits.run));
            let run = self.run_once().await;
            let now = clock::boot_now();
            self.metrics.ended(&run, now.since(started));
            match run {
                Run::Well => panics = 0,
                Run::Failed(error) => {
                    tracing::warn!(routine = self.metrics.name, error, "tick failed");
                }
                Run::Panicked(message) => {
                    panics += 1;
                    tracing::error!(routine = self.metrics.name, panics, message, "tick panicked");
                    if self.limits.panics <= panics {
                        self.tell_unfit(UnfitBecause::Panics).await;
                        panics = 0;
                    }
                }
                Run::Overran => {
                    tracing::warn!(
                        routine = self.metrics.name,
                        limit_ms = self.limits.run.as_millis() as u64,
                        "tick exceeded its time limit, cancelled"
                    );
                }
                Run::Overdue => {
                    tracing::error!(
                        routine = self.metrics.name,
                        limit_ms = self.limits.run.as_millis() as u64,
                        "tick exceeded its time limit, aborted"
                    );
                    self.tell_unfit(UnfitBecause::Overrun).await;
                }
                // The turn stays `RUNNING`: the driver waits until this task is joined.
                Run::Cut => return,
            }
            self.turn.end();
            due = self.after(due, now);
        }
    }

    async fn tell_unfit(&self, why: UnfitBecause) {
        if let Some(events) = &self.unfit {
            // The driver always receives; if the driver is gone, the work is gone too.
            let _ = events.send(why).await;
        }
    }

    /// Next due time after a run that was due at `due` and ended at `now`.
    fn after(&self, due: BootTime, now: BootTime) -> BootTime {
        let tick = *self.tick.borrow();
        let next = due + tick;
        let behind = now.since(next);
        if behind.is_zero() {
            return next;
        }
        let missed = behind.as_nanos() / tick.as_nanos().max(1) + 1;
        self.metrics.skipped.inc_by(u64::try_from(missed).unwrap_or(u64::MAX));
        next + tick * u32::try_from(missed).unwrap_or(u32::MAX)
    }

    /// Waits until the next tick is due. Returns false if the routine was cancelled.
    async fn wait_until(&mut self, due: &mut BootTime) -> bool {
        loop {
            let now = clock::boot_now();
            if self.ending.cancel.is_cancelled() {
                return false;
            }
            let before = *self.tick.borrow();
            let left = due.since(now);
            if left.is_zero() {
                return true;
            }
            self.pulse.expect_by(now + Pulse::patience(self.limits.run));
            select! {
                biased;
                // All are cancel safe: the futures only wait.
                () = self.ending.cancel.cancelled() => return false,
                Ok(()) = self.tick.changed() => {
                    let tick = *self.tick.borrow_and_update();
                    *due = (*due - before + tick).max(clock::boot_now());
                }
                () = clock::sleep(left.min(PULSE_EVERY)) => (),
            }
        }
    }

    async fn run_once(&self) -> Run {
        let token = self.ending.cancel.child_token();
        let mut run = Box::pin(AssertUnwindSafe((self.job)(token.clone())).catch_unwind());
        select! {
            biased;
            ended = &mut run => return ended_by_itself(ended),
            // Cancel safe: dropping the run is the purpose of `cut`.
            () = self.ending.cut.cancelled() => return Run::Cut,
            () = sleep(self.limits.run) => (),
        }
        token.cancel();
        select! {
            biased;
            _ = &mut run => Run::Overran,
            // Cancel safe: dropping the run is the purpose of `cut`.
            () = self.ending.cut.cancelled() => Run::Cut,
            () = sleep(OVERRUN_GRACE) => Run::Overdue,
        }
    }
}

fn ended_by_itself(ended: Result<Result<(), WorkError>, Box<dyn Any + Send>>) -> Run {
    match ended {
        Ok(Ok(())) => Run::Well,
        Ok(Err(error)) => Run::Failed(error),
        Err(panic) => Run::Panicked(panic_message(panic.as_ref())),
    }
}

/// Policy for work that returns before it is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Early {
    /// The work is done.
    Done,
    /// The work is run again.
    Again,
}

/// Runner that runs a leader task or a shard worker until it is cancelled, and runs it again after a
/// back-off if it fails.
pub(super) struct Keeper {
    pub(super) name: &'static str,
    pub(super) job: Job,
    pub(super) gate: Arc<dyn Gate>,
    pub(super) ending: Ending,
    pub(super) early: Early,
    pub(super) metrics: NodeMetrics,
    /// For leader tasks: the driver's channel, and the number of panics in a row that are reported there.
    pub(super) unfit: Option<(mpsc::Sender<UnfitBecause>, u32)>,
}

impl Keeper {
    pub(super) async fn run(self) {
        let mut again_after = AGAIN_AFTER;
        let mut panics = 0;
        while !self.ending.cancel.is_cancelled() {
            if !self.gate.is_open() {
                // Authority is over, or is not renewed yet: no run starts without authority.
                select! {
                    biased;
                    // Both are cancel safe: the futures only wait.
                    () = self.ending.cancel.cancelled() => return,
                    () = sleep(AGAIN_AFTER) => continue,
                }
            }
            let started = clock::boot_now();
            let token = self.ending.cancel.child_token();
            let run = AssertUnwindSafe((self.job)(token)).catch_unwind();
            let run = select! {
                biased;
                ended = run => ended_by_itself(ended),
                // Cancel safe: dropping the run is the purpose of `cut`.
                () = self.ending.cut.cancelled() => return,
            };
            if GOOD_RUN <= clock::boot_now().since(started) {
                (again_after, panics) = (AGAIN_AFTER, 0);
            }
            match run {
                Run::Well if self.early == Early::Done => return,
                Run::Failed(error) if !self.ending.cancel.is_cancelled() => {
                    tracing::warn!(work = self.name, error, "work failed");
                }
                Run::Panicked(message) => {
                    panics += 1;
                    tracing::error!(work = self.name, panics, message, "work panicked");
                    self.panicked(panics).await;
                }
                _ => (),
            }
            select! {
                biased;
                // Both are cancel safe: the futures only wait.
                () = self.ending.cancel.cancelled() => return,
                () = sleep(again_after) => again_after = (again_after * 2).min(AGAIN_AFTER_MOST),
            }
        }
    }

    async fn panicked(&self, panics: u32) {
        let kind = if self.unfit.is_some() { "leader_task" } else { "shard" };
        self.metrics.panics.with_label_values(&[kind]).inc();
        if let Some((events, most)) = &self.unfit
            && *most <= panics
        {
            let _ = events.send(UnfitBecause::Panics).await;
        }
    }
}

#[cfg(test)]
mod tests;
