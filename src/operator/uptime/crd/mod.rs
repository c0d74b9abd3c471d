//! `UptimeCheck`: a target that is checked at a fixed interval, and its status.
//!
//! Plain data: every value of these types can be serialized and parsed again. `operator::uptime::check`
//! decides whether a check can be run; the part of its rules that a schema or CEL can express is repeated
//! here.
//!
//! # Invariants
//!
//! Every text that the schema accepts can be parsed, so that no object of the API breaks a list of objects.

#![allow(clippy::duplicated_attributes, reason = "columns share their types and priorities")]

pub mod forms;
mod rules;
mod status_range;
pub mod target;
#[cfg(test)]
mod tests;

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::status_range::{NotAStatusRange, StatusRange};
use self::{
    forms::{MOST_CERTIFICATE_DAYS, MOST_FAILURES, MOST_STATUS_RANGES, MOST_TEXT_CHARS},
    target::Target,
};
use crate::k8s::{
    crd::{
        self, schema,
        value::{Span, UnixMs},
    },
    prelude::{Condition, CustomResource},
};

/// Kind of the resource.
pub const KIND: &str = "UptimeCheck";
/// Interval of a check that names none.
pub const DEFAULT_INTERVAL: Span = Span::secs(30);
/// Timeout of a check that names none; never longer than its interval.
pub const DEFAULT_TIMEOUT: Span = Span::secs(10);
/// Maximum length of a message, and of a target's text, in a status, in characters.
pub const MOST_MESSAGE_CHARS: usize = 1024;

/// Target of the check, its interval, and the expected answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomResource, JsonSchema)]
#[kube(
    group = "bellwether.dev",
    version = "v1alpha1",
    kind = "UptimeCheck",
    namespaced,
    status = "UptimeCheckStatus",
    derive = "PartialEq",
    shortname = "uc",
    category = "bellwether",
    doc = "A target that is asked at a fixed interval whether it is up. The followers of a bellwether cluster \
           run the checks, each those of its shards; the leader puts their results into the status.",
    printcolumn(
        name = "State",
        type_ = "string",
        json_path = ".status.state",
        description = "up, down or unknown"
    ),
    printcolumn(
        name = "Target",
        type_ = "string",
        json_path = ".status.target",
        description = "What is asked, without secrets"
    ),
    printcolumn(
        name = "Interval",
        type_ = "string",
        json_path = ".spec.interval",
        description = "Between the beginnings of two runs"
    ),
    printcolumn(
        name = "Latency",
        type_ = "string",
        json_path = ".status.latency",
        description = "How long the last answer took"
    ),
    printcolumn(
        name = "Last Change",
        type_ = "date",
        json_path = ".status.lastChange",
        description = "How long it has been in this state"
    ),
    printcolumn(
        name = "Checked By",
        type_ = "string",
        json_path = ".status.checkedBy",
        description = "The node that ran it last"
    ),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status",
        description = "Whether the spec can be run; MESSAGE of the wide table says why not"
    ),
    printcolumn(
        name = "Failures",
        type_ = "integer",
        json_path = ".status.consecutiveFailures",
        description = "How many runs have failed in a row",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.message",
        description = "Why it is in this state",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "How long ago it was created",
        priority = 1
    ),
    selectable = ".status.state",
    selectable = ".status.checkedBy"
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = rules::of_spec()))]
pub struct UptimeCheckSpec {
    /// Target of the check: exactly one of `http`, `tcp` and `dns`.
    pub target: Target,
    /// Between the beginnings of two runs, like `30s`, `1m30s` or `500ms`: `1s` to `24h`.
    #[serde(default = "default_interval")]
    #[schemars(extend("x-kubernetes-validations" = rules::of_interval()))]
    pub interval: Span,
    /// How long one run may take: `10ms` up to the interval. Default: `10s`, or the interval if that is
    /// shorter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = rules::of_timeout()))]
    pub timeout: Option<Span>,
    /// How many runs must fail in a row before the check counts as down.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    #[schemars(range(min = 1, max = MOST_FAILURES), extend("default" = 1))]
    pub failure_threshold: u32,
    /// Expectations beyond an answer at all.
    #[serde(default, skip_serializing_if = "Expect::is_nothing")]
    pub expect: Expect,
}

fn default_interval() -> Span {
    DEFAULT_INTERVAL
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_one(number: &u32) -> bool {
    *number == 1
}

impl UptimeCheckSpec {
    /// Timeout of a run, with its default.
    pub fn timeout(&self) -> Span {
        self.timeout.unwrap_or(DEFAULT_TIMEOUT.min(self.interval))
    }
}

/// Expectations beyond an answer at all. A field that is left out is not checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expect {
    /// http: the status codes that are well: numbers (`200`), ranges (`200-299`) or classes (`2xx`).
    /// Default: `2xx`, and `3xx` too where redirects are not followed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = MOST_STATUS_RANGES),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub status: Vec<StatusRange>,
    /// http: a text that the first MiB of the body holds, decoded and in its own character set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MOST_TEXT_CHARS))]
    pub body_contains: Option<String>,
    /// http: a regular expression, as Rust's `regex` crate has it, that the first MiB of the body
    /// matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MOST_TEXT_CHARS))]
    pub body_matches: Option<String>,
    /// Any target: the answer comes within this, which is not above the timeout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = rules::of_max_latency()))]
    pub max_latency: Option<Span>,
    /// http with an `https` URL: the server's certificate is valid for at least so many days more, and so are
    /// those of all servers that redirect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = MOST_CERTIFICATE_DAYS))]
    pub certificate_days: Option<u32>,
    /// dns: a text that one of the records holds, as in a zone file. An address, like `10.0.0.1`, must be
    /// the whole of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MOST_TEXT_CHARS))]
    pub answer_contains: Option<String>,
}

impl Expect {
    /// Whether nothing is expected beyond an answer.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// Result of the check. Written by bellwether.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UptimeCheckStatus {
    /// Whether the target is up: `up`, `down`, or `unknown` if no recent result says.
    #[serde(default)]
    pub state: State,
    /// The state as yes or no; missing while it is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<bool>,
    /// Target for people, without parts that may be secret: `GET https://shop.example/`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = MOST_MESSAGE_CHARS))]
    pub target: String,
    /// How long the last run waited for its answer, in whole milliseconds, rounded up. Missing if there
    /// was no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Span>,
    /// When `state` last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_change: Option<UnixMs>,
    /// When the last run began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run: Option<UnixMs>,
    /// The node that ran it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub checked_by: Option<String>,
    /// The cluster whose leader wrote this: namespace and name of its `Election`. If two clusters write it in turn, both
    /// run the check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub cluster: Option<String>,
    /// Reason for this state, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = MOST_MESSAGE_CHARS))]
    pub message: String,
    /// `metadata.generation` of the spec that was last run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How many runs have failed in a row.
    #[serde(default)]
    pub consecutive_failures: u32,
    /// When the server's certificate ends, where one was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires: Option<UnixMs>,
    /// `Accepted`: the spec can be run. `Up`: the target is up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// Cuts the text to the length that a status allows.
pub fn cut(text: String) -> String {
    crd::cut_to(text, MOST_MESSAGE_CHARS)
}

/// Whether a target is up.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// No recent result says.
    #[default]
    Unknown,
    /// The last run was well.
    Up,
    /// The last runs failed.
    Down,
}

impl State {
    /// Text of the state: `up`, `down` or `unknown`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }

    /// Whether the target is up; `None` while that is unknown.
    pub const fn is_up(self) -> Option<bool> {
        match self {
            Self::Unknown => None,
            Self::Up => Some(true),
            Self::Down => Some(false),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
