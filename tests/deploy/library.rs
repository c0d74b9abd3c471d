//! The library chart, by the chart of an imaginary operator (`shop`) that uses it.

use std::{collections::BTreeSet, fs, path::Path};

use regex::Regex;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    chart::CHART,
    files::root,
    matrix::{ETCD, Values},
    render::{helm, object, of_kind, pod_specs, release, text, unknown_fields, variables},
};

pub(crate) const LIBRARY: &str = "charts/bellwether-operator";
pub(crate) const SHOP: &str = "tests/deploy/shop";

/// Values of a release of the shop.
const RELEASES: &[(&str, Values)] = &[
    ("no value at all", &[]),
    ("all namespaces", &["watch.allNamespaces=true"]),
    ("etcd", &[ETCD]),
    ("etcd and all namespaces", &[ETCD, "watch.allNamespaces=true"]),
    ("monitoring", MONITORING),
    (
        "a network policy",
        &["networkPolicy.enabled=true", "networkPolicy.ingress[0].ports[0].port=9443"],
    ),
    (
        "accounts and roles of others",
        &["rbac.create=false", "serviceAccount.create=false", "serviceAccount.name=mine"],
    ),
    ("what its user adds", EXTRA),
];

const MONITORING: Values = &[
    "metrics.serviceMonitor.enabled=true",
    "metrics.prometheusRule.enabled=true",
    "metrics.prometheusRule.alertLabels.team=ours",
    "metrics.prometheusRule.runbooks=https://books.example",
    "metrics.dashboards.enabled=true",
];

const EXTRA: Values = &[
    "extraArgs={--verbose}",
    "extraEnv[0].name=REGION,extraEnv[0].value=west-{{ .Release.Namespace }}",
    "extraEnvFrom[0].configMapRef.name=more",
    "extraVolumes[0].name=tmp,extraVolumes[0].emptyDir.medium=Memory",
    "extraVolumeMounts[0].name=tmp,extraVolumeMounts[0].mountPath=/tmp",
    "extraContainers[0].name=side,extraContainers[0].image=side:1",
    "extraInitContainers[0].name=before,extraInitContainers[0].image=side:1",
    "extraObjects[0].apiVersion=v1,extraObjects[0].kind=ConfigMap,extraObjects[0].metadata.name=of-{{ .Release.Name }}",
    "operator.args={--page-size=50}",
    "operator.command={shop,supervise,--,shop,run}",
];

/// Objects of a release `till` of the shop in the namespace `sales`.
fn till(values: &[&str]) -> Vec<Value> {
    release("till", SHOP, values)
}

pub(crate) fn copy(from: &Path, to: &Path) {
    if !from.is_dir() {
        fs::copy(from, to).unwrap();
        return;
    }
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let name = entry.unwrap().file_name();
        copy(&from.join(&name), &to.join(&name));
    }
}

/// Copy of the shop's chart that holds the library as files: nothing in it is a link.
pub(crate) fn copy_of_shop() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&root().join(SHOP), folder.path());
    folder
}

/// Objects by kind, namespace and name.
fn named(objects: &[Value]) -> BTreeSet<String> {
    let path = |it: &Value| {
        let at = |path: &str| text(it, path).to_owned();
        [at("/kind"), at("/metadata/namespace"), at("/metadata/name")].join("/")
    };
    objects.iter().map(path).collect()
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|it| text(it, "/name")).collect()
}

#[test]
fn helm_lint_is_content_with_the_library_and_with_every_release_of_its_user() {
    let (fine, out, err) = helm(&["lint", "--strict", LIBRARY], &[]);
    assert!(fine, "{out}{err}");
    for (name, values) in RELEASES {
        let (fine, out, err) = helm(&["lint", "--strict", SHOP], values);
        assert!(fine, "{name}: {out}{err}");
    }
}

