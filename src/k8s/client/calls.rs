//! A request as its caller sees it: one deadline, and retries while the server is overloaded.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header::RETRY_AFTER};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use kube::client::Body;
use tokio::time::Sleep;
use tower::{BoxError, Service, ServiceExt as _};

use super::{AnswerBody, metrics::HostMetrics};
use crate::{clock, k8s::authority::Permit};

/// Size up to which the body of an answer before a retry is read and discarded, so that its connection can be
/// reused. The connection of a larger answer is closed.
const READ_AWAY: usize = 64 * 1024;
const READ_AWAY_WITHIN: Duration = Duration::from_millis(200);

/// Deadline of requests, and which answers are retried.
///
/// A request is retried after a 429 (the server did nothing), and a read also after a 503 or 504. The wait before a
/// retry is the time that the server asks for, and at least a wait that doubles, with a random part: clients that
/// were rejected together do not return together. If the wait would end after the deadline, the answer is returned
/// at once. If the last of several attempts gets a 429, the answer is returned only after the time that the server
/// asks for, so a caller that sends a new request does not send it too early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallOptions {
    /// Limit from the call to the start of the answer, with all attempts and waits; then the limit between any two
    /// pieces of the answer. For a stream (a watch, a log that is followed) only the first limit. Default 30 s.
    pub timeout: Duration,
    /// Most attempts of one request; with 1 nothing is retried. Default 6.
    pub attempts: u32,
    /// Wait before the second attempt if the server names no time. Default 100 ms.
    pub first_wait: Duration,
    /// Longest wait that `first_wait` doubles to. Default 5 s.
    pub longest_wait: Duration,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            attempts: 6,
            first_wait: Duration::from_millis(100),
            longest_wait: Duration::from_secs(5),
        }
    }
}

impl CallOptions {
    /// Wait before the next attempt; `None` if the request is not retried. `attempt` counts from 1, `draw` is random
    /// in 0..1, `left` is the time until the deadline.
    fn wait(
        &self,
        answer: &TurnedAway,
        attempt: u32,
        left: Duration,
        draw: f64,
    ) -> Option<Duration> {
        if attempt >= self.attempts || !answer.may_be_repeated() {
            return None;
        }
        let doubled = self.first_wait.saturating_mul(1_u32 << (attempt - 1).min(20));
        let own = doubled.min(self.longest_wait);
        // Between half and all of `own`; never less than the server asks for.
        let random = own.mul_f64(0.5 + draw / 2.0);
        let wait = match answer.retry_after {
            Some(asked) => asked.max(own) + random / 4,
            None => random,
        };
        (wait < left).then_some(wait)
    }

    /// How long to hold back the answer to the last attempt, so that the caller's next request is not too early.
    fn hold(
        &self,
        answer: &TurnedAway,
        attempt: u32,
        left: Duration,
        draw: f64,
    ) -> Option<Duration> {
        let is_last = self.attempts > 1 && attempt >= self.attempts;
        if !is_last || answer.status != StatusCode::TOO_MANY_REQUESTS {
            return None;
        }
        // Up to a tenth longer, so that the clients do not all return together.
        let wait = answer.retry_after?.mul_f64(1.0 + draw / 10.0);
        (wait < left).then_some(wait)
    }
}

/// An answer that may be worth another attempt.
struct TurnedAway {
    method: Method,
    status: StatusCode,
    retry_after: Option<Duration>,
}

impl TurnedAway {
    /// Whether the server did nothing, or the request only reads.
    fn may_be_repeated(&self) -> bool {
        let reads = self.method == Method::GET || self.method == Method::HEAD;
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => true,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => reads,
            _ => false,
        }
    }
}

/// Time in a `Retry-After` header, in seconds. API servers send no dates.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse::<u32>().ok().map(|seconds| Duration::from_secs(seconds.into()))
}

/// Reason that a request ended without an answer of the server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// No answer came before the deadline. A write may have been carried out or not.
    #[error("no answer to {method} {path} within {within:?}")]
    Unanswered {
        /// HTTP method of the request.
        method: Method,
        /// Path of the request, without the query.
        path: String,
        /// Deadline of the request.
        within: Duration,
    },
    /// The answer started, and then no further piece of it came.
    #[error("the answer to {method} {path} stopped coming for {within:?}")]
    Stalled {
        /// HTTP method of the request.
        method: Method,
        /// Path of the request, without the query.
        path: String,
        /// Time without a piece of the answer.
        within: Duration,
    },
}

