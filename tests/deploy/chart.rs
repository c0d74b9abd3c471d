//! The chart: the real helm renders it with many values, and the test parses the output as types of Kubernetes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use regex::Regex;
use serde_json::{Value, json};

use crate::{
    files::root,
    matrix::{ETCD, MATRIX},
    render::{
        cluster_roles_of_nodes, helm, object, of_kind, pod_specs, release, text, unknown_fields,
        variables,
    },
    support::tools,
};

pub(crate) const CHART: &str = "charts/bellwether";
/// Objects of a release `shop` in the namespace `sales`.
pub(crate) fn rendered(values: &[&str]) -> Vec<Value> {
    release("shop", CHART, values)
}

#[test]
fn helm_lint_is_content_with_every_release_of_the_matrix() {
    for (name, values) in MATRIX {
        let (fine, out, err) = helm(&["lint", "--strict", CHART], values);
        assert!(fine, "{name}: {out}{err}");
    }
}

#[test]
fn kubernetes_knows_every_field_of_every_object() {
    for (name, values) in MATRIX {
        for object in rendered(values) {
            assert_eq!(unknown_fields(&object), Vec::<String>::new(), "{name}");
        }
    }
    let mut object = rendered(&[ETCD]).into_iter().find(|it| it["kind"] == "StatefulSet").unwrap();
    object["spec"]["replica"] = 3.into();
    assert_eq!(unknown_fields(&object), ["StatefulSet.spec.replica"], "a typo is seen");
}

#[test]
fn names_are_unique_short_enough_and_in_the_releases_namespace() {
    for (name, values) in MATRIX {
        let mut seen = BTreeSet::new();
        for object in rendered(values) {
            let (kind, called) = (text(&object, "/kind"), text(&object, "/metadata/name"));
            assert!(called.len() <= 63, "{name}: {kind} {called}");
            assert!(seen.insert(format!("{kind}/{called}")), "{name}: two of {kind} {called}");
            let cluster_wide = kind.starts_with("Cluster") || kind == "CustomResourceDefinition";
            let elsewhere = called.ends_with("-dashboards") || called.starts_with("of-");
            let expected = if cluster_wide { "" } else { "sales" };
            if !elsewhere {
                assert_eq!(
                    text(&object, "/metadata/namespace"),
                    expected,
                    "{name}: {kind} {called}"
                );
            }
            // The pod's name is the StatefulSet's name plus an ordinal, and is also the pod's host name.
            assert!(kind != "StatefulSet" || called.len() <= 61, "{name}: {called}");
        }
    }
}

#[test]
fn every_pod_keeps_the_restricted_standard_with_a_read_only_root() {
    for (name, values) in MATRIX {
        let objects = rendered(values);
        for (pod, spec) in pod_specs(&objects) {
            let at = |path: &str| spec.pointer(path).cloned().unwrap_or_default();
            assert_eq!(at("/securityContext/runAsNonRoot"), true, "{name}: {pod}");
            let user = if *name == "OpenShift" { Value::Null } else { json!(65532) };
            assert_eq!(at("/securityContext/runAsUser"), user, "{name}: {pod}");
            assert_eq!(
                at("/securityContext/seccompProfile/type"),
                "RuntimeDefault",
                "{name}: {pod}"
            );
            assert_eq!(at("/enableServiceLinks"), false, "{name}: {pod}");
            assert!(at("/automountServiceAccountToken").is_boolean(), "{name}: {pod}");
            assert!(at("/hostNetwork").is_null() && at("/hostPID").is_null(), "{name}: {pod}");
            let containers = at("/containers");
            let ours = containers.as_array().unwrap().iter().filter(|it| it["name"] != "side");
            for container in ours {
                let at = |path: &str| container.pointer(path).cloned().unwrap_or_default();
                assert_eq!(at("/securityContext/allowPrivilegeEscalation"), false, "{name}: {pod}");
                assert_eq!(at("/securityContext/readOnlyRootFilesystem"), true, "{name}: {pod}");
                assert_eq!(at("/securityContext/capabilities/drop/0"), "ALL", "{name}: {pod}");
                assert!(at("/resources/limits/memory").is_string(), "{name}: {pod}");
                assert!(at("/resources/limits/cpu").is_null(), "{name}: {pod} would be throttled");
                assert!(at("/resources/requests").is_object(), "{name}: {pod}");
            }
        }
    }
}