#[test]
fn kubernetes_knows_every_field_of_the_objects_of_another_operator() {
    for (name, values) in RELEASES {
        for object in till(values) {
            assert_eq!(unknown_fields(&object), Vec::<String>::new(), "{name}");
        }
    }
}

#[test]
fn a_chart_of_one_line_has_every_object_under_its_own_name() {
    let mut expected: Vec<String> = [
        "Service/sales/till-shop",
        "Service/sales/till-shop-headless",
        "Service/sales/till-shop-leader",
        "StatefulSet/sales/till-shop",
        "PodDisruptionBudget/sales/till-shop",
        "ServiceAccount/sales/till-shop",
        "Role/sales/till-shop",
        "RoleBinding/sales/till-shop",
        "ClusterRole//sales-till-shop",
        "ClusterRoleBinding//sales-till-shop",
        "ClusterRole//sales-till-shop-view",
        "ClusterRole//sales-till-shop-edit",
        "ServiceAccount/sales/till-shop-check",
        "Role/sales/till-shop-check",
        "RoleBinding/sales/till-shop-check",
        "Pod/sales/till-shop-check",
        "CustomResourceDefinition//elections.bellwether.dev",
        "CustomResourceDefinition//orders.shop.example",
        "CustomResourceDefinition//currencies.shop.example",
        // Of a template of the chart itself.
        "ConfigMap/sales/till-shop-settings",
    ]
    .map(str::to_owned)
    .into();
    assert_eq!(named(&till(&[])), expected.iter().cloned().collect());
    expected.extend(
        [
            "ServiceMonitor/sales/till-shop",
            "PrometheusRule/sales/till-shop",
            "ConfigMap/sales/till-shop-dashboards",
        ]
        .map(str::to_owned),
    );
    assert_eq!(named(&till(MONITORING)), expected.into_iter().collect());

    // The library's name is left only in names that are the same for every operator.
    let ours = Regex::new(r"bellwether(?:\.dev/|\.dev\b|/etcd-)").unwrap();
    for (name, values) in RELEASES {
        for object in till(values) {
            if object["kind"] == "CustomResourceDefinition" {
                continue;
            }
            let rest = ours.replace_all(&object.to_string(), "").into_owned();
            assert!(!rest.contains("bellwether"), "{name}: {object}");
        }
    }
}

#[test]
fn labels_image_and_test_are_those_of_the_chart_that_uses_the_library() {
    let objects = till(&[]);
    let set = object(&objects, "StatefulSet", "till-shop");
    assert_eq!(
        set["metadata"]["labels"],
        json!({
            "helm.sh/chart": "shop-1.2.3",
            "app.kubernetes.io/version": "4.5",
            "app.kubernetes.io/managed-by": "Helm",
            "app.kubernetes.io/part-of": "shop",
            "app.kubernetes.io/name": "shop",
            "app.kubernetes.io/instance": "till",
            "app.kubernetes.io/component": "node",
        })
    );
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(
        (text(container, "/name"), text(container, "/image")),
        ("shop", "registry.example/shop:4.5")
    );
    assert!(container.get("command").is_none() && container.get("args").is_none(), "the image's");
    let test = object(&objects, "Pod", "till-shop-check");
    assert_eq!(test["spec"]["containers"][0]["command"], json!(["shop", "check"]));

    let other = till(&["operator.program=/usr/bin/shopd", "image.repository=,image.tag="]);
    let test = &object(&other, "Pod", "till-shop-check")["spec"]["containers"][0];
    assert_eq!(test["command"], json!(["/usr/bin/shopd", "check"]));
    assert_eq!(text(test, "/image"), "shop:4.5", "the image's name is the chart's if it has none");
}

