//! Explanations of RBAC's refusals, with the rule that would allow the request.

use std::{fmt, sync::LazyLock};

use kube::core::Status;
use regex::Regex;

use super::{Explained, Reason};

/// RBAC rule that would allow a refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingRule {
    /// User that was refused, in RBAC's spelling: `system:serviceaccount:shop:bellwether`.
    pub user: String,
    /// Verb of the request: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, …
    pub verb: String,
    /// API group of the resource; empty for the core group.
    pub group: String,
    /// Plural name of the resource, with the subresource if any (`pods/status`); a URL path if it begins with a slash.
    pub resource: String,
    /// Namespace of the request; `None` for all namespaces, cluster-scoped resources and URL paths.
    pub namespace: Option<String>,
}

impl MissingRule {
    /// YAML of the rule for a `Role` or `ClusterRole`.
    pub fn yaml(&self) -> String {
        let Self { verb, group, resource, .. } = self;
        if resource.starts_with('/') {
            return format!("- nonResourceURLs: [{resource:?}]\n  verbs: [{verb:?}]");
        }
        format!("- apiGroups: [{group:?}]\n  resources: [{resource:?}]\n  verbs: [{verb:?}]")
    }

    /// Subject that the role is to be bound to.
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

    /// Parses the rule from the server's message.
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

/// Explains a refusal of RBAC; `None` for any other status.
pub(super) fn explain(status: &Status) -> Option<Explained> {
    if !status.is_forbidden() {
        return None;
    }
    let rule = MissingRule::from_message(&status.message)?;
    let mut explained = Explained::new(Reason::Forbidden, rule.to_string()).remedy(rule.remedy());
    explained.rule = Some(rule);
    Some(explained)
}
