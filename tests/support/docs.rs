//! The Markdown texts of the project.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The README, the change log and all docs, by path.
pub fn texts() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = markdown_files(&root.join("docs"));
    files.extend([root.join("README.md"), root.join("CHANGELOG.md")]);
    let text_of = |file: PathBuf| {
        let text = fs::read_to_string(&file).unwrap();
        (file, text)
    };
    files.into_iter().map(text_of).collect()
}

fn markdown_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let mut found: Vec<_> = folders.iter().flat_map(|folder| markdown_files(folder)).collect();
    found.extend(files.into_iter().filter(|it| it.extension().is_some_and(|it| it == "md")));
    found
}
