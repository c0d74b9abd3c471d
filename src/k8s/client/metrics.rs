//! Metrics of requests to API servers, under client-go's names.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Method, Request, Response, StatusCode, Uri};
use prometheus::{HistogramVec, IntCounterVec};
use tower::Service;

use crate::{clock, engine::BootTime, metrics::metrics};

/// Bounds of client-go's latency buckets, in seconds.
const LATENCY: &[f64] = &[0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

/// Label `code` of an attempt that got no answer, as in client-go.
const NO_ANSWER: &str = "<error>";

metrics! { b =>
    /// Counts requests to API servers. Cheap to clone; the label `host` is the configured server.
    pub struct ClientMetrics {
        requests: IntCounterVec = b.counters("rest_client_requests_total", &["code", "method", "host"],
            "Attempts of requests to the API server, by the code of the answer, or as an error where none came.");
        seconds: HistogramVec = b.histograms("rest_client_request_duration_seconds", &["verb", "host"], LATENCY,
            "From when an attempt is sent to when its answer begins.");
        retries: IntCounterVec = b.counters("rest_client_request_retries_total", &["code", "verb", "host"],
            "Requests that were retried, by the code that caused the retry.");
    }
}

impl ClientMetrics {
    pub(super) fn of_host(self, endpoint: &Uri) -> Arc<HostMetrics> {
        let host = endpoint.authority().map_or(String::new(), |it| {
            // Without the user and password that may precede an @.
            it.port().map_or(it.host().to_owned(), |port| format!("{}:{port}", it.host()))
        });
        Arc::new(HostMetrics { metrics: self, host })
    }
}

/// The client's metrics, with the label of one server.
#[derive(Debug)]
pub(super) struct HostMetrics {
    metrics: ClientMetrics,
    host: String,
}

impl HostMetrics {
    fn attempted(&self, method: &'static str, began: BootTime, code: Option<StatusCode>) {
        let took = clock::boot_now().0.saturating_sub(began.0);
        let code = code.as_ref().map_or(NO_ANSWER, StatusCode::as_str);
        self.metrics.requests.with_label_values(&[code, method, &self.host]).inc();
        let seconds = self.metrics.seconds.with_label_values(&[method, self.host.as_str()]);
        seconds.observe(took.as_secs_f64());
    }

    pub(super) fn retried(&self, method: &Method, code: StatusCode) {
        let labels = [code.as_str(), verb(method), &self.host];
        self.metrics.retries.with_label_values(&labels).inc();
    }
}

/// The method as a label value from a closed set.
fn verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        _ => "OTHER",
    }
}

/// Service that counts the attempts sent through it.
#[derive(Clone, Debug)]
pub(super) struct Measured<S> {
    inner: S,
    metrics: Arc<HostMetrics>,
}

impl<S> Measured<S> {
    pub(super) fn new(inner: S, metrics: Arc<HostMetrics>) -> Self {
        Self { inner, metrics }
    }
}

impl<S, A, B> Service<Request<A>> for Measured<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let mut attempt = InFlight {
            metrics: Arc::clone(&self.metrics),
            method: verb(request.method()),
            began: clock::boot_now(),
            code: None,
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            attempt.code = answer.as_ref().ok().map(Response::status);
            drop(attempt);
            answer
        })
    }
}

/// An attempt that is counted when it is dropped: after its answer or error, or when its caller stops waiting.
struct InFlight {
    metrics: Arc<HostMetrics>,
    method: &'static str,
    began: BootTime,
    code: Option<StatusCode>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.metrics.attempted(self.method, self.began, self.code);
    }
}
