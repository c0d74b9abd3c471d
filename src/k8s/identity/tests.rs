use std::collections::BTreeMap;

use super::*;

const UID: &str = "3f2a9c1e-8f0b-4a6d-9d55-0c1b2a3d4e5f";

/// Identity from the variables of a Deployment's pod with one address; `more` overrides them, empty removes.
fn pod(more: &[(&str, &str)]) -> Result<PodIdentity, IdentityError> {
    let mut all: BTreeMap<&str, &str> = BTreeMap::from([
        ("POD_NAME", "web-7d4b9c8f6-x2x9z"),
        ("POD_NAMESPACE", "shop"),
        ("POD_UID", UID),
        ("POD_IP", "10.1.2.3"),
        ("NODE_NAME", "worker-1"),
    ]);
    all.extend(more.iter().copied());
    PodIdentity::from_lookup(|name| all.get(name).map(|&value| value.to_owned()))
}

fn said(result: Result<PodIdentity, IdentityError>) -> String {
    result.expect_err("this cannot be told").to_string()
}

#[test]
fn a_deployments_pod_is_known_by_its_uid() {
    let pod = pod(&[("BELLWETHER_PORT", "8080")]).unwrap();
    assert_eq!(pod.id(), 4_857_224_891_160_788_987, "the same in every version");
    assert_eq!(pod.id_source(), IdSource::Uid);
    assert_eq!(
        (pod.name(), pod.namespace(), pod.uid(), pod.node_name(), pod.address().as_str()),
        ("web-7d4b9c8f6-x2x9z", "shop", UID, "worker-1", "10.1.2.3:8080")
    );
}

#[test]
fn the_hash_is_the_lower_63_bits_of_fnv_1a() {
    assert_eq!(hash(""), 0x4bf2_9ce4_8422_2325);
    assert_eq!(hash("a"), 0x2f63_dc4c_8601_ec8c);
    assert_eq!(hash("foobar"), 0x0594_4171_f739_67e8);
}

#[test]
fn a_stateful_sets_pod_is_known_by_its_index() {
    let pod = pod(&[("POD_NAME", "web-12"), ("POD_INDEX", "12")]).unwrap();
    assert_eq!((pod.id(), pod.id_source()), (12, IdSource::Index));
}

#[test]
fn a_name_that_ends_in_digits_by_accident_is_not_taken_for_an_ordinal() {
    let by_accident = pod(&[("POD_NAME", "web-7d4b9c8f6-24567")]).unwrap();
    assert_eq!(by_accident.id_source(), IdSource::Uid);
    assert_eq!(by_accident.id(), pod(&[]).unwrap().id());
    // A label that the pod does not have arrives as an empty value.
    let no_label = pod(&[("POD_NAME", "web-7d4b9c8f6-24567"), ("POD_INDEX", "")]).unwrap();
    assert_eq!(no_label.id_source(), IdSource::Uid);
}

#[test]
fn the_name_counts_where_it_is_asked_for() {
    let old = pod(&[("POD_NAME", "web-3"), ("BELLWETHER_ID_FROM", "name")]).unwrap();
    assert_eq!((old.id(), old.id_source()), (3, IdSource::Name));
    for name in ["web", "web-", "web-x", "-3", "web-03", "web-+3", "web-9223372036854775808"] {
        let said = said(pod(&[("POD_NAME", name), ("BELLWETHER_ID_FROM", "name")]));
        assert!(said.contains(&format!("POD_NAME is {name:?}, not a name that ends in")), "{said}");
    }
    let uid = pod(&[("POD_NAME", "web-3"), ("POD_INDEX", "3"), ("BELLWETHER_ID_FROM", "uid")]);
    assert_eq!(uid.unwrap().id_source(), IdSource::Uid);
}

#[test]
fn the_first_address_of_two_families_counts_and_ipv6_is_bracketed() {
    let address = |more: &[(&str, &str)]| pod(more).unwrap().or_port(8080).address();
    assert_eq!(address(&[("POD_IP", ""), ("POD_IPS", "fd00::7, 10.1.2.3")]), "[fd00::7]:8080");
    assert_eq!(address(&[("POD_IPS", "10.1.2.3,fd00::7")]), "10.1.2.3:8080");
    assert_eq!(
        address(&[("POD_IP", "fd00::7"), ("POD_IPS", "fd00::7,10.1.2.3")]),
        "[fd00::7]:8080"
    );
    // Another spelling of the same address.
    assert_eq!(address(&[("POD_IP", "FD00:0::7"), ("POD_IPS", "fd00::7")]), "[fd00::7]:8080");
    assert_eq!(pod(&[("POD_IP", "fd00::7")]).unwrap().address(), "fd00::7");
    let both = pod(&[("POD_IPS", "10.1.2.3,fd00::7")]).unwrap();
    assert_eq!(both.ips(), ["10.1.2.3".parse::<IpAddr>().unwrap(), "fd00::7".parse().unwrap()]);
}

