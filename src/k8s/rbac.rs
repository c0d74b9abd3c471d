//! Permissions that an operator needs, computed from what its controllers declare.
//!
//! | declared | permission |
//! | --- | --- |
//! | `Controller::<K>`, `owns`, `watches`, [`Operator::cache`](super::operator::Operator::cache) | `list`, `watch` on the kind |
//! | `owns::<C>` | also `create`, `patch` on `C`, and `update` on `K/finalizers` |
//! | `writes_status` | `patch` on `K/status` |
//! | `finalizes` | `patch` on `K` |
//! | `publishes_events` | `create`, `patch` on events |
//! | `needs::<C>(verbs)`, `needs_subresource` | these verbs |
//!
//! `update` on `K/finalizers` is what the admission plugin `OwnerReferencesPermissionEnforcement` asks for
//! (`OpenShift` switches it on): an owner reference of a controller blocks the deletion of its owner.
//!
//! The rules are complete only if each controller declares all that its reconciler writes. A write that no
//! rule permits is rejected by the API server, and the error names the missing rule.

use std::collections::{BTreeMap, BTreeSet};

pub use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::Resource as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    cache::{ApiScope as _, Cached, Scope},
    crd::{Election, GROUP},
};

/// Stands for the name of the cluster in [`Rules::kubernetes_store`]. The chart replaces it.
pub const CLUSTER: &str = "$CLUSTER";

/// Permissions of an operator, sorted by the place that they hold in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Rules {
    /// In the namespaces that the operator watches: its own, or all.
    pub watched: Vec<PolicyRule>,
    /// In the namespace of the operator: for its `Election` and the labels of its pods.
    pub home: Vec<PolicyRule>,
    /// In the namespace of the operator, if its cluster is kept on the Kubernetes API. A resource name
    /// [`CLUSTER`] stands for the name of the cluster.
    pub kubernetes_store: Vec<PolicyRule>,
    /// Everywhere: for kinds without a namespace, and for controllers with a scope of their own.
    pub cluster: Vec<PolicyRule>,
}

/// Place that a permission holds in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Watched,
    Cluster,
}

/// API group and resource, with the subresource after a slash.
type Target = (String, String);

/// Permissions that controllers have declared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    verbs: BTreeMap<(Place, Target), BTreeSet<&'static str>>,
}

/// Verbs of a cache.
pub(crate) const READ: &[&str] = &["list", "watch"];
/// Verbs of server-side apply, which creates objects.
pub(crate) const APPLY: &[&str] = &["create", "patch"];

