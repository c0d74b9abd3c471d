//! The files of a new project: those of `examples/website`, and the library chart.

/// Path in a project, and content, of the file that each of these links in `project/` leads to.
///
/// The files are those of `examples/website`. Cargo leaves packages in folders below out of an archive of this package, but it
/// follows links to their files. The links have names of their own: a link called `.gitignore` or `Cargo.toml` would
/// mean something here.
macro_rules! links {
    ($($path:literal = $link:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("project/", $link)))),+]
    };
}

/// Path in the chart, and content, of each of these files.
macro_rules! chart {
    ($($path:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../../../charts/bellwether-operator/", $path)))),+]
    };
}

/// Files of the project. Definitions of the library, dashboards and alert rules come from the library itself.
pub(super) const PROJECT: &[(&str, &str)] = links![
    ".dockerignore" = "dockerignore",
    ".github/workflows/ci.yaml" = "github-workflows-ci.yaml",
    ".gitignore" = "gitignore",
    "Cargo.toml" = "manifest.toml",
    "Dockerfile" = "Dockerfile",
    "Makefile" = "Makefile",
    "README.md" = "README.md",
    "chart/Chart.yaml" = "chart-Chart.yaml",
    "chart/files/crds/websites.yaml" = "chart-files-crds-websites.yaml",
    "chart/files/rbac.yaml" = "chart-files-rbac.yaml",
    "chart/templates/NOTES.txt" = "chart-templates-NOTES.txt",
    "chart/templates/operator.yaml" = "chart-templates-operator.yaml",
    "chart/values.yaml" = "chart-values.yaml",
    "rustfmt.toml" = "rustfmt.toml",
    "src/lib.rs" = "src-lib.rs",
    "src/main.rs" = "src-main.rs",
    "src/website.rs" = "src-website.rs",
    "tests/api_server.rs" = "tests-api_server.rs",
    "tests/reconciler.rs" = "tests-reconciler.rs",
];

/// Files of the chart `bellwether-operator`, which each project contains.
pub(super) const LIBRARY_CHART: &[(&str, &str)] = chart![
    ".helmignore",
    "Chart.yaml",
    "README.md",
    "templates/_all.tpl",
    "templates/_crds.tpl",
    "templates/_extra.tpl",
    "templates/_monitoring.tpl",
    "templates/_names.tpl",
    "templates/_notes.tpl",
    "templates/_policies.tpl",
    "templates/_roles.tpl",
    "templates/_services.tpl",
    "templates/_statefulset.tpl",
    "templates/_store.tpl",
    "templates/_test.tpl",
    "templates/_validate.tpl",
    "values.schema.json",
    "values.yaml",
];

#[cfg(test)]
pub(super) mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// Files that are generated from the library, or are links to the library chart.
    const ELSEWHERE: &[&str] = &[
        "chart/charts",
        "chart/files/alerts.yaml",
        "chart/files/crds/elections.yaml",
        "chart/files/dashboards",
        "target",
    ];

    /// Paths of all files below a folder, sorted.
    pub(in super::super) fn below(folder: &Path, but: &[&str]) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                if but.contains(&&*name) {
                    continue;
                }
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(name);
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn every_file_of_the_example_and_of_the_library_chart_is_in_a_new_project() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (folder, files, but) in [
            ("examples/website", PROJECT, ELSEWHERE),
            ("charts/bellwether-operator", LIBRARY_CHART, &[]),
        ] {
            let names: Vec<_> = files.iter().map(|(path, _)| (*path).to_owned()).collect();
            assert_eq!(names, below(&root.join(folder), but), "{folder}");
        }
    }
}