#[test]
fn own_values_stand_at_the_top_level_and_default_values_of_the_library_below_them() {
    let objects = till(&[]);
    let set = object(&objects, "StatefulSet", "till-shop");
    assert_eq!(set["spec"]["replicas"], 2, "the chart's own");
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    let resources = json!({
        "requests": { "cpu": "100m", "memory": "64Mi" },
        "limits": { "memory": "512Mi" },
    });
    assert_eq!(container["resources"], resources, "one of them is the chart's own");
    let variables = variables(&set["spec"]["template"]["spec"]);
    assert_eq!(text(&variables["BELLWETHER_PROFILE"], "/value"), "fast", "the chart's own");
    assert_eq!(text(&variables["BELLWETHER_TICK"], "/value"), "50ms", "the library's");

    let objects = till(&["replicaCount=5", "node.profile=default", "resources.limits=null"]);
    let set = object(&objects, "StatefulSet", "till-shop");
    assert_eq!(set["spec"]["replicas"], 5, "of the release");
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    assert!(container["resources"].get("limits").is_none(), "taken away: {container}");
}

#[test]
fn what_the_chart_and_what_its_user_add_reaches_the_pods() {
    let objects = till(EXTRA);
    let set = object(&objects, "StatefulSet", "till-shop");
    let spec = &set["spec"]["template"]["spec"];
    assert_eq!(names(&spec["containers"]), ["shop", "rates", "side"]);
    assert_eq!(names(&spec["initContainers"]), ["first-rates", "before"]);
    assert_eq!(names(&spec["volumes"]), ["rates", "tmp"]);
    let container = &spec["containers"][0];
    assert_eq!(container["command"], json!(["shop", "supervise", "--", "shop", "run"]));
    assert_eq!(container["args"], json!(["--page-size=50", "--verbose"]));
    assert_eq!(names(&container["volumeMounts"]), ["rates", "tmp"]);
    assert_eq!(container["envFrom"], json!([{ "configMapRef": { "name": "more" } }]));
    let variables = variables(spec);
    let value = |name: &str| text(&variables[name], "/value").to_owned();
    assert_eq!(value("SHOP_CURRENCY"), "EUR", "a template of the chart");
    assert_eq!(value("REGION"), "west-sales", "a template of its user");
    assert_eq!(text(&spec["containers"][1], "/image"), "registry.example/rates:7");
    assert_eq!(spec["containers"][1]["args"][0], "--every=60s");
    object(&objects, "ConfigMap", "of-till");

    let objects = till(&["currency=SEK", "rates.everySeconds=5"]);
    let specs = pod_specs(&objects);
    let (_, spec) = specs.iter().find(|(name, _)| name == "till-shop").unwrap();
    assert_eq!(text(&crate::render::variables(spec)["SHOP_CURRENCY"], "/value"), "SEK");
    assert_eq!(spec["containers"][1]["args"][0], "--every=5s");
}

#[test]
fn pods_of_another_operator_keep_the_restricted_standard() {
    for (name, values) in RELEASES {
        let objects = till(values);
        for (pod, spec) in pod_specs(&objects) {
            assert_eq!(spec["securityContext"]["runAsNonRoot"], true, "{name}: {pod}");
            let of = |list: &str| spec[list].as_array().cloned().unwrap_or_default();
            for container in [of("containers"), of("initContainers")].concat() {
                if text(&container, "/image") != "side:1" {
                    let security = &container["securityContext"];
                    assert_eq!(security["capabilities"]["drop"], json!(["ALL"]), "{name}: {pod}");
                    assert_eq!(security["readOnlyRootFilesystem"], true, "{name}: {pod}");
                }
            }
        }
    }
    // Where the platform chooses the user ids, as OpenShift does, they are taken away.
    let objects = till(&["podSecurityContext.runAsUser=null", "podSecurityContext.fsGroup=null"]);
    for (pod, spec) in pod_specs(&objects) {
        let security = spec["securityContext"].as_object().unwrap();
        let left: Vec<&String> = security.keys().collect();
        assert_eq!(left, ["runAsGroup", "runAsNonRoot", "seccompProfile"], "{pod}");
    }
}

