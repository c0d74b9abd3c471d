//! References between the chart's objects: ports, accounts, roles, budgets. Every API server accepts a
//! reference to a name that does not exist, and the referring object then has no effect.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    chart::rendered,
    matrix::{ETCD, MATRIX},
    render::{cluster_roles_of_nodes, object, of_kind, text},
};

fn list<'a>(value: &'a Value, path: &str) -> Vec<&'a Value> {
    value.pointer(path).and_then(Value::as_array).map(|it| it.iter().collect()).unwrap_or_default()
}

/// Names and numbers of a container's ports, as JSON values.
fn ports_of(container: &Value) -> Vec<Value> {
    let ports = list(container, "/ports");
    ports.iter().flat_map(|it| [it["name"].clone(), it["containerPort"].clone()]).collect()
}

fn is_part(selector: &Value, labels: &Value) -> bool {
    selector.as_object().unwrap().iter().all(|(name, value)| labels.get(name) == Some(value))
}

/// The `StatefulSet` whose pods a selector matches, once these pods lead too.
fn found_by<'a>(objects: &'a [Value], selector: &Value) -> &'a Value {
    let mut selector = selector.clone();
    selector.as_object_mut().unwrap().remove("bellwether.dev/role");
    let mut sets = of_kind(objects, "StatefulSet");
    sets.retain(|it| is_part(&selector, it.pointer("/spec/template/metadata/labels").unwrap()));
    assert_eq!(sets.len(), 1, "{selector}");
    sets[0]
}

fn containers(set: &Value) -> Vec<&Value> {
    list(set, "/spec/template/spec/containers")
}

#[test]
fn every_port_that_is_named_is_one_where_it_leads_to() {
    for (name, values) in MATRIX {
        let objects = rendered(values);
        for set in of_kind(&objects, "StatefulSet") {
            for container in containers(set) {
                for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
                    for way in ["httpGet", "tcpSocket"] {
                        let Some(port) = container.pointer(&format!("/{probe}/{way}/port")) else {
                            continue;
                        };
                        assert!(ports_of(container).contains(port), "{name}: {probe} asks {port}");
                    }
                }
            }
        }
        for service in of_kind(&objects, "Service") {
            let set = found_by(&objects, &service["spec"]["selector"]);
            let ports: Vec<Value> = containers(set).into_iter().flat_map(ports_of).collect();
            let led = list(service, "/spec/ports");
            assert!(!led.is_empty(), "{name}: {}", text(service, "/metadata/name"));
            for port in led {
                let target = port.get("targetPort").unwrap_or(&port["port"]);
                assert!(ports.contains(target), "{name}: {service} leads to {target}");
            }
        }
        for policy in of_kind(&objects, "NetworkPolicy") {
            let set = found_by(&objects, &policy["spec"]["podSelector"]["matchLabels"]);
            let ports: Vec<Value> = containers(set).into_iter().flat_map(ports_of).collect();
            for rule in list(policy, "/spec/ingress") {
                for port in list(rule, "/ports") {
                    assert!(ports.contains(&port["port"]), "{name}: {policy} lets in {port}");
                }
            }
        }
        for monitor in of_kind(&objects, "PodMonitor") {
            let set = found_by(&objects, &monitor["spec"]["selector"]["matchLabels"]);
            let ports: Vec<Value> = containers(set).into_iter().flat_map(ports_of).collect();
            for endpoint in list(monitor, "/spec/podMetricsEndpoints") {
                assert!(ports.contains(&endpoint["port"]), "{name}: no pod has {endpoint}");
            }
        }
        for monitor in of_kind(&objects, "ServiceMonitor") {
            let mut services = of_kind(&objects, "Service");
            let selector = &monitor["spec"]["selector"]["matchLabels"];
            services.retain(|it| is_part(selector, &it["metadata"]["labels"]));
            for endpoint in list(monitor, "/spec/endpoints") {
                let is_led = |it: &&Value| {
                    list(it, "/spec/ports").iter().any(|port| port["name"] == endpoint["port"])
                };
                assert!(services.iter().any(is_led), "{name}: nobody leads to {endpoint}");
            }
        }
    }
}

#[test]
fn the_node_listens_where_its_port_is() {
    for port in ["8080", "9999"] {
        let objects = rendered(&[ETCD, &format!("node.port={port}")]);
        let container = containers(object(&objects, "StatefulSet", "shop-bellwether"))[0];
        let env = list(container, "/env");
        let listen = env.iter().find(|it| it["name"] == "BELLWETHER_LISTEN").unwrap();
        assert!(text(listen, "/value").ends_with(&format!(":{port}")), "{listen}");
        assert_eq!(container["ports"][0]["containerPort"].to_string(), port);
    }
}

#[test]
fn a_budget_lets_one_node_go_at_a_time_and_never_keeps_a_machine_from_being_drained() {
    let objects = rendered(&[ETCD]);
    let budget = object(&objects, "PodDisruptionBudget", "shop-bellwether");
    let spec = &budget["spec"];
    assert_eq!(spec["maxUnavailable"], 1);
    assert!(spec["minAvailable"].is_null(), "it would forbid every drain at one replica");
    assert_eq!(spec["unhealthyPodEvictionPolicy"], "AlwaysAllow");
    let set = found_by(&objects, &spec["selector"]["matchLabels"]);
    assert_eq!(text(set, "/metadata/name"), "shop-bellwether");
    let off = rendered(&[ETCD, "podDisruptionBudget.enabled=false"]);
    assert!(of_kind(&off, "PodDisruptionBudget").is_empty());
    let two = rendered(&[ETCD, "podDisruptionBudget.maxUnavailable=2"]);
    assert_eq!(of_kind(&two, "PodDisruptionBudget")[0]["spec"]["maxUnavailable"], 2);
}

#[test]
fn every_binding_gives_a_role_of_the_release_to_an_account_that_a_pod_runs_as() {
    for (name, values) in MATRIX {
        let objects = rendered(values);
        let mut runs_as: BTreeSet<&str> = BTreeSet::new();
        for set in of_kind(&objects, "StatefulSet") {
            runs_as.insert(text(set, "/spec/template/spec/serviceAccountName"));
        }
        for pod in of_kind(&objects, "Pod") {
            runs_as.insert(text(pod, "/spec/serviceAccountName"));
        }
        let mut bound = BTreeSet::new();
        for (binding, role) in [("RoleBinding", "Role"), ("ClusterRoleBinding", "ClusterRole")] {
            for binding in of_kind(&objects, binding) {
                assert_eq!(text(binding, "/roleRef/kind"), role, "{name}");
                let to = object(&objects, role, text(binding, "/roleRef/name"));
                bound.insert(format!("{role} {}", text(to, "/metadata/name")));
                for subject in list(binding, "/subjects") {
                    assert_eq!(subject["namespace"], "sales", "{name}: {binding}");
                    assert!(runs_as.contains(text(subject, "/name")), "{name}: {subject}");
                }
                assert!(!list(binding, "/subjects").is_empty(), "{name}: {binding}");
            }
        }
        for role in [of_kind(&objects, "Role"), cluster_roles_of_nodes(&objects)].concat() {
            let called = format!("{} {}", text(role, "/kind"), text(role, "/metadata/name"));
            assert!(bound.contains(&called), "{name}: nobody has {called}");
        }
    }
}
