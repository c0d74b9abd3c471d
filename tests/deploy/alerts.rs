//! The alerts: promtool checks and fires each of them, and each alert has a page of the runbook.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Output},
};

use bellwether::app::monitoring;
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    files::{catalogue, root},
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
    serde_saphyr::from_str(&monitoring::alerts(monitoring::RUNBOOKS)).unwrap()
}

/// Alert as the rule file defines it.
#[derive(Deserialize)]
pub(crate) struct Alert {
    #[serde(rename = "alert")]
    pub(crate) name: String,
    #[serde(rename = "expr")]
    pub(crate) query: String,
    annotations: Annotations,
}

#[derive(Deserialize)]
struct Annotations {
    summary: String,
    description: String,
    runbook_url: String,
}

impl Alert {
    fn runbook(&self) -> &str {
        let below = self.annotations.runbook_url.strip_prefix(monitoring::RUNBOOKS);
        below.and_then(|it| it.strip_prefix('/')).expect("a runbook below the base")
    }
}

pub(crate) fn alerts() -> Vec<Alert> {
    serde_json::from_value(rules()["groups"][0]["rules"].take()).unwrap()
}

/// Folder with the rules and their test cases.
fn laid_out(rules: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("alerts.yaml"), serde_saphyr::to_string(rules).unwrap()).unwrap();
    fs::write(folder.path().join("alerts_test.yaml"), CASES).unwrap();
    folder
}

#[test]
fn promtool_reads_the_rules_and_has_nothing_to_say() {
    let folder = laid_out(&rules());
    let (fine, said) = promtool(&["check", "rules", "--lint=all", "alerts.yaml"], folder.path());
    assert!(fine && said.contains("SUCCESS: 8 rules found"), "{said}");
}

#[test]
fn each_alert_fires_when_it_must_and_only_then() {
    let folder = laid_out(&rules());
    let (fine, said) = promtool(&["test", "rules", "alerts_test.yaml"], folder.path());
    assert!(fine, "{said}");
    for Alert { name, .. } in alerts() {
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
    for alert in alerts() {
        let broken = lint::broken_in_query(&alert.query, &rows, false);
        assert_eq!(broken, Vec::<String>::new(), "{}: {}", alert.name, alert.query);
        let fired =
            CASES.lines().find(|it| it.contains("labels: ALERTS") && it.contains(&alert.name));
        let fired = fired.unwrap();
        for told in [&alert.annotations.summary, &alert.annotations.description] {
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
    let alerts = alerts();
    assert_eq!(pages, alerts.iter().map(|it| it.runbook().to_owned()).collect());
    for alert in alerts {
        let (name, runbook) = (&alert.name, alert.runbook());
        let page = fs::read_to_string(folder.join(format!("{runbook}.md"))).unwrap();
        assert!(page.starts_with(&format!("# {name}\n")), "{runbook}.md is headed by its alert");
        for chapter in ["## What it means", "## What to do"] {
            assert!(page.contains(chapter), "{runbook}.md has no chapter {chapter:?}");
        }
    }
}

#[test]
fn the_object_for_the_prometheus_operator_holds_the_same_rules() {
    let text = monitoring::prometheus_rule("shop", "https://books.example/\"x/");
    let object: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(object["kind"], "PrometheusRule");
    assert_eq!(object["metadata"]["name"], "shop");
    let first = &object["spec"]["groups"][0]["rules"][0];
    assert_eq!(first["annotations"]["runbook_url"], "https://books.example/\"x/no-leader");
    let at_home = monitoring::prometheus_rule("shop", monitoring::RUNBOOKS);
    let at_home: Value = serde_saphyr::from_str(&at_home).unwrap();
    assert_eq!(at_home["spec"], rules());
}
