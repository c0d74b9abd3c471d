use super::*;
use crate::app::monitoring::narrow::registered;

const PANELS: &str = "
title: Panels
about: Panels for a test.
let:
  total: sum(bellwether_term)
rows:
- title: First
  panels:
  - &panel
    title: a
    kind: lines
    unit: seconds
    what: What it shows.
    good: Few.
    bad: Many.
    queries:
    - legend: total
      expr: <total> / sum(foreign_total)
  - *panel
  - *panel
- title: Second
  collapsed: true
  panels:
  - *panel
";

fn model() -> Value {
    let metrics = Metrics::new(registered());
    Dashboard::of(PANELS, "panels", "shop", &metrics).to_json()
}

#[test]
fn panels_are_laid_out_from_left_to_right_and_rows_below_each_other() {
    let model = model();
    let place = |panel: &Value| {
        let at = |axis: &str| panel["gridPos"][axis].as_u64().unwrap();
        (panel["id"].as_u64().unwrap(), at("x"), at("y"))
    };
    let panels = model["panels"].as_array().unwrap();
    let places: Vec<_> = panels.iter().map(place).collect();
    assert_eq!(places, [(1, 0, 0), (2, 0, 1), (3, 12, 1), (4, 0, 9), (5, 0, 17)]);
    assert_eq!(place(&panels[4]["panels"][0]), (6, 0, 18), "a collapsed row holds its panels");
}

#[test]
fn metrics_of_the_library_are_narrowed_to_what_the_reader_chose_and_no_others() {
    let query = &model()["panels"][1]["targets"][0]["expr"];
    let chosen =
        "cluster=~\"$cluster\", namespace=~\"$namespace\", job=~\"$job\", instance=~\"$instance\"";
    assert_eq!(*query, format!("sum(bellwether_term{{{chosen}}}) / sum(foreign_total)"));
    let narrow = |query: &str| Metrics::new(registered()).narrow(query);
    assert_eq!(
        narrow("rate(bellwether_beat_seconds_bucket{le=\"1\"}[5m])"),
        format!("rate(bellwether_beat_seconds_bucket{{{chosen}, le=\"1\"}}[5m])")
    );
    assert_eq!(
        narrow("etcd_server_leader_changes_seen_total offset 1h"),
        "etcd_server_leader_changes_seen_total{cluster=~\"$cluster\"} offset 1h"
    );
}

#[test]
fn a_variable_offers_the_targets_of_this_operator_that_the_outer_ones_leave() {
    let definition = |model: &Value, name: &str| {
        let list = model["templating"]["list"].as_array().unwrap();
        list.iter().find(|it| it["name"] == name).unwrap()["definition"].clone()
    };
    assert_eq!(
        definition(&model(), "job"),
        "label_values(bellwether_build_info{operator=\"shop\", cluster=~\"$cluster\", namespace=~\"$namespace\"}, job)"
    );
    let file = PANELS.replace("about:", "programs: workqueue_depth\nabout:");
    let model = Dashboard::of(&file, "panels", "shop", &Metrics::new(registered())).to_json();
    assert_eq!(
        definition(&model, "cluster"),
        "label_values({__name__=~\"$programs\", operator=~\"shop|\"}, cluster)"
    );
}

#[test]
fn a_long_name_of_an_operator_gives_an_identifier_that_grafana_takes() {
    let long = |end: &str| {
        Dashboard::of(PANELS, "controllers", &("o".repeat(60) + end), &Metrics::new(Vec::new()))
    };
    let (one, other) = (long("a"), long("b"));
    assert!(one.uid().len() <= 40, "{}", one.uid());
    assert_ne!(one.uid(), other.uid());
}
