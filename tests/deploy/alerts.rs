//! The alerts: promtool checks and fires each of them, and each alert has a page of the runbook.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fs,
    path::Path,
    process::{Command, Output},
};

use bellwether::{app::monitoring, cli};
use regex::{NoExpand, Regex};
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

/// Rule file as the reference operator prints it: the rules of every operator, and its own.
fn rules() -> Value {
    let text = monitoring::alerts(cli::ALERTS, monitoring::RUNBOOKS);
    serde_saphyr::from_str(&text).unwrap()
}

/// Rules of all groups, in their order.
fn of_all_groups(rules: &mut Value) -> impl Iterator<Item = &mut Value> {
    let groups = rules["groups"].as_array_mut().unwrap().iter_mut();
    groups.flat_map(|group| group["rules"].as_array_mut().unwrap())
}

/// Rule that records a series for other rules.
struct Recorded {
    name: Regex,
    query: String,
}

fn recorded() -> Vec<Recorded> {
    let mut rules = rules();
    let recorded = of_all_groups(&mut rules).filter_map(|rule| {
        let name = Regex::new(&format!(r"\b{}\b", rule["record"].as_str()?)).unwrap();
        Some(Recorded { name, query: rule["expr"].as_str().unwrap().to_owned() })
    });
    recorded.collect()
}

/// Query with the queries of recorded series in place of their names, as a Prometheus without these rules
/// needs it.
fn written_out(query: &str, recorded: &[Recorded]) -> String {
    // A rule uses series of the rules before it.
    recorded.iter().rev().fold(query.to_owned(), |query, series| {
        let in_brackets = format!("({})", series.query);
        series.name.replace_all(&query, NoExpand(&in_brackets)).into_owned()
    })
}

/// Alert as the rule file defines it, with the queries of recorded series written out.
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
    let (mut rules, recorded) = (rules(), recorded());
    let alerts = of_all_groups(&mut rules).filter(|rule| rule["alert"].is_string());
    let alerts = alerts.map(|rule| {
        let mut alert: Alert = serde_json::from_value(rule.take()).unwrap();
        alert.query = written_out(&alert.query, &recorded);
        alert
    });
    alerts.collect()
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
    let mut rules = rules();
    let folder = laid_out(&rules);
    let (fine, said) = promtool(&["check", "rules", "--lint=all", "alerts.yaml"], folder.path());
    let found = format!("SUCCESS: {} rules found", of_all_groups(&mut rules).count());
    assert!(fine && said.contains(&found), "{said}");
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

/// Change of a rule that breaks an alert.
#[derive(Clone, Copy)]
struct Mutant {
    rule: &'static str,
    right: &'static str,
    wrong: &'static str,
    /// Alert whose own cases must notice the change.
    alert: &'static str,
}

const fn of_alert(alert: &'static str, right: &'static str, wrong: &'static str) -> Mutant {
    Mutant { rule: alert, right, wrong, alert }
}

const ERRORS: &str =
    "job_controller:controller_runtime_reconcile_errors_per_reconcile:ratio_rate10m";
const ABSENT: &str = "job_name:leader_election_master_status:absent_ratio1h";
const LATE: &str = "job_controller:bellwether_workqueue_oldest_age_seconds:late";

const fn of_change_budget(right: &'static str, wrong: &'static str) -> Mutant {
    Mutant { rule: LATE, right, wrong, alert: "BellwetherChangeBudget" }
}

const MUTANTS: [Mutant; 38] = [
    of_alert("BellwetherNoLeader", "unless sum", "unless count"),
    of_alert("BellwetherTwoLeaders", "> 1", "> 2"),
    of_alert("BellwetherLeaderSuspended", "> 3", "> 30"),
    of_alert("BellwetherFlapping", "> 8", "> 7"),
    of_alert("BellwetherFlapping", "> 8", "> 9"),
    of_alert("BellwetherTickStuck", "(60 + 3", "(0 + 3"),
    of_alert("BellwetherDriverStuck", "== 0", "> 0"),
    of_alert("BellwetherStateLarge", "> 0.8", "> 0.4"),
    of_alert("BellwetherShardsUnowned", "min by", "max by"),
    of_alert("BellwetherAuthorityLow", "< 0.5", "< 0.3"),
    of_alert("BellwetherLeaseLow", "0.25 *", "0.01 *"),
    of_alert("BellwetherLeaseLow", "(0.25,", "(0,"),
    of_alert("BellwetherStoreSlow", "> 0.5", "> 5"),
    of_alert("BellwetherStoreSlow", "> 5)", "> 50)"),
    of_alert("BellwetherStoreSlow", "reason!=\"asked\"", "reason=~\".+\""),
    of_alert(
        "BellwetherNodesMissing",
        "last_over_time(leader_election_master_status[1h])",
        "leader_election_master_status",
    ),
    of_alert("BellwetherNodesMissing", " up and", " last_over_time(up[1h]) and"),
    of_alert("BellwetherHandOverStuck", "> 0", "> 2"),
    of_alert("BellwetherGateClosed", "sum by", "min by"),
    of_alert("BellwetherGateClosed", " == 1", " == 0"),
    of_alert("BellwetherReconcileErrors", "> 0.1", "> 0.2"),
    Mutant {
        rule: ERRORS,
        right: "reconcile_total[",
        wrong: "reconcile_errors_total[",
        alert: "BellwetherReconcileErrors",
    },
    of_alert("BellwetherReconcileStuck", "> 300", "> 3000"),
    of_alert("BellwetherReconcileStuck", "> 3)", "> 30)"),
    of_alert("BellwetherReconcileStuck", "processor_seconds and", "processor_seconds or"),
    of_alert("BellwetherQueueOld", "!~\"-.*\"", "=~\".*\""),
    of_alert("BellwetherCacheStale", "> 300", "> 60"),
    of_alert("BellwetherObjectsUnreadable", "> 0", "> 2"),
    of_alert("BellwetherCertificateReloadFailed", "unless", "and"),
    of_alert("BellwetherLogLinesDropped", "[10m]", "[1h]"),
    of_alert("BellwetherCheckMissed", "[10m]", "[30m]"),
    of_alert("BellwetherTargetDown", "=\"down\"", "=~\".+\""),
    of_alert("BellwetherLeaderBudget", "> 6 *", "> 60 *"),
    of_alert("BellwetherLeaderBudget", "> 0.005", "> 0.05"),
    Mutant { rule: ABSENT, right: "/ 120", wrong: "/ 12", alert: "BellwetherLeaderBudget" },
    of_change_budget("> bool 1", "> bool 0.1"),
    of_change_budget("> bool 4", "> bool 40"),
    of_change_budget("!~\"-.*\"", "=~\".*\""),
];

