//! Built-in kinds, as the API server knows them.
//!
//! The tables contain the lists and maps that server-side apply does not merge in the default way, for the
//! kinds that operators use most. Every other list is replaced as a whole.

use super::schema::Schema;

/// Services of the API server for the objects of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Traits {
    pub(super) has_status: bool,
    pub(super) has_generation: bool,
}

/// Kinds without a status, and without generations.
const PLAIN: &[&str] = &[
    "configmaps",
    "secrets",
    "serviceaccounts",
    "events",
    "endpoints",
    "roles",
    "rolebindings",
    "clusterroles",
    "clusterrolebindings",
    "leases",
    "storageclasses",
    "priorityclasses",
];

/// Kinds with a status whose spec has no generations.
const WITHOUT_GENERATION: &[&str] =
    &["services", "namespaces", "nodes", "persistentvolumeclaims", "persistentvolumes"];

/// Kinds with generations and without a status.
const WITHOUT_STATUS: &[&str] = &["networkpolicies", "endpointslices"];

/// Lists of a pod's spec.
const POD: &[(&str, &[&str])] = &[
    ("volumes", &["name"]),
    ("imagePullSecrets", &["name"]),
    ("hostAliases", &["ip"]),
    ("topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("schedulingGates", &["name"]),
    ("resourceClaims", &["name"]),
    ("nodeSelector", &["atomic map"]),
];

/// Lists of a container, in each of the lists of containers.
const CONTAINER: &[(&str, &[&str])] = &[
    ("ports", &["containerPort", "protocol=TCP"]),
    ("env", &["name"]),
    ("volumeMounts", &["mountPath"]),
    ("volumeDevices", &["devicePath"]),
];

/// Path of the pod's spec in a kind.
const PODS: &[(&str, &str)] = &[
    ("pods", "spec"),
    ("deployments", "spec.template.spec"),
    ("statefulsets", "spec.template.spec"),
    ("daemonsets", "spec.template.spec"),
    ("replicasets", "spec.template.spec"),
    ("jobs", "spec.template.spec"),
    ("cronjobs", "spec.jobTemplate.spec.template.spec"),
];

/// Lists of one kind.
const OTHERS: &[(&str, &str, &[&str])] = &[
    ("services", "spec.ports", &["port", "protocol=TCP"]),
    ("services", "spec.selector", &["atomic map"]),
    ("serviceaccounts", "secrets", &["name"]),
    ("pods", "status.podIPs", &["ip"]),
    ("pods", "status.hostIPs", &["ip"]),
    ("ingresses", "spec.defaultBackend.resource", &["atomic map"]),
    ("networkpolicies", "spec.podSelector", &["atomic map"]),
];

/// Kinds whose `spec.selector` is replaced as a whole.
const WITH_SELECTOR: &[&str] = &[
    "deployments",
    "statefulsets",
    "daemonsets",
    "replicasets",
    "jobs",
    "poddisruptionbudgets",
    "persistentvolumeclaims",
];

/// Kinds whose `status.conditions` are a list by type.
const WITH_CONDITIONS: &[&str] = &[
    "deployments",
    "statefulsets",
    "daemonsets",
    "replicasets",
    "services",
    "namespaces",
    "nodes",
    "pods",
    "persistentvolumeclaims",
    "poddisruptionbudgets",
];

/// Whether the table knows a group: other groups are those of custom resources and aggregated APIs.
fn is_builtin(group: &str) -> bool {
    !group.contains('.') || group.ends_with(".k8s.io")
}

/// The services of the API server for the objects of this kind.
pub(super) fn traits(group: &str, plural: &str) -> Traits {
    let is = |list: &[&str]| is_builtin(group) && list.contains(&plural);
    Traits {
        has_status: !is(PLAIN) && !is(WITHOUT_STATUS),
        has_generation: !is(PLAIN) && !is(WITHOUT_GENERATION),
    }
}

/// The lists and maps of a kind.
pub(super) fn schema(group: &str, plural: &str) -> Schema {
    let mut rows: Vec<(String, &[&str])> = Vec::new();
    if is_builtin(group) {
        for (_, spec) in PODS.iter().filter(|(kind, _)| *kind == plural) {
            rows.extend(POD.iter().map(|(list, keys)| (format!("{spec}.{list}"), *keys)));
            for containers in ["containers", "initContainers", "ephemeralContainers"] {
                let list = format!("{spec}.{containers}");
                let inner = CONTAINER.iter();
                rows.extend(inner.map(|(inner, keys)| (format!("{list}[].{inner}"), *keys)));
                rows.push((list, &["name"]));
            }
        }
        let own = OTHERS.iter().filter(|(kind, ..)| *kind == plural);
        rows.extend(own.map(|(_, path, keys)| ((*path).to_owned(), *keys)));
        if WITH_SELECTOR.contains(&plural) {
            rows.push(("spec.selector".to_owned(), &["atomic map"]));
        }
        if WITH_CONDITIONS.contains(&plural) {
            rows.push(("status.conditions".to_owned(), &["type"]));
        }
    }
    Schema::of_table(rows)
}
