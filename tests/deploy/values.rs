//! Values of the charts: each is explained, listed in a README, and known to a schema.

use std::{fmt::Write as _, fs};

use regex::Regex;
use serde_json::Value;

use crate::{
    chart::CHART,
    files::{assert_kept, root},
    library::{LIBRARY, copy_of_shop},
    render::helm,
};

/// The place of the default values in the library's own values.
const DEFAULTS: &str = "exports.defaults.";

/// A value, as `values.yaml` explains it.
struct Row {
    path: String,
    default: String,
    meaning: String,
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn depth(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Explained values of a chart, in the order of its `values.yaml`.
fn rows(chart: &str) -> Vec<Row> {
    let text = read(&format!("{chart}/values.yaml"));
    let values: Value = serde_saphyr::from_str(&text).unwrap();
    let key = Regex::new(r"^ *([A-Za-z]\w*):").unwrap();
    let mut above: Vec<(usize, &str)> = Vec::new();
    let mut explanation = None;
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(key) = key.captures(line).and_then(|it| it.get(1)) {
            above.retain(|(parent, _)| *parent < depth(line));
            above.push((depth(line), key.as_str()));
            if let Some(meaning) = explanation.take() {
                let keys: Vec<&str> = above.iter().map(|(_, key)| *key).collect();
                let path = keys.join(".");
                found.push(Row {
                    default: format!(
                        "`{}`",
                        values.pointer(&format!("/{}", keys.join("/"))).unwrap()
                    ),
                    path: path.trim_start_matches(DEFAULTS).to_owned(),
                    meaning,
                });
            }
        }
        explanation = line.trim_start().strip_prefix("# -- ").map(str::to_owned);
    }
    found
}

fn table(rows: &[&Row]) -> String {
    let mut text = "| value | default | meaning |\n| --- | --- | --- |\n".to_owned();
    for Row { path, default, meaning } in rows {
        let row = [&format!("`{path}`"), default, meaning].map(|it| it.replace('|', "\\|"));
        writeln!(text, "| {} |", row.join(" | ")).unwrap();
    }
    text
}

/// Asserts that a README has this text between the two marks of that name.
#[track_caller]
fn assert_listed(readme: &str, name: &str, wanted: &str) {
    let text = read(readme);
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->\n"));
    let (before, rest) = text.split_once(&begin).expect("the mark before the table");
    let (_, after) = rest.split_once(&end).expect("the mark behind the table");
    assert_kept(readme, &format!("{before}{begin}{wanted}{end}{after}"));
}

#[test]
fn every_value_is_explained() {
    for chart in [LIBRARY, CHART] {
        let values = read(&format!("{chart}/values.yaml"));
        let lines: Vec<&str> = values.lines().collect();
        for (at, line) in lines.iter().enumerate().filter(|(_, it)| !it.trim().is_empty()) {
            let code = line.trim_start();
            if code.starts_with('#') || code.starts_with('-') {
                continue;
            }
            let is_group = lines.get(at + 1).is_some_and(|next| depth(line) < depth(next))
                && code.ends_with(':');
            let is_explained = at > 0 && lines[at - 1].trim_start().starts_with("# -- ");
            let is_under_one = lines[..at]
                .iter()
                .rposition(|it| !it.trim().is_empty() && depth(it) < depth(line))
                .is_some_and(|parent| {
                    0 < parent && lines[parent - 1].trim_start().starts_with("# -- ")
                });
            let explained = is_group || is_explained || is_under_one;
            assert!(explained, "{chart}/values.yaml:{}: {code}", at + 1);
        }
    }
}

#[test]
fn the_readmes_list_every_value() {
    let of_library = rows(LIBRARY);
    assert!(of_library.len() > 80, "{} rows", of_library.len());
    assert_eq!(of_library[0].path, "nameOverride");
    let all: Vec<&Row> = of_library.iter().collect();
    assert_listed(&format!("{LIBRARY}/README.md"), "values", &table(&all));

    let own = rows(CHART);
    let is_own = |row: &Row| own.iter().any(|it| it.path == row.path);
    let others: Vec<&Row> = of_library.iter().filter(|it| !is_own(it)).collect();
    let readme = format!("{CHART}/README.md");
    assert_listed(&readme, "values of this chart", &table(&own.iter().collect::<Vec<_>>()));
    assert_listed(&readme, "values of the library", &table(&others));
}

fn schema(chart: &str) -> Value {
    serde_json::from_str(&read(&format!("{chart}/values.schema.json"))).unwrap()
}

/// Puts the fields of the other value into this one, at every depth. Lists and scalars of the other value win.
fn merge(into: &mut Value, other: &Value) {
    match (into, other) {
        (Value::Object(fields), Value::Object(others)) => {
            for (name, value) in others {
                merge(fields.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (into, other) => *into = other.clone(),
    }
}

/// Properties of a schema that have no default value, by path. Groups that take any of Kubernetes' fields are
/// left out.
fn without_default(schema: &Value, values: &Value, path: &str, found: &mut Vec<String>) {
    let Some(properties) = schema["properties"].as_object() else { return };
    for (name, property) in properties {
        let path = format!("{path}/{name}");
        if [
            "/resources",
            "/probes",
            "/updateStrategy",
            "/dnsConfig",
            "/exports",
            "/bellwether-operator",
        ]
        .contains(&path.as_str())
        {
            continue;
        }
        match values.get(name) {
            Some(value) => without_default(property, value, &path, found),
            None => found.push(path),
        }
    }
}

#[test]
fn the_schemas_know_the_values_that_exist_and_no_others() {
    let library: Value = serde_saphyr::from_str(&read(&format!("{LIBRARY}/values.yaml"))).unwrap();
    let mut values = library["exports"]["defaults"].clone();
    let mut found = Vec::new();
    without_default(&schema(LIBRARY), &values, "", &mut found);
    assert_eq!(found, Vec::<String>::new(), "the library has no default for these");

    merge(&mut values, &serde_saphyr::from_str(&read(&format!("{CHART}/values.yaml"))).unwrap());
    without_default(&schema(CHART), &values, "", &mut found);
    assert_eq!(found, Vec::<String>::new(), "{CHART} has no default for these");

    let mut typo = schema(CHART);
    typo["properties"]["watch"]["properties"]["sellector"] = Value::Bool(true);
    without_default(&typo, &values, "", &mut found);
    assert_eq!(found, ["/watch/sellector"]);
}

#[test]
fn the_charts_schema_is_the_librarys_and_its_own() {
    let mut merged = schema(CHART);
    merge(&mut merged, &schema(LIBRARY));
    assert!(
        merged == schema(CHART),
        "the schema of {CHART} is behind: merge that of {LIBRARY} into it, as its README does it"
    );
}

#[test]
fn a_schema_made_as_the_readme_of_the_library_does_it_refuses_typing_errors() {
    let shop = copy_of_shop();
    let own: Value = serde_json::json!({
        "properties": {
            "currency": { "type": "string" },
            "rates": {
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "image": { "type": "string" },
                    "everySeconds": { "type": "integer", "minimum": 1 },
                },
            },
        },
    });
    let mut merged = schema(LIBRARY);
    merge(&mut merged, &own);
    fs::write(shop.path().join("values.schema.json"), merged.to_string()).unwrap();
    let chart = shop.path().to_str().unwrap();
    let (fine, _, err) = helm(&["lint", "--strict", chart], &[]);
    assert!(fine, "{err}");
    for (values, sentence) in [
        (&["replicas=3"][..], "additional properties 'replicas' not allowed"),
        (&["rates.everySeconds=0"], "/rates/everySeconds"),
        (&["node.tik=50ms"], "additional properties 'tik' not allowed"),
    ] {
        let (fine, _, err) = helm(&["template", "till", chart], values);
        assert!(!fine && err.contains(sentence), "{values:?} should say {sentence:?}: {err}");
    }
}
