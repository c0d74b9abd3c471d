//! The dashboards follow the rules for dashboards, and the chart contains them as the command prints them.

use std::collections::BTreeSet;

use bellwether::cli;
use regex::Regex;
use serde_json::{Value, json};

use crate::{
    files::{assert_kept, catalogue},
    lint,
};

/// Names and models of all dashboards of our operator.
pub(crate) fn all_dashboards() -> Vec<(String, Value)> {
    cli::dashboards().iter().map(|it| (it.name().to_owned(), it.to_json())).collect()
}

fn elections() -> Value {
    let mut all = all_dashboards().into_iter();
    all.find(|(name, _)| name == "elections").unwrap().1
}

#[test]
fn dashboards_keep_every_rule() {
    let rows = catalogue();
    for (name, model) in all_dashboards() {
        let broken = lint::broken_rules(&model, &rows);
        assert_eq!(broken, Vec::<String>::new(), "{name}");
    }
}

#[test]
fn every_metric_is_on_a_panel() {
    let mut shown = BTreeSet::new();
    let word = Regex::new(r"\w+").unwrap();
    for (_, model) in all_dashboards() {
        for panel in lint::panels(&model) {
            for target in panel["targets"].as_array().unwrap() {
                let query = target["expr"].as_str().unwrap();
                shown.extend(word.find_iter(query).map(|it| it.as_str().to_owned()));
            }
        }
    }
    let hidden: Vec<_> = catalogue()
        .into_iter()
        .map(|row| if row.kind == "histogram" { row.name + "_bucket" } else { row.name })
        .filter(|name| !shown.contains(name))
        .collect();
    assert_eq!(hidden, Vec::<String>::new());
}

/// Change that makes a dashboard break a rule.
type Break = &'static dyn Fn(&mut Value);

#[test]
fn the_rules_are_looked_at() {
    let rows = catalogue();
    let broken_by = |change: &dyn Fn(&mut Value)| {
        let mut dashboard = elections();
        change(&mut dashboard);
        lint::broken_rules(&dashboard, &rows)
    };
    let breaks: &[(&str, Break)] = &[
        ("can be edited", &|it| it["editable"] = json!(true)),
        ("data source", &|it| it["templating"]["list"][0]["type"] = json!("query")),
        ("variable job", &|it| it["templating"]["list"][3]["refresh"] = json!(1)),
        ("no unit", &|it| it["panels"][1]["fieldConfig"]["defaults"]["unit"] = json!("")),
        ("describes", &|it| it["panels"][1]["description"] = json!("")),
        ("no query", &|it| it["panels"][1]["targets"] = json!([])),
        ("a fixed data source", &|it| it["panels"][1]["datasource"]["uid"] = json!("abc")),
    ];
    for (word, change) in breaks {
        let broken = broken_by(*change);
        assert!(broken.iter().any(|it| it.contains(word)), "{word}: {broken:?}");
    }
    let narrow =
        r#"{cluster=~"$cluster", namespace=~"$namespace", job=~"$job", instance=~"$instance"}"#;
    for (word, query) in [
        ("no metric of ours", format!("rate(bellwether_gone_total{narrow}[$__rate_interval])")),
        ("counters are looked at as rates", format!("bellwether_driver_steps_total{narrow}")),
        ("does not fit", format!("rate(bellwether_driver_steps_total{narrow}[5m])")),
        ("not narrowed by $job", "bellwether_term".to_owned()),
        ("has a label pod", format!("sum by (pod) (bellwether_term{narrow})")),
        ("no label colour", "bellwether_term{colour=\"red\"}".to_owned()),
    ] {
        let broken = lint::broken_in_query(&query, &rows, true);
        assert!(broken.iter().any(|it| it.contains(word)), "{query}: {broken:?}");
    }
}

#[test]
fn the_chart_carries_the_dashboards_as_they_are_printed() {
    for (name, model) in all_dashboards() {
        let path = format!("charts/bellwether/files/dashboards/bellwether-{name}.json");
        assert_kept(&path, &format!("{model}\n"));
    }
}
