//! Leader's work that is slower than a tick, and is not repeated by a new leader.
//!
//! When it last ran is kept in the store, as Unix time: leaders on different machines have no other
//! common clock. A wall clock that is off shifts a run by as much, by a period at most; it never makes one
//! leader run twice in a period.

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
    clock,
    engine::Revision,
    store::{Get, values},
};

#[cfg(test)]
mod tests;

/// A [`LeaderTask`] that runs a job once per period. Made by [`every`].
#[derive(Clone, Debug)]
pub struct Every<F> {
    name: &'static str,
    period: Duration,
    job: F,
}

/// Runs `job` once per `period` in the whole cluster, on the leader. `name` names the job in the store:
/// at most 128 bytes, no slash.
///
/// A run is entered in the store before it starts, so a job whose leader dies in the middle is not
/// repeated before the next period; one that returns an error is run again after a back-off.
pub const fn every<F, Fut>(name: &'static str, period: Duration, job: F) -> Every<F>
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
                // Noted by a clock that was ahead. A period counts from now on, for the next leaders, too:
                // with leaders that change more often than that, the job would not run before that time.
                revision = enter(&ctx, &key, revision, now).await?;
                last = Some(now);
            }
            let due = last.map_or(0, |last| last.saturating_add(millis(self.period)));
            // A clock that is set back meanwhile must not keep the job from running for longer than that.
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
                // Not run well: a period must not pass before it is tried again.
                if ctx.check().is_ok() {
                    enter(&ctx, &key, revision, undo.unwrap_or(0)).await?;
                }
                return Err(error);
            }
        }
    }
}

fn millis(period: Duration) -> u64 {
    u64::try_from(period.as_millis()).unwrap_or(u64::MAX)
}

/// When it last ran, and the revision that says so.
async fn last_run(ctx: &LeaderContext, key: &[u8]) -> Result<(Option<u64>, Revision), WorkError> {
    let env = ctx.env();
    let answer = guarded::read(env.call_timeout, |wait| env.store.get(Get::key(key), wait)).await?;
    let Some(kv) = answer.kvs.first() else { return Ok((None, Revision(0))) };
    Ok((values::decode_unix_ms(&kv.value), kv.modified))
}

/// T7: enters a run, in office only.
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
