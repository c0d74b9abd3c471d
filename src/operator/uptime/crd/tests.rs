use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

use super::*;
use crate::{
    k8s::crd::{API_VERSION, CustomResourceDefinition, GROUP, VERSION, json, yaml},
    operator::definitions,
};

/// All schemas of all definitions, with their paths.
fn schemas() -> Vec<(String, JSONSchemaProps)> {
    let mut found = Vec::new();
    for definition in definitions() {
        let kind = definition.spec.names.kind.clone();
        for version in definition.spec.versions {
            let schema = version.schema.and_then(|it| it.open_api_v3_schema).expect("a schema");
            walk(&kind, &schema, &mut found);
        }
    }
    assert!(found.len() > 80, "{}", found.len());
    found
}

fn walk(path: &str, schema: &JSONSchemaProps, found: &mut Vec<(String, JSONSchemaProps)>) {
    found.push((path.to_owned(), schema.clone()));
    for (name, field) in schema.properties.iter().flatten() {
        walk(&format!("{path}.{name}"), field, found);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &schema.additional_properties {
        walk(&format!("{path}[value]"), value, found);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &schema.items {
        walk(&format!("{path}[]"), item, found);
    }
}

/// Paths of the schemas that fail the predicate.
fn lacking(is_well: impl Fn(&str, &JSONSchemaProps) -> bool) -> Vec<String> {
    let all = schemas().into_iter();
    all.filter(|(path, schema)| !is_well(path, schema)).map(|(path, _)| path).collect()
}

#[test]
fn the_definitions_stand_in_the_order_of_their_names() {
    let names: Vec<_> = definitions().into_iter().filter_map(|it| it.metadata.name).collect();
    assert_eq!(names, ["elections.bellwether.dev", "uptimechecks.bellwether.dev"]);
    for definition in definitions() {
        assert_eq!(definition.spec.group, GROUP);
        assert_eq!(definition.spec.versions[0].name, VERSION);
        assert_eq!(format!("{GROUP}/{VERSION}"), API_VERSION);
    }
}

#[test]
fn every_schema_is_structural() {
    let found = lacking(|_, schema| {
        schema.ref_path.is_none()
            && schema.definitions.is_none()
            && schema.one_of.is_none()
            && schema.any_of.is_none()
            && schema.all_of.is_none()
            && schema.nullable.is_none()
            && schema.x_kubernetes_preserve_unknown_fields.is_none()
            && (schema.type_.is_some() != (schema.x_kubernetes_int_or_string == Some(true)))
    });
    assert_eq!(found, [""; 0]);
}

#[test]
fn every_field_has_a_text_for_kubectl_explain() {
    let found = lacking(|path, schema| {
        // The API server describes these itself, and the description of a list covers its items.
        let is_standard = ["apiVersion", "kind", "metadata"]
            .iter()
            .any(|it| path.split_once('.').is_some_and(|(_, rest)| rest == *it));
        let text = schema.description.as_deref().unwrap_or_default();
        is_standard
            || path.ends_with("[]")
            || path.ends_with("[value]")
            || (!text.is_empty() && !text.contains('\n') && !text.contains("[`"))
    });
    assert_eq!(found, [""; 0]);
}

#[test]
fn every_list_map_and_text_is_bounded() {
    let found = lacking(|path, schema| match schema.type_.as_deref() {
        Some("string") => {
            schema.max_length.is_some()
                || schema.enum_.is_some()
                || schema.format.as_deref() == Some("date-time")
                || ["apiVersion", "kind"].iter().any(|it| path.ends_with(it))
        }
        Some("array") => schema.max_items.is_some() && schema.x_kubernetes_list_type.is_some(),
        Some("object") => schema.additional_properties.is_none() || schema.max_properties.is_some(),
        _ => true,
    });
    assert_eq!(found, [""; 0]);
}

#[test]
fn no_field_that_is_required_has_a_default() {
    let found = lacking(|_, schema| {
        let properties = schema.properties.iter().flatten();
        let defaults = properties.filter(|(_, field)| field.default.is_some());
        let required = schema.required.as_deref().unwrap_or_default();
        !defaults.into_iter().any(|(name, _)| required.contains(name))
    });
    assert_eq!(found, [""; 0]);
}

#[test]
fn every_rule_says_what_to_do_and_names_a_field_that_is_there() {
    let mut rules = 0;
    for (path, schema) in schemas() {
        for rule in schema.x_kubernetes_validations.iter().flatten() {
            rules += 1;
            let message = rule.message.as_deref().unwrap_or_default();
            assert!(message.len() > 10 && message.len() < 200, "{path}: {message:?}");
            let mut at = &schema;
            for name in rule.field_path.iter().flat_map(|it| it.split('.').skip(1)) {
                let fields = at.properties.as_ref();
                at = fields.and_then(|it| it.get(name)).unwrap_or_else(|| panic!("{path}: {name}"));
            }
        }
    }
    assert!(rules > 20, "{rules}");
}

#[test]
fn a_definition_survives_yaml_and_json() {
    let all = definitions();
    let text = yaml(&all);
    let read: Vec<CustomResourceDefinition> = serde_saphyr::from_multiple(&text).unwrap();
    assert_eq!(read, all);
    assert_eq!(json(&all)["items"][1], json(&all[1..]));
    assert_eq!(
        serde_json::from_value::<CustomResourceDefinition>(json(&all[..1])).unwrap(),
        all[0]
    );
}

#[test]
fn a_message_is_cut_where_the_schema_takes_no_more() {
    assert_eq!(cut("short".into()), "short");
    let whole = "ä".repeat(MOST_MESSAGE_CHARS);
    assert_eq!(cut(whole.clone()), whole);
    let longer = cut(whole + "ä");
    assert_eq!(longer.chars().count(), MOST_MESSAGE_CHARS);
    assert!(longer.ends_with("ä…"));
}

#[test]
fn forms_tell_what_can_be_asked_from_what_cannot() {
    for (is_well, good, bad) in [
        (
            forms::is_url as fn(&str) -> bool,
            &["http://a", "HTTPS://u:p@a:1/b?c#d", "http://[::1]:80/", "http://bücher.example"][..],
            &["", "a", "http:a", "http:///a", "http://a b/", "ftp://a/", "http://", " http://a"][..],
        ),
        (
            forms::is_host,
            &["a", "a.b.", "A-1.b", "10.0.0.1", "::1", "my_db", "bücher.example", "fe80::1%eth0"],
            &[
                "",
                "a b",
                "-a",
                "a-",
                "a..b",
                "[::1]",
                "::ffff:10.0.0.1",
                "a.b..",
                "a/b",
                "a@b",
                "a:1",
                "fe80::1%",
                "fe80::1%a b",
                "10.0.0.1%eth0",
            ],
        ),
        (
            forms::is_server_name,
            &["a", "a.b", "my_db", "xn--bcher-kva.example"],
            &["", "a.", "a..b", "-a", "a:1", "::1", "bücher.example"],
        ),
        (
            |url| !forms::has_port_zero(url),
            &["http://a", "http://a:80/", "http://u:0@a/", "http://[::0]/", "http://a/:0/"],
            &["http://a:0", "http://a:000/b", "https://u:p@a:0?c", "http://[::1]:0#d"],
        ),
        (
            forms::is_name,
            &["a", ".", "_sip._tcp.a.", "bücher.example", "::1"],
            &["", "a b", "a..b", ".a", "a.."],
        ),
        (
            forms::is_server,
            &["10.0.0.53", "10.0.0.53:53", "::1", "[::1]:5353"],
            &[
                "",
                "a",
                "a:53",
                "10.0.0.53:",
                "10.0.0.53:65536",
                "10.0.0.53:0",
                "[::1]:00",
                "[10.0.0.1]:1",
                "[::1]",
                "[fe80::1%1]:1",
            ],
        ),
    ] {
        let wrong: Vec<_> = good.iter().filter(|it| !is_well(it)).collect();
        assert!(wrong.is_empty(), "refused: {wrong:?}");
        let wrong: Vec<_> = bad.iter().filter(|it| is_well(it)).collect();
        assert!(wrong.is_empty(), "taken: {wrong:?}");
    }
}

#[test]
fn a_host_in_any_script_has_the_form_that_resolvers_take() {
    for (host, ascii) in [
        ("db.example", Some("db.example")),
        ("my_db", Some("my_db")),
        ("bücher.example.", Some("xn--bcher-kva.example.")),
        ("::1", Some("::1")),
        ("fe80::1%eth0", Some("fe80::1%eth0")),
        ("xn--\u{fffd}", None),
    ] {
        assert_eq!(forms::ascii_host(host).as_deref(), ascii, "{host}");
    }
}
