//! Errors of the API, as the `Status` objects that the API server answers with.

use std::fmt;

use serde_json::{Value, json};

/// An error that the fake answers a request with.
///
/// ```
/// use bellwether::testing::Failure;
///
/// let busy = Failure::new(429, "TooManyRequests", "the server is busy");
/// assert_eq!(busy.code(), 429);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    code: u16,
    reason: String,
    message: String,
    details: Value,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.code, self.reason, self.message)
    }
}

impl Failure {
    /// Creates an error with a status code, a reason (for example `Conflict`) and a message.
    pub fn new(code: u16, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), message: message.into(), details: Value::Null }
    }

    /// The status code of the answer.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The reason of the error, as programs compare it.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The error as a `Status` object.
    pub(super) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }

    fn about(mut self, of: &About<'_>) -> Self {
        let mut details = json!({ "name": of.name, "kind": of.resource });
        if !of.group.is_empty() {
            details["group"] = json!(of.group);
        }
        self.details = details;
        self
    }

    fn caused(mut self, reason: &str, message: &str, field: &str) -> Self {
        let cause = json!({ "reason": reason, "message": message, "field": field });
        match self.details.get_mut("causes").and_then(Value::as_array_mut) {
            Some(causes) => causes.push(cause),
            None => self.details["causes"] = json!([cause]),
        }
        self
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// The path leads to nothing that the fake serves.
    pub(super) fn not_served(path: &str) -> Self {
        let message = format!(
            "the server could not find the requested resource: the fake serves nothing at {path} (register \
             a custom resource by `Fake::custom`, another kind by `Fake::kind`)"
        );
        Self::new(404, "NotFound", message)
    }

    pub(super) fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    pub(super) fn unsupported(media_type: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format: the fake takes merge patches, JSON patches and \
             server-side apply, not {media_type}"
        );
        Self::new(415, "UnsupportedMediaType", message)
    }
}

/// The object that an error is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct About<'a> {
    pub(super) group: &'a str,
    /// Plural name of the kind.
    pub(super) resource: &'a str,
    pub(super) kind: &'a str,
    pub(super) name: &'a str,
}

impl About<'_> {
    /// The same object, named by its kind in place of the plural name.
    fn of_kind(&self) -> Self {
        Self { resource: self.kind, ..*self }
    }

    fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }

    pub(super) fn not_found(&self) -> Failure {
        let message = format!("{} \"{}\" not found", self.qualified(), self.name);
        Failure::new(404, "NotFound", message).about(self)
    }

    pub(super) fn already_exists(&self, is_deleted: bool) -> Failure {
        let prefix = if is_deleted { "object is being deleted: " } else { "" };
        let message = format!("{prefix}{} \"{}\" already exists", self.qualified(), self.name);
        Failure::new(409, "AlreadyExists", message).about(self)
    }

    pub(super) fn conflict(&self, why: &str) -> Failure {
        let what = self.qualified();
        let message = format!("Operation cannot be fulfilled on {what} \"{}\": {why}", self.name);
        Failure::new(409, "Conflict", message).about(self)
    }

    pub(super) fn changed(&self) -> Failure {
        self.conflict(
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub(super) fn another_uid(&self, asked: &str, found: &str) -> Failure {
        self.conflict(&format!(
            "Precondition failed: UID in precondition: {asked}, UID in object meta: {found}"
        ))
    }

    /// A precondition of a deletion does not hold.
    pub(super) fn unmet(&self, field: &str, asked: &str, found: &str, hint: &str) -> Failure {
        self.of_kind().conflict(&format!(
            "the {field} in the precondition ({asked}) does not match the {field} in record ({found}). The \
             object might have been {hint}"
        ))
    }

    /// A field has a value that the kind does not allow.
    pub(super) fn invalid(&self, reason: &str, field: &str, why: &str) -> Failure {
        let about = self.of_kind();
        let message = format!("{} \"{}\" is invalid: {field}: {why}", about.qualified(), self.name);
        Failure::new(422, "Invalid", message).about(&about).caused(reason, why, field)
    }

    /// A JSON patch does not fit the object.
    pub(super) fn patch_failed() -> Failure {
        let message = "the server rejected our request due to an error in our request";
        Failure { details: json!({}), ..Failure::new(422, "Invalid", message) }
    }

    /// Other managers own fields that an apply would change: managers, each with its fields.
    pub(super) fn owned_by_others(conflicts: &[(String, Vec<String>)]) -> Failure {
        let count: usize = conflicts.iter().map(|(_, fields)| fields.len()).sum();
        let described = match conflicts {
            [(manager, fields)] if fields.len() == 1 => {
                format!("conflict with {manager}: {}", fields[0])
            }
            all => {
                let described = all.iter().map(|(manager, fields)| {
                    format!("conflicts with {manager}:\n- {}", fields.join("\n- "))
                });
                described.collect::<Vec<_>>().join("\n")
            }
        };
        let noun = if count == 1 { "conflict" } else { "conflicts" };
        let message = format!("Apply failed with {count} {noun}: {described}");
        let mut failure = Failure::new(409, "Conflict", message);
        failure.details = json!({});
        for (manager, fields) in conflicts {
            let why = format!("conflict with {manager}");
            for field in fields {
                failure = failure.caused("FieldManagerConflict", &why, field);
            }
        }
        failure
    }
}