impl Needs {
    /// Adds verbs on a kind, or on its subresource if that is not empty.
    pub(crate) fn add<K: Cached>(
        &mut self,
        kind: &K::DynamicType,
        subresource: &str,
        verbs: &[&'static str],
    ) {
        let place = if K::Scope::IS_NAMESPACED { Place::Watched } else { Place::Cluster };
        let mut resource = K::plural(kind).into_owned();
        if !subresource.is_empty() {
            resource = format!("{resource}/{subresource}");
        }
        self.insert(place, (K::group(kind).into_owned(), resource), verbs);
    }

    /// Adds what events about objects of a kind need.
    pub(crate) fn add_events<K: Cached>(&mut self) {
        let place = if K::Scope::IS_NAMESPACED { Place::Watched } else { Place::Cluster };
        self.insert(place, events(), APPLY);
    }

    fn insert(&mut self, place: Place, target: Target, verbs: &[&'static str]) {
        self.verbs.entry((place, target)).or_default().extend(verbs);
    }

    /// Adds the needs of a controller with that scope to those of an operator with the scope `own`.
    pub(crate) fn merge(&mut self, other: Self, scope: Option<&Scope>, own: &Scope) {
        // A scope of its own reaches beyond the namespaces that the operator watches.
        let is_elsewhere = scope.is_some_and(|it| it.namespace != own.namespace);
        for ((place, target), verbs) in other.verbs {
            let place = if is_elsewhere { Place::Cluster } else { place };
            self.verbs.entry((place, target)).or_default().extend(verbs);
        }
    }

    /// The rules of an operator with these needs, in pods whose labels it keeps.
    pub(crate) fn rules(&self) -> Rules {
        let of = |place| {
            rules_of(
                self.verbs
                    .iter()
                    .filter(|it| it.0.0 == place)
                    .map(|((_, target), verbs)| (target.clone(), verbs.clone())),
            )
        };
        let elections = (GROUP.to_owned(), Election::plural(&()).into_owned());
        let status = (elections.0.clone(), format!("{}/status", elections.1));
        let pods = (String::new(), "pods".to_owned());
        let home = [
            (elections, BTreeSet::from(["create", "get"])),
            (status, BTreeSet::from(["patch"])),
            (events(), APPLY.iter().copied().collect()),
            (pods, BTreeSet::from(["list", "patch"])),
        ];
        Rules {
            watched: of(Place::Watched),
            home: rules_of(home),
            kubernetes_store: of_the_store(),
            cluster: of(Place::Cluster),
        }
    }
}

fn events() -> Target {
    ("events.k8s.io".to_owned(), "events".to_owned())
}

/// Rules with one rule for each group and set of verbs.
fn rules_of(needs: impl IntoIterator<Item = (Target, BTreeSet<&'static str>)>) -> Vec<PolicyRule> {
    let mut resources: BTreeMap<(String, BTreeSet<&str>), BTreeSet<String>> = BTreeMap::new();
    for ((group, resource), verbs) in needs {
        resources.entry((group, verbs)).or_default().insert(resource);
    }
    let rule =
        |((group, verbs), resources): ((String, BTreeSet<&str>), BTreeSet<String>)| PolicyRule {
            api_groups: Some(vec![group]),
            resources: Some(resources.into_iter().collect()),
            verbs: verbs.into_iter().map(str::to_owned).collect(),
            ..PolicyRule::default()
        };
    resources.into_iter().map(rule).collect()
}

/// Rules for a cluster that is kept on the Kubernetes API.
fn of_the_store() -> Vec<PolicyRule> {
    let leases = |names: Option<&str>, verbs: &[&str]| PolicyRule {
        api_groups: Some(vec!["coordination.k8s.io".to_owned()]),
        resources: Some(vec!["leases".to_owned()]),
        resource_names: names.map(|name| vec![name.to_owned()]),
        verbs: verbs.iter().map(|it| (*it).to_owned()).collect(),
        ..PolicyRule::default()
    };
    // RBAC knows only whole names, and each incarnation of a node has a Lease of a new name.
    vec![
        leases(Some(CLUSTER), &["update"]),
        leases(None, &["create", "delete", "get", "list", "patch", "watch"]),
    ]
}

/// Namespaces whose objects an operator works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The namespace of its pods.
    OwnNamespace,
    /// All namespaces of the Kubernetes cluster.
    AllNamespaces,
}

impl Rules {
    /// Manifests for `kubectl apply`: an account `name`, and the roles and bindings of these rules, for pods in
    /// `namespace`. The cluster is called `name`, too, and is kept on the Kubernetes API.
    ///
    /// # Panics
    ///
    /// Never: manifests have string keys.
    pub fn manifests(&self, name: &str, namespace: &str, reach: Reach) -> String {
        let mut own = [self.home.clone(), named(&self.kubernetes_store, name)].concat();
        let mut wide = self.cluster.clone();
        match reach {
            Reach::OwnNamespace => own.extend(self.watched.clone()),
            Reach::AllNamespaces => wide.extend(self.watched.clone()),
        }
        let metadata = json!({ "name": name, "namespace": namespace });
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata });
        let mut manifests = vec![account];
        // Names of cluster roles are shared by all namespaces.
        let wide_metadata = json!({ "name": format!("{namespace}-{name}") });
        let roles = [("Role", own, metadata), ("ClusterRole", wide, wide_metadata)];
        for (kind, rules, metadata) in roles {
            if rules.is_empty() {
                continue;
            }
            let api_version = "rbac.authorization.k8s.io/v1";
            let role_name = metadata["name"].clone();
            manifests.push(json!({
                "apiVersion": api_version, "kind": kind, "metadata": metadata, "rules": rules,
            }));
            manifests.push(json!({
                "apiVersion": api_version,
                "kind": format!("{kind}Binding"),
                "metadata": metadata,
                "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role_name },
                "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": namespace }],
            }));
        }
        let document = |it: &Value| {
            format!("---\n{}", serde_saphyr::to_string(it).expect("manifests have string keys"))
        };
        manifests.iter().map(document).collect()
    }

    /// Reads rules whose names were replaced in the [text](Self::yaml), and sorts them again.
    ///
    /// # Panics
    ///
    /// If the text holds no rules.
    #[cfg(feature = "cli")]
    pub(crate) fn sorted(yaml: &str) -> Self {
        let mut rules: Self = serde_saphyr::from_str(yaml).expect("the text holds rules");
        for list in [&mut rules.watched, &mut rules.home, &mut rules.cluster] {
            for rule in list.iter_mut() {
                rule.resources.iter_mut().for_each(|resources| resources.sort());
            }
            list.sort_by(|a, b| (&a.api_groups, &a.verbs).cmp(&(&b.api_groups, &b.verbs)));
        }
        rules
    }

    /// The rules as YAML: the file `files/rbac.yaml` of the operator's chart.
    ///
    /// # Panics
    ///
    /// Never: rules have string keys.
    pub fn yaml(&self) -> String {
        serde_saphyr::to_string(self).expect("rules have only string keys")
    }
}

/// The rules with the name of the cluster in the place of [`CLUSTER`].
fn named(rules: &[PolicyRule], cluster: &str) -> Vec<PolicyRule> {
    let mut rules = rules.to_vec();
    for name in rules.iter_mut().flat_map(|rule| rule.resource_names.iter_mut().flatten()) {
        if name == CLUSTER {
            cluster.clone_into(name);
        }
    }
    rules
}

#[cfg(test)]
mod tests;
