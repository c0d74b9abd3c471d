//! The status page: one HTML document, assembled at compile time, that loads no other resource.
//!
//! The one rule: content from the cluster is data. The first picture is embedded as JSON without any `<`;
//! the script sets text, never markup; and the policy allows only the script with this answer's nonce.

use axum::{
    http::{HeaderName, header},
    response::{IntoResponse, Response},
};
use serde_json::Value;

const HTML: &str = include_str!("page.html");
const CSS: &str = include_str!("page.css");
const JS: &str = concat!(
    include_str!("base.js"),
    include_str!("cluster.js"),
    include_str!("work.js"),
    include_str!("follow.js"),
);

/// Answer with the page and its first picture.
pub(super) fn response(first: &Value) -> Response {
    let nonce = format!("{:032x}", rand::random::<u128>());
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    let headers: [(HeaderName, &str); 4] = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, &policy),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    (headers, html(first, &nonce)).into_response()
}

fn html(first: &Value, nonce: &str) -> String {
    let first = embedded(first);
    let mut page = String::with_capacity(HTML.len() + CSS.len() + JS.len() + first.len() + 256);
    let mut rest = HTML;
    // Each mark occurs once and in this order, so that no mark is searched for inside inserted text.
    for (mark, text) in [("{{css}}", CSS), ("{{picture}}", &*first), ("{{js}}", JS)] {
        let (before, after) = rest.split_once(mark).expect("the page has its three marks in order");
        page.push_str(&before.replace("{{nonce}}", nonce));
        page.push_str(text);
        rest = after;
    }
    page.push_str(&rest.replace("{{nonce}}", nonce));
    page
}

/// JSON that is safe inside a script element: without `<`, no part of it can end the element or open a
/// comment.
fn embedded(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

#[cfg(test)]
mod tests;
