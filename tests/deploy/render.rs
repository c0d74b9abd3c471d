//! Runs helm, and reads the objects that a chart renders.

use std::{collections::BTreeMap, process::Command};

use bellwether::k8s::k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, Pod, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{files::root, support::tools};

/// Runs helm with these values: whether it succeeds, its output, and its error output.
pub(crate) fn helm(command: &[&str], values: &[&str]) -> (bool, String, String) {
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(tools::program("helm", "helm"))
        .args(command)
        .args(values.iter().flat_map(|it| ["--set", it]))
        .current_dir(root())
        .env("HOME", home.path())
        .env("HELM_CACHE_HOME", home.path())
        .env("HELM_CONFIG_HOME", home.path())
        .env("HELM_DATA_HOME", home.path())
        .env_remove("KUBECONFIG")
        .output()
        .unwrap();
    let text = |it: Vec<u8>| String::from_utf8(it).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

/// Objects of a release of that chart in the namespace `sales`.
pub(crate) fn release(name: &str, chart: &str, values: &[&str]) -> Vec<Value> {
    release_with(&[], name, chart, values)
}

/// The same, with more arguments for helm.
pub(crate) fn release_with(args: &[&str], name: &str, chart: &str, values: &[&str]) -> Vec<Value> {
    let command = [&["template", name, chart, "--namespace", "sales"], args].concat();
    let (fine, out, err) = helm(&command, values);
    assert!(fine, "{chart}, {args:?}, {values:?}: {err}");
    let documents = out.split("\n---").map(|it| it.trim_start_matches("---"));
    documents
        .map(|it| {
            serde_saphyr::from_str::<Value>(it).unwrap_or_else(|error| panic!("{error}:\n{it}"))
        })
        .filter(|it| !it.is_null())
        .collect()
}

pub(crate) fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|it| it["kind"] == kind).collect()
}

/// Cluster roles of the nodes: all but those that Kubernetes adds to its own roles for users.
pub(crate) fn cluster_roles_of_nodes(objects: &[Value]) -> Vec<&Value> {
    let mut roles = of_kind(objects, "ClusterRole");
    roles.retain(|it| {
        it["metadata"]["labels"].get("rbac.authorization.k8s.io/aggregate-to-admin").is_none()
    });
    roles
}

/// The only object of that kind and name.
#[track_caller]
pub(crate) fn object<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = of_kind(objects, kind).into_iter().find(|it| text(it, "/metadata/name") == name);
    found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

/// Fields of an object that its type does not know: the API server would reject or drop them.
pub(crate) fn unknown_fields(object: &Value) -> Vec<String> {
    fn through<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Value, String> {
        let typed: T = serde_path_to_error::deserialize(object).map_err(|it| it.to_string())?;
        serde_json::to_value(typed).map_err(|it| it.to_string())
    }
    let kind = text(object, "/kind");
    let back = match (text(object, "/apiVersion"), kind) {
        ("v1", "ConfigMap") => through::<ConfigMap>(object),
        ("v1", "Pod") => through::<Pod>(object),
        ("v1", "Service") => through::<Service>(object),
        ("v1", "ServiceAccount") => through::<ServiceAccount>(object),
        ("apps/v1", "StatefulSet") => through::<StatefulSet>(object),
        ("policy/v1", "PodDisruptionBudget") => through::<PodDisruptionBudget>(object),
        ("networking.k8s.io/v1", "NetworkPolicy") => through::<NetworkPolicy>(object),
        ("rbac.authorization.k8s.io/v1", "Role") => through::<Role>(object),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => through::<RoleBinding>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => through::<ClusterRole>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => {
            through::<ClusterRoleBinding>(object)
        }
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => {
            through::<CustomResourceDefinition>(object)
        }
        // Custom kinds of the Prometheus operator; other tests check them.
        ("monitoring.coreos.com/v1", "ServiceMonitor" | "PodMonitor" | "PrometheusRule") => {
            Ok(object.clone())
        }
        (version, kind) => Err(format!("nobody expects a {kind} of {version}")),
    };
    let mut lost = Vec::new();
    match back {
        Ok(back) => find_lost(object, &back, kind.to_owned(), &mut lost),
        Err(error) => lost.push(format!("{kind}: {error}")),
    }
    lost
}

fn find_lost(before: &Value, after: &Value, path: String, lost: &mut Vec<String>) {
    match before {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = format!("{path}.{name}");
                match after.get(name) {
                    Some(after) => find_lost(value, after, path, lost),
                    None => lost.push(path),
                }
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                let after = after.get(index).unwrap_or(&Value::Null);
                find_lost(value, after, format!("{path}[{index}]"), lost);
            }
        }
        // The numbers 0 and 0.0 are equal.
        Value::Number(number) if number.as_f64() == after.as_f64() => (),
        value if value != after => lost.push(path),
        _ => (),
    }
}

/// Specs of all pods: those in templates and those of plain pods.
pub(crate) fn pod_specs(objects: &[Value]) -> Vec<(String, &Value)> {
    objects
        .iter()
        .filter_map(|it| {
            let spec = match text(it, "/kind") {
                "Pod" => it.pointer("/spec"),
                "StatefulSet" => it.pointer("/spec/template/spec"),
                _ => None,
            };
            spec.map(|spec| (text(it, "/metadata/name").to_owned(), spec))
        })
        .collect()
}

pub(crate) fn variables(spec: &Value) -> BTreeMap<String, Value> {
    let list = spec.pointer("/containers/0/env").and_then(Value::as_array).unwrap();
    list.iter().map(|it| (text(it, "/name").to_owned(), it.clone())).collect()
}
