//! Writes the statuses to a file, for use without Kubernetes.
//!
//! YAML: one `UptimeCheckList`, whose items are the resources as they were read, with their `status`, as
//! `kubectl get -o yaml` would show them. Fields that may be secret (annotations, headers, bodies,
//! certificates, the parts of a URL beside its path) are left out.
//!
//! The one rule to keep: only the named file is written. If the file can be replaced as a whole, readers
//! never see half of it; if not (the file is mounted, has another owner or a second name, or its folder is
//! not writable), its content is overwritten in place.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;

use super::{
    aggregate::Stored,
    check::{CheckKey, Checks},
    resource::{API_VERSION, Target, UptimeCheck, without_secrets},
};
use crate::{clock, engine::BootTime};

#[cfg(test)]
mod tests;

/// Minimum time between two log messages about a file that cannot be written.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// Error of a status file that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the statuses of checks to `{}`: name a file in a folder that this user may write", .path.display())]
pub struct StatusFileError {
    /// Path of the status file.
    pub path: PathBuf,
    /// Error of the operating system.
    pub source: io::Error,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List {
    api_version: &'static str,
    kind: &'static str,
    items: Vec<UptimeCheck>,
}

/// Returns the text of a status file.
pub fn text(checks: &Checks, statuses: &BTreeMap<CheckKey, Stored>) -> String {
    let items = checks.checks.iter().map(|(key, check)| {
        let mut resource = check.resource().clone();
        resource.metadata.namespace = Some(key.namespace.to_string());
        resource.metadata.annotations.clear();
        if let Target::Http(http) = &mut resource.spec.target {
            http.url = without_secrets(&http.url);
            http.headers.clear();
            http.body = None;
            http.ca_bundle = None;
        }
        resource.status = statuses.get(key).map(|stored| stored.status.clone());
        resource
    });
    let list = List { api_version: API_VERSION, kind: "UptimeCheckList", items: items.collect() };
    serde_saphyr::to_string(&list).unwrap_or_else(|error| format!("# cannot be written: {error}\n"))
}

/// Status file of one leader: the text last written, and when its failure was last logged.
#[derive(Debug, Default)]
pub(super) struct StatusFile {
    written: Option<String>,
    said: Option<BootTime>,
}

impl StatusFile {
    /// Whether this text is the one last written.
    pub(super) fn holds(&self, text: &str) -> bool {
        self.written.as_deref() == Some(text)
    }

    /// Writes the text. Logs a failure at most once a minute, and the first success after it.
    ///
    /// # Cancel safety
    ///
    /// If dropped, the write may continue in the background.
    pub(super) async fn write(&mut self, path: PathBuf, text: String) {
        let of = path.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let written = write(&of, &text);
            (text, written)
        });
        match writing.await {
            Ok((text, Ok(()))) => {
                self.written = Some(text);
                if self.said.take().is_some() {
                    tracing::info!(path = %path.display(), "status file is written again");
                }
            }
            Ok((_, Err(error))) => {
                let now = clock::boot_now();
                if self.said.is_none_or(|said| now.since(said) >= SAID_EVERY) {
                    self.said = Some(now);
                    let cause = &error.source;
                    tracing::warn!(%error, %cause, "status file cannot be written; retrying");
                }
            }
            Err(error) => tracing::warn!(%error, "status file was not written"),
        }
    }
}

/// Writes the file. Blocks.
///
/// # Errors
///
/// [`StatusFileError`]; the file is unchanged then, unless it could only be written in place.
pub fn write(path: &Path, text: &str) -> Result<(), StatusFileError> {
    written(path, text).map_err(|source| StatusFileError { path: path.to_owned(), source })
}

/// Checks that the path can be a status file: a regular file, or no file yet. Blocks.
///
/// # Errors
///
/// [`StatusFileError`] if the path is something else.
pub fn check(path: &Path) -> Result<(), StatusFileError> {
    match regular(path) {
        // Other errors, such as missing permissions, may pass later.
        Err(source) if source.kind() == io::ErrorKind::InvalidInput => {
            Err(StatusFileError { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Metadata of a regular file; `None` if the file does not exist yet.
fn regular(path: &Path) -> io::Result<Option<fs::Metadata>> {
    match fs::metadata(path) {
        Ok(before) if !before.is_file() => {
            let what = "it is a folder, a device, a pipe or a socket: name a regular file";
            Err(io::Error::new(io::ErrorKind::InvalidInput, what))
        }
        Ok(before) => Ok(Some(before)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn written(path: &Path, text: &str) -> io::Result<()> {
    let before = regular(path)?;
    let Some(path) = replaceable(path, before.as_ref())? else { return in_place(path, text) };
    match replace(&path, text, before.as_ref()) {
        Err(error) if before.is_some() && only_in_place(&error) => in_place(&path, text),
        replaced => replaced,
    }
}

/// Returns the file behind symbolic links; `None` for a file that must not be replaced, and for a link to a
/// file that does not exist.
fn replaceable(path: &Path, before: Option<&fs::Metadata>) -> io::Result<Option<PathBuf>> {
    let Some(before) = before else {
        return Ok((!path.is_symlink()).then(|| path.to_owned()));
    };
    // Replacing the file would lose its other owner, or its other name.
    let is_own = before.uid() == rustix::process::geteuid().as_raw() && before.nlink() == 1;
    if is_own { fs::canonicalize(path).map(Some) } else { Ok(None) }
}

/// Whether a file that cannot be replaced may still be written: it is mounted, or its folder is not writable.
fn only_in_place(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ResourceBusy
            | Kind::CrossesDevices
            | Kind::PermissionDenied
            | Kind::ReadOnlyFilesystem
    )
}

fn in_place(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn replace(path: &Path, text: &str, before: Option<&fs::Metadata>) -> io::Result<()> {
    // The temporary file is in the same folder, because a rename works only within one file system; its name
    // contains the process id, because several nodes may share a folder.
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::IsADirectory))?;
    let mut beside = OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(beside);
    // An earlier process with this id may have left the file behind.
    let _ = fs::remove_file(&beside);
    let replaced = beside_of(&beside, text, before).and_then(|()| fs::rename(&beside, path));
    if replaced.is_err() {
        // Removes the temporary file; the caller gets the first error, so an error here is ignored.
        let _ = fs::remove_file(&beside);
    }
    replaced
}

fn beside_of(beside: &Path, text: &str, before: Option<&fs::Metadata>) -> io::Result<()> {
    let mode = if before.is_some() { 0o600 } else { 0o666 };
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(beside)?;
    if let Some(before) = before {
        file.set_permissions(before.permissions())?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
