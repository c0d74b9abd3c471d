//! Attempts that start one after the other and run concurrently, until one succeeds.

use std::{future::Future, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};

/// Returns the value of the first attempt to succeed. The next attempt starts when one has failed, or `every`
/// after the one before; earlier attempts keep running.
///
/// # Errors
///
/// All failures, in the order in which they occurred; empty if there are no attempts.
///
/// # Cancel safety
///
/// If dropped, all attempts are dropped.
pub(super) async fn first<T, E, F>(
    attempts: impl IntoIterator<Item = F>,
    every: Duration,
) -> Result<T, Vec<E>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut waiting = attempts.into_iter().peekable();
    let mut running = FuturesUnordered::new();
    let mut failed = Vec::new();
    running.extend(waiting.next());
    while !running.is_empty() {
        tokio::select! {
            biased;
            // Cancel safe: an attempt that has not ended stays in the set.
            ended = running.next() => match ended {
                Some(Ok(found)) => return Ok(found),
                Some(Err(error)) => {
                    failed.push(error);
                    running.extend(waiting.next());
                }
                None => {}
            },
            // Cancel safe: an attempt that ends first only starts the next one earlier.
            () = tokio::time::sleep(every), if waiting.peek().is_some() => {
                running.extend(waiting.next());
            }
        }
    }
    Err(failed)
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, future::BoxFuture};
    use tokio::time::{Instant, sleep};

    use super::*;

    const EVERY: Duration = Duration::from_millis(250);

    fn never() -> BoxFuture<'static, Result<u8, u8>> {
        std::future::pending().boxed()
    }

    fn after(ms: u64, result: Result<u8, u8>) -> BoxFuture<'static, Result<u8, u8>> {
        async move {
            sleep(Duration::from_millis(ms)).await;
            result
        }
        .boxed()
    }

    #[tokio::test(start_paused = true)]
    #[expect(clippy::disallowed_methods, reason = "the paused clock of this test")]
    async fn one_that_hangs_keeps_the_next_one_waiting_for_a_while_only() {
        let began = Instant::now();
        assert_eq!(first([never(), after(1, Ok(2))], EVERY).await, Ok(2));
        assert_eq!(began.elapsed(), EVERY + Duration::from_millis(1));
        // The first attempt continues meanwhile.
        let began = Instant::now();
        assert_eq!(first([after(300, Ok(1)), never()], EVERY).await, Ok(1));
        assert_eq!(began.elapsed(), Duration::from_millis(300));
        // A failed attempt starts the next one at once.
        let began = Instant::now();
        assert_eq!(first([after(1, Err(1)), after(1, Ok(2))], EVERY).await, Ok(2));
        assert_eq!(began.elapsed(), Duration::from_millis(2));
    }

    #[tokio::test(start_paused = true)]
    async fn all_failures_are_told_in_their_order() {
        assert_eq!(first([after(400, Err(1)), after(1, Err(2))], EVERY).await, Err(vec![2, 1]));
        assert_eq!(first(Vec::<BoxFuture<'_, Result<u8, u8>>>::new(), EVERY).await, Err(vec![]));
    }
}