#[test]
fn selectors_find_their_pods_and_never_carry_a_version() {
    for (name, values) in MATRIX {
        let objects = rendered(values);
        let pods: Vec<&Value> = objects
            .iter()
            .filter(|it| it["kind"] == "StatefulSet")
            .map(|it| it.pointer("/spec/template/metadata/labels").unwrap())
            .collect();
        for object in &objects {
            let selector = match text(object, "/kind") {
                "StatefulSet" | "PodDisruptionBudget" | "PodMonitor" => {
                    object.pointer("/spec/selector/matchLabels")
                }
                "Service" => object.pointer("/spec/selector"),
                "NetworkPolicy" => object.pointer("/spec/podSelector/matchLabels"),
                _ => continue,
            };
            let mut selector = selector.and_then(Value::as_object).unwrap().clone();
            for label in selector.keys() {
                let fixed =
                    ["name", "instance", "component"].map(|it| format!("app.kubernetes.io/{it}"));
                assert!(fixed.contains(label) || label == "bellwether.dev/role", "{name}: {label}");
            }
            // A pod gets the leader's label only when it leads.
            selector.remove("bellwether.dev/role");
            let found =
                |pod: &&Value| selector.iter().all(|(label, value)| pod.get(label) == Some(value));
            assert_eq!(pods.iter().filter(|it| found(it)).count(), 1, "{name}: {selector:?}");
        }
        for labels in pods {
            let with_version = ["helm.sh/chart", "app.kubernetes.io/version"];
            assert!(
                with_version.iter().all(|it| labels.get(it).is_none()),
                "{name}: it would restart"
            );
        }
    }
}

#[test]
fn two_releases_in_one_namespace_share_no_object_no_pod_and_no_cluster() {
    let [one, other] = ["one", "other"].map(|it| release(it, CHART, &["watch.allNamespaces=true"]));
    let named = |objects: &[Value]| -> BTreeSet<String> {
        let own = objects.iter().filter(|it| it["kind"] != "CustomResourceDefinition");
        own.map(|it| format!("{}/{}", text(it, "/kind"), text(it, "/metadata/name"))).collect()
    };
    assert!(named(&one).is_disjoint(&named(&other)));
    let labels = |objects: &[Value]| -> Vec<Value> {
        let sets = of_kind(objects, "StatefulSet").into_iter();
        sets.map(|it| it["spec"]["template"]["metadata"]["labels"].clone()).collect()
    };
    let others = labels(&other);
    for object in &one {
        let selectors =
            ["/spec/selector/matchLabels", "/spec/selector", "/spec/podSelector/matchLabels"];
        let selector = selectors.iter().find_map(|it| object.pointer(it)?.as_object());
        if let Some(selector) = selector {
            let finds = |pod: &Value| selector.iter().all(|(name, value)| pod[name] == *value);
            assert!(!others.iter().any(finds), "{}: {selector:?}", text(object, "/kind"));
        }
    }
    let cluster = |objects: &[Value], name: &str| {
        let node = object(objects, "StatefulSet", name);
        let variables = variables(node.pointer("/spec/template/spec").unwrap());
        text(&variables["BELLWETHER_CLUSTER"], "/value").to_owned()
    };
    assert_ne!(cluster(&one, "one-bellwether"), cluster(&other, "other-bellwether"));
}

