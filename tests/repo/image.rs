//! The image is built from a part of the repository only, so that a change of the documents builds nothing again.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use regex::Regex;

use super::sources::Sources;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files of the repository that sources of the binary include, as paths from the root.
fn included(sources: &Sources) -> Vec<PathBuf> {
    let include = Regex::new(r#"include_(?:str|bytes)!\("([^"]+)"\)"#).unwrap();
    let mut found = Vec::new();
    for (path, text) in &sources.files {
        // Text behind this line is compiled for the tests of documents only.
        let text = text.split("#[cfg(doctest)]").next().unwrap();
        let folder = Path::new(path).parent().unwrap();
        for file in include.captures_iter(text) {
            let mut whole = PathBuf::new();
            for part in folder.join(&file[1]).components() {
                match part {
                    Component::ParentDir => assert!(whole.pop(), "{path}: {}", &file[1]),
                    part => whole.push(part),
                }
            }
            found.push(whole);
        }
    }
    found
}

/// Files that `.dockerignore` keeps out of the build.
fn kept_out(files: &[PathBuf], ignored: &str) -> Vec<PathBuf> {
    let let_in = |file: &Path| {
        let mut lines = ignored.lines().filter_map(|it| it.strip_prefix('!'));
        lines.any(|it| file.starts_with(it))
    };
    files.iter().filter(|it| !let_in(it)).cloned().collect()
}

#[test]
fn the_image_is_built_from_every_file_that_the_sources_include() {
    let ignored = fs::read_to_string(root().join(".dockerignore")).unwrap();
    assert!(ignored.lines().any(|it| it == "*"), "all other files are ignored");
    let files = included(&Sources::of_the_crate());
    let alerts = PathBuf::from("charts/bellwether/files/alerts.yaml");
    assert!(files.contains(&alerts), "{files:?}");
    assert_eq!(kept_out(&files, &ignored), Vec::<PathBuf>::new(), "add them to .dockerignore");
    let without = ignored.replace("!charts/bellwether/files/alerts.yaml\n", "");
    assert_eq!(kept_out(&files, &without), [alerts]);
}

#[test]
fn the_image_is_built_with_the_features_that_the_binary_requires() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let (_, binary) = manifest.split_once("[[bin]]").unwrap();
    let required = Regex::new(r#"required-features = \["(\w+)"\]"#).unwrap();
    let feature = &required.captures(binary).expect("a feature")[1];
    for file in ["Dockerfile", "tests/tools/image.sh"] {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let build = text.lines().find(|it| it.contains("cargo build")).expect("a build");
        assert!(build.contains(&format!("--features {feature} ")), "{file}: {build}");
    }
}
