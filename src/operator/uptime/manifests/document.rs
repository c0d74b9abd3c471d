//! Documents of a YAML file: each is a check, a list of them, or something of another kind.

use std::iter;

use super::{
    shape,
    yaml::{self, Node, Part, Unreadable},
};
use crate::{
    k8s::crd::{GROUP, election},
    operator::uptime::{
        check::{Check, FieldError},
        resource::{API_VERSION, KIND, UptimeCheck},
    },
};

/// Maximum nesting depth of lists in lists.
const MOST_LISTS: usize = 4;

/// Content of a document, or of one item of a list.
pub(super) struct Item {
    /// Line within the document at which the item begins, counted from one.
    pub(super) line: u64,
    pub(super) found: Result<Content, Vec<Malformed>>,
}

/// Content of a well-formed item.
pub(super) enum Content {
    /// A resource of this kind, which is not ours.
    OtherKind(String),
    /// An uptime check that can be run.
    Check(Box<Check>),
}

/// Problem of a document, and its place.
#[derive(Debug)]
pub(super) struct Malformed {
    /// Line within the document, counted from one.
    pub(super) line: Option<u64>,
    /// Path of the field, if one can be named.
    pub(super) field: Option<String>,
    /// Text that states the problem and its remedy.
    pub(super) message: String,
}

/// Returns the documents of a file, each with the line at which it begins, counted from one.
///
/// A line that begins with `---` always begins a document, and a line that begins with `...` ends one: YAML
/// allows neither inside a document (YAML 1.2.2, 9.1.2). So a malformed document does not affect those after
/// it.
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

/// Reads one document: no items if it contains only comments, several items if it is a list.
pub(super) fn read(document: &str) -> Vec<Item> {
    let mut found = Vec::new();
    match yaml::read(document) {
        Ok(None) => {}
        Ok(Some(node)) => items(&node, "", None, 0, &mut found),
        Err(Unreadable { line, message }) => {
            let wrong = Malformed { line: Some(line), field: None, message };
            found.push(Item { line, found: Err(vec![wrong]) });
        }
    }
    found
}

/// Adds the items of this part of a document. `at` is the path of an item in its list; `kind` applies to
/// items that name no kind.
fn items(node: &Node, at: &str, kind: Option<&str>, depth: usize, found: &mut Vec<Item>) {
    let kind = node.text("kind").or(kind);
    let api_version = match node.text("apiVersion") {
        Some(api_version) => Some(api_version),
        None => (!at.is_empty() && kind == Some(KIND)).then_some(API_VERSION),
    };
    let list = match (kind, api_version) {
        (Some("List"), Some("v1")) => Some(None),
        (Some(kind), Some(API_VERSION)) => {
            kind.strip_suffix("List").filter(|of| is_ours(of)).map(Some)
        }
        _ => None,
    };
    let Some(of) = list else {
        let content = content(node, kind, api_version).map_err(|wrong| below(at, wrong));
        return found.push(Item { line: node.line, found: content });
    };
    let wrong = |line, field: &str, message: &str| {
        let message = message.to_owned();
        let field = Some(field.to_owned()).filter(|field| !field.is_empty());
        Err(below(at, vec![Malformed { line: Some(line), field, message }]))
    };
    if depth == MOST_LISTS {
        let message = "is nested too deep: write the checks as documents of their own";
        return found.push(Item { line: node.line, found: wrong(node.line, "", message) });
    }
    match node.field("items").map(|field| (&field.value.value, field.line)) {
        Some((Part::List(list), _)) => {
            for (number, item) in list.iter().enumerate() {
                items(item, &format!("{at}items[{number}]."), of, depth + 1, found);
            }
        }
        Some((Part::Null, _)) => {}
        Some((_, line)) => {
            let message = "is no list: write `- ` before each check";
            found.push(Item { line: node.line, found: wrong(line, "items", message) });
        }
        None => {
            let message = "is missing: a list has its checks there";
            found.push(Item { line: node.line, found: wrong(node.line, "items", message) });
        }
    }
}

