//! The page's buttons, and who may not press them.
//!
//! The server knows no users, so a foreign web page in an operator's browser must not be able to act
//! in his name. Four things are asked of a request: a header that a foreign page cannot send without
//! being asked first (we never answer that question), the browser's word that page and server are one
//! (`Sec-Fetch-Site`, `Origin`), and a host name that nobody else's DNS can point here.

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

/// The header; its value does not matter.
const HEADER: &str = "x-bellwether-action";
/// An action's body may not be larger.
pub(super) const MAX_BODY_BYTES: usize = 4096;

/// What an action may be told. An empty body tells nothing.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    /// The id of the node it is for; the leader's if there is none.
    node: Option<String>,
}

/// `POST /actions/{name}`
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

/// Why a request does not come from our own page, if it does not.
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
        // A proxy may ask under a name of its own: then the page's own name must be among those that are allowed.
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

/// Whether nobody else's DNS can have led here under that name.
fn is_own_host(host: &str, names: &[String]) -> bool {
    let name = name_of(host);
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || is_known_name(host, names)
}

fn is_known_name(host: &str, names: &[String]) -> bool {
    names.iter().any(|known| known.eq_ignore_ascii_case(name_of(host)))
}

/// A host without its port.
fn name_of(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

#[cfg(test)]
mod tests;
