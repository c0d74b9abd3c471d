//! Rules for dashboards and queries, after those of Grafana's own dashboard linter, and two of ours: a query
//! names only existing metrics, and only labels that these metrics have.

use bellwether::telemetry::metrics::MetricRow;
use regex::Regex;
use serde_json::Value;

/// Labels that Prometheus adds from the target; our metrics do not define them.
const OF_THE_TARGET: [&str; 5] = ["cluster", "namespace", "job", "instance", "le"];

/// All panels except the heads of rows, including those of collapsed rows.
pub(crate) fn panels(dashboard: &Value) -> Vec<&Value> {
    let tops = dashboard["panels"].as_array().unwrap();
    let all = tops.iter().chain(tops.iter().flat_map(|it| it["panels"].as_array().unwrap_or(tops)));
    let mut seen: Vec<&Value> = Vec::new();
    for panel in all.filter(|it| it["type"] != "row") {
        if !seen.iter().any(|it| it["id"] == panel["id"]) {
            seen.push(panel);
        }
    }
    seen
}

/// Queries of a dashboard, each with its panel or annotation.
pub(crate) fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let text = |it: &Value| it.as_str().unwrap_or_default().to_owned();
    let mut all = Vec::new();
    for panel in panels(dashboard) {
        for target in panel["targets"].as_array().unwrap() {
            all.push((text(&panel["title"]), text(&target["expr"])));
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        all.push((text(&annotation["name"]), text(&annotation["expr"])));
    }
    all
}

/// Messages for the rules that a dashboard breaks; empty if it breaks none.
pub(crate) fn broken_rules(dashboard: &Value, catalogue: &[MetricRow]) -> Vec<String> {
    let mut broken = Vec::new();
    let mut must = |holds: bool, rule: String| {
        if !holds {
            broken.push(rule);
        }
    };
    must(dashboard["editable"] == false, "it can be edited, and the edits would be lost".into());
    must(!dashboard["uid"].as_str().unwrap_or_default().is_empty(), "links need a uid".into());
    must(dashboard["tags"].as_array().is_some_and(|it| !it.is_empty()), "no tags".into());
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let variable = |name: &str| variables.iter().find(|it| it["name"] == name);
    must(
        variable("datasource")
            .is_some_and(|it| it["type"] == "datasource" && it["query"] == "prometheus"),
        "no variable for the data source".into(),
    );
    for name in ["job", "instance", "namespace", "cluster"] {
        must(
            variable(name).is_some_and(|it| {
                it["datasource"]["uid"] == "${datasource}"
                    && it["refresh"] == 2
                    && it["multi"] == true
                    && it["query"]["query"]
                        .as_str()
                        .is_some_and(|it| it.starts_with("label_values("))
            }),
            format!("no variable {name} that is asked for anew when the time changes"),
        );
    }
    for panel in panels(dashboard) {
        let title = panel["title"].as_str().unwrap_or_default();
        must(!title.is_empty(), format!("panel {} has no title", panel["id"]));
        let description = panel["description"].as_str().unwrap_or_default();
        must(description.ends_with('.'), format!("{title}: no sentence that describes it"));
        must(
            panel["datasource"]["uid"] == "${datasource}",
            format!("{title}: a fixed data source"),
        );
        must(
            panel["fieldConfig"]["defaults"]["unit"].as_str().is_some_and(|it| !it.is_empty()),
            format!("{title}: no unit"),
        );
        let targets = panel["targets"].as_array().unwrap();
        must(!targets.is_empty(), format!("{title}: no query"));
        let many = 1 < targets.len();
        for target in targets {
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            must(
                !legend.is_empty() || panel["type"] == "table",
                format!("{title}: a query without a legend"),
            );
            must(!many || target["refId"].is_string(), format!("{title}: queries without a refId"));
        }
    }
    for (title, query) in queries(dashboard) {
        for rule in broken_in_query(&query, catalogue, true) {
            broken.push(format!("{title}: {rule}"));
        }
    }
    broken
}

/// Messages for the rules that a query breaks. A dashboard's query must filter by the dashboard's variables, an
/// alert's query must not.
pub(crate) fn broken_in_query(query: &str, catalogue: &[MetricRow], narrowed: bool) -> Vec<String> {
    let mut broken = Vec::new();
    let series = Regex::new(r"\b((?:bellwether|leader_election|process|workqueue|controller_runtime|rest_client)_\w+)(\{[^}]*\})?").unwrap();
    let matcher = Regex::new(r"(\w+)\s*(?:=|!)").unwrap();
    let mut labels: Vec<String> = OF_THE_TARGET.map(str::to_owned).to_vec();
    // Alerts and etcd, which are narrowed as far as they have the labels.
    let others = Regex::new(r#"\b(?:ALERTS|etcd_\w+)\{cluster=~"\$cluster""#).unwrap();
    let mut found = narrowed && others.is_match(query);
    if found {
        labels.push("alertname".to_owned());
    }
    for one in series.captures_iter(query) {
        found = true;
        let (name, at) = (&one[1], one.get(0).unwrap());
        let Some(row) = row_of(name, catalogue) else {
            broken.push(format!("{name} is no metric of ours"));
            continue;
        };
        labels.extend(row.labels.iter().cloned());
        let matchers = one.get(2).map_or("", |it| it.as_str());
        for label in matcher.captures_iter(matchers) {
            let known =
                OF_THE_TARGET.contains(&&label[1]) || row.labels.contains(&label[1].to_owned());
            if !known {
                broken.push(format!("{name} has no label {}", &label[1]));
            }
        }
        for variable in ["job", "instance", "namespace", "cluster"] {
            if narrowed != matchers.contains(&format!("{variable}=~\"${variable}\"")) {
                broken.push(format!("{name}: is not narrowed by ${variable} as it should be"));
            }
        }
        let before = &query[..at.start()];
        let counts = row.kind == "counter" || row.kind == "histogram";
        let as_rate = before.ends_with("rate(") || before.ends_with("increase(");
        if counts != as_rate {
            broken.push(format!(
                "{name} is a {}: counters are looked at as rates, nothing else is",
                row.kind
            ));
        }
        let after = &query[at.end()..];
        if narrowed && before.ends_with("rate(") && !after.starts_with("[$__rate_interval]") {
            broken.push(format!("{name}: a rate over a span that does not fit every resolution"));
        }
    }
    if !found {
        broken.push("no metric at all".into());
    }
    for list in Regex::new(r"\b(?:by|on|without) \(([^)]*)\)").unwrap().captures_iter(query) {
        for label in list[1].split(',').map(str::trim).filter(|it| !it.is_empty()) {
            if !labels.iter().any(|it| it == label) {
                broken.push(format!("none of its metrics has a label {label}"));
            }
        }
    }
    broken
}

/// Metric that a series belongs to: a histogram has three series.
fn row_of<'a>(series: &str, catalogue: &'a [MetricRow]) -> Option<&'a MetricRow> {
    let named = |name: &str| catalogue.iter().find(|row| row.name == name);
    named(series).or_else(|| {
        ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| series.strip_suffix(suffix))
            .and_then(named)
            .filter(|row| row.kind == "histogram")
    })
}