#[test]
fn bad_values_are_refused_with_a_sentence_that_names_them() {
    for (values, sentence) in [
        (&["store=etcd"][..], "no etcd is named: set etcd.endpoints"),
        (&[ETCD, "store=kubernetes"], "choose one, a cluster has one store"),
        (&["etcd.tls.existingSecret=x"], "set etcd.endpoints to use etcd, or leave them out"),
        (&["etcd.auth.user=x"], "set etcd.endpoints to use etcd, or leave them out"),
        (&["node.profile=stable"], "in Kubernetes choose fast, default or calm"),
        (&[ETCD, "node.profile=calm"], "in etcd choose fast, default or stable"),
        (&["clusterName=Shop"], "the cluster \"Shop\" is kept in a Lease of that name"),
        (&["clusterName=shop-"], "begin and end each part with a letter or digit"),
        (&["clusterName=forty-seven-letters-and-dashes-are-one-too-many"], "at most 46 characters"),
        (&["etcd.endpoints={http://a:2379,https://b:2379}"], "all http:// or all https://"),
        (&[ETCD, "etcd.tls.existingSecret=x"], "write https:// to use the certificates"),
        (
            &["etcd.endpoints={https://a}", "etcd.tls.existingSecret=x", "etcd.tls.keyKey="],
            "needs its key",
        ),
        (&[ETCD, "etcd.auth.user=x"], "name the Secret with its password"),
        (&[ETCD, "etcd.auth.existingSecret=x"], "name the user in etcd.auth.user"),
        (&[ETCD, "node.graceSeconds=30"], "Set 35 or more"),
        (&[ETCD, "serviceAccount.create=false"], "Name an account, or set rbac.create=false"),
        (
            &[
                ETCD,
                "metrics.prometheusRule.enabled=true",
                "metrics.prometheusRule.disabled={Nope}",
            ],
            "there is no alert \"Nope\"",
        ),
        (
            &["metrics.serviceMonitor.enabled=true", "metrics.podMonitor.enabled=true"],
            "would scrape each node twice. Enable one of them",
        ),
        (&["commonLabels.app\\.kubernetes\\.io/name=a"], "commonLabels: the chart sets the label"),
        (&["commonLabels.helm\\.sh/chart=a"], "commonLabels: the chart sets the label"),
        (&["podLabels.bellwether\\.dev/role=leader"], "podLabels: the chart sets the label"),
        (
            &["commonAnnotations.helm\\.sh/hook=test"],
            "commonAnnotations: Helm gives the annotation helm.sh/hook a meaning",
        ),
        (
            &["updateStrategy.type=OnDelete", "updateStrategy.rollingUpdate.partition=1"],
            "leave rollingUpdate out, or set the type RollingUpdate",
        ),
        (&["dnsPolicy=None"], "set dnsConfig.nameservers"),
        // Values that the schema rejects: a typo, a wrong type, a value out of bounds.
        (&["global.imageRegistry=https://a"], "/global/imageRegistry"),
        (&["global.imagePullSecrets[0].secret=a"], "/global/imagePullSecrets/0"),
        (&["commonLabels.team=3"], "/commonLabels/team"),
        (&["updateStrategy.type=Recreate"], "/updateStrategy/type"),
        (&["updateStrategy.partition=1"], "additional properties 'partition' not allowed"),
        (&["revisionHistoryLimit=-1"], "/revisionHistoryLimit"),
        (&["openshift=maybe"], "/openshift"),
        (&["dnsPolicy=ClusterFirstWithHostNet"], "/dnsPolicy"),
        (&["dnsConfig.servers={10.0.0.10}"], "additional properties 'servers' not allowed"),
        (&["hostAliases[0].ip=10.0.0.1"], "/hostAliases/0"),
        (&["metrics.podMonitor.sampleLimit=-1"], "/metrics/podMonitor/sampleLimit"),
        (&["networkPolicy.dnsPorts={0}"], "/networkPolicy/dnsPorts/0"),
        (&[ETCD, "replicas=3"], "additional properties 'replicas' not allowed"),
        (&[ETCD, "node.tik=50ms"], "additional properties 'tik' not allowed"),
        (&["etcd.endpoints={etcd:2379}"], "/etcd/endpoints/0"),
        (&["etcd.endpoints=http://etcd:2379"], "/etcd/endpoints"),
        (&["store=memory"], "/store"),
        (&["etcd.evaluation.enabled=true"], "additional properties 'evaluation' not allowed"),
        (&[ETCD, "node.profile=quick"], "/node/profile"),
        (&[ETCD, "node.tick=50"], "/node/tick"),
        (&[ETCD, "node.ttl=500ms"], "/node/ttl"),
        (&[ETCD, "node.port=80"], "/node/port"),
        (&[ETCD, "clusterName=a/b"], "/clusterName"),
        (&[ETCD, "image.digest=abc"], "/image/digest"),
        (&[ETCD, "watch.selector=a;b"], "/watch/selector"),
        (&[ETCD, "node.actionHosts={http://a/}"], "/node/actionHosts/0"),
    ] {
        let (fine, _, err) = helm(&["template", "shop", CHART], values);
        assert!(!fine && err.contains(sentence), "{values:?} should say {sentence:?}: {err}");
    }
}

