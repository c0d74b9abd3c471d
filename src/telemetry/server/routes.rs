//! Routes of the server and their answers.

use std::{future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderValue, Method, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::FutureExt as _;
use serde_json::{Value, json};
use tower_http::compression::CompressionLayer;

use super::{Shared, actions, events};
use crate::telemetry::{
    metrics, page,
    source::{Leadership, Probe},
};

pub(super) const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// List of the paths, for the answer to an unknown path.
const PATHS: &str = "/ (page), /status, /events, /metrics, /livez, /readyz, /leader";

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/status", get(status))
        .route("/events", get(events::stream))
        .route("/metrics", get(metrics_text))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/leader", get(leader))
        .route("/favicon.ico", get(|| async { StatusCode::NO_CONTENT }))
        .route("/actions/{name}", post(actions::act))
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(DefaultBodyLimit::max(actions::MAX_BODY_BYTES))
        // Event streams compress their data themselves: each event must be flushed at once.
        .layer(CompressionLayer::new())
        .layer(middleware::from_fn_with_state(shared.clone(), around))
        .with_state(shared)
}

/// Adds the deadline, the common headers and the metrics to every request.
async fn around(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let path = label(request.uri().path());
    let timer = shared.metrics.duration.with_label_values(&[path]).start_timer();
    // The handlers have deadlines of their own; this one is for a body that arrives too slowly.
    let limit = shared.config.action_timeout + shared.config.answer_timeout;
    let mut response = match ask(limit, next.run(request)).await {
        Ok(response) => response,
        Err(error) => problem(error.code(), &error.to_string()),
    };
    timer.observe_duration();
    shared.metrics.requests.with_label_values(&[path, response.status().as_str()]).inc();
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Label from a closed set: every path without a handler is `other`.
fn label(path: &str) -> &'static str {
    match path {
        "/" => "/",
        "/status" => "/status",
        "/events" => "/events",
        "/metrics" => "/metrics",
        "/livez" => "/livez",
        "/readyz" => "/readyz",
        "/leader" => "/leader",
        path if path.starts_with("/actions/") => "/actions",
        _ => "other",
    }
}

async fn index(State(shared): State<Arc<Shared>>) -> Response {
    // Without a picture the page shows that and retries: operators need the page most during failures.
    let first = status_json(&shared).await.unwrap_or(Value::Null);
    page::response(&first)
}

async fn status(State(shared): State<Arc<Shared>>) -> Response {
    match status_json(&shared).await {
        Ok(status) => json(StatusCode::OK, &status),
        Err(error) => problem(error.code(), &error.to_string()),
    }
}

/// Picture from the source, and the fields that the server adds.
pub(super) async fn status_json(shared: &Shared) -> Result<Value, NoAnswer> {
    let mut status = ask(shared.config.answer_timeout, shared.source.status()).await?;
    let actions: Vec<&str> = shared.source.actions().iter().map(|action| action.name()).collect();
    if let Value::Object(fields) = &mut status {
        let server = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "actions": actions,
            "picture_every_ms": shared.config.picture_every.as_millis() as u64,
        });
        fields.insert("server".to_owned(), server);
    }
    Ok(status)
}

async fn metrics_text(State(shared): State<Arc<Shared>>) -> Response {
    match metrics::encode(&shared.registry) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!("metrics cannot be written: {error}"),
        ),
    }
}

async fn livez(State(shared): State<Arc<Shared>>) -> Response {
    probe(ask(shared.config.answer_timeout, shared.source.liveness()).await)
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    probe(ask(shared.config.answer_timeout, shared.source.readiness()).await)
}

fn probe(answer: Result<Probe, NoAnswer>) -> Response {
    let (code, body) = match answer {
        Ok(Probe::Pass(why)) => (StatusCode::OK, format!("ok: {why}\n")),
        Ok(Probe::Fail(why)) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ok: {why}\n")),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ok: {error}\n")),
    };
    (code, [(header::CONTENT_TYPE, TEXT)], body).into_response()
}

async fn leader(State(shared): State<Arc<Shared>>) -> Response {
    let leadership = match ask(shared.config.answer_timeout, shared.source.leadership()).await {
        Ok(leadership) => leadership,
        Err(error) => return problem(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    };
    let Leadership { here, leader } = leadership;
    let code = if here { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let leader = leader
        .map(|leader| json!({ "id": leader.id, "address": leader.address, "term": leader.term }));
    json(code, &json!({ "here": here, "leader": leader }))
}

async fn not_found(uri: Uri) -> Response {
    // The answer contains the path as JSON text, with nosniff: no browser reads it as a page.
    problem(StatusCode::NOT_FOUND, &format!("nothing at {}; there are: {PATHS}", uri.path()))
}

async fn not_allowed(method: Method, uri: Uri) -> Response {
    let allowed = if label(uri.path()) == "/actions" { "POST" } else { "GET and HEAD" };
    let what = format!("{method} does not work at {}; {allowed} does", uri.path());
    problem(StatusCode::METHOD_NOT_ALLOWED, &what)
}

pub(super) fn json(code: StatusCode, value: &Value) -> Response {
    (code, [(header::CONTENT_TYPE, JSON)], format!("{value}\n")).into_response()
}

pub(super) fn problem(code: StatusCode, what: &str) -> Response {
    json(code, &json!({ "error": what }))
}

/// Reason why the source gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoAnswer {
    /// The source did not answer in time.
    #[error("the node did not answer within {0:?}")]
    Late(Duration),
    /// The source panicked; the log has the panic.
    #[error("the answer failed by a panic; see the log")]
    Panicked,
}

impl NoAnswer {
    pub(super) fn code(self) -> StatusCode {
        match self {
            Self::Late(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Returns the future's answer, if it comes in time and without a panic.
pub(super) async fn ask<F: Future>(limit: Duration, future: F) -> Result<F::Output, NoAnswer> {
    // After a panic the future is dropped with all its state, and no part of it is used again.
    let guarded = AssertUnwindSafe(future).catch_unwind();
    match tokio::time::timeout(limit, guarded).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(NoAnswer::Panicked),
        Err(_) => Err(NoAnswer::Late(limit)),
    }
}
