//! The page's buttons, and the checks that protect them.
//!
//! The server has no users, so a foreign web page in an operator's browser must not be able to act in the
//! operator's name. A request must meet four conditions: a header that a foreign page can send only after a
//! CORS preflight (which the server never answers), `Sec-Fetch-Site` and `Origin` that show page and server
//! to be the same, and a host name that foreign DNS cannot point to this server.

use std::{net::IpAddr, sync::Arc};

use axum::{
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use serde::Deserialize;

use super::{
    Shared,
    routes::{ask, json, problem},
};
use crate::telemetry::source::{Action, ActionError};

/// Header of an action's request; its value does not matter.
const HEADER: &str = "x-bellwether-action";
/// Largest body of an action's request.
pub(super) const MAX_BODY_BYTES: usize = 4096;

/// Body of an action's request; may be empty.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    /// Id of the node that the action is for; `None` for the leader.
    node: Option<String>,
}

/// Handles `POST /actions/{name}` for an action.
pub(super) async fn act(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let offered = shared.source.actions();
    let Some(action) = Action::from_name(&name).filter(|action| offered.contains(action)) else {
        let offered: Vec<&str> = offered.iter().map(|action| action.name()).collect();
        let offered = if offered.is_empty() { "none".to_owned() } else { offered.join(", ") };
        return problem(StatusCode::NOT_FOUND, &format!("no such action; offered: {offered}"));
    };
    if let Err(why) = is_own_page(&headers, &shared.config.action_hosts) {
        tracing::warn!(action = action.name(), why, "action refused");
        return problem(StatusCode::FORBIDDEN, why);
    }
    let order = if body.is_empty() { Ok(Order::default()) } else { serde_json::from_slice(&body) };
    let Ok(order) = order else {
        let expected = "the body must be empty or JSON: {\"node\": \"ID\"}";
        return problem(StatusCode::BAD_REQUEST, expected);
    };
    tracing::info!(action = action.name(), node = order.node, "action asked for by the page");
    match ask(shared.config.action_timeout, shared.source.act(action, order.node)).await {
        Ok(Ok(done)) => json(StatusCode::OK, &serde_json::json!({ "done": done })),
        Ok(Err(error)) => {
            tracing::warn!(action = action.name(), %error, "action not done");
            problem(status_of(&error), &error.to_string())
        }
        Err(error) => problem(error.code(), &error.to_string()),
    }
}

fn status_of(error: &ActionError) -> StatusCode {
    match error {
        ActionError::NotOffered(_) => StatusCode::NOT_FOUND,
        ActionError::Refused(_) => StatusCode::CONFLICT,
        ActionError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Checks that a request comes from our own page; the error is the reason why it does not.
fn is_own_page(headers: &HeaderMap, names: &[String]) -> Result<(), &'static str> {
    let value = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if value(HEADER).is_none() {
        return Err("the header X-Bellwether-Action is missing: use the page, or send it");
    }
    if value("sec-fetch-site").is_some_and(|site| site != "same-origin") {
        return Err("the request comes from another site");
    }
    let host = value(header::HOST.as_str()).unwrap_or_default();
    if let Some(origin) = value(header::ORIGIN.as_str()) {
        let authority = origin.split_once("://").map_or(origin, |(_, authority)| authority);
        // A proxy may send a host name of its own: then the page's own name must be among the allowed
        // names.
        if !authority.eq_ignore_ascii_case(host) && !is_known_name(authority, names) {
            return Err("the request comes from another origin");
        }
    }
    if !is_own_host(host, names) {
        return Err("actions work under localhost or a bare address only; this host name must be \
                    allowed in the configuration first");
    }
    Ok(())
}

/// Whether foreign DNS cannot have pointed to this server under that name.
fn is_own_host(host: &str, names: &[String]) -> bool {
    let name = name_of(host);
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || is_known_name(host, names)
}

fn is_known_name(host: &str, names: &[String]) -> bool {
    names.iter().any(|known| known.eq_ignore_ascii_case(name_of(host)))
}

/// Host name without its port.
fn name_of(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

#[cfg(test)]
mod tests;