/// Converts field paths within an item to paths within its document.
fn below(at: &str, mut wrong: Vec<Malformed>) -> Vec<Malformed> {
    for Malformed { field, .. } in wrong.iter_mut().filter(|_| !at.is_empty()) {
        let within = field.take().unwrap_or_default();
        *field = Some(format!("{at}{within}").trim_end_matches('.').to_owned());
    }
    wrong
}

/// Whether the kind belongs to our API group.
fn is_ours(kind: &str) -> bool {
    kind == KIND || kind == election::KIND
}

fn content(
    node: &Node,
    kind: Option<&str>,
    api_version: Option<&str>,
) -> Result<Content, Vec<Malformed>> {
    let wrong = |field: &str, message: String| {
        let line = Some(node.line_of(field));
        Err(vec![Malformed { line, field: Some(field.to_owned()), message }])
    };
    if !matches!(node.value, Part::Map(_)) {
        let message = format!("is no resource: begin with `apiVersion: {API_VERSION}`");
        return Err(vec![Malformed { line: Some(node.line), field: None, message }]);
    }
    let group = api_version.and_then(|it| it.split_once('/')).map(|(group, _)| group);
    let is_our_group = group.is_some_and(|group| group.eq_ignore_ascii_case(GROUP));
    match (kind, api_version) {
        (None, _) if node.field("kind").is_some() => {
            wrong("kind", format!("is no text: write `kind: {KIND}`"))
        }
        (None, _) => wrong(
            "kind",
            format!("is missing: write `apiVersion: {API_VERSION}` and `kind: {KIND}`"),
        ),
        (Some(kind), None) if looks_like_ours(kind) => {
            let what = node.field("apiVersion").map_or("is missing", |_| "is no text");
            wrong("apiVersion", format!("{what}: write `apiVersion: {API_VERSION}`"))
        }
        (Some(KIND), Some(_)) if is_our_group => check(node).map(Content::Check),
        (Some(kind), Some(API_VERSION)) if is_ours(kind) => Ok(Content::OtherKind(kind.to_owned())),
        (Some(_), Some(_)) if is_our_group => {
            wrong("kind", format!("is not known in `{GROUP}`: write `kind: {KIND}`"))
        }
        // Text that does not look like a kind is not shown, because it may be anything.
        (Some(kind), _) if is_kind(kind) => Ok(Content::OtherKind(kind.to_owned())),
        (Some(_), _) => Ok(Content::OtherKind("(not a kind)".to_owned())),
    }
}

/// Whether a kind looks like a misspelling of our kind.
fn looks_like_ours(kind: &str) -> bool {
    let kind = kind.to_ascii_lowercase();
    let kind = kind.strip_suffix("list").or(kind.strip_suffix('s')).unwrap_or(&kind);
    kind == KIND.to_ascii_lowercase()
}

fn is_kind(text: &str) -> bool {
    text.len() <= 63
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && text.starts_with(|it: char| it.is_ascii_uppercase())
}

fn check(node: &Node) -> Result<Box<Check>, Vec<Malformed>> {
    let at = |path: &str| {
        let field = Some(path.to_owned()).filter(|path| !path.is_empty());
        (Some(node.line_of(path)), field)
    };
    let mut value = shape::of_check(node).map_err(|wrong| {
        let malformed = wrong.into_iter().map(|shape::Wrong { path, message }| {
            let (line, field) = at(&path);
            Malformed { line, field, message }
        });
        malformed.collect::<Vec<_>>()
    })?;
    if let Some(resource) = value.as_object_mut() {
        resource.remove("status");
        // Items of a list of checks may omit these two, because the list has them.
        resource.entry("apiVersion").or_insert_with(|| API_VERSION.into());
        resource.entry("kind").or_insert_with(|| KIND.into());
    }
    let resource: UptimeCheck = serde_path_to_error::deserialize(value).map_err(|error| {
        // The error's own text repeats the value.
        let path = error.path().to_string();
        let (line, field) = at(&path);
        vec![Malformed { line, field, message: shape::remedy_of(&path) }]
    })?;
    let check = Check::new(resource).map_err(|errors| {
        let malformed = errors.into_iter().map(|FieldError { path, message }| {
            let (line, field) = at(&path);
            Malformed { line, field, message }
        });
        malformed.collect::<Vec<_>>()
    })?;
    Ok(Box::new(check))
}