#[test]
fn the_pods_know_who_they_are_and_only_flags_that_exist() {
    let known = |command: &str| {
        let help =
            Command::new(env!("CARGO_BIN_EXE_bellwether")).args([command, "--help"]).output();
        let help = String::from_utf8(help.unwrap().stdout).unwrap();
        let name = Regex::new(r"\[env:\s+(BELLWETHER_\w+)").unwrap();
        name.captures_iter(&help).map(|it| it[1].to_owned()).collect::<BTreeSet<String>>()
    };
    let (run, check) = (known("run"), known("check"));
    assert!(run.contains("BELLWETHER_ETCD") && check.contains("BELLWETHER_ETCD"), "{run:?}");
    for (name, values) in MATRIX {
        let objects = rendered(values);
        for (pod, spec) in &pod_specs(&objects) {
            let known = if pod.ends_with("-check") { &check } else { &run };
            for variable in variables(spec).keys().filter(|it| it.starts_with("BELLWETHER_")) {
                assert!(
                    known.contains(variable),
                    "{name}: {pod} sets {variable}, which nobody reads"
                );
            }
        }
    }
    let objects = rendered(&[ETCD]);
    let node = object(&objects, "StatefulSet", "shop-bellwether");
    let variables = variables(node.pointer("/spec/template/spec").unwrap());
    for (variable, field) in [
        ("POD_NAME", "metadata.name"),
        ("POD_NAMESPACE", "metadata.namespace"),
        ("POD_UID", "metadata.uid"),
        ("POD_IP", "status.podIP"),
        ("POD_IPS", "status.podIPs"),
        ("NODE_NAME", "spec.nodeName"),
        ("POD_INDEX", "metadata.labels['apps.kubernetes.io/pod-index']"),
    ] {
        assert_eq!(text(&variables[variable], "/valueFrom/fieldRef/fieldPath"), field);
    }
}

