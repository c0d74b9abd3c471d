//! The statuses in a file, where there is no Kubernetes to keep them.
//!
//! YAML: one `UptimeCheckList`, whose items are the resources as they were read, with their `status`, as
//! `kubectl get -o yaml` would show them. What may be secret (headers, bodies, what a URL carries beside
//! its path) is left out. The file is replaced as a whole: a reader never sees half of it.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    aggregate::Stored,
    check::{CheckKey, Checks},
    resource::{API_VERSION, LAST_APPLIED, Target, UptimeCheck, without_secrets},
};

#[cfg(test)]
mod tests;

/// The status file could not be written. The one before it is still there.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the statuses of checks to `{}`: name a file in a folder that this user may write", .path.display())]
pub struct StatusFileError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List {
    api_version: &'static str,
    kind: &'static str,
    items: Vec<UptimeCheck>,
}

/// The text of a status file.
pub fn text(checks: &Checks, statuses: &BTreeMap<CheckKey, Stored>) -> String {
    let items = checks.checks.iter().map(|(key, check)| {
        let mut resource = check.resource().clone();
        resource.metadata.namespace = Some(key.namespace.to_string());
        resource.metadata.annotations.remove(LAST_APPLIED);
        if let Target::Http(http) = &mut resource.spec.target {
            http.url = without_secrets(&http.url);
            http.headers.clear();
            http.body = None;
        }
        resource.status = statuses.get(key).map(|stored| stored.status.clone());
        resource
    });
    let list = List { api_version: API_VERSION, kind: "UptimeCheckList", items: items.collect() };
    serde_saphyr::to_string(&list).unwrap_or_else(|error| format!("# cannot be written: {error}\n"))
}

/// Replaces the file by this text. Blocks.
///
/// # Errors
///
/// [`StatusFileError`]; then the file is as it was.
pub fn write(path: &Path, text: &str) -> Result<(), StatusFileError> {
    replace(path, text).map_err(|source| StatusFileError { path: path.to_owned(), source })
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    // Beside it, because a rename works only within one file system; named by the process, because
    // several nodes may share a folder.
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::IsADirectory))?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(beside);
    let written = fs::File::create(&beside).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    let replaced = written.and_then(|()| fs::rename(&beside, path));
    if replaced.is_err() {
        // What is left of the attempt helps nobody; that it cannot be removed was said already.
        let _ = fs::remove_file(&beside);
    }
    replaced
}
