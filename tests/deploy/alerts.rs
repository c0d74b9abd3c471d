//! The alerts: promtool checks and fires each of them, and each has its page of what to do.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Output},
};

use bellwether::{operator::monitoring, telemetry::rules::Alert};
use regex::Regex;
use serde_json::Value;

use crate::{
    files::{assert_kept, catalogue, root},
    lint,
    support::tools,
};

const CASES: &str = include_str!("alerts_test.yaml");

fn promtool(args: &[&str], folder: &Path) -> (bool, String) {
    let Output { status, stdout, stderr } = Command::new(tools::program("prometheus", "promtool"))
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap();
    let said = [stdout, stderr].concat();
    (status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn rules() -> Value {
    monitoring::alerts().to_json(monitoring::RUNBOOKS)
}

fn yaml(value: &Value) -> String {
    serde_saphyr::to_string(value).unwrap()
}

/// A folder with the rules and their cases.
fn laid_out(rules: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("alerts.yaml"), yaml(rules)).unwrap();
    fs::write(folder.path().join("alerts_test.yaml"), CASES).unwrap();
    folder
}

#[test]
fn promtool_reads_the_rules_and_has_nothing_to_say() {
    let folder = laid_out(&rules());
    let (fine, said) = promtool(&["check", "rules", "--lint=all", "alerts.yaml"], folder.path());
    assert!(fine && said.contains("SUCCESS: 7 rules found"), "{said}");
}

#[test]
fn each_alert_fires_when_it_must_and_only_then() {
    let folder = laid_out(&rules());
    let (fine, said) = promtool(&["test", "rules", "alerts_test.yaml"], folder.path());
    assert!(fine, "{said}");
    for Alert { name, .. } in monitoring::alerts().alerts {
        let says = |form: String| Regex::new(&form).unwrap().is_match(CASES);
        let fires = format!("labels: ALERTS.alertname=\"{name}\"");
        assert!(says(fires), "{name}: no case in which it fires");
        let quiet = format!(
            "expr: ALERTS.alertname=\"{name}\"[^\n]*\n\\s+eval_time: \\S+\n\\s+exp_samples: \\[\\]"
        );
        assert!(says(quiet), "{name}: no case in which it must be quiet");
    }
}

#[test]
fn the_cases_notice_an_alert_that_is_wrong() {
    for (alert, right, wrong) in [
        ("BellwetherNoLeader", "unless sum", "unless count"),
        ("BellwetherTwoLeaders", "> 1", "> 2"),
        ("BellwetherLeaderSuspended", "> 3", "> 30"),
        ("BellwetherFlapping", "> 8", "> 7"),
        ("BellwetherFlapping", "> 8", "> 9"),
        ("BellwetherTickStuck", "(60 + 3", "(0 + 3"),
        ("BellwetherDriverStuck", "== 0", "> 0"),
        ("BellwetherShardsUnowned", "min by", "max by"),
    ] {
        let mut rules = rules();
        let all = rules["groups"][0]["rules"].as_array_mut().unwrap();
        let rule = all.iter_mut().find(|it| it["alert"] == alert).unwrap();
        let query = rule["expr"].as_str().unwrap().replace(right, wrong);
        assert_ne!(rule["expr"], query, "{alert}: {right} is not in it");
        rule["expr"] = query.into();
        let folder = laid_out(&rules);
        let (fine, said) = promtool(&["test", "rules", "alerts_test.yaml"], folder.path());
        assert!(!fine && said.contains(alert), "{alert} with {wrong}: {said}");
    }
}

#[test]
fn alerts_name_metrics_that_exist_and_labels_that_their_alerts_carry() {
    let rows = catalogue();
    let label_told = Regex::new(r"\$labels\.(\w+)").unwrap();
    for alert in monitoring::alerts().alerts {
        let broken = lint::broken_in_query(&alert.query, &rows, false);
        assert_eq!(broken, Vec::<String>::new(), "{}: {}", alert.name, alert.query);
        let fired =
            CASES.lines().find(|it| it.contains("labels: ALERTS") && it.contains(alert.name));
        let fired = fired.unwrap();
        for told in [alert.summary, alert.description] {
            for label in label_told.captures_iter(told) {
                assert!(fired.contains(&format!(" {}=", &label[1])), "{}: {told}", alert.name);
            }
            assert!(told.ends_with('.'), "{}: {told}", alert.name);
        }
    }
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let folder = root().join("docs/runbooks");
    let pages: BTreeSet<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|it| it.unwrap().file_name().to_string_lossy().replace(".md", ""))
        .filter(|it| it != "README")
        .collect();
    let alerts = monitoring::alerts().alerts;
    assert_eq!(pages, alerts.iter().map(|it| it.runbook.to_owned()).collect());
    for Alert { name, runbook, .. } in alerts {
        let page = fs::read_to_string(folder.join(format!("{runbook}.md"))).unwrap();
        assert!(page.starts_with(&format!("# {name}\n")), "{runbook}.md is headed by its alert");
        for chapter in ["## What it means", "## What to do"] {
            assert!(page.contains(chapter), "{runbook}.md has no chapter {chapter:?}");
        }
    }
}

#[test]
fn the_chart_carries_the_rules_as_they_are_printed() {
    assert_kept("charts/bellwether/files/alerts.yaml", &yaml(&rules()));
}

#[test]
fn the_object_for_the_prometheus_operator_holds_the_same_rules() {
    let object = monitoring::alerts().to_prometheus_rule("shop", "https://books.example/");
    assert_eq!(object["kind"], "PrometheusRule");
    assert_eq!(object["metadata"]["name"], "shop");
    let first = &object["spec"]["groups"][0]["rules"][0];
    assert_eq!(first["annotations"]["runbook_url"], "https://books.example/no-leader");
}