/// Service that adds the deadline and the retries to requests.
#[derive(Clone, Debug)]
pub(super) struct Calls<S> {
    attempts: S,
    options: CallOptions,
    metrics: Arc<HostMetrics>,
}

impl<S> Calls<S> {
    pub(super) fn new(attempts: S, options: CallOptions, metrics: Arc<HostMetrics>) -> Self {
        Self { attempts, options, metrics }
    }
}

impl<S> Service<Request<Body>> for Calls<S>
where
    S: Service<Request<Body>, Response = Response<AnswerBody>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
{
    type Response = Response<AnswerBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<AnswerBody>, BoxError>> + Send>>;

    /// Always ready: the inner service is polled before each attempt.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { attempts, options, metrics } = self.clone();
        Box::pin(async move {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            let within = options.timeout;
            if let Some(permit) = Permit::of(request.extensions()) {
                permit.did_nothing();
            }
            let streams = is_stream(&request);
            let trying = tries(attempts, options, &metrics, request);
            let Ok(answer) = tokio::time::timeout(within, trying).await else {
                return Err(Box::new(CallError::Unanswered { method, path, within }) as BoxError);
            };
            if streams {
                return answer;
            }
            let stalled = CallError::Stalled { method, path, within };
            answer.map(|it| it.map(|body| Paced::new(body, stalled, within).boxed_unsync()))
        })
    }
}

/// Sends the request until an answer is not to be retried.
async fn tries<S>(
    attempts: S,
    options: CallOptions,
    metrics: &HostMetrics,
    request: Request<Body>,
) -> Result<Response<AnswerBody>, BoxError>
where
    S: Service<Request<Body>, Response = Response<AnswerBody>> + Clone,
    S::Error: Into<BoxError>,
{
    let began = clock::boot_now();
    let (parts, body) = request.into_parts();
    let mut next = Some(body);
    let mut attempt = 0;
    loop {
        attempt += 1;
        let body = next.take().expect("set before each attempt");
        // `None` for a body that can be sent only once.
        next = body.try_clone();
        let request = Request::from_parts(parts.clone(), body);
        let answer = attempts.clone().oneshot(request).await.map_err(Into::into)?;
        let away = TurnedAway {
            method: parts.method.clone(),
            status: answer.status(),
            retry_after: retry_after(answer.headers()),
        };
        let took = clock::boot_now().0.saturating_sub(began.0);
        let left = options.timeout.saturating_sub(took);
        let wait = options.wait(&away, attempt, left, rand::random());
        let (Some(wait), Some(_)) = (wait, &next) else {
            if let Some(hold) = options.hold(&away, attempt, left, rand::random()) {
                tokio::time::sleep(hold).await;
            }
            return Ok(answer);
        };
        if let Some(permit) = Permit::of(&parts.extensions) {
            // A write is retried only after an answer (429) with which the server did nothing.
            permit.did_nothing();
        }
        metrics.retried(&away.method, away.status);
        tracing::debug!(
            code = away.status.as_u16(),
            ?wait,
            attempt,
            "the API server rejected the request, retrying"
        );
        let _ = tokio::time::timeout(READ_AWAY_WITHIN, read_away(answer.into_body())).await;
        tokio::time::sleep(wait).await;
    }
}

async fn read_away(mut body: AnswerBody) {
    let mut left = READ_AWAY;
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        let Some(less) = left.checked_sub(length) else { return };
        left = less;
    }
}

/// Whether the answer may pause for long: watches, logs that are followed, upgraded connections.
fn is_stream(request: &Request<Body>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    let mut asked = query.split('&').filter_map(|it| it.split_once('='));
    request.headers().contains_key(http::header::UPGRADE)
        || asked.any(|(name, value)| {
            ["watch", "follow"].contains(&name) && ["1", "true"].contains(&value)
        })
}

/// A body that fails if no piece of it comes within a time limit.
///
/// tower-http's `TimeoutBody` would fail after a pause of the process, even if a piece has arrived meanwhile.
struct Paced {
    body: AnswerBody,
    within: Duration,
    stalled: CallError,
    sleep: Pin<Box<Sleep>>,
}

