//! Values that users know from other charts: labels, registry, user ids, scheduling, monitors, rights of users.

use std::{collections::BTreeMap, fs};

use serde_json::{Value, json};

use crate::{
    chart::{CHART, rendered},
    files::root,
    library::{LIBRARY, SHOP, copy, copy_of_shop},
    matrix::ETCD,
    render::{object, of_kind, pod_specs, release, release_with, text},
    values::read,
};

/// Helm's flag that makes a rendered chart see `OpenShift`.
const ON_OPENSHIFT: [&str; 2] = ["--api-versions", "security.openshift.io/v1"];

/// Selectors of a release, by the object that has them and their place in it.
fn selectors(objects: &[Value]) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for object in objects {
        for path in ["/spec/selector", "/spec/podSelector"] {
            if let Some(selector) = object.pointer(path) {
                let (kind, name) = (text(object, "/kind"), text(object, "/metadata/name"));
                found.insert(format!("{kind}/{name}{path}"), selector.clone());
            }
        }
        let spread = object.pointer("/spec/template/spec/topologySpreadConstraints");
        for (at, one) in spread.and_then(Value::as_array).into_iter().flatten().enumerate() {
            found.insert(format!("spread {at}"), one["labelSelector"].clone());
        }
    }
    found
}

#[test]
fn common_labels_and_annotations_are_on_every_object_and_in_no_selector() {
    let all = [
        "watch.allNamespaces=true",
        "networkPolicy.enabled=true",
        "metrics.podMonitor.enabled=true",
        "metrics.podMonitor.labels.release=prometheus",
        "metrics.prometheusRule.enabled=true",
        "metrics.dashboards.enabled=true",
        "podLabels.tier=back",
        "service.annotations.mesh=on",
    ];
    let common = [
        "commonLabels.team=sales",
        "commonLabels.release=every",
        "commonLabels.tier=every",
        "commonLabels.app\\.kubernetes\\.io/part-of=mall",
        "commonAnnotations.owner=me",
        "commonAnnotations.mesh=every",
        "commonAnnotations.grafana_folder=every",
    ];
    let before = rendered(&all);
    let objects = rendered(&[&all[..], &common].concat());
    assert_eq!(objects.len(), before.len());
    assert!(objects.len() > 20, "{} objects", objects.len());
    for object in &objects {
        let metadata = &object["metadata"];
        assert_eq!(metadata["labels"]["team"], "sales", "{object}");
        assert_eq!(metadata["labels"]["app.kubernetes.io/part-of"], "mall", "{object}");
        assert_eq!(metadata["annotations"]["owner"], "me", "{object}");
    }
    let selectors = selectors(&objects);
    assert!(selectors.len() >= 8, "{selectors:?}");
    assert_eq!(selectors, self::selectors(&before));

    // Labels and annotations of one object win.
    let metadata = |kind: &str, name: &str| &object(&objects, kind, name)["metadata"];
    assert_eq!(metadata("PodMonitor", "shop-bellwether")["labels"]["release"], "prometheus");
    assert_eq!(metadata("Service", "shop-bellwether")["annotations"]["mesh"], "on");
    let boards = metadata("ConfigMap", "shop-bellwether-dashboards");
    assert_eq!(boards["annotations"]["grafana_folder"], "bellwether");
    let test = metadata("Pod", "shop-bellwether-check");
    assert_eq!(test["annotations"]["helm.sh/hook"], "test");
    for crd in of_kind(&objects, "CustomResourceDefinition") {
        assert_eq!(crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    }

    let set = object(&objects, "StatefulSet", "shop-bellwether");
    let pods = &set["spec"]["template"]["metadata"];
    assert_eq!(
        (&pods["labels"]["team"], &pods["labels"]["tier"]),
        (&json!("sales"), &json!("back"))
    );
    assert_eq!(pods["annotations"], Value::Null, "a note about the release restarts no pod");
}

/// Images of the containers of a release, in the order of its pods.
fn images(objects: &[Value]) -> Vec<String> {
    let mut found = Vec::new();
    for (_, spec) in pod_specs(objects) {
        for list in ["initContainers", "containers"] {
            let containers = spec[list].as_array().into_iter().flatten();
            found.extend(containers.map(|it| text(it, "/image").to_owned()));
        }
    }
    found
}

#[test]
fn the_global_registry_takes_the_place_of_the_one_in_the_name() {
    let digest = format!("sha256:{}", "0".repeat(64));
    for (values, expected) in [
        (&["image.repository=bellwether"][..], "mirror.example/proxy/bellwether:0.1.0"),
        (&["image.repository=team/bellwether"], "mirror.example/proxy/team/bellwether:0.1.0"),
        (&["image.repository=ghcr.example/team/bw"], "mirror.example/proxy/team/bw:0.1.0"),
        (&["image.repository=registry:5000/bw", "image.tag=v2"], "mirror.example/proxy/bw:v2"),
        (&["image.repository=localhost/bw"], "mirror.example/proxy/bw:0.1.0"),
        (
            &["image.repository=ghcr.example/bw", &format!("image.digest={digest}")],
            &format!("mirror.example/proxy/bw@{digest}"),
        ),
    ] {
        for registry in ["mirror.example/proxy", "mirror.example/proxy/"] {
            let registry = format!("global.imageRegistry={registry}");
            let images = images(&rendered(&[values, &[registry.as_str()]].concat()));
            assert_eq!(images, [expected, expected], "{values:?}: the nodes, and the test");
        }
    }
    assert_eq!(images(&rendered(&["image.repository=a.example/bw"]))[0], "a.example/bw:0.1.0");

    // A chart of its own passes the names of its other images through the same template.
    let shop = release("till", SHOP, &["global.imageRegistry=mirror.example"]);
    let expected = ["rates:7", "shop:4.5", "rates:7", "shop:4.5"];
    assert_eq!(images(&shop), expected.map(|it| format!("mirror.example/{it}")));
}

#[test]
fn pull_secrets_of_all_charts_and_of_this_one_reach_every_pod_once() {
    let secrets = |values: &[&str]| -> Vec<Value> {
        let objects = rendered(values);
        let pods = pod_specs(&objects).into_iter();
        pods.map(|(_, spec)| spec["imagePullSecrets"].clone()).collect()
    };
    let both = json!([{ "name": "all" }, { "name": "named" }, { "name": "own" }]);
    let global = ["global.imagePullSecrets[0]=all", "global.imagePullSecrets[1].name=named"];
    let own = ["imagePullSecrets[0].name=own", "imagePullSecrets[1].name=all"];
    assert_eq!(secrets(&[global, own].concat()), [both.clone(), both]);
    let all = json!([{ "name": "all" }]);
    assert_eq!(secrets(&global[..1]), [all.clone(), all]);
    assert_eq!(secrets(&[]), [Value::Null, Value::Null]);
}

#[test]
fn a_parent_chart_sets_registry_and_secrets_for_its_parts() {
    let parent = tempfile::tempdir().unwrap();
    let at = |path: &str| parent.path().join(path);
    copy(&root().join(CHART), &at("charts/bellwether"));
    fs::write(at("Chart.yaml"), "apiVersion: v2\nname: mall\nversion: 0.0.1\n").unwrap();
    let values = "global: {imageRegistry: m.example, imagePullSecrets: [all], storageClass: ssd}\n";
    fs::write(at("values.yaml"), values).unwrap();
    let objects = release("one", parent.path().to_str().unwrap(), &[]);
    assert_eq!(images(&objects), ["m.example/bellwether:0.1.0", "m.example/bellwether:0.1.0"]);
    let (_, spec) = &pod_specs(&objects)[0];
    assert_eq!(spec["imagePullSecrets"], json!([{ "name": "all" }]));
}

/// Security contexts of all pods of a release and of the operator's containers.
fn contexts(objects: &[Value]) -> Vec<Value> {
    let pods = pod_specs(objects).into_iter();
    pods.flat_map(|(_, spec)| {
        [spec["securityContext"].clone(), spec["containers"][0]["securityContext"].clone()]
    })
    .collect()
}

#[test]
fn openshift_assigns_the_user_ids_where_helm_finds_it_or_the_value_says_so() {
    let folder = tempfile::tempdir().unwrap();
    // In a file of values, on and off are booleans.
    let [on, off] = ["on", "off"].map(|it| {
        let file = folder.path().join(it);
        fs::write(&file, format!("openshift: {it}\n")).unwrap();
        file.to_str().unwrap().to_owned()
    });
    let ids = ["securityContext.runAsUser=7", "securityContext.runAsGroup=7"];
    for chart in [CHART, SHOP] {
        for (args, values, assigns) in [
            (&[][..], &[][..], false),
            (&ON_OPENSHIFT, &[], true),
            (&ON_OPENSHIFT, &["openshift=off"], false),
            (&[], &["openshift=on"], true),
            (&["--values", &on], &[], true),
            (&["--values", &off, ON_OPENSHIFT[0], ON_OPENSHIFT[1]], &[], false),
        ] {
            let objects = release_with(args, "till", chart, &[values, &ids].concat());
            let contexts = contexts(&objects);
            assert_eq!(contexts.len(), 4, "{chart}: nodes and test");
            for context in contexts {
                let named: Vec<&str> = ["runAsUser", "runAsGroup", "fsGroup"]
                    .into_iter()
                    .filter(|it| context.get(it).is_some())
                    .collect();
                assert_eq!(named.is_empty(), assigns, "{chart}, {args:?}, {values:?}: {context}");
                // All else that the restricted standard asks for stays.
                let of_pod = context["runAsNonRoot"] == true
                    && context["seccompProfile"]["type"] == "RuntimeDefault";
                let of_container = context["capabilities"]["drop"] == json!(["ALL"])
                    && context["allowPrivilegeEscalation"] == false;
                assert!(of_pod || of_container, "{context}");
            }
        }
    }
}

#[test]
fn pods_are_scheduled_and_resolve_names_as_their_user_says() {
    let objects = rendered(&[
        "schedulerName=own",
        "runtimeClassName=gvisor",
        "dnsPolicy=None",
        "dnsConfig.nameservers={10.0.0.10}",
        "dnsConfig.searches={shop.example}",
        "hostAliases[0].ip=10.0.0.1,hostAliases[0].hostnames={etcd}",
    ]);
    let pods = pod_specs(&objects);
    assert_eq!(pods.len(), 2, "the nodes, and the test");
    for (pod, spec) in pods {
        assert_eq!(spec["schedulerName"], "own", "{pod}");
        assert_eq!(spec["runtimeClassName"], "gvisor", "{pod}");
        assert_eq!(spec["dnsPolicy"], "None", "{pod}");
        let dns = json!({ "nameservers": ["10.0.0.10"], "searches": ["shop.example"] });
        assert_eq!(spec["dnsConfig"], dns, "{pod}");
        let aliases = json!([{ "ip": "10.0.0.1", "hostnames": ["etcd"] }]);
        assert_eq!(spec["hostAliases"], aliases, "{pod}");
    }
    let objects = rendered(&[]);
    for (pod, spec) in pod_specs(&objects) {
        for field in ["schedulerName", "runtimeClassName", "dnsPolicy", "dnsConfig", "hostAliases"]
        {
            assert!(spec.get(field).is_none(), "{pod}: {field}");
        }
    }
}

#[test]
fn a_part_of_the_pods_is_updated_first_or_all_by_hand() {
    let spec = |values: &[&str]| {
        let objects = rendered(values);
        object(&objects, "StatefulSet", "shop-bellwether")["spec"].clone()
    };
    let default = spec(&[]);
    assert_eq!(default["updateStrategy"], json!({ "type": "RollingUpdate" }));
    assert_eq!(default["revisionHistoryLimit"], 10, "that of Kubernetes");
    let canary = spec(&["updateStrategy.rollingUpdate.partition=2", "revisionHistoryLimit=0"]);
    let rolling = json!({ "type": "RollingUpdate", "rollingUpdate": { "partition": 2 } });
    assert_eq!(canary["updateStrategy"], rolling);
    assert_eq!(canary["revisionHistoryLimit"], 0);
    let by_hand = spec(&["updateStrategy.type=OnDelete"]);
    assert_eq!(by_hand["updateStrategy"], json!({ "type": "OnDelete" }));
}

#[test]
fn pods_are_spread_unless_their_user_has_rules_about_other_pods() {
    let spread = |values: &[&str]| -> Vec<String> {
        let objects = rendered(values);
        let set = object(&objects, "StatefulSet", "shop-bellwether");
        let spread = &set["spec"]["template"]["spec"]["topologySpreadConstraints"];
        let all = spread.as_array().into_iter().flatten();
        all.map(|it| format!("{} {}", text(it, "/topologyKey"), text(it, "/whenUnsatisfiable")))
            .collect()
    };
    let default =
        ["kubernetes.io/hostname ScheduleAnyway", "topology.kubernetes.io/zone ScheduleAnyway"];
    assert_eq!(spread(&[]), default);
    let node = "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0]";
    let on_ssd = format!("{node}.key=ssd,{node}.operator=Exists");
    assert_eq!(spread(&[&on_ssd]), default, "a choice of hosts spreads nothing");
    let term = "requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey=rack";
    for kind in ["podAffinity", "podAntiAffinity"] {
        assert_eq!(spread(&[&format!("affinity.{kind}.{term}")]), [""; 0], "{kind}");
    }
    let own = "topologySpreadConstraints[0].topologyKey=rack,topologySpreadConstraints[0].whenUnsatisfiable=DoNotSchedule";
    let anti = format!("affinity.podAntiAffinity.{term}");
    assert_eq!(spread(&[own]), ["rack DoNotSchedule"]);
    assert_eq!(spread(&[own, &anti]), ["rack DoNotSchedule"]);
}

#[test]
fn a_monitor_of_either_kind_scrapes_the_nodes_of_its_release_from_any_namespace() {
    for (value, kind, endpoints) in [
        ("serviceMonitor", "ServiceMonitor", "endpoints"),
        ("podMonitor", "PodMonitor", "podMetricsEndpoints"),
    ] {
        let at = |it: &str| format!("metrics.{value}.{it}");
        let on = at("enabled=true");
        let monitor = |values: &[&str]| {
            let objects = rendered(&[&[on.as_str()], values].concat());
            let found = of_kind(&objects, kind);
            assert_eq!(found.len(), 1, "{kind}");
            assert_eq!(
                of_kind(&objects, "ServiceMonitor").len() + of_kind(&objects, "PodMonitor").len(),
                1
            );
            found[0].clone()
        };
        let default = monitor(&[]);
        assert_eq!(text(&default, "/metadata/name"), "shop-bellwether");
        assert_eq!(text(&default, "/metadata/namespace"), "sales");
        let relabelings = json!([{
            "action": "replace",
            "sourceLabels": ["__meta_kubernetes_pod_name"],
            "targetLabel": "instance",
        }]);
        let endpoint = json!({
            "port": "http",
            "path": "/metrics",
            "interval": "15s",
            "scrapeTimeout": "10s",
            "relabelings": relabelings,
        });
        assert_eq!(default["spec"][endpoints], json!([endpoint]), "{kind}");
        let selected = &default["spec"]["selector"]["matchLabels"];
        assert_eq!(selected["app.kubernetes.io/instance"], "shop", "{kind}");
        let mut fields: Vec<&String> = default["spec"].as_object().unwrap().keys().collect();
        fields.retain(|it| *it != endpoints);
        assert_eq!(fields, ["selector"], "{kind}");

        let values = [
            "namespace=monitoring",
            "interval=30s",
            "scrapeTimeout=5s",
            "labels.release=prometheus",
            "honorLabels=true",
            "sampleLimit=5000",
            "relabelings=null",
            "metricRelabelings[0].action=drop",
        ]
        .map(at);
        let other = monitor(&values.each_ref().map(String::as_str));
        assert_eq!(text(&other, "/metadata/namespace"), "monitoring", "{kind}");
        // Another release of that name in another namespace puts its monitor there, too.
        assert_eq!(text(&other, "/metadata/name"), "sales-shop-bellwether", "{kind}");
        assert_eq!(text(&other, "/metadata/labels/release"), "prometheus", "{kind}");
        assert_eq!(other["spec"]["namespaceSelector"], json!({ "matchNames": ["sales"] }));
        assert_eq!(other["spec"]["sampleLimit"], 5000, "{kind}");
        let endpoint = json!({
            "port": "http",
            "path": "/metrics",
            "interval": "30s",
            "scrapeTimeout": "5s",
            "honorLabels": true,
            "metricRelabelings": [{ "action": "drop" }],
        });
        assert_eq!(other["spec"][endpoints], json!([endpoint]), "{kind}");
    }
    let both = ["metrics.serviceMonitor", "metrics.podMonitor"].map(|it| {
        let schema = read(&format!("{LIBRARY}/values.schema.json"));
        let schema: Value = serde_json::from_str(&schema).unwrap();
        let path = it.replace('.', "/properties/");
        schema.pointer(&format!("/properties/{path}")).unwrap().clone()
    });
    assert!(both[0] == both[1], "both take the same options");
}

/// Rules of an aggregated role, and the roles of Kubernetes that they are added to.
fn aggregated(objects: &[Value], name: &str) -> (Value, Vec<String>) {
    let role = object(objects, "ClusterRole", name);
    let labels = role["metadata"]["labels"].as_object().unwrap().keys();
    let to = labels.filter_map(|it| it.strip_prefix("rbac.authorization.k8s.io/aggregate-to-"));
    (role["rules"].clone(), to.map(str::to_owned).collect())
}

#[test]
fn users_of_kubernetes_own_roles_see_and_edit_the_kinds_of_the_chart() {
    let read = json!(["get", "list", "watch"]);
    let write = json!(["create", "update", "patch", "delete", "deletecollection"]);
    let objects = release("till", SHOP, &[]);
    let (rules, to) = aggregated(&objects, "sales-till-shop-view");
    let of_all = json!([
        { "apiGroups": ["bellwether.dev"], "resources": ["elections"], "verbs": read },
        { "apiGroups": ["shop.example"], "resources": ["orders", "currencies"], "verbs": read },
    ]);
    assert_eq!(rules, of_all);
    assert_eq!(to, ["admin", "edit", "view"]);
    // The Election holds the number of the last fence, and a Currency belongs to no namespace.
    let (rules, to) = aggregated(&objects, "sales-till-shop-edit");
    let of_editors =
        json!([{ "apiGroups": ["shop.example"], "resources": ["orders"], "verbs": write }]);
    assert_eq!(rules, of_editors);
    assert_eq!(to, ["admin", "edit"]);

    let (rules, _) = aggregated(&rendered(&[]), "sales-shop-bellwether-edit");
    let checks =
        json!([{ "apiGroups": ["bellwether.dev"], "resources": ["uptimechecks"], "verbs": write }]);
    assert_eq!(rules, checks);

    // Definitions that others install need the same rights.
    let (rules, _) =
        aggregated(&release("till", SHOP, &["crds.enabled=false"]), "sales-till-shop-view");
    assert_eq!(rules, of_all);
    for off in ["rbac.aggregate=false", "rbac.create=false"] {
        assert!(of_kind(&rendered(&[off]), "ClusterRole").is_empty(), "{off}");
    }
}

#[test]
fn an_operator_without_kinds_of_its_own_adds_no_empty_role() {
    let shop = copy_of_shop();
    let crds = shop.path().join("files/crds");
    fs::remove_file(crds.join("shop.yaml")).unwrap();
    let chart = shop.path().to_str().unwrap();
    let roles = |objects: &[Value]| -> Vec<String> {
        let roles = of_kind(objects, "ClusterRole").into_iter();
        let mut names: Vec<String> =
            roles.map(|it| text(it, "/metadata/name").to_owned()).collect();
        names.sort();
        names
    };
    let only_election = release("till", chart, &[]);
    assert_eq!(roles(&only_election), ["sales-till-shop", "sales-till-shop-view"]);
    fs::remove_dir_all(crds).unwrap();
    assert_eq!(roles(&release("till", chart, &[])), ["sales-till-shop"]);
}

#[test]
fn the_network_policy_names_peers_that_are_known_and_the_ports_of_openshifts_dns() {
    let egress = |values: &[&str]| -> Vec<Value> {
        let objects = rendered(&[values, &["networkPolicy.enabled=true"]].concat());
        let policy = object(&objects, "NetworkPolicy", "shop-bellwether");
        policy["spec"]["egress"].as_array().unwrap().clone()
    };
    let open = egress(&[ETCD]);
    assert!(open.iter().all(|it| it.get("to").is_none()), "{open:?}");
    let peers = [
        "networkPolicy.apiServerTo[0].ipBlock.cidr=10.0.0.1/32",
        "networkPolicy.etcdTo[0].podSelector.matchLabels.app=etcd",
    ];
    let api_server = json!([{ "ipBlock": { "cidr": "10.0.0.1/32" } }]);
    let known = egress(&[&[ETCD], &peers[..]].concat());
    assert_eq!(known.len(), 3);
    assert_eq!(known[0].get("to"), None, "DNS");
    assert_eq!(known[1]["to"], api_server);
    let etcd = json!([{ "podSelector": { "matchLabels": { "app": "etcd" } } }]);
    assert_eq!(known[2]["to"], etcd);
    assert_eq!(known[2]["ports"], json!([{ "protocol": "TCP", "port": 2379 }]));
    let in_kubernetes = egress(&peers);
    assert_eq!(in_kubernetes.len(), 2, "no etcd: {in_kubernetes:?}");
    assert_eq!(in_kubernetes[1]["to"], api_server);

    let dns = |values: &[&str]| egress(values)[0]["ports"].clone();
    let at = |ports: &[u16]| -> Value {
        let both = |port: &u16| {
            ["UDP", "TCP"].map(|protocol| json!({ "protocol": protocol, "port": port }))
        };
        ports.iter().flat_map(both).collect()
    };
    assert_eq!(dns(&[]), at(&[53]));
    assert_eq!(dns(&["openshift=on"]), at(&[53, 5353]));
    assert_eq!(dns(&["openshift=on", "networkPolicy.dnsPorts={5353}"]), at(&[5353]));
    assert_eq!(dns(&["networkPolicy.dnsPorts={53,9053}"]), at(&[53, 9053]));
}

#[test]
fn names_that_look_like_numbers_stay_names() {
    let values = ["nameOverride=007", "commonLabels.team=sales"];
    let objects = release("42", CHART, &values);
    let set = object(&objects, "StatefulSet", "42-007");
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    assert_eq!(labels["app.kubernetes.io/name"], "007");
    assert_eq!(labels["app.kubernetes.io/instance"], "42");
    assert_eq!(labels, &{
        let mut all = set["spec"]["selector"]["matchLabels"].clone();
        all["team"] = json!("sales");
        all
    });
}
