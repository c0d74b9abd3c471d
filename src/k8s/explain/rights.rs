//! What RBAC refuses, and the rule that would allow it.

use std::{fmt, sync::LazyLock};

use kube::core::Status;
use regex::Regex;

use super::{Explained, Reason};

/// The rule that nobody has given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingRule {
    /// Who was refused, as RBAC knows them: `system:serviceaccount:shop:bellwether`.
    pub user: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, …
    pub verb: String,
    /// The API group; empty for the core.
    pub group: String,
    /// The plural, with the subresource if any (`pods/status`); a path if it begins with a slash.
    pub resource: String,
    /// Where; `None` for all namespaces and for what belongs to none.
    pub namespace: Option<String>,
}

impl MissingRule {
    /// The rule for a `Role` or `ClusterRole`.
    pub fn yaml(&self) -> String {
        let Self { verb, group, resource, .. } = self;
        if resource.starts_with('/') {
            return format!("- nonResourceURLs: [{resource:?}]\n  verbs: [{verb:?}]");
        }
        format!("- apiGroups: [{group:?}]\n  resources: [{resource:?}]\n  verbs: [{verb:?}]")
    }

    /// Whom to bind it to.
    fn subject(&self) -> String {
        match self.user.strip_prefix("system:serviceaccount:").and_then(|it| it.split_once(':')) {
            Some((namespace, name)) => format!("ServiceAccount {namespace}/{name}"),
            None => format!("user {}", self.user),
        }
    }

    fn remedy(&self) -> String {
        let subject = self.subject();
        let whose = match &self.namespace {
            Some(namespace) => {
                format!("a Role in namespace {namespace} that is bound to {subject}")
            }
            None => format!("a ClusterRole that is bound by a ClusterRoleBinding to {subject}"),
        };
        format!("add to {whose}:\n{}", self.yaml())
    }

    /// As the server says it.
    fn from_message(message: &str) -> Option<Self> {
        // Kubernetes' RBAC authorizer writes these words since 1.9.
        static RESOURCE: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(
                r#"User "([^"]*)" cannot (\S+) resource "([^"]+)" in API group "([^"]*)"(?: in the namespace "([^"]+)")?"#,
            )
            .expect("a valid expression")
        });
        static PATH: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(r#"User "([^"]*)" cannot (\S+) path "([^"]+)""#).expect("a valid expression")
        });
        if let Some(found) = RESOURCE.captures(message) {
            return Some(Self {
                user: found[1].to_owned(),
                verb: found[2].to_owned(),
                resource: found[3].to_owned(),
                group: found[4].to_owned(),
                namespace: found.get(5).map(|it| it.as_str().to_owned()),
            });
        }
        let found = PATH.captures(message)?;
        Some(Self {
            user: found[1].to_owned(),
            verb: found[2].to_owned(),
            resource: found[3].to_owned(),
            group: String::new(),
            namespace: None,
        })
    }
}

impl fmt::Display for MissingRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, group, resource, .. } = self;
        let of = if group.is_empty() { String::new() } else { format!(" of API group {group}") };
        let at = match &self.namespace {
            Some(namespace) => format!(" in namespace {namespace}"),
            None if resource.starts_with('/') => String::new(),
            None => " in all namespaces".to_owned(),
        };
        write!(f, "{} may not {verb} {resource}{of}{at}", self.subject())
    }
}

/// What a refusal of RBAC means; `None` if it is no such one.
pub(super) fn explain(status: &Status) -> Option<Explained> {
    if !status.is_forbidden() {
        return None;
    }
    let rule = MissingRule::from_message(&status.message)?;
    let mut explained = Explained::new(Reason::Forbidden, rule.to_string()).remedy(rule.remedy());
    explained.rule = Some(rule);
    Some(explained)
}