impl Mutant {
    fn change(&self, rules: &mut Value) {
        let Self { rule: name, right, wrong, .. } = *self;
        let is_it = |rule: &Value| {
            (rule["alert"] == name || rule["record"] == name)
                && rule["expr"].as_str().unwrap().contains(right)
        };
        let found = of_all_groups(rules).find(|rule| is_it(rule));
        let rule = found.unwrap_or_else(|| panic!("{name}: {right} is not in it"));
        rule["expr"] = rule["expr"].as_str().unwrap().replace(right, wrong).into();
    }
}

#[test]
fn the_cases_notice_an_alert_that_is_wrong() {
    let all: BTreeSet<String> = alerts().into_iter().map(|alert| alert.name).collect();
    assert_eq!(all, MUTANTS.iter().map(|mutant| mutant.alert.to_owned()).collect());
    let mut rest = MUTANTS.to_vec();
    while !rest.is_empty() {
        // At most one mutant of each alert in a round, since promtool takes seconds.
        let mut round: BTreeMap<&str, Mutant> = BTreeMap::new();
        rest.retain(|mutant| match round.entry(mutant.alert) {
            Entry::Occupied(_) => true,
            Entry::Vacant(place) => {
                place.insert(*mutant);
                false
            }
        });
        let mut rules = rules();
        for mutant in round.values() {
            mutant.change(&mut rules);
        }
        let folder = laid_out(&rules);
        let (fine, said) = promtool(&["test", "rules", "alerts_test.yaml"], folder.path());
        assert!(!fine, "{said}");
        for Mutant { rule, right, wrong, alert } in round.values() {
            let own_case = format!("expr: \"ALERTS{{alertname=\\\"{alert}\\\"");
            assert!(said.contains(&own_case), "{rule} with {wrong} for {right}: {said}");
        }
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
        let chapters: Vec<&str> = page.lines().filter(|line| line.starts_with("## ")).collect();
        assert_eq!(
            chapters,
            ["## What it means", "## Impact", "## Diagnosis", "## What to do"],
            "{runbook}.md"
        );
    }
}

#[test]
fn the_page_of_all_runbooks_lists_each_alert_with_its_severities() {
    let mut severities: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut rules = rules();
    for rule in of_all_groups(&mut rules).filter(|rule| rule["alert"].is_string()) {
        let of_rule = |field: &Value| field.as_str().unwrap().to_owned();
        let found = severities.entry(of_rule(&rule["alert"])).or_default();
        found.push(of_rule(&rule["labels"]["severity"]));
    }
    let page = fs::read_to_string(root().join("docs/runbooks/README.md")).unwrap();
    let listed: BTreeSet<&str> = page.lines().filter(|line| line.starts_with("| `B")).collect();
    let rows = alerts().into_iter().map(|alert| {
        let (severities, runbook) = (severities[&alert.name].join(", "), alert.runbook());
        format!("| `{}` | {severities} | [{runbook}]({runbook}.md) |", alert.name)
    });
    let rows: BTreeSet<String> = rows.collect();
    assert_eq!(listed, rows.iter().map(String::as_str).collect());
}

#[test]
fn queries_of_recorded_series_are_written_out() {
    let recorded = [("job:a:rate", "rate(a[1m])"), ("job:a:rate_sum", "job:a:rate + 1")];
    let recorded = recorded.map(|(name, query)| Recorded {
        name: Regex::new(&format!(r"\b{name}\b")).unwrap(),
        query: query.to_owned(),
    });
    let query = written_out("max_over_time(job:a:rate_sum[1h:30s]) > job:a:rate", &recorded);
    assert_eq!(query, "max_over_time(((rate(a[1m])) + 1)[1h:30s]) > (rate(a[1m]))");
    assert!(alerts().iter().all(|alert| !alert.query.contains("job_")));
}

#[test]
fn the_object_for_the_prometheus_operator_holds_the_same_rules() {
    let more = cli::ALERTS;
    let text = monitoring::prometheus_rule("shop", more, "https://books.example/\"x/");
    let object: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(object["kind"], "PrometheusRule");
    assert_eq!(object["metadata"]["name"], "shop");
    let first = &object["spec"]["groups"][0]["rules"][0];
    assert_eq!(first["annotations"]["runbook_url"], "https://books.example/\"x/no-leader");
    let at_home = monitoring::prometheus_rule("shop", more, monitoring::RUNBOOKS);
    let at_home: Value = serde_saphyr::from_str(&at_home).unwrap();
    assert_eq!(at_home["spec"], rules());
}
