//! The table of problems in `docs/operations.md` quotes messages exactly as the program prints them.

use std::{fs, time::Duration};

use bellwether::{
    engine::{NodeId, Term},
    k8s::{authority::Refused, client::CallError},
    node::{AuthorityLost, CloseError, NodeError, NodeMetrics, StartError, StateError},
    store::StoreError,
    telemetry::metrics::{base_collectors, describe},
};
use http::Method;

const TABLE: &str = "## When something is wrong";

/// Errors that people search for, as the program prints them.
fn messages() -> Vec<String> {
    let lost = || AuthorityLost::Office { term: Term(7) };
    let (method, path) = (Method::PATCH, "/api/v1/namespaces/shop/configmaps/web".to_owned());
    vec![
        StartError::DuplicateId {
            id: NodeId::new(3).unwrap(),
            address: "10.0.0.7:8080".into(),
            holder: None,
            waited: Duration::from_secs(7),
        }
        .to_string(),
        StartError::TickDisagreement {
            cluster: Duration::from_millis(50),
            own: Duration::from_millis(100),
        }
        .to_string(),
        StoreError::SpanDisagreement {
            agreed: Duration::from_secs(15),
            own: Duration::from_secs(5),
        }
        .to_string(),
        NodeError::Broken.to_string(),
        NodeError::Unresponsive(Duration::from_secs(5)).to_string(),
        CloseError::Unclean.to_string(),
        StateError::NoLease.to_string(),
        lost().to_string(),
        Refused::Unsent { method: method.clone(), path: path.clone(), source: lost() }.to_string(),
        Refused::Abandoned { method: method.clone(), path: path.clone(), source: lost() }
            .to_string(),
        CallError::Unanswered { method, path, within: Duration::from_secs(30) }.to_string(),
    ]
}

/// Texts in code spans in the first column of the table.
fn named(text: &str) -> Vec<String> {
    let table = text.split(TABLE).nth(1).expect("the table is there");
    let rows = table.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.filter_map(|row| row.split('|').nth(1))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// Whether a message matches a quotation: `…` stands for any text.
fn is(message: &str, named: &str) -> bool {
    let mut rest = message;
    named.split('…').enumerate().all(|(number, part)| match rest.find(part) {
        Some(at) if number > 0 || at == 0 => {
            rest = &rest[at + part.len()..];
            true
        }
        _ => false,
    })
}

/// Whether the program has a metric of that name with those labels, as a query selects it.
fn is_metric(named: &str) -> bool {
    let (name, labels) = named.trim_end_matches('}').split_once('{').unwrap_or((named, ""));
    let mut rows = describe(&NodeMetrics::collectors());
    rows.extend(describe(&base_collectors()));
    rows.iter().any(|row| {
        let mut asked = labels.split(',').filter_map(|it| it.split_once('=')).map(|it| it.0);
        row.name == name && asked.all(|label| row.labels.iter().any(|it| it == label))
    })
}

#[test]
fn the_table_of_troubles_names_what_the_program_prints() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");
    let named = named(&fs::read_to_string(file).unwrap());
    let messages = messages();
    let unknown: Vec<_> = named
        .iter()
        .filter(|it| !it.starts_with("bellwether ") && !is_metric(it))
        .filter(|it| !messages.iter().any(|message| is(message, it)))
        .collect();
    assert!(unknown.is_empty(), "the program prints none of these: {unknown:#?}");
    let missing: Vec<_> =
        messages.iter().filter(|message| !named.iter().any(|it| is(message, it))).collect();
    assert!(missing.is_empty(), "no row is about these: {missing:#?}");
}

#[test]
fn a_row_of_other_words_is_found() {
    let text = format!(
        "{TABLE}\n\n| seen | means |\n| --- | --- |\n| `node id 3 is in use by …` | `x` |\n| no leader, `a` or `b` | |\n"
    );
    assert_eq!(named(&text), ["node id 3 is in use by …", "a", "b"]);
    let message = "node id 3 is taken by a live node at \"a\": stop it";
    assert!(
        is(message, "node id 3 is taken by a live node at …") && is(message, "node id … stop it")
    );
    assert!(!is(message, "node id 3 is in use by …") && !is(message, "stop it"));
    assert!(is_metric("bellwether_transitions_total{reason=\"suspended\"}"));
    assert!(!is_metric("bellwether_transitions_total{why=\"x\"}") && !is_metric("draining"));
}
