//! Execution of a call: the member, the time limits, and the reaction to a failure.
//!
//! The most important rule: a request that may have taken effect is not sent again, unless it may be
//! repeated.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use futures::future::{Either, select};

use super::{
    complaints::Called,
    errors::{Verdict, classify, unanswered, with_context},
    link::Link,
    pool::{Pool, Tried},
};
use crate::{clock, engine::types::Revision, store::StoreError};

/// Pause after a round in which every member failed.
const ROUND_PAUSE: Duration = Duration::from_millis(25);

/// Whether a call may be sent again after it may have taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Repeating the call has no effect, or the same effect.
    Safe,
    /// The call must not be repeated.
    Never,
}

/// Properties of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// Name of the call, as in the metrics.
    pub(super) name: &'static str,
    /// Whether the call may be sent again.
    pub(super) repeat: Repeat,
    /// Revision that the call asks for, if there is one.
    pub(super) asked: Revision,
    /// Time limit of the whole call.
    pub(super) timeout: Duration,
    /// Time without an answer after which a member is suspected.
    pub(super) suspect_after: Duration,
    /// Whether the call puts keys or grants a lease, which a full etcd rejects.
    pub(super) takes_space: bool,
    /// Whether an answer means that the member is in a quorum. Members that are cut off continue to answer
    /// renewals and watches for a while.
    pub(super) proves_quorum: bool,
    /// Member that is used only if there is no other.
    pub(super) avoid: Option<usize>,
}

/// Result of an attempt, and the member that it was sent to.
struct Attempt<T> {
    member: usize,
    /// Result; `None`: no answer in time.
    result: Option<Result<T, Verdict>>,
}

