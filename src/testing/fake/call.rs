//! Requests to the fake, as the API server reads them.

use std::{collections::BTreeMap, fmt};

use http::{Method, header::CONTENT_TYPE, request::Parts};
use serde_json::{Value, json};

use super::{
    failure::Failure,
    kinds::{Kinds, Target},
    managers::Force,
    selector::Selector,
    writing::{Patch, Write},
};

/// Longest name of a field manager, in characters.
const LONGEST_MANAGER: usize = 128;

/// A request that the fake received.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// HTTP method of the request.
    pub method: Method,
    /// Path of the request, without the query.
    pub path: String,
    /// Query of the request; empty if there was none.
    pub query: String,
    /// Body of the request; `Null` if there was none.
    pub body: Value,
}

impl Call {
    /// Whether the request asks for a change.
    pub fn is_write(&self) -> bool {
        self.method != Method::GET
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// Change or answer that a request asks for.
#[derive(Debug)]
pub(super) enum Verb {
    Get,
    List(Selector),
    Watch(Selector, Watch),
    Create(Value),
    Update(Value),
    Patch(Patch),
    Delete(Value),
    DeleteAll(Value, Selector),
}

/// Where a watch begins and when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Watch {
    /// Version after which events are sent; `None` sends the present objects first.
    pub(super) after: Option<u64>,
    /// Whether a bookmark marks the end of the present objects.
    pub(super) is_list: bool,
    pub(super) timeout_seconds: Option<u64>,
}

/// A request, read in full.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) target: Target,
    pub(super) verb: Verb,
    pub(super) write: Write,
}

impl Asked {
    /// Reads a request.
    ///
    /// # Errors
    ///
    /// The [`Failure`] of a request that the API server rejects before it looks at objects.
    pub(super) fn read(
        kinds: &Kinds,
        parts: &Parts,
        body: &[u8],
        now: String,
    ) -> Result<Self, Failure> {
        let target = kinds.target(parts.uri.path())?;
        let query = parts.uri.query().unwrap_or_default().as_bytes();
        let query: BTreeMap<_, _> = form_urlencoded::parse(query).into_owned().collect();
        let get = |name: &str| query.get(name).map(String::as_str);
        let manager = get("fieldManager").unwrap_or_else(|| agent(parts));
        let write = Write {
            manager: manager.chars().take(LONGEST_MANAGER).collect(),
            is_dry_run: get("dryRun") == Some("All"),
            now,
        };
        let selector = || Selector::read(&target.kind, get("labelSelector"), get("fieldSelector"));
        let is_watch = matches!(get("watch"), Some("true" | "1"));
        let verb = match (&parts.method, &target.name) {
            (&Method::GET, None) if is_watch => Verb::Watch(selector()?, watch(&get)?),
            (&Method::GET, None) => Verb::List(selector()?),
            (&Method::GET, Some(_)) => Verb::Get,
            (&Method::POST, None) => Verb::Create(json_of(body)?),
            (&Method::PUT, Some(_)) => Verb::Update(json_of(body)?),
            (&Method::PATCH, Some(_)) => Verb::Patch(patch(parts, body, &get)?),
            (&Method::DELETE, name) => {
                let options = if body.is_empty() { json!({}) } else { json_of(body)? };
                let is_dry_run = options["dryRun"] == json!(["All"]);
                let write = Write { is_dry_run: write.is_dry_run || is_dry_run, ..write };
                let verb = match name {
                    Some(_) => Verb::Delete(options),
                    None => Verb::DeleteAll(options, selector()?),
                };
                return Ok(Self { target, verb, write });
            }
            _ => {
                let message = "the server does not allow this method on the requested resource";
                return Err(Failure::new(405, "MethodNotAllowed", message));
            }
        };
        Ok(Self { target, verb, write })
    }
}

/// Name of the program that sent the request, which owns fields if the request names no manager.
fn agent(parts: &Parts) -> &str {
    let agent = parts.headers.get(http::header::USER_AGENT).and_then(|it| it.to_str().ok());
    agent.and_then(|it| it.split('/').next()).unwrap_or("unknown")
}

fn json_of(body: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(body)
        .map_err(|why| Failure::bad_request(format!("the body of the request is not JSON: {why}")))
}

fn patch<'a>(
    parts: &Parts,
    body: &[u8],
    get: &impl Fn(&str) -> Option<&'a str>,
) -> Result<Patch, Failure> {
    let media_type = parts.headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
    match media_type.unwrap_or_default() {
        "application/merge-patch+json" => Ok(Patch::Merge(json_of(body)?)),
        "application/json-patch+json" => {
            let patch = serde_json::from_slice(body);
            let why = |why| Failure::bad_request(format!("error decoding patch: {why}"));
            Ok(Patch::Json(patch.map_err(why)?))
        }
        "application/apply-patch+yaml" => {
            let text = std::str::from_utf8(body).unwrap_or_default();
            let why = |why| Failure::bad_request(format!("error decoding YAML: {why}"));
            let force = if get("force") == Some("true") { Force::Yes } else { Force::No };
            // Clients send JSON, which needs no reading as YAML.
            let configuration = match serde_json::from_str(text) {
                Ok(configuration) => configuration,
                Err(_) => serde_saphyr::from_str(text).map_err(why)?,
            };
            Ok(Patch::Apply(configuration, force))
        }
        other => Err(Failure::unsupported(other)),
    }
}

fn watch<'a>(get: &impl Fn(&str) -> Option<&'a str>) -> Result<Watch, Failure> {
    let number = |name: &str| match get(name) {
        None | Some("") => Ok(None),
        Some(text) => text.parse::<u64>().map(Some).map_err(|_| {
            Failure::bad_request(format!("{name}: Invalid value: {text:?}: a number is expected"))
        }),
    };
    let after = number("resourceVersion")?.filter(|version| *version != 0);
    let is_list = get("sendInitialEvents") == Some("true");
    let after = after.filter(|_| !is_list);
    Ok(Watch { after, is_list, timeout_seconds: number("timeoutSeconds")? })
}
