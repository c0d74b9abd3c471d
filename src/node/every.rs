//! Leader's work with a period longer than a tick, which a new leader does not repeat.
//!
//! The store holds the time of the last run, as Unix time: leaders on different machines have no other
//! common clock. A wall clock that is wrong shifts a run by its error, by one period at most; it never
//! makes one leader run twice in a period.

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{select, time::sleep};

use super::{
    context::LeaderContext,
    fenced::FencedError,
    gate::Gate as _,
    guarded::{self, Failed, Guard, Place, Policy, Write},
    work::{LeaderTask, WorkError},
};
use crate::{
    clock::{self, millis},
    engine::Revision,
    store::{Get, values},
};

#[cfg(test)]
mod tests;

/// Task that [`every`] returns.
struct Every<F> {
    name: &'static str,
    period: Duration,
    job: F,
}

/// Runs `job` once per `period` in the whole cluster, on the leader. `name` names the job in the store:
/// at most 128 bytes, no slash.
///
/// The time of a run is written to the store before the run starts. So a job whose leader dies in the
/// middle is not repeated before the next period; a job that returns an error is run again after a
/// back-off.
pub const fn every<F, Fut>(name: &'static str, period: Duration, job: F) -> impl LeaderTask
where
    F: Fn(LeaderContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), WorkError>> + Send,
{
    Every { name, period, job }
}

#[async_trait]
impl<F, Fut> LeaderTask for Every<F>
where
    F: Fn(LeaderContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), WorkError>> + Send,
{
    fn name(&self) -> &'static str {
        self.name
    }

    async fn run(&self, ctx: LeaderContext) -> Result<(), WorkError> {
        let key = ctx.env().keys.last_run(self.name)?;
        let (mut last, mut revision) = last_run(&ctx, &key).await?;
        loop {
            let now = clock::unix_ms();
            if last.is_some_and(|last| last > now) {
                // A clock that was ahead wrote this time. Count the period from now on, also for the next
                // leaders: if leaders change more often than once per period, the job would otherwise not
                // run before that time.
                revision = enter(&ctx, &key, revision, now).await?;
                last = Some(now);
            }
            let due = last.map_or(0, |last| last.saturating_add(millis(self.period)));
            // If the clock is set back meanwhile, the job must still run after at most one period.
            let wait = Duration::from_millis(due.saturating_sub(now)).min(self.period);
            select! {
                biased;
                () = ctx.cancelled() => return Ok(()),
                () = sleep(wait) => (),
            }
            let started = clock::unix_ms();
            revision = enter(&ctx, &key, revision, started).await?;
            let undo = last;
            last = Some(started);
            if let Err(error) = (self.job)(ctx.clone()).await {
                // The run failed: write the earlier time back, so that the retry does not wait for a
                // period.
                if ctx.check().is_ok() {
                    enter(&ctx, &key, revision, undo.unwrap_or(0)).await?;
                }
                return Err(error);
            }
        }
    }
}

/// Reads the time of the last run, and the revision at which it was written.
async fn last_run(ctx: &LeaderContext, key: &[u8]) -> Result<(Option<u64>, Revision), WorkError> {
    let env = ctx.env();
    let answer = guarded::read(env.call_timeout, |wait| env.store.get(Get::key(key), wait)).await?;
    let Some(kv) = answer.kvs.first() else { return Ok((None, Revision(0))) };
    Ok((values::decode_unix_ms(&kv.value), kv.modified))
}

/// T7 (fenced write of a leader): writes the time of a run, in office only.
async fn enter(
    ctx: &LeaderContext,
    key: &[u8],
    known: Revision,
    unix_ms: u64,
) -> Result<Revision, WorkError> {
    let env = ctx.env();
    let gate = Arc::clone(ctx.gate());
    let guard = || gate.is_open().then(|| Some(Guard::of_office(&env.keys, &gate)));
    let write = Write::Put { value: values::encode_unix_ms(unix_ms), lease: None };
    let (store, place) = (env.store.as_ref(), Place { key, marker: None });
    let done =
        guarded::write(store, guard, place, known, &write, Policy::Overwrite, env.call_timeout);
    match done.await {
        Ok((revision, _)) => Ok(revision),
        Err(Failed::GuardLost | Failed::Changed(_)) => {
            env.metrics.stale_rejections.inc();
            Err(FencedError::StaleTerm.into())
        }
        Err(Failed::Store(source) | Failed::Unknown(source)) => Err(source.into()),
    }
}