#[test]
fn secrets_come_as_files_and_never_as_variables() {
    let (_, values) = MATRIX[3];
    let objects = rendered(values);
    for name in ["shop-bellwether", "shop-bellwether-check"] {
        let specs = pod_specs(&objects);
        let (_, spec) = specs.iter().find(|(pod, _)| pod == name).unwrap();
        let variables = variables(spec);
        assert!(variables.values().all(|it| it.pointer("/valueFrom/secretKeyRef").is_none()));
        let password = text(&variables["BELLWETHER_ETCD_PASSWORD_FILE"], "/value");
        assert_eq!(password, "/etc/bellwether/etcd-auth/password");
        let secrets: Vec<&str> = spec["volumes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| text(it, "/secret/secretName"))
            .collect();
        assert_eq!(secrets, ["etcd-client", "etcd-user"], "{name}");
    }
}

#[test]
fn roles_are_no_wider_than_what_is_watched() {
    for store in [&[][..], &[ETCD]] {
        let of_one = rendered(store);
        assert!(cluster_roles_of_nodes(&of_one).is_empty(), "one namespace needs no ClusterRole");
        let of_all = rendered(&[store, &["watch.allNamespaces=true"]].concat());
        let wide = object(&of_all, "ClusterRole", "sales-shop-bellwether").to_string();
        assert!(!wide.contains("pods") && !wide.contains("leases"), "they are the release's own");
        for objects in [&of_one, &of_all] {
            for role in [of_kind(objects, "Role"), cluster_roles_of_nodes(objects)].concat() {
                let mut rules = role["rules"].as_array().unwrap().clone();
                // Another test compares the rules about Leases, word by word.
                rules.retain(|it| it["resources"] != json!(["leases"]));
                let rules = json!(rules).to_string();
                for wide in ["*", "secrets", "delete", "update", "escalate", "bind", "impersonate"]
                {
                    assert!(!rules.contains(&format!("\"{wide}\"")), "{wide} in {rules}");
                }
            }
        }
    }
}

#[test]
fn helm_test_asks_the_api_server_with_a_token_that_may_read_the_election_and_nothing_else() {
    let name = "shop-bellwether-check";
    for values in [&[ETCD][..], &[ETCD, "watch.allNamespaces=true"]] {
        let objects = rendered(values);
        let pod = object(&objects, "Pod", name);
        assert_eq!(text(pod, "/spec/serviceAccountName"), name);
        assert_eq!(pod["spec"]["automountServiceAccountToken"], true);
        assert_eq!(text(&variables(&pod["spec"])["BELLWETHER_KUBERNETES"], "/value"), "on");

        let rules = json!([
            { "apiGroups": ["bellwether.dev"], "resources": ["elections"], "verbs": ["get"] },
        ]);
        assert_eq!(object(&objects, "Role", name)["rules"], rules);
        let binding = object(&objects, "RoleBinding", name);
        assert_eq!(text(binding, "/roleRef/name"), name);
        let account = json!([{ "kind": "ServiceAccount", "name": name, "namespace": "sales" }]);
        assert_eq!(binding["subjects"], account);
        for kind in ["ServiceAccount", "Role", "RoleBinding"] {
            let annotations = &object(&objects, kind, name)["metadata"]["annotations"];
            assert_eq!(annotations["helm.sh/hook"], "test", "{kind}");
            assert_eq!(annotations["helm.sh/hook-weight"], "-1", "{kind}: it must come first");
        }
        let bound = of_kind(&objects, "ClusterRoleBinding");
        assert!(bound.iter().all(|it| !it["subjects"].to_string().contains(name)));
    }

    // Where the chart creates no accounts or no roles, the pod uses an existing account.
    for (more, account) in [
        (&["rbac.create=false"][..], "shop-bellwether"),
        (&["serviceAccount.create=false", "serviceAccount.name=mine"], "mine"),
    ] {
        let objects = rendered(&[&[ETCD], more].concat());
        let pod = object(&objects, "Pod", name);
        assert_eq!(text(pod, "/spec/serviceAccountName"), account);
        let hooks = objects.iter().filter(|it| text(it, "/metadata/name") == name).count();
        assert_eq!(hooks, 1, "the pod alone");
    }
}

#[test]
fn the_leaders_service_selects_by_the_label_that_moves_with_the_office() {
    let objects = rendered(&[ETCD]);
    let leader = object(&objects, "Service", "shop-bellwether-leader");
    assert_eq!(leader["spec"]["selector"]["bellwether.dev/role"], "leader");
    let headless = object(&objects, "Service", "shop-bellwether-headless");
    assert_eq!(headless["spec"]["clusterIP"], "None");
    assert_eq!(headless["spec"]["publishNotReadyAddresses"], true);
    let node = object(&objects, "StatefulSet", "shop-bellwether");
    assert_eq!(node["spec"]["serviceName"], "shop-bellwether-headless");
    assert_eq!(node["spec"]["podManagementPolicy"], "Parallel");
    let container = &node["spec"]["template"]["spec"]["containers"][0];
    for (probe, path) in
        [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
    {
        assert_eq!(container[probe]["httpGet"]["path"], path);
    }
}

#[test]
fn the_page_is_reachable_in_an_outage_and_the_leaders_service_names_no_pod_that_is_not_ready() {
    let objects = rendered(&[ETCD]);
    let publishes =
        |name: &str| object(&objects, "Service", name)["spec"]["publishNotReadyAddresses"] == true;
    assert!(publishes("shop-bellwether") && publishes("shop-bellwether-headless"));
    assert!(!publishes("shop-bellwether-leader"));
}

#[test]
fn every_container_says_why_it_ended() {
    for (name, values) in MATRIX {
        let objects = rendered(values);
        for (pod, spec) in pod_specs(&objects) {
            let policy = text(spec, "/containers/0/terminationMessagePolicy");
            assert_eq!(policy, "FallbackToLogsOnError", "{name}: {pod}");
        }
    }
}

#[test]
fn the_store_is_kubernetes_unless_etcd_is_named() {
    let of = |values: &[&str], name: &str| -> BTreeMap<String, String> {
        let objects = rendered(values);
        let specs = pod_specs(&objects);
        let (_, spec) = specs.iter().find(|(pod, _)| pod == name).unwrap();
        let all = variables(spec).into_iter();
        all.map(|(name, it)| (name, text(&it, "/value").to_owned())).collect()
    };
    for pod in ["shop-bellwether", "shop-bellwether-check"] {
        for values in [&[][..], &["store=kubernetes"]] {
            let variables = of(values, pod);
            assert_eq!(variables["BELLWETHER_STORE"], "kubernetes", "{pod}");
            assert_eq!(variables["BELLWETHER_CLUSTER"], "shop-bellwether", "{pod}");
            let of_etcd = variables.keys().find(|it| it.starts_with("BELLWETHER_ETCD"));
            assert_eq!(of_etcd, None, "{pod}");
        }
        for values in [&[ETCD][..], &[ETCD, "store=etcd"]] {
            let variables = of(values, pod);
            assert_eq!(variables["BELLWETHER_STORE"], "etcd", "{pod}");
            assert_eq!(variables["BELLWETHER_ETCD"], "http://etcd:2379", "{pod}");
        }
    }
    let ttl = |values: &[&str]| of(values, "shop-bellwether").get("BELLWETHER_TTL").cloned();
    assert_eq!(ttl(&[]), None, "each store has a default of its own");
    assert_eq!(ttl(&["node.ttl=20s"]).as_deref(), Some("20s"));
    let calm = of(&["node.profile=calm"], "shop-bellwether");
    assert_eq!(calm["BELLWETHER_PROFILE"], "calm");
}

/// Rules about Leases in a Role of the release.
fn about_leases(values: &[&str], role: &str) -> Value {
    let objects = rendered(values);
    let rules = object(&objects, "Role", role)["rules"].as_array().unwrap().clone();
    rules.into_iter().filter(|it| it["resources"] == json!(["leases"])).collect()
}

#[test]
fn only_the_lease_of_the_cluster_is_replaced_and_none_is_touched_if_etcd_is_the_store() {
    let (group, kind) = (json!(["coordination.k8s.io"]), json!(["leases"]));
    let of_nodes = json!([
        { "apiGroups": group, "resources": kind, "resourceNames": ["shop"], "verbs": ["update"] },
        {
            "apiGroups": group,
            "resources": kind,
            "verbs": ["get", "list", "watch", "create", "patch", "delete"],
        },
    ]);
    let of_test = json!([{
        "apiGroups": group,
        "resources": kind,
        "resourceNames": ["shop"],
        "verbs": ["get", "watch"],
    }]);
    let named = ["clusterName=shop"];
    assert_eq!(about_leases(&named, "shop-bellwether"), of_nodes);
    assert_eq!(about_leases(&named, "shop-bellwether-check"), of_test);
    for role in ["shop-bellwether", "shop-bellwether-check"] {
        assert_eq!(about_leases(&[ETCD], role), json!([]), "{role}");
    }
}

#[test]
fn the_network_policy_lets_out_to_dns_the_api_server_and_the_store() {
    let out = |values: &[&str]| -> Vec<Vec<u64>> {
        let objects = rendered(&[values, &["networkPolicy.enabled=true"]].concat());
        let rules = &object(&objects, "NetworkPolicy", "shop-bellwether")["spec"]["egress"];
        let ports = |rule: &Value| -> Vec<u64> {
            let ports = rule["ports"].as_array().unwrap().iter();
            ports.map(|it| it["port"].as_u64().unwrap()).collect()
        };
        rules.as_array().unwrap().iter().map(ports).collect()
    };
    assert_eq!(out(&[]), [vec![53, 53], vec![443, 6443]]);
    assert_eq!(out(&[ETCD]), [vec![53, 53], vec![443, 6443], vec![2379]]);
    assert_eq!(of_kind(&rendered(&[]), "NetworkPolicy"), Vec::<&Value>::new(), "an option");
}

#[test]
fn what_parts_two_releases_and_what_the_buttons_obey_reaches_the_nodes() {
    let objects = rendered(&[
        ETCD,
        "watch.selector=team=a",
        "watch.denyNetworks={169.254.0.0/16,fd00::/8}",
        "node.actionHosts={status.shop.example,ops.shop.example}",
    ]);
    let node = object(&objects, "StatefulSet", "shop-bellwether");
    let variables = variables(node.pointer("/spec/template/spec").unwrap());
    let value = |name: &str| text(&variables[name], "/value").to_owned();
    assert_eq!(value("BELLWETHER_SELECTOR"), "team=a");
    assert_eq!(value("BELLWETHER_DENY_NETWORKS"), "169.254.0.0/16,fd00::/8");
    assert_eq!(value("BELLWETHER_ACTION_HOSTS"), "status.shop.example,ops.shop.example");
}

#[test]
fn what_prometheus_and_grafana_get_is_what_was_asked_for() {
    let (_, values) = MATRIX[9];
    let objects = rendered(values);
    let rule = object(&objects, "PrometheusRule", "shop-bellwether");
    let rules = rule["spec"]["groups"][0]["rules"].as_array().unwrap();
    let names: Vec<&str> = rules.iter().map(|it| text(it, "/alert")).collect();
    assert!(names.contains(&"BellwetherNoLeader") && !names.contains(&"BellwetherTickStuck"));
    assert_eq!(rules[0]["annotations"]["runbook_url"], "https://books.example/bw/no-leader");
    assert_eq!(rules[0]["labels"]["team"], "ours");
    assert_eq!(rules[0]["labels"]["severity"], "critical");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yaml");
    fs::write(&file, rule["spec"].to_string()).unwrap();
    let promtool = Command::new(tools::program("prometheus", "promtool"))
        .args(["check", "rules"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(promtool.status.success(), "{}", String::from_utf8_lossy(&promtool.stderr));

    let monitor = object(&objects, "ServiceMonitor", "shop-bellwether");
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    let selector =
        monitor.pointer("/spec/selector/matchLabels").and_then(Value::as_object).unwrap();
    let chosen: Vec<&str> = of_kind(&objects, "Service")
        .into_iter()
        .filter(|it| {
            selector.iter().all(|(name, value)| it["metadata"]["labels"].get(name) == Some(value))
        })
        .map(|it| text(it, "/metadata/name"))
        .collect();
    assert_eq!(chosen, ["shop-bellwether"], "each node is scraped once");

    let dashboards = object(&objects, "ConfigMap", "shop-bellwether-dashboards");
    assert_eq!(dashboards["metadata"]["namespace"], "monitoring");
    assert_eq!(dashboards["metadata"]["labels"]["grafana_dashboard"], "1");
    let board: Value =
        serde_json::from_str(dashboards["data"]["bellwether-elections.json"].as_str().unwrap())
            .unwrap();
    assert_eq!(board["uid"], "bellwether-elections");
}

/// Files of a folder, by name; empty if there is no such folder.
fn contents(folder: &Path) -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeMap::new() };
    entries
        .map(|it| it.unwrap().path())
        .filter(|it| it.extension().is_some_and(|it| it == "yaml"))
        .map(|it| {
            let name = it.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(it).unwrap())
        })
        .collect()
}

#[test]
fn the_chart_installs_the_custom_resources_of_this_version() {
    let kept = contents(&root().join("crds"));
    let folder = root().join(CHART).join("files/crds");
    if std::env::var_os("BELLWETHER_UPDATE").is_some() {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        for (name, text) in &kept {
            fs::write(folder.join(name), text).unwrap();
        }
    }
    assert!(
        contents(&folder) == kept,
        "{CHART}/files/crds is not crds/: run `BELLWETHER_UPDATE=1 cargo test --test deploy`"
    );
    let policy = "/metadata/annotations/helm.sh~1resource-policy";
    let objects = rendered(&[ETCD, "crds.annotations.a=b"]);
    let crds = of_kind(&objects, "CustomResourceDefinition");
    assert_eq!(crds.len(), kept.len());
    for crd in crds {
        assert_eq!(text(crd, policy), "keep", "its objects outlive the release");
        assert_eq!(text(crd, "/metadata/annotations/a"), "b");
    }
    for crd in of_kind(&rendered(&[ETCD, "crds.keep=false"]), "CustomResourceDefinition") {
        assert_eq!(text(crd, policy), "");
    }
    assert!(
        of_kind(&rendered(&[ETCD, "crds.enabled=false"]), "CustomResourceDefinition").is_empty()
    );
}

#[test]
fn the_notes_name_the_store_how_to_ask_for_the_leader_and_what_one_node_means() {
    let notes = |values: &[&str]| {
        let command = ["install", "shop", CHART, "--dry-run=client", "--namespace", "sales"];
        let (fine, out, err) = helm(&command, values);
        assert!(fine, "{err}");
        out.split_once("NOTES:").map(|(_, notes)| notes.to_owned()).expect("there are notes")
    };
    let of_kubernetes = notes(&["clusterName=till"]);
    assert!(of_kubernetes.contains("3 nodes of the cluster till,"), "{of_kubernetes}");
    assert!(of_kubernetes.contains("kept in Kubernetes"), "{of_kubernetes}");
    assert!(of_kubernetes.contains("kubectl get lease till -n sales"), "{of_kubernetes}");
    assert!(!of_kubernetes.contains("nobody to take over"), "{of_kubernetes}");
    // The end-to-end test runs these two lines.
    for line in [
        "  kubectl delete statefulset shop-bellwether -n sales --cascade=foreground",
        "  kubectl delete lease till -n sales",
    ] {
        assert!(of_kubernetes.lines().any(|it| it == line), "{of_kubernetes}");
    }
    let of_etcd = notes(&[ETCD, "replicaCount=1"]);
    assert!(of_etcd.contains("kept in etcd: http://etcd:2379."), "{of_etcd}");
    assert!(!of_etcd.contains("get lease"), "{of_etcd}");
    assert!(of_etcd.contains("nobody to take over"), "{of_etcd}");
}