/// Sends a call to one member after the other until one answers, as far as the call may be repeated.
///
/// `send` is called once per attempt, with the link to use.
///
/// # Errors
///
/// As [`Store`](crate::store::Store) promises: the kind of the error shows whether the call may have taken
/// effect.
pub(super) async fn call<T, F>(
    pool: &Pool,
    call: Call,
    send: impl Fn(Arc<Link>) -> F,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, etcd_client::Error>>,
{
    let result = by_any_member(pool, call, send).await;
    let called = Called {
        name: call.name,
        takes_space: call.takes_space,
        proves_quorum: call.proves_quorum,
        silent_for: pool.all_silent_for(),
        error: result.as_ref().err(),
    };
    pool.complaints().on_call(called, clock::boot_now());
    result
}

async fn by_any_member<T, F>(
    pool: &Pool,
    call: Call,
    send: impl Fn(Arc<Link>) -> F,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, etcd_client::Error>>,
{
    let began = clock::boot_now();
    let mut tried = Tried::default();
    if let Some(avoid) = call.avoid
        && pool.len() > 1
    {
        tried.insert(avoid);
    }
    let mut last: Option<(usize, Verdict)> = None;
    loop {
        let left = call.timeout.saturating_sub(clock::boot_now().since(began));
        let member = pool.choose(tried);
        if left.is_zero() || (member.is_none() && is_hopeless(last.as_ref())) {
            return Err(give_up(pool, call, last));
        }
        let Some(member) = member else {
            tokio::time::sleep(ROUND_PAUSE.min(left)).await;
            tried = Tried::default();
            continue;
        };
        let version = pool.auth().map(|auth| auth.version());
        let attempt = attempt(pool, call, member, left, &send).await;
        let (member, endpoint) = (attempt.member, pool.endpoint(attempt.member));
        let verdict = match attempt.result {
            Some(Ok(value)) => return Ok(value),
            Some(Err(verdict)) => verdict,
            None => return Err(out_of_time(pool, call, endpoint, last)),
        };
        match verdict {
            Verdict::Reauthenticate(text) => {
                let left = call.timeout.saturating_sub(clock::boot_now().since(began));
                log_in_again(pool, call, member, version, left, text).await?;
            }
            Verdict::NotServing(_) | Verdict::Unreached(_) | Verdict::Untrusted(_) => {
                tried.insert(member);
                last = Some((member, verdict));
            }
            Verdict::Uncertain(_) | Verdict::Broken(_) if call.repeat == Repeat::Safe => {
                tried.insert(member);
                last = Some((member, verdict));
            }
            verdict => return Err(verdict.into_error(call.name, endpoint, call.asked)),
        }
    }
}

/// Whether another round is useless until an operator acts.
fn is_hopeless(last: Option<&(usize, Verdict)>) -> bool {
    matches!(last, Some((_, Verdict::Untrusted(_))))
}

fn give_up(pool: &Pool, call: Call, last: Option<(usize, Verdict)>) -> StoreError {
    match last {
        Some((member, verdict)) => verdict.into_error(call.name, pool.endpoint(member), call.asked),
        None => unanswered(call.name, pool.endpoint(pool.current()), call.timeout),
    }
}

/// Error of a call that ran out of time during an attempt, with what an earlier attempt reported: the earlier
/// failure is often the cause, and only chance decides in which attempt the time ends.
fn out_of_time(
    pool: &Pool,
    call: Call,
    endpoint: &str,
    last: Option<(usize, Verdict)>,
) -> StoreError {
    let Some((before, verdict)) = last else {
        return unanswered(call.name, endpoint, call.timeout);
    };
    StoreError::Interrupted {
        call: call.name,
        endpoint: endpoint.to_owned(),
        message: format!(
            "no answer within {:?}; before that, {} failed: {}",
            call.timeout,
            pool.endpoint(before),
            verdict.into_text()
        ),
    }
}

/// Waits for a login after a refused token.
async fn log_in_again(
    pool: &Pool,
    call: Call,
    member: usize,
    version: Option<u64>,
    left: Duration,
    text: String,
) -> Result<(), StoreError> {
    let denied = |message: String| StoreError::Denied {
        call: call.name,
        endpoint: pool.endpoint(member).to_owned(),
        message,
    };
    let (Some(auth), Some(version)) = (pool.auth(), version) else {
        return Err(denied(format!("{text}: etcd wants a user: give its name and password")));
    };
    if let Some(refused) = auth.refused_at(version) {
        // The next login is under way already; this call need not wait for its second refusal.
        auth.want_after(version);
        return Err(denied(refused));
    }
    match tokio::time::timeout(left, auth.renewed(version)).await {
        Ok(renewed) => renewed.map_err(denied),
        // The call was refused before it took effect, and no login was answered in time.
        Err(_) => Err(StoreError::Unreachable {
            call: call.name,
            endpoint: pool.endpoint(member).to_owned(),
            message: format!("{text}, and no login was answered in time"),
        }),
    }
}

/// Makes an attempt. A member that does not answer soon is suspected; a call that may be repeated is then
/// sent to another member too, and the first answer counts.
async fn attempt<T, F>(
    pool: &Pool,
    call: Call,
    member: usize,
    left: Duration,
    send: impl Fn(Arc<Link>) -> F,
) -> Attempt<T>
where
    F: Future<Output = Result<T, etcd_client::Error>>,
{
    let mut first = pin!(send_to(pool, call, member, &send));
    let soon = call.suspect_after.min(left);
    if let Ok(result) = tokio::time::timeout(soon, first.as_mut()).await {
        return Attempt { member, result: Some(result) };
    }
    pool.suspect(member);
    let rest = left.saturating_sub(soon);
    let mut not_this = Tried::default();
    not_this.insert(member);
    let other = pool.choose(not_this).filter(|_| call.repeat == Repeat::Safe);
    let Some(other) = other else {
        let result = tokio::time::timeout(rest, first).await.ok();
        return Attempt { member, result };
    };
    let second = pin!(send_to(pool, call, other, &send));
    let race = async {
        match select(first, second).await {
            Either::Left((result, second)) => {
                if is_conclusive(&result) {
                    (member, result)
                } else {
                    (other, second.await)
                }
            }
            Either::Right((result, first)) => {
                if is_conclusive(&result) {
                    (other, result)
                } else {
                    (member, first.await)
                }
            }
        }
    };
    match tokio::time::timeout(rest, race).await {
        Ok((member, result)) => Attempt { member, result: Some(result) },
        Err(_) => Attempt { member, result: None },
    }
}

fn is_conclusive<T>(result: &Result<T, Verdict>) -> bool {
    result.as_ref().map_or_else(Verdict::is_answer, |_| true)
}

/// Sends the call to one member and reports the result to the pool.
async fn send_to<T, F>(
    pool: &Pool,
    call: Call,
    member: usize,
    send: impl Fn(Arc<Link>) -> F,
) -> Result<T, Verdict>
where
    F: Future<Output = Result<T, etcd_client::Error>>,
{
    let began = clock::boot_now();
    let link = pool.link(member);
    let answered = || {
        if call.proves_quorum {
            pool.answered(member, &link, clock::boot_now().since(began));
        } else {
            link.answered();
        }
    };
    let sending = pin!(send(link.clone()));
    let error = match select(sending, pin!(link.abandoned())).await {
        Either::Left((Ok(value), _)) => {
            answered();
            return Ok(value);
        }
        Either::Left((Err(error), _)) => error,
        Either::Right(_) => {
            return Err(Verdict::Uncertain("the connection hung and was given up".to_owned()));
        }
    };
    let verdict = with_context(classify(&error), link.tls_trouble(), link.is_warm());
    match &verdict {
        Verdict::NotServing(text) | Verdict::Unreached(text) | Verdict::Broken(text) => {
            pool.failed(member, text);
        }
        Verdict::Untrusted(text) => {
            pool.failed(member, text);
            pool.leave_link(member, &link);
        }
        Verdict::Uncertain(text) => pool.note_problem(member, text),
        Verdict::Overloaded(text) | Verdict::Denied(text) => {
            answered();
            pool.note_problem(member, text);
        }
        Verdict::LeaseNotFound
        | Verdict::LeaseExists
        | Verdict::Compacted
        | Verdict::Reauthenticate(_) => answered(),
    }
    Err(verdict)
}
