//! Files that the tests of this folder read, and checks of their single lines.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Most lines that a source file may have, its tests not counted.
pub(crate) const MOST_LINES: usize = 500;

/// Text files by their path in the repository, with `/` between the parts.
pub(crate) struct Sources {
    pub(crate) files: Vec<(String, String)>,
}

impl Sources {
    /// Rust files of the library and the binary.
    pub(crate) fn of_the_crate() -> Self {
        let mut all = Self::under(&root().join("src"));
        all.files.retain(|(path, _)| has_extension(path, "rs"));
        all
    }

    /// All text files that are part of the repository.
    pub(crate) fn of_the_repository() -> Self {
        Self::under(&root())
    }

    /// Sources as if the repository held these files.
    pub(crate) fn planted(files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(path, text)| ((*path).into(), (*text).into())).collect();
        Self { files }
    }

    fn under(folder: &Path) -> Self {
        let mut files = Vec::new();
        let mut folders = vec![folder.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder").map(|it| it.expect("an entry")) {
                let path = entry.path();
                let name = entry.file_name().to_string_lossy().into_owned();
                // A link leads to a file that is found in its own place.
                if entry.file_type().expect("a type").is_symlink() {
                    continue;
                }
                if entry.file_type().expect("a type").is_dir() {
                    if !["target", ".git", "node_modules"].contains(&name.as_str()) {
                        folders.push(path);
                    }
                } else if name != ".git"
                    && let Ok(text) = fs::read_to_string(&path)
                {
                    files.push((relative(&path), text));
                }
            }
        }
        files.sort();
        Self { files }
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("a path below the root").to_string_lossy().replace('\\', "/")
}

pub(crate) fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|it| it == extension)
}

/// Whether a file of `src/` contains only tests.
pub(crate) fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

/// Files above [`MOST_LINES`] that are not excused, and excuses that are no longer needed.
pub(crate) fn too_long(sources: &Sources, excused: &[(&str, &str)]) -> Vec<String> {
    let long: Vec<(&str, usize)> = sources
        .files
        .iter()
        .filter(|(path, _)| !is_test(path))
        .map(|(path, text)| (path.as_str(), text.lines().count()))
        .filter(|(_, lines)| *lines > MOST_LINES)
        .collect();
    let mut found: Vec<String> = long
        .iter()
        .filter(|(path, _)| !excused.iter().any(|(it, _)| it == path))
        .map(|(path, lines)| format!("{path}: {lines} lines, at most {MOST_LINES}"))
        .collect();
    found.extend(
        excused
            .iter()
            .filter(|(it, _)| !long.iter().any(|(path, _)| path == it))
            .map(|(it, reason)| format!("{it}: is short enough, drop its excuse ({reason})")),
    );
    found
}

/// Lines that name a folder of one particular machine.
pub(crate) fn machine_paths(sources: &Sources) -> Vec<String> {
    // Each path is written in two parts, so that this file does not match.
    let banned = [
        concat!("/ho", "me/"),
        concat!("/Us", "ers/"),
        concat!("/ro", "ot/"),
        concat!("/wo", "rk/"),
    ];
    let mut found = Vec::new();
    for (path, text) in &sources.files {
        for (number, line) in text.lines().enumerate() {
            let mut starts = banned.iter().filter_map(|it| line.find(it));
            // Behind a variable or a host name the match continues another path: only absolute paths
            // count.
            if starts.any(|at| {
                !line[..at].ends_with(|before: char| {
                    before.is_alphanumeric() || "$}).-_*".contains(before)
                })
            }) {
                found.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_is_found_and_an_excuse_nobody_needs_too() {
        let long = "\n".repeat(MOST_LINES + 1);
        let sources = Sources::planted(&[
            ("src/a.rs", &long),
            ("src/b.rs", &long),
            ("src/a/tests.rs", &long),
            ("src/c.rs", "short"),
        ]);
        assert_eq!(
            too_long(&sources, &[("src/b.rs", "a table"), ("src/c.rs", "was long")]),
            [
                "src/a.rs: 501 lines, at most 500",
                "src/c.rs: is short enough, drop its excuse (was long)"
            ]
        );
    }

    #[test]
    fn a_machine_path_is_found_and_a_variable_is_not() {
        let bad = concat!("include!(\"/ho", "me/ann/x.rs\")");
        let fine = concat!("cache=$HOME/.cache https://host/wo", "rk/x docs/ro", "ot/");
        let sources = Sources::planted(&[("src/a.rs", bad), ("Makefile", fine)]);
        assert_eq!(machine_paths(&sources), [format!("src/a.rs:1: {bad}")]);
    }
}