impl Paced {
    fn new(body: AnswerBody, stalled: CallError, within: Duration) -> Self {
        Self { body, within, stalled, sleep: Box::pin(tokio::time::sleep(within)) }
    }
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            let within = self.within;
            self.sleep = Box::pin(tokio::time::sleep(within));
            return Poll::Ready(frame);
        }
        self.sleep.as_mut().poll(context).map(|()| Some(Err(self.stalled.clone().into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away(method: Method, code: u16, seconds: Option<u64>) -> TurnedAway {
        TurnedAway {
            method,
            status: StatusCode::from_u16(code).unwrap(),
            retry_after: seconds.map(Duration::from_secs),
        }
    }

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn only_what_did_nothing_or_only_reads_is_tried_again() {
        let tried = |method, code| {
            CallOptions::default().wait(&away(method, code, None), 1, LONG, 0.5).is_some()
        };
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            assert!(tried(method.clone(), 429), "{method} 429");
            assert_eq!(tried(method.clone(), 503), method == Method::GET, "{method} 503");
            assert_eq!(tried(method.clone(), 504), method == Method::GET, "{method} 504");
            for code in [200, 400, 401, 403, 404, 409, 410, 422, 500, 502] {
                assert!(!tried(method.clone(), code), "{method} {code}");
            }
        }
    }

    #[test]
    fn waits_double_up_to_the_longest_and_are_spread() {
        let options = CallOptions { attempts: 100, ..CallOptions::default() };
        let wait = |attempt, draw| options.wait(&away(Method::GET, 429, None), attempt, LONG, draw);
        let ms = |attempt, draw| wait(attempt, draw).unwrap().as_millis();
        assert_eq!([ms(1, 0.0), ms(2, 0.0), ms(3, 0.0)], [50, 100, 200]);
        assert_eq!(ms(1, 1.0), 100);
        assert_eq!(ms(99, 1.0), 5000);
    }

    #[test]
    fn it_is_never_sooner_than_the_server_asks_and_never_after_the_deadline() {
        let options = CallOptions::default();
        for draw in [0.0, 0.5, 1.0] {
            let wait = options.wait(&away(Method::POST, 429, Some(2)), 1, LONG, draw).unwrap();
            assert!(
                wait >= Duration::from_secs(2) && wait < Duration::from_millis(2100),
                "{wait:?}"
            );
            let short = Duration::from_secs(2);
            assert_eq!(options.wait(&away(Method::POST, 429, Some(2)), 1, short, draw), None);
        }
        let last = options.attempts;
        assert_eq!(options.wait(&away(Method::GET, 429, None), last, LONG, 0.0), None);
    }

    #[test]
    fn the_last_answer_is_held_as_long_as_the_server_asks_where_it_asks() {
        let options = CallOptions::default();
        let hold = |code, seconds, attempt, left| {
            options.hold(&away(Method::GET, code, seconds), attempt, left, 0.0)
        };
        let last = options.attempts;
        assert_eq!(hold(429, Some(7), last, LONG), Some(Duration::from_secs(7)));
        assert_eq!(hold(429, Some(7), last - 1, LONG), None, "that one is tried again");
        assert_eq!(hold(429, Some(7), last, Duration::from_secs(7)), None, "beyond the deadline");
        assert_eq!(hold(429, None, last, LONG), None);
        assert_eq!(hold(503, Some(7), last, LONG), None);
        let once = CallOptions { attempts: 1, ..options };
        assert_eq!(once.hold(&away(Method::GET, 429, Some(7)), 1, LONG, 0.0), None);
    }

    #[test]
    fn a_retry_after_that_is_junk_is_none() {
        let of = |value: &str| {
            retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]))
        };
        assert_eq!(of("1"), Some(Duration::from_secs(1)));
        for junk in ["", "soon", "-1", "99999999999999999999", "Wed, 21 Oct 2015 07:28:00 GMT"] {
            assert_eq!(of(junk), None, "{junk}");
        }
    }

    #[test]
    fn streams_are_told_from_other_requests() {
        let is = |uri: &str| is_stream(&Request::get(uri).body(Body::empty()).unwrap());
        assert!(is("/api/v1/pods?watch=true&resourceVersion=1") && is("/api/v1/pods?&watch=1"));
        assert!(is("/api/v1/namespaces/a/pods/b/log?follow=true"));
        assert!(!is("/api/v1/pods") && !is("/api/v1/pods?watch=false&labelSelector=watch"));
    }
}