/// Rules of a role, each as its resources and, after a colon, its verbs.
fn rules(objects: &[Value], kind: &str, name: &str) -> Vec<String> {
    let of = |list: &Value| -> String {
        let words: Vec<&str> = list.as_array().unwrap().iter().filter_map(Value::as_str).collect();
        words.join(" ")
    };
    let role = object(objects, kind, name);
    let rules = role["rules"].as_array().unwrap().iter();
    rules.map(|it| format!("{}: {}", of(&it["resources"]), of(&it["verbs"]))).collect()
}

#[test]
fn roles_are_made_of_the_lists_in_the_charts_file() {
    const HOME: [&str; 4] = [
        "elections: create get",
        "elections/status: patch",
        "pods: list patch",
        "events: create patch",
    ];
    const STORE: [&str; 2] = ["leases: update", "leases: create delete get list patch watch"];
    const WATCHED: [&str; 3] =
        ["orders: list watch", "orders/status: patch", "configmaps: create patch"];
    const CLUSTER: &str = "currencies: list watch";
    let own = |objects: &[Value]| rules(objects, "Role", "till-shop");
    let wide = |objects: &[Value]| rules(objects, "ClusterRole", "sales-till-shop");

    let objects = till(&[]);
    assert_eq!(own(&objects), [&HOME[..], &STORE, &WATCHED].concat(), "the events once");
    assert_eq!(wide(&objects), [CLUSTER], "kinds without a namespace need a ClusterRole");
    let lease = &object(&objects, "Role", "till-shop")["rules"][4];
    assert_eq!(lease["resourceNames"], json!(["till-shop"]), "the cluster's own Lease");
    let numbered = till(&["clusterName=007"]);
    let lease = &object(&numbered, "Role", "till-shop")["rules"][4];
    assert_eq!(lease["resourceNames"], json!(["007"]), "a name, not a number");

    let objects = till(&[ETCD]);
    assert_eq!(own(&objects), [&HOME[..], &WATCHED].concat(), "no Leases");
    let objects = till(&["watch.allNamespaces=true"]);
    assert_eq!(own(&objects), [&HOME[..], &STORE].concat());
    assert_eq!(wide(&objects), [&WATCHED[..], &["events: create patch", CLUSTER]].concat());

    let none = till(&["rbac.create=false"]);
    assert!(of_kind(&none, "Role").is_empty() && of_kind(&none, "ClusterRole").is_empty());
}

#[test]
fn dashboards_and_alerts_come_from_the_charts_files() {
    let objects = till(MONITORING);
    let boards = object(&objects, "ConfigMap", "till-shop-dashboards");
    let files: Vec<&String> = boards["data"].as_object().unwrap().keys().collect();
    assert_eq!(
        files,
        ["shop-orders.json"],
        "the sidecar keeps the files of all charts in one folder"
    );
    assert_eq!(boards["metadata"]["annotations"], json!({ "grafana_folder": "shop" }));
    let given = till(&[MONITORING, &["metrics.dashboards.folder=Sales"]].concat());
    let boards = object(&given, "ConfigMap", "till-shop-dashboards");
    assert_eq!(boards["metadata"]["annotations"]["grafana_folder"], "Sales");

    let rule = object(&objects, "PrometheusRule", "till-shop");
    assert_eq!(
        rule["spec"]["groups"],
        json!([
            {
                "name": "shop",
                "interval": "30s",
                "rules": [
                    {
                        "record": "shop:orders:rate5m",
                        "expr": "sum by (namespace, job) (rate(shop_orders_total[5m]))",
                    },
                    {
                        "alert": "ShopNoOrders",
                        "expr": "shop:orders:rate5m == 0",
                        "for": "1h",
                        "labels": { "severity": "warning", "team": "ours" },
                        "annotations": {
                            "summary": "Job {{ $labels.job }} has seen no order for an hour.",
                            "runbook_url": "https://books.example/no-orders",
                        },
                    },
                ],
            },
            {
                "name": "shop-rates",
                "rules": [{
                    "alert": "ShopOldRates",
                    "expr": "time() - shop_rates_timestamp_seconds > 3600",
                    "labels": { "team": "ours" },
                }],
            },
        ])
    );
    let fewer = [MONITORING, &["metrics.prometheusRule.disabled={ShopOldRates}"]].concat();
    let objects = till(&fewer);
    let groups = &object(&objects, "PrometheusRule", "till-shop")["spec"]["groups"];
    assert_eq!(names(groups), ["shop"]);
}

