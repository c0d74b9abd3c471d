//! The files in `crds/` equal the definitions of the types.

use std::{collections::BTreeMap, fs, path::PathBuf};

use bellwether::{k8s::crd, operator};

const UPDATE: &str = "BELLWETHER_UPDATE=1 cargo test --test repo definitions";

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("crds")
}

/// Expected contents of the files, by name.
fn wanted() -> BTreeMap<String, String> {
    let file = |definition| {
        let text = crd::yaml(std::slice::from_ref(definition));
        (format!("{}.yaml", definition.spec.names.plural), text)
    };
    operator::definitions().iter().map(file).collect()
}

#[test]
fn the_definitions_in_the_repository_are_those_of_the_types() {
    let wanted = wanted();
    if std::env::var_os("BELLWETHER_UPDATE").is_some() {
        fs::create_dir_all(folder()).unwrap();
        for (name, text) in &wanted {
            fs::write(folder().join(name), text).unwrap();
        }
    }
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder()).expect("the folder crds/") {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        found.insert(name, fs::read_to_string(path).unwrap());
    }
    let names = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&wanted), "run `{UPDATE}` and delete what is too much");
    for (name, text) in &wanted {
        assert!(found[name] == *text, "crds/{name} is not what the types say: run `{UPDATE}`");
    }
}