#[test]
fn the_environments_port_goes_before_the_programs() {
    assert_eq!(pod(&[("BELLWETHER_PORT", "9000")]).unwrap().or_port(8080).port(), Some(9000));
    // A Service of that name puts this variable into every pod of its namespace.
    let linked = pod(&[("BELLWETHER_PORT", "tcp://10.96.0.9:8080")]).unwrap();
    assert_eq!(linked.or_port(8081).port(), Some(8081));
    for port in ["0", "65536", "http", "-1"] {
        let said = said(pod(&[("BELLWETHER_PORT", port)]));
        assert!(said.contains("a port, 1 to 65535"), "{said}");
    }
}

#[test]
fn every_missing_field_is_named_with_the_manifest_lines_that_set_it() {
    for (variable, path) in [
        ("POD_NAME", "metadata.name"),
        ("POD_NAMESPACE", "metadata.namespace"),
        ("POD_UID", "metadata.uid"),
        ("NODE_NAME", "spec.nodeName"),
        ("POD_IP", "status.podIP"),
    ] {
        let error = pod(&[(variable, " ")]).unwrap_err();
        assert_eq!(error.problems(), [Problem::Missing { variable }]);
        let lines = format!(
            "env:\n- name: {variable}\n  valueFrom:\n    fieldRef:\n      fieldPath: {path}\n"
        );
        assert_eq!(error.manifest(), lines);
        assert!(error.to_string().contains(variable) && error.to_string().contains(path));
    }
    let said = said(pod(&[("BELLWETHER_ID_FROM", "index")]));
    assert!(said.contains("POD_INDEX is not set"), "{said}");
    assert!(said.contains("fieldPath: metadata.labels['apps.kubernetes.io/pod-index']"), "{said}");
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let nothing = PodIdentity::from_lookup(|_| None).unwrap_err();
    let told: Vec<_> = nothing.problems().iter().flat_map(Problem::variables).collect();
    assert_eq!(told, ["POD_NAME", "POD_NAMESPACE", "POD_UID", "POD_IP", "NODE_NAME"]);
    assert_eq!(nothing.manifest().matches("fieldPath").count(), 5);
}

#[test]
fn contradictions_are_told_with_both_values() {
    let said_of = |more: &[(&str, &str)]| said(pod(more));
    let index = said_of(&[("POD_NAME", "web-2"), ("POD_INDEX", "1")]);
    assert!(index.contains(r#"POD_INDEX "1" contradicts POD_NAME "web-2""#), "{index}");
    // An index that a person wrote into a Deployment's manifest: all its pods would be number 0.
    let copied = said_of(&[("POD_INDEX", "0")]);
    assert!(
        copied.contains(r#"POD_INDEX "0" contradicts POD_NAME "web-7d4b9c8f6-x2x9z""#),
        "{copied}"
    );
    let ip = said_of(&[("POD_IPS", "10.1.2.4,fd00::7")]);
    assert!(ip.contains(r#"POD_IP "10.1.2.3" contradicts POD_IPS "10.1.2.4,fd00::7""#), "{ip}");
}

#[test]
fn junk_is_shown_and_what_would_do_beside_it() {
    for (variable, value, wanted) in [
        ("POD_UID", "web-0", "the pod's UID"),
        ("POD_UID", "3f2a9c1e8f0b4a6d9d550c1b2a3d4e5", "the pod's UID"),
        ("POD_IP", "10.1.2", "an IP address"),
        ("POD_IP", "0.0.0.0", "an IP address"),
        ("POD_IPS", "10.1.2.3,,", "an IP address"),
        ("POD_INDEX", "one", "the pod's index"),
        ("BELLWETHER_ID_FROM", "hostname", "index, name or uid"),
    ] {
        let said = said(pod(&[(variable, value)]));
        assert!(said.contains(&format!("{variable} is ")) && said.contains(wanted), "{said}");
    }
    // A static pod's UID is the hash of its manifest.
    assert!(pod(&[("POD_UID", "3f2a9c1e8f0b4a6d9d550c1b2a3d4e5f")]).is_ok());
}
