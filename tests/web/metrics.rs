//! `/metrics` as Prometheus reads it, and the table of all metrics in `docs/metrics.md`.

use std::fmt::Write as _;

use bellwether::{
    k8s::{client::ClientMetrics, operator::OperatorMetrics, queue::QueueMetrics},
    node::NodeMetrics,
    operator::uptime::metrics::UptimeMetrics,
    telemetry::{
        metrics::{self, MetricRow, describe},
        server::ServerMetrics,
    },
};

use super::{
    docs,
    served::{Script, Served, client, empty},
    tools,
};

const BEGIN: &str = "<!-- metrics: written by a command, see above -->";
const END: &str = "<!-- metrics: end -->";
const UPDATE: &str = "BELLWETHER_UPDATE=1 cargo test --test web the_table_in_the_docs";

async fn scrape(served: &Served) -> String {
    client().get(served.url("/metrics")).send().await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn metrics_tell_the_build_the_process_and_the_server_itself() {
    let served = Served::new(Script::new(empty())).await;
    client().get(served.url("/livez")).send().await.unwrap();
    client().get(served.url("/no/such/path")).send().await.unwrap();
    let text = scrape(&served).await;
    for line in [
        &format!(
            "bellwether_build_info{{commit=\"unknown\",version=\"{}\"}} 1",
            env!("CARGO_PKG_VERSION")
        ),
        "# TYPE process_cpu_seconds_total counter",
        "process_resident_memory_bytes ",
        "bellwether_http_requests_total{code=\"200\",path=\"/livez\"} 1",
        "bellwether_http_requests_total{code=\"404\",path=\"other\"} 1",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    assert!(!text.contains("no/such"), "what a client makes up is no label");
}

#[tokio::test]
async fn promtool_has_nothing_to_say_about_a_live_scrape() {
    let served = Served::new(Script::new(empty())).await;
    for path in ["/", "/status", "/livez", "/nowhere"] {
        client().get(served.url(path)).send().await.unwrap();
    }
    let said = tools::promtool_check(&scrape(&served).await);
    assert_eq!(said, (true, String::new()));
    let (fine, said) = tools::promtool_check("# TYPE bad_total gauge\nbad_total 1\n");
    assert!(!fine && said.contains("bad_total"), "promtool does look: {said}");
}

/// All metrics of the catalogue, by owner.
fn catalogue() -> Vec<(&'static str, Vec<MetricRow>)> {
    vec![
        ("Node", describe(&NodeMetrics::collectors())),
        ("Controllers", describe(&OperatorMetrics::collectors())),
        ("Work queues", describe(&QueueMetrics::collectors())),
        ("Uptime checks", describe(&UptimeMetrics::collectors())),
        ("Kubernetes client", describe(&ClientMetrics::collectors())),
        ("Status server", describe(&ServerMetrics::collectors())),
        ("Build and process", describe(&metrics::base_collectors())),
    ]
}

#[test]
fn the_table_in_the_docs_is_what_the_program_has() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    let text = std::fs::read_to_string(file).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("docs/metrics.md has the first mark");
    let (_, after) = rest.split_once(END).expect("docs/metrics.md has the second mark");
    let mut tables = String::from("\n");
    for (owner, rows) in catalogue() {
        let _ = write!(tables, "\n### {owner}\n\n{}", metrics::markdown(&rows));
    }
    let wanted = format!("{before}{BEGIN}{tables}\n{END}{after}");
    if std::env::var_os("BELLWETHER_UPDATE").is_some() {
        std::fs::write(file, &wanted).unwrap();
    }
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text == wanted, "docs/metrics.md is behind: run `{UPDATE}`");
}

/// Words of a text that start with the prefix of our own metrics.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("bellwether_"))
}

#[test]
fn every_metric_that_the_docs_name_is_one() {
    let rows: Vec<MetricRow> = catalogue().into_iter().flat_map(|(_, rows)| rows).collect();
    let is_one = |name: &str| {
        let series = ["_bucket", "_sum", "_count"];
        let of = series.iter().find_map(|series| name.strip_suffix(series));
        rows.iter().any(|row| {
            row.name == name || (row.kind == "histogram" && of == Some(row.name.as_str()))
        })
    };
    assert!(!is_one("bellwether_shards") && is_one("bellwether_beat_seconds_bucket"));
    let mut wrong = Vec::new();
    let mut names = 0;
    for (file, text) in docs::texts() {
        names += named(&text).count();
        let none = named(&text).filter(|name| !is_one(name));
        wrong.extend(none.map(|name| format!("{}: there is no {name}", file.display())));
    }
    assert!(50 < names, "the docs were not found: {names}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_metric_keeps_the_rules_of_names_and_labels() {
    let rows: Vec<MetricRow> = catalogue().into_iter().flat_map(|(_, rows)| rows).collect();
    assert_eq!(metrics::broken_rules(&rows), Vec::<String>::new());
    let mut names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), rows.len(), "no name twice");
}

#[test]
fn promtool_has_nothing_to_say_about_any_metric_of_the_catalogue() {
    let mut text = String::new();
    for row in catalogue().into_iter().flat_map(|(_, rows)| rows) {
        text.push_str(&sample(&row));
    }
    assert_eq!(tools::promtool_check(&text), (true, String::new()));
}

/// A sample series of a metric, even if the metric has no series yet.
fn sample(MetricRow { name, kind, labels, help }: &MetricRow) -> String {
    let labels: Vec<String> = labels.iter().map(|label| format!("{label}=\"x\"")).collect();
    let plain = labels.join(",");
    let head = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
    if *kind == "histogram" {
        let bucket = [labels, vec!["le=\"+Inf\"".to_owned()]].concat().join(",");
        let sums = format!("{name}_sum{{{plain}}} 1\n{name}_count{{{plain}}} 1\n");
        format!("{head}{name}_bucket{{{bucket}}} 1\n{sums}")
    } else {
        format!("{head}{name}{{{plain}}} 1\n")
    }
}