/// Name of the cluster that the nodes of a release join.
fn cluster(objects: &[Value]) -> String {
    let specs = pod_specs(objects);
    let (_, spec) = specs.iter().find(|(name, _)| !name.ends_with("-check")).unwrap();
    text(&variables(spec)["BELLWETHER_CLUSTER"], "/value").to_owned()
}

/// Files that a release gives to Grafana's sidecar.
fn files(objects: &[Value]) -> BTreeSet<String> {
    let maps = of_kind(objects, "ConfigMap").into_iter();
    let boards = maps.filter(|it| text(it, "/metadata/name").ends_with("-dashboards"));
    boards.flat_map(|it| it["data"].as_object().unwrap().keys().cloned()).collect()
}

fn alerts(objects: &[Value]) -> BTreeSet<String> {
    let list = |it: &Value| it.as_array().cloned().unwrap_or_default();
    let rules = of_kind(objects, "PrometheusRule").into_iter();
    let groups = rules.flat_map(|it| list(&it["spec"]["groups"]));
    let alerts = groups.flat_map(|it| list(&it["rules"])).filter(|it| it["alert"].is_string());
    alerts.map(|it| text(&it, "/alert").to_owned()).collect()
}

#[test]
fn two_operators_in_one_namespace_share_nothing_but_the_definition_of_the_election() {
    for values in [&[][..], &["watch.allNamespaces=true"], MONITORING] {
        let values: Vec<&str> =
            values.iter().copied().filter(|it| !it.contains("alertLabels")).collect();
        let shop = till(&values);
        let ours = release("bw", CHART, &values);
        let shared: Vec<String> = named(&shop).intersection(&named(&ours)).cloned().collect();
        assert_eq!(shared, ["CustomResourceDefinition//elections.bellwether.dev"]);

        // No selector of one finds a pod of the other one.
        for (one, other) in [(&shop, &ours), (&ours, &shop)] {
            let pods: Vec<&Value> = of_kind(other, "StatefulSet")
                .into_iter()
                .map(|it| &it["spec"]["template"]["metadata"]["labels"])
                .chain(of_kind(other, "Service").into_iter().map(|it| &it["metadata"]["labels"]))
                .collect();
            let mut selectors = 0;
            for object in one {
                for path in [
                    "/spec/selector/matchLabels",
                    "/spec/selector",
                    "/spec/podSelector/matchLabels",
                ] {
                    let Some(selector) = object.pointer(path).and_then(Value::as_object) else {
                        continue;
                    };
                    selectors += 1;
                    let finds =
                        |labels: &&Value| selector.iter().all(|(name, it)| labels[name] == *it);
                    assert!(!pods.iter().any(finds), "{object}");
                }
            }
            assert!(selectors >= 5, "{selectors} selectors were looked at");
        }
        assert_eq!((cluster(&shop), cluster(&ours)), ("till-shop".into(), "bw-bellwether".into()));

        assert!(files(&shop).is_disjoint(&files(&ours)));
        assert!(alerts(&shop).is_disjoint(&alerts(&ours)));
        assert_eq!(alerts(&shop).is_empty(), values.len() < 2);
    }
    // Where no tool asks the cluster which definitions exist, as with Argo CD, one of the charts leaves it out.
    let shop = till(&["crds.exclude={elections.bellwether.dev}"]);
    assert!(named(&shop).is_disjoint(&named(&release("bw", CHART, &[]))));
    assert_eq!(of_kind(&shop, "CustomResourceDefinition").len(), 2);
}

