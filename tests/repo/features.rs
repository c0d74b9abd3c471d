//! The library chooses no version of the Kubernetes API: the program that uses it chooses one, and cargo allows
//! one version in the whole program (`k8s-openapi` does not build with two).

use std::{collections::BTreeSet, process::Command};

use serde_json::Value;

fn cargo(args: &[&str]) -> String {
    let mut cargo = Command::new(env!("CARGO"));
    let ran = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args(args).output().unwrap();
    assert!(ran.status.success(), "cargo {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}

/// The package's manifest, as cargo reads it.
fn package() -> Value {
    let text = cargo(&["metadata", "--no-deps", "--offline", "--locked", "--format-version", "1"]);
    let all: Value = serde_json::from_str(&text).unwrap();
    let packages = all["packages"].as_array().unwrap();
    packages.iter().find(|it| it["name"] == "bellwether").expect("this package").clone()
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether a feature of `k8s-openapi` chooses a version.
fn chooses(feature: &str) -> bool {
    feature.starts_with("v1_") || ["latest", "earliest"].contains(&feature)
}

/// Features of the library that enable, directly or through others, a feature that chooses a version.
fn choosing(package: &Value) -> BTreeSet<String> {
    let features = package["features"].as_object().unwrap();
    let mut found = BTreeSet::new();
    loop {
        let more: Vec<String> = features
            .iter()
            .filter(|(name, enables)| {
                !found.contains(*name)
                    && texts(enables).iter().any(|it| {
                        let version =
                            it.strip_prefix("k8s-openapi").map(|it| it.trim_start_matches('?'));
                        let version = version.and_then(|it| it.strip_prefix('/'));
                        version.is_some_and(chooses) || found.contains(*it)
                    })
            })
            .map(|(name, _)| name.clone())
            .collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

#[test]
fn only_the_command_chooses_a_version_of_the_kubernetes_api() {
    let package = package();
    assert_eq!(choosing(&package), ["cli".to_owned()].into());
    let dependencies = package["dependencies"].as_array().unwrap();
    let of_the_library: Vec<&Value> = dependencies
        .iter()
        .filter(|it| it["name"] == "k8s-openapi" && it["kind"].is_null())
        .collect();
    assert_eq!(of_the_library.len(), 1);
    for dependency in of_the_library {
        let features = texts(&dependency["features"]);
        assert!(!features.iter().any(|it| chooses(it)), "{features:?}");
    }
    let targets = package["targets"].as_array().unwrap();
    let binary = targets.iter().find(|it| texts(&it["kind"]) == ["bin"]).unwrap();
    assert_eq!(texts(&binary["required-features"]), ["cli"]);
}

/// Features of `k8s-openapi` in a program that uses the library with these arguments.
fn features_of_k8s_openapi(args: &[&str]) -> BTreeSet<String> {
    let tree = ["tree", "--offline", "--locked", "--edges", "normal,build", "--prefix", "none"];
    let tree = cargo(&[&tree[..], &["--format", "{p}|{f}"], args].concat());
    let line = tree.lines().find(|it| it.starts_with("k8s-openapi ")).expect("it is a dependency");
    let features = line.rsplit('|').next().unwrap().trim_end_matches("(*)").trim();
    features.split(',').map(|it| it.trim().to_owned()).collect()
}

#[test]
fn nothing_that_the_library_depends_on_chooses_one_either() {
    let of_the_library = features_of_k8s_openapi(&["--features", "mutants"]);
    assert!(of_the_library.contains("schemars"), "{of_the_library:?}");
    assert!(!of_the_library.iter().any(|it| chooses(it)), "{of_the_library:?}");
    let of_the_command = features_of_k8s_openapi(&["--features", "cli"]);
    assert!(of_the_command.contains("latest"), "{of_the_command:?}");
}

/// Number of crates that a program compiles for the library with these features.
fn crates(features: &str) -> usize {
    let tree = ["tree", "--offline", "--locked", "--edges", "normal", "--prefix", "none"];
    let with = ["--no-default-features", "--features", features, "--format", "{p}"];
    let tree = cargo(&[&tree[..], &with].concat());
    tree.lines().map(|line| line.trim_end_matches(" (*)")).collect::<BTreeSet<_>>().len()
}

#[test]
fn a_program_compiles_what_it_uses_and_little_more() {
    let [node_and_store, operator, command] = ["", "kubernetes", "cli"].map(crates);
    assert!(node_and_store <= 150, "{node_and_store} for nodes on etcd");
    assert!(operator <= 230, "{operator} for an operator");
    assert!(operator < command, "{command} for the command");
}
