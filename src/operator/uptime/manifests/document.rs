//! One document of a YAML file.

use std::iter;

use serde::Deserialize;

use super::locate;
use crate::operator::uptime::{
    check::{Check, FieldError},
    resource::{API_VERSION, KIND, UptimeCheck},
};

/// What a document holds.
pub(super) enum Content {
    /// Nothing but comments.
    Nothing,
    /// A resource of this kind, which is none of ours.
    OtherKind(String),
    /// A check.
    Check(Box<Check>),
}

/// What is wrong with a document.
#[derive(Debug)]
pub(super) struct Malformed {
    /// Counted from one, within the document.
    pub(super) line: Option<u64>,
    /// Which field.
    pub(super) field: Option<String>,
    /// What is wrong and what to do.
    pub(super) message: String,
}

/// The documents of a file, each with the line at which it begins, counted from one.
///
/// A line that begins with `---` always begins a document, and one with `...` ends one: YAML allows
/// neither inside anything (YAML 1.2.2, 9.1.2). So a document that cannot be read does not take those
/// after it along.
pub(super) fn split(text: &str) -> impl Iterator<Item = (u64, &str)> {
    let mut rest = text;
    let mut line = 1;
    iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut length = 0;
        let mut lines = 0;
        for next in rest.split_inclusive('\n') {
            if lines > 0 && is_marker(next, "---") {
                break;
            }
            length += next.len();
            lines += 1;
            if is_marker(next, "...") {
                break;
            }
        }
        let (document, others) = rest.split_at(length);
        let at = line;
        rest = others;
        line += lines;
        Some((at, document))
    })
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Enough of a resource to tell whether it is ours.
#[derive(Deserialize)]
struct Header {
    kind: Option<String>,
}

/// Reads one document.
pub(super) fn read(document: &str) -> Result<Content, Vec<Malformed>> {
    let header: Option<Header> = serde_saphyr::from_str_with_options(document, options())
        .map_err(|error| vec![malformed(&error, None)])?;
    let Some(header) = header else { return Ok(Content::Nothing) };
    match header.kind {
        None if is_blank(document) => Ok(Content::Nothing),
        None => Err(vec![Malformed {
            line: first_line(document),
            field: Some("kind".to_owned()),
            message: format!("is missing: write `apiVersion: {API_VERSION}` and `kind: {KIND}`"),
        }]),
        Some(kind) if kind != KIND => Ok(Content::OtherKind(kind)),
        Some(_) => {
            let check =
                Check::new(resource(document)?).map_err(|errors| located(document, errors))?;
            Ok(Content::Check(Box::new(check)))
        }
    }
}

/// Whether there is nothing but comments, directives and markers.
fn is_blank(document: &str) -> bool {
    first_line(document).is_none()
}

/// The first line that holds something.
fn first_line(document: &str) -> Option<u64> {
    let holds = |line: &str| {
        let line = line.strip_prefix("---").unwrap_or(line).trim();
        !line.is_empty() && !line.starts_with(['#', '%']) && line != "..."
    };
    document.lines().position(holds).map(|at| at as u64 + 1)
}

fn resource(document: &str) -> Result<UptimeCheck, Vec<Malformed>> {
    let mut field = None;
    serde_saphyr::with_deserializer_from_str_with_options(document, options(), |deserializer| {
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            field = Some(error.path().to_string()).filter(|path| path != ".");
            error.into_inner()
        })
    })
    .map_err(|error| vec![malformed(&error, field)])
}

/// Errors show no part of the file: it may hold secrets.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! { with_snippet: false }
}

fn malformed(error: &serde_saphyr::Error, field: Option<String>) -> Malformed {
    let location = error.location();
    let line = location.map(|location| location.line());
    let text = error.to_string();
    // The place is told apart from the message.
    let message = match location {
        Some(at) => text.replace(&format!(" at line {}, column {}", at.line(), at.column()), ""),
        None => text,
    };
    let missing = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    let field = match (field, missing) {
        (Some(parent), Some(name)) => Some(format!("{parent}.{name}")),
        (None, Some(name)) => Some(name.to_owned()),
        (field, None) => field,
    };
    Malformed { line, field, message }
}

fn located(document: &str, errors: Vec<FieldError>) -> Vec<Malformed> {
    errors
        .into_iter()
        .map(|FieldError { path, message }| {
            let line = locate::line_of(document, &path).or_else(|| first_line(document));
            Malformed { line, field: Some(path), message }
        })
        .collect()
}