#[test]
fn a_packaged_chart_holds_the_library_and_renders_the_same_objects() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().to_str().unwrap();
    for (chart, archive) in [(CHART, "bellwether-0.1.0.tgz"), (SHOP, "shop-1.2.3.tgz")] {
        let (fine, _, err) = helm(&["package", chart, "--destination", to], &[]);
        assert!(fine, "{chart}: {err}");
        let archive = folder.path().join(archive);
        let packed = release("till", archive.to_str().unwrap(), &["watch.allNamespaces=true"]);
        assert!(packed == release("till", chart, &["watch.allNamespaces=true"]), "{chart}");
    }
}

#[test]
fn both_operators_are_installed_below_one_parent_chart() {
    let parent = tempfile::tempdir().unwrap();
    let at = |path: &str| parent.path().join(path);
    copy(&root().join(CHART), &at("charts/bellwether"));
    copy(&root().join(SHOP), &at("charts/shop"));
    fs::write(at("Chart.yaml"), "apiVersion: v2\nname: mall\nversion: 0.0.1\n").unwrap();
    let values = "shop: {replicaCount: 4, crds: {exclude: [elections.bellwether.dev]}}\n";
    fs::write(at("values.yaml"), values).unwrap();

    let objects = release("one", parent.path().to_str().unwrap(), &["bellwether.node.tick=80ms"]);
    assert_eq!(named(&objects).len(), objects.len(), "no object is there twice");
    for (name, replicas, tick) in [("one-bellwether", 3, "80ms"), ("one-shop", 4, "50ms")] {
        let set = object(&objects, "StatefulSet", name);
        assert_eq!(set["spec"]["replicas"], replicas, "{name}");
        let variables = variables(&set["spec"]["template"]["spec"]);
        assert_eq!(text(&variables["BELLWETHER_TICK"], "/value"), tick, "{name}");
    }
    assert_eq!(rules(&objects, "ClusterRole", "sales-one-shop"), ["currencies: list watch"]);
}

#[test]
fn an_upgrade_with_the_values_of_an_older_chart_still_parts_releases_and_forbids_networks() {
    // `helm upgrade --reuse-values` replaces the chart's own values by those of the release before, which
    // knew nothing of the library.
    let folder = tempfile::tempdir().unwrap();
    copy(&root().join(CHART), folder.path());
    fs::write(folder.path().join("values.yaml"), "replicaCount: 3\n").unwrap();
    let values = ["watch.selector=team=a", "watch.denyNetworks={10.0.0.0/8}"];
    let older = release("shop", folder.path().to_str().unwrap(), &values);
    assert!(older == release("shop", CHART, &values));
    let specs = pod_specs(&older);
    let (_, spec) = specs.iter().find(|(name, _)| name == "shop-bellwether").unwrap();
    assert_eq!(text(&variables(spec)["BELLWETHER_SELECTOR"], "/value"), "team=a");
}

#[test]
fn the_charts_have_the_version_of_the_library_and_of_the_crate() {
    let version = env!("CARGO_PKG_VERSION");
    let line = |text: &str, indent: &str| {
        text.lines().any(|it| it == format!("{indent}version: {version}"))
    };
    for chart in [LIBRARY, CHART] {
        let text = fs::read_to_string(root().join(chart).join("Chart.yaml")).unwrap();
        assert!(line(&text, ""), "{chart}: its version");
        assert_eq!(line(&text, "    "), chart != LIBRARY, "{chart}: that of its dependency");
    }
}

#[test]
fn the_notes_of_another_operator_name_its_program() {
    let command = ["install", "till", SHOP, "--dry-run=client", "--namespace", "sales"];
    let (fine, out, err) = helm(&command, &["crds.enabled=false"]);
    assert!(fine, "{err}");
    let (_, notes) = out.split_once("NOTES:").expect("there are notes");
    for line in [
        "shop 4.5: 2 nodes of the cluster till-shop,",
        "  kubectl exec -n sales till-shop-0 -- shop status",
        "  shop print crds | kubectl apply --server-side -f -",
        "Orders that name no currency are in EUR.",
    ] {
        assert!(notes.lines().any(|it| it == line), "{line:?} in {notes}");
    }
}

/// Replaces a text in a file of the chart, or writes the file if the text is empty.
fn change(chart: &Path, file: &str, from: &str, to: &str) {
    let path = chart.join(file);
    let text = if from.is_empty() {
        to.to_owned()
    } else {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from:?}");
        text.replace(from, to)
    };
    fs::write(path, text).unwrap();
}

/// Mistake in a chart: what its author does to it.
type Mistake = &'static dyn Fn(&Path);

#[test]
fn mistakes_of_an_author_are_refused_with_the_file_and_what_to_do() {
    let mistakes: &[(Mistake, Values, &str)] = &[
        (
            &|it| change(it, "Chart.yaml", "import-values: [defaults]", "import-values: []"),
            &[],
            "Chart.yaml of the chart shop: its dependency bellwether-operator brings no default values: add `import-values: [defaults]`",
        ),
        (
            &|it| change(it, "Chart.yaml", "name: shop", "name: shop.v2"),
            &[],
            "Chart.yaml: the name \"shop.v2\" becomes the name of objects",
        ),
        (
            &|it| fs::remove_file(it.join("files/rbac.yaml")).unwrap(),
            &[],
            "there is no such file: write it with `shop print rbac`",
        ),
        (
            &|it| change(it, "files/rbac.yaml", "watched:", "watches:"),
            &[],
            "\"watches\" is not one of the lists watched, home, kubernetesStore, cluster",
        ),
        (
            &|it| change(it, "files/rbac.yaml", "", "watched: {}\nhome: orders\n"),
            &[],
            "home is a string, and must be a list of rules",
        ),
        (
            &|it| change(it, "files/rbac.yaml", "", "home: [\n"),
            &[],
            "files/rbac.yaml of the chart shop: \"Error\" is not one of the lists",
        ),
        (
            &|it| {
                change(it, "files/crds/shop.yaml", "kind: CustomResourceDefinition", "kind: Order");
            },
            &[],
            "files/crds/shop.yaml of the chart shop: found Order, but a file there holds CustomResourceDefinitions only",
        ),
        (
            &|it| fs::remove_dir_all(it.join("files/dashboards")).unwrap(),
            MONITORING,
            "the chart shop has no files/dashboards/*.json: write one with `shop print dashboards`",
        ),
        (
            &|it| {
                fs::remove_dir_all(it.join("files/alerts")).unwrap();
                fs::remove_file(it.join("files/alerts.yaml")).unwrap();
            },
            MONITORING,
            "the chart shop has no files/alerts.yaml: write it with `shop print alerts`",
        ),
        (
            &|it| change(it, "files/alerts.yaml", "", "rules: []\n"),
            MONITORING,
            "files/alerts.yaml of the chart shop: the file has no `groups` of rules",
        ),
        (&|_| (), &["crds.exclude={orders}"], "crds.exclude: there is no definition \"orders\""),
        (
            &|_| (),
            &["bellwether-operator.replicaCount=5"],
            "the values of the library stand at the top level of this chart's values: set replicaCount instead",
        ),
    ];
    let (fine, _, err) = helm(&["template", "till", SHOP], MONITORING);
    assert!(fine, "without any mistake: {err}");
    for (mistake, values, sentence) in mistakes {
        let shop = copy_of_shop();
        mistake(shop.path());
        let (fine, _, err) = helm(&["template", "till", shop.path().to_str().unwrap()], values);
        assert!(!fine && err.contains(sentence), "it should say {sentence:?}: {err}");
    }
}
